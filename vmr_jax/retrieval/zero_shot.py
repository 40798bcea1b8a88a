"""Moments of a frame encoder that reads sentences: the architecture `zero_shot`, before anything is trained.

Letters beyond the usual: n rows of a window.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vmr_jax.models import create
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import encoded_videos
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.types import Batch

_TOGETHER = 8  # windows of a batch on each device


class Window(NamedTuple):
    """Frames of a video, or of a part of it.

    Attributes:
      id: one line of text.
      rows: [n,D] vectors of the frames.
      duration: seconds, which the rows share equally.
    """

    id: str
    rows: np.ndarray
    duration: float


class FrameMoments:
    """Encodes moments of several lengths as the mean of their frames; one compiled shape.

    >>> moments = FrameMoments(clips=4, parallel=Parallel("jit", 1))
    >>> (found,) = moments([Window("talk", np.eye(3, 5), duration=6.0)])
    >>> found.spans[:2].tolist(), found.vectors.shape
    ([[0.0, 4.0], [2.0, 6.0]], (3, 5))

    Args:
      clips: number of rows of the longest window.
      parallel: the devices.
    """

    def __init__(self, clips: int, parallel: Parallel):
        self._clips, self._parallel = clips, parallel
        self._model = create("zero_shot", text="sentence")  # of which moments read nothing

    @property
    def settings(self) -> dict[str, Any]:
        """JSON of all that the moments depend on."""
        model: Any = self._model
        return {
            "model": "zero_shot",
            "clips": self._clips,
            "lengths": model.lengths,
            "overlap": model.overlap,
        }

    def __call__(self, windows: Iterable[Window]) -> Iterator[EncodedVideo]:
        """The moments of each window, in its seconds, as unit vectors."""
        return encoded_videos(self._model, {}, self._batches(windows), self._parallel)

    def _batches(self, windows: Iterable[Window]) -> Iterator[tuple[list[str], Batch]]:
        size, source = math.lcm(_TOGETHER, len(self._parallel.devices)), iter(windows)
        while part := list(itertools.islice(source, size)):
            shape = size, self._clips, part[0].rows.shape[1]
            video, mask, duration = np.zeros(shape, np.float32), np.zeros(shape[:2], bool), np.ones(size)
            for row, window in enumerate(part):
                count = len(window.rows)
                video[row, :count], mask[row, :count] = window.rows, True
                duration[row] = window.duration
            real = np.arange(size) < len(part)
            batch = Batch.of(video=video, video_mask=mask, duration=duration, example_mask=real)
            yield [window.id for window in part], batch
