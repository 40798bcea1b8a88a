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
    chosen,
    duration_in,
    field,
    name_of,
    no_moment,
    query_id,
    read_splits,
    require_files,
    sentence,
    unlabelled,
    windows_of,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.schema import ANNOTATORS, SALIENCY_SECONDS
from vmr_jax.input.text_files import jsonl_of

QUERY_FILES = {
    "train": "highlight_train_release.jsonl",
    "val": "highlight_val_release.jsonl",
    "test": "highlight_test_with_gt.jsonl",
}
UNLABELLED_TEST = "highlight_test_release.jsonl"  # without moments: it can be predicted
CLIP_SECONDS = int(SALIENCY_SECONDS)
CLIPS = 75  # of the longest video, 150 s
BEST_SCORE = 4  # "very good"; 0 is "very bad"

_SOURCE = "They are in the repository moment_detr of Lei et al., folder data (QVHighlights, NeurIPS 2021)."
_OFF_GRID = f"windows that are not on the grid of {CLIP_SECONDS} s"
_NO_TEST = (
    f"queries with moments in the split test, as {QUERY_FILES['test']} is not there (get it from where the "
    f"others are; {UNLABELLED_TEST} has no moments)"
)


def splits(options) -> list[str]:
    """The names of the splits."""
    return list(QUERY_FILES)


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads: train and val, and test where it is there, if unlabelled.

    Args:
      options: has `manual_dir`.
      only: a split, whose file alone is read; '' for all.

    Raises:
      UserError: one that lists all files that are missing.
    """
    folder = manual_dir(options)
    tests = [name for name in (QUERY_FILES["test"], UNLABELLED_TEST) if (folder / name).is_file()]
    if only == "test":
        return require_files(folder, tests[:1] or [QUERY_FILES["test"]], "qvhighlights", _SOURCE)
    names = chosen({split: QUERY_FILES[split] for split in ("train", "val")}, only).values()
    return require_files(folder, [*names, *([] if only else tests[:1])], "qvhighlights", _SOURCE)


def read(options, only: str = "") -> Annotations:
    """Reads the files in `options.manual_dir`, or that of the split `only`.

    Without the ground truth of test that split is unlabelled, or is not there.

    Raises:
      UserError: for missing or malformed files, naming file and line; for an id that two rows have; for a
        training video in another split.
    """
    paths = dict(zip(chosen(QUERY_FILES, only), files(options, only)))
    found = read_splits(paths, read_file)
    if not only and ("test" not in paths or paths["test"].name == UNLABELLED_TEST):
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
    split = "train" if path.name == QUERY_FILES["train"] else ""
    for line, row in jsonl_of(path, found.row):
        with found.row():
            where = f"{path}, line {line}"
            name, duration = name_of(row, "vid", where), _duration(row, where)
            qid = query_id(field(row, "qid", where), places, where)
            text = sentence(field(row, "query", where), where)
            if no_moment(row, "relevant_windows", split):
                query = unlabelled(qid, text, duration)
            else:
                saliency = _saliency(row, duration, where)
                windows = windows_of(row, "relevant_windows", duration, path, line, found)
                off_grid = sum(any(t % CLIP_SECONDS for t in window) for window in row["relevant_windows"])
                found.count(_OFF_GRID, off_grid)
                if not windows:
                    continue
                query = Sentence(qid, text, longest(windows), windows=windows, saliency=saliency)
            video = videos.setdefault(name, Video(name, duration, path.name))
            if video.duration != duration:
                raise UserError(
                    f'{where}: the video "{name}" lasts {duration:g} s here, {video.duration:g} s in a row '
                    "above. Correct one of the two."
                )
            video.queries.append(query)
    return list(videos.values())


def longest(windows: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The longest window; of several such, the first in time."""
    return min(windows, key=lambda window: (window[0] - window[1], window))


def _duration(row: dict[str, Any], where: str) -> float:
    duration = duration_in(field(row, "duration", where), f'{where}: "duration"')
    if duration > CLIPS * CLIP_SECONDS:
        raise UserError(
            f'{where}: "duration" is {duration:g} s; videos of QVHighlights last {CLIPS * CLIP_SECONDS} s at '
            "most. Correct it."
        )
    return duration


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
