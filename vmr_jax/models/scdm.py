"""SCDM: temporal convolutions over the video whose normalisation is steered by the sentence.

"Official code" in the file are functions of the authors' program.

  tensor          shape       meaning                                                 in the paper
  batch.video     [B,T,D]     slots of the video, not normalised; longer videos       V
                              are averaged to T rows
  words           [B,L,F]     bidirectional SRU over the word vectors                 Section 3.1, S
  sentence        [B,F]       mean of the words                                       Section 3.1
  fused           [B,T,F]     clip and sentence, linear, ReLU, convolution            Section 3.1
  layer n         [B,Z,F]     modulated convolutions; Z = T/4, T/8, ... cells         Section 3.2, A_n
  logits          [B,M]       of the anchors of a layer, four widths a cell           Section 3.3, p_over
  offsets         [B,M,2]     of their centre and width, within [-1,1]                Section 3.3

F = 512. Anchors are cells of the layers, in slots; a slot is a row of the video. Letters beyond the usual: Z
cells of an anchor layer. M counts the anchors of one layer, or of all.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Semantic Conditioned Dynamic Modulation for Temporal Sentence Grounding in Videos",
    authors=("Yuan", "Ma", "Wang", "Liu", "Zhu"),
    venue="NeurIPS",
    year=2019,
    family="ranking",
    kind="multi-scale anchors",
    supervision="full",
    features="I3D, C3D; GloVe",
    official_code="yytzsy/SCDM@075159b13c99 (TensorFlow)",
    sections=("3.1", "3.2", "3.3"),
    ours=(
        "What the paper leaves open is as in the official code.",
        "The official code has no mask, so padded slots, which biases make nonzero, enter convolutions and "
        "the statistics of the normalisation; `mask_padding=False` does the same. By default they are zeros "
        "everywhere, count in no statistic, and hold no anchor.",
        "Moments are cut to the video. The official code, and `mask_padding=False`, cut them to the slots, "
        "drop those longer than the video, and rank the last of equal scores first.",
        "A slot is a row of the features and an equal part of the video, averaged where it has more rows "
        "than slots. The official code averages pairs of its rows on Charades-STA, takes a slot for a "
        "second, and cuts longer videos off.",
        "Of a longer sentence the first words are kept; the official code keeps the last 14 on Charades-STA, "
        "and leaves out sentences of 35 words and more elsewhere, in tests too. It takes two blanks for a "
        "word.",
        "Words without a vector are zeros, the official ones drawn from [-3,3]; L2 draws what is learned of "
        "a word to its pretrained vector, officially the vector to zero.",
        "Layers begin by Glorot's rule, as there, but the attention by PyTorch's.",
        "NMS keeps an IoU of up to 1e-5 above its threshold.",
    ),
    verified=(
        "Against the official code at this commit, running in Python 2.7 and TensorFlow 1.14, with width 64, "
        "small random weights, 16 ragged videos and made-up sentences in a batch, mask_padding=False and no "
        "dropout, as on Charades-STA, TACoS (128 slots) and ActivityNet Captions (256 slots): logits agree "
        "to 1.5e-5, 1e-5 and 1.2e-4 of their size, every loss to 6e-7, 6e-7 and 2e-6, all gradients to 8e-5, "
        "1.1e-5 and 1.6e-4 of the largest, running statistics to 4e-7; with these, scores to 1.3e-6. In "
        "float64 ours are 1.1e-4 beside theirs in the last layer of ActivityNet Captions and 1.1e-5 in the "
        "others, where weights moved by 6e-8 of their size move logits by 2.8e-6 and by at most 4.9e-7.",
        "Rows and words of its preparation are the same where nothing is cut. So are the labels, but where "
        "an IoU equals a threshold: four anchors of two batches, put on either side by float32.",
        "Moments and order after NMS, by its own test program, are the same for all 16 queries on "
        "Charades-STA, 14 on TACoS and 9 on ActivityNet Captions: twice one moment more is kept, of IoU "
        "0.500002 and 0.50001, and seven times it keeps moments up to 64.4 s long in a video of 64 rows, "
        "here up to 64.",
        "One step of its optimiser from the same weights leaves all but 1 in 90,000 of the parameters of "
        "Charades-STA within 1e-6, a hundredth of the step (config.optimizer.name='tf_adam'); with 'adam' "
        "3.5 percent are further away, 7.3 on ActivityNet Captions.",
        "Recurrent unit, modulation, anchors and loss equal computations in numpy.",
        "No checkpoint was published.",
    ),
)

_HEAD = 64  # channels between the two convolutions of a head (official code: predict_regression_hidden)
POSITIVE_IOU = 0.5  # of positive anchors (official code: pos_threshold)
_xavier = nn.initializers.xavier_uniform()


@struct.dataclass
class Outputs:
    """Predictions for the anchors of every layer, largest layer first, float32."""

    logits: tuple[jax.Array, ...]  # [B,M]
    offsets: tuple[jax.Array, ...]  # [B,M,2] of centre and width, in [-1,1]
    real: tuple[jax.Array, ...]  # [B,M] bool, the anchor's cell holds a real slot


class Model(GroundingModel):
    """SCDM, with the settings of Charades-STA; our choices are in `CARD.ours`.

    Attributes:
      features: F, width of every layer; half of it for each direction of the SRU.
      layers: number of anchor layers; the first has T/4 cells, each further one half as many.
      kernel: number of slots under the kernel of the first convolution and of the first modulated one; 3 in all
        others.
      sentence_blocks: number of first modulated convolutions that see the sentence instead of attending to its
        words (the official code: 2 on ActivityNet Captions and TACoS).
      ratios: widths of the anchors of a cell, in cells.
      negative_iou: IoU below which an anchor is negative; those above 0.5 are positive, the rest is ignored.
      hard_logit: logit above which a negative is a hard one; hard and easy negatives have means of their own.
      least_width: width in slots up to which an anchor has no label.
      most_width: width in slots from which an anchor has no label; 0: no limit. Anchors without a label are
        never trained, and no prediction.
      whole_slots: whether moments are rounded down to whole slots to be learned (the official code: on TACoS).
      overlap_weights: weights of the losses of positive, hard negative and easy negative anchors.
      centre_weight: weight of the loss of the centre of positive anchors.
      width_weight: weight of the loss of the width of positive anchors.
      offset_scale: share of an anchor's width that an offset of 1 stands for.
      mask_padding: whether padded slots are left out; False lets them count as the official code does, see the
        card.
      dropout: share of numbers of the words that dropout sets to zero.
      keep: number of moments that `predict` returns; 0 for all anchors, among which the official NMS chooses.
      vocab_size: number of words whose vectors are fine-tuned (the paper's); 0 keeps the word vectors of the
        batch fixed.
      dtype: number format of the layers; parameters, logits, offsets and losses are float32.
    """

    positive = ("layers",)

    features: int = 512
    layers: int = 5
    kernel: int = 3
    sentence_blocks: int = 0
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    negative_iou: float = 0.3
    hard_logit: float = 2.0
    least_width: float = 0.0
    most_width: float = 0.0
    whole_slots: bool = False
    overlap_weights: tuple[float, float, float] = (100.0, 50.0, 50.0)
    centre_weight: float = 50.0
    width_weight: float = 20.0
    offset_scale: float = 0.1
    mask_padding: bool = True
    dropout: float = 0.2
    keep: int = 0
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every anchor; UserError where the layers cannot halve the slots."""
        batch.check()
        self._check(batch.video.shape[1])
        real = batch.video_mask if self.mask_padding else jnp.ones_like(batch.video_mask)
        # Section 3.1. Official code: encode_sentence.
        words = WordEmbedding(self.vocab_size, self.dtype, name="embedding")(batch)
        words = BidirectionalSRU(self.features, self.dtype, name="words")(words, batch.query_mask)
        words = Dropout(self.dropout)(words, batch.example_index, train)
        count = jnp.maximum(batch.query_mask.sum(1), 1)[:, None]
        sentence = (words * batch.query_mask[..., None]).sum(1) / count.astype(words.dtype)

        x = self._fused(batch.video, sentence, real)
        # Section 3.2. Official code: network.
        outputs = []
        for block in range(self.layers + 1):
            x = ModulatedConv(
                self.features,
                kernel=self.kernel if block == 0 else 3,
                stride=1 if block == 0 else 2,
                attend=block >= self.sentence_blocks,
                dtype=self.dtype,
                name=f"block_{block}",
            )(x, real, words, batch.query_mask, sentence)
            if block:
                real = _halved(real)
            x = jnp.where(real[..., None], x, 0)
            if block:
                outputs.append(self._heads(x, real, train, block))
            else:
                x = nn.max_pool(jnp.where(real[..., None], x, -jnp.inf), (2,), (2,))
                real = _halved(real)
                x = jnp.where(real[..., None], x, 0)
        return Outputs(*(tuple(column) for column in zip(*outputs)))

    def _check(self, slots: int) -> None:
        least = 2 ** (self.layers + 1)
        if slots % least:
            raise UserError(
                f"SCDM with {self.layers} anchor layers halves the video {self.layers + 1} times, and the "
                f"batch has {slots} slots. Set config.input.num_clips to a multiple of {least}, or "
                "config.model.layers to fewer."
            )

    def _fused(self, video: jax.Array, sentence: jax.Array, real: jax.Array) -> jax.Array:
        """Returns [B,T,F] of clips and sentence (Section 3.1; official code: fuse_multimodal_feature)."""
        x = jnp.concatenate(
            [video.astype(self.dtype), jnp.broadcast_to(sentence[:, None], (*video.shape[:2], self.features))],
            -1,
        )
        x = nn.relu(nn.Dense(self.features, kernel_init=_xavier, dtype=self.dtype, name="fuse")(x))
        x = jnp.where(real[..., None], x, 0)
        x = nn.Conv(self.features, (self.kernel,), kernel_init=_xavier, dtype=self.dtype, name="conv")(x)
        return jnp.where(real[..., None], x, 0)

    def _heads(self, x: jax.Array, real: jax.Array, train: bool, layer: int):
        """Logits [B,M], offsets [B,M,2] and mask [B,M] of the anchors of a layer [B,Z,F] (Section 3.3)."""
        b, anchors = x.shape[0], len(self.ratios)
        logits = Head(anchors, self.dtype, name=f"overlap_{layer}")(x, real, train).reshape(b, -1)
        offsets = Head(2 * anchors, self.dtype, name=f"offset_{layer}")(x, real, train).reshape(b, -1, 2)
        return logits, jnp.tanh(offsets), jnp.repeat(real, anchors, axis=1)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns overlap and offset losses of each layer n, each with its own count.

        'positive_n', 'hard_negative_n' and 'easy_negative_n' are cross-entropies with the IoU, 'centre_n' and
        'width_n' smooth L1 in slots, of positive anchors. Official code: build_train.
        """
        del epoch
        seconds = self._seconds(batch)[:, None]
        truth = batch.span / seconds  # slots
        truth = jnp.floor(truth) if self.whole_slots else truth
        slots = batch.video.shape[1]
        terms = {}
        for layer, logits in enumerate(outputs.logits):
            anchors, usable = self._anchors(slots, layer), outputs.real[layer] & batch.example_mask[:, None]
            overlap = iou(_edges(anchors)[None], truth[:, None])
            labelled = usable & self._labelled(anchors)[None]
            positive, negative = labelled & (overlap > POSITIVE_IOU), labelled & (overlap < self.negative_iou)
            hard = negative & (logits > self.hard_logit)
            entropy = binary_cross_entropy(logits, overlap)
            kinds = {"positive": positive, "hard_negative": hard, "easy_negative": negative & ~hard}
            for (kind, mask), weight in zip(kinds.items(), self.overlap_weights):
                terms[f"{kind}_{layer}"] = Mean.of(entropy, mask, weight)
            error = optax.huber_loss(self._decoded(anchors, outputs.offsets[layer]), _centred(truth)[:, None])
            terms[f"centre_{layer}"] = Mean.of(error[..., 0], positive, self.centre_weight)
            terms[f"width_{layer}"] = Mean.of(error[..., 1], positive, self.width_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the decoded anchors that may have a label, cut to the video, without those under a slot."""
        slots, count = batch.video.shape[1], batch.video_mask.sum(1).astype(jnp.float32)[:, None]
        anchors = jnp.concatenate([self._anchors(slots, layer) for layer in range(self.layers)])
        spans = _edges(self._decoded(anchors, jnp.concatenate(outputs.offsets, axis=1)))
        end = count if self.mask_padding else jnp.full_like(count, slots)
        spans = jnp.clip(spans, 0.0, end[..., None])
        width = spans[..., 1] - spans[..., 0]
        usable = jnp.concatenate(outputs.real, axis=1) & self._labelled(anchors)[None]
        usable = usable & (width >= 1.0) & (width <= count)
        scores = jax.nn.sigmoid(jnp.concatenate(outputs.logits, axis=1))
        if not self.mask_padding:  # all padded cells have one score; officially the last of equal ones is best
            spans, scores, usable = (x[:, ::-1] for x in (spans, scores, usable))
        return rank(spans * self._seconds(batch)[:, None, None], scores, usable, self.keep or scores.shape[1])

    @staticmethod
    def _seconds(batch: Batch) -> jax.Array:
        """Returns [B], length of a slot in seconds."""
        return clip_length(batch.duration, batch.video_mask)

    def _anchors(self, slots: int, layer: int) -> jax.Array:
        """Returns [M,2] centre and width, in slots, of the anchors of a layer, cell by cell."""
        cells = slots // 2 ** (layer + 2)
        cell = slots / cells
        centre = (jnp.arange(cells, dtype=jnp.float32) + 0.5) * cell
        width = jnp.asarray(self.ratios, jnp.float32) * cell
        return jnp.stack(jnp.broadcast_arrays(centre[:, None], width[None, :]), axis=-1).reshape(-1, 2)

    def _labelled(self, anchors: jax.Array) -> jax.Array:
        """Returns [M] bool, the anchors whose width is within the limits."""
        width = anchors[:, 1]
        below = width < self.most_width if self.most_width else jnp.ones_like(width, bool)
        return below & (width > self.least_width)

    def _decoded(self, anchors: jax.Array, offsets: jax.Array) -> jax.Array:
        """Returns [B,M,2] centre and width, in slots, of anchors with their offsets applied (Section 3.3)."""
        centre, width = anchors[None, :, 0], anchors[None, :, 1]
        moved = centre + self.offset_scale * width * offsets[..., 0]
        return jnp.stack([moved, width * jnp.exp(self.offset_scale * offsets[..., 1])], axis=-1)


def _edges(centred: jax.Array) -> jax.Array:
    """[...,2] centre and width -> start and end."""
    half = centred[..., 1] / 2
    return jnp.stack([centred[..., 0] - half, centred[..., 0] + half], axis=-1)


def _centred(edges: jax.Array) -> jax.Array:
    """[...,2] start and end -> centre and width."""
    return jnp.stack([edges.mean(-1), edges[..., 1] - edges[..., 0]], axis=-1)


def _halved(real: jax.Array) -> jax.Array:
    """[B,Z] -> [B,Z/2]: a cell is real where one of its two is."""
    return real.reshape(real.shape[0], -1, 2).any(-1)


class BidirectionalSRU(nn.Module):
    """A simple recurrent unit in both directions (Lei et al., EMNLP 2018; official code: SRUCell).

    Per direction, with x = W x_t: forget and reset gates f, r = sigmoid(V x_t + b), state
    c_t = tanh(f c_{t-1} + (1 - f) x), output r c_t + (1 - r) x. No gate sees the state, so all products are
    over all words at once.

    Attributes:
      features: F, width of the result, half of it for each direction.
      dtype: number format of the products; the state is float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[B,L,W], right-padded mask [B,L] -> [B,L,F], zero at padding."""
        chex.assert_shape(mask, x.shape[:2])
        both = [self._direction(x, mask, name, name == "backward") for name in ("forward", "backward")]
        return jnp.concatenate(both, axis=-1)

    def _direction(self, x: jax.Array, mask: jax.Array, name: str, reverse: bool) -> jax.Array:
        d = self.features // 2
        inputs = nn.Dense(d, False, dtype=self.dtype, kernel_init=_xavier, name=f"{name}_inputs")(x)
        gates = nn.Dense(2 * d, dtype=self.dtype, kernel_init=_xavier, name=f"{name}_gates")(x)
        inputs = inputs.astype(jnp.float32)
        forget, reset = jnp.split(jax.nn.sigmoid(gates.astype(jnp.float32)), 2, axis=-1)

        def step(state, at):
            x, f, real = at
            state = jnp.where(real[:, None], jnp.tanh(f * state + (1.0 - f) * x), state)
            return state, state

        over_time = jax.tree.map(lambda y: y.swapaxes(0, 1), (inputs, forget, mask))
        _, states = jax.lax.scan(step, jnp.zeros((x.shape[0], d)), over_time, reverse=reverse)
        outputs = reset * states.swapaxes(0, 1) + (1.0 - reset) * inputs
        return jnp.where(mask[..., None], outputs, 0.0).astype(self.dtype)


class ModulatedConv(nn.Module):
    """SCDM itself (Section 3.2): instance normalisation steered by the words, ReLU, convolution.

    Official code: attend_sentence_with_video, scdm_norm, scdm_relu_conv.

    Attributes:
      features: F, width of the result.
      kernel: number of cells under the kernel of the convolution.
      stride: cells from one place of the kernel to the next.
      attend: whether each position attends to the words; False gives all the sentence vector.
      dtype: number format of the layers; statistics are float32.
    """

    features: int
    kernel: int
    stride: int
    attend: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, real: jax.Array, words: jax.Array, query_mask: jax.Array, sentence: jax.Array
    ) -> jax.Array:
        """[B,Z,F], mask [B,Z], words [B,L,F], mask [B,L], sentence [B,F] -> [B,Z/stride,F]."""
        if self.attend:
            condition = AdditiveAttention(self.features // 2, self.dtype, name="attention")(
                x, words, query_mask
            )
        else:
            condition = sentence[:, None]
        scale, shift = (  # gamma and beta
            jnp.tanh(nn.Dense(self.features, kernel_init=_xavier, dtype=self.dtype, name=name)(condition))
            for name in ("scale", "shift")
        )
        x = scale * _standardised(x, real).astype(self.dtype) + shift
        x = jnp.where(real[..., None], nn.relu(x), 0)
        conv = nn.Conv(
            self.features, (self.kernel,), self.stride, kernel_init=_xavier, dtype=self.dtype, name="conv"
        )
        return conv(x)


def _standardised(x: jax.Array, real: jax.Array) -> jax.Array:
    """Returns [B,Z,F] float32, each channel with mean 0 and variance 1 over the real cells of each video."""
    x, weight = x.astype(jnp.float32), real[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(1, keepdims=True), 1.0)
    mean = (x * weight).sum(1, keepdims=True) / count
    variance = (jnp.square(x - mean) * weight).sum(1, keepdims=True) / count
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)  # the official epsilon


class Head(nn.Module):
    """Twice batch normalisation, ReLU, convolution of kernel 3; float32 at the end (official code: predict)."""

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, train: bool) -> jax.Array:
        """[B,Z,F], mask [B,Z] -> [B,Z,outputs]."""
        for layer, (channels, dtype) in enumerate(((_HEAD, self.dtype), (self.outputs, jnp.float32))):
            # Official code: batch_norm_layer, with TensorFlow's epsilon.
            x = MaskedBatchNorm(momentum=0.99, epsilon=1e-3, name=f"norm_{layer}")(x, real, train)
            x = jnp.where(real[..., None], nn.relu(x), 0)
            x = nn.Conv(channels, (3,), kernel_init=_xavier, dtype=dtype, name=f"conv_{layer}")(x)
        return x
