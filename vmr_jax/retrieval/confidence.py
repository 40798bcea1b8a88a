"""The confidence of the hits of a library, fitted to the sentences that its user has annotated."""

import hashlib
import json
import logging
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


def calibration_of(folder: Path, scores: Scores, videos: Collection[str], within: bool) -> Calibration | None:
    """The confidence of hits; None where fewer than `LEAST` sentences are annotated.

    What was fitted is kept in the folder, and used again while sentences, moments and videos are the same.

    Args:
      folder: of the library.
      scores: the search.
      videos: ids of its videos.
      within: whether each sentence is searched in its own video alone.
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
        log.info("The confidence of hits is fitted to %d annotated sentences, once.", len(sentences))
        texts = [a.text for a in sentences]
        if within:
            hits = [scores.find([a.text], _HITS, a.video)[0] for a in sentences]
        else:
            hits = [*scores.find(texts, _HITS, None)]
        known = fit([Answer.of(found, a.video, a.windows) for found, a in zip(hits, sentences)])
        write_calibration(path, known)
    return known
