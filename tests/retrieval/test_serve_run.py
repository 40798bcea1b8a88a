"""--mode=serve with a run: its videos, its answers, what it needs."""

import json
import shutil
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import ask, served
from tiny import indexed_run

from vmr_jax.errors import UserError
from vmr_jax.input.words import open_word_vectors
from vmr_jax.modes import index as commands
from vmr_jax.modes import serve
from vmr_jax.modes.export import export
from vmr_jax.training.experiment import Experiment

# --- a run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return indexed_run(data_dir, workdir), workdir


@pytest.fixture(scope="module")
def run_service(trained, tmp_path_factory):
    """The service of `serve`, which stops before it answers."""
    videos, made = tmp_path_factory.mktemp("videos"), []
    (videos / "val_0001.mp4").write_bytes(b"of val_0001")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "answer", lambda service, *_: made.append(service))
        serve.serve(*trained, "127.0.0.1", 0, str(videos))
    return made[0]


def test_serve_knows_the_videos_of_the_run(trained, run_service):
    dataset = Experiment(trained[0]).dataset
    lengths = {v.id: v.duration for name in dataset.split_names for v in dataset.split(name).videos}
    corpus = run_service.corpus
    assert {video.id: video.duration for video in corpus.videos().values()} == lengths
    assert corpus.title == f"fvmr on storyboard, {len(lengths):,} videos"
    assert corpus.file("val_0001") and not corpus.file("val_0000")


def test_fifty_clients_get_the_answers_of_the_index(trained, run_service):
    agents, places = ("a man", "a woman", "somebody", "zebras", "the boy"), ("door", "window", "box", "car")
    questions = [
        {"query": f"{agents[i % 5]} opens the {places[j]} {i}", "k": (1, 3, 10, 50)[(i + j) % 4],
         "video": "val_0001" if i % 7 == 3 else None}
        for i in range(50) for j in range(4)
    ]  # fmt: skip
    together = threading.Barrier(50)

    def client(mine):
        together.wait()
        return [ask(port, question) for question in mine]

    with served(run_service) as port, ThreadPoolExecutor(50) as clients:
        shares = clients.map(client, [questions[4 * i : 4 * i + 4] for i in range(50)])
        answers = [answer for share in shares for answer in share]
    index = commands.open_index(*trained, sentences=[question["query"] for question in questions])
    for question, (status, answer) in zip(questions, answers, strict=True):
        assert status == 200
        (expected,) = index.search([question["query"]], k=question["k"], video=question["video"])
        assert len(answer["moments"]) == len(expected)
        # A batch adds up a dot product in another order than a single sentence: the last bits differ.
        scores = [moment["score"] for moment in answer["moments"]]
        assert scores == pytest.approx([moment.score for moment in expected], abs=1e-5)
        for found, moment in zip(answer["moments"], expected):
            assert found["duration"] >= found["end"] > found["start"] >= 0
            assert found["playable"] == (found["video"] == "val_0001")
            if not near_another(moment, expected):
                assert (found["video"], found["start"], found["end"]) == moment[:3]


def near_another(moment, moments):
    """Whether another of these scores the same but for rounding, so that they may change places."""
    return any(other is not moment and abs(other.score - moment.score) < 2e-5 for other in moments)


def test_any_word_of_the_file_of_vectors_may_be_asked(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("door 1 2\nzebra 3 4\n")
    text = types.SimpleNamespace(features="", vectors=str(file), tokenizer="words", dim=2)
    config = types.SimpleNamespace(text=text)
    assert not open_word_vectors(config, ["a door"]).known("zebra")
    assert open_word_vectors(config, ["a zebra"]).known("zebra")
    assert open_word_vectors(config, None).known("zebra")


def test_a_sentence_without_a_known_word_is_refused(run_service):
    with pytest.raises(UserError, match='knows no word of "qwertz zuiop"'):
        run_service.corpus.search(["a man opens the door", "qwertz zuiop"], 3, None)


def test_an_export_holds_the_answers_of_the_index(trained, tmp_path, capsys):
    query, target = "a man opens the door", tmp_path / "moments.json"
    given = {"video": None, "uri": None, "videos": None, "exact": False}
    export(*trained, query=query, top=3, format="json", output=str(target), **given)
    assert capsys.readouterr().out == f"{target}\n"
    (expected,) = commands.open_index(*trained, sentences=[query]).search([query], k=3)
    found = json.loads(target.read_text(encoding="utf-8"))["moments"]
    assert [(m["rank"], m["video"], m["score"]) for m in found] == [
        (rank, moment.video, moment.score) for rank, moment in enumerate(expected, 1)
    ]
    with pytest.raises(UserError, match="There is no file of the video"):
        export(*trained, query=query, top=3, format="mp4", output=str(tmp_path / "clips"), **given)


def test_without_an_index(trained, tmp_path):
    config, workdir = trained
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("index"))
    with pytest.raises(UserError, match="holds no moment index"):
        serve.serve(config, tmp_path / "run", "127.0.0.1", 0, None)


def test_without_starlette(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn, .* pip install -e '\.\[serve\]'"):
        serve.serve(None, tmp_path, "127.0.0.1", 0, None)
