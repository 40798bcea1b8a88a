"""Windows that slide over a video, scored with sentences and moved to the ends of the moment: CTRL's scaffold.

Positions are clips. Names in "official code" are those of CTRL's (jiyanggao/TALL), which its extensions keep.
"""

import math
from typing import ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.draws import uniform_choice
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

_TIE = 1e-5  # a moment of twice the length of a window is common in frames and chunks, and float32 is not exact


@struct.dataclass
class WindowScores:
    """Scores of sentences (rows) with windows (columns), float32.

    While training the columns are the drawn windows of the whole batch, of all devices; else they are the
    windows of the sentence's own video, those of `window_grid` with `test_lengths`.
    """

    score: Array  # [B,M] alignment score cs
    offsets: Array | None  # [B,M,2] start and end, see `regression_targets`; None without regression
    window: Array | None = None  # [B,2] the drawn window, clips; None at test
    found: Array | None = None  # [B] bool, whether there was one to draw


class SlidingWindows:
    """The windows, labels, loss and moments of a model whose fields are CTRL's; `method` names it in messages.

    Context windows: 'official' takes the window of `context` clips that ends where this one starts (starts
    where it ends) if the grid has it in this video, 'whole' if the video has all its clips; else it is this one
    itself. 'exact' pools the neighbouring clips, however few there are, and the window where there are none.
    """

    lengths: tuple[float, ...]
    strides: tuple[float, ...]
    test_lengths: tuple[float, ...]
    context: float
    context_windows: str
    regression: str
    regression_weight: float
    offset_scale: float
    positive_iou: float
    positive_outside: float
    keep: int
    dtype: jnp.dtype
    method: ClassVar[str]

    def loss(self, outputs: WindowScores, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'alignment' over the pairs of the batch, and 'regression' of the positive ones."""
        del epoch
        assert outputs.found is not None and outputs.window is not None  # as they are while training
        counted = outputs.found & batch.example_mask
        rows = (counted, batch.example_index, batch.video_index, batch.span)
        columns = gather_examples(rows)
        own, pairs = batch_pairs(rows, columns)
        # Official code: compute_loss_reg. A positive pair weighs 1 + 1/B beside 1/B of a negative one.
        weight = own + 1.0 / jnp.maximum(columns[0].sum(), 1)
        alignment = weight * jax.nn.softplus(jnp.where(own, -outputs.score, outputs.score))
        terms = {"alignment": Mean.of(alignment, pairs)}
        if outputs.offsets is not None:
            offsets = jnp.where(own[..., None], outputs.offsets, 0.0).sum(1)
            moment = batch.span * clips_per_second(batch)[:, None]
            error = jnp.abs(offsets - self.regression_targets(outputs.window, moment))
            both = jnp.broadcast_to(counted[:, None], error.shape)
            terms["regression"] = Mean.of(error, both, self.regression_weight)
        return terms

    def predict(self, outputs: WindowScores, batch: Batch) -> Moments:
        """Returns the windows within the video, moved by their offsets; not cut to the video.

        A video that is shorter than every test window has none, so its queries are missed.
        """
        windows = jnp.asarray(self.grid(batch.video.shape[1], test=True))
        real = windows[None, :, 1] <= batch.video_mask.sum(-1)[:, None]
        spans = jnp.broadcast_to(windows[None], (batch.size, *windows.shape))
        spans = spans if outputs.offsets is None else self.moved(spans, outputs.offsets)
        seconds = spans / jnp.maximum(clips_per_second(batch), 1e-6)[:, None, None]
        return rank(seconds, outputs.score, real, self.keep or len(windows))

    def explain(self, outputs: WindowScores, batch: Batch) -> dict[str, Array]:
        """Returns the best score of the windows that cover a clip: 'clips' [B,T], NaN where there is none."""
        num_clips = batch.video.shape[1]
        windows = jnp.asarray(self.grid(num_clips, test=True))
        real = windows[None, :, 1] <= batch.video_mask.sum(-1)[:, None]
        covers = (overlap(windows, num_clips) > 0)[None] & real[..., None]  # [B,M,T]
        best = jnp.where(covers, jax.nn.sigmoid(outputs.score)[..., None], -1.0).max(1)
        return {"clips": jnp.where(best >= 0, best, jnp.nan)}

    # The sliding windows.

    @property
    def rows(self) -> int:
        """The fewest clips of a video that has windows in training and at test."""
        return math.ceil(max(min(self.lengths), min(self.test_lengths)))

    def grid(self, num_clips: int, test: bool) -> np.ndarray:
        """Returns [M,2] float32, the windows of a video of `num_clips` clips, in training or at test.

        Raises UserError where the video is too short for all of them.
        """
        lengths = self.test_lengths if test else self.lengths
        windows = window_grid(num_clips, lengths, [self._stride(length) for length in lengths])
        if not len(windows):
            raise UserError(
                f"A video has {num_clips} clips (config.input.num_clips), and the windows of {self.method} "
                f"have {lengths} ({'test_lengths' if test else 'lengths'}). Give windows that fit, or more "
                "clips."
            )
        return windows

    def _stride(self, length: float) -> float:
        return self.strides[self.lengths.index(length)]

    def draw_window(self, key: Array, batch: Batch, clips: Array) -> tuple[Array, Array]:
        """A positive window [B,2] of each example, in clips, and whether there is one [B]."""
        windows = jnp.asarray(self.grid(batch.video.shape[1], test=False))
        moment = (batch.span * clips_per_second(batch)[:, None])[:, None]
        positive = self.positives(windows[None], moment) & (windows[None, :, 1] <= clips[:, None])
        index, found = uniform_choice(key, batch.example_index, positive)
        return windows[index], found

    def positives(self, windows: Array, moment: Array) -> Array:
        """Returns [...] bool, whether windows [...,2] may stand for moments [...,2], in the same unit.

        A window at one of the two limits, to 1e-5, may not. Official code: calculate_IoU, calculate_nIoL.
        """
        inside = jnp.minimum(windows[..., 1], moment[..., 1]) - jnp.maximum(windows[..., 0], moment[..., 0])
        outside = 1.0 - inside / (windows[..., 1] - windows[..., 0])
        return (iou(windows, moment) > self.positive_iou + _TIE) & (outside < self.positive_outside - _TIE)

    def pool(self, video: Array, windows: Array, clips: Array) -> Array:
        """Returns [B,M,3D], the means of context, windows [B,M,2] and context, of `clips` [B] real clips."""
        parts = jnp.stack(self.with_context(windows, clips), axis=2)  # [B,M,3,2]
        pooled = self.mean_of(video, parts.reshape(windows.shape[0], -1, 2))
        return pooled.reshape(*windows.shape[:2], -1)

    def mean_of(self, rows: Array, spans: Array) -> Array:
        """Returns [B,M,D], means of rows [B,T,D] over spans [B,M,2], clips on their borders in proportion."""
        weights = overlap(spans, rows.shape[1])
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)
        return jnp.einsum("bmt,btd->bmd", weights.astype(self.dtype), rows.astype(self.dtype))

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
        """Returns whether the video has a context window of `context` clips from `start` on, all [...]."""
        if self.context_windows == "whole":
            return (start >= 0) & (start + self.context <= clips)
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

    def check_windows(self) -> None:
        """Raises UserError for strides that are not those of the lengths, and for test lengths of no stride."""
        if len(self.strides) != len(self.lengths) or min(self.strides, default=0) <= 0:
            raise UserError(
                f"strides of {self.method} is {self.strides}; it must have one positive number for each of "
                f"lengths, {self.lengths}."
            )
        if not set(self.test_lengths) <= set(self.lengths):
            raise UserError(
                f"test_lengths of {self.method} is {self.test_lengths}; it must be a part of lengths, "
                f"{self.lengths}, whose strides it shares."
            )


def window_grid(num_clips: int, lengths, strides) -> np.ndarray:
    """Returns [M,2] float32, in clips: windows of each length, `stride` apart from 0 on, as far as they fit."""
    windows = [np.zeros((0, 2), np.float32)]
    for length, stride in zip(lengths, strides, strict=True):
        if length <= num_clips:
            starts = stride * np.arange(int((num_clips - length) / stride + 1e-6) + 1)
            windows.append(np.stack([starts, starts + length], axis=1).astype(np.float32))
    return np.concatenate(windows)


def fused_pairs(v: Array, s: Array) -> Array:
    """Returns [v * s; v + s; v; s] [B,M,4E] of windows [B,M,E], or [1,M,E] for all, and sentences [B,E].

    Official code: cross_modal_comb.
    """
    chex.assert_axis_dimension(v, 2, s.shape[1])
    shape = (s.shape[0], *v.shape[1:])
    v, s = jnp.broadcast_to(v, shape), jnp.broadcast_to(s[:, None], shape)
    return jnp.concatenate([v * s, v + s, v, s], axis=-1)


class PairNetwork(nn.Module):
    """Scores fused pairs: a network with one hidden layer, shared by all. Official code: vs_multilayer.

    Attributes:
      hidden: width of the hidden layer.
      outputs: numbers of a pair.
      dtype: number format of the hidden layer.
    """

    hidden: int
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, fused: Array) -> Array:
        """Maps [B,M,F] to [B,M,outputs] float32."""
        init = nn.initializers.normal(0.01)  # the official code's
        hidden = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name="hidden")(fused))
        # In float32 whatever the dtype of the layers: these numbers rank the windows.
        return nn.Dense(self.outputs, kernel_init=init, name="output")(hidden.astype(jnp.float32))


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


def clips_per_second(batch: Batch) -> Array:
    """Returns [B], number of clips in a second of each video."""
    return batch.video_mask.sum(-1) / jnp.maximum(batch.duration, 1e-6)


def _length(spans: Array) -> Array:
    return spans[..., 1] - spans[..., 0]
