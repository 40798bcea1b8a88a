"""Answers of a library of videos, here or on another machine: its videos, and the moments that it finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


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
