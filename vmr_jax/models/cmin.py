"""CMIN: words that meet along the syntax of the query, and anchors around every clip.

Zhang, Lin, Zhao, Xiao: Cross-Modal Interaction Networks for Query-Based Moment Retrieval in Videos, SIGIR 2019.
What the paper leaves open is as in its official code (ikuinen/CMIN), whose checkpoints `vmr_jax.torch_import`
reads.

  tensor              shape     what it is
  batch.video         [B,T,D]   clip features
  batch.dependencies  [B,L,L]   relation of each word (column) to its head (row), see vmr_jax.text.dependencies
  clips               [B,T,F]   banded self-attention over the features, BiGRU
  words               [B,L,F]   syntactic graph convolutions over the word vectors, BiGRU
  attended            [B,T,F]   the words as each clip weighs them
  gated               [B,T,2F]  clips and attended words, each under a gate that the other sets
  fused               [B,T,F]   BiGRU
  logits              [B,N]     of the anchors: A widths around every clip, N = T A
  offsets             [B,N,2]   what to add to an anchor's first and last clip

F = 512. Labels are the IoUs of the anchors with the moment, relative to the best, on the grid of clips and
with both ends included; the moment is the clips that hold its start and its end. The offsets are learned for
the best anchor.

The settings of the paper's two data sets, T = 200:

  data set              widths                        learning rate   batch   epochs
  ActivityNet Captions  16, 32, 64, 96, 128, 160, 192  8e-4            128     10
  TACoS                 6, 18, 32                      4e-4            64      40

What differs from the official code: moments are predicted, and counted, in seconds and not on the grid (the
code rounds refined anchors to clips and counts IoU there, which is kinder to short moments); all refined
anchors are ranked, not the best alone; padded clips are never seen (the code has none, as it resamples every
video to T rows). The query reconstruction of the extended version (TIP 2020) is left out: there is no code of
it. Weights start as PyTorch's do, those of the self-attention Glorot uniform, and the biases of the relations
at zero.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.anchors import (
    AnchorHead,
    clip_span,
    frame_anchors,
    inclusive_iou,
    legal_anchors,
    rank_anchors,
    soft_labels,
)
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_default_kernel
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import Attention
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.types import Batch, Mean, Moments


@struct.dataclass
class Outputs:
    """Of all anchors, in the order of `frame_anchors`; meaningless where an anchor is not legal."""

    logits: jax.Array  # [B,N] float32
    offsets: jax.Array  # [B,N,2] float32, clips


class Model(GroundingModel):
    """CMIN. The defaults are those of ActivityNet Captions.

    Attributes:
      widths: of the anchors around every clip, in clips.
      features: F, width of every layer after the encoders' first; even.
      attention_layers: of the video's self-attention.
      heads: of the self-attention; they share the width of the features (or `projection`) equally.
      band: clips by which the self-attention looks to either side.
      graph_layers: of the query's graph convolution.
      relations: ids of `batch.dependencies`, the word itself (1) included.
      projection: width of a linear layer before the video's encoder; 0: none (the paper's).
      label_low: IoU, relative to the best anchor's, below which the label is zero.
      offset_weight: of the loss of the offsets.
      dropout: of both inputs, after every attention and graph layer and every GRU.
      vocab_size: size of the vocabulary to fine-tune word vectors, 0 to keep them (the paper's).
      keep: moments that `predict` ranks.
      dtype: of the layers; parameters, logits and loss are float32.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 128, 160, 192)
    features: int = 512
    attention_layers: int = 2
    heads: int = 4
    band: int = 3
    graph_layers: int = 2
    relations: int = 40
    projection: int = 0
    label_low: float = 0.3
    offset_weight: float = 1e-3
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """The dependency graph of the query."""
        return ("dependencies",)

    def anchors(self, num_clips: int) -> np.ndarray:
        """[N,2] first and last clip of every anchor of a video of `num_clips` rows."""
        return frame_anchors(num_clips, self.widths)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores and refines every anchor; UserError without dependencies, and for a number of heads."""
        batch.check()
        self._check(batch)
        index = batch.example_index

        def drop(x):
            return Dropout(self.dropout)(x, index, train)

        def recur(x, mask, name):
            return drop(GRU(self.features // 2, bidirectional=True, dtype=self.dtype, name=name)(x, mask))

        clips = drop(batch.video.astype(self.dtype))
        if self.projection:
            clips = torch_linear(self.projection, clips, self.dtype, "projection")
        for i in range(self.attention_layers):
            attend = Attention(
                clips.shape[-1], self.heads, dtype=self.dtype, band=self.band, name=f"attention_{i}"
            )
            clips = clips + drop(attend(clips, clips, clips, batch.video_mask, index, train))
        clips = recur(clips, batch.video_mask, "clips")

        words = drop(WordEmbedding(self.vocab_size, self.dtype, name="words")(batch))
        for i in range(self.graph_layers):
            graph = SyntacticGraphConv(self.relations, self.dtype, name=f"graph_{i}")
            words = words + drop(graph(words, batch.dependencies))
        words = recur(words, batch.query_mask, "query")

        attend = AdditiveAttention(self.features, self.dtype, name="cross_attention")
        attended = attend(clips, words, batch.query_mask)
        gated = CrossGate(self.features, self.dtype, name="cross_gate")(clips, attended)
        fused = recur(gated, batch.video_mask, "fusion")
        scored = AnchorHead(len(self.widths), name="head")(fused)
        return Outputs(logits=scored.logits, offsets=scored.offsets)

    def _check(self, batch: Batch) -> None:
        if batch.dependencies is None:
            raise UserError("CMIN reads the syntax of the query, and this batch has none (dependencies).")
        width = self.projection or batch.video.shape[-1]
        if width % self.heads:
            raise UserError(
                f"{self.heads} heads cannot share {width} features equally. Set config.model.heads to a "
                "divisor of the features' width, or config.model.projection to a multiple of the heads."
            )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of all anchors, and smooth L1 of the two ends that the best anchor is refined to."""
        del epoch
        anchors = self.anchors(batch.video.shape[1])
        legal = legal_anchors(anchors, batch.video_mask)
        moment = clip_span(batch.span, batch.duration, batch.video_mask)
        labels = soft_labels(inclusive_iou(anchors[None], moment[:, None]), legal, self.label_low)
        # An anchor that is not legal has score and label zero: it costs nothing, and counts in the mean.
        errors = jnp.where(legal, binary_cross_entropy(outputs.logits, labels), 0.0)
        real = jnp.repeat(batch.video_mask, len(self.widths), axis=1) & batch.example_mask[:, None]

        best = labels.argmax(-1)[:, None, None]
        refined = jnp.take_along_axis(anchors[None] + outputs.offsets, best, axis=1)[:, 0]
        learned = (batch.example_mask & legal.any(-1))[:, None] & jnp.ones((1, 2), bool)
        return {
            "anchors": Mean.of(errors, real),
            "offsets": Mean.of(optax.losses.huber_loss(refined, moment), learned, self.offset_weight),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """The refined anchors, best first; the score is the sigmoid of the logit."""
        anchors = self.anchors(batch.video.shape[1])
        legal = legal_anchors(anchors, batch.video_mask)
        refined = anchors[None] + outputs.offsets
        return rank_anchors(outputs.logits, refined, legal, batch.duration, batch.video_mask, self.keep)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """The best score among the anchors around a clip: 'clips' [B,T]."""
        legal = legal_anchors(self.anchors(batch.video.shape[1]), batch.video_mask)
        scores = jnp.where(legal, jax.nn.sigmoid(outputs.logits), -1.0)
        best = scores.reshape(*batch.video_mask.shape, -1).max(-1)
        return {"clips": jnp.where(best >= 0, best, jnp.nan)}


class SyntacticGraphConv(nn.Module):
    """What the words send each other along their relations, under gates; ReLU of the sum.

    In each direction, y = W x and g = G y. A relation r adds to a word the sum over its neighbours along r of
    (y + b_r) * sigmoid(g + c_r), not divided by their number. Directions: 'self' (relation 1), 'out', a head
    from its dependents, and 'in', a dependent from its head.

    Parameters of a direction: kernel, gate_kernel [D,D]; bias, gate_bias, one row for each relation.
    """

    relations: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: jax.Array, dependencies: jax.Array) -> jax.Array:
        """[B,L,D] and relations [B,L,L] (head row, dependent column) -> [B,L,D]."""
        chex.assert_shape(dependencies, (*words.shape[:2], words.shape[1]))
        itself = dependencies == 1
        outward = jnp.where(dependencies > 1, dependencies - 1, 0)  # rows of the tables, 0: no relation
        inward = outward.swapaxes(1, 2)
        sent = self._direction("self", words, itself.astype(jnp.int32), 1)
        sent = sent + self._direction("out", words, outward, self.relations - 1)
        return nn.relu(sent + self._direction("in", words, inward, self.relations - 1))

    def _direction(self, name: str, words: jax.Array, relation: jax.Array, relations: int) -> jax.Array:
        """[B,L,D]: to word i from every word j with relation[:, i, j] > 0, a 1-based row of the biases."""
        width = words.shape[-1]

        def linear(x, what):
            kernel = self.param(f"{name}_{what}", torch_default_kernel, (width, width))
            return jnp.dot(x, kernel.astype(self.dtype))

        def add(x, what):
            """[B,L,L,D]: x of word j and the row of the relation."""
            table = self.param(f"{name}_{what}", nn.initializers.zeros, (relations, width))
            return x[:, None] + table.astype(self.dtype)[jnp.maximum(relation - 1, 0)]

        value = linear(words, "kernel")
        gate = linear(value, "gate_kernel")
        message = add(value, "bias") * jax.nn.sigmoid(add(gate, "gate_bias"))
        return jnp.where((relation > 0)[..., None], message, 0).sum(2)


class CrossGate(nn.Module):
    """Each of two modalities under a gate that the other one sets."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, attended: jax.Array) -> jax.Array:
        """[B,T,F] and [B,T,F] -> [B,T,2F]."""

        def gate(x, name):
            return jax.nn.sigmoid(torch_linear(self.features, x, self.dtype, name, use_bias=False))

        return jnp.concatenate([clips * gate(attended, "words"), attended * gate(clips, "clips")], axis=-1)
