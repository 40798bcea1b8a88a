"""The cache of clips: what it holds, when it is made anew, damage, kills, several processes."""

import os
import resource
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from feature_files import (
    ROOT,
    SHARED,
    VIDEOS,
    hdf5_file,
    npy_folder,
    npz_folder,
    options_of,
    rows_of,
    two_sources,
)

from vmr_jax.errors import UserError
from vmr_jax.input.cache import FeatureStore, build_feature_store
from vmr_jax.input.features import (
    normalize_rows,
    open_features,
    read_rows,
    shorten,
)
from vmr_jax.input.records import open_manual_features

# --- store ----------------------------------------------------------------------------------------


CLIPS = 4  # of the stores below: CCCCC has more rows


def _build(reader, ids, cache, on_progress=None, num_clips=CLIPS, normalize=True, dim=4):
    return build_feature_store(reader, ids, dim, cache, num_clips, normalize, on_progress)


def _kept(rows, normalize=True):
    """The rows that the store keeps of native ones."""
    return shorten(normalize_rows(rows) if normalize else rows.astype(np.float32), CLIPS)


@pytest.mark.parametrize("normalize", [True, False])
def test_store_has_the_clips_of_every_listed_video(tmp_path, normalize):
    videos = {**VIDEOS, "DDDDD": rows_of(7, dtype=np.float16), "EEEEE": rows_of(2)}
    reader = open_features(npy_folder(tmp_path, videos))
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
    two_sources(tmp_path, (6, 5))
    reader = open_manual_features(options_of(tmp_path, "slowfast,clip"))
    store = _build(reader, ["v"], tmp_path / "cache", dim=5)
    np.testing.assert_array_equal(store["v"], shorten(read_rows(reader, "v", 5, True), CLIPS))
    swapped = open_manual_features(options_of(tmp_path, "clip,slowfast"))
    np.testing.assert_array_equal(
        _build(swapped, ["v"], tmp_path / "cache", dim=5)["v"], np.roll(store["v"], 2, axis=1)
    )


def _unread(*_):
    raise AssertionError("the source was read again")


def test_second_opening_reads_nothing(tmp_path):
    reader = open_features(hdf5_file(tmp_path))
    first = _build(reader, VIDEOS, tmp_path / "cache")
    reader.read = _unread
    again = _build(reader, reversed(list(VIDEOS)), tmp_path / "cache")
    assert again.path == first.path
    np.testing.assert_array_equal(again["CCCCC"], _kept(VIDEOS["CCCCC"]))


def test_a_cache_that_cannot_be_written_can_be_read(tmp_path, monkeypatch):
    reader = open_features(hdf5_file(tmp_path))
    _build(reader, VIDEOS, tmp_path / "cache")
    monkeypatch.setattr("vmr_jax.input.cache._locked", _unread)
    assert len(_build(reader, VIDEOS, tmp_path / "cache")) == 3


def test_store_is_keyed_by_the_ids_asked_for(tmp_path):
    reader = open_features(hdf5_file(tmp_path, suffix=".avi"))
    assert list(_build(reader, ["AAAAA"], tmp_path / "cache")) == ["AAAAA"]


@pytest.mark.parametrize("change", ["ids", "key", "num_clips", "normalize"])
def test_other_settings_have_a_cache_of_their_own(tmp_path, change):
    path = npz_folder(tmp_path)
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
    path, cache = npy_folder(tmp_path, {"v": rows_of(n)}), tmp_path / "cache"
    first = _build(open_features(path), ["v"], cache)
    before = np.array(first["v"])
    status = (path / "v.npy").stat()
    np.save(path / "v.npy", 2 - rows_of(n))
    if kept == "size and time":
        os.utime(path / "v.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (path / "v.npy").stat().st_mtime_ns == status.st_mtime_ns
    else:
        os.utime(path / "v.npy", ns=(0, 12345))  # a coarse clock must not hide it
    assert (path / "v.npy").stat().st_size == status.st_size
    again = _build(open_features(path), ["v"], cache)
    assert _leftovers(cache) == [again.path.name] == [first.path.name]  # the old one takes no room
    np.testing.assert_array_equal(again["v"], _kept(2 - rows_of(n)))
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
    reader = open_features(hdf5_file(tmp_path))
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
        (rows_of(2, dim=5), r"BBBBB\.npy has features of dimension 5; config\.dataset\.feature_dim is 4"),
        (np.zeros((0, 4), np.float32), r"BBBBB\.npy has no clips"),
        (np.where(np.arange(3)[:, None] == 2, np.nan, rows_of(3)), r"BBBBB\.npy holds NaN.*row 2 of 3"),
        (np.full((2, 4), np.inf, np.float16), r"BBBBB\.npy holds NaN or infinity, first in row 0 of 2"),
    ],
)
def test_store_checks_every_video_and_leaves_nothing_behind(tmp_path, rows, message):
    reader = open_features(npy_folder(tmp_path, {**VIDEOS, "BBBBB": rows}))
    with pytest.raises(UserError, match=message):
        _build(reader, VIDEOS, tmp_path / "cache")
    assert _leftovers(tmp_path / "cache") == []


def test_store_of_absent_videos(tmp_path):
    with pytest.raises(UserError, match=r'no features of 1 videos, such as aaaaa\. Did you mean "AAAAA"\?'):
        _build(open_features(hdf5_file(tmp_path)), ["AAAAA", "aaaaa"], tmp_path / "cache")


def test_source_that_vanished(tmp_path):
    reader = open_features(npy_folder(tmp_path))
    (tmp_path / "npy" / "BBBBB.npy").unlink()
    with pytest.raises(UserError, match=r"BBBBB\.npy cannot be read \(No such file"):
        _build(reader, VIDEOS, tmp_path / "cache")


def test_full_disk(tmp_path):
    videos = {"AAAAA": rows_of(5000), "BBBBB": rows_of(5000)}  # 80 kB each
    reader = open_features(npy_folder(tmp_path, videos))
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
        _build(open_features(hdf5_file(tmp_path)), VIDEOS, tmp_path / "file" / "cache")


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
    path, cache = hdf5_file(tmp_path), tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDER, path, cache, "die"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 9
    assert [name.endswith(".unfinished") for name in _leftovers(cache)] == [True]
    store = _build(open_features(path), VIDEOS, cache)
    assert _leftovers(cache) == [store.path.name]
    for video_id, rows in VIDEOS.items():
        np.testing.assert_array_equal(FeatureStore(store.path)[video_id], _kept(rows))


def test_of_several_processes_one_builds(tmp_path):
    path, cache = hdf5_file(tmp_path), tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDER, path, cache, "build"]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(outputs) == ["", "", "1\n2\n3\n"]
    reader = open_features(path)
    reader.read = _unread
    assert len(_build(reader, VIDEOS, cache)) == 3


def test_building_holds_one_video_at_a_time(tmp_path):
    videos = {f"v{i}": rows_of(20_000) for i in range(12)}  # 320 kB each
    reader = open_features(npy_folder(tmp_path, videos))
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
