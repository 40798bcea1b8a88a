"""Exact search for the largest dot products, on every device, with bounded memory.

The rows lie on the devices as tiles, views of the mapped files where that is possible, and every device goes
through its tiles one by one. Of a tile only the blocks with the k largest maxima can hold one of its k best
rows, so nothing is ever sorted as a whole. Equal scores: the lower row first, on any number of devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import Parallel

TILE = 1 << 20  # rows of a device in one array
GROUP = 1 << 16  # rows whose scores a CPU holds at once: 16 MiB for 64 queries; divides `TILE`
PART = 1 << 10  # rows that a CPU multiplies at once: 2 MiB where E is 512; divides `GROUP`
BLOCK = 128  # rows of which only the maximum is compared first; divides `PART`
QUERIES = 64  # asked at once; an accelerator holds 256 MiB of their scores


class Rows(Protocol):
    """Part of the rows of an index: vectors [n,E], which of them count [n], and scales [n] of int8 rows."""

    vectors: np.ndarray
    alive: np.ndarray
    scales: np.ndarray | None


class Stored(Protocol):
    """The rows of an index, in parts, and their type on disk."""

    segments: Sequence[Rows]
    dtype: str


class Searcher:
    """The rows of an index on the devices.

    Args:
      store: the index; a changed one needs a new searcher.
      parallel: the devices.
    """

    def __init__(self, store: Stored, parallel: Parallel):
        self.parallel = parallel
        parts: dict[str, list] = {
            "rows": [s.vectors for s in store.segments],
            "alive": [s.alive for s in store.segments],
        }
        if store.dtype == "int8":
            parts["scales"] = [s.scales for s in store.segments]
        total = sum(len(rows) for rows in parts["rows"])
        self.count = sum(int(alive.sum()) for alive in parts["alive"])
        self._pieces: dict[str, Any] = {}
        if parallel.devices[0].platform == "cpu":
            # XLA's CPU copies what it slices before a matrix product, which costs little in the cache. It reads
            # bfloat16 one number at a time: 0.31 s for 2^18 rows of 512, which take 0.03 s as integers.
            self._pieces = {"group": GROUP, "part": PART}
            if store.dtype == "bfloat16":
                parts["rows"] = [rows.view(np.uint16) for rows in parts["rows"]]
        self._sizes = tile_sizes(total, len(parallel.devices))
        self._tiles = self._on_devices(parts)
        self._compiled: dict[int, Callable] = {}

    def _on_devices(self, parts: dict[str, list]) -> list[dict[str, Any]]:
        """Arrays of all rows, in parts, as the tiles of the devices."""
        edges = np.cumsum([0, *self._sizes]) * len(self.parallel.devices)
        return [
            self.parallel.put_shards({name: _rows(arrays, first, last) for name, arrays in parts.items()})
            for first, last in zip(edges[:-1], edges[1:])
        ]

    def __call__(
        self, queries: np.ndarray, k: int, counts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,K] and rows [Q,K] of queries [Q,E], best first; K is k, or all rows that count.

        Args:
          queries: [Q,E].
          k: number of rows that are wanted.
          counts: which rows of each part count, [n] bool; None is those of the store.
        """
        tiles, count = self._tiles, self.count
        if counts is not None:
            alive, count = self._on_devices({"alive": [*counts]}), sum(int(part.sum()) for part in counts)
            tiles = [{**tile, **mask} for tile, mask in zip(tiles, alive)]
        k, queries = min(k, count), np.asarray(queries, np.float32)
        if not k:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int32)
        parts = [self._best(queries[i : i + QUERIES], k, tiles) for i in range(0, len(queries), QUERIES)]
        scores, rows = zip(*parts)
        return np.concatenate(scores), np.concatenate(rows)

    def _best(
        self, queries: np.ndarray, k: int, tiles: Sequence[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        count, devices = len(queries), len(self.parallel.devices)
        local = min(k, sum(self._sizes))
        if local not in self._compiled:
            function = functools.partial(shard_top_k, k=local, **self._pieces)
            self._compiled[local] = self.parallel.map_shards(function)
        # Compiled once for every power of two of queries.
        queries = np.pad(queries, ((0, (1 << (count - 1).bit_length()) - count), (0, 0)))
        scores, rows = self._compiled[local](queries, tiles)  # [devices,Q,local]
        starts = np.cumsum([0, *self._sizes[:-1]])
        tile = np.searchsorted(starts, rows, side="right") - 1
        # Before a tile are those that all devices had before, and in it the shares of the devices before.
        before = starts[tile] * (devices - 1)
        shares = np.arange(devices)[:, None, None] * np.asarray(self._sizes)[tile]
        rows = (rows + before + shares).transpose(1, 0, 2).reshape(len(queries), -1)[:count]
        scores = scores.transpose(1, 0, 2).reshape(len(queries), -1)[:count]
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def tile_sizes(rows: int, devices: int) -> list[int]:
    """Rows a device in each tile: whole tiles, the whole groups and parts of what is left, and a last part."""
    tiles, rows = divmod(rows, TILE * devices)
    groups, rows = divmod(rows, GROUP * devices)
    parts, rows = divmod(rows, PART * devices)
    return [TILE] * tiles + [size for size in (groups * GROUP, parts * PART, PART * bool(rows)) if size]


def _rows(arrays: Sequence[np.ndarray], first: int, last: int) -> np.ndarray:
    """Rows `first` to `last` of arrays that follow each other, then zeros; a view where one has them all."""
    starts = np.cumsum([0, *(len(array) for array in arrays)])
    parts = [array[max(first - start, 0) : max(last - start, 0)] for start, array in zip(starts, arrays)]
    missing = last - max(first, starts[-1]) if last > starts[-1] else 0
    parts = [part for part in (*parts, np.zeros((missing, *arrays[0].shape[1:]), arrays[0].dtype)) if len(part)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def shard_top_k(
    queries: jax.Array, tiles: Sequence[dict[str, jax.Array]], *, k: int, group: int = TILE, part: int = TILE
) -> tuple[jax.Array, jax.Array]:
    """The k best rows of one device's tiles: scores [Q,K] float32 and rows [Q,K], counted through the tiles.

    Args:
      queries: [Q,E] float32.
      tiles: 'rows' [M,E], 'alive' [M] bool, and 'scales' [M] of int8 rows; rows in uint16 are the bits of
        bfloat16. M is a multiple of `PART`, and of `GROUP` where it is larger than that.
      k: number of rows that are wanted, at most those of all tiles.
      group: number of rows whose scores are held at once; a larger one than the tile is the whole tile.
      part: number of rows that are multiplied at once; likewise.
    """
    best, first = (jnp.zeros((len(queries), 0)), jnp.zeros((len(queries), 0), jnp.int32)), 0
    for tile in tiles:
        # One tile after the other, so that the scores of one alone are held.
        queries, best = jax.lax.optimization_barrier((queries, best))
        count = len(tile["rows"])
        scores, rows = _best_of_tile(queries, tile, min(k, count), min(group, count), min(part, count))
        best, first = _merged(best, (scores, first + rows), k), first + count
    return best


def _best_of_tile(queries, tile, k: int, group: int, part: int):
    sliced = jax.lax.dynamic_slice_in_dim

    def step(best, first):
        starts = first + jnp.arange(0, group, part, dtype=jnp.int32)
        scores = jax.lax.map(lambda start: products(queries, sliced(tile["rows"], start, part)), starts)
        scores = scores.transpose(1, 0, 2).reshape(len(queries), group)  # of [group/part,Q,part]
        if "scales" in tile:
            scores = scores * sliced(tile["scales"], first, group)[None, :]
        scores = jnp.where(sliced(tile["alive"], first, group)[None, :], scores, -jnp.inf)
        found, rows = tile_top_k(scores, min(k, group))
        return _merged(best, (found, first + rows), k), None

    nothing = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
    return jax.lax.scan(step, nothing, jnp.arange(0, len(tile["rows"]), group, dtype=jnp.int32))[0]


def _merged(best, found, k: int):
    """The k best of two (scores [Q,.], rows [Q,.]); of equal scores those of the first come first."""
    scores, rows = (jnp.concatenate(pair, axis=1) for pair in zip(best, found))
    scores, order = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return scores, jnp.take_along_axis(rows, order, axis=1)


def products(queries: jax.Array, rows: jax.Array) -> jax.Array:
    """Dot products [Q,M] float32 of queries [Q,E] with rows [M,E]: float32, bfloat16, its bits, or int8."""
    if rows.dtype in (jnp.bfloat16, jnp.uint16):
        queries = queries.astype(jnp.bfloat16)
    if rows.dtype == jnp.uint16:
        queries = queries.astype(jnp.float32)
        # The upper half of a float32.
        rows = jax.lax.bitcast_convert_type(rows.astype(jnp.uint32) << 16, jnp.float32)
    elif rows.dtype == jnp.int8:
        rows = rows.astype(jnp.float32)
    return jax.lax.dot_general(
        queries, rows, (((1,), (1,)), ((), ())), precision="highest", preferred_element_type=jnp.float32
    )


def tile_top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of [Q,M] and their columns, the lower of equal ones first; M is a multiple of `BLOCK`."""
    size, width = scores.shape
    blocks = width // BLOCK
    if k >= blocks:
        return jax.lax.top_k(scores, k)
    maxima = scores.reshape(size, blocks, BLOCK).max(-1)
    chosen = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1)  # in the order of the columns
    columns = (chosen[:, :, None] * BLOCK + jnp.arange(BLOCK)[None, None, :]).reshape(size, -1)
    found, order = jax.lax.top_k(jnp.take_along_axis(scores, columns, axis=1), k)
    return found, jnp.take_along_axis(columns, order, axis=1)
