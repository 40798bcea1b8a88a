"""Features: every layout, several sources, rows to clips by hand, every error, caches not to be trusted."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import tracemalloc
import types

import h5py
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.input.cache import FeatureStore, build_feature_store
from vmr_jax.input.features import (
    Concatenated,
    average_rows,
    fit_rows,
    missing,
    normalize_rows,
    open_features,
    plain_id,
    read_rows,
    shorten,
)
from vmr_jax.input.records import open_manual_features

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


def test_names_that_differ_in_the_extension_alone_are_found_in_full(tmp_path):
    """DiDeMo has such pairs."""
    reader = open_features(_hdf5(tmp_path, {"a.avi": _rows(1), "a.mp4": _rows(1) + 1, "b.avi": _rows(1)}))
    np.testing.assert_array_equal(reader.read("a.mp4"), _rows(1) + 1)
    np.testing.assert_array_equal(reader.read("a.avi"), _rows(1))
    assert missing(reader, ["a", "a.webm", "b", "b.mp4"]) == ["a", "a.webm"]  # which of the two is not told


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


def test_an_id_in_another_case_names_the_right_one(tmp_path):
    reader = open_features(_hdf5(tmp_path, {"v_AbCdE": _rows(2), "v_zzzzz": _rows(2)}))
    assert missing(reader, ["V_ABCDE"]) == ["V_ABCDE"]  # ids of the field differ in case alone
    with pytest.raises(UserError, match='no features of the video "V_ABCDE.mp4".*Did you mean "v_AbCdE"'):
        reader.read("V_ABCDE.mp4")


@pytest.mark.parametrize("name", ["AAAAA.npy", "AAAAA.npz", "AAAAA.h5"])
def test_empty_files_are_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"{name} cannot be (read|opened)"):
        open_features(tmp_path).read("AAAAA")


def test_hdf5_file_cut_short_or_damaged_inside(tmp_path):
    path = tmp_path / "features.hdf5"
    with h5py.File(path, "w") as file:
        for video_id in ("AAAAA", "BBBBB"):
            file.create_dataset(video_id, data=_rows(500), compression="gzip")
        at = file["BBBBB"].id.get_chunk_info(0).byte_offset
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # an interrupted download
    with pytest.raises(UserError, match=r"features\.hdf5 cannot be opened as HDF5"):
        open_features(path)
    path.write_bytes(whole[: at + 8] + bytes(64) + whole[at + 72 :])
    reader = open_features(path)
    np.testing.assert_array_equal(reader.read("AAAAA"), _rows(500))
    with pytest.raises(UserError, match=r"features\.hdf5\['BBBBB'\] cannot be read"):
        reader.read("BBBBB")


def test_rows_without_dimensions(tmp_path):
    reader = open_features(_npy_folder(tmp_path, {"v": np.zeros((3, 0), np.float32)}))
    with pytest.raises(UserError, match=r"v\.npy has features of dimension 0"):
        read_rows(reader, "v", 4, normalize=True)


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


# --- several sources ------------------------------------------------------------------------------


def _options(folder, features, key=""):
    return types.SimpleNamespace(manual_dir=str(folder), features=features, feature_key=key)


def _two_sources(tmp_path, lengths=(5, 5)):
    for name, width, n in (("slowfast", 3, lengths[0]), ("clip", 2, lengths[1])):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "v.npz", features=_rows(n, width))
        np.savez(tmp_path / name / f"only_{name}.npz", features=_rows(n, width))


@pytest.mark.parametrize("features", [("slowfast", "clip"), "slowfast,clip", "slowfast, clip"])
def test_several_sources_lie_side_by_side(tmp_path, features):
    _two_sources(tmp_path)
    reader = open_manual_features(_options(tmp_path, features))
    assert reader.ids == ("v",)
    assert missing(reader, ["v.mp4", "only_clip", "only_slowfast"]) == ["only_clip", "only_slowfast"]
    expected = np.concatenate([_rows(5, 3), _rows(5, 2)], 1)
    np.testing.assert_array_equal(reader.read("v"), expected)
    np.testing.assert_array_equal(read_rows(reader, "v", 5, normalize=False), expected)
    assert str(tmp_path / "slowfast") in str(reader.path) and str(tmp_path / "clip") in str(reader.path)
    assert [file.parent.name for file in reader.files(["v"])] == ["slowfast", "clip"]


def test_each_source_is_normalised_for_itself():
    class Fixed(Concatenated):
        def __init__(self):
            pass

        def parts(self, video_id):
            return [np.array([[3, 4], [0, 0]], np.float16), np.array([[0, 0, 2e-5], [1, 0, 0]], np.float32)]

        def where(self, video_id):
            return video_id

    # x / (|x| + 1e-5): [3,4] / 5.00001, [0,0,2e-5] / 3e-5, [1,0,0] / 1.00001; a row of zeros stays.
    expected = [[3 / 5.00001, 4 / 5.00001, 0, 0, 2 / 3], [0, 0, 1 / 1.00001, 0, 0]]
    np.testing.assert_allclose(read_rows(Fixed(), "v", 5, normalize=True), expected, rtol=1e-6)


def test_one_source_keeps_its_own_rule(tmp_path):
    _two_sources(tmp_path)
    for features in ("clip", ("clip",)):
        reader = open_manual_features(_options(tmp_path, features))
        assert not isinstance(reader, Concatenated)
        np.testing.assert_array_equal(read_rows(reader, "v", 2, normalize=True), normalize_rows(_rows(5, 2)))


@pytest.mark.parametrize("lengths", [(5, 3), (4, 5)])
def test_sources_are_cut_to_the_shortest(tmp_path, lengths):
    _two_sources(tmp_path, lengths)
    reader = open_manual_features(_options(tmp_path, "slowfast,clip"))
    n = min(lengths)
    expected = np.concatenate([_rows(lengths[0], 3)[:n], _rows(lengths[1], 2)[:n]], 1)
    np.testing.assert_array_equal(reader.read("v"), expected)


def test_sources_of_another_rate_are_refused(tmp_path):
    _two_sources(tmp_path, (8, 5))
    reader = open_manual_features(_options(tmp_path, "slowfast,clip"))
    with pytest.raises(UserError, match=r'rows for the video "v" \(.*slowfast: 8, .*clip: 5\)'):
        reader.read("v")


def test_errors_of_one_of_several_sources(tmp_path):
    _two_sources(tmp_path)
    reader = open_manual_features(_options(tmp_path, "slowfast,clip"))
    with pytest.raises(UserError, match=r"dimension 3 \+ 2; config\.dataset\.feature_dim is 4\. Set it to 5"):
        read_rows(reader, "v", 4, normalize=True)
    rows = _rows(5, 2)
    rows[3, 1] = np.nan
    np.savez(tmp_path / "clip" / "v.npz", features=rows)
    with pytest.raises(UserError, match=r"slowfast/v\.npz and .*clip/v\.npz holds NaN.*row 3 of 5"):
        read_rows(reader, "v", 5, normalize=True)
    with pytest.raises(UserError, match="There are no features at .*flow"):
        open_manual_features(_options(tmp_path, "slowfast,flow"))


# --- clips ----------------------------------------------------------------------------------------


def test_average_rows_shortens_by_hand():
    # n = 10 rows 0..9 to 4: edges round(k * 2.5) = 0, 2 (2.5 to even), 5, 8 (7.5 to even), min(10, 9) = 9.
    rows = np.arange(10, dtype=np.float32)[:, None]
    expected = [(0 + 1) / 2, (2 + 3 + 4) / 3, (5 + 6 + 7) / 3, 8.0]
    np.testing.assert_allclose(average_rows(rows, 4)[:, 0], expected)


def test_average_rows_lengthens_by_repeating():
    # n = 3 rows to 6: edges round(k / 2) = 0, 0, 1, 2 (1.5 to even), 2, 2 (2.5 to even), min(3, 2) = 2.
    rows = np.array([[10.0], [20.0], [30.0]], np.float32)
    np.testing.assert_allclose(average_rows(rows, 6)[:, 0], [10, 10, 20, 30, 30, 30])


@pytest.mark.parametrize("n", [1, 7, 30, 255, 256, 257, 1000])
def test_average_rows_equals_the_definition(n):
    rows = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    edges = np.round(np.arange(257, dtype=np.float32) / np.float32(256) * np.float32(n)).astype(int)
    edges = np.minimum(edges, n - 1)
    expected = [rows[a:b].mean(0) if a < b else rows[a] for a, b in zip(edges[:-1], edges[1:])]
    np.testing.assert_allclose(average_rows(rows, 256), expected, rtol=1e-5, atol=1e-6)


def test_normalize_rows_keeps_zero_rows():
    np.testing.assert_allclose(
        normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6
    )


def test_padded_rows_have_a_mask():
    rows, mask = fit_rows(np.ones((3, 2), np.float32), 5, "pad")
    np.testing.assert_array_equal(mask, [True, True, True, False, False])
    np.testing.assert_array_equal(rows.sum(1), [2, 2, 2, 0, 0])
    rows, mask = fit_rows(np.ones((9, 2), np.float32), 5, "pad")
    assert mask.all() and rows.shape == (5, 2)


@pytest.mark.parametrize("resample", ["average", "pad"])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 40])
def test_fitting_what_was_kept_is_fitting_all_rows(n, resample):
    rows, kept = _rows(n, 33), shorten(_rows(n, 33), 8)
    assert len(kept) == min(n, 8)
    for ours, expected in zip(fit_rows(kept, 8, resample), fit_rows(rows, 8, resample)):
        assert ours.dtype == expected.dtype and ours.tobytes() == expected.tobytes()


def test_features_shorter_than_their_video_are_stretched_over_it():
    # The rule of the module: row i of n covers i/n to (i+1)/n, so of 4 clips 3 rows fill 1 + 1 + 2:
    # edges round(k * 0.75) = 0, 1, 2 (1.5 to even), 2.
    rows = np.arange(3, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(fit_rows(rows, 4, "average")[0][:, 0], [0, 1, 2, 2])


# --- store ----------------------------------------------------------------------------------------


CLIPS = 4  # of the stores below: CCCCC has more rows


def _build(reader, ids, cache, on_progress=None, num_clips=CLIPS, normalize=True, dim=4):
    return build_feature_store(reader, ids, dim, cache, num_clips, normalize, on_progress)


def _kept(rows, normalize=True):
    """What the store keeps of native rows."""
    return shorten(normalize_rows(rows) if normalize else rows.astype(np.float32), CLIPS)


@pytest.mark.parametrize("normalize", [True, False])
def test_store_has_the_clips_of_every_listed_video(tmp_path, normalize):
    videos = {**VIDEOS, "DDDDD": _rows(7, dtype=np.float16), "EEEEE": _rows(2)}
    reader = open_features(_npy_folder(tmp_path, videos))
    seen = []
    wanted = ["EEEEE", "DDDDD", "CCCCC", "DDDDD"]
    store = _build(reader, wanted, tmp_path / "cache", lambda *at: seen.append(at), normalize=normalize)
    assert sorted(store) == ["CCCCC", "DDDDD", "EEEEE"] and len(store) == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [len(store[video_id]) for video_id in sorted(store)] == [CLIPS, CLIPS, 2]
    for video_id in store:
        np.testing.assert_array_equal(store[video_id], _kept(videos[video_id], normalize))
        assert store[video_id].dtype == np.float32
        assert not store[video_id].flags.owndata and not store[video_id].flags.writeable
    assert "BBBBB" not in store
    with pytest.raises(KeyError):
        store["BBBBB"]


def test_store_of_several_sources(tmp_path):
    _two_sources(tmp_path, (6, 5))
    reader = open_manual_features(_options(tmp_path, "slowfast,clip"))
    store = _build(reader, ["v"], tmp_path / "cache", dim=5)
    np.testing.assert_array_equal(store["v"], shorten(read_rows(reader, "v", 5, True), CLIPS))
    swapped = open_manual_features(_options(tmp_path, "clip,slowfast"))
    np.testing.assert_array_equal(
        _build(swapped, ["v"], tmp_path / "cache", dim=5)["v"], np.roll(store["v"], 2, axis=1)
    )


def _unread(*_):
    raise AssertionError("the source was read again")


def test_second_opening_reads_nothing(tmp_path):
    reader = open_features(_hdf5(tmp_path))
    first = _build(reader, VIDEOS, tmp_path / "cache")
    reader.read = _unread
    again = _build(reader, reversed(list(VIDEOS)), tmp_path / "cache")
    assert again.path == first.path
    np.testing.assert_array_equal(again["CCCCC"], _kept(VIDEOS["CCCCC"]))


def test_a_cache_that_cannot_be_written_can_be_read(tmp_path, monkeypatch):
    reader = open_features(_hdf5(tmp_path))
    _build(reader, VIDEOS, tmp_path / "cache")
    monkeypatch.setattr("vmr_jax.input.cache._locked", _unread)
    assert len(_build(reader, VIDEOS, tmp_path / "cache")) == 3


def test_store_is_keyed_by_the_ids_asked_for(tmp_path):
    reader = open_features(_hdf5(tmp_path, suffix=".avi"))
    assert list(_build(reader, ["AAAAA"], tmp_path / "cache")) == ["AAAAA"]


@pytest.mark.parametrize("change", ["ids", "key", "num_clips", "normalize"])
def test_other_settings_have_a_cache_of_their_own(tmp_path, change):
    path = _npz_folder(tmp_path)
    first = _build(open_features(path), VIDEOS, tmp_path / "cache")
    settings = {"num_clips": {"num_clips": 3}, "normalize": {"normalize": False}}.get(change, {})
    ids = list(VIDEOS)[1:] if change == "ids" else VIDEOS
    reader = open_features(path, "features" if change == "key" else "")
    again = _build(reader, ids, tmp_path / "cache", **settings)
    assert again.path != first.path and again.path.parent == first.path.parent
    assert ("AAAAA" in again) == (change != "ids")
    assert len(again["CCCCC"]) == settings.get("num_clips", CLIPS)
    expected = shorten(_kept(VIDEOS["CCCCC"], change != "normalize"), CLIPS)
    assert np.array_equal(again["CCCCC"], expected) == (change != "num_clips")
    np.testing.assert_array_equal(first["CCCCC"], _kept(VIDEOS["CCCCC"]))


@pytest.mark.parametrize("kept", ["size", "size and time"])
@pytest.mark.parametrize("n", [3, 40_000])  # 48 bytes, read whole; 625 KiB, sampled
def test_a_changed_source_is_read_anew_in_the_same_place(tmp_path, kept, n):
    path, cache = _npy_folder(tmp_path, {"v": _rows(n)}), tmp_path / "cache"
    first = _build(open_features(path), ["v"], cache)
    before = np.array(first["v"])
    status = (path / "v.npy").stat()
    np.save(path / "v.npy", 2 - _rows(n))
    if kept == "size and time":
        os.utime(path / "v.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (path / "v.npy").stat().st_mtime_ns == status.st_mtime_ns
    else:
        os.utime(path / "v.npy", ns=(0, 12345))  # a coarse clock must not hide it
    assert (path / "v.npy").stat().st_size == status.st_size
    again = _build(open_features(path), ["v"], cache)
    assert _leftovers(cache) == [again.path.name] == [first.path.name]  # the old one takes no room
    np.testing.assert_array_equal(again["v"], _kept(2 - _rows(n)))
    np.testing.assert_array_equal(first["v"], before)  # a running process goes on with what it opened


def _leftovers(cache):
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


DAMAGES = {
    "cut by a byte": lambda raw: raw[:-1],
    "cut to its head": lambda raw: raw[:100],
    "cut in the index": lambda raw: raw[:-40],
    "empty": lambda raw: b"",
    "longer by a byte": lambda raw: raw + b"x",
    "longer by zeros": lambda raw: raw + bytes(4096),
    "twice": lambda raw: raw + raw,
    "its head lost": lambda raw: raw[64:],
    "another file": lambda raw: b"<html>404</html>" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_written_anew(tmp_path, damage, caplog):
    reader = open_features(_hdf5(tmp_path))
    path = _build(reader, VIDEOS, tmp_path / "cache").path
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.raises(ValueError, match=r"."):
        FeatureStore(path)
    with caplog.at_level("WARNING", "vmr_jax"):
        store = _build(reader, VIDEOS, tmp_path / "cache")
    assert "The cache of features is damaged" in caplog.text
    assert path.read_bytes() == whole and _leftovers(tmp_path / "cache") == [path.name]
    np.testing.assert_array_equal(store["AAAAA"], _kept(VIDEOS["AAAAA"]))


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
        _build(reader, VIDEOS, tmp_path / "cache")
    assert _leftovers(tmp_path / "cache") == []


def test_store_of_absent_videos(tmp_path):
    with pytest.raises(UserError, match=r'no features of 1 videos, such as aaaaa\. Did you mean "AAAAA"\?'):
        _build(open_features(_hdf5(tmp_path)), ["AAAAA", "aaaaa"], tmp_path / "cache")


def test_source_that_vanished(tmp_path):
    reader = open_features(_npy_folder(tmp_path))
    (tmp_path / "npy" / "BBBBB.npy").unlink()
    with pytest.raises(UserError, match=r"BBBBB\.npy cannot be read \(No such file"):
        _build(reader, VIDEOS, tmp_path / "cache")


def test_full_disk(tmp_path):
    videos = {"AAAAA": _rows(5000), "BBBBB": _rows(5000)}  # 80 kB each
    reader = open_features(_npy_folder(tmp_path, videos))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's default: the write fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="cannot be written to .*cache"):
            _build(reader, videos, tmp_path / "cache", num_clips=5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _leftovers(tmp_path / "cache") == []
    _build(reader, videos, tmp_path / "cache", num_clips=5000)


def test_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        _build(open_features(_hdf5(tmp_path)), VIDEOS, tmp_path / "file" / "cache")


_BUILDER = """
import os, sys, time
from vmr_jax.input.cache import (build_feature_store)
from vmr_jax.input.features import (open_features)
reader = open_features(sys.argv[1])
def act(done, total):
    if sys.argv[3] == "die" and done == 2:
        os._exit(9)
    print(done, flush=True)
    time.sleep(0.05)
build_feature_store(reader, reader.ids, 4, sys.argv[2], 4, True, act)
"""


def test_a_killed_build_is_not_trusted(tmp_path):
    path, cache = _hdf5(tmp_path), tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDER, path, cache, "die"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 9
    assert [name.endswith(".unfinished") for name in _leftovers(cache)] == [True]
    store = _build(open_features(path), VIDEOS, cache)
    assert _leftovers(cache) == [store.path.name]
    for video_id, rows in VIDEOS.items():
        np.testing.assert_array_equal(FeatureStore(store.path)[video_id], _kept(rows))


def test_of_several_processes_one_builds(tmp_path):
    path, cache = _hdf5(tmp_path), tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDER, path, cache, "build"]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(outputs) == ["", "", "1\n2\n3\n"]
    reader = open_features(path)
    reader.read = _unread
    assert len(_build(reader, VIDEOS, cache)) == 3


def test_building_holds_one_video_at_a_time(tmp_path):
    videos = {f"v{i}": _rows(20_000) for i in range(12)}  # 320 kB each
    reader = open_features(_npy_folder(tmp_path, videos))
    tracemalloc.start()
    try:
        _build(reader, videos, tmp_path / "cache", num_clips=20_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Rows as read, as float32 and normalised, and the one written before: not the twelve videos' 3.8 MB.
    assert peak < 6 * 320_000


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_clip_features():
    reader = open_features(SHARED / "clip_vit_b32_1fps")
    assert len(reader.ids) == 1334
    rows = reader.read("3MSZA")
    assert rows.shape[1] == 512 and rows.dtype == np.float16
    # L2-normalised at the source, to half precision.
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1.0, atol=2e-3)
