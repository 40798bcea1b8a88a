"""Files of one row each become the rows of a video."""

import types

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.input.records import open_manual_features
from vmr_jax.input.units import Units, are_units


def unit(folder, name, value, width=2):
    folder.mkdir(exist_ok=True)
    np.save(folder / name, np.full(width, value, np.float32))


def test_rows_begin_sixteen_frames_apart(tmp_path):
    # Units that overlap by half: those from 9 and 25 on stand between.
    for start in (1, 9, 17, 25, 33, 97):
        unit(tmp_path / "c3d", f"AAAAA_{start}.0_{start + 16}.0.npy", start)
    unit(tmp_path / "c3d", "BBBBB_0.0_16.0.npy", 7)
    options = types.SimpleNamespace(manual_dir=tmp_path, features="c3d", feature_key="")
    reader = open_manual_features(options)
    assert isinstance(reader, Units) and reader.ids == ("AAAAA", "BBBBB")
    # By number: 97 is behind 33.
    np.testing.assert_array_equal(reader.read("AAAAA"), [[1, 1], [17, 17], [33, 33], [97, 97]])
    names = [path.name for path in reader.files(["AAAAA", "BBBBB"])]
    assert names == ["AAAAA_1.0_17.0.npy", "AAAAA_97.0_113.0.npy", "BBBBB_0.0_16.0.npy"]


def test_scores_of_longer_units(tmp_path):
    for start in (17, 1):
        unit(tmp_path / "scores", f"AAAAA.mp4_{start}_{start + 32}.npy", start)
    reader = Units(tmp_path / "scores", "")
    np.testing.assert_array_equal(reader.read("AAAAA.mp4"), [[1, 1], [17, 17]])
    unit(tmp_path / "scores", "AAAAA.mp4_33_65.npy", 3, width=5)
    with pytest.raises(UserError, match="AAAAA.mp4_33_65.npy holds 5 numbers, and the unit before it 2"):
        Units(tmp_path / "scores", "").read("AAAAA")


def test_a_file_per_video_is_none_of_a_unit(tmp_path):
    unit(tmp_path / "videos", "v_abc_1_17.npy", 1)
    assert not are_units(tmp_path / "videos")
    (tmp_path / "nothing").mkdir()
    assert not are_units(tmp_path / "nothing")
