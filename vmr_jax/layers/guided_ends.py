"""A moment by the probabilities of its ends, with soft labels, and attention that it guides: TMLGA's head.

The constants are those of the official code of TMLGA (crodriguezo/TMLGA), which DORi's has too.
"""

import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.span import explain_pairs, pair_spans, rank_pairs
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

FLOOR = 1e-13  # added to every probability (official `masked_softmax`)
_REST = 1e-10  # share of the label at a clip that is not next to its middle (official `epsilon`)
_EPSILON = 1e-12  # keeps the logarithm of the attention loss finite (official `forward`)


@struct.dataclass
class GuidedEnds:
    """Logits and attention of each clip, [B,T] float32."""

    start: jax.Array  # logits, `MASKED` at padded clips
    end: jax.Array
    attention: jax.Array  # sums to 1, zero at padded clips


def word_scaled(fit: jax.Array, query_mask: jax.Array) -> jax.Array:
    """Returns logits [B,T] float32 over the square root of the number of words of a query, mask [B,L]."""
    words = jnp.maximum(query_mask.sum(1), 1).astype(jnp.float32)
    return fit.astype(jnp.float32) * jax.lax.rsqrt(words)[:, None]


def read_ends(
    clips: jax.Array,
    batch: Batch,
    train: bool,
    *,
    features: int,
    layers: int,
    use_bias: bool,
    dropout: float,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B,T] of the first and of the last clip, of clips [B,T,F].

    Layers 'gru' (bidirectional, `features` units in each direction), 'start' and 'end' of the calling module.
    """
    mask = batch.video_mask
    localize = GRU(features, layers, True, dtype, dropout, use_bias=use_bias, name="gru")
    states = localize(clips, mask, batch.example_index, train).astype(jnp.float32)
    start, end = (torch_linear(1, states, jnp.float32, name)[..., 0] for name in ("start", "end"))
    return jnp.where(mask, start, MASKED), jnp.where(mask, end, MASKED)


class GuidedLocalizer:
    """Loss and moments of an architecture whose outputs are `GuidedEnds`, with these fields of TMLGA's."""

    attention_weight: float
    independent_ends: bool
    keep: int
    longest_share: float

    def loss(self, outputs: GuidedEnds, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start' and 'end': divergence from the soft labels; 'attention': what lies outside of the moment.

        The term of the attention is left out where its weight is 0.
        """
        del epoch
        mask, real = batch.video_mask, batch.example_mask
        first, last = end_clips(batch.span, batch.duration, mask)
        terms = {
            name: Mean.of(divergence(logits, clip, mask), real)
            for name, logits, clip in (("start", outputs.start, first), ("end", outputs.end, last))
        }
        if self.attention_weight:
            guidance = attention_loss(outputs.attention, first, last, mask)
            terms["attention"] = Mean.of(guidance, real, self.attention_weight)
        return terms

    def predict(self, outputs: GuidedEnds, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities.

        Pairs of a start and an end that is not before it are ranked, all where `keep` is 0. With
        `independent_ends` there is one moment, of the best start and the best end, each for itself; it is empty
        where the end comes first.
        """
        if not self.independent_ends:
            return rank_pairs(
                outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
            )
        probability = [masked_softmax(logits, batch.video_mask) for logits in (outputs.start, outputs.end)]
        first, last = (x.argmax(-1) for x in probability)
        row = jnp.arange(batch.size)
        spans = pair_spans(batch.duration, batch.video_mask)
        begin, end = spans[row, first, first, 0], spans[row, last, last, 1]
        span = jnp.stack([begin, jnp.maximum(begin, end)], axis=-1)
        score = (probability[0].max(-1) * probability[1].max(-1))[:, None]
        return rank(span[:, None], score, jnp.ones_like(score, bool), 1)

    def explain(self, outputs: GuidedEnds, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities of pairs relative to the best, 'map' [B,T,T], and attention, 'clips' [B,T]."""
        highest = jnp.maximum(outputs.attention.max(-1, keepdims=True), 1e-30)
        return {
            "map": explain_pairs(outputs.start, outputs.end, batch.video_mask, self.longest_share),
            "clips": jnp.where(batch.video_mask, outputs.attention / highest, jnp.nan),
        }


# Labels and losses.


def end_clips(span: jax.Array, duration: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the clips [B] that hold start and end of moments [B,2], seconds; the last one if beyond it."""
    count = mask.sum(1)
    clips = jnp.floor(span / duration[:, None] * count[:, None]).astype(jnp.int32)
    clips = jnp.clip(clips, 0, jnp.maximum(count - 1, 0)[:, None])
    return clips[:, 0], clips[:, 1]


def soft_label(clip: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T], a half at clips [B], a quarter at neighbours that there are, next to nothing elsewhere.

    At the border of the video the label sums to three quarters (official `CHARADES_STA`).
    """
    away = jnp.abs(jnp.arange(mask.shape[1])[None] - clip[:, None])
    beside = (1.0 - (mask.sum(1) - 3) * _REST - 0.5) / 2
    label = jnp.where(away == 0, 0.5, jnp.where(away == 1, beside[:, None], _REST))
    return jnp.where(mask, label, 0.0)


def divergence(logits: jax.Array, clip: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B], the Kullback-Leibler divergence of softmax(logits [B,T]) from the label of clips [B]."""
    label = soft_label(clip, mask)
    probability = masked_softmax(logits, mask) + FLOOR
    ratio = jnp.log(jnp.where(mask, label, 1.0)) - jnp.log(jnp.where(mask, probability, 1.0))
    return (label * ratio).sum(-1)


def attention_loss(attention: jax.Array, first: jax.Array, last: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B], minus the log of what attention [B,T] leaves, over the clips outside of [first, last).

    The clip of the end counts as outside, as in the official code. What a clip leaves is summed over all
    others: 1 - attention, as there, is 0 in float32 where one clip has it all, and the loss infinite.
    """
    place = jnp.arange(mask.shape[1])[None]
    outside = mask & ((place < first[:, None]) | (place >= last[:, None]))
    left = jnp.dot(attention, (place != place.T).astype(attention.dtype), precision="highest")
    return jnp.where(outside, -jnp.log(left - FLOOR + _EPSILON), 0.0).sum(-1)
