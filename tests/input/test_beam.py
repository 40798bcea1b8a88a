"""Preparation over Apache Beam leaves what preparation without it leaves."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import ml_collections
import numpy as np
import pytest

from vmr_jax.data import jsonl
from vmr_jax.errors import UserError
from vmr_jax.input import pipeline as pipelines
from vmr_jax.input import records
from vmr_jax.input.cache import build_feature_store
from vmr_jax.input.dataset import Dataset
from vmr_jax.input.features import open_features
from vmr_jax.input.pipeline import pipeline_options

ROOT = Path(__file__).resolve().parents[2]
IN_PROCESS = "--runner=DirectRunner"
WORKERS = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
DIM = 4
LENGTHS = {f"v{i}": 3 + 2 * i for i in range(12)}  # v10 and v11 come before v2, as in the cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve videos in three splits, with features as one HDF5 file and as a folder of .npy files."""
    path = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    (path / "npy").mkdir()
    with h5py.File(path / "features.hdf5", "w") as file:
        for video, n in LENGTHS.items():
            rows = rng.standard_normal((n, DIM)).astype(np.float32)
            file[video] = rows
            np.save(path / "npy" / f"{video}.npy", rows)
    sentences = ("a man opens the door", "the woman puts a red cup on the table", "he leaves")
    for split, videos in (("train", range(8)), ("val", range(8, 10)), ("test", range(10, 12))):
        lines = [
            {"video": f"v{i}", "duration": 20.0, "query": sentences[(i + k) % 3], "windows": [[k, k + 5]]}
            for i in videos
            for k in range(2)
        ]
        (path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def options(folder, data_dir, **fields):
    config = ml_collections.ConfigDict()
    config.name, config.manual_dir, config.data_dir, config.val_fraction = (
        "jsonl",
        str(folder),
        str(data_dir),
        0.1,
    )
    config.features, config.feature_key, config.feature_dim = "features.hdf5", "", DIM
    config.streams, config.on_missing, config.beam = ml_collections.ConfigDict(), "error", ""
    config.update(fields)
    return config


CLIPS = ml_collections.ConfigDict({"num_clips": 8, "normalize": True, "resample": "average"})


def files(data_dir, pattern):
    return {
        str(path.relative_to(data_dir)): path.read_bytes() for path in data_dir.rglob(pattern) if path.is_file()
    }


def messages(data_dir):
    """Records of each file in order; their bytes differ between any two processes, not what they say."""
    import tensorflow as tf

    return {
        str(path.relative_to(data_dir)): [
            tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
        ]
        for path in data_dir.rglob("*.tfrecord*")
    }


@pytest.mark.parametrize("features", ["features.hdf5", "npy", "features.hdf5,npy"])
def test_records_and_cache_are_those_of_one_process(folder, tmp_path, features):
    dim = DIM * len(features.split(","))
    fields = {"features": features, "feature_dim": dim}
    Dataset(options(folder, tmp_path / "without", **fields), CLIPS)
    Dataset(options(folder, tmp_path / "with", beam=IN_PROCESS, **fields), CLIPS)
    for pattern in ("*.clips", "*.json"):
        without = files(tmp_path / "without", pattern)
        assert without and files(tmp_path / "with", pattern) == without
    without = messages(tmp_path / "without")
    assert sorted(map(len, without.values())) == [2, 2, 8]
    assert messages(tmp_path / "with") == without
    # The records between Beam and the cache are gone.
    assert {path.suffix for path in (tmp_path / "with" / "features").iterdir()} == {".clips", ".lock"}


@pytest.mark.slow
def test_workers_in_processes_of_their_own(folder, tmp_path):
    Dataset(options(folder, tmp_path / "without"), CLIPS)
    Dataset(options(folder, tmp_path / "with", beam=WORKERS), CLIPS)
    assert files(tmp_path / "with", "*.clips") == files(tmp_path / "without", "*.clips")
    assert messages(tmp_path / "with") == messages(tmp_path / "without")


def test_what_is_there_starts_no_pipeline(folder, tmp_path, monkeypatch):
    Dataset(options(folder, tmp_path), CLIPS)
    monkeypatch.setattr(pipelines, "pipeline_options", None)  # calling it would fail
    dataset = Dataset(options(folder, tmp_path, beam=IN_PROCESS), CLIPS)
    assert len(dataset.split("train").queries) == 16


def damaged(folder, tmp_path):
    """A copy of the features in which v3 and v11 hold no numbers; in the order of the cache v11 is first."""
    for video in LENGTHS:
        rows = np.load(folder / "npy" / f"{video}.npy")
        if video in ("v3", "v11"):
            rows[1, 2] = np.nan
        np.save(tmp_path / f"{video}.npy", rows)
    return open_features(tmp_path)


def test_a_damaged_file_is_the_error_of_one_process(folder, tmp_path):
    (tmp_path / "npy").mkdir()
    reader = damaged(folder, tmp_path / "npy")
    said = []
    for pipeline in ("", IN_PROCESS):
        with pytest.raises(UserError) as error:
            build_feature_store(reader, LENGTHS, DIM, tmp_path / "cache", 8, True, beam=pipeline)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "v11.npy holds NaN or infinity, first in row 1 of 25" in said[0]  # 3 + 2 * 11 rows
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_wrong_annotations_are_the_error_of_one_process(folder, tmp_path):
    def read(asked):
        found = jsonl.SOURCE.read(asked)
        query = found.splits["val"][1].queries[0]
        found.splits["val"][1].queries[0] = dataclasses.replace(query, span=(9.0, 3.0))
        return found

    source, said = dataclasses.replace(jsonl.SOURCE, read=read), []
    for pipeline in ("", IN_PROCESS):
        with pytest.raises(
            UserError, match="val.jsonl, video v9, query val-3: the moment starts at 9 s"
        ) as error:
            records.prepare(source, options(folder, tmp_path, beam=pipeline))
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_pipeline_that_fails_is_one_paragraph(folder, tmp_path):
    reader = open_features(folder / "features.hdf5")
    reader.path = tmp_path / "gone.hdf5"  # as on a worker that does not see the user's files
    reader.files = lambda ids: []
    with pytest.raises(UserError, match="Apache Beam failed.*gone.hdf5.*at the same paths") as error:
        build_feature_store(reader, LENGTHS, DIM, tmp_path / "cache", 8, True, beam=IN_PROCESS)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_an_open_file_is_opened_anew_by_a_worker(folder):
    reader = open_features(folder / "features.hdf5")
    again = pickle.loads(pickle.dumps(reader))
    assert again._file is not reader._file
    np.testing.assert_array_equal(again.read("v3"), reader.read("v3"))


@pytest.mark.parametrize(
    "text,message",
    [
        (
            "--direct_num_workers=two",
            "no options of Apache Beam .*direct_num_workers: invalid int value: 'two'",
        ),
        ("DirectRunner", "is 'DirectRunner', which are no options of Apache Beam.*for example, '--runner="),
        (" ", "no options of Apache Beam"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(UserError, match=message):
        pipeline_options(text)


def test_unknown_runner(folder, tmp_path):
    with pytest.raises(
        UserError, match="Apache Beam failed with the options '--runner=No'.*pipeline runner: No"
    ):
        jsonl.prepare(options(folder, tmp_path, beam="--runner=No"))


def test_options_that_are_left_to_the_runner_are_named(caplog):
    pipeline_options("--runner=DirectRunner --flink_thing=1")
    assert "it does not know to the runner: flink_thing" in caplog.text


def test_absent_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(UserError, match=r"Apache Beam is not installed.*pip install -e '.\[beam\]'.*beam=''"):
        pipeline_options(IN_PROCESS)


def test_beam_is_not_imported_unless_it_is_asked_for(folder, tmp_path):
    script = (
        "import sys, pickle\n"
        "from vmr_jax.input.dataset import Dataset\n"
        "Dataset(*pickle.loads(bytes.fromhex(sys.argv[1])))\n"
        "assert not [name for name in sys.modules if name.startswith('apache_beam')]\n"
    )
    arguments = pickle.dumps((options(folder, tmp_path), CLIPS)).hex()
    done = subprocess.run(
        [sys.executable, "-c", script, arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
