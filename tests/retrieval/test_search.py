"""Search equals sorting all dot products: on any devices, with ties, removed videos and every kind of rows."""

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import search
from vmr_jax.retrieval.index import MomentIndex, suppressed
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.store import EncodedVideo, MomentStore

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


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_equals_sorting_everything(store, devices, k, monkeypatch):
    monkeypatch.setattr(search, "TILE", 512)  # several tiles: 2,400 rows
    scores, rows = Searcher(store, Parallel("pmap", devices))(QUERIES, k)
    expected, order = sorted_all(store, QUERIES, k)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_array_equal(rows, order)


@pytest.mark.parametrize("devices", [1, 8])
def test_of_equal_scores_the_lower_row_comes_first(tmp_path, devices, monkeypatch):
    monkeypatch.setattr(search, "TILE", 256)
    vectors = np.ones((3000, DIM), np.float32)
    vectors[1234] *= 2
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {}).add(
        [EncodedVideo("v", vectors, np.zeros((3000, 2), np.float32))]
    )
    _, rows = Searcher(made, Parallel("pmap", devices))(np.ones((1, DIM), np.float32), 5)
    assert rows.tolist() == [[1234, 0, 1, 2, 3]]


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
