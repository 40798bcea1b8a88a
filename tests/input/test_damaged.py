"""A flipped bit in what was prepared is found, and said in one line with what to delete."""

import os
import types

import numpy as np
import pytest
from feature_files import VIDEOS, npy_folder

from vmr_jax.errors import UserError
from vmr_jax.input.cache import build_feature_store
from vmr_jax.input.features import open_features
from vmr_jax.input.preparing import whole_records


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)


def test_a_flipped_bit_of_a_feature(tmp_path):
    """The highest bit of an exponent makes 3e37 of a feature; only the video that has it is refused."""
    reader = open_features(npy_folder(tmp_path))
    store = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False)
    flip(store.path, 3)  # of the first number of AAAAA, little endian
    again = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False)
    np.testing.assert_array_equal(again["BBBBB"], VIDEOS["BBBBB"])
    with pytest.raises(UserError, match=r'clips: the features of the video "AAAAA" are not .*Delete the file'):
        again["AAAAA"]


def test_a_flipped_bit_of_the_index_makes_the_cache_anew(tmp_path, caplog):
    reader = open_features(npy_folder(tmp_path))
    store = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False)
    flip(store.path, -60)
    again = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False)
    assert "The cache of features is damaged (the index of" in caplog.text
    np.testing.assert_array_equal(again["AAAAA"], VIDEOS["AAAAA"])


def test_a_pipe_in_the_place_of_the_cache_is_named(tmp_path):
    reader = open_features(npy_folder(tmp_path))
    path = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False).path
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="clips is a folder, a pipe or a device"):
        build_feature_store(reader, VIDEOS, 4, tmp_path / "cache", 8, False)


def test_a_flipped_bit_of_a_record(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "records")) as file:
        file.write(b"a person opens a door")
    flip(tmp_path / "records", 20)
    builder = types.SimpleNamespace(data_path=tmp_path)
    with (
        pytest.raises(UserError, match="are damaged .*DataLossError.*Delete the folder"),
        whole_records(builder),
    ):
        list(tf.data.TFRecordDataset(str(tmp_path / "records")))
