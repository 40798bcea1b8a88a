"""Search equals sorting all dot products: on any devices, with ties, removed videos and every kind of rows."""

import functools

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import search
from vmr_jax.retrieval.index import MomentIndex, suppressed
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import EncodedVideo, quantized
from vmr_jax.retrieval.store import MomentStore

DIM = 8


def corpus(videos=40, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    for v in range(videos):
        start = rng.uniform(0, 50, rows)
        spans = np.stack([start, start + rng.uniform(1, 20, rows)], axis=1).astype(np.float32)
        yield EncodedVideo(f"v{v}", rng.normal(size=(rows, DIM)).astype(np.float32), spans)


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / request.param
    return MomentStore.create(path, DIM, request.param, {}).add(corpus())


QUERIES = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)


def sorted_all(store, queries, k):
    """Scores and rows of the best, by a stable sort of all dot products in float64."""
    segments = store.segments
    rows = np.concatenate([s.vectors.astype(np.float64) for s in segments])
    if store.dtype == "int8":
        rows = rows * np.concatenate([s.scales for s in segments])[:, None]
    if store.dtype == "bfloat16":
        queries = queries.astype(segments[0].vectors.dtype)
    scores = queries.astype(np.float64) @ rows.T
    scores = np.where(np.concatenate([s.alive for s in segments])[None], scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(search, "TILE", 512)
    monkeypatch.setattr(search, "GROUP", 256)
    monkeypatch.setattr(search, "PART", 128)


def test_tiles(small_tiles):
    # On one device four tiles are 2,048 of 2,400 rows; 352 are left: a group of 256, and of the 96 a part.
    assert search.tile_sizes(2400, 1) == [512, 512, 512, 512, 256, 128]
    # On eight a tile is 4,096 rows, a group 2,048, a part 1,024.
    assert search.tile_sizes(2400, 8) == [256, 128]
    assert search.tile_sizes(8192, 8) == [512, 512]
    assert search.tile_sizes(0, 8) == []


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_equals_sorting_everything(store, devices, k, small_tiles):
    scores, rows = Searcher(store, Parallel("pmap", devices))(QUERIES, k)
    expected, order = sorted_all(store, QUERIES, k)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_array_equal(rows, order)


@pytest.mark.parametrize("devices", [1, 8])
def test_of_equal_scores_the_lower_row_comes_first(tmp_path, devices, small_tiles):
    vectors = np.ones((3000, DIM), np.float32)
    vectors[1234] *= 2
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {}).add(
        [EncodedVideo("v", vectors, np.zeros((3000, 2), np.float32))]
    )
    _, rows = Searcher(made, Parallel("pmap", devices))(np.ones((1, DIM), np.float32), 5)
    assert rows.tolist() == [[1234, 0, 1, 2, 3]]


@pytest.mark.parametrize("pieces", [{}, {"group": 1024, "part": 128}], ids=["accelerator", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_tile_at_once_and_in_parts(dtype, pieces):
    rng = np.random.default_rng(0)
    rows, scales = quantized(rng.normal(size=(2048, DIM)).astype(np.float32), dtype)
    tile = {"rows": rows, "alive": rng.random(2048) < 0.9}
    queries, exact = QUERIES.astype(np.float64), rows.astype(np.float64)
    if dtype == "int8":
        tile["scales"], exact = scales, exact * scales[:, None]
    if dtype == "bfloat16":
        queries = QUERIES.astype(rows.dtype).astype(np.float64)
        if pieces:  # as the searcher has it on a CPU
            tile["rows"] = rows.view(np.uint16)
    expected = np.where(tile["alive"], queries @ exact.T, -np.inf)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :9]
    scores, found = jax.jit(functools.partial(search.shard_top_k, k=9, **pieces))(QUERIES, [tile])
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), atol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_of_several_additions(tmp_path, devices, small_tiles):
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {})
    videos = list(corpus(videos=14))  # 840 rows; a tile has rows of three additions
    for part in (videos[:6], videos[6:7], videos[7:]):
        made = made.add(part)
    scores, rows = Searcher(made, Parallel("pmap", devices))(QUERIES, 30)
    expected, order = sorted_all(made, QUERIES, 30)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_many_queries_have_the_answers_of_each(store, monkeypatch):
    searcher = Searcher(store, Parallel("pmap", 1))
    alone = [searcher(query[None], 6) for query in QUERIES]
    monkeypatch.setattr(search, "QUERIES", 3)  # two calls, of three and of two
    scores, rows = searcher(QUERIES, 6)
    np.testing.assert_array_equal(rows, np.concatenate([found for _, found in alone]))
    np.testing.assert_allclose(scores, np.concatenate([found for found, _ in alone]), atol=1e-5)


def test_whole_tiles_are_not_copied():
    arrays = [np.arange(20).reshape(10, 2), np.arange(100, 112).reshape(6, 2)]
    assert np.shares_memory(search._rows(arrays, 2, 9), arrays[0])
    assert np.shares_memory(search._rows(arrays, 10, 14), arrays[1])
    np.testing.assert_array_equal(search._rows(arrays, 9, 12), [[18, 19], [100, 101], [102, 103]])
    np.testing.assert_array_equal(search._rows(arrays, 15, 18), [[110, 111], [0, 0], [0, 0]])


def test_an_index_without_rows_finds_nothing(tmp_path):
    made = MomentStore.create(tmp_path / "i", DIM, "int8", {})
    assert Searcher(made, Parallel("pmap", 8))(QUERIES, 3)[1].shape == (5, 0)
    made = made.add(corpus(videos=1)).remove(["v0"])
    assert Searcher(made, Parallel("pmap", 8))(QUERIES, 3)[1].shape == (5, 0)


def test_removed_videos_are_never_found(store, tmp_path):
    best = store.locate(sorted_all(store, QUERIES[:1], 1)[1][0])[0]
    copy = MomentStore.create(tmp_path / "copy", DIM, store.dtype, {}).add(corpus()).remove(best)
    index = MomentIndex(copy, lambda sentences: QUERIES[: len(sentences)], Parallel("pmap", 1))
    (found,) = index.search(["x"], k=50)
    assert len(found) == 50 and best[0] not in {moment.video for moment in found}
    again = index.add(video for video in corpus() if video.id == best[0])
    assert again.search(["x"], k=1)[0][0].video == best[0]


def test_answer_is_the_same_on_all_devices_and_in_one_video(store):
    encode = lambda sentences: QUERIES[: len(sentences)]  # noqa: E731
    answers = [MomentIndex(store, encode, Parallel("pmap", n)).search(["a", "b"], k=20) for n in (1, 8)]
    for one, eight in zip(*answers):
        assert [found[:3] for found in one] == [found[:3] for found in eight]
    index = MomentIndex(store, encode, Parallel("pmap", 1))
    (inside,) = index.search(["a"], k=60, video="v7")
    assert {found.video for found in inside} == {"v7"}
    # What the whole corpus has of v7 is what v7 alone has, down to the score where the corpus stops.
    (everywhere,) = index.search(["a"], k=2400)
    assert [f[:3] for f in everywhere if f.video == "v7"] == [f[:3] for f in inside]
    with pytest.raises(UserError, match='no video "v40"'):
        index.search(["a"], video="v40")


@pytest.mark.parametrize("devices", [1, 8])
def test_several_videos_have_the_moments_that_they_have_among_all(store, devices):
    """Also the worst ones, of which none is among the first thousand; one that is not there has none."""
    index = MomentIndex(store, lambda s: QUERIES[: len(s)], Parallel("pmap", devices))
    everywhere = index.search(["a", "b"], k=2400)
    last = {found.video for of_query in everywhere for found in of_query[-8:]}
    best = {found.video for of_query in everywhere for found in of_query[:2]}
    assert len(last) > 1
    for chosen in (last, best, last | {"elsewhere"}, set()):
        found = index.search(["a", "b"], k=25, video=chosen)
        expected = [[f for f in of_query if f.video in chosen][:25] for of_query in everywhere]
        for ours, theirs in zip(found, expected, strict=True):
            assert [f[:3] for f in ours] == [f[:3] for f in theirs]
            np.testing.assert_allclose([f.score for f in ours], [f.score for f in theirs], atol=1e-5)
    assert [found[:3] for found in index.search(["a"], k=3)[0]] == [f[:3] for f in everywhere[0][:3]]


def test_nms_is_within_a_video():
    spans = np.array([[0, 10], [1, 10], [0, 10], [20, 30]], np.float32)
    scores = np.array([4, 3, 2, 1], np.float32)
    found = suppressed(["a", "a", "b", "a"], spans, scores, 0.5, k=5)
    assert [(f.video, f.start) for f in found] == [("a", 0), ("b", 0), ("a", 20)]
    assert len(suppressed(["a", "a", "b", "a"], spans, scores, 0.5, k=2)) == 2


def test_k_beyond_the_corpus(tmp_path):
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {}).add(corpus(videos=1, rows=3))
    index = MomentIndex(made, lambda s: QUERIES[: len(s)], Parallel("pmap", 8), nms_threshold=1.0)
    assert len(index.search(["a"], k=10)[0]) == 3
    with pytest.raises(UserError, match="k is 0"):
        index.search(["a"], k=0)
