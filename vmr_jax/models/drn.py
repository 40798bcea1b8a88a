"""DRN: every place inside the moment predicts its distances to both ends, and how good that prediction is.

Tensors (F = `features`, N = `segments`, Z levels of the pyramid; the names of the official code at the right):

    batch.video   [B,T,D]    feature rows, not normalised
    segments      [B,N,D]    maximum over the rows of N equal parts of the video       props_features
    positions     [B,N,3]    start, end and length of a segment, parts of the video    position_info
    words         [B,L,2E]   bidirectional LSTM of E units over the words              QueryEncoder
    queries       Z x [B,2E] one attention over the words for each level               extract_textual_command
    backbone      [B,N/2^z,*] convolutions; the input of each is gated by its query    Backbone
    pyramid       [B,N/2^z,F] 1x1 convolutions added from the top down, then 3x1       FPN
    logits        [B,M]      of the location being inside, M = N + N/2 + N/4           cls_logits
    distances     [B,M,2]    from the location to start and end, in segments           bbox_pred
    iou           [B,M]      logit of the IoU of the predicted moment                  iou_scores

A location is the middle of a step of its level: t = (i + 1/2) 2^z segments. All levels share one head, but
for a factor of the logarithm of the distances.

Three stages of training (`second_stage`, `third_stage`): everything but the IoU head; the IoU head alone, on
its own loss; everything. config.optimizer.rules hold still what rests.

Letters beyond the usual: Z levels of the pyramid.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.layers.recurrent import LSTM, first_state, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Dense Regression Network for Video Grounding",
    authors=("Zeng", "Xu", "Huang", "Chen", "Tan", "Gan"),
    venue="CVPR",
    year=2020,
    family="regression",
    kind="distances from every location, feature pyramid",
    supervision="full",
    features="C3D, VGG, I3D; GloVe",
    official_code="Alvin-Zeng/DRN@80743f3a9b0e (PyTorch)",
    ours=(
        "The number of frames is the middle of those that give as many rows as there are; the official code "
        "has it in a list. Of the segments of 9,848 real videos 20% then begin or end with another row (window "
        "16; with a window of 64 frames 10%), and their positions differ by up to .024 of the video.",
        "Rows beyond config.input.num_clips are averaged first.",
        "The logits of the IoU start at zero, so that the first stage ranks by probability alone, as in the "
        "official code, which has small random ones and leaves them out of the score.",
        "The second and third stage last as long as the first and go on from its last epoch with Adam's "
        "moments; the official code begins each anew from the best checkpoint of the one before.",
        "Words are those of the training split; the official code knows those of the test split too.",
    ),
    verified=(
        "45,511,378 parameters with C3D features and 1,301 words, as in the official code, of which 6,297,090 "
        "are in layers that it builds and does not use.",
        "Against the official code at this commit, running, with random weights, six real queries of four to "
        "eight words, in each of the three stages: borders and rows of 9,848 videos and the maxima over them "
        "are the same where the number of frames is; logits, distances and logits of the IoU agree to 5e-6 of "
        "their size in training and 2e-6 after it, the objective to 9e-7, gradients to 8e-6, the statistics "
        "of batch normalisation to 3e-7, the 56 candidates and 18 lists behind the suppression of each IoU. "
        "The focal loss, a program of its own there, stood in as its formula.",
        "Labels of 16,128 real moments at 56 locations each: 6 differ, by rounding of seconds to float32.",
        "Of 180 lists of made-up candidates, most with equal scores, 179 are the official ones; in the other "
        "one an IoU is the threshold of the suppression up to 1e-16.",
        "Outputs, losses, gradients and statistics equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the official code are imported.",
    ),
)
LEVELS = 3
_xavier = nn.initializers.xavier_uniform()
# Of convolutions without bias (official `conv_with_kaiming_uniform`, a = 1), and of the heads (`FCOSHead`).
_conv_kernel = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
_head_kernel = nn.initializers.normal(0.01)


@struct.dataclass
class Outputs:
    """Predictions of the M locations, level after level, float32."""

    logits: jax.Array  # [B,M] of being inside the moment
    distances: jax.Array  # [B,M,2] to start and end, segments, above zero
    iou: jax.Array  # [B,M] logits of the IoU of the predicted moment


class Model(GroundingModel):
    """DRN, with the settings of the official code for Charades-STA.

    Attributes:
      features: F, width of pyramid and head.
      first_features: width of the backbone's first level; it doubles with each further one.
      query_features: E, units of the LSTM in each direction.
      position_features: width of the encoded position of a segment.
      segments: N, number of segments, a multiple of 4.
      row_frames: number of frames from one feature row to the next.
      window_frames: number of frames that a feature row is computed from.
      level_from: for each level, the smallest larger distance of its positive locations, segments.
      level_to: for each level, the largest.
      focal_alpha: weight of positive locations in the focal loss; the others have 1 minus it.
      focal_gamma: exponent of the focal loss.
      prior: probability of being inside, as training begins.
      least_iou: IoU above which a predicted moment counts in the loss of the IoU.
      second_stage: 0-based epoch from which on the IoU head learns, alone.
      third_stage: 0-based epoch from which on everything learns; config.optimizer.rules must say the same.
      least_probability: probability of being inside above which a location's moment is a candidate.
      rank_by_iou: whether candidates are ranked by probability times predicted IoU; False takes the probability
        alone, as the official code does in the first stage.
      vocab_size: number of words whose vectors are fine-tuned (the paper's way), 0 to keep them.
      dtype: number format of the layers; parameters, outputs and losses are float32.
    """

    features: int = 512
    first_features: int = 256
    query_features: int = 512
    position_features: int = 256
    segments: int = 32
    row_frames: int = 8
    window_frames: int = 16
    level_from: tuple[float, float, float] = (-1.0, 5.6, 11.0)
    level_to: tuple[float, float, float] = (6.0, 11.0, 1e8)
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    prior: float = 0.01
    least_iou: float = 0.9
    second_stage: int = 10
    third_stage: int = 20
    least_probability: float = 0.05
    rank_by_iou: bool = True
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    positive = ("segments", "row_frames", "window_frames")

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Predicts a moment at every location; UserError for wrong `segments` or levels."""
        batch.check()
        if self.segments % 2 ** (LEVELS - 1):
            raise UserError(
                f"segments is {self.segments}; the pyramid of DRN halves it twice: give 32, 64, ..."
            )
        for field in ("level_from", "level_to"):
            if len(given := getattr(self, field)) != LEVELS:
                raise UserError(f"{field} of DRN is {given}; give a number for each of {LEVELS} levels.")
        queries = QueryEncoder(self.query_features, self.vocab_size, self.dtype, name="query")(batch)
        segments, bounds = pool_segments(
            batch.video, batch.video_mask, self.segments, self.row_frames, self.window_frames
        )
        real = batch.example_mask[:, None]
        pyramid = self._pyramid(self._backbone(segments, bounds, queries, real, train), real, train)

        head = Head(self.features, self.prior, self.dtype, name="head")  # one for all levels
        found = [head(x, real, train) for x in pyramid]
        distances = []
        for level, (_, raw, _) in enumerate(found):
            scale = self.param(f"scale_{level}", nn.initializers.ones, (1,))
            distances.append(jnp.exp(scale[0] * raw))
        return Outputs(
            logits=jnp.concatenate([logits for logits, _, _ in found], axis=1),
            distances=jnp.concatenate(distances, axis=1),
            iou=jnp.concatenate([iou for _, _, iou in found], axis=1),
        )

    def _backbone(self, segments, bounds, queries, real, train) -> list[jax.Array]:
        """Returns the levels [B,N/2^z,*], each of half as many steps and twice the width."""
        x = torch_linear(segments.shape[-1], segments.astype(self.dtype), self.dtype, "segment")
        position = jnp.concatenate([bounds, bounds[..., 1:] - bounds[..., :1]], axis=-1)
        position = torch_linear(self.position_features, position.astype(self.dtype), self.dtype, "position")
        levels = []
        for level, query in enumerate(queries):
            x = x * torch_linear(x.shape[-1], query, self.dtype, f"gate_{level}")[:, None]
            if level == 0:
                x = jnp.concatenate([x, position], axis=-1)
            conv = ConvBlock(
                self.first_features * 2**level,
                3,
                1 if level == 0 else 2,
                dtype=self.dtype,
                name=f"conv_{level}",
            )
            x = conv(x, real, train)
            levels.append(x)
        return levels

    def _pyramid(self, levels, real, train) -> list[jax.Array]:
        """Returns the levels [B,N/2^z,F]: each is added to what the next coarser one brings, twice as long."""
        found, above = [], None
        for level in reversed(range(LEVELS)):
            x = ConvBlock(self.features, 1, dtype=self.dtype, name=f"inner_{level}")(levels[level], real, train)
            above = x if above is None else x + jnp.repeat(above, 2, axis=1)
            found.append(
                ConvBlock(self.features, 3, dtype=self.dtype, name=f"layer_{level}")(above, real, train)
            )
        return found[::-1]

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'classification' (L_match), 'regression' (L_loc) and 'iou' (L_iou), each in its stages.

        Official code: FCOSLossComputation.
        """
        alone = (epoch >= self.second_stage) & (epoch < self.third_stage)
        others, own = jnp.where(alone, 0.0, 1.0), jnp.where(epoch >= self.second_stage, 1.0, 0.0)
        truth = jnp.stack([batch.span[:, 0], jnp.minimum(batch.span[:, 1], batch.duration)], axis=-1)
        truth = truth / batch.duration[:, None]
        locations, _ = level_locations(self.segments)
        positive, targets = self._targets(truth)
        real = batch.example_mask[:, None]
        positive = positive & real

        errors = focal_loss(outputs.logits, positive, self.focal_alpha, self.focal_gamma)
        errors = jnp.where(real, errors, 0.0).sum()
        count = positive.sum(dtype=jnp.float32) + real.sum(dtype=jnp.float32)  # so that it is never zero
        # Elsewhere a target can be negative, whose logarithm would spoil the gradient.
        targets = jnp.where(positive[..., None], targets, 1.0)
        regression = distance_loss(outputs.distances, targets)

        spans = predicted_spans(outputs.distances, locations, self.segments)
        # The official code means to cut all predictions to the video, and cuts those of the first location.
        spans = spans.at[:, 0].set(jnp.clip(spans[:, 0], 0.0, 1.0))
        overlap = hull_iou(spans, truth[:, None])
        good = (overlap > self.least_iou) & real
        return {
            "classification": Mean(sum=others * errors, count=count),
            "regression": Mean.of(regression, positive, others),
            "iou": Mean.of(optax.huber_loss(jax.nn.sigmoid(outputs.iou), overlap), good, own),
        }

    def _targets(self, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns which locations are positive [B,M], and distances [B,M,2] to moments [B,2] of the video."""
        locations, level = level_locations(self.segments)
        bounds = truth[:, None] * self.segments
        targets = jnp.stack([locations[None] - bounds[..., 0], bounds[..., 1] - locations[None]], axis=-1)
        shorter, longer = targets.min(-1), targets.max(-1)
        least, most = (np.asarray(x, np.float32)[level][None] for x in (self.level_from, self.level_to))
        return (shorter > 0) & (longer >= least) & (longer <= most), targets

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the moments of all likely locations; the whole video where there is none.

        The score is sqrt(probability * IoU), and of equal ones the later location comes first, as in the
        official code.
        """
        locations, _ = level_locations(self.segments)
        spans = jnp.clip(predicted_spans(outputs.distances, locations, self.segments), 0.0, 1.0)
        probability = jax.nn.sigmoid(outputs.logits)
        likely = probability > self.least_probability
        quality = jax.nn.sigmoid(outputs.iou) if self.rank_by_iou else jnp.ones_like(probability)
        none = ~likely.any(1, keepdims=True)
        whole = jnp.broadcast_to(jnp.array([0.0, 1.0]), (batch.size, 1, 2))
        spans = jnp.concatenate([whole, spans], axis=1)[:, ::-1]
        scores = jnp.concatenate([jnp.ones_like(none, jnp.float32), jnp.sqrt(probability * quality)], axis=1)
        candidates = jnp.concatenate([none, likely], axis=1)
        spans = spans * batch.duration[:, None, None]
        return rank(spans, scores[:, ::-1], candidates[:, ::-1], spans.shape[1])

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the highest probability of being inside, over the levels, at each row: 'clips' [B,T]."""
        _, level = level_locations(self.segments)
        levels = [jnp.repeat(outputs.logits[:, level == z], 2**z, axis=1) for z in range(LEVELS)]
        inside = jax.nn.sigmoid(jnp.stack(levels).max(0))
        rows = jnp.maximum(batch.video_mask.sum(1), 1)[:, None]
        segment = jnp.arange(batch.video.shape[1])[None] * self.segments // rows
        clips = jnp.take_along_axis(inside, jnp.minimum(segment, self.segments - 1), axis=1)
        return {"clips": jnp.where(batch.video_mask, clips, jnp.nan)}


# The video.


def pool_segments(
    video: jax.Array, mask: jax.Array, segments: int, row_frames: int, window_frames: int
) -> tuple[jax.Array, jax.Array]:
    """Takes the maximum over the rows of equal segments of a video (official `CharadesSTA.get_data`).

    Args:
      video: [B,T,D], rows of features.
      mask: [B,T] of the rows.
      segments: N, number of segments.
      row_frames: number of frames from one row to the next.
      window_frames: number of frames that a row is computed from; a segment of no more takes one row.

    Returns:
      Segments [B,N,D], and their starts and ends [B,N,2] as parts of the video.
    """
    chex.assert_shape(mask, video.shape[:2])
    rows = mask.sum(1, dtype=jnp.int32)
    frames = jnp.maximum(video_frames(rows, row_frames, window_frames), 1)
    first, last, bounds = segment_rows(frames, segments, row_frames, window_frames)
    first, last = (jnp.clip(x, 0, jnp.maximum(rows - 1, 0)[:, None]) for x in (first, last))
    most_frames = video_frames(video.shape[1], row_frames, window_frames) // segments + 1
    pooled = jnp.take_along_axis(video, first[..., None], axis=1)
    for more in range(1, (most_frames - 1) // row_frames + 2):
        row = jnp.take_along_axis(video, jnp.minimum(first + more, last)[..., None], axis=1)
        pooled = jnp.maximum(pooled, row)
    return pooled, bounds / frames[:, None, None]


def video_frames(rows: Any, row_frames: int, window_frames: int) -> Any:
    """Returns the frames of videos of [...] rows: the middle of the numbers that give so many.

    Where windows do not overlap it is the least of them, so that as many segments as rows are the rows.
    """
    return (rows - 1) * row_frames + window_frames + min(row_frames // 2, window_frames - row_frames)


def segment_rows(
    frames: jax.Array, segments: int, row_frames: int, window_frames: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns first and last row [B,N] of each segment of videos of [B] frames, and its bounds [B,N,2], frames.

    Frames count from 1, and the last segment ends with the video (the official list of segments).
    """
    start = 1 + jnp.arange(segments)[None] * (frames[:, None] - 1) // segments
    end = jnp.concatenate([start[:, 1:], frames[:, None]], axis=1)
    first = start // row_frames
    last = jnp.where(end - start <= window_frames, first, (end - 1) // row_frames)
    return first, last, jnp.stack([start, end], axis=-1)


# The query.


class QueryEncoder(nn.Module):
    """A vector of the query for each level: attentions over the words that know the whole sentence.

    Attributes:
      query_features: E, units of the LSTM in each direction.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them.
      dtype: number format of the layers; the attention is float32.
    """

    query_features: int
    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch: Batch) -> list[jax.Array]:
        """Returns a vector [B,2E] for each level."""
        mask = batch.query_mask
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        states = LSTM(self.query_features, bidirectional=True, dtype=self.dtype, name="lstm")(words, mask)
        ends = jnp.concatenate([first_state(states, mask), last_state(states, mask)], axis=-1)
        hidden = nn.relu(self._linear(self.query_features, "summary")(ends))
        score, found = self._linear(1, "score"), []
        for level in range(LEVELS):
            command = self._linear(2 * self.query_features, f"command_{level}")(hidden)
            weights = masked_softmax(score(command[:, None] * states)[..., 0], mask).astype(self.dtype)
            found.append(jnp.einsum("bl,blf->bf", weights, states))
        return found

    def _linear(self, features: int, name: str) -> nn.Dense:
        """Starts as TensorFlow's (official `ops.Linear`)."""
        return nn.Dense(features, kernel_init=_xavier, dtype=self.dtype, name=name)


# Convolutions over the segments.


class ConvBlock(nn.Module):
    """A convolution, batch normalisation and ReLU; filling rows of the batch count for nothing and give zero.

    Attributes:
      features: F, width of the result.
      kernel: number of steps that the convolution sees, odd.
      stride: steps from one place of it to the next.
      use_bias: whether the convolution has a bias.
      kernel_init: initialiser of its weights.
      dtype: number format of the layers; statistics are float32.
    """

    features: int
    kernel: int
    stride: int = 1
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = _conv_kernel
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, train: bool) -> jax.Array:
        """Maps [B,N,D] to [B,N/stride,F]; `real` [B,1] says which rows do not only fill the batch."""
        conv = nn.Conv(
            self.features,
            (self.kernel,),
            self.stride,
            padding=self.kernel // 2,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )
        x = conv(x)
        mask = jnp.broadcast_to(real, x.shape[:2])
        return nn.relu(MaskedBatchNorm(dtype=self.dtype, name="norm")(x, mask, train))


class Head(nn.Module):
    """Predicts inside, distances and IoU at every location of a level.

    Attributes:
      features: F, width of the levels.
      prior: probability of being inside, as training begins.
      dtype: number format of the layers; their results are float32.
    """

    features: int
    prior: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps a level [B,N,F] to logits [B,N], raw distances [B,N,2] and logits of the IoU [B,N]."""
        inside = self._block(self.features, 3, "inside_tower")(x, real, train)
        distance = self._block(self.features, 3, "distance_tower")(x, real, train)
        logits = self._conv(1, 3, "inside", bias=jnp.log(self.prior / (1 - self.prior)))(self._wide(inside))
        raw = self._conv(2, 3, "distance")(self._wide(distance))
        mixed = self._block(self.features, 1, "iou_mix")(
            jnp.concatenate([inside, distance], axis=-1), real, train
        )
        hidden = self._block(self.features // 2, 3, "iou_hidden")(mixed, real, train)
        # Zero until the second stage, in which the head begins to learn: the first ranks by probability alone.
        iou = self._conv(1, 1, "iou", kernel_init=nn.initializers.zeros)(self._wide(hidden))
        return logits[..., 0], raw, iou[..., 0]

    def _block(self, features: int, kernel: int, name: str) -> ConvBlock:
        return ConvBlock(features, kernel, 1, True, _head_kernel, self.dtype, name=name)

    @staticmethod
    def _conv(features: int, kernel: int, name: str, bias=0.0, kernel_init=_head_kernel) -> nn.Conv:
        bias_init = nn.initializers.constant(bias)
        return nn.Conv(
            features, (kernel,), padding=kernel // 2, kernel_init=kernel_init, bias_init=bias_init, name=name
        )

    @staticmethod
    def _wide(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32)


# Locations, labels and losses.


def level_locations(segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns all locations [M] in segments, and the level [M] of each."""
    counts = [segments // 2**level for level in range(LEVELS)]
    places = [(np.arange(count, dtype=np.float32) + 0.5) * 2**level for level, count in enumerate(counts)]
    return np.concatenate(places), np.repeat(np.arange(LEVELS), counts)


def predicted_spans(distances: jax.Array, locations: np.ndarray, segments: int) -> jax.Array:
    """Returns moments [B,M,2], parts of the video, of distances [B,M,2] from locations [M], segments."""
    start, end = locations[None] - distances[..., 0], locations[None] + distances[..., 1]
    return jnp.stack([start, end], axis=-1) / segments


def focal_loss(logits: jax.Array, positive: jax.Array, alpha: float, gamma: float) -> jax.Array:
    """Binary cross-entropy, elementwise, weighed by the error's power (Lin et al., ICCV 2017)."""
    sign = jnp.where(positive, 1.0, -1.0)
    weight = jnp.where(positive, alpha, 1.0 - alpha)
    wrong = jax.nn.sigmoid(-sign * logits)
    return -weight * wrong**gamma * jax.nn.log_sigmoid(sign * logits)


def distance_loss(distances: jax.Array, targets: jax.Array) -> jax.Array:
    """-log IoU of [...,2] distances to both ends from one place, all positive (official `IOULoss`)."""
    shared = jnp.minimum(distances, targets).sum(-1)
    union = targets.sum(-1) + distances.sum(-1) - shared
    return -jnp.log((shared + 1e-8) / (union + 1e-8))


def hull_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Overlap of spans [...,2] as a part of the shortest span that holds both (official `segment_tiou`)."""
    start, end = jnp.maximum(a[..., 0], b[..., 0]), jnp.minimum(a[..., 1], b[..., 1])
    hull = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    return jnp.maximum(end - start, 0.0) / (jnp.maximum(hull, 0.0) + 1e-6)
