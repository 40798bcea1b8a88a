"""Exact search for the largest dot products, on every device, with bounded memory.

Each device holds a share of the rows and goes through it tile by tile; of a tile only the blocks with the k
largest maxima can hold one of its k best rows, so nothing is ever sorted as a whole. Equal scores: the lower
row first, on any number of devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.store import MomentStore

TILE = 1 << 14  # rows whose scores are held at once
BLOCK = 128  # rows of which only the maximum is compared first


class Searcher:
    """The rows of an index on the devices.

    Args:
      store: the index; a changed one needs a new searcher.
      parallel: the devices.
    """

    def __init__(self, store: MomentStore, parallel: Parallel):
        self.parallel = parallel
        rows, scales, alive = _gathered(store)
        self.count = int(alive.sum())
        tile = min(TILE, -(-max(len(rows), 1) // (len(parallel.devices) * BLOCK)) * BLOCK)
        self._tile, per_device = tile, -(-max(len(rows), 1) // (len(parallel.devices) * tile)) * tile
        padding = per_device * len(parallel.devices) - len(rows)
        shard = {"rows": _padded(rows, padding), "alive": _padded(alive, padding)}
        if scales is not None:
            shard["scales"] = _padded(scales, padding)
        self._shards, self._per_device = parallel.put_shards(shard), per_device
        self._compiled: dict[int, object] = {}

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,k'] and rows [Q,k'] of queries [Q,D], best first; k' is k, or all rows that count."""
        k = min(k, self.count)
        local = min(k, self._per_device)
        if local not in self._compiled:
            function = functools.partial(shard_top_k, k=local, tile=self._tile)
            self._compiled[local] = self.parallel.map_shards(function)
        scores, rows = self._compiled[local](np.asarray(queries, np.float32), self._shards)  # [devices,Q,local]
        first = np.arange(len(scores))[:, None, None] * self._per_device
        scores = scores.transpose(1, 0, 2).reshape(len(queries), -1)
        rows = (rows + first).transpose(1, 0, 2).reshape(len(queries), -1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _gathered(store: MomentStore) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """All rows [N,D] as they are stored, their scales [N], and which count [N]."""
    segments = store.segments or []
    alive = np.concatenate([np.zeros(0, bool), *(segment.alive for segment in segments)])
    empty = np.zeros((0, store.dim), np.float32)
    if len(segments) == 1:
        return segments[0].vectors, segments[0].scales, alive
    rows = np.concatenate([segment.vectors for segment in segments]) if segments else empty
    if store.dtype != "int8":
        return rows, None, alive
    return rows, np.concatenate([np.zeros(0, np.float32), *(segment.scales for segment in segments)]), alive


def _padded(x: np.ndarray, more: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)]) if more else np.asarray(x)


def shard_top_k(queries: jax.Array, shard: dict[str, jax.Array], *, k: int, tile: int):
    """The k best rows of one device's share: scores [Q,k] float32 and rows [Q,k] within the share.

    Args:
      queries: [Q,D] float32.
      shard: 'rows' [N,D], 'alive' [N] bool, and 'scales' [N] of int8 rows; N is a multiple of `tile`.
      k: at most N.
      tile: a multiple of `BLOCK`.
    """
    size = queries.shape[0]

    def step(best, start):
        part = {name: jax.lax.dynamic_slice_in_dim(x, start, tile) for name, x in shard.items()}
        found, rows = tile_top_k(tile_scores(queries, part), min(k, tile))
        scores = jnp.concatenate([best[0], found], axis=1)
        rows = jnp.concatenate([best[1], start + rows], axis=1)
        scores, order = jax.lax.top_k(scores, k)
        return (scores, jnp.take_along_axis(rows, order, axis=1)), None

    nothing = jnp.full((size, k), -jnp.inf), jnp.zeros((size, k), jnp.int32)
    best, _ = jax.lax.scan(step, nothing, jnp.arange(0, shard["rows"].shape[0], tile, dtype=jnp.int32))
    return best


def tile_scores(queries: jax.Array, part: dict[str, jax.Array]) -> jax.Array:
    """Dot products [Q,R] float32 of queries [Q,D] with the rows of a tile; -inf where a row does not count."""
    rows = part["rows"]
    if rows.dtype == jnp.bfloat16:
        queries = queries.astype(jnp.bfloat16)
    elif rows.dtype == jnp.int8:
        rows = rows.astype(jnp.float32)
    scores = jax.lax.dot_general(
        queries, rows, (((1,), (1,)), ((), ())), precision="highest", preferred_element_type=jnp.float32
    )
    if "scales" in part:
        scores = scores * part["scales"][None, :]
    return jnp.where(part["alive"][None, :], scores, -jnp.inf)


def tile_top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of [Q,R] and their columns, the lower of equal ones first; R is a multiple of `BLOCK`."""
    size, width = scores.shape
    blocks = width // BLOCK
    if k >= blocks:
        return jax.lax.top_k(scores, k)
    maxima = scores.reshape(size, blocks, BLOCK).max(-1)
    chosen = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1)  # in the order of the columns
    columns = (chosen[:, :, None] * BLOCK + jnp.arange(BLOCK)[None, None, :]).reshape(size, -1)
    found, order = jax.lax.top_k(jnp.take_along_axis(scores, columns, axis=1), k)
    return found, jnp.take_along_axis(columns, order, axis=1)
