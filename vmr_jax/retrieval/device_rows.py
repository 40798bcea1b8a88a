"""Exact search for the largest dot products on accelerators, with bounded memory.

The rows lie on the devices as tiles, and every device goes through its tiles one by one. Of a tile only the
blocks with the k largest maxima can hold one of its k best rows, so nothing is ever sorted as a whole.
Equal scores: the lower row first, on any number of devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import Parallel

TILE = 1 << 20  # rows of a device in one array
PART = 1 << 10  # what is left of them is padded to so many; divides `TILE`
BLOCK = 128  # rows of which only the maximum is compared first; divides `PART`
QUERIES = 64  # asked at once; a device holds 256 MiB of their scores


class DeviceRows:
    """The rows of an index on the devices.

    Args:
      vectors: [n,E] of each file, of one number format.
      alive: which rows of each count, [n] bool.
      scales: [n] of each where the rows are int8.
      parallel: the devices.
      recall: the share of the best rows that is to be found, on average; below 1 TPUs look for them with
        `jax.lax.approx_max_k`, and other devices, which have nothing of that kind, find all.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        scales: Sequence[np.ndarray] | None,
        parallel: Parallel,
        recall: float = 1.0,
    ):
        self._parallel = parallel
        self._recall = recall if parallel.devices[0].platform == "tpu" else 1.0
        parts = {"rows": vectors, "alive": alive, **({} if scales is None else {"scales": scales})}
        self._sizes = tile_sizes(sum(len(part) for part in vectors), len(parallel.devices))
        self._tiles = self._on_devices(parts)
        self._compiled: dict[int, Callable] = {}

    def _on_devices(self, parts: dict[str, Sequence[np.ndarray]]) -> list[dict[str, Any]]:
        """Arrays of all rows, in parts, as the tiles of the devices."""
        edges = np.cumsum([0, *self._sizes]) * len(self._parallel.devices)
        return [
            self._parallel.put_shards({name: _rows(arrays, first, last) for name, arrays in parts.items()})
            for first, last in zip(edges[:-1], edges[1:])
        ]

    def __call__(
        self, queries: np.ndarray, k: int, counts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,k] and rows [Q,k], best first, of equal ones the lower row first.

        Args:
          queries: [Q,E] float32.
          k: number of rows that are wanted, at most those that count.
          counts: which rows of each file count, [n] bool; None is those given at first.
        """
        tiles = self._tiles
        if counts is not None:
            tiles = [{**tile, **mask} for tile, mask in zip(tiles, self._on_devices({"alive": counts}))]
        parts = [self._best(queries[i : i + QUERIES], k, tiles) for i in range(0, len(queries), QUERIES)]
        scores, rows = zip(*parts)
        return np.concatenate(scores), np.concatenate(rows)

    def _best(
        self, queries: np.ndarray, k: int, tiles: Sequence[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        count, devices = len(queries), len(self._parallel.devices)
        local = min(k, sum(self._sizes))
        if local not in self._compiled:
            function = functools.partial(shard_top_k, k=local, recall=self._recall)
            self._compiled[local] = self._parallel.map_shards(function)
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
    """Rows a device in each tile: whole tiles, the whole parts of what is left, and a last part."""
    tiles, rows = divmod(rows, TILE * devices)
    parts, rows = divmod(rows, PART * devices)
    return [TILE] * tiles + [size for size in (parts * PART, PART * bool(rows)) if size]


def _rows(arrays: Sequence[np.ndarray], first: int, last: int) -> np.ndarray:
    """Rows `first` to `last` of arrays that follow each other, then zeros; a view where one has them all."""
    starts = np.cumsum([0, *(len(array) for array in arrays)])
    parts = [array[max(first - start, 0) : max(last - start, 0)] for start, array in zip(starts, arrays)]
    missing = last - max(first, starts[-1]) if last > starts[-1] else 0
    parts = [part for part in (*parts, np.zeros((missing, *arrays[0].shape[1:]), arrays[0].dtype)) if len(part)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def shard_top_k(
    queries: jax.Array, tiles: Sequence[dict[str, jax.Array]], *, k: int, recall: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The k best rows of one device's tiles: scores [Q,K] float32 and rows [Q,K], counted through the tiles.

    Args:
      queries: [Q,E] float32.
      tiles: 'rows' [M,E], 'alive' [M] bool, and 'scales' [M] of int8 rows; M is a multiple of `BLOCK`.
      k: number of rows that are wanted, at most those of all tiles.
      recall: below 1 the rows of a tile are looked for with `jax.lax.approx_max_k`.
    """
    best, first = (jnp.zeros((len(queries), 0)), jnp.zeros((len(queries), 0), jnp.int32)), 0
    for tile in tiles:
        # One tile after the other, so that the scores of one alone are held.
        queries, best = jax.lax.optimization_barrier((queries, best))
        scores = products(queries, tile["rows"])
        if "scales" in tile:
            scores = scores * tile["scales"][None, :]
        scores = jnp.where(tile["alive"][None, :], scores, -jnp.inf)
        count = scores.shape[1]
        if recall < 1:
            found, rows = jax.lax.approx_max_k(scores, min(k, count), recall_target=recall)
        else:
            found, rows = tile_top_k(scores, min(k, count))
        best, first = _merged(best, (found, first + rows), k), first + count
    return best


def _merged(best, found, k: int):
    """The k best of two (scores [Q,.], rows [Q,.]); of equal scores those of the first come first."""
    scores, rows = (jnp.concatenate(pair, axis=1) for pair in zip(best, found))
    scores, order = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return scores, jnp.take_along_axis(rows, order, axis=1)


def products(queries: jax.Array, rows: jax.Array) -> jax.Array:
    """Dot products [Q,M] float32 of queries [Q,E] with rows [M,E]: float32, bfloat16 or int8."""
    if rows.dtype == jnp.bfloat16:
        queries = queries.astype(jnp.bfloat16)
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
