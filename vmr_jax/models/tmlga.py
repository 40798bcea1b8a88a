"""TMLGA: a filter made of the query lights up the clips that fit it; both ends are found on what is lit.

Tensors (F = `features`, E = `recurrent_features`; the names of the official code at the right):

    batch.video   [B,T,D]    feature rows, not normalised; all rows of a video
    words         [B,L,2E]   bidirectional GRU over the words                            tail_df
    filter        [B,F]      tanh of a linear layer on the mean of the words             head_df
    clips         [B,T,F]    linear layer                                                reduction
    attention     [B,T]      softmax of clip . filter / sqrt(number of words)            attention
    states        [B,T,2E]   two-layer bidirectional GRU over the clips times their
                             attention                                                   rnn_localization
    start, end    [B,T]      logits of the first and of the last clip                    starting, ending

The labels of both ends are soft: half of the mass on the clip itself, a quarter on each neighbour.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU, mean_state
from vmr_jax.layers.span import explain_pairs, pair_spans, rank_pairs
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title=(
        "Proposal-free Temporal Moment Localization of a Natural-Language Query in Video using Guided Attention"
    ),
    authors=("Rodriguez-Opazo", "Marrese-Taylor", "Saleh", "Li", "Gould"),
    venue="WACV",
    year=2020,
    family="span",
    kind="guided attention, soft labels of both ends",
    supervision="full",
    features="I3D; GloVe",
    official_code="crodriguezo/TMLGA@da696a4cb723 (PyTorch)",
    ours=(
        "Pairs of a start and an end that is not before it are ranked by the product of their probabilities; "
        "the official program takes the best of each for itself (`independent_ends`).",
        "The softmax is over the real clips. The official one takes padded clips for zeros and divides by what "
        "is left: where all real logits are far below zero, probabilities differ by up to 6e-5 of their size.",
        "Words are split as GloVe's are, without punctuation and names as they are; the official program puts "
        "the kind of a name in its place. Words without a vector are zero, where it has fixed random ones.",
        "Rows beyond config.input.num_clips are averaged; no video of Charades-STA's test split has so many.",
        "On ActivityNet Captions the official program trains on every pair twice, once with a random part "
        "before the moment cut off; here on each once.",
        "The L2 term is in the gradient when that is clipped; the official program adds it behind.",
    ),
    verified=(
        "4,003,332 parameters with I3D features, as in the official code, of which 1,538 are in layers that it "
        "builds and does not use.",
        "Against the official code at this commit, running, with random weights of two sizes, eight real pairs "
        "of ragged length in one batch, moments at both borders among them, with and without biases: rows are "
        "the same; probabilities of start and end agree to 3e-7 of their size (with the larger weights, 6e-5), "
        "attention to 8e-6, the objective to 7e-8, gradients to 1.2e-5, and the best moment where the start "
        "is before the end. A clip alone and in a padded batch agree there to 2.4e-7.",
        "Labels of 3,720 real moments: 3 differ by a clip, by rounding of seconds to float32.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-4.",
        "Whole models, as the official program saves them, are imported, and its two files of word vectors.",
    ),
)
_FLOOR = 1e-13  # added to every probability (official `masked_softmax`)
_REST = 1e-10  # of the label, at a clip away from its middle (official `epsilon`)
_EPSILON = 1e-12  # keeps the logarithm of the attention loss finite (official `forward`)


@struct.dataclass
class Outputs:
    """Logits and attention of each clip, [B,T] float32."""

    start: jax.Array  # logits, `MASKED` at padded clips
    end: jax.Array
    attention: jax.Array  # sums to 1, zero at padded clips


class Model(GroundingModel):
    """TMLGA, with the settings of the official code for Charades-STA.

    Attributes:
      features: F, width of clips and filter.
      recurrent_features: E, units of both GRUs in each direction.
      recurrent_layers: number of layers of the GRU over the clips.
      use_bias: whether the GRUs have biases.
      attention_weight: weight of the loss of the attention, 0 leaves it out.
      dropout: dropout rate between the layers of the GRU over the clips.
      independent_ends: whether the moment is that of the best start and the best end, each for itself, as the
        official program has it: one moment a query, empty where the end comes first. False ranks pairs of a
        start and an end that is not before it, by the product of both probabilities.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, attention, logits and losses are float32.
    """

    features: int = 512
    recurrent_features: int = 256
    recurrent_layers: int = 2
    use_bias: bool = False
    attention_weight: float = 1.0
    dropout: float = 0.5
    independent_ends: bool = False
    keep: int = 100
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    positive = ("recurrent_layers",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end."""
        batch.check()
        mask, width = batch.video_mask, self.recurrent_features
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        read = GRU(width, bidirectional=True, dtype=self.dtype, use_bias=self.use_bias, name="query_gru")
        sentence = mean_state(read(words, batch.query_mask), batch.query_mask)
        query = jnp.tanh(torch_linear(self.features, sentence, self.dtype, "filter"))

        clips = torch_linear(self.features, batch.video, self.dtype, "clips")
        fit = jnp.einsum("btf,bf->bt", clips, query).astype(jnp.float32)
        fit = fit * jax.lax.rsqrt(jnp.maximum(batch.query_mask.sum(1), 1).astype(jnp.float32))[:, None]
        attention = masked_softmax(fit, mask)

        lit = jnp.where(mask, attention + _FLOOR, 0.0).astype(self.dtype)[..., None] * clips
        layers = self.recurrent_layers
        localize = GRU(width, layers, True, self.dtype, self.dropout, use_bias=self.use_bias, name="gru")
        states = localize(lit, mask, batch.example_index, train).astype(jnp.float32)
        start, end = (torch_linear(1, states, jnp.float32, name)[..., 0] for name in ("start", "end"))
        return Outputs(
            start=jnp.where(mask, start, MASKED), end=jnp.where(mask, end, MASKED), attention=attention
        )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start' and 'end': divergence from the soft labels; 'attention': what lies outside of the moment."""
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

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        if not self.independent_ends:
            return rank_pairs(outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep)
        probability = [masked_softmax(logits, batch.video_mask) for logits in (outputs.start, outputs.end)]
        first, last = (x.argmax(-1) for x in probability)
        row = jnp.arange(batch.size)
        spans = pair_spans(batch.duration, batch.video_mask)
        begin, end = spans[row, first, first, 0], spans[row, last, last, 1]
        span = jnp.stack([begin, jnp.maximum(begin, end)], axis=-1)
        score = (probability[0].max(-1) * probability[1].max(-1))[:, None]
        return rank(span[:, None], score, jnp.ones_like(score, bool), 1)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities of pairs relative to the best, 'map' [B,T,T], and attention, 'clips' [B,T]."""
        highest = jnp.maximum(outputs.attention.max(-1, keepdims=True), 1e-30)
        return {
            "map": explain_pairs(outputs.start, outputs.end, batch.video_mask),
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
    probability = masked_softmax(logits, mask) + _FLOOR
    ratio = jnp.log(jnp.where(mask, label, 1.0)) - jnp.log(jnp.where(mask, probability, 1.0))
    return (label * ratio).sum(-1)


def attention_loss(attention: jax.Array, first: jax.Array, last: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B], minus the log of what attention [B,T] leaves, over the clips outside of [first, last).

    The clip of the end counts as outside, as in the official code.
    """
    place = jnp.arange(mask.shape[1])[None]
    outside = mask & ((place < first[:, None]) | (place >= last[:, None]))
    return jnp.where(outside, -jnp.log(1.0 - (attention + _FLOOR) + _EPSILON), 0.0).sum(-1)
