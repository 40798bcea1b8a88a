"""The folder of an index: it is read as written, a change is whole or absent, foreign files are refused."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from killed import killed_at

import vmr_jax as vmr
from vmr_jax import errors
from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import store as store_module
from vmr_jax.retrieval.index import MomentIndex
from vmr_jax.retrieval.segments import PARTS, EncodedVideo, quantized
from vmr_jax.retrieval.store import MomentStore


def video(name, rows, dim=4, seed=0):
    rng = np.random.default_rng([seed, rows, len(name)])
    spans = np.stack([np.arange(rows), np.arange(rows) + 2], axis=1)
    return EncodedVideo(name, rng.normal(size=(rows, dim)).astype(np.float32), spans)


@pytest.fixture
def store(tmp_path):
    made = MomentStore.create(tmp_path / "index", 4, "float32", {"run": "a"})
    return made.add([video("a", 3), video("b", 2)])


def test_what_is_written_is_read(store):
    again = MomentStore.open(store.path)
    assert len(again) == 5 and again.videos == ["a", "b"] and again.manifest["source"] == {"run": "a"}
    np.testing.assert_array_equal(again.segments[0].vectors[:3], video("a", 3).vectors)
    segment, rows = again.rows_of("b")
    np.testing.assert_array_equal(segment.vectors[rows], video("b", 2).vectors)
    videos, spans = again.locate(np.array([2, 3]))
    assert videos == ["a", "b"] and spans.tolist() == [[2, 4], [0, 2]]


def rewritten(path, **changes):
    """Changes fields of a manifest, with the checksum that belongs to them; None drops one."""
    manifest = json.loads((path / "manifest.json").read_text())
    fields = {**manifest, **changes}
    fields = {name: value for name, value in fields.items() if value is not None and name != "crc32"}
    store_module._write_manifest(path, fields)


def test_the_index_says_how_it_is_to_be_read(store):
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["version"] == 3 and manifest["written_by"] == vmr.__version__
    assert manifest["read_as"] == {"byte_order": "little", "score": "inner product", "times": "seconds"}
    rewritten(store.path, read_as={**manifest["read_as"], "score": "cosine"})
    with pytest.raises(UserError, match="is to be read as .*cosine.*, which this program cannot"):
        MomentStore.open(store.path)


def test_an_index_of_version_2_is_read_and_becomes_one_of_version_3(store):
    """That version had the same files and the same fields, but for the two that say how it is to be read."""
    rewritten(store.path, version=2, read_as=None, written_by=None)
    assert "read_as" not in json.loads((store.path / "manifest.json").read_text())
    older = MomentStore.open(store.path)
    assert older.videos == ["a", "b"]
    newer = older.add([video("c", 4)])
    assert newer.videos == ["a", "b", "c"]
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["version"] == 3 and manifest["read_as"]["byte_order"] == "little"


def test_add_and_remove_without_a_rebuild(store):
    before = store.segments[0].vectors.tobytes()
    more = store.add([video("c", 4), video("a", 1, seed=1)])  # a is replaced
    assert more.videos == ["b", "c", "a"] and len(more) == 2 + 4 + 1
    assert more.segments[0].vectors.tobytes() == before
    assert more.segments[0].alive.tolist() == [False] * 3 + [True] * 2
    fewer = more.remove(["b"])
    assert fewer.videos == ["c", "a"] and len(fewer) == 5
    with pytest.raises(UserError, match='has no video "b"'):
        fewer.remove(["c", "b"])
    assert MomentStore.open(store.path).videos == ["c", "a"]


def test_an_unknown_video_is_compared_with_some_thousands_at_most(store, monkeypatch):
    with pytest.raises(UserError, match='no video "aa". Did you mean "a"[?] Known: a, b'):
        store.rows_of("aa")
    monkeypatch.setattr(errors, "_COMPARED", 1)
    with pytest.raises(UserError, match='no video "aa". Known: a, b'):
        store.rows_of("aa")


def test_a_change_that_dies_leaves_the_old_index_whole(store):
    def broken():
        yield video("c", 3)
        raise KeyboardInterrupt  # as a kill would, with half a segment on disk

    with pytest.raises(KeyboardInterrupt):
        store.add(broken())
    assert (store.path / "000002.vectors").exists()
    assert MomentStore.open(store.path).videos == ["a", "b"]
    more = MomentStore.open(store.path).add([video("d", 1)])  # clears the rest away
    assert more.videos == ["a", "b", "d"] and len(more) == 6


def test_a_file_that_is_not_whole_is_refused(store):
    path = store.path / "000001.spans"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        UserError, match=r"000001.spans has 36 bytes and 40 were written: the index is not whole"
    ):
        MomentStore.open(store.path)
    path.unlink()
    with pytest.raises(UserError, match="has no bytes"):
        MomentStore.open(store.path)


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "holds no moment index"),
        ("{", "cannot be read"),
        ('{"a": 1}', "is not of a moment index"),
        ("[" * 100_000, "cannot be read"),
        (
            json.dumps({"format": "vmr_jax moment index", "version": 99}),
            "version 99, written by vmr_jax 0.2",
        ),
        (json.dumps({"format": "vmr_jax moment index", "version": 1}), "this program reads versions 2 to 3"),
        (json.dumps({"format": "vmr_jax moment index", "version": 2}), "its checksum differs"),
    ],
)
def test_foreign_folders_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        MomentStore.open(tmp_path)


def test_a_file_is_no_place_for_an_index(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no folder. Give a new folder"):
        MomentStore.create(tmp_path / "file", 4, "float32", {})


def test_what_is_no_encoded_video_is_not_added(store):
    with pytest.raises(UserError, match="takes encoded videos, not str"):
        store.add(["talk"])


def test_what_is_no_id_is_not_searched(store):
    index = MomentIndex(store, lambda sentences: np.ones((len(sentences), 4), np.float32), Parallel("pmap", 1))
    with pytest.raises(UserError, match="^video is 3; it must be the id of a video, several ids, or None"):
        index.search(["a dog"], video=3)


def test_a_folder_with_something_in_it_is_not_overwritten(store):
    with pytest.raises(UserError, match="is not empty"):
        MomentStore.create(store.path, 4, "float32", {})


@pytest.mark.parametrize(
    "videos,message",
    [
        ([video("a", 1), video("a", 1)], 'The video "a" comes twice'),
        ([video("a", 1, dim=3)], r"expected \[n,4\]"),
        ([EncodedVideo("a", np.full((1, 4), np.nan, np.float32), np.zeros((1, 2)))], "not finite"),
        ([EncodedVideo("a\nb", np.zeros((1, 4), np.float32), np.zeros((1, 2)))], "one line of text"),
        ([EncodedVideo("a\u2028b", np.zeros((1, 4), np.float32), np.zeros((1, 2)))], "one line of text"),
        ([EncodedVideo("", np.zeros((1, 4), np.float32), np.zeros((1, 2)))], "one line of text"),
        ([EncodedVideo("a\ud800", np.zeros((1, 4), np.float32), np.zeros((1, 2)))], "half of a surrogate pair"),
        (
            [video("b", 1), EncodedVideo("a", np.zeros((1, 4), np.float32), np.array([[0, np.inf]]))],
            'The video "a" has a span that is not finite',
        ),
    ],
)
def test_impossible_videos(tmp_path, videos, message):
    with pytest.raises(UserError, match=message):
        MomentStore.create(tmp_path / "index", 4, "float32", {}).add(videos)


def test_int8_rows_are_within_half_a_step():
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    rows, scales = quantized(vectors, "int8")
    np.testing.assert_array_equal(np.abs(rows).max(axis=1), 127)
    assert (np.abs(rows * scales[:, None] - vectors) <= scales[:, None] * 0.5001).all()


def test_a_vector_that_a_number_format_cannot_hold(tmp_path):
    # The largest bfloat16 is 3.39e38, the largest float32 3.403e38.
    huge = EncodedVideo("a", np.full((1, 4), 3.402e38, np.float32), np.zeros((1, 2)))
    assert len(MomentStore.create(tmp_path / "float32", 4, "float32", {}).add([huge])) == 1
    with pytest.raises(UserError, match='"a" has a vector that is too large for bfloat16'):
        MomentStore.create(tmp_path / "bfloat16", 4, "bfloat16", {}).add([huge])


# --- damage -----------------------------------------------------------------------------------------


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["vectors", "scales", "spans", "offsets", "videos"])
def test_a_flipped_bit_is_found_and_named(tmp_path, part):
    path = MomentStore.create(tmp_path / "index", 4, "int8", {}).add([video("a", 3), video("b", 2)]).path
    file = path / f"000001.{part}"
    for bit in (
        0,
        30,
        8 * file.stat().st_size - 2,
    ):  # 30: the exponent of the first span, which was an infinity
        flipped(file, bit)
        with pytest.raises(
            UserError, match=f"000001.{part} is not what was written .* delete {path} and build"
        ):
            MomentStore.open(path)
        flipped(file, bit)
    assert len(MomentStore.open(path)) == 5


def test_a_flipped_bit_of_the_manifest(store):
    file = store.path / "manifest.json"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]))
        with pytest.raises(UserError, match=re.escape(str(store.path))):
            MomentStore.open(store.path)


@pytest.mark.parametrize(
    "field,value",
    [
        ("rows", 10**15),
        ("rows", -1),
        ("rows", 2.5),
        ("videos", 10**15),
        ("name", "../../secret"),
        ("bytes", None),
        ("bytes", {"vectors": 1}),
        ("crc32", {}),
        ("removed", [5]),
        ("removed", [-1]),
        ("removed", "ab"),
    ],
)
def test_a_manifest_that_claims_what_is_not_there(store, field, value):
    manifest = store_module._read_manifest(store.path)
    manifest["segments"][0][field] = value
    store_module._write_manifest(store.path, manifest)
    with pytest.raises(UserError, match="index is damaged|index is not whole"):
        MomentStore.open(store.path)


@pytest.mark.parametrize(
    "field,value", [("dim", 0), ("dim", "4"), ("dtype", "float64"), ("segments", {"a": 1})]
)
def test_a_manifest_without_its_numbers(store, field, value):
    manifest = {**store_module._read_manifest(store.path), field: value}
    store_module._write_manifest(store.path, manifest)
    with pytest.raises(UserError, match="no width, number format or segments"):
        MomentStore.open(store.path)


# --- changes ----------------------------------------------------------------------------------------


def files(path):
    return {file.name for file in path.iterdir()} - {"manifest.json", "lock"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_segments_are_merged(tmp_path, dtype):
    """However many additions come, few segments stay, and they hold what one addition would have written."""
    videos = [video(f"v{i}", 1 + i % 3, seed=i) for i in range(40)]
    path = MomentStore.create(tmp_path / "parts", 4, dtype, {}).path
    written = 0
    for one in videos:
        before = files(path)
        grown = MomentStore.open(path).add([one])
        assert len(grown.segments) <= 8 and files(path) == {
            f"{segment.name}.{part}" for segment in grown.segments for part in PARTS
        }
        written += sum((path / name).stat().st_size for name in files(path) - before if name.endswith("spans"))
    whole = MomentStore.create(tmp_path / "whole", 4, dtype, {}).add(videos)
    assert grown.videos == whole.videos
    for name in ("vectors", "spans") + (("scales",) if dtype == "int8" else ()):
        parts = np.concatenate([getattr(segment, name) for segment in grown.segments])
        assert parts.tobytes() == getattr(whole.segments[0], name).tobytes()
    # Each moment is copied few times: merging all at each addition would have written 20 times as many.
    assert written < 6 * len(whole) * 8


def test_an_index_that_is_mostly_removed_is_written_again(tmp_path):
    whole = MomentStore.create(tmp_path / "index", 4, "float32", {}).add([video(f"v{i}", 2) for i in range(5)])
    assert len(whole.remove(["v0", "v2"]).segments[0].vectors) == 10  # two of five: they stay in the file
    fewer = MomentStore.open(whole.path).remove(["v3"])
    assert fewer.videos == ["v1", "v4"] and len(fewer.segments[0].vectors) == 4
    assert files(whole.path) == {f"000002.{part}" for part in PARTS}
    none = fewer.remove(["v1", "v4"])
    assert len(none) == 0 and none.segments == [] and files(whole.path) == set()
    assert none.add([video("a", 1)]).videos == ["a"]


def test_who_opens_it_during_a_change_gets_the_new_one(store, monkeypatch):
    """The manifest is read, then a change takes away what it names."""
    read = store_module._read_manifest
    old = read(store.path)
    for i in range(9):
        MomentStore.open(store.path).add([video(f"new{i}", 9)])
    manifests = iter([old])
    monkeypatch.setattr(store_module, "_read_manifest", lambda path: next(manifests, None) or read(path))
    assert len(MomentStore.open(store.path).videos) == 11


@pytest.mark.parametrize("step", range(24))
def test_a_change_that_is_killed_at_any_step(tmp_path, monkeypatch, step):
    """A change that merges, killed at its step-th file operation, leaves the index before or after it."""
    path = MomentStore.create(tmp_path / "index", 4, "float32", {}).path
    for i in range(8):
        last = MomentStore.open(path).add([video(f"v{i}", 2)])
    with killed_at(monkeypatch, step, (os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "open")):
        last.add([video("new", 2)])
    found = MomentStore.open(path)
    assert found.videos in (last.videos, [*last.videos, "new"])
    again = found.add([video("new", 2, seed=1)])  # clears what was left
    assert again.videos == [*last.videos, "new"]
    assert files(path) - {"manifest.json.tmp"} == {f"{s.name}.{part}" for s in again.segments for part in PARTS}
