"""Features in the layouts that are found in the field, and files that only claim to be features."""

import io
import os
import zipfile

import h5py
import numpy as np
import pytest
from feature_files import VIDEOS, rows_of

from vmr_jax.errors import UserError
from vmr_jax.input.features import check_rows, open_features


def folder_of(tmp_path, name, content):
    path = tmp_path / "folder"
    path.mkdir()
    (path / name).write_bytes(content)
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "shape", [(70, 1, 16, 1, 1), (1, 70, 16), (70, 1, 16), (70, 16, 1, 1), (70, 16, 1), (1, 1, 70, 16)]
)
def test_axes_of_length_one_are_squeezed(tmp_path, shape):
    expected = rows_of(70, 16)
    path = folder_of(tmp_path, "a.npy", npy(expected.reshape(shape)))
    np.testing.assert_array_equal(open_features(path).read("a"), expected)


@pytest.mark.parametrize("shape", [(1, 1, 16), (1, 16, 1, 1)])
def test_one_clip(tmp_path, shape):
    path = folder_of(tmp_path, "a.npy", npy(rows_of(1, 16).reshape(shape)))
    assert open_features(path).read("a").shape == (1, 16)


@pytest.mark.parametrize("around", ["i3d", "features", "data/train"])
@pytest.mark.parametrize("inner", ["", "/c3d_features"])
def test_groups_that_stand_around_the_videos(tmp_path, around, inner):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for video, rows in VIDEOS.items():
            file[f"{around}/{video}{inner}"] = rows
    reader = open_features(tmp_path / "f.h5")
    assert reader.ids == tuple(sorted(VIDEOS))
    for video, rows in VIDEOS.items():
        np.testing.assert_array_equal(reader.read(video), rows)


def test_a_single_video_with_named_arrays_stays_a_video(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["AAAAA/rgb"], file["AAAAA/flow"] = VIDEOS["AAAAA"], VIDEOS["AAAAA"] + 1
    reader = open_features(tmp_path / "f.h5", "flow")
    np.testing.assert_array_equal(reader.read("AAAAA"), VIDEOS["AAAAA"] + 1)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><head><title>Google Drive</title>", "is a web page that was saved in place"),
    ],
)
def test_what_was_saved_in_place_of_features_is_named(tmp_path, name, content, message):
    path = folder_of(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        open_features(path).read("a")
    with pytest.raises(UserError, match=message):
        open_features(path / name)


def test_hdf5_that_leads_to_other_files_is_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["rows"] = rows_of(3)
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "rows", (3, 4))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "/rows")
        file["in_group/features"] = h5py.ExternalLink("secret.h5", "/rows")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (3, 4), "f4", external=[(str(tmp_path / "raw"), 0, 48)])
        file["own"] = rows_of(3)
    reader = open_features(tmp_path / "f.h5")
    for video in ("link", "in_group"):
        with pytest.raises(UserError, match=rf"'{video}'\] is a link to another file, which is not followed"):
            reader.read(video)
    for video in ("virtual", "external"):
        with pytest.raises(UserError, match=rf"'{video}'\] has its numbers in other files, which are not read"):
            reader.read(video)
    np.testing.assert_array_equal(reader.read("own"), rows_of(3))


def test_sizes_are_bounded_by_the_file(tmp_path):
    """A header of 4 TB before 48 bytes: nothing is allocated."""
    small = npy(rows_of(3))
    claims = small.replace(b"(3, 4), }           ", b"(999999999999, 4), }")
    assert claims != small and len(claims) == len(small)
    path = folder_of(tmp_path, "a.npy", claims)
    with pytest.raises(UserError, match=r"claims 15,999,999,999,984 bytes of numbers in \d+ bytes of file"):
        open_features(path).read("a")
    (path / "a.npy").unlink()
    with zipfile.ZipFile(path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("features.npy", claims)
    with pytest.raises(UserError, match=r"claims 15,999,999,999,984 bytes of numbers"):
        open_features(path).read("a")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("a", (10**9, 1000), "f4", chunks=(1, 1000))  # no chunk is written
    with pytest.raises(UserError, match=r"claims 4,000,000,000,000 bytes of numbers in 0 bytes of file"):
        open_features(tmp_path / "f.h5").read("a")


def test_a_bomb_is_not_unpacked(tmp_path):
    """64 MiB and a row of zeros, 4097 * 4096 * 4 bytes, in 64 KiB: no features are so uniform."""
    path = tmp_path / "folder"
    path.mkdir()
    np.savez_compressed(path / "a.npz", features=np.zeros((2**12 + 1, 2**12), np.float32))
    with pytest.raises(UserError, match=r"claims 67,125,248 bytes of numbers in \d\d,\d{3} bytes of file"):
        open_features(path).read("a")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder" / "a.npy", tmp_path / "f.h5"):
        os.mkfifo(place)
    with pytest.raises(UserError, match=r"a\.npy is a folder, a pipe or a device"):
        open_features(tmp_path / "folder").read("a")
    with pytest.raises(UserError, match=r"f\.h5 is a folder, a pipe or a device"):
        open_features(tmp_path / "f.h5")


def test_packed_zeros_are_read(tmp_path):
    """Zeros pack best of all, about a thousand times, and are no bomb."""
    path = tmp_path / "folder"
    path.mkdir()
    np.savez_compressed(path / "a.npz", features=np.zeros((5000, 512), np.float32))
    assert open_features(path).read("a").shape == (5000, 512)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("a", data=np.zeros((5000, 512), np.float32), compression="gzip", compression_opts=9)
    assert open_features(tmp_path / "f.h5").read("a").shape == (5000, 512)


@pytest.mark.parametrize("value", [1e20, -1e20, 1.1e6])
def test_numbers_that_no_extractor_gives_are_refused(value):
    rows = rows_of(3)
    rows[1, 2] = value
    with pytest.raises(UserError, match=r"x holds 1.*e\+\d+, which no extractor gives \(at most 1e\+06"):
        check_rows([rows], 4, "x")


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "folder"
    path.mkdir()
    torch.save(torch.from_numpy(rows_of(3)), path / "a.pt")
    torch.save({"features": torch.from_numpy(rows_of(5))}, path / "b.pt")
    reader = open_features(path)
    np.testing.assert_array_equal(reader.read("a"), rows_of(3))
    np.testing.assert_array_equal(reader.read("b"), rows_of(5))
