"""Anchors at every clip: the table of preset moments, which of them are in the video, labels and the head.

Positions are clips. An anchor of width w at clip t is [t - (w - 1)/2, t + (w - 1)/2], both ends included, so
that its length is w and a moment within one clip has length 1 (CMIN, Zhang et al., SIGIR 2019). The order of
the anchors is clip by clip, the widths of a clip in the order given; of P widths there are M = T P anchors.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.linear import torch_linear
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Moments


@struct.dataclass
class Scored:
    """Predictions of `AnchorHead` for M anchors, float32."""

    logits: jax.Array  # [B,M]
    offsets: jax.Array | None  # [B,M,2] clips to add to start and end


class AnchorHead(nn.Module):
    """Two linear layers over the features of a clip: the logits of its anchors, and their offsets.

    Parameters: score, offset (of the outputs 2a and 2a + 1, the start and the end of anchor a).

    Attributes:
      anchors: P, number of anchors at a clip.
      regress: whether there are offsets.
    """

    anchors: int
    regress: bool = True

    @nn.compact
    def __call__(self, clips: jax.Array) -> Scored:
        """Scores the anchors of clips [B,T,F]; float32 whatever the dtype of the clips."""
        chex.assert_rank(clips, 3)
        clips = clips.astype(jnp.float32)
        offsets = None
        if self.regress:
            offsets = torch_linear(2 * self.anchors, clips, jnp.float32, "offset").reshape(
                clips.shape[0], -1, 2
            )
        logits = torch_linear(self.anchors, clips, jnp.float32, "score").reshape(clips.shape[0], -1)
        return Scored(logits=logits, offsets=offsets)


def frame_anchors(num_clips: int, widths: tuple[float, ...], align: str = "centre") -> np.ndarray:
    """Returns [M,2] float32, first and last clip of each anchor; also beyond the video, see `legal_anchors`.

    `align` 'end': the anchors of a clip end with it, as TGN's (Chen et al., EMNLP 2018) do.
    """
    clip = np.arange(num_clips, dtype=np.float32)[:, None]
    width = np.asarray(widths, np.float32)[None]
    start, end = (clip - (width - 1), clip + 0 * width)
    if align == "centre":
        start, end = clip - (width - 1) / 2, clip + (width - 1) / 2
    return np.stack([start, end], axis=-1).reshape(-1, 2)


def legal_anchors(anchors: np.ndarray, video_mask: jax.Array) -> jax.Array:
    """Returns [B,M] bool, the anchors [M,2] that lie within the real clips of the video."""
    clips = video_mask.sum(-1)[:, None]
    return jnp.logical_and(anchors[None, :, 0] >= 0, anchors[None, :, 1] < clips)


def refine(anchors: np.ndarray, offsets: jax.Array) -> jax.Array:
    """Adds offsets [B,M,2] to the ends of anchors [M,2], of which the fraction is dropped first.

    As the official programs of CMIN and CSMGAN (Model.forward), which cast the anchors to the type of the
    moment's clips, integers.
    """
    return jnp.trunc(anchors)[None] + offsets


def moment_in_clips(batch: Batch) -> jax.Array:
    """Returns [B,2] float32, first and last clip of the annotated moment.

    Its ends are floored in rows of the features; of the clips that begin from the first row on, and up to the
    last, these are the first and the last. Official code of CMIN: ActivityNetGCN and
    ClipDataset1.__getitem__.
    """
    mask = batch.video_mask
    places = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    rows = places if batch.clip_rows is None else batch.clip_rows
    count = jnp.where(mask, rows, -1).max(-1, keepdims=True) + 1  # the last clip begins with the last row
    ends = jnp.floor(batch.span * count / batch.duration[:, None]).astype(jnp.int32)
    ends = jnp.clip(ends, 0, jnp.maximum(count - 1, 0))
    first = (mask & (rows < ends[:, :1])).sum(-1)
    last = (mask & (rows <= ends[:, 1:])).sum(-1) - 1
    return jnp.stack([jnp.minimum(first, last), last], axis=-1).astype(jnp.float32)


def inclusive_iou(a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> jax.Array:
    """Returns the IoU of [...,2] with [...,2] clips, the last one included; leading axes broadcast."""
    return iou(half_open(a), half_open(b))


def half_open(span: jax.Array | np.ndarray) -> jax.Array:
    """[...,2] first and last clip -> where they begin and end, in clips."""
    return jnp.stack([span[..., 0], span[..., 1] + 1], axis=-1)


def soft_labels(overlap: jax.Array, legal: jax.Array, low: float) -> jax.Array:
    """Returns labels [B,M], IoUs [B,M] relative to the best legal one; 0 below `low` of it, or if not legal."""
    chex.assert_equal_shape([overlap, legal])
    overlap = jnp.where(legal, overlap, 0.0)
    best = overlap.max(-1, keepdims=True)
    overlap = jnp.where(overlap < low * best, 0.0, overlap)
    return overlap / jnp.where(best > 0, best, 1.0)


def rank_anchors(
    logits: jax.Array,
    clips: jax.Array | np.ndarray,
    legal: jax.Array,
    duration: jax.Array,
    video_mask: jax.Array,
    k: int,
) -> Moments:
    """Returns the k best of moments [B,M,2] in clips, in seconds and cut to the video; scores are sigmoids.

    All of them where k is 0. Each real clip is an equal part of the video; the last clip is included.
    """
    seconds = clip_length(duration, video_mask)[:, None, None]
    spans = jnp.clip(half_open(clips) * seconds, 0.0, duration[:, None, None])
    spans = jnp.stack([spans[..., 0], spans.max(-1)], axis=-1)  # an end before its start is the start
    return rank(spans, jax.nn.sigmoid(logits), legal, k or logits.shape[1])
