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

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.characters import QueryEmbedding
from vmr_jax.layers.clips import centered
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.padding import batch_steps
from vmr_jax.layers.qanet import (
    SPAN_PREDICTORS,
    TABLE_INITS,
    ContextQueryAttention,
    FeatureEncoder,
    QueryConcat,
    check_reads,
    conditioned_states,
)
from vmr_jax.layers.span import (
    boundary_logits,
    clip_logits,
    explain_pairs,
    rank_pairs,
    span_terms,
)
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
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
        "(official_padding=True) moved logits of size 3 to 5 by up to 1.0, and the loss of four examples in "
        "one batch from 13.06 to 13.97 (predictor 'transformer': from 11.82 to 11.53).",
        "Windows of characters that go beyond a word's end do not count; in the official code, where they do, "
        "words of 3 characters padded to 6 moved logits by up to 0.8.",
        "The tables of positions and characters start as in the TensorFlow code, which is the paper's (Glorot "
        "uniform); table_init='normal' starts them as the PyTorch port does, N(0,1), with which positions hide "
        "the features for long: after 2,900 steps on CLIP features it was as good blind, and so was the port "
        "(docs/results.md). Recurrent networks start as in the port.",
    ),
    verified=(
        "786,271 parameters with a table of ten words, as the official code.",
        "Against the official PyTorch port at this commit, running, with small random weights of five seeds, "
        "each example without padding (both predictors): logits to 2.6e-6 of their size, the total loss to "
        "3.3e-6, gradients to 1.0e-5 of the largest, and the best moment; with the plain scan of the LSTMs to "
        "2.6e-6, 3.1e-6 and 9.9e-6. Rows to 1.2e-7, both clips of 400 random labels.",
        "In one ragged batch with official_padding=True (both predictors): logits to 2.3e-6 of their size, the "
        "total loss to 7e-7, gradients to 7.3e-6 of the largest, and the best moment.",
        "Trained beside the official PyTorch port from the same weights, on the same batches, with its "
        "optimizer, without dropout, with official_padding=True: losses of five steps to 3e-6 of their size.",
        "Outputs equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the official PyTorch port are imported, with both span predictors.",
    ),
)


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
      center_video: whether each clip is read less the mean of its video, and over the root mean square of what
        that leaves (ours).
      label_softness: share of the label that each clip beside the boundary has (ours; 0 is the paper's).
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of all layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that `predict` ranks, 0 for all pairs of clips. The official program takes the
        best pair alone, so what follows it, and R@5, are ours.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      official_padding: whether padding matters as in the official code, see the card.
      table_init: how the tables of positions and characters start: 'glorot' uniform, as in the TensorFlow code,
        which is the paper's, or 'normal', N(0,1), as in the PyTorch port.
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
    center_video: bool = False
    label_softness: float = 0.0
    char_features: int = 50
    num_chars: int = 40
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    longest_share: float = 1.0
    official_padding: bool = False
    table_init: str = "glorot"
    dtype: jnp.dtype = jnp.float32

    choices = {"predictor": SPAN_PREDICTORS, "table_init": tuple(TABLE_INITS)}
    of_evaluation = ("longest_share",)

    def requires(self) -> tuple[str, ...]:
        """Names the characters of the words."""
        return ("query_chars",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end; UserError for too many clips."""
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
            self.official_padding,
            TABLE_INITS[self.table_init],
            name="words",
        )(batch, train)
        clips = centered(batch.video, mask) if self.center_video else batch.video
        clips = Dropout(self.dropout)(clips.astype(self.dtype), index, train)
        clips = xavier_linear(self.features, clips, self.dtype, "clips")
        encoder = self._encoder("encoder")
        seen, seen_words = self._convolved(mask, batch), self._convolved(batch.query_mask, batch)
        video = encoder(clips, mask, index, train, seen)
        query = encoder(words, batch.query_mask, index, train, seen_words)

        fused = ContextQueryAttention(self.features, self.dropout, self.dtype, name="attention")(
            video, query, mask, batch.query_mask, index, train
        )
        fused = QueryConcat(self.features, self.dtype, name="concat")(fused, query, batch.query_mask)
        highlight = None
        if self.highlight:
            highlight = clip_logits(fused, mask, "highlight_logit")
            fused = fused * jax.nn.sigmoid(highlight).astype(self.dtype)[..., None]
        start, end = conditioned_states(
            self.predictor, lambda: self._encoder("span_encoder"), fused, mask, index, train, seen, fast=True
        )
        return Outputs(
            start=boundary_logits(start, fused, mask, self.dtype, "start"),
            end=boundary_logits(end, fused, mask, self.dtype, "end"),
            highlight=highlight,
        )

    def _check(self, batch: Batch) -> None:
        check_reads("VSLNet", batch, self.max_positions)

    def _convolved(self, mask: jax.Array, batch: Batch) -> jax.Array:
        """Returns the steps that convolutions see, [B,T] or [1,T]; in the official code all of the batch."""
        return batch_steps(mask, batch.example_mask) if self.official_padding else mask

    def _encoder(self, name: str) -> FeatureEncoder:
        return FeatureEncoder(
            self.features,
            self.heads,
            self.conv_layers,
            self.conv_kernel,
            self.max_positions,
            self.dropout,
            self.dtype,
            positions_init=TABLE_INITS[self.table_init],
            name=name,
        )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start', 'end': cross-entropy of both clips; 'highlight': cross-entropy, twice as heavy inside."""
        del epoch
        return span_terms(
            outputs.start,
            outputs.end,
            outputs.highlight,
            batch,
            extension=self.extension,
            weight=self.highlight_weight,
            softness=self.label_softness,
        )

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        return rank_pairs(
            outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities relative to the best, 'map' [B,T,T], and the highlight, 'clips' [B,T]."""
        pictures = {"map": explain_pairs(outputs.start, outputs.end, batch.video_mask, self.longest_share)}
        if outputs.highlight is not None:
            pictures["clips"] = jnp.where(batch.video_mask, jax.nn.sigmoid(outputs.highlight), jnp.nan)
        return pictures
