"""The folder of an index: it is read as written, a change is whole or absent, foreign files are refused."""

import json

import numpy as np
import pytest

from vmr_jax import errors
from vmr_jax.errors import UserError
from vmr_jax.retrieval.store import EncodedVideo, MomentStore, quantized


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
        (json.dumps({"format": "vmr_jax moment index", "version": 99}), "is an index of version 99"),
    ],
)
def test_foreign_folders_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        MomentStore.open(tmp_path)


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
