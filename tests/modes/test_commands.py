"""--mode=index and --mode=search of a tiny run, as a user gives them."""

import json
import shutil

import numpy as np
import pymilvus  # its first import closes the handlers of logging, and with absl's what capsys had replaced
import pytest
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.models.base import DualEncoder
from vmr_jax.modes import index as commands
from vmr_jax.modes.search import search
from vmr_jax.modes.train import train
from vmr_jax.retrieval import index as index_module
from vmr_jax.retrieval.store import EncodedVideo
from vmr_jax.run import Run
from vmr_jax.training.experiment import Experiment


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config(data_dir, train_for="2 steps", evaluate_every="2 steps", evaluation__splits=("val",))
    train(config, workdir)
    commands.index(config, workdir, dtype=None, uri=None)
    return config, workdir


def test_the_index_holds_every_video_once(run):
    config, workdir = run
    opened = commands.open_index(config, workdir)
    dataset = Experiment(config).dataset
    ids = {video.id for name in dataset.split_names for video in dataset.split(name).videos}
    assert sorted(opened.store.videos) == sorted(ids)
    assert len(opened) % len(ids) == 0


def test_a_moment_scores_its_dot_product_with_the_query(run):
    config, workdir = run
    sentence = "a man opens the door"
    (found,) = commands.open_index(config, workdir, [sentence]).search([sentence], k=3)
    assert [moment.score for moment in found] == sorted((moment.score for moment in found), reverse=True)
    trained = Run.load(workdir, sentences=[sentence])
    dataset, model, variables = Experiment(config).dataset, trained.model, trained.variables
    assert isinstance(model, DualEncoder)
    for moment in found:
        video = next(
            video
            for name in dataset.split_names
            for video in dataset.split(name).videos
            if video.id == moment.video
        )
        batch = trained.batch(trained.read_video(dataset, video), [sentence])
        vectors, spans, _ = model.apply(variables, batch, method="encode_moments")
        scores = vectors[0] @ model.apply(variables, batch, method="encode_query")[0]
        at = int(np.argmin(np.abs(np.asarray(spans[0]) - [moment.start, moment.end]).sum(1)))
        np.testing.assert_allclose(spans[0, at], [moment.start, moment.end], atol=1e-4)
        assert float(scores[at]) == pytest.approx(moment.score, abs=1e-4)


def test_search_prints_a_table(run, capsys):
    config, workdir = run
    search(config, workdir, "a man opens the door", None, 4)
    printed = capsys.readouterr().out
    assert "a man opens the door" in printed and "start (s)" in printed and printed.count("\n") >= 8


@pytest.mark.parametrize(
    "query,video,top,message",
    [
        (None, None, 5, '--mode=search needs --query="a sentence"'),
        ("x" * 1001, None, 5, "at most 1000 are read"),
        ("a man", None, 0, "--top is 0"),
        ("a man", "nowhere", 5, 'has no video "nowhere"'),
    ],
)
def test_impossible_questions(run, query, video, top, message):
    with pytest.raises(UserError, match=message):
        search(*run, query, video, top)


def test_an_index_of_another_checkpoint_is_refused(run):
    config, workdir = run
    path = workdir / "index" / "manifest.json"
    whole = path.read_text()
    manifest = json.loads(whole)
    manifest["source"]["step"] = 99
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"was built from .*'step': 99.* Build it again"):
        commands.open_index(config, workdir)
    path.write_text(whole)


def test_an_architecture_without_two_encoders_is_refused(data_dir, tmp_path):
    from vmr_jax.retrieval.index import encoded_videos

    experiment = Experiment(tiny_config(data_dir))
    with pytest.raises(UserError, match="scores a moment together with the query"):
        next(encoded_videos(object(), {}, [], experiment.parallel))


SENTENCE = "a man opens the door"


@pytest.fixture(scope="module")
def small(run, tmp_path_factory):
    """Moments of twelve videos of the run's index, its variables, and what is found among these moments."""
    config, workdir = run
    copy = shutil.copytree(workdir, tmp_path_factory.mktemp("small") / "run")
    whole = commands.open_index(config, copy, [SENTENCE])
    moments = []
    for video in whole.store.videos[::40]:
        segment, rows = whole.store.rows_of(video)
        moments.append(EncodedVideo(video, np.array(segment.vectors[rows]), np.array(segment.spans[rows])))
    (expected,) = whole.remove(set(whole.store.videos) - {video.id for video in moments}).search([SENTENCE])
    return moments, Experiment(config, workdir).best_variables(workdir), expected


@pytest.fixture
def own(run, small, tmp_path, monkeypatch):
    """A copy of the run without an index, whose moments are encoded already."""
    config, workdir = run
    moments, best, _ = small
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("index"))
    monkeypatch.setattr(index_module, "encoded_videos", lambda *args: iter(moments))
    monkeypatch.setattr(Experiment, "best_variables", lambda *args: best)
    yield config, tmp_path / "run"
    release()


def release():
    """Milvus Lite serves from threads of this process until it is told to stop."""
    from milvus_lite import server_manager_instance

    server_manager_instance.release_all()


def dies(monkeypatch, moments, config, workdir, **fields):
    """An index that is killed when one video is written."""

    def encoded(*args):
        yield moments[0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "encoded_videos", encoded)
        with pytest.raises(KeyboardInterrupt):
            commands.index(config, workdir, **fields)


def opened(workdir):
    store = commands._open_store(workdir)
    return sorted(store.videos), len(store)


def folders(workdir):
    return sorted(path.name for path in workdir.glob("index*"))


def test_an_index_in_milvus(own, small, tmp_path, monkeypatch, capsys):
    config, workdir = own
    moments, _, expected = small
    monkeypatch.chdir(tmp_path)
    commands.index(config, workdir, dtype=None, uri="new/lite.db")
    assert "in the collection fvmr_storyboard_" in capsys.readouterr().out
    assert [file.name for file in (workdir / "index").iterdir()] == ["milvus.json"]
    release()  # as the end of the process does
    monkeypatch.chdir("/")
    (found,) = commands.open_index(config, workdir, [SENTENCE]).search([SENTENCE])
    assert [moment[:3] for moment in found] == [moment[:3] for moment in expected]
    np.testing.assert_allclose([m.score for m in found], [m.score for m in expected], atol=1e-5)
    # A second one takes its place when it is whole; one that dies does not.
    path = tmp_path / "new" / "lite.db"
    client = pymilvus.MilvusClient(str(path))
    (first,) = client.list_collections()
    commands.index(config, workdir, dtype=None, uri=str(path))
    (second,) = client.list_collections()
    assert second != first
    dies(monkeypatch, moments, config, workdir, dtype=None, uri=str(path))
    assert len(client.list_collections()) == 2 and second in client.list_collections()
    assert opened(workdir)[1] == sum(len(video.spans) for video in moments)
    # So does a folder; nothing of the others is left.
    commands.index(config, workdir, dtype="int8", uri=None)
    assert client.list_collections() == [] and folders(workdir) == ["index"]
    assert commands._open_store(workdir).dtype == "int8"


def test_a_replacement_that_dies(own, small, monkeypatch):
    config, workdir = own
    commands.index(config, workdir, dtype=None, uri=None)
    whole = opened(workdir)
    assert whole == (sorted(video.id for video in small[0]), sum(len(video.spans) for video in small[0]))
    dies(monkeypatch, small[0], config, workdir, dtype="int8", uri=None)
    assert folders(workdir) == ["index", "index.unfinished"] and opened(workdir) == whole
    # Between the two renames the older index is aside, and answers from there.
    (workdir / "index").rename(workdir / "index.old")
    assert opened(workdir) == whole
    dies(monkeypatch, small[0], config, workdir, dtype="int8", uri=None)
    assert opened(workdir) == whole
    commands.index(config, workdir, dtype=None, uri=None)
    assert folders(workdir) == ["index"] and opened(workdir) == whole
    # After them it is only to be deleted.
    shutil.copytree(workdir / "index", workdir / "index.old")
    (workdir / "index.old" / "manifest.json").unlink()
    assert opened(workdir) == whole
    commands.index(config, workdir, dtype=None, uri=None)
    assert folders(workdir) == ["index"] and opened(workdir) == whole


def test_rows_that_milvus_has_not(own, tmp_path):
    config, workdir = own
    commands.index(config, workdir, dtype=None, uri=None)
    with pytest.raises(UserError, match="dtype is bfloat16, and an index in Milvus has float32 rows"):
        commands.index(config, workdir, dtype="bfloat16", uri=str(tmp_path / "lite.db"))
    assert len(opened(workdir)[0]) == 12


def test_an_index_in_milvus_of_another_checkpoint_is_refused(own, tmp_path, monkeypatch):
    config, workdir = own
    commands.index(config, workdir, dtype=None, uri=str(tmp_path / "lite.db"))
    monkeypatch.setattr(Run, "source", {"step": 99})
    with pytest.raises(UserError, match=r"the collection fvmr_.* was built from .*'step': 2.* Build it again"):
        commands.open_index(config, workdir)
