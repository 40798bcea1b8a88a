"""Exact search on the cores of a CPU: what `device_rows` finds, with the rows read where they lie.

The cores share tiles of the mapped files. The scores of a tile are a matrix product of XLA, or of numkong
for int8 rows where that is installed, small enough to stay in the cache; of these only blocks whose maximum
reaches what k rows have are looked into. numkong multiplies queries that are int8 too: how far such a score
may be from that of the query itself is known, and rows that may be among the best are scored again. Nothing
is kept of a row, so that an index may be larger than memory. One query of float32 rows is a product of BLAS,
or a dot product for each row, in the order of the file, where they are too many for the cache.
"""

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import Parallel

TILE_BYTES = 1 << 25  # of the rows that one core scores at once, at most
PART = 1 << 10  # rows that become float32 at once: 2 MiB where E is 512; a tile is a multiple of it
SCORES = 1 << 20  # held at once by one core: 4 MiB
INTEGERS = 1 << 18  # the same of int8 products, which are three times as fast: within the cache of one core
QUERIES = 1 << 9  # asked at once, at most
PACKED = 1 << 6  # int8 queries multiplied at once: 32 KiB where E is 512
BLOCK = 32  # rows of which only the maximum is compared at first; divides `PART`
LOWEST = np.finfo(np.float32).min  # what every row reaches that counts
_CACHED = 1 << 26  # bytes of float32 rows that caches may hold between two queries
_READ = 1 << 22  # bytes of float32 rows that one core reads at once for one query
_NEAR = 1 << 20  # bytes of int8 rows that one core has in its cache at once
_AGAIN = 1 << 8  # rows that one core scores again at once: 512 KiB in float32 where E is 512, and their queries


@dataclasses.dataclass(frozen=True)
class Tile:
    """Rows of one file that are scored at once.

    Attributes:
      segment: index of the file.
      first: the first row, counted in its file.
      count: number of rows; those after them in `rows` are padding.
      rows: [M,E] as numpy has them; bfloat16 as its bits.
      scales: [M] of int8 rows, else None.
      on_device: the rows as JAX has them, or None where they are not asked of it.
    """

    segment: int
    first: int
    count: int
    rows: np.ndarray
    scales: Any
    on_device: Any


class Candidates(NamedTuple):
    """Rows among which are the best: of which query [C], which row [C], its score [C].

    Those of one query are in the order of the rows.
    """

    queries: np.ndarray
    rows: np.ndarray
    scores: np.ndarray

    def in_order(self) -> "Candidates":
        """The same, in the order of the rows."""
        order = np.argsort(self.rows, kind="stable")
        return Candidates(*(array[order] for array in self))


_NONE = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class CpuRows:
    """The rows of an index as the cores read them.

    Args:
      vectors: [n,E] of each file, of one number format.
      alive: which rows of each count, [n] bool.
      scales: [n] of each where the rows are int8.
      parallel: the CPU, of which one device is used, with all cores.
      coarse: whether int8 rows may be compared with queries of 8 bits alone.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        scales: Sequence[np.ndarray] | None,
        parallel: Parallel,
        coarse: bool = False,
    ):
        self._alive, self._scales, self._parallel, self._coarse = alive, scales, parallel, coarse
        self._all = all(part.all() for part in alive)
        self._vectors = [np.asarray(part) for part in vectors]  # a plain array is faster than a map
        self._starts = np.cumsum([0, *(len(part) for part in vectors)])
        self._numkong = None if scales is None else numkong()
        self._tiles: dict[tuple[int, bool], list[Tile]] = {}
        self._norms: dict[tuple[int, int, int], float] = {}  # the largest of a tile

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_cores(), "search")

    @functools.cached_property
    def _longest(self) -> float:
        """The largest norm of a row; no number where one is none."""
        squares = [np.vecdot(part, part).max(initial=0) for part in self._vectors]
        return float(np.max(squares)) ** 0.5

    def __call__(
        self, queries: np.ndarray, k: int, counts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,k] and rows [Q,k], best first, of equal ones the lower row first.

        Args:
          queries: [Q,E] float32.
          k: number of rows that are wanted, at most those that count.
          counts: which rows of each file count, [n] bool; None is those given at first.
        """
        alive = None if counts is None and self._all else self._alive if counts is None else counts
        if len(queries) == 1 and self._vectors[0].dtype == np.float32:
            alone = self._of_one(queries[0], k, alive)
            if alone is not None:
                return alone
        library = self._numkong
        size = min(QUERIES, 1 << (len(queries) - 1).bit_length())  # a power of two: few shapes are compiled
        if library is not None:
            of_a_core = max(-(-int(self._starts[-1]) // _cores()), PART)
            size = min(size, max(INTEGERS // of_a_core, PACKED))
        chunks = [queries[i : i + size] for i in range(0, len(queries), size)]
        reached = [np.full((k, size), LOWEST, np.float32) for _ in chunks]
        reached[-1][:, len(chunks[-1]) :] = np.inf  # of what only fills the last chunk
        if missing := size - len(chunks[-1]):
            chunks[-1] = np.pad(chunks[-1], ((0, missing), (0, 0)))
        asked: list[Any] = chunks
        if library is not None:
            asked = [Integers.of(library, chunk) for chunk in chunks]
        tiles = self._of_rows((SCORES if library is None else INTEGERS) // size, library is None)

        work = [(tile, chunk) for tile in tiles for chunk in range(len(chunks))]
        found, shared = [_NONE] * len(work), enumerate(work)

        def best_of_some(_: int) -> None:
            for i, (tile, chunk) in shared:  # which each thread takes from where the others are
                count = None if alive is None else alive[tile.segment][tile.first : tile.first + tile.count]
                if count is None or count.any():
                    # Where one thread undoes what another has reached, it is lower and still true.
                    found[i], reached[chunk] = self._best_of_tile(tile, asked[chunk], count, reached[chunk])

        def best_of_chunk(chunk: int) -> tuple[np.ndarray, np.ndarray]:
            least = reached[chunk] if library is None else reached[chunk] * asked[chunk].steps
            return best_of(found[chunk :: len(chunks)], least)

        self._in_turns(best_of_some, range(min(len(work), _cores())))
        best = self._in_turns(best_of_chunk, range(len(chunks)))
        scores, rows = (np.concatenate(parts)[: len(queries)] for parts in zip(*best))
        return scores, rows

    def _in_turns(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """The results of a function for each, on all cores where there are several."""
        return list((self._threads.map if min(len(items), _cores()) > 1 else map)(function, items))

    def _of_one(
        self, query: np.ndarray, k: int, alive: Sequence[np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The answer for one query [E], or None where scores are not finite.

        BLAS may give equal rows scores that differ in the last bits, so those near the k-th are computed again.
        """
        scores = self._products(query)
        if alive is not None:
            scores[~np.concatenate(alive)] = -np.inf
        # E roundings to a half of 2^-23 each, in either of two scores.
        rounding = len(query) * 2.0**-23 * self._longest * math.sqrt(query @ query)
        maxima = scores[: len(scores) // BLOCK * BLOCK].reshape(BLOCK, -1).max(0)
        least = highest(maxima, k)[0] if k <= len(maxima) else -np.inf
        if least == -np.inf:  # of a few rows that count
            least = highest(scores, k)[0]
        least -= rounding
        if not math.isfinite(least):
            return None
        rows = np.flatnonzero(scores >= least)
        again = np.vecdot(self._rows(rows), query)
        order = (-again).argsort(kind="stable")[:k]
        return again[order][None], rows[order][None]

    def _products(self, query: np.ndarray) -> np.ndarray:
        """[n] float32 of one query [E]: by BLAS, or row by row where the cache does not hold the rows.

        BLAS reads several rows at once, which memory gives more slowly than one after the other.
        """
        if sum(part.nbytes for part in self._vectors) <= _CACHED:
            parts = [part @ query for part in self._vectors]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        scores = np.empty(int(self._starts[-1]), np.float32)
        size = max(_READ // (4 * len(query)), 1)
        spans = [
            (part[first : first + size], start + first)
            for part, start in zip(self._vectors, self._starts.tolist())
            for first in range(0, len(part), size)
        ]

        def score(span: tuple[np.ndarray, int]) -> None:
            rows, first = span
            np.vecdot(rows, query, out=scores[first : first + len(rows)])

        self._in_turns(score, spans)
        return scores

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows, which rise."""
        if len(self._vectors) == 1:
            return self._vectors[0][rows]
        edges = np.searchsorted(rows, self._starts)
        parts = zip(self._vectors, self._starts, edges[:-1], edges[1:])
        return np.concatenate([part[rows[low:high] - start] for part, start, low, high in parts])

    def _of_rows(self, most: int, on_device: bool) -> list[Tile]:
        """Tiles of so many rows at most, of about one size, as JAX has them or only as numpy has."""
        if (most, on_device) not in self._tiles:
            size = self._tile_rows(most)
            self._tiles[most, on_device] = [
                self._tile(segment, first, size, on_device)
                for segment, part in enumerate(self._vectors)
                for first in range(0, len(part), size)
            ]
        return self._tiles[most, on_device]

    def _tile_rows(self, most: int) -> int:
        """A multiple of `PART`, so that all cores have as many tiles."""
        rows, row = int(self._starts[-1]), self._vectors[0]
        most = max(min(most, TILE_BYTES // (row.shape[1] * row.itemsize)), PART)
        turns = -(-rows // (most * _cores()))
        return -(-rows // (turns * _cores() * PART)) * PART

    def _tile(self, segment: int, first: int, size: int, on_device: bool) -> Tile:
        rows = self._vectors[segment][first : first + size]
        count = len(rows)
        if rows.dtype.itemsize == 2:
            rows = rows.view(np.uint16)
        # Rows that become float32 do so in whole parts; of others a few sizes are enough.
        unit = PART if on_device and rows.dtype != np.float32 else 4 * BLOCK
        rows, scales = _padded(rows, unit), None
        if self._scales is not None:
            scales = _padded(np.asarray(self._scales[segment][first : first + count]), unit)
        as_jax = self._parallel.on_first_device(rows) if on_device else None
        return Tile(segment, first, count, rows, scales, as_jax)

    def _best_of_tile(
        self, tile: Tile, asked: "np.ndarray | Integers", alive: np.ndarray | None, reached: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """`candidates` of rows that are `alive` [count] and of queries [Q,E], with their scores."""
        count, first = None, int(self._starts[tile.segment]) + tile.first
        if tile.count < len(tile.rows) or not (alive is None or alive.all()):
            count = np.zeros(len(tile.rows), bool)
            count[: tile.count] = True if alive is None else alive
        if not isinstance(asked, Integers):
            return candidates(np.asarray(products(asked, tile.on_device, tile.scales, count)), reached, first)
        scores = self._steps(tile, asked)
        if count is not None:
            scores[~count] = -np.inf
        if self._coarse:
            found, reached = candidates(scores, reached, first)
            return found._replace(scores=found.scores * asked.steps[found.queries]), reached

        def again(found: Candidates) -> np.ndarray:
            rows = found.rows - first
            true = scores_of(rows, found.queries, tile, asked.queries)
            return true if count is None else np.where(count[rows], true, -np.inf)

        longest = self._norms[tile.segment, tile.first, tile.count]
        return candidates(scores, reached, first, longest * asked.apart, again)

    def _steps(self, tile: Tile, asked: "Integers") -> np.ndarray:
        """[M,Q] float32: scores of queries as int8, in the steps of each; the first time, `_norms` too."""
        scores = np.empty((len(tile.rows), len(asked.queries)), np.float32)
        place, longest = (tile.segment, tile.first, tile.count), []
        measured = self._coarse or place in self._norms
        size = max(_NEAR // tile.rows.shape[1] // BLOCK, 1) * BLOCK
        for first in range(0, len(tile.rows), size):
            rows, scales = tile.rows[first : first + size], tile.scales[first : first + size, None]
            # Read in order, as memory is fastest; numkong reads several rows at once, now from the cache.
            rows.reshape(-1).view(np.int64).sum()
            column = 0
            for packed in asked.packed:
                found = np.asarray(asked.library.dots_packed(rows, packed))  # int32
                out = scores[first : first + size, column : column + found.shape[1]]
                np.multiply(found, scales, out=out, dtype=np.float32, casting="unsafe")
                column += found.shape[1]
            if not measured:
                longest.append(np.fmax.reduce(np.asarray(asked.library.norm(rows, axis=1)) * scales[:, 0]))
        if not measured:
            self._norms[place] = float(np.fmax.reduce(longest))
        return scores


class Integers(NamedTuple):
    """Queries as numkong multiplies them.

    Attributes:
      library: numkong.
      queries: [Q,E] float32, what they are.
      packed: the same in steps as int8, `PACKED` at a time.
      steps: [Q] what one step is.
      apart: [Q] of a row of norm one: how far its score by them is from that by the queries, at most, in steps.
    """

    library: Any
    queries: np.ndarray
    packed: list[Any]
    steps: np.ndarray
    apart: np.ndarray

    @classmethod
    def of(cls, library: Any, queries: np.ndarray) -> "Integers":
        """The queries [Q,E] in steps, of which the largest number of each has 127."""
        steps = np.maximum(np.abs(queries).max(1), np.float32(1e-30)) / np.float32(127)
        exact = queries / steps[:, None]
        whole = np.rint(exact)
        packed = [
            library.dots_pack(whole[i : i + PACKED].astype(np.int8)) for i in range(0, len(whole), PACKED)
        ]
        # What is left of the steps, and E and some roundings to a half of 2^-23 each, in either score.
        rounding = (queries.shape[1] + 8) * 2.0**-23 * norms(exact)
        apart = (norms(exact - whole) + rounding).astype(np.float32)
        return cls(library, queries, packed, steps, apart)


def norms(array: np.ndarray) -> np.ndarray:
    """The norms [M] of the rows of an array [M,E]."""
    return np.sqrt(np.vecdot(array, array))


def scores_of(rows: np.ndarray, queries: np.ndarray, tile: Tile, asked: np.ndarray) -> np.ndarray:
    """Scores [C] float32 of rows [C] of a tile of int8 and queries [C] of those that are asked [Q,E]."""
    scores = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), _AGAIN):
        some = rows[first : first + _AGAIN]
        numbers = tile.rows[some].astype(np.float32) * tile.scales[some, None]
        np.vecdot(numbers, asked[queries[first : first + _AGAIN]], out=scores[first : first + _AGAIN])
    return scores


@jax.jit
def products(
    queries: jax.Array, rows: jax.Array, scales: jax.Array | None, count: jax.Array | None
) -> jax.Array:
    """Scores [M,Q] float32 of queries [Q,E] and rows [M,E]; -inf of those that do not `count` [M].

    Rows are float32, the bits of bfloat16 or int8 with scales [M].
    """

    def of(part: jax.Array, asked: jax.Array) -> jax.Array:
        return jax.lax.dot_general(part, asked, (((1,), (1,)), ((), ())), precision="highest")

    def converted(part: jax.Array) -> jax.Array:
        if part.dtype == jnp.int8:
            return of(part.astype(jnp.float32), queries)
        # The upper half of a float32. XLA's CPU reads bfloat16 itself one number at a time.
        numbers = jax.lax.bitcast_convert_type(part.astype(jnp.uint32) << 16, jnp.float32)
        return of(numbers, queries.astype(jnp.bfloat16).astype(jnp.float32))

    if rows.dtype == jnp.float32:
        scores = of(rows, queries)
    else:  # in parts that become float32 within the cache
        scores = jax.lax.map(converted, rows.reshape(-1, PART, rows.shape[1])).reshape(len(rows), -1)
    if scales is not None:
        scores = scores * scales[:, None]
    return scores if count is None else jnp.where(count[:, None], scores, -jnp.inf)


@functools.cache
def numkong() -> Any:
    """The library of that name, which multiplies int8 as it is; None where it is not installed."""
    try:
        return importlib.import_module("numkong")
    except ImportError:
        return None


# --- the best of scores -------------------------------------------------------------------------------


def candidates(
    scores: np.ndarray,
    reached: np.ndarray,
    first: int,
    apart: np.ndarray | float = 0.0,
    again: Callable[[Candidates], np.ndarray] | None = None,
) -> tuple[Candidates, np.ndarray]:
    """Rows of a tile that may be among the k best of each query.

    Args:
      scores: [M,Q] float32; -inf of rows that do not count. M is a multiple of `BLOCK`.
      reached: [k,Q] what rows reach, all different, the least of each query first; `LOWEST` of none.
      first: number of the first row.
      apart: [Q] how far the scores are from the true ones, at most.
      again: gives the true scores of candidates, where these are others.

    Returns:
      The candidates with their true scores, and `reached` with the rows of this tile.
    """
    k, size = reached.shape
    # Of the first rows, where they are few, most long blocks would have one of the best.
    short = len(scores) < 4 * k * BLOCK and reached[0].min() == LOWEST
    blocks = scores.reshape(BLOCK // 4 if short else BLOCK, -1)  # a block is every so manieth row, of one query
    maxima = blocks.max(0).reshape(-1, size)
    best = groups(k, maxima if k <= len(maxima) else scores) - apart
    reached = highest(np.concatenate([reached, best]), k)
    least = reached[0] - apart
    # Those that are no numbers are to be seen. Numpy is fastest with places in flat arrays.
    chosen = np.flatnonzero(~(maxima < least))
    block, query = np.divmod(chosen, size)
    within = blocks.take(chosen, axis=1)  # [BLOCK,.]
    near = np.flatnonzero(~(within < least[query]))
    place, which = np.divmod(near, max(len(chosen), 1))
    found = Candidates(query[which], first + place * len(maxima) + block[which], within.ravel()[near])
    if again is not None:
        found = found._replace(scores=again(found))
    if len(near) > 4 * k * size:  # of equal scores
        found = ranked(found, size, k)[0].in_order()
    return found, reached


def groups(k: int, scores: np.ndarray) -> np.ndarray:
    """Maxima [.,Q] of groups of scores [M,Q]: at least k, of which the k-th is hardly below the k-th of all."""
    while len(scores) % 2 == 0 and len(scores) >= 4 * k:
        half = len(scores) // 2
        scores = np.maximum(scores[:half], scores[half:])
    return scores


def highest(scores: np.ndarray, k: int) -> np.ndarray:
    """The k largest of [M,...] along the first axis, the least of them first."""
    return np.partition(scores, len(scores) - k, axis=0)[len(scores) - k :]


def best_of(parts: Iterable[Candidates], reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [Q,k] and rows [Q,k] of each query, best first, of equal ones the lower row first.

    The rows of all parts rise; `reached` [k,Q] are scores of rows as `candidates` returns them.
    """
    (k, size), least = reached.shape, reached[0]
    found = Candidates(*(np.concatenate(arrays) for arrays in zip(*parts)))
    near = np.flatnonzero(~(found.scores < least[found.queries]))
    found, place = ranked(Candidates(*(array[near] for array in found)), size, k)
    scores, rows = np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int64)
    scores[found.queries, place], rows[found.queries, place] = found.scores, found.rows
    return scores, rows


def ranked(found: Candidates, size: int, k: int) -> tuple[Candidates, np.ndarray]:
    """The k best of each query, one query after the other, and their places."""
    down = np.where(np.isnan(found.scores), -np.inf, -found.scores)
    order = np.lexsort((down, found.queries.astype(np.uint16)))  # stable; numpy sorts 16 bits by their digits
    queries = found.queries[order]
    starts = np.cumsum([0, *np.bincount(queries, minlength=size)[:-1]])
    place = np.arange(len(order)) - starts[queries]
    kept = order[place < k]
    return Candidates(*(array[kept] for array in found)), place[place < k]


def _padded(array: np.ndarray, unit: int) -> np.ndarray:
    """The array with zeros after it to a multiple of `unit` rows; itself, not a copy, where it is one."""
    missing = -len(array) % unit
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array


@functools.cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
