"""Search equals sorting all dot products: on any devices, with ties, removed videos and every kind of rows."""

import functools
from unittest import mock

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import cpu_rows, device_rows
from vmr_jax.retrieval.index import MomentIndex, suppressed
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import EncodedVideo
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
    monkeypatch.setattr(device_rows, "TILE", 512)
    monkeypatch.setattr(device_rows, "PART", 128)
    monkeypatch.setattr(cpu_rows, "PART", 128)
    monkeypatch.setattr(cpu_rows, "TILE_BYTES", 1)  # tiles of one part
    monkeypatch.setattr(cpu_rows, "QUERIES", 2)
    monkeypatch.setattr(cpu_rows, "PACKED", 1)
    monkeypatch.setattr(cpu_rows, "INTEGERS", 256)
    monkeypatch.setattr(cpu_rows, "_NEAR", 64 * DIM)


class Integers:
    """What is asked of numkong, in numpy."""

    @staticmethod
    def dots_pack(queries):
        assert queries.dtype == np.int8
        return queries.astype(np.int32)

    @staticmethod
    def dots_packed(rows, packed):
        return rows.astype(np.int32) @ packed.T

    @staticmethod
    def norm(rows, axis):
        return np.linalg.norm(rows.astype(np.float64), axis=axis)


WAYS = ["1 device", "8 devices", "cpu", "cpu with int8 products", "one query at a time"]


def answer(store, way, queries, k, counts=None):
    """Scores and rows by one of `WAYS`."""
    if "device" in way:
        scales = [s.scales for s in store.segments] if store.dtype == "int8" else None
        rows = [s.vectors for s in store.segments], [s.alive for s in store.segments], scales
        return device_rows.DeviceRows(*rows, Parallel("pmap", int(way[0])))(queries, k, counts)
    library = Integers if way == "cpu with int8 products" else None
    with mock.patch.object(cpu_rows, "numkong", lambda: library):
        found = Searcher(store, Parallel("pmap", 1))
    if way == "one query at a time":
        parts = [found(query[None], k, counts) for query in queries]
        return tuple(np.concatenate(arrays) for arrays in zip(*parts))
    return found(queries, k, counts)


def test_tiles(small_tiles):
    # On one device four tiles are 2,048 of 2,400 rows; of 352 that are left two parts of 128, and 96.
    assert device_rows.tile_sizes(2400, 1) == [512, 512, 512, 512, 256, 128]
    # On eight a tile is 4,096 rows, a part 1,024.
    assert device_rows.tile_sizes(2400, 8) == [256, 128]
    assert device_rows.tile_sizes(8192, 8) == [512, 512]
    assert device_rows.tile_sizes(0, 8) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [1, 7, 200])
def test_equals_sorting_everything(store, way, k, small_tiles):
    """200 is more than a tile of 128 rows has, and than its four blocks."""
    scores, rows = answer(store, way, QUERIES, k)
    expected, order = sorted_all(store, QUERIES, k)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_array_equal(rows, order)


@pytest.mark.parametrize("way", WAYS)
def test_of_equal_scores_the_lower_row_comes_first(tmp_path, way, small_tiles):
    vectors = np.ones((3000, DIM), np.float32)
    vectors[1234] *= 2
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {}).add(
        [EncodedVideo("v", vectors, np.zeros((3000, 2), np.float32))]
    )
    _, rows = answer(made, way, np.ones((1, DIM), np.float32), 5)
    assert rows.tolist() == [[1234, 0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_way_has_the_same_rows_in_the_same_order(tmp_path, dtype):
    """Among rows of which each comes five times, at places of all kinds; 9,001, no multiple of anything."""
    rng = np.random.default_rng(3)
    different = rng.normal(size=(1801, 64)).astype(np.float32)
    vectors = np.concatenate([different[rng.permutation(1801)] for _ in range(5)])[:9001]
    videos = [
        EncodedVideo(f"v{v}", part, np.zeros((len(part), 2), np.float32))
        for v, part in enumerate(np.split(vectors, [17, 4000]))
    ]
    made = MomentStore.create(tmp_path / "i", 64, dtype, {}).add(videos[:1]).add(videos[1:]).remove(["v0"])
    queries = rng.normal(size=(7, 64)).astype(np.float32)
    expected = answer(made, "1 device", queries, 23)
    scores = sorted_all(made, queries, 23)[0]
    # Five copies, less those among the removed rows: many equal scores among the best.
    assert np.mean(np.diff(scores, axis=1) == 0) > 0.6
    for way in WAYS[1:]:
        found = answer(made, way, queries, 23)
        np.testing.assert_array_equal(found[1], expected[1], err_msg=way)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_few_rows_that_count_are_all_found(store, way):
    """Of 2,400 rows a block is every 75th: these three are one, and no three blocks have a row that counts."""
    counts = [np.isin(np.arange(2400), [0, 75, 150])]
    _, rows = answer(store, way, QUERIES, 3, counts)
    assert np.sort(rows, axis=1).tolist() == [[0, 75, 150]] * 5


def test_what_k_rows_reach_rises_to_the_kth_best():
    scores = np.random.default_rng(0).normal(size=(8, 256, 3)).astype(np.float32)
    reached, found = np.full((5, 3), cpu_rows.LOWEST), []
    for i, tile in enumerate(scores):
        part, reached = cpu_rows.candidates(tile, reached, 256 * i)
        found.append(part)
        best = np.sort(scores[: i + 1].reshape(-1, 3), axis=0)[::-1]
        # Never above the 5th; with all tiles in more than 5 of 64 groups, hardly below it.
        assert (reached[0] <= best[4]).all() and (reached[0] >= best[9]).all()
    np.testing.assert_array_equal(cpu_rows.best_of(found, reached)[0], best[:5].T)
    # Without those of the tiles before, each tile would have five of each query and more: 120.
    assert sum(len(part.rows) for part in found) < 90


@pytest.mark.parametrize("damaged", [False, True])
def test_one_query_of_rows_beyond_the_cache_has_the_answer_of_those_within(monkeypatch, damaged):
    """3,000 rows in three files, of which each comes three times; row by row in parts of 100."""
    rows = np.tile(np.random.default_rng(0).normal(size=(1000, DIM)).astype(np.float32), (3, 1))
    if damaged:
        rows[77, 3] = np.nan
    alive = np.split(np.arange(3000) % 3 != 1, [17, 1800])
    searched = cpu_rows.CpuRows(np.split(rows, [17, 1800]), alive, None, Parallel("pmap", 1))
    within = searched(QUERIES[:1], 9)
    monkeypatch.setattr(cpu_rows, "_CACHED", 0)
    monkeypatch.setattr(cpu_rows, "_READ", 100 * 4 * DIM)
    beyond = searched(QUERIES[:1], 9)
    np.testing.assert_array_equal(beyond, within)
    true = np.where(np.concatenate(alive), rows @ QUERIES[0], -np.inf)
    assert beyond[1][0].tolist() == np.argsort(-np.nan_to_num(true, nan=np.inf), kind="stable")[:9].tolist()


@pytest.mark.parametrize("queries", [1, 3])
def test_a_row_that_is_no_number_comes_first(queries):
    """So that who asks sees that the rows are damaged."""
    vectors = np.random.default_rng(0).normal(size=(2000, DIM)).astype(np.float32)
    vectors[77, 3] = np.nan
    rows = cpu_rows.CpuRows([vectors], [np.ones(2000, bool)], None, Parallel("pmap", 1))
    scores, found = rows(QUERIES[:queries], 4)
    assert np.isnan(scores[:, 0]).all() and (found[:, 0] == 77).all() and np.isfinite(scores[:, 1:]).all()


def test_scores_by_integers_are_no_further_apart_than_is_said():
    rng = np.random.default_rng(0)
    rows, queries = rng.integers(-127, 128, size=(500, 96)).astype(np.int8), rng.normal(size=(7, 96))
    queries[6] = np.rint(queries[6] * 4) * 0.3  # all in whole steps of 0.3 where the largest is 127 of them
    queries[6, 0] = 127 * 0.3
    asked = cpu_rows.Integers.of(Integers, queries.astype(np.float32))
    found = np.concatenate([Integers.dots_packed(rows, packed) for packed in asked.packed], axis=1)
    apart = np.abs(found - rows.astype(np.float64) @ queries.T / asked.steps.astype(np.float64))
    apart /= np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    assert (apart <= asked.apart).all()
    # A step is 1/127 of the largest; half of it is lost at most of each of 96 numbers.
    assert (asked.apart[:6] < 0.5 * 96**0.5).all() and asked.apart[6] < 0.05
    assert (apart.max(0)[:6] > 0.1 * asked.apart[:6]).all()


@pytest.mark.parametrize("k", [1, 5, 40])
def test_rows_that_eight_bits_of_a_query_do_not_part_are_ranked_by_all(tmp_path, k, small_tiles):
    """2,000 rows which are one but for two steps each: by int8 queries hundreds have the score of the best."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.integers(-99, 100, size=(1, 64)), 2000, axis=0)
    vectors[:, 0] = 127
    for _ in range(2):
        vectors[np.arange(2000), rng.integers(1, 64, size=2000)] += 1
    made = MomentStore.create(tmp_path / "i", 64, "int8", {}).add(
        [EncodedVideo("v", vectors.astype(np.float32), np.zeros((2000, 2), np.float32))]
    )
    queries = rng.uniform(0.2, 0.202, size=(3, 64)).astype(np.float32)
    queries[:, 0] = 25.4  # a step is 0.2: all other numbers are one step
    coarse = made.segments[0].vectors.astype(np.int64) @ np.rint(queries / 0.2).astype(np.int64).T
    assert ((coarse == coarse.max(0)).sum(0) > 500).all()
    expected, order = sorted_all(made, queries, k)
    scores, rows = answer(made, "cpu with int8 products", queries, k)
    # In float32 rows that are almost the same may change places where their scores differ by rounding alone.
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    true = sorted_all(made, queries, 2000)
    for of_query, found, best in zip(range(3), rows, expected):
        place = np.argsort(true[1][of_query])
        assert (true[0][of_query][place[found]] >= best[-1] * (1 - 1e-6)).all()


def test_numkong_gives_what_numpy_gives():
    library = pytest.importorskip("numkong")
    rng = np.random.default_rng(0)
    rows, queries = (rng.integers(-127, 128, size=(n, 96)).astype(np.int8) for n in (300, 5))
    found = np.asarray(library.dots_packed(rows, library.dots_pack(queries)))
    np.testing.assert_array_equal(found, Integers.dots_packed(rows, Integers.dots_pack(queries)))


def test_norms_of_numkong_are_those_of_numpy():
    library = pytest.importorskip("numkong")
    rows = np.random.default_rng(0).integers(-127, 128, size=(300, 513)).astype(np.int8)
    found = np.asarray(library.norm(rows, axis=1))
    np.testing.assert_allclose(found, Integers.norm(rows, axis=1), rtol=1e-6)


@pytest.mark.parametrize("queries", [1, 3])
def test_an_int8_row_that_is_no_number_comes_first_and_none_that_does_not_count(queries):
    rng = np.random.default_rng(0)
    rows = rng.integers(-127, 128, size=(2000, DIM)).astype(np.int8)
    scales, alive = np.full(2000, 0.01, np.float32), np.arange(2000) % 2 == 1
    scales[77] = np.nan
    with mock.patch.object(cpu_rows, "numkong", lambda: Integers):
        searched = cpu_rows.CpuRows([rows], [alive], [scales], Parallel("pmap", 1))
    scores, found = searched(QUERIES[:queries], 4)
    assert np.isnan(scores[:, 0]).all() and (found[:, 0] == 77).all() and np.isfinite(scores[:, 1:]).all()
    assert (found % 2 == 1).all()
    true = np.where(alive, QUERIES[:queries] @ (rows * np.float32(0.01)).T, -np.inf)
    true[:, 77] = -np.inf
    np.testing.assert_array_equal(found[:, 1:], np.argsort(-true, axis=1, kind="stable")[:, :3])


def test_a_tpu_may_be_asked_for_less_than_all():
    """Elsewhere `approx_max_k` finds all, whatever recall is asked for."""
    rng = np.random.default_rng(0)
    tile = {"rows": rng.normal(size=(2048, DIM)).astype(np.float32), "alive": np.ones(2048, bool)}
    whole = jax.jit(functools.partial(device_rows.shard_top_k, k=9))(QUERIES, [tile])
    less = jax.jit(functools.partial(device_rows.shard_top_k, k=9, recall=0.9))
    assert "approx_top_k" in str(jax.make_jaxpr(less)(QUERIES, [tile]))
    np.testing.assert_array_equal(less(QUERIES, [tile])[1], whole[1])


# --- finer rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8+float32", "int8+bfloat16", "bfloat16+float32"])
def test_the_best_hundred_are_ranked_by_the_finer_rows(tmp_path, dtype):
    made = MomentStore.create(tmp_path / "i", DIM, dtype, {}).add(corpus())
    finer = np.concatenate([s.finer.astype(np.float64) for s in made.segments])
    order = np.argsort(-(QUERIES.astype(np.float64) @ finer.T), axis=1, kind="stable")
    scores, rows = Searcher(made, Parallel("pmap", 1))(QUERIES, 20)
    np.testing.assert_array_equal(rows, order[:, :20])
    expected = np.take_along_axis(QUERIES.astype(np.float64) @ finer.T, order[:, :20], 1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    # One video alone is ranked by the same numbers, and all moments are found where all are wanted.
    alone = made.searcher(Parallel("pmap", 1)).of_video(QUERIES[0], "v7")
    np.testing.assert_allclose(alone.scores, np.sort(finer[420:480] @ QUERIES[0])[::-1], atol=1e-5)
    np.testing.assert_array_equal(Searcher(made, Parallel("pmap", 1))(QUERIES, 2400)[1], order)


def test_finer_rows_come_along_when_segments_are_merged(tmp_path):
    made = MomentStore.create(tmp_path / "i", DIM, "int8+float32", {})
    for video in corpus(videos=12):  # more additions than an index has segments
        made = made.add([video])
    assert len(made.segments) < 12
    whole = np.concatenate([s.finer for s in MomentStore.open(made.path).segments])
    np.testing.assert_array_equal(whole, np.concatenate([video.vectors for video in corpus(videos=12)]))
    assert not [file for file in made.path.glob("*.finer") if file.stem not in {s.name for s in made.segments}]
    (tmp_path / "i" / f"{made.segments[0].name}.finer").write_bytes(b"")
    with pytest.raises(UserError, match=r"finer has 0 bytes and .* were written"):
        MomentStore.open(made.path)


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_several_additions(tmp_path, way, small_tiles):
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {})
    videos = list(corpus(videos=14))  # 840 rows; a tile has rows of three additions
    for part in (videos[:6], videos[6:7], videos[7:]):
        made = made.add(part)
    scores, rows = answer(made, way, QUERIES, 30)
    expected, order = sorted_all(made, QUERIES, 30)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("way", WAYS[:3])
def test_many_queries_have_the_answers_of_each(store, way, monkeypatch):
    alone = [answer(store, way, query[None], 6) for query in QUERIES]
    monkeypatch.setattr(device_rows, "QUERIES", 3)  # two calls, of three and of two
    monkeypatch.setattr(cpu_rows, "QUERIES", 2)  # three, of two, two and one
    scores, rows = answer(store, way, QUERIES, 6)
    np.testing.assert_array_equal(rows, np.concatenate([found for _, found in alone]))
    np.testing.assert_allclose(scores, np.concatenate([found for found, _ in alone]), atol=1e-5)


def test_whole_tiles_are_not_copied():
    arrays = [np.arange(20).reshape(10, 2), np.arange(100, 112).reshape(6, 2)]
    assert np.shares_memory(device_rows._rows(arrays, 2, 9), arrays[0])
    assert np.shares_memory(device_rows._rows(arrays, 10, 14), arrays[1])
    np.testing.assert_array_equal(device_rows._rows(arrays, 9, 12), [[18, 19], [100, 101], [102, 103]])
    np.testing.assert_array_equal(device_rows._rows(arrays, 15, 18), [[110, 111], [0, 0], [0, 0]])


def test_the_cores_read_the_rows_where_they_lie(small_tiles, tmp_path):
    made = MomentStore.create(tmp_path / "i", DIM, "float32", {}).add(corpus(videos=5))  # 300 rows
    (segment,) = made.segments
    rows = cpu_rows.CpuRows([segment.vectors], [segment.alive], None, Parallel("pmap", 1))
    first, second, last = rows._of_rows(128, on_device=True)
    address = segment.vectors.ctypes.data
    assert [first.on_device.unsafe_buffer_pointer(), second.on_device.unsafe_buffer_pointer()] == [
        address,
        address + 128 * DIM * 4,
    ]
    assert last.rows.shape == (128, DIM) and last.count == 44 and not last.rows[44:].any()


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
