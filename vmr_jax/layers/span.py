"""A moment as a pair of clips, both included: labels, logits and ranking, as the official VSLNet has them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.losses import binary_cross_entropy, position_cross_entropy
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments


def pair_spans(duration: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T,T,2] seconds of the moments from clip i to clip j, both included (`index_to_time`)."""
    seconds = clip_length(duration, mask)[:, None]
    starts = jnp.arange(mask.shape[1])[None, :] * seconds
    shape = (*mask.shape, mask.shape[1])
    return jnp.stack(
        [jnp.broadcast_to(starts[:, :, None], shape), jnp.broadcast_to((starts + seconds)[:, None, :], shape)],
        axis=-1,
    )


def span_labels(span: jax.Array, duration: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns both clips [B] of the pair of highest IoU (`time_to_index`); of ties the first, row by row."""
    spans = pair_spans(duration, mask)
    real = jnp.triu(jnp.ones(spans.shape[1:3], bool))[None] & mask[:, :, None] & mask[:, None, :]
    overlap = jnp.where(real, iou(spans, span[:, None, None]), -1.0)
    best = overlap.reshape(overlap.shape[0], -1).argmax(-1)
    return best // mask.shape[1], best % mask.shape[1]


def highlight_labels(first: jax.Array, last: jax.Array, mask: jax.Array, extension: float) -> jax.Array:
    """Returns [B,T] bool, clips of the extended moment cut to the video (official `train_collate_fn`)."""
    extra = jnp.round(extension * (last - first + 1)).astype(jnp.int32)  # halves to even, as Python
    clip = jnp.arange(mask.shape[1])[None, :]
    return (clip >= (first - extra)[:, None]) & (clip <= (last + extra)[:, None]) & mask


# Logits of the clips, and moments.


def clip_logits(x: jax.Array, mask: jax.Array, name: str) -> jax.Array:
    """Returns logits [B,T] of clips [B,T,F] by a linear layer `name`, `MASKED` where the mask is False."""
    logits = xavier_linear(1, x.astype(jnp.float32), jnp.float32, name)[..., 0]
    return jnp.where(mask, logits, MASKED)


def boundary_logits(
    states: jax.Array, clips: jax.Array, mask: jax.Array, dtype: jnp.dtype, name: str
) -> jax.Array:
    """Returns logits [B,T] of states [B,T,F] beside clips [B,T,F]; layers `name`_hidden and `name`_logit."""
    hidden = jnp.concatenate([states, clips], axis=-1)
    hidden = nn.relu(xavier_linear(clips.shape[-1], hidden, dtype, f"{name}_hidden"))
    return clip_logits(hidden, mask, f"{name}_logit")


def highlight_errors(logits: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns the cross-entropy [B,T] of logits and labels, twice as heavy inside (`HighLightLayer`)."""
    return jnp.where(inside, 2.0, 1.0) * binary_cross_entropy(logits, inside)


def span_terms(
    start: jax.Array,
    end: jax.Array,
    highlight: jax.Array | None,
    batch: Batch,
    *,
    extension: float = 0.0,
    weight: float = 0.0,
    softness: float = 0.0,
) -> dict[str, Mean]:
    """'start', 'end': cross-entropy of both clips; 'highlight': `highlight_errors` of the clips of a moment.

    Args:
      start: logits [B,T].
      end: likewise.
      highlight: logits [B,T] of being in the extended moment; None leaves its term out.
      batch: the batch.
      extension: share of the moment's clips by which the highlight goes beyond it on each side.
      weight: of the term 'highlight'.
      softness: share of a label that each clip beside the right one has.
    """
    first, last = span_labels(batch.span, batch.duration, batch.video_mask)
    terms = {
        name: Mean.of(soft_cross_entropy(logits, clip, batch.video_mask, softness), batch.example_mask)
        for name, logits, clip in (("start", start, first), ("end", end, last))
    }
    if highlight is not None:
        inside = highlight_labels(first, last, batch.video_mask, extension)
        errors = highlight_errors(highlight, inside)  # official `HighLightLayer.compute_loss`
        counted = batch.video_mask & batch.example_mask[:, None]
        terms["highlight"] = Mean.of(errors, counted, weight)
    return terms


def soft_cross_entropy(logits: jax.Array, clip: jax.Array, mask: jax.Array, softness: float) -> jax.Array:
    """Returns the cross-entropy [B] of logits [B,T] with clips [B], and with their neighbours by a share.

    Args:
      logits: of the clips.
      clip: the right one.
      mask: [B,T] bool, which clips are real.
      softness: share of the label that each neighbour has; 0 leaves it to the clip. A share of a neighbour that
        does not exist, at the border of the video, goes to the clip.
    """
    if not softness:
        return position_cross_entropy(logits, clip)
    beside = (jnp.abs(jnp.arange(mask.shape[1])[None] - clip[:, None]) == 1) & mask
    errors = jax.nn.logsumexp(logits, axis=-1, keepdims=True) - logits
    others = jnp.where(beside, softness * errors, 0.0).sum(-1)
    return others + (1.0 - softness * beside.sum(-1)) * position_cross_entropy(logits, clip)


def pair_probabilities(
    start: jax.Array, end: jax.Array, mask: jax.Array, longest_share: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns products [B,T,T] of both softmaxes, and which are moments: start <= end, both real.

    Start and end are independent of each other in a product. As long as both are broad, and moments at the
    borders of the video are frequent, its best pair is the whole video, however rarely a moment is that long.
    `longest_share` says what share of the video a moment has at most, though a clip at least; 1 is any (ours).
    """
    start, end = masked_softmax(start, mask), masked_softmax(end, mask)
    clip = jnp.arange(mask.shape[1])
    length = (clip[None, :] - clip[:, None] + 1)[None]
    # A share of the clips that is a whole number of them is not to fall below it by rounding.
    longest = jnp.maximum(jnp.floor(longest_share * mask.sum(1) + 1e-4), 1)[:, None, None]
    possible = (length >= 1) & (length <= longest) & mask[:, :, None] & mask[:, None, :]
    return start[:, :, None] * end[:, None, :], possible


def rank_pairs(
    start: jax.Array,
    end: jax.Array,
    duration: jax.Array,
    mask: jax.Array,
    keep: int,
    longest_share: float = 1.0,
) -> Moments:
    """Returns the `keep` most probable moments of logits [B,T], all where it is 0; see `pair_probabilities`."""
    return rank_probabilities(*pair_probabilities(start, end, mask, longest_share), duration, mask, keep)


def rank_probabilities(
    probability: jax.Array, possible: jax.Array, duration: jax.Array, mask: jax.Array, keep: int
) -> Moments:
    """Returns the `keep` most probable moments of pairs [B,T,T], all of them where it is 0."""
    size, length = probability.shape[:2]
    flat = (size, length * length)
    return rank(
        pair_spans(duration, mask).reshape(*flat, 2),
        probability.reshape(flat),
        possible.reshape(flat),
        min(keep or flat[1], flat[1]),
    )


def explain_pairs(start: jax.Array, end: jax.Array, mask: jax.Array, longest_share: float = 1.0) -> jax.Array:
    """Returns probabilities [B,T,T] of the pairs relative to the best, NaN where there is no moment."""
    return relative(*pair_probabilities(start, end, mask, longest_share))


def relative(probability: jax.Array, possible: jax.Array) -> jax.Array:
    """Returns probabilities [B,T,T] over the largest of a possible pair, NaN where a pair is not possible."""
    best = jnp.maximum(jnp.where(possible, probability, 0.0).max((1, 2)), 1e-30)[:, None, None]
    return jnp.where(possible, probability / best, jnp.nan)
