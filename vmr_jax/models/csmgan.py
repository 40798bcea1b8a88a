"""CSMGAN: one graph of clips and words, with messages across the modalities and within each, and anchors.

No copy of the paper was at hand: names at the right, and "official code" in the file, are those of the authors'
program, a fork of CMIN's, whose checkpoints `vmr_jax.torch_import` reads.

  tensor        shape     meaning                                                              official code
  batch.video   [B,T,D]   clip features
  clip_rows     [B,T]     the row of the features at which a clip begins                       index
  clips         [B,T,F]   banded self-attention over the features, BiGRU                       VideoEncoder
  phrases       [B,L,W]   maximum of convolutions over one, two and three word vectors         max_pool
  words         [B,L,F]   BiGRU over word, phrase, and BiLSTM over the phrases                 SentenceEncoder
  joint         [B,T,F]   clips after messages from the words, then from the clips, each       update_v,
                          taken in by gates; words likewise                                    update_s, ...
  attended      [B,T,F]   the words as each clip weighs them                                   TanhAttention
  fused         [B,T,F]   BiGRU over joint clips and attended words                            rnn
  logits        [B,M]     of the anchors: P widths around every clip, M = T P                  fc_score
  offsets       [B,M,2]   numbers to add to an anchor's first and last clip                    fc_reg

F = 512, W = 300. Messages are sums that are not divided: an edge is normalised over the nodes that receive from
one sender, so that the size of a message depends on the numbers of clips and words.

Labels are the IoUs of the anchors with the moment, relative to the best, on the grid of clips and with both
ends included. Offsets are learned for all anchors of high IoU, and added to their ends without their fraction.

The settings of the official program, T = 200 and 20 words:

  data set              widths                         offsets of anchors with IoU    offset_weight   batch
  epochs ActivityNet Captions  16, 32, 64, 96, 128, 160, 192  0.8 of the best, and more      1e-3            128
      20 TACoS                 2.75, 4.75, 8.75, 16.75        0.45 and more                  5e-3            64
          40
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
from vmr_jax.layers.attention import check_heads, masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.positions import positions
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.refined_anchors import AnchorRefiner
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean

CARD = Card(
    title="Jointly Cross- and Self-Modal Graph Attention Network for Query-Based Moment Localization",
    authors=("Liu", "Qu", "Liu", "Dong", "Zhou", "Xu"),
    venue="ACM MM",
    year=2020,
    family="ranking",
    kind="anchors, joint graph of clips and words",
    supervision="full",
    features="C3D, I3D; GloVe",
    official_code="liudaizong/CSMGAN@51348c805e83 (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand.",
        "Padded words are never seen; with official_padding=True they send and receive messages, and the LSTM "
        "reads them, as officially, where every sentence is padded to 20 words.",
        "The dropout of the messages within a modality is off in evaluation; officially it stays on, so that "
        "scores are random.",
        "Moments are predicted, and counted, in seconds and not on the grid; the official code rounds refined "
        "anchors to clips.",
        "A moment that ends in the 200th of more rows ends there; the official code takes it for the end of "
        "the video, as its label is compared with the number of clips.",
        "Anchors that are not legal are left out of the ranking; officially they have a score of zero.",
        "An anchor whose IoU is exactly 0.8 of the best is refined; officially rounding decides. Of the "
        "moments on the grid of ActivityNet Captions 10% have such anchors, and 58% of these are refined "
        "officially.",
        "A batch without an anchor to refine has no regression loss, officially NaN.",
        "Charades-STA and DiDeMo, of which the official program knows nothing, have the anchors of FIAN, by "
        "the same group.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, both data sets, videos "
        "of 23 to 397 rows, sentences of 3 to 13 words, its padding (official_padding) and without its "
        "dropout: rows and moments in clips are the same, labels, outputs and both losses agree to 1e-6, "
        "gradients to 1.2e-6 of the largest of each parameter (of keys' biases they are rounding), and "
        "the refined anchors are ranked alike.",
        "Without official_padding logits of size 2 to 3 move by up to 0.7.",
        "There are 15,637,657 parameters on ActivityNet Captions and 17,681,540 on TACoS, as officially.",
        "Phrases, messages, gates and losses equal computations by hand.",
    ),
)

_TIE = 1e-5  # relative; on the grid of clips an IoU is often exactly 0.8 of the best, and must not be noise


@struct.dataclass
class Outputs:
    """Predictions for all anchors, in the order of `frame_anchors`; meaningless where one is not legal."""

    logits: Array  # [B,M] float32
    offsets: Array  # [B,M,2] float32, clips


class Model(AnchorRefiner, GroundingModel):
    """CSMGAN, with the settings of ActivityNet Captions.

    Attributes:
      widths: widths of the anchors around every clip, in clips.
      features: F, width of the GRUs' outputs and of all layers behind them; even.
      attention_layers: number of layers of the video's self-attention.
      heads: number of attention heads; they share the width of the features (or `projection`) equally.
      band: number of clips that the self-attention sees on either side of a clip.
      lstm_layers: number of layers of the LSTM over the phrases.
      projection: width of a linear layer before the video's encoder; 0 leaves it out (the official of
        ActivityNet Captions; 500 on TACoS).
      refine_low: IoU from which on an anchor's offsets are learned.
      refine_relative: whether `refine_low` is a share of the IoU of the best anchor.
      offset_weight: weight of the regression loss (official code: Model.forward).
      dropout: share of numbers that dropout sets to zero, in both inputs, between the layers of the LSTM and
        after every attention layer and GRU.
      node_dropout: dropout rate of the nodes that are compared within a modality (official code:
        PositionalEncoding).
      official_padding: whether padded words are seen as in the official code, see the card.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        official).
      keep: number of moments that `predict` returns; 0 for all anchors, among which the official NMS chooses.
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    widths: tuple[float, ...] = (16, 32, 64, 96, 128, 160, 192)
    features: int = 512
    attention_layers: int = 2
    heads: int = 4
    band: int = 3
    lstm_layers: int = 2
    projection: int = 0
    refine_low: float = 0.8
    refine_relative: bool = True
    offset_weight: float = 1e-3
    dropout: float = 0.2
    node_dropout: float = 0.2
    official_padding: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """Names the rows at which the clips begin."""
        return ("clip_rows",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores and refines every anchor.

        Raises UserError for a number of heads that cannot share the features, and for odd `features`.
        """
        batch.check()
        check_heads("CSMGAN", self.projection or batch.video.shape[-1], self.heads)
        if self.features % 2:
            raise UserError(
                f"config.model.features of CSMGAN is {self.features}; it must be even, half for each direction "
                "of the GRUs."
            )
        index = batch.example_index

        clips = self._read_video(batch, train)

        # Official code: SentenceEncoder.
        seen = jnp.ones_like(batch.query_mask) if self.official_padding else batch.query_mask
        words = self._drop(WordEmbedding(self.vocab_size, self.dtype, name="words")(batch), batch, train)
        phrases = Phrases(self.dtype, name="phrases")(words)
        lstm = LSTM(words.shape[-1] // 2, self.lstm_layers, True, self.dtype, self.dropout, name="sentence")
        sentence = lstm(phrases, seen, index, train)
        words = jnp.concatenate([words, phrases, sentence], -1)
        words = self._recur(words, batch.query_mask, batch, train, "query")

        # Official code: the attentive graph of Model.forward.
        to_clips, to_words = CrossMessages(self.features, self.dtype, name="cross")(
            clips, words, batch.video_mask, seen
        )
        clips = GatedUpdate(self.dtype, name="cross_clips")(to_clips, clips)
        words = GatedUpdate(self.dtype, name="cross_words")(to_words, words)
        within = WithinMessages(self.node_dropout, self.dtype, name="within_clips_messages")
        clips = GatedUpdate(self.dtype, name="within_clips")(
            within(clips, batch.video_mask, index, train), clips
        )
        within = WithinMessages(self.node_dropout, self.dtype, name="within_words_messages")
        words = GatedUpdate(self.dtype, name="within_words")(within(words, seen, index, train), words)

        # Official code: TanhAttention, and the heads of Model.
        across = AdditiveAttention(self.features, self.dtype, name="cross_attention")
        attended = across(clips, words, batch.query_mask)
        both = jnp.concatenate([clips, attended], -1)
        fused = self._recur(both, batch.video_mask, batch, train, "fusion")
        scored = self._score(fused)
        return Outputs(logits=scored.logits, offsets=jnp.asarray(scored.offsets))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """'alignment': cross-entropy of all anchors; 'regression': smooth L1 of both ends of those of high IoU.

        Official code: Model.forward, ClipDataset1 and ClipDataset2.
        """
        del epoch
        legal, moment = self._legal(batch), moment_in_clips(batch)
        overlap = inclusive_iou(self.anchors(batch.video.shape[1])[None], moment[:, None])
        overlap = jnp.where(legal, overlap, 0.0)
        labels = soft_labels(overlap, legal, low=0.0)
        low = self.refine_low * (overlap.max(-1, keepdims=True) if self.refine_relative else 1.0)
        learned = (overlap >= low * (1 - _TIE)) & (overlap > 0) & batch.example_mask[:, None]
        distance = optax.losses.huber_loss(self._refined(outputs, batch), moment[:, None]).mean(-1)
        return {
            "alignment": self._alignment(outputs, labels, batch),
            "regression": Mean.of(distance, learned, self.offset_weight),
        }


class Phrases(nn.Module):
    """The maximum of three convolutions over the words (official code: unigram_conv, bigram_conv,
    trigram_conv).

    Of two words are read the one before and the one after a word, of three the one two before, itself and the
    one two after. Parameters: words_1, words_2, words_3 (kernel [1,W,W], [2,W,W], [3,W,W], bias [W]).
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: Array) -> Array:
        """Word vectors [B,L,W], zero at padding -> [B,L,W]; meaningless at padding."""
        width = words.shape[-1]
        found = []
        for size in (1, 2, 3):
            conv = nn.Conv(
                width,
                (size,),
                kernel_dilation=2,
                padding=((size - 1, size - 1),),
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(size * width),
                dtype=self.dtype,
                name=f"words_{size}",
            )
            found.append(conv(words))
        return jnp.maximum(jnp.maximum(found[0], found[1]), found[2])


class CrossMessages(nn.Module):
    """Messages between clips and words (official code: CoAttention). Parameters: clips, a linear layer without
    bias.

    Attributes:
      features: F, width of the messages, and of clips and words.
      dtype: number format of the products; the softmax is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: Array, words: Array, video_mask: Array, query_mask: Array) -> tuple[Array, Array]:
        """Clips [B,T,F], words [B,L,F] and their masks, zero at padding -> messages to clips and to words."""
        projected = torch_linear(self.features, clips, self.dtype, "clips", use_bias=False)
        edges = jnp.einsum("btf,blf->btl", projected, words)
        both = video_mask[:, :, None] & query_mask[:, None, :]
        # Normalised over the receivers: over clips where words send, over words where clips do.
        from_words = masked_softmax(edges, both, axis=1).astype(self.dtype)
        from_clips = masked_softmax(edges, both, axis=2).astype(self.dtype)
        to_clips = jnp.einsum("btl,blf->btf", from_words, words)
        return to_clips, jnp.einsum("btl,btf->blf", from_clips, projected)


class WithinMessages(nn.Module):
    """Messages of the nodes of one modality to each other (official code: CoAttention_intra). No parameters.

    Attributes:
      dropout: dropout rate of the nodes that are compared, drawn anew for senders and receivers.
      dtype: number format of the products; the softmax is float32.
    """

    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, nodes: Array, mask: Array, example_index: Array, train: bool) -> Array:
        """Nodes [B,T,F] with mask [B,T] -> messages [B,T,F]."""
        chex.assert_shape(nodes, (*mask.shape, None))
        placed = nodes + jnp.asarray(positions(*nodes.shape[1:]), self.dtype)[None]
        receivers = Dropout(self.dropout, name="receivers")(placed, example_index, train)
        senders = Dropout(self.dropout, name="senders")(placed, example_index, train)
        edges = jnp.einsum("bif,bjf->bij", receivers, senders)
        both = mask[:, :, None] & mask[:, None, :]
        weights = masked_softmax(edges, both, axis=1).astype(self.dtype)  # over the receivers of each sender
        return jnp.einsum("bij,bjf->bif", weights, nodes)


class GatedUpdate(nn.Module):
    """The next state of nodes that receive a message: a GRU without a second product (official code:
    ConvGRUCell).

    Parameters: reset, update, candidate, linear layers of message and state, orthogonal at first.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, message: Array, state: Array) -> Array:
        """Messages [B,T,F] and states [B,T,F] -> [B,T,F]."""
        chex.assert_equal_shape([message, state])

        def linear(state, name):
            layer = nn.Dense(
                message.shape[-1], kernel_init=nn.initializers.orthogonal(), dtype=self.dtype, name=name
            )
            return layer(jnp.concatenate([message, state], -1))

        update, reset = jax.nn.sigmoid(linear(state, "update")), jax.nn.sigmoid(linear(state, "reset"))
        candidate = jnp.tanh(linear(state * reset, "candidate"))
        return (1 - update) * state + update * candidate
