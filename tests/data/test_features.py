"""Feature readers and the feature store: every layout, every error, caches that are stale or half-written."""

import os
import pathlib
import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from data.features import FeatureStore, build_feature_store, missing, open_features, plain_id
from vmr_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/charades_sta"


def _rows(n, dim=4, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, n]).normal(size=(n, dim)).astype(dtype)


VIDEOS = {"AAAAA": _rows(3), "BBBBB": _rows(1), "CCCCC": _rows(5)}


def _hdf5(tmp_path, videos=VIDEOS, key="", suffix="", name="features.hdf5"):
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        for video_id, rows in videos.items():
            file[video_id + suffix + ("/" + key if key else "")] = rows
    return path


def _npz_folder(tmp_path, videos=VIDEOS, key="features"):
    path = tmp_path / "npz"
    path.mkdir(exist_ok=True)
    for video_id, rows in videos.items():
        np.savez(path / f"{video_id}.npz", **{key: rows})
    return path


def _npy_folder(tmp_path, videos=VIDEOS):
    path = tmp_path / "npy"
    path.mkdir(exist_ok=True)
    for video_id, rows in videos.items():
        np.save(path / f"{video_id}.npy", rows)
    return path


def _h5_folder(tmp_path, key="feature"):
    path = tmp_path / "h5"
    path.mkdir()
    for video_id, rows in VIDEOS.items():
        _hdf5(path, {key: rows}, name=f"{video_id}.h5")
    return path


LAYOUTS = {
    "hdf5": (_hdf5, ""),
    "hdf5 with groups": (lambda t: _hdf5(t, key="c3d_features"), "c3d_features"),
    "hdf5 with groups, key found": (lambda t: _hdf5(t, key="c3d_features"), ""),
    "hdf5 with extensions": (lambda t: _hdf5(t, suffix=".avi"), ""),
    "npy": (_npy_folder, ""),
    "npz features": (_npz_folder, ""),
    "npz image_embeddings": (lambda t: _npz_folder(t, key="image_embeddings"), ""),
    "npz with a key": (lambda t: _npz_folder(t, key="pooled"), "pooled"),
    "h5 folder": (_h5_folder, ""),
    "h5 folder with a key": (lambda t: _h5_folder(t, key="mine"), "mine"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(tmp_path, layout):
    make, key = LAYOUTS[layout]
    path = make(tmp_path)
    reader = open_features(str(path), key)
    assert reader.path == path
    assert reader.ids == ("AAAAA", "BBBBB", "CCCCC")
    for video_id, rows in VIDEOS.items():
        np.testing.assert_array_equal(reader.read(video_id), rows)
        np.testing.assert_array_equal(reader.read(video_id + ".avi"), rows)
    assert missing(reader, ["CCCCC", "zzz", "AAAAA.avi", "y"]) == ["zzz", "y"]


def test_ids_with_dots_lose_only_the_extension_of_a_video():
    assert [plain_id(i) for i in ("s17-d69.avi", "a.b.mp4", "v_1.5", "x.MKV", "y")] == [
        "s17-d69",
        "a.b",
        "v_1.5",
        "x",
        "y",
    ]


def test_two_names_of_one_video(tmp_path):
    path = _hdf5(tmp_path, {"a": _rows(1), "a.avi": _rows(1)})
    with pytest.raises(UserError, match=r"a and a\.avi, which are one video id"):
        open_features(path)


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 1, 4), (1, 3, 4), (1, 3, 1, 1, 4)])
def test_axes_of_length_one_are_squeezed(tmp_path, shape):
    path = _npy_folder(tmp_path, {"v": _rows(3).reshape(shape)})
    np.testing.assert_array_equal(open_features(path).read("v"), _rows(3))


def test_one_clip_keeps_its_axis(tmp_path):
    path = _npy_folder(tmp_path, {"v": _rows(1).reshape(1, 1, 1, 4)})
    assert open_features(path).read("v").shape == (1, 4)


@pytest.mark.parametrize(
    "dtype, expected", [("float16", "float16"), ("float32", "float32"), ("float64", "float32")]
)
def test_dtypes(tmp_path, dtype, expected):
    path = _npy_folder(tmp_path, {"v": _rows(2, dtype=dtype)})
    assert open_features(path).read("v").dtype == expected


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.ones((2, 3, 4), np.float32), r"v\.npy has shape \[2, 3, 4\]; expected \[clips,dimensions\]"),
        (np.ones(4, np.float32), r"v\.npy holds float32 of shape \[4\]"),
        (np.ones((2, 4), int), r"v\.npy holds int64"),
        (np.array([["a"]]), r"v\.npy holds <U1"),
    ],
)
def test_arrays_that_are_no_features(tmp_path, rows, message):
    reader = open_features(_npy_folder(tmp_path, {"v": rows}))
    with pytest.raises(UserError, match=message):
        reader.read("v")


def test_missing_unknown_and_empty_paths(tmp_path):
    with pytest.raises(UserError, match="There are no features at"):
        open_features(tmp_path / "absent.hdf5")
    (tmp_path / "features.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match=r"features\.pkl is no feature file of a known kind"):
        open_features(tmp_path / "features.pkl")
    with pytest.raises(UserError, match="holds no feature files"):
        open_features(tmp_path)
    np.save(tmp_path / "a.npy", _rows(1))
    np.savez(tmp_path / "a.npz", features=_rows(1))
    with pytest.raises(UserError, match=r"files of several kinds \(\.npy, \.npz\)"):
        open_features(tmp_path)


def test_other_files_in_a_folder_do_not_matter(tmp_path):
    path = _npy_folder(tmp_path)
    (path / "feature_shapes.json").write_text("{}")
    (path / "._AAAAA.npy").write_bytes(b"resource fork")
    assert open_features(path).ids == tuple(sorted(VIDEOS))


def test_absent_video_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match='no features of the video "AAAAB".*Did you mean "AAAAA"'):
        open_features(_hdf5(tmp_path)).read("AAAAB")


def test_damaged_files_are_named(tmp_path):
    path = _hdf5(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"features\.hdf5 cannot be opened as HDF5"):
        open_features(path)
    for folder, name in ((_npy_folder(tmp_path), "AAAAA.npy"), (_npz_folder(tmp_path), "AAAAA.npz")):
        file = folder / name
        file.write_bytes(file.read_bytes()[:-20])
        reader = open_features(folder)
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            reader.read("AAAAA")
        np.testing.assert_array_equal(reader.read("BBBBB"), VIDEOS["BBBBB"])
    folder = _h5_folder(tmp_path)
    (folder / "AAAAA.h5").write_bytes(b"no hdf5")
    with pytest.raises(UserError, match=r"AAAAA\.h5 cannot be opened as HDF5"):
        open_features(folder).read("AAAAA")


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["VMR_TEST_BOMB"],))


def test_pickles_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("VMR_TEST_BOMB", str(tmp_path / "exploded"))
    folder = tmp_path / "npy"
    folder.mkdir()
    np.save(folder / "v.npy", np.array([_Bomb()], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"v\.npy cannot be read"):
        open_features(folder).read("v")
    assert not (tmp_path / "exploded").exists()


def test_wrong_keys_list_what_is_there(tmp_path):
    reader = open_features(_npz_folder(tmp_path, key="pooled"))
    with pytest.raises(UserError, match=r"AAAAA\.npz has no array 'features' or .*; it has: pooled\."):
        reader.read("AAAAA")
    reader = open_features(_hdf5(tmp_path, key="c3d_features"), "i3d")
    with pytest.raises(UserError, match=r"\['AAAAA'\] has no array 'i3d'; it has: c3d_features"):
        reader.read("AAAAA")
    reader = open_features(_hdf5(tmp_path, name="flat.hdf5"), "i3d")
    with pytest.raises(UserError, match=r"is an array, not a group with the array \"i3d\""):
        reader.read("AAAAA")
    reader = open_features(_npy_folder(tmp_path), "i3d")
    with pytest.raises(UserError, match="single array without keys"):
        reader.read("AAAAA")


# --- store ----------------------------------------------------------------------------------------


def test_store_has_the_rows_of_every_listed_video(tmp_path):
    videos = {**VIDEOS, "DDDDD": _rows(7, dtype=np.float16), "EEEEE": _rows(2)}
    reader = open_features(_npy_folder(tmp_path, videos))
    seen = []
    wanted = ["EEEEE", "DDDDD", "AAAAA", "DDDDD"]
    store = build_feature_store(reader, wanted, 4, tmp_path / "cache", lambda *at: seen.append(at))
    assert sorted(store) == ["AAAAA", "DDDDD", "EEEEE"] and len(store) == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for video_id in store:
        np.testing.assert_array_equal(store[video_id], videos[video_id])
        assert store[video_id].dtype == videos[video_id].dtype
        assert not store[video_id].flags.owndata and not store[video_id].flags.writeable
    assert "BBBBB" not in store
    with pytest.raises(KeyError):
        store["BBBBB"]


def _unread(*_):
    raise AssertionError("the source was read again")


def test_second_opening_reads_nothing(tmp_path):
    reader = open_features(_hdf5(tmp_path))
    first = build_feature_store(reader, VIDEOS, 4, tmp_path / "cache")
    reader.read = _unread
    again = build_feature_store(reader, reversed(list(VIDEOS)), 4, tmp_path / "cache")
    assert again.path == first.path
    np.testing.assert_array_equal(again["CCCCC"], VIDEOS["CCCCC"])


def test_store_is_keyed_by_the_ids_asked_for(tmp_path):
    reader = open_features(_hdf5(tmp_path, suffix=".avi"))
    assert list(build_feature_store(reader, ["AAAAA"], 4, tmp_path / "cache")) == ["AAAAA"]


@pytest.mark.parametrize("change", ["content", "ids", "key"])
def test_a_change_is_read_anew(tmp_path, change):
    path = _npz_folder(tmp_path)
    first = build_feature_store(open_features(path), VIDEOS, 4, tmp_path / "cache")
    ids, key = list(VIDEOS), ""
    if change == "content":
        # The same size; the modification time tells. Set apart so that a coarse clock does not hide it.
        np.savez(path / "AAAAA.npz", features=VIDEOS["AAAAA"] + 1)
        os.utime(path / "AAAAA.npz", ns=(0, 12345))
    elif change == "ids":
        ids = ids[:2]
    else:
        key = "features"
    again = build_feature_store(open_features(path, key), ids, 4, tmp_path / "cache")
    assert again.path != first.path
    np.testing.assert_array_equal(again["AAAAA"], VIDEOS["AAAAA"] + (change == "content"))
    np.testing.assert_array_equal(first["AAAAA"], VIDEOS["AAAAA"])


def _leftovers(cache):
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


@pytest.mark.parametrize(
    "rows, message",
    [
        (_rows(2, dim=5), r"BBBBB\.npy has features of dimension 5; config\.dataset\.feature_dim is 4"),
        (np.zeros((0, 4), np.float32), r"BBBBB\.npy has no clips"),
        (np.where(np.arange(3)[:, None] == 2, np.nan, _rows(3)), r"BBBBB\.npy holds NaN.*row 2 of 3"),
        (np.full((2, 4), np.inf, np.float16), r"BBBBB\.npy holds NaN or infinity, first in row 0 of 2"),
    ],
)
def test_store_checks_every_video_and_leaves_nothing_behind(tmp_path, rows, message):
    reader = open_features(_npy_folder(tmp_path, {**VIDEOS, "BBBBB": rows}))
    with pytest.raises(UserError, match=message):
        build_feature_store(reader, VIDEOS, 4, tmp_path / "cache")
    assert _leftovers(tmp_path / "cache") == []


def test_store_of_absent_videos(tmp_path):
    with pytest.raises(UserError, match="no features of 1 videos, such as zzz"):
        build_feature_store(open_features(_hdf5(tmp_path)), ["AAAAA", "zzz"], 4, tmp_path / "cache")


def test_full_disk(tmp_path):
    videos = {"AAAAA": _rows(5000), "BBBBB": _rows(5000)}  # 80 kB each
    reader = open_features(_npy_folder(tmp_path, videos))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's default: the write fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="cannot be written to .*cache"):
            build_feature_store(reader, videos, 4, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _leftovers(tmp_path / "cache") == []
    build_feature_store(reader, videos, 4, tmp_path / "cache")


def test_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        build_feature_store(open_features(_hdf5(tmp_path)), VIDEOS, 4, tmp_path / "file" / "cache")


_KILLED = """
import os, sys
from data.features import build_feature_store, open_features
reader = open_features(sys.argv[1])
def die(done, total):
    if done == 2:
        os._exit(9)
build_feature_store(reader, reader.ids, 4, sys.argv[2], die)
"""


def test_a_killed_build_is_not_trusted(tmp_path):
    path, cache = _hdf5(tmp_path), tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", _KILLED, path, cache], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert [name.endswith(".unfinished") for name in _leftovers(cache)] == [True]
    store = build_feature_store(open_features(path), VIDEOS, 4, cache)
    assert _leftovers(cache) == [store.path.name]
    for video_id, rows in VIDEOS.items():
        np.testing.assert_array_equal(FeatureStore(store.path)[video_id], rows)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_clip_features():
    reader = open_features(SHARED / "clip_vit_b32_1fps")
    assert len(reader.ids) == 1334
    rows = reader.read("3MSZA")
    assert rows.shape[1] == 512 and rows.dtype == np.float16
    # L2-normalised at the source, to half precision.
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1.0, atol=2e-3)
