"""CMIN: words that meet along the syntax of the query, and anchors around every clip.

Names at the right, and "official code" in the file, are those of the authors' program, whose checkpoints
`vmr_jax.torch_import` reads.

  tensor              shape     meaning                                                      official code
  batch.video         [B,T,D]   clip features
  batch.clip_rows     [B,T]     the row of the features at which a clip begins               index
  batch.dependencies  [B,L,L]   relation of each word (column) to its head (row),            adj_mat
                                see vmr_jax.text.dependencies
  clips               [B,T,F]   banded self-attention over the features, BiGRU               VideoEncoder
  words               [B,L,F]   syntactic graph convolutions over the word vectors, BiGRU    SentenceEncoder
  attended            [B,T,F]   the words as each clip weighs them                           TanhAttention
  gated               [B,T,2F]  clips and attended words, each under a gate that the         CrossGate
                                other sets
  fused               [B,T,F]   BiGRU                                                        rnn
  logits              [B,M]     of the anchors: P widths around every clip, M = T P          fc_score
  offsets             [B,M,2]   numbers to add to an anchor's first and last clip            fc_reg
  word_logits         [B,L+1,X] of the query, written again (an option)                      none

F = 512. Labels are the IoUs of the anchors with the moment, relative to the best, on the grid of clips and
with both ends included; the moment is floored in rows of the features, and is the clips that begin within those
rows. The offsets are learned for the best anchor, and added to its ends without their fraction.

The extended version (Lin et al., IEEE Transactions on Image Processing 2020) also reconstructs the query from
the target moment while training: `reconstruction_weight`. No code of it exists, and no copy of the paper was at
hand: the decoder here is ours.

The settings of the paper's two data sets, T = 200:

  data set              widths                        learning rate   batch   epochs
  ActivityNet Captions  16, 32, 64, 96, 128, 160, 192  8e-4            128     10
  TACoS                 6, 18, 32                      4e-4            64      40
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.anchors import inclusive_iou, moment_in_clips, soft_labels
from vmr_jax.layers.attention import check_heads
from vmr_jax.layers.completion import completion_loss, known_words, started, starts_of
from vmr_jax.layers.cross_gate import CrossGate
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_default_kernel
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.refined_anchors import AnchorRefiner
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean

CARD = Card(
    title="Cross-Modal Interaction Networks for Query-Based Moment Retrieval in Videos",
    authors=("Zhang", "Lin", "Zhao", "Xiao"),
    venue="SIGIR",
    year=2019,
    family="ranking",
    kind="anchors, syntactic graphs",
    supervision="full",
    features="C3D; GloVe",
    official_code="ikuinen/CMIN@4f965604d09f (PyTorch)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "Moments are predicted, and counted, in seconds and not on the grid: the official code rounds refined "
        "anchors to clips and counts IoU there, which is kinder to short moments.",
        "All refined anchors are ranked, not the best alone.",
        "Padded clips are never seen (the official code has none, as it resamples every video to T rows).",
        "The query reconstruction of the extended version (TIP 2020) is an option, off by default, and claims "
        "no reproduction. Ours are the decoder, a GRU over the words so far with additive attention to the "
        "fused clips of the annotated moment; its cross-entropy, averaged over a sentence with its end, where "
        "words that the vocabulary lacks are left out; and its weight, 0.1 in the config. Word vectors are not "
        "fine-tuned beside it.",
        "Weights start as PyTorch's do, those of the self-attention Glorot uniform, and the biases of the "
        "relations at zero.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 23 to 97 rows "
        "and sentences of 3 to 11 words: rows of the features, moments in clips, outputs, loss, gradients and "
        "the best refined anchor agree to 1e-6.",
        "As that program, and not in the paper: anchors are cast to integers before they are refined, so that "
        "those of even width are half a clip earlier, in loss and prediction, not in the labels.",
        "There are 8,229,701 parameters, as in the official code.",
        "The graph operator, anchors and labels equal computations by hand, and so does the reconstruction.",
    ),
)


@struct.dataclass
class Outputs:
    """Predictions for all anchors, in the order of `frame_anchors`; meaningless where one is not legal."""

    logits: jax.Array  # [B,M] float32
    offsets: jax.Array  # [B,M,2] float32, clips
    word_logits: jax.Array | None = None  # [B,L+1,X] float32, position l writes word l; None at test


class Model(AnchorRefiner, GroundingModel):
    """CMIN, with the settings of ActivityNet Captions; our choices are in `CARD.ours`.

    Attributes:
      widths: widths of the anchors around every clip, in clips.
      features: F, width of the GRUs' outputs and of all layers behind them; even.
      attention_layers: number of layers of the video's self-attention.
      heads: number of attention heads; they share the width of the features (or `projection`) equally.
      band: number of clips that the self-attention sees on either side of a clip.
      graph_layers: number of layers of the query's graph convolution.
      relations: number of relations in `batch.dependencies`, the word itself (1) included.
      projection: width of a linear layer before the video's encoder; 0 leaves it out (the paper's).
      label_low: IoU, relative to the best anchor's, below which the label is zero.
      offset_weight: weight of the regression loss (official code: Model.forward).
      reconstruction_weight: weight of the reconstruction of the query; 0 leaves it out (the SIGIR paper's).
      dropout: share of numbers that dropout sets to zero, in both inputs and after every attention layer, graph
        layer and GRU.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        paper's). With the reconstruction X, the number of words that it chooses from.
      keep: number of moments that `predict` returns; 0 for all anchors, among which the official NMS chooses.
      dtype: number format of the layers; parameters, logits and losses are float32.
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
    reconstruction_weight: float = 0.0
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def needs_vocabulary(self) -> bool:
        """Whether the query is reconstructed."""
        return self.reconstruction_weight > 0

    def requires(self) -> tuple[str, ...]:
        """Names the dependency graph of the query, and the rows at which the clips begin."""
        return ("dependencies", "clip_rows")

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores and refines every anchor.

        Raises UserError without dependencies, or for a number of heads that cannot share the features.
        """
        batch.check()
        if batch.dependencies is None:
            raise UserError("CMIN reads the syntax of the query, and this batch has none (dependencies).")
        check_heads("CMIN", self.projection or batch.video.shape[-1], self.heads)
        clips = self._read_video(batch, train)

        # Official code: SentenceEncoder.
        tuned = 0 if self.needs_vocabulary else self.vocab_size
        words = self._drop(WordEmbedding(tuned, self.dtype, name="words")(batch), batch, train)
        for i in range(self.graph_layers):
            graph = SyntacticGraphConv(self.relations, self.dtype, name=f"graph_{i}")
            words = words + self._drop(graph(words, batch.dependencies), batch, train)
        words = self._recur(words, batch.query_mask, batch, train, "query")

        # Official code: TanhAttention, CrossGate, and the heads of Model.
        across = AdditiveAttention(self.features, self.dtype, name="cross_attention")
        attended = across(clips, words, batch.query_mask)
        gated = CrossGate(self.features, self.dtype, name="cross_gate")(clips, attended)
        fused = self._recur(gated, batch.video_mask, batch, train, "fusion")
        scored = self._score(fused)
        word_logits = None
        if self.needs_vocabulary and (train or self.is_initializing()):
            decoder = QueryDecoder(self.vocab_size, self.features, self.dropout, self.dtype, name="decoder")
            word_logits = decoder(known_words(batch, self.vocab_size), fused, train)
        return Outputs(scored.logits, scored.offsets, word_logits)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'alignment': cross-entropy of all anchors; 'regression': smooth L1 of both ends of the best one.

        Official code: Model.forward. 'reconstruction', ours: cross-entropy of the query, word for word.
        """
        del epoch
        legal, moment = self._legal(batch), moment_in_clips(batch)
        overlap = inclusive_iou(self.anchors(batch.video.shape[1])[None], moment[:, None])
        labels = soft_labels(overlap, legal, self.label_low)
        best = labels.argmax(-1)[:, None, None]
        refined = jnp.take_along_axis(self._refined(outputs, batch), best, axis=1)[:, 0]
        learned = (batch.example_mask & legal.any(-1))[:, None] & jnp.ones((1, 2), bool)
        terms = {
            "alignment": self._alignment(outputs, labels, batch),
            "regression": Mean.of(optax.losses.huber_loss(refined, moment), learned, self.offset_weight),
        }
        if outputs.word_logits is not None:
            written = known_words(batch, self.vocab_size)
            nll = completion_loss(
                outputs.word_logits[:, None], written.query, written.query_mask, smoothing=0.0, predict_end=True
            )[:, 0]
            terms["reconstruction"] = Mean.of(nll, batch.example_mask, self.reconstruction_weight)
        return terms


class SyntacticGraphConv(nn.Module):
    """Messages of the words along their relations, under gates; ReLU of the sum.

    Official code: GraphConvolution. In each direction, y = W x and g = G y. A relation r adds to a word the sum
    over its neighbours along r of (y + b_r) * sigmoid(g + c_r), not divided by their number. Directions: 'self'
    (relation 1), 'out', a head from its dependents, and 'in', a dependent from its head.

    Parameters of a direction: kernel (W), gate_kernel (G) [W,W]; bias (b_r), gate_bias (c_r), one row for each
    relation.
    """

    relations: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: jax.Array, dependencies: jax.Array) -> jax.Array:
        """Words [B,L,W] and relations [B,L,L] (head row, dependent column) -> [B,L,W]."""
        chex.assert_shape(dependencies, (*words.shape[:2], words.shape[1]))
        itself = dependencies == 1
        outward = jnp.where(dependencies > 1, dependencies - 1, 0)  # rows of the tables, 0: no relation
        inward = outward.swapaxes(1, 2)
        sent = self._direction("self", words, itself.astype(jnp.int32), 1)
        sent = sent + self._direction("out", words, outward, self.relations - 1)
        return nn.relu(sent + self._direction("in", words, inward, self.relations - 1))

    def _direction(self, name: str, words: jax.Array, relation: jax.Array, relations: int) -> jax.Array:
        """Returns [B,L,W], the messages to word i from every word j with relation[:, i, j] > 0.

        A relation is a row of the biases, counted from 1.
        """
        width = words.shape[-1]

        def linear(x, what):
            kernel = self.param(f"{name}_{what}", torch_default_kernel, (width, width))
            return jnp.dot(x, kernel.astype(self.dtype))

        def add(x, what):
            """Returns [B,L,L,W], x of word j plus the row of its relation to word i."""
            table = self.param(f"{name}_{what}", nn.initializers.zeros, (relations, width))
            return x[:, None] + table.astype(self.dtype)[jnp.maximum(relation - 1, 0)]

        value = linear(words, "kernel")
        gate = linear(value, "gate_kernel")
        message = add(value, "bias") * jax.nn.sigmoid(add(gate, "gate_bias"))
        return jnp.where((relation > 0)[..., None], message, 0).sum(2)


class QueryDecoder(nn.Module):
    """Writes the query again, word for word, from the fused clips of the annotated moment; ours.

    Parameters: start, the vector [W] before the first word; gru; attention; word, a linear layer.

    Attributes:
      classes: X, number of words to choose from.
      features: F, width of the GRU and of the attention.
      dropout: dropout rate of the words and of the GRU's states.
      dtype: number format of the layers; logits are float32.
    """

    classes: int
    features: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch: Batch, fused: jax.Array, train: bool) -> jax.Array:
        """Fused clips [B,T,F] and the query of the batch -> [B,L+1,X]; place l has read the words before l."""

        def drop(x):
            return Dropout(self.dropout)(x, batch.example_index, train)

        start = self.param("start", nn.initializers.zeros, batch.query_vectors.shape[-1:])
        words = drop(started(start, batch.query_vectors).astype(self.dtype))
        states = drop(GRU(self.features, dtype=self.dtype, name="gru")(words, starts_of(batch.query_mask)))
        attention = AdditiveAttention(self.features, self.dtype, name="attention")
        seen = attention(states, fused, clips_of_moment(batch))
        both = jnp.concatenate([states, seen], axis=-1)
        return torch_linear(self.classes, both.astype(jnp.float32), jnp.float32, "word")


def clips_of_moment(batch: Batch) -> jax.Array:
    """Returns [B,T] bool, the clips of the annotated moment."""
    first, last = jnp.split(moment_in_clips(batch), 2, axis=-1)
    place = jnp.arange(batch.video_mask.shape[1])[None]
    return (place >= first) & (place <= last) & batch.video_mask
