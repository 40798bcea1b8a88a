"""Answers of a library of videos, here or on another machine: its videos, and the moments that it finds."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Hit(NamedTuple):
    """A moment that was found.

    Attributes:
      video: id of the video.
      start: second at which it begins.
      end: likewise.
      score: of which more is better.
      confidence: probability, from 0 to 1, that the moment is right, where scores are calibrated; else None.
      rank: from 1 on.
      gap: the score's lead over that of the next hit; 0 for the last.
    """

    video: str
    start: float
    end: float
    score: float
    confidence: float | None = None
    rank: int = 1
    gap: float = 0.0


def ranked_hits(found: Sequence[Any], sure: Sequence[float | None]) -> list[Hit]:
    """Hits of moments that are ranked best first, with the confidence of each."""
    scores = [moment.score for moment in found]
    gaps = [score - after for score, after in zip(scores, [*scores[1:], *scores[-1:]])]
    return [
        Hit(moment.video, moment.start, moment.end, moment.score, confidence, rank, gap)
        for rank, (moment, confidence, gap) in enumerate(zip(found, sure, gaps), 1)
    ]


class Dated(Protocol):
    """A video with its length in seconds, and when it was added, in seconds since 1970, where that is known."""

    @property
    def id(self) -> str: ...
    @property
    def duration(self) -> float: ...
    @property
    def added(self) -> float | None: ...


class Filter(NamedTuple):
    """The videos whose moments are wanted; a bound that is None does not count.

    Attributes:
      min_duration: seconds of the video.
      max_duration: likewise.
      added_from: when the video came, in seconds since 1970; one of which that is not known is left out.
      added_to: likewise.
    """

    min_duration: float | None = None
    max_duration: float | None = None
    added_from: float | None = None
    added_to: float | None = None

    def __bool__(self) -> bool:
        """Whether there is a bound."""
        return any(bound is not None for bound in self)

    def ids(self, videos: Iterable[Dated]) -> frozenset[str]:
        """Ids of the videos that are wanted."""
        return frozenset(
            video.id
            for video in videos
            if _within(video.duration, self.min_duration, self.max_duration)
            and _within(video.added, self.added_from, self.added_to)
        )


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def both(video: str | Collection[str] | None, wanted: frozenset[str]) -> str | frozenset[str]:
    """The videos asked for by id, one, several or None for all, that are wanted too; of several maybe none.

    >>> from vmr_jax.retrieval.hits import both
    >>> both("a", frozenset("ab")), both("c", frozenset("ab")), sorted(both(None, frozenset("ab")))
    ('a', frozenset(), ['a', 'b'])
    """
    if video is None:
        return wanted
    if isinstance(video, str):
        return video if video in wanted else frozenset()
    return wanted.intersection(video)


class LibraryVideo(NamedTuple):
    """A video of a library.

    Attributes:
      id: its name.
      file: the absolute path.
      title: to be shown.
      duration: seconds.
      added: when it came into the library, in seconds since 1970.
      content: SHA-256 of the file.
    """

    id: str
    file: Path
    title: str
    duration: float
    added: float
    content: str


class ServedVideo(NamedTuple):
    """A video as a server shows it.

    Attributes:
      id: its id.
      title: its name for people.
      duration: in seconds; 0 where it is not known.
      added: when it came, in seconds since 1970; None where that is not known.
    """

    id: str
    title: str
    duration: float
    added: float | None = None
