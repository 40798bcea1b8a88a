"""One example: a sentence and a video become the fields of a batch of one row."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vmr_jax.input import schema
from vmr_jax.input.dataset import Video
from vmr_jax.input.features import first_rows, fit_rows
from vmr_jax.input.queries import QueryReader
from vmr_jax.text.tokenize import Token
from vmr_jax.types import Batch, fields_from, fields_of

_ALL_CLIPS = "video_mask"  # the mask of streams that have every clip of the video


class Examples:
    """Makes unbatched examples; every batch of the library, of a dataset or of a user's own, is made here.

    Args:
      config: the resolved config; reads `config.input`.
      read_query: reads the sentences.
      fields: optional `Batch` fields to fill.
      rows: function of (video, name of the stream) that returns feature rows [n,...], normalised.
    """

    def __init__(
        self,
        config: Any,
        read_query: QueryReader,
        fields: Sequence[str],
        rows: Callable[[Video, str], np.ndarray],
    ):
        self._input, self._read_query, self._rows = config.input, read_query, rows
        self._streams = [name for name in fields_from("stream") if name in fields]
        self._fields = tuple(fields)

    def tokens(self, query: schema.Query) -> list[Token]:
        """The words of a sentence, of which `__call__` reads at most `config.text.max_words`."""
        return self._read_query.tokens(query)

    def unknown(self, query: schema.Query) -> list[Token]:
        """The words of a sentence that mean nothing to the model, see `QueryReader.unknown`."""
        return self._read_query.unknown(query)

    def is_parsed(self, query: schema.Query) -> bool:
        """Whether the constituency tree of a sentence is a parse, see `QueryReader.is_parsed`."""
        return self._read_query.is_parsed(query)

    def __call__(
        self, query: schema.Query, video: Video, tokens: Sequence[Token], video_index: int = 0
    ) -> Batch:
        """Builds one example, a `Batch` without the axis B; `tokens` are those of the query."""
        clips, clip_mask = self._clips(video, "video")
        optional: dict[str, Any] = {}
        if "clip_rows" in self._fields:
            count = len(self._rows(video, "video"))
            optional["clip_rows"] = first_rows(count, self._input.num_clips, self._input.resample)
        for name in self._streams:
            info, rows = fields_of(Batch)[name], self._clips(video, name)[0]
            if info.dtype is bool:
                rows = rows >= 0.5  # of a clip that is a mean of rows: in most of them
            elif info.mask != _ALL_CLIPS:
                optional[info.mask] = np.abs(rows).sum(-1) > 0
            optional[name] = rows
        if "windows" in self._fields:
            optional["windows"], optional["window_mask"] = _windows(query)
        if "context" in self._fields:
            optional["context"] = np.asarray(query.context or (0, 0), np.float32)
        if "saliency" in self._fields:
            optional["saliency"] = _saliency(query.saliency, clip_mask, video.duration)
        fields: dict[str, Any] = {
            "video": clips,
            "video_mask": clip_mask,
            "duration": np.float32(video.duration),
            "span": np.asarray(query.span, np.float32),
            "example_mask": np.True_,
            "example_index": np.int32(0),
            "video_index": np.int32(video_index),
            **self._read_query(query, tokens),
            **optional,
        }
        return Batch(**fields)

    def _clips(self, video: Video, stream: str) -> tuple[np.ndarray, np.ndarray]:
        """[T,...] and the mask [T]."""
        return fit_rows(self._rows(video, stream), self._input.num_clips, self._input.resample)


def _windows(query: schema.Query) -> tuple[np.ndarray, np.ndarray]:
    """The annotated moments [A,2] and their mask [A]; A is `schema.MAX_WINDOWS`."""
    moments = list(query.windows or [query.span])
    windows = np.zeros((schema.MAX_WINDOWS, 2), np.float32)
    windows[: len(moments)] = moments
    return windows, np.arange(schema.MAX_WINDOWS) < len(moments)


def _saliency(scores: np.ndarray | None, clip_mask: np.ndarray, duration: float) -> np.ndarray:
    """[T] float32: the sum over annotators, of the annotated clip in which the centre of each clip lies.

    Args:
      scores: [clips, annotators] int for every `schema.SALIENCY_SECONDS`, -1 where none was given; None, of a
        sentence that nobody annotated, is 0 everywhere.
      clip_mask: [T] bool.
      duration: of the video, in seconds.
    """
    if scores is None:
        return np.zeros(len(clip_mask), np.float32)
    total = np.maximum(scores, 0).sum(1).astype(np.float32)
    centres = (np.arange(clip_mask.sum()) + 0.5) * duration / max(clip_mask.sum(), 1)
    annotated = np.minimum((centres / schema.SALIENCY_SECONDS).astype(np.int64), len(total) - 1)
    filled = np.zeros(len(clip_mask), np.float32)
    filled[: len(centres)] = total[annotated]
    return filled
