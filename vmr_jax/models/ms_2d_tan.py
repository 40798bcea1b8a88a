"""MS-2D-TAN: maps of moments by start and length at several scales, a convolution whose gate each cell opens.

  tensor       shape      meaning                                                        official code
  batch.video  [B,T,D]    clip features, rows L2-normalised; T is G times an integer
  clips        [B,G,F]    linear, ReLU, mean over T / G rows                             ClipAvgPool
  stacked      [B,*,F]    convolution, batch normalisation, tanh, each of the one
                          before, one clip longer; at a new scale the stride is 2        MultiScalePropConv
  maps         [B,Z,A,F]  of scale s: cell (i, a) begins at clip 2^s i and has 2^s (a + 1)
                          clips; the shorter half of the lengths is that of scale s - 1
  query        [B,F]      mean state of a bidirectional LSTM of 3 layers                 MulNormFusion
  fused        [B,Z,A,F]  L2-normalised product of (linear) query and (linear) cell      MulNormFusion
  context      [B,Z,A,F]  2 convolutions k x k, ReLU, times a gate of its own            MapGatedConv
  logits       [B,Z,A]    linear, for each scale. Their sigmoid is the score             ProposalHead

Letters beyond the usual: Z = G / 2^s starts at scale s; A lengths at each scale, not annotated moments; k side
of a kernel.

Names at the right, and "official code" in the file, are modules of the authors' program, whose checkpoints
`vmr_jax.torch_import` reads. There are no numbers of equations here: the paper was not at hand. The settings of
the official configs (F = 512):

  data set               rows T   G    scale_layers     k
  Charades-STA, VGG      256      64   (16, 8, 8)       17
  others                 64       64   (16, 8, 8)       17
  TACoS, wide            512      512  (8, 4, 4, 4, 4)  9
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import ClipPool, clip_length
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.layers.norm import MaskedBatchNorm, l2_normalize
from vmr_jax.layers.recurrent import LSTM, mean_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Multi-Scale 2D Temporal Adjacent Networks for Moment Localization with Natural Language",
    authors=("Zhang", "Peng", "Fu", "Lu", "Luo"),
    venue="TPAMI",
    year=2021,
    family="ranking",
    kind="2D maps of several scales",
    supervision="full",
    features="VGG, C3D, I3D; GloVe",
    official_code="microsoft/VideoX@1744b2159c3d (PyTorch)",
    ours=(
        "Words and clips of padding change nothing, in the official code they do (official_padding).",
        "Of a video of more rows than T the rows are averaged. Officially training takes a random window of T "
        "rows (Charades-STA, TACoS), test all rows, and ActivityNet Captions single rows, not means.",
        "Predicted times are cut to the video.",
        "The loss is computed from logits; in the official code it is 100, without a gradient, where a wrong "
        "probability rounds to 0 or 1.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, three scales, 16 clips "
        "of two rows, videos of 14 to 32 rows and queries of 1 to 6 words: candidates, scores, losses of every "
        "scale, gradients, running statistics and the moments after NMS agree to 3e-6, evaluating and "
        "training, with official_padding=True.",
        "By default a video in a longer map and a query in a longer batch have the scores, losses and moments "
        "that the official code gives them alone and without padding (videos of the longest moment or more).",
        "Checkpoints of the official code are imported.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits of all cells of each scale s: row i begins at clip 2^s i, column a has 2^s (a + 1) clips."""

    logits: tuple[jax.Array, ...]  # [B,Z,A] float32, one for each scale; 0 at no candidate


class Model(GroundingModel):
    """MS-2D-TAN, with the settings of Charades-STA and VGG features.

    Attributes:
      num_clips: G, number of clips at the finest scale.
      scale_layers: number of convolutions that lengthen the moments, by scale; the first is A, all others are
        half of it.
      features: F, width of every layer; even, half for each direction of the LSTM.
      map_kernel: k, side of the kernels of the gated convolutions, in cells; odd.
      map_layers: number of gated convolutions at each scale.
      lstm_layers: number of layers of the query's LSTM.
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      row_seconds: length of a row of features in seconds; 0 where the rows cover the video, whatever its
        length.
      official_padding: whether clips and words of padding change the result, as in the official code; for
        imported checkpoints and their own batches.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        paper's).
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, logits and loss are float32.
    """

    num_clips: int = 64
    scale_layers: tuple[int, ...] = (16, 8, 8)
    features: int = 512
    map_kernel: int = 17
    map_layers: int = 2
    lstm_layers: int = 3
    iou_low: float = 0.5
    iou_high: float = 1.0
    row_seconds: float = 0.0
    official_padding: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def candidates(self) -> np.ndarray:
        """Returns [G,G] bool, the moments that are scored, by first and last clip."""
        return candidate_mask(self.num_clips, self.scale_layers)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair; UserError for settings that do not fit each other."""
        batch.check()
        self._check()
        count = self._clips(batch)
        pool = ClipPool(self.features, self.num_clips, dtype=self.dtype, name="clips")
        clips = pool(batch.video, batch.video_mask)
        real = jnp.arange(self.num_clips)[None] < count[:, None]
        clips = jnp.where(real[..., None], clips, 0)
        stacked = StackedConvs(
            self.features, self.scale_layers, self.official_padding, self.dtype, name="proposals"
        )(clips, count, batch.example_mask, train)
        maps = multi_scale_maps(stacked, self.scale_layers, self.num_clips)

        query = torch_linear(self.features, self._query(batch), self.dtype, "query")[:, None, None]
        # Official code: one MulNormFusion for all scales.
        cell = torch_dense(self.features, self.features, self.dtype, "cells")
        logits = []
        for scale, (x, valid) in enumerate(zip(maps, self._valid(count))):
            x = jnp.where(valid[..., None], l2_normalize(query * cell(x)), 0)
            starts = jnp.arange(x.shape[1])[None] < count[:, None] // 2**scale
            seen = jnp.ones_like(starts) if self.official_padding else starts
            for layer in range(self.map_layers):
                name = f"map_{scale}_{layer}"
                x = GatedConv(self.features, self.map_kernel, self.dtype, name=name)(x, seen)
            x = torch_linear(1, x.astype(jnp.float32), jnp.float32, f"score_{scale}")[..., 0]
            logits.append(jnp.where(valid, x, 0.0))
        return Outputs(tuple(logits))

    def _check(self) -> None:
        first, *others = self.scale_layers
        if first % 2 or any(2 * layers != first for layers in others) or self.features % 2:
            raise UserError(
                f"config.model.scale_layers of MS-2D-TAN is {self.scale_layers} and features {self.features}. "
                "The first of scale_layers must be even and the others half of it, as (16, 8, 8); features "
                "must be even."
            )

    def _clips(self, batch: Batch) -> jax.Array:
        """Returns how many clips are made of real rows alone [B], at least one."""
        rows = batch.video_mask.shape[1] // self.num_clips
        return jnp.maximum(batch.video_mask.sum(-1) // max(rows, 1), 1)

    def _valid(self, count: jax.Array) -> list[jax.Array]:
        """Returns the candidates of each scale [B,Z,A], of videos of [B] clips: those that end within."""
        ends = [(start + length) for start, length in grid(self.num_clips, self.scale_layers)]
        return [jnp.asarray(end)[None] <= count[:, None, None] for end in ends]

    def _query(self, batch: Batch) -> jax.Array:
        """Returns the mean state [B,F] of the words (official code: the LSTM reads padding)."""
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        mask = jnp.asarray(batch.query_mask)
        words = jnp.where(mask[..., None], words, 0)
        lstm = LSTM(self.features // 2, self.lstm_layers, bidirectional=True, dtype=self.dtype, name="lstm")
        return mean_state(lstm(words, jnp.ones_like(mask) if self.official_padding else mask), mask)

    def _seconds(self, batch: Batch) -> jax.Array:
        """Returns the length [B] of a clip in seconds (official code: TIME_UNIT, or the duration's share)."""
        rows = batch.video_mask.shape[1] // self.num_clips
        row = clip_length(batch.duration, batch.video_mask)
        if self.row_seconds:  # rows that were averaged cover the video
            longest = (batch.video_mask.sum(-1) + 1) * self.row_seconds
            row = jnp.where(batch.duration > longest, row, self.row_seconds)
        return row * rows

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'iou_0', 'iou_1', ...: cross-entropy with the scaled IoU (bce_rescale_loss)."""
        del epoch
        seconds, count, terms = self._seconds(batch)[:, None, None, None], self._clips(batch), {}
        valid, cells = self._valid(count), grid(self.num_clips, self.scale_layers)
        for scale, (logits, (start, length)) in enumerate(zip(outputs.logits, cells)):
            spans = jnp.asarray(np.stack([start, start + length], -1), jnp.float32)[None] * seconds
            targets = scaled_iou(iou(spans, batch.span[:, None, None]), self.iou_low, self.iou_high)
            counted = valid[scale] & batch.example_mask[:, None, None]
            terms[f"iou_{scale}"] = Mean.of(binary_cross_entropy(logits, targets), counted)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first; a moment of several scales has the best score of them."""
        first, last = np.nonzero(self.candidates)
        scores = self._merged(outputs)[:, first, last]
        seconds = self._seconds(batch)[:, None, None]
        spans = jnp.asarray(np.stack([first, last + 1], -1), jnp.float32)[None] * seconds
        spans = jnp.minimum(spans, batch.duration[:, None, None])
        real = jnp.asarray(last)[None] < self._clips(batch)[:, None]
        return rank(spans, scores, real, self.keep or len(first))

    def _merged(self, outputs: Outputs) -> jax.Array:
        """Returns scores [B,G,G] by first and last clip (official code: recover_to_single_map)."""
        merged = jnp.zeros((len(outputs.logits[0]), self.num_clips, self.num_clips))
        for logits, (start, length) in zip(outputs.logits, grid(self.num_clips, self.scale_layers)):
            i, a = np.nonzero(start + length <= self.num_clips)
            cells = jax.nn.sigmoid(logits[:, i, a])
            merged = merged.at[:, start[i, a], (start + length)[i, a] - 1].max(cells)
        return merged

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the score of every candidate: 'map' [B,G,G], NaN at no candidate."""
        inside = jnp.arange(self.num_clips)[None, None] < self._clips(batch)[:, None, None]
        shown = jnp.asarray(self.candidates)[None] & inside
        return {"map": jnp.where(shown, self._merged(outputs), jnp.nan)}


# Maps.


def grid(num_clips: int, scale_layers: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """First clip and number of clips [Z,A] of every cell of each scale; some end after the last clip."""
    found = []
    for scale in range(len(scale_layers)):
        starts, lengths = np.arange(num_clips // 2**scale), np.arange(1, scale_layers[0] + 1)
        start, length = np.meshgrid(starts * 2**scale, lengths * 2**scale, indexing="ij")
        found.append((start, length))
    return found


def multi_scale_maps(
    stacked: list[list[jax.Array]], scale_layers: tuple[int, ...], num_clips: int
) -> list[jax.Array]:
    """Returns the map [B,Z,A,F] of each scale, zero at no candidate, of what `StackedConvs` returns.

    The shorter half of the lengths of a scale is every second start and length of the scale before it.
    """
    maps: list[jax.Array] = []
    for scale, layers in enumerate(stacked):
        side = num_clips // 2**scale
        x = jnp.stack([jnp.pad(y, ((0, 0), (0, side - y.shape[1]), (0, 0))) for y in layers], axis=2)
        if scale:
            shorter = maps[-1][:, : 2 * side : 2, 1::2]
            x = jnp.concatenate([shorter, x], axis=2)
        maps.append(x)
    return maps


class StackedConvs(nn.Module):
    """Features of ever longer moments, each a convolution of those one length shorter, at several scales.

    Parameters: layer_0_0, layer_0_1, ... by scale and number, convolutions, and norm_0_0, ..., their batch
    normalisations. The first has the kernel 1, the first of a further scale the kernel 3 and stride 2, all
    others the kernel 2.

    Attributes:
      features: F, width of the result.
      scale_layers: number of convolutions at each scale.
      official_padding: whether the statistics of a batch are over moments too that end after the video.
      dtype: number format of the layers.
    """

    features: int
    scale_layers: tuple[int, ...]
    official_padding: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, clips: jax.Array, count: jax.Array, example_mask: jax.Array, train: bool
    ) -> list[list[jax.Array]]:
        """Returns, by scale, [B,*,F] of every length, zero where a moment ends after the video.

        Args:
          clips: [B,G,F].
          count: [B] int, the number of real clips.
          example_mask: [B] bool, False for rows that only fill the batch.
          train: whether batch normalisation takes the statistics of the batch.
        """
        x, length = clips, 0
        found: list[list[jax.Array]] = []
        for scale, layers in enumerate(self.scale_layers):
            found.append([])
            for layer in range(layers):
                kernel = 2 if layer else 3 if scale else 1
                x = nn.Conv(
                    self.features,
                    (kernel,),
                    strides=2 if kernel == 3 else 1,
                    padding="VALID",
                    kernel_init=torch_default_kernel,
                    bias_init=torch_bias(kernel * x.shape[-1]),
                    dtype=self.dtype,
                    name=f"layer_{scale}_{layer}",
                )(x)
                length += 2**scale
                inside = jnp.arange(x.shape[1])[None] * 2**scale + length <= count[:, None]
                counted = jnp.ones_like(inside) if self.official_padding else inside
                counted = counted & example_mask[:, None]
                norm = MaskedBatchNorm(dtype=self.dtype, name=f"norm_{scale}_{layer}")
                x = jnp.where(inside[..., None], jnp.tanh(norm(x, counted, train)), 0)
                found[-1].append(x)
        return found


class GatedConv(nn.Module):
    """A convolution over a map, times a gate that a second convolution opens for each cell (MapGatedConv).

    Parameters: conv, gate.

    Attributes:
      features: F, width of the result.
      kernel: k, side of the kernels in cells; odd.
      dtype: number format of the computation.
    """

    features: int
    kernel: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, starts: jax.Array) -> jax.Array:
        """Returns [B,Z,A,F] of [B,Z,A,D], zero at rows outside [B,Z], as beyond the edge of the map."""

        def convolution(features, name):
            return nn.Conv(
                features,
                (self.kernel, self.kernel),
                padding="SAME",
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(self.kernel**2 * x.shape[-1]),
                dtype=self.dtype,
                name=name,
            )(x)

        y = nn.relu(convolution(self.features, "conv")) * nn.sigmoid(convolution(1, "gate"))
        return jnp.where(starts[:, :, None, None], y, 0)
