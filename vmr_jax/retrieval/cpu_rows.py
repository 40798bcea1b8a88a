"""Exact search on the cores of a CPU: what `device_rows` finds, with the rows read where they lie.

The cores share tiles of the mapped files. The scores of a tile are a matrix product of XLA, or of numkong
for int8 rows where that is installed; of these only blocks whose maximum reaches what k rows have are
looked into. Nothing is kept of a row, so that an index may be larger than memory. One query of a few
float32 rows is a product of BLAS, which starts sooner.
"""

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import Parallel

TILE_BYTES = 1 << 25  # of the rows that one core scores at once
PART = 1 << 10  # rows that become float32 at once: 2 MiB where E is 512; a tile is a multiple of it
BLOCK = 32  # rows of which only the maximum is compared at first; divides `PART`
SCORES = 1 << 22  # held at once by one core: 16 MiB
FEW = 1 << 15  # float32 rows up to which one query is asked of BLAS
_SHORT = 32  # queries up to which 15 bits of each, twice the products in int8, are faster than float32
_FINER = 254  # parts of a step of int8 that the second int8 number of a query counts


@dataclasses.dataclass(frozen=True)
class Tile:
    """Rows of one file that are scored at once.

    Attributes:
      segment: index of the file.
      first: the first row, counted in its file.
      count: number of rows; those after them in `rows` are padding.
      rows: [M,E] as numpy has them; bfloat16 as its bits.
      scales: [M] of int8 rows, else None.
      on_device: the rows as JAX has them.
    """

    segment: int
    first: int
    count: int
    rows: np.ndarray
    scales: Any
    on_device: Any


class Candidates(NamedTuple):
    """Rows among which are the best, in any order: of which query [C], which row [C], its score [C]."""

    queries: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


class CpuRows:
    """The rows of an index as the cores read them.

    Args:
      vectors: [n,E] of each file, of one number format.
      alive: which rows of each count, [n] bool.
      scales: [n] of each where the rows are int8.
      parallel: the CPU, of which one device is used, with all cores.
      coarse: whether int8 rows may be compared with queries of 8 bits in place of 15.

    Attributes:
      exact: the scores have the rounding of float32, not that of queries in few bits.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        scales: Sequence[np.ndarray] | None,
        parallel: Parallel,
        coarse: bool = False,
    ):
        self._alive, self._all, self._terms = alive, all(part.all() for part in alive), 1 if coarse else 2
        self._vectors = [
            np.asarray(part) for part in vectors if len(part)
        ]  # a plain array is faster than a map
        self._starts = np.cumsum([0, *(len(part) for part in vectors)])
        self._numkong = None if scales is None else numkong()
        self.exact = self._numkong is None
        self._tiles = [
            _tile(segment, first, part, None if scales is None else scales[segment], parallel)
            for segment, part in enumerate(vectors)
            for first in range(0, len(part), _tile_rows(part))
        ]

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_cores(), "search")

    @functools.cached_property
    def _longest(self) -> float:
        """The largest norm of a row."""
        return max(float(np.vecdot(part, part).max()) for part in self._vectors) ** 0.5

    def __call__(
        self, queries: np.ndarray, k: int, counts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,k] and rows [Q,k], best first, of equal ones the lower row first.

        Args:
          queries: [Q,E] float32.
          k: number of rows that are wanted, at most those that count.
          counts: which rows of each file count, [n] bool; None is those given at first.
        """
        alive = self._alive if counts is None else counts
        library = self._numkong if self._terms == 1 or len(queries) <= _SHORT else None
        if len(queries) == 1 and self._starts[-1] <= FEW and self._vectors[0].dtype == np.float32:
            found = self._of_few(queries[0], k, alive)
            if found is not None:
                return found
        size = _at_once(len(queries), max(len(tile.rows) for tile in self._tiles))
        chunks = [queries[i : i + size] for i in range(0, len(queries), size)]
        least = [np.full(size, -np.inf, np.float32) for _ in chunks]
        least[-1][len(chunks[-1]) :] = np.inf  # of what only fills the last chunk
        if missing := size - len(chunks[-1]):
            chunks[-1] = np.pad(chunks[-1], ((0, missing), (0, 0)))
        asked: list[Any] = chunks
        if library is not None:
            asked = [library.dots_pack(as_integers(chunk, self._terms)) for chunk in chunks]

        def of_tile(tile: Tile) -> list[Candidates]:
            count = np.zeros(len(tile.rows), bool)
            count[: tile.count] = alive[tile.segment][tile.first : tile.first + tile.count]
            if not count.any():
                return []
            first = int(self._starts[tile.segment]) + tile.first
            return [
                candidates(self._scores(library, of_chunk, tile, count), k, reached, first)
                for of_chunk, reached in zip(asked, least)
            ]

        several = len(self._tiles) > 1 and _cores() > 1
        of_tiles = [*(self._threads.map if several else map)(of_tile, self._tiles)]
        best = [best_of(joined(chunk), size, k) for chunk in zip(*filter(None, of_tiles))]
        scores, rows = (np.concatenate(parts)[: len(queries)] for parts in zip(*best))
        return (scores if library is None else scores * steps(queries)), rows

    def _of_few(
        self, query: np.ndarray, k: int, alive: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The answer for one query [E] by BLAS, or None where scores are not finite.

        BLAS may give equal rows scores that differ in the last bits, so those near the k-th are computed again.
        """
        parts = [part @ query for part in self._vectors]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if not (alive is self._alive and self._all):
            scores[~np.concatenate(alive)] = -np.inf
        place = len(scores) - k
        # E roundings to a half of 2^-23 each, in either of two scores.
        rounding = len(query) * 2.0**-23 * self._longest * math.sqrt(query @ query)
        least = float(np.partition(scores, place)[place]) - rounding
        if not math.isfinite(least):
            return None
        rows = np.flatnonzero(scores >= least)
        again = np.vecdot(self._rows(rows), query)
        order = (-again).argsort(kind="stable")[:k]
        return again[order][None], rows[order][None]

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows, which rise."""
        if len(self._vectors) == 1:
            return self._vectors[0][rows]
        starts = np.cumsum([0, *(len(part) for part in self._vectors)])
        edges = np.searchsorted(rows, starts)
        parts = zip(self._vectors, starts, edges[:-1], edges[1:])
        return np.concatenate([part[rows[low:high] - start] for part, start, low, high in parts])

    def _scores(self, library: Any, asked: Any, tile: Tile, count: np.ndarray) -> np.ndarray:
        """[M,Q] float32, with numkong in the `steps` of the query; -inf of rows that do not count [M].

        `asked` are the queries [Q,E], or what the library has made of them.
        """
        if library is None:
            return np.asarray(products(asked, tile.on_device, tile.scales, None if count.all() else count))
        found = np.asarray(library.dots_packed(tile.rows, asked))  # [M,terms*Q] int32
        size = found.shape[1] // self._terms
        scores = np.multiply(found[:, :size], tile.scales[:, None], dtype=np.float32, casting="unsafe")
        if self._terms == 2:
            finer = tile.scales[:, None] / np.float32(_FINER)
            scores += np.multiply(found[:, size:], finer, dtype=np.float32, casting="unsafe")
        scores[~count] = -np.inf
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


def steps(queries: np.ndarray) -> np.ndarray:
    """[Q,1]: the number of queries [Q,E] that is 1 in int8; the largest of each is 127."""
    return np.maximum(np.abs(queries).max(1, keepdims=True), np.float32(1e-30)) / np.float32(127)


def as_integers(queries: np.ndarray, terms: int) -> np.ndarray:
    """Queries [Q,E] in `steps` as int8 [terms*Q,E]: whole steps, then what is left in parts of 254 a step."""
    exact = queries / steps(queries)
    whole = np.rint(exact)
    found = [whole, np.rint((exact - whole) * _FINER)][:terms]
    return np.concatenate(found).astype(np.int8)


@functools.cache
def numkong() -> Any:
    """The library of that name, which multiplies int8 as it is; None where it is not installed."""
    try:
        return importlib.import_module("numkong")
    except ImportError:
        return None


# --- the best of scores -------------------------------------------------------------------------------


def candidates(scores: np.ndarray, k: int, least: np.ndarray, first: int) -> Candidates:
    """Rows of a tile that may be among the k best of each query.

    Args:
      scores: [M,Q] float32; -inf of rows that do not count. M is a multiple of `BLOCK`.
      k: number of rows that are wanted.
      least: [Q] what k rows of one tile are known to reach; is raised.
      first: number of the first row.
    """
    blocks = scores.reshape(BLOCK, -1, scores.shape[1])  # a block is every so manieth row
    maxima = blocks.max(0)
    several = maxima if k <= len(maxima) else scores
    if k <= len(several):
        # Other threads raise it too; where one undoes what another has done, it is lower and still true.
        np.maximum(least, np.partition(several, len(several) - k, axis=0)[len(several) - k], out=least)
    reached = least.copy()
    block, query = np.nonzero(~(maxima < reached))  # with those that are no numbers: they are to be seen
    within = blocks[:, block, query]  # [BLOCK,.]
    near = ~(within < reached[query]) & (within != -np.inf)
    place, which = np.nonzero(near)
    found = Candidates(query[which], first + place * len(maxima) + block[which], within[near])
    return found if len(found.rows) <= 4 * k * len(least) else _ranked(found, len(least), k)[0]


def joined(parts: Iterable[Candidates]) -> Candidates:
    """All of several."""
    return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts)))


def best_of(found: Candidates, size: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [size,k] and rows [size,k] of each query, best first, of equal ones the lower row first."""
    found, place = _ranked(found, size, k)
    scores, rows = np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int64)
    scores[found.queries, place], rows[found.queries, place] = found.scores, found.rows
    return scores, rows


def _ranked(found: Candidates, size: int, k: int) -> tuple[Candidates, np.ndarray]:
    """The k best of each query, one query after the other, and their places."""
    down = np.where(np.isnan(found.scores), -np.inf, -found.scores)
    order = np.lexsort((found.rows, down, found.queries))
    queries = found.queries[order]
    starts = np.cumsum([0, *np.bincount(queries, minlength=size)[:-1]])
    place = np.arange(len(order)) - starts[queries]
    kept = order[place < k]
    return Candidates(*(array[kept] for array in found)), place[place < k]


# --- tiles --------------------------------------------------------------------------------------------


def _tile(segment: int, first: int, part: np.ndarray, scales: np.ndarray | None, parallel: Parallel) -> Tile:
    rows = np.asarray(part[first : first + _tile_rows(part)])
    count = len(rows)
    if rows.dtype.itemsize == 2:
        rows = rows.view(np.uint16)
    rows = _whole_parts(rows)
    if scales is not None:
        scales = _whole_parts(np.asarray(scales[first : first + count]))
    return Tile(segment, first, count, rows, scales, parallel.on_first_device(rows))


def _tile_rows(part: np.ndarray) -> int:
    """Rows [n,E] of a tile: whole parts of `TILE_BYTES` together."""
    return max(TILE_BYTES // (PART * part.shape[1] * part.dtype.itemsize), 1) * PART


def _whole_parts(array: np.ndarray) -> np.ndarray:
    """The array with zeros after it to a multiple of `PART` rows; itself, not a copy, where it is one."""
    missing = -len(array) % PART
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array


def _at_once(queries: int, rows: int) -> int:
    """Number of queries whose scores are held at once: a power of two, so that few shapes are compiled."""
    most = max(SCORES // rows, 1)
    return min(1 << (most.bit_length() - 1), 1 << (queries - 1).bit_length())


@functools.cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
