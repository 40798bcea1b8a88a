"""QVHighlights' annotation files: one query a line, with all its windows and the saliency of their clips."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    clip,
    field,
    jsonl_of,
    moments,
    name_of,
    positive,
    query_id,
    read_splits,
    require_files,
    sentence,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.schema import ANNOTATORS, SALIENCY_SECONDS

QUERY_FILES = {
    "train": "highlight_train_release.jsonl",
    "val": "highlight_val_release.jsonl",
    "test": "highlight_test_with_gt.jsonl",
}
CLIP_SECONDS = int(SALIENCY_SECONDS)
CLIPS = 75  # of the longest video, 150 s
BEST_SCORE = 4  # "very good"; 0 is "very bad"

_SOURCE = "They are in the repository moment_detr of Lei et al., folder data (QVHighlights, NeurIPS 2021)."
_OFF_GRID = f"windows that are not on the grid of {CLIP_SECONDS} s"
_NO_TEST = (
    f"queries in the split test, as {QUERY_FILES['test']} is not there (get it from where the others are; "
    "highlight_test_release.jsonl has no moments)"
)


def files(options) -> list[Path]:
    """Returns the files that `read` reads: train and val, and test where it is there.

    Raises:
      UserError: one that lists all files that are missing.
    """
    folder = manual_dir(options)
    needed = require_files(folder, [QUERY_FILES["train"], QUERY_FILES["val"]], "qvhighlights", _SOURCE)
    test = folder / QUERY_FILES["test"]
    return [*needed, test] if test.is_file() else needed


def read(options) -> Annotations:
    """Reads the files in `options.manual_dir`; without the ground truth of test there is no such split.

    Raises:
      UserError: for missing or malformed files, naming file and line; for an id that two rows have; for a
        training video in another split.
    """
    found = read_splits(dict(zip(QUERY_FILES, files(options))), read_file)
    if "test" not in found.splits:
        found.count(_NO_TEST, 0)
    return found


def read_file(path: Path, places: dict[str, str], found: Annotations) -> list[Video]:
    """Reads one file, a line {"qid", "query", "duration", "vid", "relevant_windows", ...} a query.

    Args:
      path: the file.
      places: ids of the queries so far; gets those of this file.
      found: gets the dropped windows, the clipped rows, and the windows that are not on the grid.

    Returns:
      The videos that have a query. The longest window is the span to learn (`longest`); saliency is
      [CLIPS, ANNOTATORS], -1 where a clip is in no window.
    """
    videos: dict[str, Video] = {}
    for line, row in jsonl_of(path):
        where = f"{path}, line {line}"
        name, duration = name_of(row, "vid", where), _duration(row, where)
        qid = query_id(field(row, "qid", where), places, where)
        text = sentence(field(row, "query", where), where)
        saliency = _saliency(row, duration, where)
        windows = _windows(row, duration, where, f"{path.name}:{line}", found)
        if not windows:
            continue
        video = videos.setdefault(name, Video(name, duration, path.name))
        if video.duration != duration:
            raise UserError(
                f'{where}: the video "{name}" lasts {duration:g} s here, {video.duration:g} s in a row above. '
                "Correct one of the two."
            )
        video.queries.append(Sentence(qid, text, longest(windows), windows=windows, saliency=saliency))
    return list(videos.values())


def longest(windows: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The longest window; of several such, the first in time."""
    return min(windows, key=lambda window: (window[0] - window[1], window))


def _duration(row: dict[str, Any], where: str) -> float:
    duration = positive(field(row, "duration", where), f'{where}: "duration"')
    if duration > CLIPS * CLIP_SECONDS:
        raise UserError(
            f'{where}: "duration" is {duration:g} s; videos of QVHighlights last {CLIPS * CLIP_SECONDS} s at '
            "most. Correct it."
        )
    return duration


def _windows(
    row: dict[str, Any], duration: float, where: str, place: str, found: Annotations
) -> list[tuple[float, float]]:
    """The windows within the video; what was put right is noted in `found`."""
    annotated = moments(field(row, "relevant_windows", where), where, "relevant_windows")
    if not annotated:
        raise UserError(f'{where}: "relevant_windows" is empty; expected [[start, end], ...]. Correct it.')
    found.count(_OFF_GRID, sum(any(t % CLIP_SECONDS for t in window) for window in annotated))
    cut = [clip(*window, duration) for window in annotated]
    found.dropped += [f"{place}, window {k}" for k, window in enumerate(cut) if window is None]
    found.clipped += any(window and window != whole for window, whole in zip(cut, annotated))
    return [window for window in cut if window]


def _saliency(row: dict[str, Any], duration: float, where: str) -> np.ndarray:
    """[CLIPS, ANNOTATORS] int32 from relevant_clip_ids and their saliency_scores."""
    clips, scores = field(row, "relevant_clip_ids", where), field(row, "saliency_scores", where)
    if not isinstance(clips, list) or not isinstance(scores, list) or len(clips) != len(scores):
        raise UserError(
            f'{where}: "relevant_clip_ids" and "saliency_scores" are not two lists of one length. Correct them.'
        )
    saliency = np.full((CLIPS, ANNOTATORS), -1, np.int32)
    for number, row_scores in zip(clips, scores):
        if type(number) is not int or not 0 <= number * CLIP_SECONDS < duration:
            raise UserError(
                f'{where}: "relevant_clip_ids" has {number!r}, which is no clip of a video of {duration:g} s; '
                f"clips of {CLIP_SECONDS} s are counted from 0. Correct it."
            )
        if saliency[number, 0] >= 0:
            raise UserError(f'{where}: "relevant_clip_ids" has {number} twice. Remove one with its scores.')
        saliency[number] = _scores(row_scores, where)
    return saliency


def _scores(value: Any, where: str) -> list[int]:
    if (
        not isinstance(value, list)
        or len(value) != ANNOTATORS
        or not all(type(score) is int and 0 <= score <= BEST_SCORE for score in value)
    ):
        raise UserError(
            f'{where}: "saliency_scores" has {value!r}; expected {ANNOTATORS} whole numbers from 0 to '
            f"{BEST_SCORE}. Correct it."
        )
    return value
