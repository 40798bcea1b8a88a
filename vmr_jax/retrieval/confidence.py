"""The confidence of the hits of a library, fitted to the sentences that its user has annotated."""

import hashlib
import json
import logging
import threading
import time
import types
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vmr_jax.data.jsonl import annotations
from vmr_jax.errors import UserError
from vmr_jax.files import plain
from vmr_jax.retrieval.calibration import (
    LEAST,
    Answer,
    Calibration,
    fit,
    read_calibration,
    write_calibration,
)
from vmr_jax.retrieval.index import Found

log = logging.getLogger("vmr_jax")

FOLDER = "calibration"  # of a library
FEW = 2 * LEAST  # sentences, for a search that takes long
_SPEAK = 5.0  # seconds between two lines about a fit
_HITS = 10  # of each sentence that are judged
_SHARE = 0.1  # of the videos of train.jsonl whose sentences are not trained on, as in configs/NAME.py:library


class Annotated(NamedTuple):
    """A sentence whose moments are known.

    Attributes:
      text: the sentence.
      video: id of the video.
      windows: the moments, start and end in seconds.
    """

    text: str
    video: str
    windows: tuple[tuple[float, float], ...]


def annotated_sentences(folder: Path, videos: Collection[str]) -> list[Annotated]:
    """The validation sentences of a library's folder about these videos; none where there is no such file.

    They are those of the split val of configs/NAME.py:library. Raises UserError for a malformed file.
    """
    options = types.SimpleNamespace(manual_dir=str(folder), val_fraction=_SHARE)
    if "val" not in annotations.splits(options):
        return []
    found = annotations.read(options, only="val").splits["val"]
    return [
        Annotated(query.text, name, tuple(query.windows or [query.span]))
        for video in found
        for name in [next((name for name in (video.id, Path(video.id).stem) if name in videos), None)]
        for query in video.queries
        if name and query.labelled
    ]


class Scores(NamedTuple):
    """A search whose scores are calibrated.

    Attributes:
      state: JSON of all that the scores depend on but the sentences.
      find: (sentences, number of hits, id of the only video or None) -> hits of each sentence.
      most: number of sentences that it is fitted to at most; 0 for all.
    """

    state: Any
    find: Callable[[Sequence[str], int, str | None], Sequence[Sequence[Found]]]
    most: int = 0


class Confidences:
    """The calibrations of a library: one for searches of all videos, one for those of a single video.

    Args:
      folder: of the library.
      scores: gives the search whose scores are calibrated, as it is now.

    Attributes:
      wait: whether who asks for one waits until it is fitted; else a thread fits it meanwhile.
    """

    def __init__(self, folder: Path, scores: Callable[[], Scores]):
        self._folder, self._scores = folder, scores
        self._of: Any = None  # what `_fitted` is of
        self._fitted: dict[bool, Calibration | None] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.wait = True

    def get(self, state: Any, videos: Collection[str], within: bool) -> Calibration | None:
        """The calibration; None where there is nothing to fit it to, and while a thread fits it.

        Args:
          state: an object that is another one when the videos have changed.
          videos: ids of the videos.
          within: whether of searches in a single video.
        """
        if self._of is not state:
            self._of, self._fitted = state, {}
        fitted = self._fitted
        if within not in fitted:
            if self.wait:
                fitted[within] = calibration_of(self._folder, self._scores(), videos, within, self._stop)
            elif self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._fit, args=(fitted, videos), name="calibration")
                self._thread.start()
        return fitted.get(within)

    def close(self) -> None:
        """Ends the thread after the sentence that it searches."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _fit(self, fitted: dict[bool, Calibration | None], videos: Collection[str]) -> None:
        for within in (False, True):
            if within not in fitted and not self._stop.is_set():
                try:
                    found = calibration_of(self._folder, self._scores(), videos, within, self._stop)
                except Exception:  # the searches go on
                    log.exception("Hits have no confidence")
                    found = None
                fitted[within] = found


def calibration_of(
    folder: Path, scores: Scores, videos: Collection[str], within: bool, stop: threading.Event | None = None
) -> Calibration | None:
    """The confidence of hits; None where fewer than `LEAST` sentences are annotated.

    What was fitted is kept in the folder, and used again while sentences, moments and videos are the same.

    Args:
      folder: of the library.
      scores: the search.
      videos: ids of its videos.
      within: whether each sentence is searched in its own video alone.
      stop: ends it early where it is set, with None.
    """
    try:
        sentences = annotated_sentences(folder, videos)
    except UserError as error:  # the search does not need them
        log.warning("Hits have no confidence: %s", error)
        return None
    if len(sentences) < LEAST:
        return None
    if scores.most and len(sentences) > scores.most:  # at equal distances, as those of a video stand together
        sentences = [sentences[i * len(sentences) // scores.most] for i in range(scores.most)]
    state = [plain(scores.state), within, sentences]
    key = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / FOLDER / f"{key}.json"
    known = read_calibration(path)
    if known is None:
        what = "searches of one video" if within else "searches of all videos"
        log.info(
            "The confidence of hits is fitted to %d annotated sentences, once, for %s.", len(sentences), what
        )
        try:
            answers = _answers(scores, sentences, within, stop or threading.Event())
            if answers is None:
                return None
            known = fit(answers)
        except UserError as error:  # such as a run that cannot search so many videos
            log.warning("Hits have no confidence in %s: %s", what, error)
            return None
        _keep(path, known)
    return known


def _answers(
    scores: Scores, sentences: Sequence[Annotated], within: bool, stop: threading.Event
) -> list[Answer] | None:
    """The hits of sentences, and which are right; None where it was stopped."""
    if within or scores.most:  # one after the other
        hits: list[Sequence[Found]] = []
        spoken = time.monotonic()
        for a in sentences:
            if stop.is_set():
                return None
            hits.append(scores.find([a.text], _HITS, a.video if within else None)[0])
            if time.monotonic() - spoken > _SPEAK:
                spoken = time.monotonic()
                log.info("%d of %d sentences", len(hits), len(sentences))
    else:
        hits = [*scores.find([a.text for a in sentences], _HITS, None)]
    return [Answer.of(found, a.video, a.windows) for found, a in zip(hits, sentences)]


def _keep(path: Path, calibration: Calibration) -> None:
    """Writes a calibration; a library that cannot be written is searched all the same."""
    try:
        write_calibration(path, calibration)
    except (OSError, UserError) as error:
        log.warning("The calibration is not kept, and will be fitted again: %s", error)
