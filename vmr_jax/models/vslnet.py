"""VSLNet: the moment as the answer span of a reading-comprehension model.

Tensors (F = `features`; symbols of the paper and names of the official PyTorch port at the right):

    batch.video        [B,T,D]  clip features, not normalised; at most 128 rows, shorter videos are padded
    words              [B,L,F]  word vectors (one learned vector for unknown words),
                                characters, a linear layer                              `Embedding`
    video, query       [B,*,F]  the shared encoder: convolutions and self-attention     `FeatureEncoder`
    similarity         [B,T,L]  of clips and words                                      S, `trilinear_attention`
    fused              [B,T,F]  context-query attention, then the pooled query at
                                every clip                                              V^q, `CQConcatenate`
    highlight          [B,T]    logit of being in the extended moment                   S_h, `HighLightLayer`
    start, end         [B,T]    logits of the first and of the last clip                `ConditionedPredictor`

VSLBase is `highlight=False`. Defaults of layers and losses are those of the official code's `main_t7.py`.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, MultiHeadAttention, masked_softmax
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.depthwise import depthwise_conv
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, position_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Span-based Localizing Network for Natural Language Video Localization",
    authors=("Zhang", "Sun", "Jing", "Zhou"),
    venue="ACL",
    year=2020,
    family="span",
    kind="question answering, start and end clip",
    supervision="full",
    features="I3D; GloVe, characters",
    official_code="26hzhang/VSLNet@3793c625f2e2 (TensorFlow and PyTorch)",
    ours=(
        "Convolutions see zeros at padded clips and words, where the official code has biases and positions, "
        "so that padding does not matter; without padding the outputs are equal. The official code's padding "
        "moved logits of size 3 to 5 by up to 1.0, and the loss of four examples in one batch from 13.06 to "
        "13.97 (predictor 'transformer': from 11.82 to 11.53).",
        "Windows of characters that go beyond a word's end do not count; in the official code, where they do, "
        "words of 3 characters padded to 6 moved logits by up to 0.8.",
        "The tables of positions and characters start as in the TensorFlow code, which is the paper's (Glorot "
        "uniform); the PyTorch port has N(0,1), with which positions hide the features for long.",
    ),
    verified=(
        "786,271 parameters with a table of ten words, as the official code.",
        "Against the official PyTorch port at this commit, running, with small random weights and each example "
        "without padding (both predictors): rows to 1.2e-7, logits to 1.2e-6 of their size, the total loss to "
        "1.5e-7, gradients to 2.3e-6 of theirs, both clips of 400 random labels, and the best moment.",
        "Outputs equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the official PyTorch port are imported, with both span predictors.",
    ),
)
PREDICTORS = ("rnn", "transformer")
# Characters seen at once, and channels (official `CharacterEmbedding`).
_CHAR_KERNELS = ((1, 10), (2, 20), (3, 30), (4, 40))
_xavier = nn.initializers.xavier_uniform()


@struct.dataclass
class Outputs:
    """Logits [B,T], float32, `MASKED` at padded clips."""

    start: jax.Array
    end: jax.Array
    highlight: jax.Array | None  # None for VSLBase


class Model(GroundingModel):
    """VSLNet. The defaults are the paper's.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads of the self-attention.
      conv_layers: number of depthwise-separable convolutions of the feature encoder.
      conv_kernel: kernel size of these convolutions.
      max_positions: number of clips and words that have a position.
      predictor: kind of the span predictor, 'rnn' (the paper's) or 'transformer' (the official code's other).
      highlight: whether there is query-guided highlighting; without it the architecture is VSLBase.
      highlight_weight: lambda, weight of the highlighting loss.
      extension: share of the moment's clips by which the highlight goes beyond it on each side.
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of all layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that `predict` ranks, 0 for all pairs of clips. The official program takes the
        best pair alone, so what follows it, and R@5, are ours.
      dtype: number format of the layers; parameters, logits and loss are float32.
    """

    features: int = 128
    heads: int = 8
    conv_layers: int = 4
    conv_kernel: int = 7
    max_positions: int = 128
    predictor: str = "rnn"
    highlight: bool = True
    highlight_weight: float = 5.0
    extension: float = 0.1
    char_features: int = 50
    num_chars: int = 40
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """Names the characters of the words."""
        return ("query_chars",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end; UserError for an unknown predictor or too many clips."""
        batch.check()
        self._check(batch)
        index, mask = batch.example_index, batch.video_mask
        words = QueryEmbedding(
            self.features,
            self.char_features,
            self.num_chars,
            self.dropout,
            self.vocab_size,
            self.dtype,
            name="words",
        )(batch, train)
        clips = Dropout(self.dropout)(batch.video.astype(self.dtype), index, train)
        clips = _linear(self.features, clips, self.dtype, "clips")
        encoder = self._encoder("encoder")
        video, query = encoder(clips, mask, index, train), encoder(words, batch.query_mask, index, train)

        fused = ContextQueryAttention(self.features, self.dropout, self.dtype, name="attention")(
            video, query, mask, batch.query_mask, index, train
        )
        fused = QueryConcat(self.features, self.dtype, name="concat")(fused, query, batch.query_mask)
        highlight = None
        if self.highlight:
            highlight = self._logits(
                _linear(1, fused.astype(jnp.float32), jnp.float32, "highlight_logit"), mask
            )
            fused = fused * jax.nn.sigmoid(highlight).astype(self.dtype)[..., None]
        start, end = self._conditioned_spans(fused, mask, index, train)
        return Outputs(
            start=self._boundary(start, fused, mask, "start"),
            end=self._boundary(end, fused, mask, "end"),
            highlight=highlight,
        )

    def _check(self, batch: Batch) -> None:
        if self.predictor not in PREDICTORS:
            raise UserError(f'predictor is "{self.predictor}"; VSLNet has {" and ".join(PREDICTORS)}.')
        longest = max(batch.video.shape[1], batch.query.shape[1])
        if longest > self.max_positions:
            raise UserError(
                f"VSLNet has positions for {self.max_positions} clips and words, and the batch has {longest}. "
                "Set config.input.num_clips and config.text.max_words to no more, or raise max_positions."
            )
        if batch.query_chars is None:
            raise UserError("VSLNet reads the characters of the query, and this batch has none (query_chars).")

    def _encoder(self, name: str) -> "FeatureEncoder":
        return FeatureEncoder(
            self.features,
            self.heads,
            self.conv_layers,
            self.conv_kernel,
            self.max_positions,
            self.dropout,
            self.dtype,
            name=name,
        )

    def _conditioned_spans(self, fused, mask, index, train):
        """Returns hidden states [B,T,F] of start and end given the start (official `ConditionedPredictor`)."""
        if self.predictor == "rnn":
            start = LSTM(self.features, dtype=self.dtype, name="start_lstm")(fused, mask)
            return start, LSTM(self.features, dtype=self.dtype, name="end_lstm")(start, mask)
        encoder = self._encoder("span_encoder")
        start = encoder(fused, mask, index, train)
        end = encoder(start, mask, index, train)
        return _layer_norm(start, self.dtype, "start_norm"), _layer_norm(end, self.dtype, "end_norm")

    def _boundary(self, states, fused, mask, name: str) -> jax.Array:
        """Returns logits [B,T] of two linear layers over [states; fused]."""
        hidden = jnp.concatenate([states, fused], axis=-1)
        hidden = nn.relu(_linear(self.features, hidden, self.dtype, f"{name}_hidden"))
        return self._logits(_linear(1, hidden.astype(jnp.float32), jnp.float32, f"{name}_logit"), mask)

    @staticmethod
    def _logits(x: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.where(mask, x[..., 0], MASKED)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start', 'end': cross-entropy of both clips; 'highlight': cross-entropy, twice as heavy inside."""
        del epoch
        first, last = span_labels(batch.span, batch.duration, batch.video_mask)
        terms = {
            "start": Mean.of(position_cross_entropy(outputs.start, first), batch.example_mask),
            "end": Mean.of(position_cross_entropy(outputs.end, last), batch.example_mask),
        }
        if outputs.highlight is None:
            return terms
        inside = highlight_labels(first, last, batch.video_mask, self.extension)
        weight = jnp.where(inside, 2.0, 1.0)  # official `HighLightLayer.compute_loss`
        errors = weight * binary_cross_entropy(outputs.highlight, inside)
        counted = batch.video_mask & batch.example_mask[:, None]
        terms["highlight"] = Mean.of(errors, counted, self.highlight_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        probability, possible = self._pairs(outputs, batch.video_mask)
        size, length = probability.shape[:2]
        spans = pair_spans(batch.duration, batch.video_mask)
        flat = (size, length * length)
        return rank(
            spans.reshape(*flat, 2),
            probability.reshape(flat),
            possible.reshape(flat),
            min(self.keep or flat[1], flat[1]),
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities relative to the best, 'map' [B,T,T], and the highlight, 'clips' [B,T]."""
        probability, possible = self._pairs(outputs, batch.video_mask)
        best = jnp.maximum(probability.max((1, 2)), 1e-30)[:, None, None]
        pictures = {"map": jnp.where(possible, probability / best, jnp.nan)}
        if outputs.highlight is not None:
            pictures["clips"] = jnp.where(batch.video_mask, jax.nn.sigmoid(outputs.highlight), jnp.nan)
        return pictures

    @staticmethod
    def _pairs(outputs: Outputs, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns probabilities [B,T,T] of pairs, and which are moments: start <= end, both real."""
        start, end = masked_softmax(outputs.start, mask), masked_softmax(outputs.end, mask)
        later = jnp.triu(jnp.ones((mask.shape[1],) * 2, bool))[None]
        possible = later & mask[:, :, None] & mask[:, None, :]
        return start[:, :, None] * end[:, None, :], possible


# Embeddings and the feature encoder.


class QueryEmbedding(nn.Module):
    """Word vectors and a convolution over characters (Kim, EMNLP 2014), then a linear layer.

    Attributes:
      features: F, width of the result.
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of word vectors and characters.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them.
      dtype: number format of the layers.
    """

    features: int
    char_features: int
    num_chars: int
    dropout: float
    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L,F]."""
        chex.assert_shape(batch.query_chars, (*batch.query.shape, None))
        vectors = WordEmbedding(self.vocab_size, jnp.float32, name="vectors")(batch)
        unknown = self.param("unknown", _xavier, (1, vectors.shape[-1]))
        # A word that the table of word vectors lacks has the vector zero.
        absent = batch.query_mask & ~jnp.any(batch.query_vectors != 0, axis=-1)
        vectors = vectors + jnp.where(absent[..., None], unknown[None], 0.0)
        vectors = Dropout(self.dropout)(vectors.astype(self.dtype), batch.example_index, train)
        words = jnp.concatenate([vectors, self._characters(batch, train)], axis=-1)
        return _linear(self.features, words, self.dtype, "linear")

    def _characters(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L,100], the maximum over windows of 1 to 4 characters; a shorter word has one window."""
        length = (batch.query_chars > 0).sum(-1, keepdims=True)
        begin = jnp.arange(batch.query_chars.shape[-1])[None, None]
        real = (batch.query_chars > 0)[..., None]
        table = self.param("characters", _xavier, (self.num_chars, self.char_features))
        chars = table[jnp.minimum(batch.query_chars, self.num_chars - 1)]
        chars = jnp.where(real, chars, 0.0).astype(self.dtype)
        chars = Dropout(self.dropout)(chars, batch.example_index, train)
        found = []
        for width, channels in _CHAR_KERNELS:
            conv = nn.Conv(
                channels,
                (1, width),
                padding=((0, 0), (0, width - 1)),
                kernel_init=_xavier,
                dtype=self.dtype,
                name=f"char_conv_{width}",
            )
            inside = (begin + width <= length) | ((begin == 0) & (length > 0))
            found.append(jnp.where(inside[..., None], nn.relu(conv(chars)), 0).max(axis=2))
        return jnp.concatenate(found, axis=-1)


class FeatureEncoder(nn.Module):
    """Positions, convolutions, one block of self-attention (QANet, Yu et al., ICLR 2018); for both modalities.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      conv_layers: number of depthwise-separable convolutions.
      conv_kernel: kernel size of these convolutions.
      max_positions: number of steps that have a position.
      dropout: dropout rate of every sub-layer.
      dtype: number format of the layers.
    """

    features: int
    heads: int
    conv_layers: int
    conv_kernel: int
    max_positions: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,F] with mask [B,T]; the result at padding is meaningless."""

        def drop(y):
            return Dropout(self.dropout)(y, example_index, train)

        positions = self.param("positions", _xavier, (self.max_positions, self.features))
        x = x + positions[None, : x.shape[1]].astype(self.dtype)
        for i in range(self.conv_layers):
            y = jnp.where(mask[..., None], _layer_norm(x, self.dtype, f"conv_norm_{i}"), 0)
            depthwise = depthwise_conv(self.features, self.conv_kernel, self.dtype, f"depthwise_{i}")
            y = _linear(self.features, depthwise(y), self.dtype, f"pointwise_{i}")
            x = x + drop(nn.relu(y))
        y = drop(_layer_norm(x, self.dtype, "attention_norm"))
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, dtype=self.dtype, name="attention"
        )
        x = x + drop(attention(y, y, mask, example_index, train))
        y = drop(_layer_norm(x, self.dtype, "output_norm"))
        return x + drop(_linear(self.features, y, self.dtype, "output"))


# Context-query attention.


class ContextQueryAttention(nn.Module):
    """The query seen from each clip and the video seen from the query (BiDAF, Seo et al., ICLR 2017).

    Attributes:
      features: F, width of the result.
      dropout: dropout rate of clips and words before they are compared.
      dtype: number format of the layers; similarity and softmax are float32.
    """

    features: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, video, query, video_mask, query_mask, example_index, train: bool) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] and words [B,L,F] with their masks."""
        clip_weight, word_weight = (self.param(n, _xavier, (self.features, 1)) for n in ("clip", "word"))
        product_weight = self.param("product", _xavier, (1, 1, self.features))
        v = Dropout(self.dropout)(video, example_index, train).astype(jnp.float32)
        q = Dropout(self.dropout)(query, example_index, train).astype(jnp.float32)
        similarity = (
            v @ clip_weight
            + (q @ word_weight).swapaxes(1, 2)
            + jnp.einsum("btf,blf->btl", v * product_weight, q)
        )
        over_words = masked_softmax(similarity, query_mask[:, None, :]).astype(self.dtype)
        over_clips = masked_softmax(similarity, video_mask[:, :, None], axis=1).astype(self.dtype)
        attended = jnp.einsum("btl,blf->btf", over_words, query)
        back = jnp.einsum("btl,bsl,bsf->btf", over_words, over_clips, video)
        joined = jnp.concatenate([video, attended, video * attended, video * back], axis=-1)
        return _linear(self.features, joined, self.dtype, "linear")


class QueryConcat(nn.Module):
    """The query, pooled by attention, beside every clip (official `WeightedPool` and `CQConcatenate`).

    Attributes:
      features: F, width of the result.
      dtype: number format of the layers; the softmax is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, query: jax.Array, query_mask: jax.Array) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] and words [B,L,F] with mask [B,L]."""
        weight = self.param("weight", _xavier, (self.features, 1))
        attention = masked_softmax((query.astype(jnp.float32) @ weight)[..., 0], query_mask).astype(self.dtype)
        pooled = jnp.einsum("bl,blf->bf", attention, query)
        pooled = jnp.broadcast_to(pooled[:, None], clips.shape)
        return _linear(self.features, jnp.concatenate([clips, pooled], axis=-1), self.dtype, "linear")


# Labels.


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


def _linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.Dense(features, kernel_init=_xavier, dtype=dtype, name=name)(x)


def _layer_norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)(x)
