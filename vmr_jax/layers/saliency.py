"""How salient the clips of a video are for a query: pairs of clips, one of which is to be ahead.

Labels and loss of Moment-DETR (Lei, Berg and Bansal, NeurIPS 2021), which its successors share; names in
backquotes are those of jayleicn/moment_detr@b7e553ac3b0c.
"""

import jax
import jax.numpy as jnp

from vmr_jax.layers.clips import clip_length
from vmr_jax.types import Mean

Pairs = tuple[
    jax.Array, jax.Array, jax.Array
]  # positions [B,2] of the more and of the less salient clips, mask


def relevant_clips(
    windows: jax.Array, window_mask: jax.Array, duration: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns [B,T] bool, clips whose middle is in one of the windows [B,A,2], or that hold the middle of one.

    The second matters for windows so short that no clip has its middle there.
    """
    seconds = clip_length(duration, mask)[:, None, None]
    clip = jnp.arange(mask.shape[1])[None, :, None]
    middle = (clip + 0.5) * seconds  # [B,T,1]
    start, end = windows[:, None, :, 0], windows[:, None, :, 1]
    inside = (start <= middle) & (middle < end)
    offset = (start + end) / 2 - middle
    holds = (-seconds / 2 < offset) & (offset <= seconds / 2)
    return ((inside | holds) & window_mask[:, None]).any(-1) & mask


def annotated_pairs(relevant: jax.Array, scores: jax.Array, mask: jax.Array, draws: jax.Array) -> Pairs:
    """Pairs of clips by annotators' scores (`get_saliency_labels`): the more and the less salient one [B,2].

    Returns their positions and which pairs exist.

    The first pair is hard: the best and the worst relevant clip; among equal ones the last is the best and the
    first the worst. The second is easy: a random relevant one and a random other one; it is the first again
    where all clips are relevant. All arguments are [B,T].
    """
    backwards = jnp.where(relevant, scores, -jnp.inf)[:, ::-1]
    best = scores.shape[1] - 1 - backwards.argmax(-1)
    worst = jnp.where(relevant, scores, jnp.inf).argmin(-1)
    inside, outside = _random_clips(relevant, draws, 1)[0], _random_clips(~relevant & mask, draws, 1)[0]
    others = (~relevant & mask).any(-1)
    high = jnp.stack([best, jnp.where(others, inside[:, 0], best)], axis=1)
    low = jnp.stack([worst, jnp.where(others, outside[:, 0], worst)], axis=1)
    return high, low, jnp.broadcast_to(relevant.any(-1, keepdims=True), high.shape)


def random_pairs(relevant: jax.Array, mask: jax.Array, draws: jax.Array) -> Pairs:
    """Two random pairs of a relevant and another clip, as `annotated_pairs`; both are one where it is alone.

    Source: `get_saliency_labels_sub_as_query` of jayleicn/moment_detr.
    """
    (high, some), (low, others) = (_random_clips(x, draws, 2) for x in (relevant, ~relevant & mask))
    return high, low, jnp.broadcast_to((some & others)[:, None], high.shape)


def _random_clips(candidates: jax.Array, draws: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns positions [B,count] of different candidates [B,T], else the first again, and if there is any."""
    values, clips = jax.lax.top_k(jnp.where(candidates, draws, -1.0), count)
    return jnp.where(values >= 0, clips, clips[:, :1]), candidates.any(-1)


def compared_pairs(relevant: jax.Array, scores: jax.Array | None, mask: jax.Array, draws: jax.Array) -> Pairs:
    """The pairs of `annotated_pairs` where annotators gave scores [B,T], else of `random_pairs`.

    A clip that has a score is relevant too. The other arguments are [B,T].
    """
    if scores is None:
        return random_pairs(relevant, mask, draws)
    return annotated_pairs(relevant | ((scores > 0) & mask), scores, mask, draws)


def pair_loss(saliency: jax.Array, pairs: Pairs, example_mask: jax.Array, margin: float, weight: float) -> Mean:
    """Hinge loss of the pairs of a query, added up (`loss_saliency`): the first clip is to be ahead by
    `margin`.

    Args:
      saliency: scores [B,T] of the clips.
      pairs: those of `compared_pairs`.
      example_mask: [B] bool, False for rows that only fill the batch.
      margin: difference of the scores from which on a pair costs nothing.
      weight: weight of the loss.
    """
    high, low, mask = pairs
    high, low = (jnp.take_along_axis(saliency, clips, axis=1) for clips in (high, low))
    behind = jax.nn.relu(margin + low - high)
    return Mean.of(behind, mask & example_mask[:, None], mask.shape[1] * weight)


def share_of_most(saliency: jax.Array, mask: jax.Array) -> jax.Array:
    """Scores [B,T] between the least (0) and the most (1) of the real clips of mask [B,T]; NaN at padding.

    The score of padding is below all others.
    """
    most = saliency.max(-1, keepdims=True)
    least = jnp.where(mask, saliency, jnp.inf).min(-1, keepdims=True)
    share = (saliency - least) / jnp.maximum(most - least, 1e-6)
    return jnp.where(mask, share, jnp.nan)
