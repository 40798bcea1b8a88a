"""Arithmetic of moments: IoU, ranking, non-maximum suppression. Spans are [...,2] (start, end)."""

import functools

import jax
import jax.numpy as jnp

from vmr_jax.types import Moments

_TIE = 1e-5  # relative; on a clip grid exact ties (IoU = 1/2, 2/5) are common and must not be noise


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Temporal IoU of spans [...,2] with [...,2] (leading axes broadcast); 0 where both are empty."""
    intersection, union = _intersection_union(a, b)
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1.0), 0.0)


def _intersection_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    intersection = jnp.minimum(a[..., 1], b[..., 1]) - jnp.maximum(a[..., 0], b[..., 0])
    intersection = jnp.maximum(intersection, 0.0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    return intersection, union


def rank(spans: jax.Array, scores: jax.Array, mask: jax.Array, k: int) -> Moments:
    """Returns the k best of candidates [B,M,2] with scores and mask [B,M]; ties: the lower index first.

    Candidates outside `mask` get score -inf and come last. k is cut to M.
    """
    scores = jnp.where(mask, scores.astype(jnp.float32), -jnp.inf)
    scores, order = jax.lax.top_k(scores, min(k, scores.shape[-1]))
    return Moments(spans=jnp.take_along_axis(spans, order[..., None], axis=1), scores=scores)


def nms(moments: Moments, threshold: float, k: int) -> Moments:
    """Greedy temporal NMS: keeps a moment unless its IoU with a better kept one exceeds `threshold`.

    An IoU equal to the threshold (to 1e-5) is kept. Returns the first k kept, [B,k,2] and [B,k]; rows
    past the last one have score -inf and span 0. `threshold` 1 keeps every moment.
    """
    return _kept(moments, threshold, k, every=threshold >= 1)


@functools.partial(jax.jit, static_argnames=("k", "every"))
def _kept(moments: Moments, threshold: float, k: int, every: bool) -> Moments:
    if every:
        keep = jnp.isfinite(moments.scores)
    else:
        keep = jax.vmap(_nms_one, in_axes=(0, 0, None))(moments.spans, moments.scores, threshold)
    scores = jnp.where(keep, moments.scores, -jnp.inf)
    kept = min(k, scores.shape[-1])
    # Candidates are sorted, so taking kept positions in order is a stable partition.
    position = jnp.where(keep, jnp.arange(scores.shape[-1])[None, :], scores.shape[-1])
    order = jnp.argsort(position, axis=-1)[:, :kept]
    scores = jnp.take_along_axis(scores, order, axis=1)
    spans = jnp.take_along_axis(moments.spans, order[..., None], axis=1)
    spans = jnp.where(jnp.isfinite(scores)[..., None], spans, 0.0)
    pad = k - kept
    return Moments(
        spans=jnp.pad(spans, ((0, 0), (0, pad), (0, 0))),
        scores=jnp.pad(scores, ((0, 0), (0, pad)), constant_values=-jnp.inf),
    )


def _nms_one(spans: jax.Array, scores: jax.Array, threshold: float) -> jax.Array:
    """[K] bool of kept moments, for spans [K,2] sorted by score."""
    place = jnp.arange(spans.shape[0])

    def step(keep, i):
        # One row of the [K,K] table of overlaps at a time: K can be some thousands, in every row of a batch.
        intersection, union = _intersection_union(spans[i][None], spans)
        # An end that was predicted before its start makes a union negative: such moments overlap with none.
        suppressed = (intersection > (threshold + _TIE) * jnp.maximum(union, 0.0)) & (place > i)
        return keep & ~(suppressed & keep[i]), None

    return jax.lax.scan(step, jnp.isfinite(scores), place)[0]
