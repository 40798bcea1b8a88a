"""Data are part of a run's identity, and their place is not."""

import importlib
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from tiny import with_fields

from vmr_jax.config import CONFIG, load_config
from vmr_jax.configs import fvmr, mxml
from vmr_jax.errors import UserError
from vmr_jax.files import write_json
from vmr_jax.input.dataset import Dataset, Video, _Latest
from vmr_jax.training.experiment import DATA, VOCABULARY, Experiment, read_run_vocabulary
from vmr_jax.training.identity import _number_of, changed_data, check_same_data, read_data, record_data
from vmr_jax.training.places import identity_of, stored_config
from vmr_jax.training.same_run import check_evaluated_run, check_same_run, fingerprint

SPLITS = ("train", "val")


def config_of(folder, cache, **fields):
    found = fvmr.get_config("jsonl")
    found.dataset.manual_dir, found.dataset.data_dir = str(folder), str(cache)
    found.dataset.feature_dim = 4
    found.text.vectors, found.text.dim = str(folder / "words.npz"), 5
    found.model.features = found.model.common = 8
    found.batch_size = found.evaluation.batch_size = 8
    return with_fields(found, fields)


def rows(videos, verbs):
    return [
        {"video": v, "duration": 16.0, "query": f"a man {verb}", "windows": [[2.0, 6.0]]}
        for v in videos
        for verb in verbs
    ]


@pytest.fixture
def begun(tmp_path):
    """A folder of data, and that of a run that has begun on it."""
    folder, workdir = tmp_path / "data", tmp_path / "run"
    (folder / "features").mkdir(parents=True)
    workdir.mkdir()
    draw = np.random.default_rng(0)
    for video in "abcd":
        np.save(folder / "features" / f"{video}.npy", draw.normal(size=(8, 4)).astype(np.float32))
    for split, videos in (("train", "abc"), ("val", "d")):
        lines = (json.dumps(row) + "\n" for row in rows(videos, ("runs", "sits")))
        (folder / f"{split}.jsonl").write_text("".join(lines))
    words = np.asarray(["a", "man", "runs", "sits"])
    np.savez(folder / "words.npz", words=words, vectors=draw.normal(size=(4, 5)).astype(np.float32))
    config = config_of(folder, tmp_path / "cache")
    experiment = Experiment(config, workdir)
    experiment.write_vocabulary(workdir)
    record_data(experiment, workdir, SPLITS)
    write_json(workdir / CONFIG, stored_config(config))
    return folder, workdir


def changes(folder, workdir):
    config = config_of(folder, folder.with_name("cache"))
    check_same_run(config, workdir)
    return changed_data(Experiment(config, workdir), workdir, SPLITS)


def test_another_place_is_the_same_run(begun, tmp_path):
    folder, workdir = begun
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)  # with other times
    shutil.rmtree(folder)
    config = config_of(elsewhere, tmp_path / "other_cache")
    assert check_same_run(config, workdir) == {}
    check_same_data(Experiment(config, workdir), workdir, SPLITS)
    assert fingerprint(config) == fingerprint(load_config(workdir))
    assert (workdir / DATA).is_file() and read_data(workdir)["name"] == "jsonl"


def test_changed_data_are_named(begun):
    folder, workdir = begun
    whole = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(whole.replace("a man sits", "a zebra sits", 1))
    assert changes(folder, workdir) == ["train has other annotations"]
    (folder / "train.jsonl").write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert changes(folder, workdir) == ["train had 6 queries and has 4"]
    (folder / "train.jsonl").write_text(whole)
    assert changes(folder, workdir) == []
    np.save(folder / "features" / "d.npy", np.ones((8, 4), np.float32))
    assert changes(folder, workdir) == ["the features of 1 videos of val are others (d)"]
    with pytest.raises(UserError, match=r"data have changed since the run in .*run began: the features of 1 v"):
        config = config_of(folder, folder.with_name("cache"))
        check_same_data(Experiment(config, workdir), workdir, SPLITS)


def test_other_word_vectors_are_named(begun):
    folder, workdir = begun
    stored = dict(np.load(folder / "words.npz"))
    np.savez(folder / "words.npz", words=stored["words"], vectors=stored["vectors"] * 2)
    assert changes(folder, workdir) == [
        "the word vectors or tokens of train are others (query_vectors)",
        "the word vectors or tokens of val are others (query_vectors)",
    ]


def test_the_record_of_native_rows_holds_few_videos(begun, tmp_path):
    folder, _ = begun
    (folder / "patches").mkdir()
    for video in "abcd":
        np.save(folder / "patches" / f"{video}.npy", np.full((8, 10_000), ord(video), np.float32))  # 320 kB
    streams = {"objects": ("patches", 100, 100)}
    config = config_of(folder, tmp_path / "other", dataset__streams=streams, input__normalize=False)
    dataset, reads = Dataset(config.dataset, config.input), []

    def read(video, stream):
        reads.append(video)
        return dataset._read_native(video, stream)

    def numbers(videos, most_bytes):
        """And the largest memory, of the videos of which `most_bytes` are held."""
        dataset._native = _Latest(read, most_bytes)
        reads.clear()
        tracemalloc.start()
        try:
            found = [_number_of(dataset.clips(Video(video, 16.0, {}), "objects")) for video in videos]
            return found, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    every, large = numbers("aabcdab", 2**28)
    assert reads == list("abcd") and large > 4 * 320_000
    assert every == numbers("aabcdab", 700_000)[0] and reads == list("abcdab")
    # Three rows of 10,000 numbers, whose weights 1 to 7 are four on average, count 1, 2 and 3 times.
    np.testing.assert_allclose(every[0], 6 * 40_000 * ord("a"), rtol=1e-3)
    # One is held while the next is read, which its file takes once and its rows perhaps twice.
    assert numbers("abcd", 0)[1] < 4 * 320_000


def test_damaged_files_of_a_run_are_one_line(begun):
    folder, workdir = begun
    config = config_of(folder, folder.with_name("cache"))
    words = json.loads((workdir / VOCABULARY).read_text())
    (workdir / VOCABULARY).write_text(json.dumps(words[::-1]))  # every word would have another's vector
    with pytest.raises(UserError, match="vocabulary.json does not hold the words with which the run began"):
        read_run_vocabulary(workdir)
    (workdir / VOCABULARY).write_text("[")
    with pytest.raises(UserError, match="vocabulary.json, .* cannot be read .* or delete it"):
        read_run_vocabulary(workdir)
    (workdir / VOCABULARY).unlink()
    assert Experiment(config, workdir).vocabulary == words  # made anew
    part = '{"name": "a", "vocabulary": "b", "splits": {"train": {"queries": 1e400}}}'
    for damage in ("{", "[]", "{}", part, "[" * 100_000):
        (workdir / DATA).write_text(damage)
        with pytest.raises(UserError, match="data.json, .* is damaged .*Delete it if"):
            read_data(workdir)
    (workdir / DATA).unlink()
    assert read_data(workdir) == {}  # of version 0.1
    for damage in ("", "[]", '{"model": {"name": 3}}', '{"model": 2}'):
        (workdir / CONFIG).write_text(damage)
        with pytest.raises(UserError, match="config.json, the config of the run, is damaged.*delete it"):
            load_config(workdir)


def test_relative_paths_are_stored_whole(begun, monkeypatch):
    folder, workdir = begun
    monkeypatch.chdir(folder.parent)
    config = config_of(folder, "~/cache", dataset__manual_dir="data", text__vectors="data/words.npz")
    stored = stored_config(config)
    assert stored["dataset"]["manual_dir"] == str(folder)
    assert stored["text"]["vectors"] == str(folder / "words.npz")
    assert stored["dataset"]["data_dir"] == "~/cache"
    assert identity_of(config) == identity_of(load_config(workdir))


@pytest.mark.parametrize("path", [".", "../first", "{here}", "{here}/", "../first/best/.."])
def test_a_run_begun_from_the_folder_one_stands_in_is_the_same(path, begun, tmp_path, monkeypatch):
    """As the command is given again, beside the whole path that the run has kept."""
    here = tmp_path / "first"
    (here / "best").mkdir(parents=True)
    monkeypatch.chdir(here)
    config = config_of(begun[0], "~/cache", init_from=path.format(here=here))
    kept = config_of(begun[0], "~/cache", init_from=stored_config(config)["init_from"])
    assert identity_of(config) == identity_of(kept)
    assert identity_of(config)["init_from"] == "first"


def test_an_evaluation_may_ask_in_the_other_language(tmp_path):
    """A field that neither parameters nor training depend on (`GroundingModel.of_evaluation`)."""
    config = mxml.get_config()
    write_json(tmp_path / CONFIG, stored_config(config))
    config.model.language = "translation"
    check_evaluated_run(config, tmp_path)
    with pytest.raises(UserError, match="another config .config.model.language: query -> translation"):
        check_same_run(config, tmp_path)  # the best checkpoint would be chosen by other numbers
    config.model.tied = False
    with pytest.raises(UserError, match=r"trained with other settings \(config.model.tied: True -> False\)"):
        check_evaluated_run(config, tmp_path)


@pytest.mark.parametrize(
    "architecture,field,value",
    [("vslnet", "longest_share", 0.5), ("tmlga", "longest_share", 0.5), ("excl", "longest", 16)],
)
def test_an_evaluation_may_rank_shorter_moments(architecture, field, value, tmp_path):
    config = importlib.import_module(f"vmr_jax.configs.{architecture}").get_config()
    write_json(tmp_path / CONFIG, stored_config(config))
    config.model[field] = value
    check_evaluated_run(config, tmp_path)
    config.seed = 5
    with pytest.raises(UserError, match=f"may change .*config.model.{field}, .*config.dataset"):
        check_evaluated_run(config, tmp_path)


def test_what_was_empty_is_shown_as_such(tmp_path):
    config = mxml.get_config()
    write_json(tmp_path / CONFIG, stored_config(config))
    config.init_from = "runs/first"
    with pytest.raises(UserError, match="another config .config.init_from: '' -> first"):
        check_same_run(config, tmp_path)


@pytest.mark.parametrize("check", [check_same_run, check_evaluated_run])
@pytest.mark.parametrize("count,dots", [(6, False), (7, True)])
def test_dots_stand_for_the_changes_behind_the_sixth(check, count, dots, tmp_path):
    config = mxml.get_config()
    write_json(tmp_path / CONFIG, stored_config(config))
    numbers = [field for field in sorted(config.optimizer) if type(config.optimizer[field]) is float]
    for field in numbers[:count]:
        config.optimizer[field] += 0.5
    with pytest.raises(UserError) as raised:
        check(config, tmp_path)
    assert (str(raised.value).count(" -> "), ", ...)" in str(raised.value)) == (6, dots)


def test_an_evaluation_may_change_what_is_evaluated(begun):
    folder, workdir = begun
    splits = {"evaluation__splits": ("train",), "evaluation__batch_size": 16, "num_devices": 1}
    check_evaluated_run(config_of(folder, "elsewhere", **splits), workdir)
    with pytest.raises(UserError, match=r"trained with other settings \(config.model.common: 8 -> 16\)"):
        check_evaluated_run(config_of(folder, "elsewhere", model__common=16), workdir)


def test_a_path_too_long_to_be_followed_is_kept_as_it_is():
    path = f"/{'x' * 300}/source"
    assert stored_config(with_fields(fvmr.get_config(None), {"init_from": path}))["init_from"] == path
