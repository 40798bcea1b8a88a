"""--mode=index and --mode=search of a tiny run, as a user gives them."""

import shutil
import types
from pathlib import Path

import numpy as np
import pymilvus  # its first import closes the handlers of logging, and with absl's what capsys had replaced
import pytest
from killed import killed_at
from tiny import indexed_run, tiny_config

from vmr_jax.errors import UserError
from vmr_jax.models.base import DualEncoder
from vmr_jax.modes import index as commands
from vmr_jax.modes.search import search
from vmr_jax.retrieval import index as index_module
from vmr_jax.retrieval import store
from vmr_jax.retrieval.index import Found
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.run import Run
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.owner import owned


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return indexed_run(data_dir, workdir), workdir


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
        ("qwertz is zuiop", None, 5, 'knows no word of "qwertz is zuiop" .* no vector of qwertz, zuiop'),
    ],
)
def test_impossible_questions(run, query, video, top, message):
    with pytest.raises(UserError, match=message):
        search(*run, query, video, top)


def test_an_index_of_another_checkpoint_is_refused(run):
    config, workdir = run
    path = workdir / "index" / "manifest.json"
    whole = path.read_text()
    manifest = store._read_manifest(path.parent)
    manifest["source"]["step"] = 99
    store._write_manifest(path.parent, manifest)
    with pytest.raises(UserError, match=r"was built from .*'step': 99.* Build it again"):
        commands.open_index(config, workdir)
    path.write_text(whole)


def test_an_architecture_without_two_encoders_is_refused(run, data_dir, tmp_path, monkeypatch):
    from vmr_jax.retrieval.index import encoded_videos

    experiment = Experiment(tiny_config(data_dir))
    with pytest.raises(UserError, match="scores a moment together with the query"):
        next(encoded_videos(object(), {}, [], experiment.parallel))
    # Also by who asks, in a folder without an index: to build one would not help.
    monkeypatch.setattr(commands, "_open_run", lambda *given: types.SimpleNamespace(model=object()))
    with pytest.raises(UserError, match="scores a moment together with the query"):
        commands.open_index(run[0], tmp_path)


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


def opened(workdir, uri=None):
    found = commands._open_store(workdir, uri)
    return sorted(found.videos), len(found)


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
    path = tmp_path / "new" / "lite.db"
    with pytest.raises(UserError, match=f"index/milvus.json points to .* give --uri={path}"):
        commands.open_index(config, workdir, [SENTENCE])
    (found,) = commands.open_index(config, workdir, [SENTENCE], str(path)).search([SENTENCE])
    assert [moment[:3] for moment in found] == [moment[:3] for moment in expected]
    np.testing.assert_allclose([m.score for m in found], [m.score for m in expected], atol=1e-5)
    # A second one takes its place when it is whole; one that dies does not.
    client = pymilvus.MilvusClient(str(path))
    (first,) = client.list_collections()
    commands.index(config, workdir, dtype=None, uri=str(path))
    (second,) = client.list_collections()
    assert second != first
    dies(monkeypatch, moments, config, workdir, dtype=None, uri=str(path))
    assert len(client.list_collections()) == 2 and second in client.list_collections()
    assert opened(workdir, str(path))[1] == sum(len(video.spans) for video in moments)
    # So does a folder; where the address is given, nothing of the others is left.
    monkeypatch.setenv("MILVUS_URI", str(path))
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


class Indexing:
    """A run whose index is one video, without a model."""

    def index(self, videos, dtype, path):
        moments = EncodedVideo("new", np.ones((2, 4), np.float32), np.zeros((2, 2)))
        built = MomentStore.create(path, 4, dtype, {}).add([moments])
        return Sized(built)


class Sized:
    def __init__(self, built):
        self.store = built

    def __len__(self):
        return len(self.store)


@pytest.mark.parametrize("step", range(7))
def test_a_replacement_that_is_killed_at_any_step(tmp_path, monkeypatch, step):
    """Killed at its step-th change of a folder: the older index answers, or the new one, whole."""
    older = EncodedVideo("old", np.ones((3, 4), np.float32), np.zeros((3, 2)))
    MomentStore.create(tmp_path / "index", 4, "float32", {}).add([older])
    nothing = types.SimpleNamespace(split_names=())
    changes = ((Path, "rename"), (Path, "mkdir"), (shutil, "rmtree"), (Indexing, "index"))
    with killed_at(monkeypatch, step, *changes):
        commands._replace(Indexing(), nothing, tmp_path, "float32", None)
    # Discarded twice, built in a new folder, the older one aside: only the last step comes after the exchange.
    assert opened(tmp_path) == ((["new"], 2) if step == 6 else (["old"], 3))
    commands._replace(Indexing(), nothing, tmp_path, "float32", None)
    assert opened(tmp_path) == (["new"], 2) and folders(tmp_path) == ["index"]


def test_a_folder_that_another_process_has(own):
    config, workdir = own
    with owned(workdir, "train"):
        with pytest.raises(UserError, match=f"{workdir} is in use by process .*--mode=train"):
            commands.index(config, workdir, dtype=None, uri=None)
    assert folders(workdir) == []


class Halfway(DualEncoder):
    def encode_moments(self, batch):
        return batch


def test_what_is_wrong_is_said_before_a_video_is_read(own, monkeypatch):
    config, workdir = own
    monkeypatch.setattr(commands, "_read", None)
    for dtype, uri, message in (
        ("float64", None, 'dtype is "float64"'),
        ("int8", "moments.db", "an index in Milvus has float32 rows"),
        (None, "moments", 'uri is "moments"'),
    ):
        with pytest.raises(UserError, match=message):
            commands.index(config, workdir, dtype=dtype, uri=uri)
    monkeypatch.setattr(commands, "_open_run", lambda *_: types.SimpleNamespace(model=Halfway()))
    with pytest.raises(UserError, match="Halfway is a DualEncoder without encode_query, which an index needs"):
        commands.index(config, workdir, dtype=None, uri=None)


def test_names_and_sentences_are_printed_as_text(monkeypatch, capsys):
    found = [Found("[red]a\x1b[2J[/red]", 0.0, 1.0, 0.5), Found("caf\u00e9 \U0001f3ac", 0.0, 1.0, 0.5)]
    index = types.SimpleNamespace(search=lambda *_, **__: [found])
    monkeypatch.setattr("vmr_jax.modes.search.open_index", lambda *_: index)
    search(None, None, "a [b]man[/b]\x1b]0;title\x07", "\ud800", 2)
    printed = capsys.readouterr().out
    assert '"a [b]man[/b]\\x1b]0;title\\x07" in \\ud800' in printed
    assert "[red]a\\x1b[2J[/red]" in printed and "caf\u00e9 \U0001f3ac" in printed
    assert "\x1b" not in printed and "\x07" not in printed


def test_an_address_of_milvus_for_a_folder(own):
    config, workdir = own
    commands.index(config, workdir, dtype=None, uri=None)
    with pytest.raises(UserError, match="--uri=moments.db is an address of Milvus, and the index .* is in"):
        commands.open_index(config, workdir, uri="moments.db")


def test_rows_that_milvus_has_not(own, tmp_path):
    config, workdir = own
    commands.index(config, workdir, dtype=None, uri=None)
    with pytest.raises(UserError, match="dtype is bfloat16, and an index in Milvus has float32 rows"):
        commands.index(config, workdir, dtype="bfloat16", uri=str(tmp_path / "lite.db"))
    assert len(opened(workdir)[0]) == 12


def test_an_index_in_milvus_of_another_checkpoint_is_refused(own, tmp_path, monkeypatch):
    config, workdir = own
    path = str(tmp_path / "lite.db")
    commands.index(config, workdir, dtype=None, uri=path)
    monkeypatch.setattr(Run, "source", {"step": 99})
    with pytest.raises(UserError, match=r"the collection fvmr_.* was built from .*'step': 2.* Build it again"):
        commands.open_index(config, workdir, uri=path)
