"""VSLNet-L: VSLNet for long videos, which are cut into pieces, read piece by piece and put together again.

Tensors (F = `features`; l = ceil(n / i) of a video of n clips in i pieces):

    batch.video        [B,T,D]    clip features, not normalised; longer than VSLNet's 128 rows
    words              [B,L,F]    word vectors, characters, a linear layer, the shared encoder
    pieces             [B,i,p,F]  clips k * l to (k + 1) * l of the video; the last piece may be shorter
    fused              [B*i,p,F]  each piece for itself: the shared encoder, whose positions begin anew,
                                  context-query attention, the pooled query at every clip
    nil                [B,i]      logit of the nil prediction module: the piece has a part of the moment
    whole              [B,T,F]    pieces times their probabilities, one after the other again
    highlight          [B,Z,T]    logit of being in the extended moment
    start, end         [B,Z,T]    logits of the first and of the last clip

At each of several scales the video is read once, with the same parameters; a pair of clips has the largest
probability that a scale gives it. A solution of Ego4D's challenge that has the same module (see the card) is
"port" in this file. Letters beyond the usual: Z scales, i pieces of a video at a scale, p clips of the longest
piece.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.characters import QueryEmbedding
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.qanet import (
    SPAN_PREDICTORS,
    ContextQueryAttention,
    FeatureEncoder,
    QueryConcat,
    check_reads,
    conditioned_states,
)
from vmr_jax.layers.span import (
    boundary_logits,
    clip_logits,
    pair_probabilities,
    rank_probabilities,
    relative,
    span_labels,
    span_terms,
)
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Natural Language Video Localization: A Revisit in Span-based Question Answering Framework",
    authors=("Zhang", "Sun", "Jing", "Zhen", "Zhou", "Goh"),
    venue="TPAMI",
    year=2021,
    family="span",
    kind="question answering over pieces of long videos, nil prediction",
    supervision="full",
    features="I3D; GloVe, characters",
    ours=(
        "The authors published VSLNet, not VSLNet-L, and the paper was not at hand: its citation is that of "
        "their README (26hzhang/VSLNet@3793c625f2e2), the structure is from memory and from a solution of "
        "Ego4D's challenge that has the same module and pieces, "
        "NNNNAI/Ego4d_NLQ_2022_1st_Place_Solution@bf4b15e24723 (PyTorch), which is not theirs. No reproduction "
        "is claimed.",
        "The scales, the weight of the nil loss and the length of the sequences are ours. Every step learns "
        "all scales, where that program draws one for each batch; the expected gradient is the same.",
        "A piece counts as one of the moment wherever they overlap; with nil_labels='ends', as in that "
        "program, only where the first or the last clip of the moment lies in it.",
        "The pieces of a video are cut by its own length, in that program by the longest of the batch, so that "
        "a result does not depend on the other videos.",
        "A pair of clips has the largest probability of all scales; the paper's other rule is not known here.",
    ),
    verified=(
        "At one scale of one piece whose nil probability is 1, outputs, labels and prediction are VSLNet's.",
        "The nil prediction module and its loss, with labels of both ends, equal those of the Ego4D solution "
        "at this commit, running, to 1e-6.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits, float32, `MASKED` at padded clips."""

    start: jax.Array  # [B,Z,T]
    end: jax.Array  # [B,Z,T]
    highlight: jax.Array  # [B,Z,T]
    nil: tuple[jax.Array, ...]  # [B,i] of each scale; at pieces without clips meaningless


class Model(GroundingModel):
    """VSLNet-L. Where nothing else is said, the defaults are those of VSLNet, or ours.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads of the self-attention.
      conv_layers: number of depthwise-separable convolutions of the feature encoder.
      conv_kernel: kernel size of these convolutions.
      max_positions: number of clips and words that have a position; the span predictor sees the whole video.
      scales: numbers i of pieces that the video is cut into, Z of them.
      predictor: kind of the span predictor, 'rnn' or 'transformer'.
      highlight_weight: weight of the highlighting loss.
      nil_weight: weight of the nil prediction loss.
      nil_labels: which pieces are of the moment: 'overlap', or 'ends', see the card.
      extension: share of the moment's clips by which the highlight goes beyond it on each side.
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of all layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    features: int = 128
    heads: int = 8
    conv_layers: int = 4
    conv_kernel: int = 7
    max_positions: int = 512
    scales: tuple[int, ...] = (2, 3, 4, 5)  # ours
    predictor: str = "transformer"
    highlight_weight: float = 5.0
    nil_weight: float = 1.0
    nil_labels: str = "overlap"
    extension: float = 0.1
    char_features: int = 50
    num_chars: int = 40
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    longest_share: float = 1.0
    dtype: jnp.dtype = jnp.float32

    choices = {"predictor": SPAN_PREDICTORS, "nil_labels": ("overlap", "ends")}
    positive = ("scales",)
    of_evaluation = ("longest_share",)

    def requires(self) -> tuple[str, ...]:
        """Names the characters of the words."""
        return ("query_chars",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end at every scale.

        Raises UserError for more clips than have a position.
        """
        batch.check()
        check_reads("VSLNet-L", batch, self.max_positions)
        index, mask = batch.example_index, batch.video_mask
        sizes = (self.features, self.char_features, self.num_chars, self.dropout, self.vocab_size)
        words = QueryEmbedding(*sizes, self.dtype, name="words")(batch, train)
        clips = Dropout(self.dropout)(batch.video.astype(self.dtype), index, train)
        clips = xavier_linear(self.features, clips, self.dtype, "clips")
        encoder = self._encoder("encoder")
        query = encoder(words, batch.query_mask, index, train)
        attention = ContextQueryAttention(self.features, self.dropout, self.dtype, name="attention")
        concat = QueryConcat(self.features, self.dtype, name="concat")
        nil = NilPrediction(name="nil")

        wholes, nil_logits = [], []
        for number in self.scales:
            place, real = pieces(mask, number)
            inside, of_piece = fold(real), repeated(index, number)
            video = jnp.take_along_axis(clips, place.reshape(batch.size, -1)[..., None], axis=1)
            video = encoder(video.reshape(*inside.shape, -1), inside, of_piece, train)
            asked, asked_mask = (jnp.repeat(x, number, axis=0) for x in (query, batch.query_mask))
            fused = attention(video, asked, inside, asked_mask, of_piece, train)
            fused = concat(fused, asked, asked_mask)
            logits = nil(fused, inside)
            fused = fused * jax.nn.sigmoid(logits).astype(self.dtype)[:, None, None]
            wholes.append(joined(fused.reshape(*real.shape, -1), mask))
            nil_logits.append(logits.reshape(-1, number))

        # All scales at once, as rows of a larger batch.
        count = len(self.scales)
        fused, seen = fold(jnp.stack(wholes, axis=1)), jnp.repeat(mask, count, axis=0)
        highlight = clip_logits(fused, seen, "highlight_logit")
        fused = fused * jax.nn.sigmoid(highlight).astype(self.dtype)[..., None]
        states = conditioned_states(
            self.predictor, lambda: self._encoder("span_encoder"), fused, seen, repeated(index, count), train
        )
        ends = (
            boundary_logits(state, fused, seen, self.dtype, name)
            for name, state in zip(("start", "end"), states)
        )
        start, end, highlight = (x.reshape(batch.size, count, -1) for x in (*ends, highlight))
        return Outputs(start=start, end=end, highlight=highlight, nil=tuple(nil_logits))

    def _encoder(self, name: str) -> FeatureEncoder:
        sizes = (self.features, self.heads, self.conv_layers, self.conv_kernel, self.max_positions)
        return FeatureEncoder(*sizes, self.dropout, self.dtype, name=name)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Means over the scales: 'start', 'end' and 'highlight' as in VSLNet, 'nil' of the pieces."""
        del epoch
        first, last = span_labels(batch.span, batch.duration, batch.video_mask)
        total: dict[str, Mean] = {}
        for s, logits in enumerate(outputs.nil):
            terms = span_terms(
                outputs.start[:, s],
                outputs.end[:, s],
                outputs.highlight[:, s],
                batch,
                extension=self.extension,
                weight=self.highlight_weight,
            )
            _, real = pieces(batch.video_mask, logits.shape[1])
            labels = piece_labels(first, last, batch.video_mask, logits.shape[1], self.nil_labels)
            counted = real.any(-1) & batch.example_mask[:, None]
            # Twice as heavy where there is a part of the moment (port: `loss_NPM`).
            errors = jnp.where(labels, 2.0, 1.0) * binary_cross_entropy(logits, labels)
            terms["nil"] = Mean.of(errors, counted, self.nil_weight)
            total = {name: total[name] + term if total else term for name, term in terms.items()}
        return total

    def _probabilities(self, outputs: Outputs, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the largest probability [B,T,T] of a scale for each pair, and which pairs are moments."""
        found = [
            pair_probabilities(outputs.start[:, s], outputs.end[:, s], mask, self.longest_share)
            for s in range(len(self.scales))
        ]
        return jnp.stack([probability for probability, _ in found]).max(0), found[0][1]

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        found = self._probabilities(outputs, batch.video_mask)
        return rank_probabilities(*found, batch.duration, batch.video_mask, self.keep)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities relative to the best, 'map' [B,T,T], and the mean highlight, 'clips' [B,T]."""
        highlight = jax.nn.sigmoid(outputs.highlight).mean(1)
        return {
            "map": relative(*self._probabilities(outputs, batch.video_mask)),
            "clips": jnp.where(batch.video_mask, highlight, jnp.nan),
        }


class NilPrediction(nn.Module):
    """The logit of a piece having a part of the moment: pooled clips, then a linear layer (port: `NPM`)."""

    @nn.compact
    def __call__(self, clips: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns [B] of clips [B,p,F] with mask [B,p]; in float32."""
        clips = clips.astype(jnp.float32)
        weight = self.param("weight", nn.initializers.xavier_uniform(), (clips.shape[-1], 1))
        attention = masked_softmax((clips @ weight)[..., 0], mask)
        pooled = jnp.einsum("bp,bpf->bf", attention, clips)
        return xavier_linear(1, pooled, jnp.float32, "linear")[..., 0]


# Pieces of a video.


def piece_length(mask: jax.Array, number: int) -> jax.Array:
    """Returns [B], the clips of a piece of the videos of mask [B,T] in `number` pieces; at least one.

    In the port it follows from the longest video of the batch.
    """
    return jnp.maximum(-(-mask.sum(-1) // number), 1)


def pieces(mask: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """Returns the clips [B,i,p] of each of `number` pieces of the videos of mask [B,T], and which are real."""
    longest = -(-mask.shape[1] // number)
    length = piece_length(mask, number)[:, None, None]
    inside = jnp.arange(longest)[None, None]
    clip = jnp.arange(number)[None, :, None] * length + inside
    real = (inside < length) & (clip < mask.sum(-1)[:, None, None])
    return jnp.where(real, clip, 0), real


def joined(clips: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T,F] of the clips [B,i,p,F] of `pieces`, one after the other; zero at padding."""
    number, longest = clips.shape[1:3]
    clip, length = jnp.arange(mask.shape[1])[None], piece_length(mask, number)[:, None]
    place = jnp.minimum(clip // length, number - 1) * longest + clip % length
    whole = clips.reshape(len(clips), number * longest, -1)
    whole = jnp.take_along_axis(whole, place[..., None], axis=1)
    return jnp.where(mask[..., None], whole, 0)


def piece_labels(
    first: jax.Array, last: jax.Array, mask: jax.Array, number: int, labels: str = "overlap"
) -> jax.Array:
    """Returns [B,i] bool, the pieces of the moment from clip `first` to clip `last`, both [B] and included."""
    length = piece_length(mask, number)[:, None]
    begin = jnp.arange(number)[None] * length
    end = begin + length - 1
    first, last = first[:, None], last[:, None]
    if labels == "overlap":  # ours; the port has the others
        return (first <= end) & (last >= begin)
    return ((first >= begin) & (first <= end)) | ((last >= begin) & (last <= end))


def fold(x: jax.Array) -> jax.Array:
    """Returns [B*i,...] of [B,i,...]."""
    return x.reshape(-1, *x.shape[2:])


def repeated(example_index: jax.Array, number: int) -> jax.Array:
    """Returns [B*i], an index for random draws of each of the `number` parts of an example."""
    return fold(example_index[:, None] * number + jnp.arange(number, dtype=example_index.dtype)[None])
