"""Every dataset under its name in TFDS."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds

import vmr_jax.data  # noqa: F401
from vmr_jax.configs import datasets
from vmr_jax.errors import UserError

ROWS = {"AAAAA": 4, "BBBBB": 7, "EEEEE": 2}  # native rows of each video


@pytest.fixture
def folder(tmp_path):
    """A user's folder of Charades-STA with VGG features, of which row i holds i everywhere."""
    path = tmp_path / "manual"
    path.mkdir()
    (path / "charades_sta_train.txt").write_text("AAAAA 0.0 6.9##a person sits.\nBBBBB 2.0 9.0##a girl runs.\n")
    (path / "charades_sta_test.txt").write_text("EEEEE 0.0 20.0##person closes the window.\n")
    (path / "Charades_v1_train.csv").write_text("id,length\nAAAAA,30\nBBBBB,31.5\n")
    (path / "Charades_v1_test.csv").write_text("id,length\nEEEEE,10.25\n")
    with h5py.File(path / "vgg_rgb_features.hdf5", "w") as file:
        for video, rows in ROWS.items():
            file[video] = np.arange(rows, dtype=np.float32)[:, None].repeat(4096, axis=1)
    return path


def load(name, folder, **arguments):
    download = {"download_config": tfds.download.DownloadConfig(manual_dir=str(folder))}
    data_dir = folder.parent / "records"
    return tfds.load(name, data_dir=data_dir, download_and_prepare_kwargs=download, **arguments)


def test_a_split_with_its_queries_and_features(folder):
    (video,) = tfds.as_numpy(load("charades_sta/vgg", folder, split="test"))
    assert video["video"] == b"EEEEE" and video["duration"] == 10.25
    assert video["queries"]["text"].tolist() == [b"person closes the window."]
    assert video["queries"]["span"].tolist() == [[0.0, 10.25]]  # clipped to the video
    assert video["rows"].shape == (2, 4096) and video["rows"][:, 5].tolist() == [0, 1]


def test_settings_of_the_users_own_are_kept_apart(folder):
    with h5py.File(folder / "mine.h5", "w") as file:
        for video, rows in ROWS.items():
            file[video] = np.ones((rows, 3), np.float32)
    settings = {"features": "mine.h5", "feature_dim": 3, "val_fraction": 0.5}
    found = load("charades_sta", folder, builder_kwargs={"settings": settings})
    assert {split: len(rows) for split, rows in found.items()} == {"train": 1, "val": 1, "test": 1}
    assert next(iter(tfds.as_numpy(found["train"])))["rows"].shape[1] == 3
    load("charades_sta/vgg", folder)
    assert len(list((folder.parent / "records" / "charades_sta").glob("vgg*"))) == 2


def test_absent_features_are_named(folder):
    (folder / "vgg_rgb_features.hdf5").unlink()
    with pytest.raises(UserError, match="vgg_rgb_features.hdf5"):
        load("charades_sta/vgg", folder)


def test_storyboard_needs_no_files():
    builder = tfds.builder("storyboard", data_dir="unused")
    assert (builder.name, builder.builder_config.name) == ("storyboard", "seed0_train900")


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_dataset_and_variant_has_a_builder(name):
    kind = tfds.builder_cls(name)
    variants = {config.name for config in kind.BUILDER_CONFIGS}
    assert variants >= set(datasets.FEATURES.get(name, ()))
    for variant in variants:
        builder = tfds.builder(f"{name}/{variant}", data_dir="unused")
        assert builder.info.features["queries"]["text"] is not None


@pytest.mark.parametrize("first", ["tensorflow_datasets", "vmr_jax.data"])
def test_the_order_of_the_imports_does_not_matter(first):
    second = {"tensorflow_datasets": "vmr_jax.data", "vmr_jax.data": "tensorflow_datasets"}[first]
    program = f"import {first}, {second}; print(tensorflow_datasets.builder_cls('charades_sta').name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "charades_sta\n", done.stderr


def test_versions_and_conventions_have_names_of_their_own():
    names = [config.name for config in tfds.builder_cls("tacos").BUILDER_CONFIGS]
    assert names == ["c3d", "c3d_tall", "i3d", "i3d_tall"]  # the default has no suffix
