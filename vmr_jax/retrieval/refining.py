"""Runs that score a moment together with the sentence, in few windows of a library."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.retrieval.index import Found, suppressed
from vmr_jax.retrieval.windows import content_of, start_of, stored_id, windows
from vmr_jax.video.manifest import Entry

REFINED = 100  # moments, of those that the encoder finds, which a run looks at


class Moment(Protocol):
    """A moment that a run finds in a window, as `vmr_jax.run.Moment` is."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def score(self) -> float: ...


def every_window(entries: Iterable[Entry], length: float, encoder: str) -> list[str]:
    """The stored ids of all windows of videos; UserError where they are too many to look at.

    Args:
      entries: the videos.
      length: seconds of a window.
      encoder: name of the encoder, which finds nothing by itself.
    """
    found = [stored_id(e.content, start) for e in entries for start, _ in windows(e.duration, length)]
    if len(found) > REFINED:
        raise UserError(
            f"The run scores a moment together with the sentence, and the encoder {encoder} cannot say in "
            f"which of {len(found):,} windows to look; at most {REFINED} are looked at. Give a run of a dual "
            "encoder, such as fvmr, ask one video, or ingest with clip or siglip."
        )
    return found


def windows_of(best: Sequence[Found], entries: Mapping[str, Entry], length: float) -> list[str]:
    """The stored ids of the windows in which the middles of moments lie, in the order of `entries`.

    Args:
      best: the moments.
      entries: the videos by id.
      length: seconds of a window.
    """
    middles: dict[str, list[float]] = {}
    for moment in best:
        middles.setdefault(moment.video, []).append((moment.start + moment.end) / 2)
    return [
        stored_id(entry.content, start)
        for id, entry in entries.items()
        for start, end in windows(entry.duration, length)
        if any(start <= middle <= end for middle in middles.get(id, ()))
    ]


def refined(
    looked_at: Iterable[str],
    answers: Iterable[Sequence[Moment]],
    names: Mapping[str, str],
    threshold: float,
    k: int,
) -> list[Found]:
    """The k best of the run's own moments in windows, in seconds of their videos.

    Args:
      looked_at: stored ids of the windows.
      answers: moments in each of them, in seconds of the window.
      names: content -> id of the video.
      threshold: IoU above which only the better of two moments of a video is returned.
      k: number of moments at most.
    """
    found = []
    for window, moments in zip(looked_at, answers):
        start, name = start_of(window), names[content_of(window)]
        found += [Found(name, start + m.start, start + m.end, m.score) for m in moments]
    found.sort(key=lambda moment: -moment.score)
    spans = np.asarray([(moment.start, moment.end) for moment in found], np.float32).reshape(-1, 2)
    scores = np.asarray([moment.score for moment in found], np.float32)
    return suppressed([moment.video for moment in found], spans, scores, threshold, k)
