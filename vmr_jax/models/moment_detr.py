"""Moment-DETR: all moments of a query as a set, and how salient every clip is for it.

Tensors (F = `features`; M = `num_queries`, the slots of the decoder, each a candidate moment; A annotated
moments; I = `decoder_layers`; the names at the right are the official code's):

    batch.video          [B,T,D]    clip features, rows L2-normalised; begin and end of each clip are appended
    batch.query_vectors  [B,L,W]    token features of CLIP (or word vectors), each L2-normalised
    clips                [B,T,F]    2 linear layers with layer norms and dropout          `src_vid`
    words                [B,L,F]    likewise                                              `src_txt`
    memory               [B,T+L,F]  2 encoder layers over both; clips have sine positions, words have none
    saliency             [B,T]      a linear layer, of the memory of the clips            `saliency_scores`
    decoded              [B,I,M,F]  M learned slots after each decoder layer              `hs`
    logits               [B,I,M,2]  a linear layer: moment of the sentence, or none       `pred_logits`
    spans                [B,I,M,2]  3 linear layers and a sigmoid: centre and width, as
                                    shares of the video                                   `pred_spans`

In training the M slots of each decoder layer are matched with the A annotated moments, one to one at the least
cost (Hungarian algorithm, on the device); matched ones learn their moment, the others to be none.

Defaults are those of the official code's `BaseOptions` and, for `round_to`, `PostProcessorDETR`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import clip_bounds
from vmr_jax.layers.draws import draw_per_column
from vmr_jax.layers.linear import project_twice, torch_linear
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.saliency import compared_pairs, pair_loss, relevant_clips, share_of_most
from vmr_jax.layers.set_prediction import SetWeights, set_losses, set_moments, set_truth
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries",
    authors=("Lei", "Berg", "Bansal"),
    venue="NeurIPS",
    year=2021,
    family="set prediction",
    kind="transformer encoder-decoder, highlights",
    supervision="full",
    features="SlowFast, CLIP; CLIP tokens",
    official_code="jayleicn/moment_detr@b7e553ac3b0c (PyTorch)",
    ours=(
        "Times are shares of the video's duration in training too; in the official code they are shares of 2 s "
        "times the rows of features.",
        "A clip is relevant if its middle is in an annotated moment. Where nobody scored saliency "
        "(annotated_saliency=False), two random pairs of a relevant and another clip are compared, as the "
        "official code does for pre-training on subtitles, and the field for all other datasets.",
        "Predicted times are cut to the video, not to 150 s.",
        "Of more rows than the model reads QVHighlights keeps the first 75 (input.resample='cut'), as "
        "officially. On other datasets they are averaged: moments behind the first 75 could not be found.",
        "Among equally salient clips the last is the best and the first the worst, as officially where NumPy's "
        "sort keeps the order of equal sums (up to 16 clips, before it was vectorised).",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 60 to 80 "
        "rows, queries of 3 to 9 tokens and tied scores: rows, outputs, loss terms, gradients and rounded "
        "moments agree to 1e-6.",
        "Checkpoints of the official code are imported.",
        "The matching equals a search through all assignments, and the set loss a loop over examples.",
    ),
)


@struct.dataclass
class Outputs:
    """Predicted moments and saliency, float32, and the random numbers of the training labels."""

    logits: jax.Array  # [B,I,M,2] of 'moment' and 'none', after each decoder layer
    spans: jax.Array  # [B,I,M,2] centre and width as shares of the video
    saliency: jax.Array  # [B,T], `MASKED` at padded clips
    window_draws: jax.Array  # [B,A] uniform: which annotated moments are learnt where there are many
    clip_draws: jax.Array  # [B,T] uniform: which clips are compared


class SetPrediction(GroundingModel):
    """All of Moment-DETR but its layers between the inputs and the heads, which a subclass adds in `__call__`.

    The defaults are those of QVHighlights.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      encoder_layers: number of encoder layers.
      decoder_layers: I, number of decoder layers.
      num_queries: M, number of slots of the decoder, that is of moments that are predicted.
      all_windows: whether all annotated moments (batch.windows) are learnt; else batch.span alone.
      max_windows: number of annotated moments that are learnt in a step; of more, random ones.
      annotated_saliency: whether clips are compared by the scores of annotators (batch.saliency); else clips
        inside the annotated moments are compared with others.
      span_weight: weight of the L1 distance, in the matching and in the loss.
      giou_weight: weight of the generalised IoU, in the matching and in the loss.
      label_weight: weight of the classes, in the matching and in the loss.
      none_weight: weight of the class 'none' in the loss, beside 1 of the class 'moment'.
      saliency_weight: weight of the losses of the saliency.
      saliency_margin: score difference by which the more salient of two clips is to be ahead.
      round_to: step in seconds to which predicted times are rounded; 0 leaves them as they are.
      normalize_words: whether each word vector is L2-normalised.
      dropout: dropout rate of the transformer.
      input_dropout: dropout rate before the linear layers that clips and words first go through.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, heads and loss are float32.
    """

    features: int = 256
    heads: int = 8
    hidden: int = 1024
    encoder_layers: int = 2
    decoder_layers: int = 2
    num_queries: int = 10
    all_windows: bool = True
    max_windows: int = 5
    annotated_saliency: bool = True
    span_weight: float = 10.0
    giou_weight: float = 1.0
    label_weight: float = 4.0
    none_weight: float = 0.1
    saliency_weight: float = 1.0
    saliency_margin: float = 0.2
    round_to: float = 2.0
    normalize_words: bool = True
    dropout: float = 0.1
    input_dropout: float = 0.5
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """Names the annotated moments and the saliency scores, where they are learnt."""
        labels = (("windows", self.all_windows), ("saliency", self.annotated_saliency))
        return tuple(name for name, learnt in labels if learnt)

    def _inputs(self, clips: jax.Array, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns clips [B,T,F] of rows [B,T,*], and words [B,L,F]."""
        project = functools.partial(
            project_twice, features=self.features, dropout=self.input_dropout, dtype=self.dtype
        )
        words = WordEmbedding(self.vocab_size, dtype=jnp.float32, name="word_vectors")(batch)
        if self.normalize_words:
            words = l2_normalize(words)
        words = project(words, batch.example_index, train, name="words")
        return project(clips, batch.example_index, train, name="clips"), words

    def _heads(self, decoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns of slots [B,I,M,F] logits [B,I,M,2], and centre and width [B,I,M,2] before the sigmoid."""
        hidden = nn.relu(torch_linear(self.features, decoded, jnp.float32, "span_head_0"))
        hidden = nn.relu(torch_linear(self.features, hidden, jnp.float32, "span_head_1"))
        spans = torch_linear(2, hidden, jnp.float32, "span_head_2")
        return torch_linear(2, decoded, jnp.float32, "label_head"), spans

    def _sizes(self) -> dict:
        names = ("features", "heads", "hidden", "dropout", "dtype")
        return {name: getattr(self, name) for name in names}

    def _draw(self, index: jax.Array, count: int, train: bool) -> jax.Array:
        """Returns uniform numbers [B,count] that depend on example and column alone; zeros at evaluation."""
        if not train:
            return jnp.zeros((*index.shape, count))
        return draw_per_column(self.make_rng("dropout"), index, count)

    # Targets and losses.

    def _windows(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the annotated moments [B,A,2] in seconds and their mask [B,A]."""
        if self.all_windows:
            return batch.windows, batch.window_mask
        return batch.span[:, None], jnp.ones((batch.size, 1), bool)

    def _losses(self, outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        """'span', 'giou', 'label' of matched moments, 'saliency' of pairs (official `SetCriterion`)."""
        windows, mask = self._windows(batch)
        relevant = relevant_clips(windows, mask, batch.duration, batch.video_mask)
        mask = mask & batch.example_mask[:, None]
        truth, mask = set_truth(windows, mask, batch.duration, outputs.window_draws, self.max_windows)
        weights = SetWeights(self.span_weight, self.giou_weight, self.label_weight, self.none_weight)
        terms = set_losses(outputs.logits, outputs.spans, truth, mask, batch.example_mask, weights)
        scores = batch.saliency if self.annotated_saliency else None
        pairs = compared_pairs(relevant, scores, batch.video_mask, outputs.clip_draws)
        terms["saliency"] = pair_loss(
            outputs.saliency, pairs, batch.example_mask, self.saliency_margin, self.saliency_weight
        )
        return terms

    # Inference.

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the M moments of the last layer and their probabilities (official `inference.py`)."""
        return set_moments(outputs.logits[:, -1], outputs.spans[:, -1], batch.duration, self.round_to)

    def saliency(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns scores [B,T] of the clips, of any range; `MASKED` at padding."""
        del batch
        return outputs.saliency

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the saliency of clips, between the least (0) and the most (1) of the video: 'clips' [B,T]."""
        return {"clips": share_of_most(outputs.saliency, batch.video_mask)}


class Model(SetPrediction):
    """Moment-DETR: clips and words in one encoder; a learned slot is a place that decoder layers look from."""

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Predicts M moments and the saliency of every clip; UserError without the labels that are required."""
        batch.check()
        self._check(batch)
        index = batch.example_index
        clips = jnp.concatenate([batch.video, clip_bounds(batch.video_mask)], axis=-1)
        clips, words = self._inputs(clips, batch, train)

        source = jnp.concatenate([clips, words], axis=1)
        mask = jnp.concatenate([batch.video_mask, batch.query_mask], axis=1)
        positions = sine_positions(batch.video_mask, self.features)
        positions = jnp.concatenate([positions, jnp.zeros(words.shape, positions.dtype)], axis=1)
        memory = self._encode(source, positions, mask, index, train)
        decoded = self._decode(memory, positions, mask, index, train).astype(jnp.float32)

        saliency = torch_linear(
            1, memory[:, : clips.shape[1]].astype(jnp.float32), jnp.float32, "saliency_head"
        )
        logits, spans = self._heads(decoded)
        return Outputs(
            logits=logits,
            spans=jax.nn.sigmoid(spans),
            saliency=jnp.where(batch.video_mask, saliency[..., 0], MASKED),
            window_draws=self._draw(index, self._windows(batch)[1].shape[1], train),
            clip_draws=self._draw(index, clips.shape[1], train),
        )

    def _check(self, batch: Batch) -> None:
        absent = [name for name in self.requires() if getattr(batch, name) is None]
        if absent:
            raise UserError(
                f"Moment-DETR learns {' and '.join(absent)}, and this batch has none. Choose a data set that "
                "has them, or set config.model.all_windows and config.model.annotated_saliency to False."
            )

    def _encode(self, x, positions, mask, index, train: bool) -> jax.Array:
        """Returns the memory [B,T+L,F] (official `TransformerEncoder`)."""
        for i in range(self.encoder_layers):
            layer = EncoderLayer(**self._sizes(), name=f"encoder_{i}")
            x = layer(x, mask, index, train, positions)
        return x

    def _decode(self, memory, positions, mask, index, train: bool) -> jax.Array:
        """Returns the slots after each layer [B,I,M,F], under one layer norm; they start at zero.

        Source: official `TransformerDecoder`.
        """
        queries = self.param("queries", nn.initializers.normal(1.0), (self.num_queries, self.features))
        shape = (memory.shape[0], *queries.shape)
        places = jnp.broadcast_to(queries[None], shape)
        x, every = jnp.zeros(shape, self.dtype), jnp.ones(shape[:2], bool)
        norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="decoder_norm")
        decoded = []
        for i in range(self.decoder_layers):
            layer = DecoderLayer(**self._sizes(), name=f"decoder_{i}")
            x = layer(x, memory, every, mask, index, train, places, positions)
            decoded.append(norm(x))
        return jnp.stack(decoded, axis=1)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'span', 'giou', 'label' of matched moments, 'saliency' of pairs (official `SetCriterion`)."""
        del epoch
        return self._losses(outputs, batch)
