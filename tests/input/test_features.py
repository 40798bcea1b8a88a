"""Features: every layout, several sources, rows to clips by hand, every error, caches not to be trusted."""

import os
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from feature_files import (
    VIDEOS,
    hdf5_file,
    npy_folder,
    npz_folder,
    options_of,
    rows_of,
    two_sources,
)

from vmr_jax.errors import UserError
from vmr_jax.input.features import (
    Concatenated,
    average_rows,
    first_rows,
    fit_rows,
    missing,
    normalize_rows,
    open_features,
    plain_id,
    read_rows,
    shorten,
)
from vmr_jax.input.records import open_manual_features


def _h5_folder(tmp_path, key="feature"):
    path = tmp_path / "h5"
    path.mkdir()
    for video_id, rows in VIDEOS.items():
        hdf5_file(path, {key: rows}, name=f"{video_id}.h5")
    return path


LAYOUTS = {
    "hdf5": (hdf5_file, ""),
    "hdf5 with groups": (lambda t: hdf5_file(t, key="c3d_features"), "c3d_features"),
    "hdf5 with groups, key found": (lambda t: hdf5_file(t, key="c3d_features"), ""),
    "hdf5 with extensions": (lambda t: hdf5_file(t, suffix=".avi"), ""),
    "npy": (npy_folder, ""),
    "npz features": (npz_folder, ""),
    "npz image_embeddings": (lambda t: npz_folder(t, key="image_embeddings"), ""),
    "npz with a key": (lambda t: npz_folder(t, key="pooled"), "pooled"),
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
    path = hdf5_file(tmp_path, {"a": rows_of(1), "a.avi": rows_of(1)})
    with pytest.raises(UserError, match=r"a and a\.avi, which are one video id"):
        open_features(path)


def test_names_that_differ_in_the_extension_alone_are_found_in_full(tmp_path):
    """DiDeMo has such pairs."""
    reader = open_features(
        hdf5_file(tmp_path, {"a.avi": rows_of(1), "a.mp4": rows_of(1) + 1, "b.avi": rows_of(1)})
    )
    np.testing.assert_array_equal(reader.read("a.mp4"), rows_of(1) + 1)
    np.testing.assert_array_equal(reader.read("a.avi"), rows_of(1))
    assert missing(reader, ["a", "a.webm", "b", "b.mp4"]) == ["a", "a.webm"]  # which of the two is not told


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 1, 4), (1, 3, 4), (1, 3, 1, 1, 4)])
def test_axes_of_length_one_are_squeezed(tmp_path, shape):
    path = npy_folder(tmp_path, {"v": rows_of(3).reshape(shape)})
    np.testing.assert_array_equal(open_features(path).read("v"), rows_of(3))


def test_one_clip_keeps_its_axis(tmp_path):
    path = npy_folder(tmp_path, {"v": rows_of(1).reshape(1, 1, 1, 4)})
    assert open_features(path).read("v").shape == (1, 4)


@pytest.mark.parametrize(
    "dtype, expected", [("float16", "float16"), ("float32", "float32"), ("float64", "float32")]
)
def test_dtypes(tmp_path, dtype, expected):
    path = npy_folder(tmp_path, {"v": rows_of(2, dtype=dtype)})
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
    reader = open_features(npy_folder(tmp_path, {"v": rows}))
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
    np.save(tmp_path / "a.npy", rows_of(1))
    np.savez(tmp_path / "a.npz", features=rows_of(1))
    with pytest.raises(UserError, match=r"files of several kinds \(\.npy, \.npz\)"):
        open_features(tmp_path)


def test_other_files_in_a_folder_do_not_matter(tmp_path):
    path = npy_folder(tmp_path)
    (path / "feature_shapes.json").write_text("{}")
    (path / "._AAAAA.npy").write_bytes(b"resource fork")
    assert open_features(path).ids == tuple(sorted(VIDEOS))


def test_absent_video_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match='no features of the video "AAAAB".*Did you mean "AAAAA"'):
        open_features(hdf5_file(tmp_path)).read("AAAAB")


def test_a_name_in_another_form_of_unicode_is_said(tmp_path):
    composed, apart = "\xfcber", "u\u0308ber"  # as Linux and as macOS write it
    reader = open_features(hdf5_file(tmp_path, {apart: rows_of(2), "zzzzz": rows_of(2)}))
    with pytest.raises(
        UserError, match=f'There is "{apart}" in another form of Unicode, NFD: write both in one'
    ):
        reader.read(composed)


def test_float64_that_float32_cannot_hold_is_infinity_without_a_warning(tmp_path):
    reader = open_features(npy_folder(tmp_path, {"v": np.full((2, 4), 1e300)}))
    assert np.isinf(reader.read("v")).all()  # warnings are errors here


def test_an_id_in_another_case_names_the_right_one(tmp_path):
    reader = open_features(hdf5_file(tmp_path, {"v_AbCdE": rows_of(2), "v_zzzzz": rows_of(2)}))
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
            file.create_dataset(video_id, data=rows_of(500), compression="gzip")
        at = file["BBBBB"].id.get_chunk_info(0).byte_offset
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # an interrupted download
    with pytest.raises(UserError, match=r"features\.hdf5 cannot be opened as HDF5"):
        open_features(path)
    path.write_bytes(whole[: at + 8] + bytes(64) + whole[at + 72 :])
    reader = open_features(path)
    np.testing.assert_array_equal(reader.read("AAAAA"), rows_of(500))
    with pytest.raises(UserError, match=r"features\.hdf5\['BBBBB'\] cannot be read"):
        reader.read("BBBBB")


def test_rows_without_dimensions(tmp_path):
    reader = open_features(npy_folder(tmp_path, {"v": np.zeros((3, 0), np.float32)}))
    with pytest.raises(UserError, match=r"v\.npy has features of dimension 0"):
        read_rows(reader, "v", 4, normalize=True)


def test_damaged_files_are_named(tmp_path):
    path = hdf5_file(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"features\.hdf5 cannot be opened as HDF5"):
        open_features(path)
    for folder, name in ((npy_folder(tmp_path), "AAAAA.npy"), (npz_folder(tmp_path), "AAAAA.npz")):
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
    reader = open_features(npz_folder(tmp_path, key="pooled"))
    with pytest.raises(UserError, match=r"AAAAA\.npz has no array 'features' or .*; it has: pooled\."):
        reader.read("AAAAA")
    reader = open_features(hdf5_file(tmp_path, key="c3d_features"), "i3d")
    with pytest.raises(UserError, match=r"\['AAAAA'\] has no array 'i3d'; it has: c3d_features"):
        reader.read("AAAAA")
    reader = open_features(hdf5_file(tmp_path, name="flat.hdf5"), "i3d")
    with pytest.raises(UserError, match=r"is an array, not a group with the array \"i3d\""):
        reader.read("AAAAA")
    reader = open_features(npy_folder(tmp_path), "i3d")
    with pytest.raises(UserError, match="single array without keys"):
        reader.read("AAAAA")


@pytest.mark.parametrize("features", [("slowfast", "clip"), "slowfast,clip", "slowfast, clip"])
def test_several_sources_lie_side_by_side(tmp_path, features):
    two_sources(tmp_path)
    reader = open_manual_features(options_of(tmp_path, features))
    assert reader.ids == ("v",)
    assert missing(reader, ["v.mp4", "only_clip", "only_slowfast"]) == ["only_clip", "only_slowfast"]
    expected = np.concatenate([rows_of(5, 3), rows_of(5, 2)], 1)
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
    two_sources(tmp_path)
    for features in ("clip", ("clip",)):
        reader = open_manual_features(options_of(tmp_path, features))
        assert not isinstance(reader, Concatenated)
        np.testing.assert_array_equal(read_rows(reader, "v", 2, normalize=True), normalize_rows(rows_of(5, 2)))


@pytest.mark.parametrize("lengths", [(5, 3), (4, 5)])
def test_sources_are_cut_to_the_shortest(tmp_path, lengths):
    two_sources(tmp_path, lengths)
    reader = open_manual_features(options_of(tmp_path, "slowfast,clip"))
    n = min(lengths)
    expected = np.concatenate([rows_of(lengths[0], 3)[:n], rows_of(lengths[1], 2)[:n]], 1)
    np.testing.assert_array_equal(reader.read("v"), expected)


def test_sources_of_another_rate_are_refused(tmp_path):
    two_sources(tmp_path, (8, 5))
    reader = open_manual_features(options_of(tmp_path, "slowfast,clip"))
    with pytest.raises(UserError, match=r'rows for the video "v" \(.*slowfast: 8, .*clip: 5\)'):
        reader.read("v")


def test_errors_of_one_of_several_sources(tmp_path):
    two_sources(tmp_path)
    reader = open_manual_features(options_of(tmp_path, "slowfast,clip"))
    with pytest.raises(UserError, match=r"dimension 3 \+ 2; config\.dataset\.feature_dim is 4\. Set it to 5"):
        read_rows(reader, "v", 4, normalize=True)
    rows = rows_of(5, 2)
    rows[3, 1] = np.nan
    np.savez(tmp_path / "clip" / "v.npz", features=rows)
    with pytest.raises(UserError, match=r"slowfast/v\.npz and .*clip/v\.npz holds NaN.*row 3 of 5"):
        read_rows(reader, "v", 5, normalize=True)
    with pytest.raises(UserError, match="There are no features at .*flow"):
        open_manual_features(options_of(tmp_path, "slowfast,flow"))


def test_a_stream_that_is_not_there_is_named(tmp_path):
    options = SimpleNamespace(manual_dir=str(tmp_path), streams={"objects": ("detections", 15, 2048)})
    with pytest.raises(UserError, match="Set the path in config.dataset.streams.objects to"):
        open_manual_features(options, "objects")


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


@pytest.mark.parametrize("resample", ["average", "pad", "cut", "pick", "spread", "interpolate"])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 40])
def test_fitting_what_was_kept_is_fitting_all_rows(n, resample):
    rows, kept = rows_of(n, 33), shorten(rows_of(n, 33), 8, resample)
    assert len(kept) == (n if resample == "spread" else min(n, 8))
    for ours, expected in zip(fit_rows(kept, 8, resample), fit_rows(rows, 8, resample)):
        assert ours.dtype == expected.dtype and ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "n,expected",
    [
        (5, [0, 0, 1, 1, 2, 2, 3, 4]),
        (23, [1, 4, 7, 10, 13, 16, 19.5, 22]),
        (97, [6, 19.5, 33.5, 47, 60.5, 74.5, 88.5, 96]),
    ],
)
def test_spread_rows_are_those_of_the_official_cmin(n, expected):
    """Rows 0..n-1 in 8 clips, from a run of ikuinen/CMIN@4f965604d09f (`ClipDataset2.__getitem__`)."""
    rows = np.arange(n, dtype=np.float32)[:, None]
    found, mask = fit_rows(rows, 8, "spread")
    np.testing.assert_array_equal(found[:, 0], expected)
    assert mask.all()


@pytest.mark.parametrize("n,expected", [(2, [0, 0.25, 0.75, 1]), (10, [0.75, 3.25, 5.75, 8.25])])
def test_rows_are_interpolated_at_the_middles_of_the_clips(n, expected):
    """(i + 1/2) n / 4 - 1/2, within the video: of 2 rows -1/4, 1/4, 3/4 and 5/4."""
    rows, mask = fit_rows(np.arange(n, dtype=np.float32)[:, None], 4, "interpolate")
    np.testing.assert_array_equal(rows[:, 0], expected)
    assert mask.all()


@pytest.mark.parametrize("n,expected", [(6, [0, 2, 3, 4]), (9, [0, 2, 4, 7]), (10, [0, 2, 5, 8])])
def test_picked_rows_are_those_of_the_official_lgi(n, expected):
    """np.round(np.arange(0, n - 0.5, n / 4)), halves to the even row: of 9 rows 0, 2.25, 4.5 and 6.75."""
    rows, mask = fit_rows(np.arange(n, dtype=np.float32)[:, None], 4, "pick")
    np.testing.assert_array_equal(rows[:, 0], expected)
    assert mask.all()


def test_cut_keeps_the_first_rows():
    rows, mask = fit_rows(np.arange(9, dtype=np.float32)[:, None], 4, "cut")
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2, 3])
    rows, shorter = fit_rows(np.ones((3, 1), np.float32), 4, "cut")
    np.testing.assert_array_equal(rows[:, 0], [1, 1, 1, 0])
    assert mask.all() and shorter.tolist() == [True, True, True, False]


@pytest.mark.parametrize("resample", ["average", "pad", "cut", "pick", "spread", "interpolate"])
@pytest.mark.parametrize("n", [1, 3, 8, 9, 40])
def test_clips_begin_at_their_first_rows(n, resample):
    """Rows that are numbered: no clip is less than its first row, and where it is one row, equal to it."""
    rows = np.arange(n, dtype=np.float32)[:, None]
    first, (clips, mask) = first_rows(n, 8, resample), fit_rows(rows, 8, resample)
    assert first.dtype == np.int32 and (first[~mask] == 0).all() and (np.diff(first[mask]) >= 0).all()
    assert (first[mask] <= clips[mask, 0]).all() and first.max() < n
    if n <= 9:
        np.testing.assert_array_equal(first[mask][:6], np.floor(clips[mask, 0])[:6])


def test_features_shorter_than_their_video_are_stretched_over_it():
    # The rule of the module: row i of n covers i/n to (i+1)/n, so of 4 clips 3 rows fill 1 + 1 + 2:
    # edges round(k * 0.75) = 0, 1, 2 (1.5 to even), 2.
    rows = np.arange(3, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(fit_rows(rows, 4, "average")[0][:, 0], [0, 1, 2, 2])
