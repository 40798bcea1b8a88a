"""Moments as a set: the candidates of a decoder's slots are matched with the annotated moments, one to one.

The matching and the losses of DETR (Carion et al., ECCV 2020) along one axis, as Moment-DETR (Lei, Berg and
Bansal, NeurIPS 2021) and its successors have them; names in backquotes are those of
jayleicn/moment_detr@b7e553ac3b0c. A candidate is a span (centre and width, as shares of the video) and two
logits.

Axes beyond the usual: I layers of a decoder, each of which answers with M candidates, one a slot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vmr_jax.moments import iou, rank
from vmr_jax.types import Mean, Moments

MOMENT = 0  # index of the class 'moment'; 1 is 'none' (`SetCriterion`: foreground_label 0)

# Spans as centre and width, or as start and end (`span_utils.py`).


def bounds(spans: jax.Array) -> jax.Array:
    """Returns (start, end) of (centre, width) [...,2]."""
    centre, half = spans[..., 0], spans[..., 1] / 2
    return jnp.stack([centre - half, centre + half], axis=-1)


def centre_width(spans: jax.Array) -> jax.Array:
    """Returns (centre, width) of (start, end) [...,2]."""
    return jnp.stack([spans.mean(-1), spans[..., 1] - spans[..., 0]], axis=-1)


def generalized_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU - (hull - union) / hull, in (-1, 1], of spans [...,2] with [...,2] (start, end).

    The hull is the shortest span over both; a gap between them is a loss (Rezatofighi et al., CVPR 2019).
    """
    hull = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    # On a line the union is the hull, less the gap between them where they do not meet.
    gap = jnp.maximum(hull - lengths, 0.0)
    return iou(a, b) - gap / jnp.where(hull > 0, hull, 1.0)


# Matching.


def choose_windows(mask: jax.Array, draws: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns positions and mask [B,A'] of up to A' = min(most, A) windows of mask [B,A], by draws [B,A]."""
    chosen = jax.lax.top_k(jnp.where(mask, draws, -1.0), min(most, mask.shape[1]))[1]
    return chosen, jnp.take_along_axis(mask, chosen, axis=1)


def match(cost: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the assignment of least cost: the slot [A] of each annotated moment, and which moments have one.

    Args:
      cost: [M,A] of answering annotated moment a with slot m; no gradient goes through.
      mask: [A] bool, the real annotated moments. As many as there are slots are matched.
    """
    # Columns of padding cost more than any real one, so none is preferred to a real one, and the same whatever
    # the slot, so they do not sway the others.
    cost = jnp.where(mask[None, :], cost, cost.max() + 1.0)
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    query = jnp.zeros(mask.shape, jnp.int32).at[columns].set(rows.astype(jnp.int32))
    return query, jnp.zeros(mask.shape, bool).at[columns].set(True) & mask


# Losses and prediction.


class SetWeights(NamedTuple):
    """Weights of the losses; the first three are those of the matching too.

    Attributes:
      span: of the L1 distance.
      giou: of the generalised IoU.
      label: of the classes.
      none: of the class 'none' in the loss, beside 1 of the class 'moment'.
    """

    span: float
    giou: float
    label: float
    none: float


def set_truth(
    windows: jax.Array, mask: jax.Array, duration: jax.Array, draws: jax.Array, most: int
) -> tuple[jax.Array, jax.Array]:
    """The moments to learn: centre and width [B,A',2] as shares of the video, and their mask [B,A'].

    Args:
      windows: annotated moments [B,A,2], in seconds.
      mask: [B,A] bool, the real ones.
      duration: [B] seconds.
      draws: [B,A] uniform numbers, by which A' = min(most, A) of them are chosen.
      most: number of moments of a query that are learnt in a step.
    """
    chosen, mask = choose_windows(mask, draws, most)
    windows = jnp.take_along_axis(windows, chosen[..., None], axis=1)
    return centre_width(windows / duration[:, None, None]), mask


def set_losses(
    logits: jax.Array,
    spans: jax.Array,
    truth: jax.Array,
    mask: jax.Array,
    example_mask: jax.Array,
    weights: SetWeights,
) -> dict[str, Mean]:
    """'span', 'giou' and 'label' of the matched candidates (`SetCriterion`), added up over the I layers.

    Args:
      logits: [B,I,M,2] of 'moment' and 'none', after each layer of the decoder.
      spans: [B,I,M,2] centre and width.
      truth: [B,A,2] centre and width of the moments to learn.
      mask: [B,A] bool, the real ones of real rows.
      example_mask: [B] bool, False for rows that only fill the batch.
      weights: of the losses, and of the matching.
    """
    truth = truth[:, None]
    cost = jax.lax.stop_gradient(_cost(logits, spans, truth, weights))
    slot, found = jax.vmap(jax.vmap(match, (0, None)))(cost, mask)  # [B,I,A]
    matched = jnp.take_along_axis(spans, slot[..., None], axis=2)
    distance = jnp.abs(matched - truth)  # `loss_spans`
    missed = 1.0 - generalized_iou(bounds(matched), bounds(truth))

    of_slot = slot[..., None] == jnp.arange(logits.shape[2])[None, None, None]  # [B,I,A,M]
    is_moment = (of_slot & found[..., None]).any(2)
    logit = jnp.where(is_moment, logits[..., MOMENT], logits[..., 1 - MOMENT])
    errors = jax.nn.logsumexp(logits, axis=-1) - logit  # `loss_labels`
    errors = jnp.where(is_moment, 1.0, weights.none) * errors
    counted = jnp.broadcast_to(example_mask[:, None, None], errors.shape)
    # The losses of the layers are added up; as many moments are matched in each.
    layers = cost.shape[1]
    both = jnp.broadcast_to(found[..., None], distance.shape)
    return {
        "span": Mean.of(distance, both, layers * weights.span),
        "giou": Mean.of(missed, found, layers * weights.giou),
        "label": Mean.of(errors, counted, layers * weights.label),
    }


def _cost(logits: jax.Array, spans: jax.Array, truth: jax.Array, weights: SetWeights) -> jax.Array:
    """The cost [B,I,M,A] of matching the annotated moments [B,1,A,2] with the slots (`HungarianMatcher`)."""
    spans, truth = spans[:, :, :, None], truth[:, :, None]
    distance = jnp.abs(spans - truth).sum(-1)
    overlap = generalized_iou(bounds(spans), bounds(truth))
    probability = jax.nn.softmax(logits, axis=-1)[..., MOMENT]
    return weights.span * distance - weights.giou * overlap - weights.label * probability[..., None]


def set_moments(logits: jax.Array, spans: jax.Array, duration: jax.Array, round_to: float) -> Moments:
    """The candidates of a layer, best first; the score is the probability of being a moment.

    Source: `compute_mr_results` and `PostProcessorDETR`.

    Args:
      logits: [B,M,2].
      spans: [B,M,2] centre and width.
      duration: [B] seconds, to which the moments are cut.
      round_to: step in seconds to which times are rounded; 0 leaves them as they are.
    """
    scores = jax.nn.softmax(logits, axis=-1)[..., MOMENT]
    length = duration[:, None, None]
    seconds = bounds(spans) * length
    if round_to:
        seconds = jnp.round(seconds / round_to) * round_to  # halves to even, as in PyTorch
    seconds = jnp.clip(seconds, 0.0, length)
    return rank(seconds, scores, jnp.ones(scores.shape, bool), scores.shape[1])
