"""CTRL: sliding windows, scored against the sentence and moved to the moment's ends.

Names at the right, and "official code" in the file, are those of the authors' program, which serves TACoS
alone.

  tensor          shape      meaning                                                     official code
  batch.video     [B,T,D]    features of units of 16 frames (C3D fc6), not normalised; clips here
  batch.sentence  [B,D]      f_s before its layer: skip-thought vector of the query      sentence_ph
  windows         [M,2]      the sliding windows of `window_grid`, in clips              sclips
  x               [B,M,3D]   mean of the clips before, in and after a window             visual_featmap_ph
  video           [B,M,E]    v: linear, L2-normalised                                    v2s_lt
  sentence        [B,E]      s: linear, L2-normalised                                    s2s_lt
  fused           [B,M,4E]   [v * s; v + s; v; s]                                        cross_modal_comb
  score, offsets  [B,M,3]    linear with `hidden` outputs, ReLU, linear: cs, t_s, t_e    vs_multilayer

While training M = B: each example draws one window, and every sentence meets every window. A sentence and its
own window are a positive pair of the B x B, the others are negatives; a window may be drawn that has IoU > 0.5
with the moment and of which less than 15% lies outside. An example whose video has no such window, as where the
moment is shorter than all of them, does not count: neither its sentence nor its window is in any pair.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError, check_choices
from vmr_jax.layers.draws import uniform_choice
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.sentence import SentenceVector, read_fields
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="TALL: Temporal Activity Localization via Language Query",
    authors=("Gao", "Sun", "Yang", "Nevatia"),
    venue="ICCV",
    year=2017,
    family="ranking",
    kind="sliding windows",
    supervision="full",
    features="C3D; skip-thoughts",
    official_code="jiyanggao/TALL@3df6794af148 (TensorFlow)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "Windows are no files cut beforehand: they are pooled from the clips, a clip on the border in "
        "proportion. Lengths and strides are in clips; the defaults are the official 64, 128, 256 and 512 "
        "frames every 12, 25, 51 and 102 frames, where a clip is 16 frames.",
        "The official code draws pairs of a window and a sentence, all equally likely; here the sentence is "
        "drawn, as everywhere in this library, then one of its windows.",
        "The official code draws again where a batch would hold a moment twice; here such a pair (same video, "
        "same moment, another sentence) is no negative: it does not count.",
        "Offsets are in clips times `offset_scale`, 16 for the official frames.",
        "Word vectors instead of the skip-thought vector (`text`) are ours: the paper tries an LSTM, the code "
        "does not.",
    ),
    verified=(
        "There are 21,600,163 parameters, as the official variables have.",
        "Windows, labels, pair loss and offsets equal computations by hand.",
        "No checkpoint was published.",
    ),
)

CHOICES = {
    "context_windows": ("official", "exact"),
    "regression": ("np", "p", "none"),
}


@struct.dataclass
class Outputs:
    """Scores of sentences (rows) with windows (columns), float32.

    While training the columns are the drawn windows of the whole batch, of all devices; else they are the
    windows of the sentence's own video, those of `window_grid` with `test_lengths`.
    """

    score: Array  # [B,M] alignment score cs
    offsets: Array | None  # [B,M,2] start and end, see `regression_targets`; None without regression
    window: Array | None = None  # [B,2] the drawn window, clips; None at test
    found: Array | None = None  # [B] bool, whether there was one to draw


class Model(GroundingModel):
    """CTRL, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      lengths: lengths of the sliding windows, in clips.
      strides: distance from one window to the next, in clips, for each length; the paper's overlap of 80% is a
        fifth of it.
      test_lengths: those of `lengths` that are scored at test.
      context: length of the context on each side, in clips.
      context_windows: 'official' takes as context the window of `context` clips that ends where this one starts
        (starts where it ends) if the grid has it in this video, and else this one itself. 'exact' pools the
        neighbouring clips, however few there are, and the window itself where there are none.
      features: E, width of the common space.
      hidden: width of the hidden layer over a fused pair.
      regression: 'np' (offsets, the paper's best), 'p' (centre and logarithm of the length, relative to the
        window) or 'none' (alignment alone).
      regression_weight: weight of the L1 loss of the offsets (alpha).
      offset_scale: units of an offset in a clip; for 'np' alone.
      positive_iou: IoU with the moment above which a window is positive.
      positive_outside: share of a window outside of the moment (nIoL) below which it is positive.
      text: vector of the query: 'sentence' (comes with the query), 'lstm' or 'mean' of its word vectors.
      lstm_features: width of the LSTM.
      projection_std: standard deviation of the initial weights of the two projections, which are normalised
        afterwards.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      keep: number of windows that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, scores and losses are float32.
    """

    lengths: tuple[float, ...] = (4, 8, 16, 32)
    strides: tuple[float, ...] = (12 / 16, 25 / 16, 51 / 16, 102 / 16)
    test_lengths: tuple[float, ...] = (8, 16)
    context: float = 8
    context_windows: str = "official"
    features: int = 1024
    hidden: int = 1000
    regression: str = "np"
    regression_weight: float = 0.01
    offset_scale: float = 16.0
    positive_iou: float = 0.5
    positive_outside: float = 0.15
    text: str = "sentence"
    lstm_features: int = 1024
    projection_std: float = 1.0
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores the drawn windows of the batch while training, else all test windows of each video."""
        batch.check()
        self._check_fields()
        clips = batch.video_mask.sum(-1)
        if train:
            windows, found = self._draw(batch, clips)
            columns = windows[:, None]
        else:
            columns = jnp.asarray(self.grid(batch.video.shape[1], test=True))[None]
            columns = jnp.broadcast_to(columns, (batch.size, *columns.shape[1:]))

        # Official code: visual_semantic_infer.
        x = self._pool(batch.video, columns, clips)
        v = l2_normalize(self._projection(x, "video"))
        text = SentenceVector(self.text, self.lstm_features, self.vocab_size, self.dtype, name="text")
        s = l2_normalize(self._projection(text(batch), "sentence"))
        if train:
            v = gather_examples(v).swapaxes(0, 1)  # [1,B,E], the same for every sentence
        scores = Alignment(self.hidden, 1 if self.regression == "none" else 3, self.dtype, name="alignment")(
            v, s
        )
        offsets = None if self.regression == "none" else scores[..., 1:]
        if not train:
            return Outputs(score=scores[..., 0], offsets=offsets)
        return Outputs(score=scores[..., 0], offsets=offsets, window=windows, found=found)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'alignment' over the pairs of the batch, and 'regression' of the positive ones."""
        del epoch
        counted = outputs.found & batch.example_mask
        rows = (counted, batch.example_index, batch.video_index, batch.span)
        columns = gather_examples(rows)
        own, pairs = batch_pairs(rows, columns)
        # Official code: compute_loss_reg. A positive pair weighs 1 + 1/B beside 1/B of a negative one.
        weight = own + 1.0 / jnp.maximum(columns[0].sum(), 1)
        alignment = weight * jax.nn.softplus(jnp.where(own, -outputs.score, outputs.score))
        terms = {"alignment": Mean.of(alignment, pairs)}
        if self.regression != "none":
            offsets = jnp.where(own[..., None], outputs.offsets, 0.0).sum(1)
            moment = batch.span * _clips_per_second(batch)[:, None]
            error = jnp.abs(offsets - self.regression_targets(outputs.window, moment))
            both = jnp.broadcast_to(counted[:, None], error.shape)
            terms["regression"] = Mean.of(error, both, self.regression_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the windows within the video, moved by their offsets; not cut to the video.

        A video that is shorter than every test window has none, so its queries are missed.
        """
        windows = jnp.asarray(self.grid(batch.video.shape[1], test=True))
        real = windows[None, :, 1] <= batch.video_mask.sum(-1)[:, None]
        spans = jnp.broadcast_to(windows[None], (batch.size, *windows.shape))
        spans = spans if outputs.offsets is None else self.moved(spans, outputs.offsets)
        seconds = spans / jnp.maximum(_clips_per_second(batch), 1e-6)[:, None, None]
        return rank(seconds, outputs.score, real, self.keep or len(windows))

    def requires(self) -> tuple[str, ...]:
        """Names the sentence vector, unless the text is read from word vectors."""
        return read_fields(self.text)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns the best score of the windows that cover a clip: 'clips' [B,T], NaN where there is none."""
        num_clips = batch.video.shape[1]
        windows = jnp.asarray(self.grid(num_clips, test=True))
        real = windows[None, :, 1] <= batch.video_mask.sum(-1)[:, None]
        covers = (overlap(windows, num_clips) > 0)[None] & real[..., None]  # [B,M,T]
        best = jnp.where(covers, jax.nn.sigmoid(outputs.score)[..., None], -1.0).max(1)
        return {"clips": jnp.where(best >= 0, best, jnp.nan)}

    # The sliding windows.

    def grid(self, num_clips: int, test: bool) -> np.ndarray:
        """Returns [M,2] float32, the windows of a video of `num_clips` clips, in training or at test.

        Raises UserError where the video is too short for all of them.
        """
        lengths = self.test_lengths if test else self.lengths
        windows = window_grid(num_clips, lengths, [self._stride(length) for length in lengths])
        if not len(windows):
            raise UserError(
                f"A video has {num_clips} clips (config.input.num_clips), and the windows of CTRL have "
                f"{lengths} ({'test_lengths' if test else 'lengths'}). Give windows that fit, or more clips."
            )
        return windows

    def _stride(self, length: float) -> float:
        return self.strides[self.lengths.index(length)]

    def _draw(self, batch: Batch, clips: Array) -> tuple[Array, Array]:
        """A positive window [B,2] of each example, in clips, and whether there is one [B]."""
        windows = jnp.asarray(self.grid(batch.video.shape[1], test=False))
        moment = (batch.span * _clips_per_second(batch)[:, None])[:, None]
        positive = self.positives(windows[None], moment) & (windows[None, :, 1] <= clips[:, None])
        index, found = uniform_choice(self.make_rng("dropout"), batch.example_index, positive)
        return windows[index], found

    def positives(self, windows: Array, moment: Array) -> Array:
        """Returns [...] bool, whether windows [...,2] may stand for moments [...,2], in the same unit.

        Official code: calculate_IoU, calculate_nIoL.
        """
        inside = jnp.minimum(windows[..., 1], moment[..., 1]) - jnp.maximum(windows[..., 0], moment[..., 0])
        outside = 1.0 - inside / (windows[..., 1] - windows[..., 0])
        return (iou(windows, moment) > self.positive_iou) & (outside < self.positive_outside)

    def _pool(self, video: Array, windows: Array, clips: Array) -> Array:
        """Returns [B,M,3D], the means of context, windows [B,M,2] and context, of `clips` [B] real clips."""
        parts = jnp.stack(self.with_context(windows, clips), axis=2)  # [B,M,3,2]
        weights = overlap(parts, video.shape[1])
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)
        pooled = jnp.einsum("bmpt,btd->bmpd", weights.astype(self.dtype), video.astype(self.dtype))
        return pooled.reshape(*windows.shape[:2], -1)

    def with_context(self, windows: Array, clips: Array) -> tuple[Array, Array, Array]:
        """Returns the parts before, in and after windows [B,M,2] of videos of `clips` [B] clips: [B,M,2] each.

        Official code: get_context_window.
        """
        start, end = windows[..., 0], windows[..., 1]
        last = jnp.broadcast_to(clips[:, None].astype(jnp.float32), start.shape)
        if self.context_windows == "exact":
            before = jnp.stack([jnp.maximum(start - self.context, 0.0), start], -1)
            after = jnp.stack([end, jnp.minimum(end + self.context, last)], -1)
            has_before, has_after = start > 0, end < last
        else:
            before = jnp.stack([start - self.context, start], -1)
            after = jnp.stack([end, end + self.context], -1)
            has_before = self._is_window(start - self.context, last)
            has_after = self._is_window(end, last)
        return (
            jnp.where(has_before[..., None], before, windows),
            windows,
            jnp.where(has_after[..., None], after, windows),
        )

    def _is_window(self, start: Array, clips: Array) -> Array:
        """Returns whether the video has a window of `context` clips from `start` on, all [...]."""
        if self.context not in self.lengths:
            return jnp.zeros(start.shape, bool)
        steps = start / self._stride(self.context)
        on_grid = jnp.abs(steps - jnp.round(steps)) < 1e-3
        return on_grid & (start >= 0) & (start + self.context <= clips)

    # Offsets.

    def regression_targets(self, window: Array, moment: Array) -> Array:
        """Returns the offsets [...,2] from a window [...,2] to its moment [...,2], in clips.

        'np': moment minus window, of both ends, times `offset_scale`. 'p': the distance of the centres in
        lengths of the window, and the logarithm of the ratio of the lengths.
        """
        if self.regression == "np":
            return (moment - window) * self.offset_scale
        length, wanted = _length(window), jnp.maximum(_length(moment), 1e-3)
        return jnp.stack([(moment.mean(-1) - window.mean(-1)) / length, jnp.log(wanted / length)], axis=-1)

    def moved(self, window: Array, offsets: Array) -> Array:
        """Returns the moment [...,2] that the offsets say, the inverse of `regression_targets`."""
        if self.regression == "np":
            return window + offsets / self.offset_scale
        centre = window.mean(-1) + offsets[..., 0] * _length(window)
        half = _length(window) * jnp.exp(offsets[..., 1]) / 2
        return jnp.stack([centre - half, centre + half], axis=-1)

    # Text, projections, settings.

    def _projection(self, x: Array, name: str) -> Array:
        init = nn.initializers.normal(self.projection_std)
        return nn.Dense(self.features, kernel_init=init, dtype=self.dtype, name=name)(x)

    def _check_fields(self) -> None:
        check_choices("CTRL", self, CHOICES)
        if len(self.strides) != len(self.lengths) or min(self.strides, default=0) <= 0:
            raise UserError(
                f"strides of CTRL is {self.strides}; it must have one positive number for each of lengths, "
                f"{self.lengths}."
            )
        if not set(self.test_lengths) <= set(self.lengths):
            raise UserError(
                f"test_lengths of CTRL is {self.test_lengths}; it must be a part of lengths, {self.lengths}, "
                "whose strides it shares."
            )


class Alignment(nn.Module):
    """Fuses every pair and scores it: a network with one hidden layer, shared by all pairs.

    Official code: cross_modal_comb, vs_multilayer.
    """

    hidden: int
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, v: Array, s: Array) -> Array:
        """Windows [B,M,E] (or [1,M,E], the same for every sentence), sentences [B,E] -> [B,M,outputs]."""
        chex.assert_axis_dimension(v, 2, s.shape[1])
        shape = (s.shape[0], *v.shape[1:])
        v, s = jnp.broadcast_to(v, shape), jnp.broadcast_to(s[:, None], shape)
        fused = jnp.concatenate([v * s, v + s, v, s], axis=-1)
        init = nn.initializers.normal(0.01)  # the official code's
        hidden = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name="hidden")(fused))
        # In float32 whatever the dtype of the layers: these numbers rank the windows.
        return nn.Dense(self.outputs, kernel_init=init, name="output")(hidden.astype(jnp.float32))


def window_grid(num_clips: int, lengths, strides) -> np.ndarray:
    """Returns [M,2] float32, in clips: windows of each length, `stride` apart from 0 on, as far as they fit."""
    windows = [np.zeros((0, 2), np.float32)]
    for length, stride in zip(lengths, strides, strict=True):
        if length <= num_clips:
            starts = stride * np.arange(int((num_clips - length) / stride + 1e-6) + 1)
            windows.append(np.stack([starts, starts + length], axis=1).astype(np.float32))
    return np.concatenate(windows)


def overlap(spans: Array, num_clips: int) -> Array:
    """Returns [...,T], the share of each clip that lies in spans [...,2], in clips."""
    clip = jnp.expand_dims(jnp.arange(num_clips, dtype=jnp.float32), range(spans.ndim - 1))
    shared = jnp.minimum(spans[..., 1:], clip + 1) - jnp.maximum(spans[..., :1], clip)
    return jnp.maximum(shared, 0.0)


def batch_pairs(rows, columns) -> tuple[Array, Array]:
    """Returns which pairs are a sentence and its own window, and which count: [B,M] each, M all examples.

    Both arguments are (counted, example_index, video_index, span): the examples of this device, and of all. Two
    sentences of one moment are neither a positive nor a negative pair.
    """
    counted, example, video, span = rows
    all_counted, all_examples, all_videos, all_spans = columns
    counts = counted[:, None] & all_counted[None]
    own = (example[:, None] == all_examples[None]) & counts
    same_moment = (video[:, None] == all_videos[None]) & (span[:, None] == all_spans[None]).all(-1)
    return own, own | (counts & ~same_moment)


def _clips_per_second(batch: Batch) -> Array:
    """Returns [B], number of clips in a second of each video."""
    return batch.video_mask.sum(-1) / jnp.maximum(batch.duration, 1e-6)


def _length(spans: Array) -> Array:
    return spans[..., 1] - spans[..., 0]
