"""TACoS's annotation files: the version of 2D-TAN and that of TALL. Both count frames; seconds are read."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, nearest
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    choice,
    clip,
    entries_of,
    field,
    lines_of,
    moments,
    number,
    positive,
    refuse_shared_videos,
    require_files,
    sentence,
    video_table,
)
from vmr_jax.input.features import plain_id
from vmr_jax.input.records import manual_dir

VERSIONS = ("2d_tan", "tall")
TABLES = {"train": "train.json", "val": "val.json", "test": "test.json"}
TALL_FILES = {
    "train": "tacos_train_0_74.txt",
    "val": "tacos_val_100_126.txt",
    "test": "tacos_test_75_99.txt",
}

_MOMENT = re.compile(r"([^\s:]+)_([^\s:_]+)_([^\s:_]+):(.*)")
_SOURCE = (
    f"The folder needs {', '.join(TABLES.values())} of TACoS, distributed with the code of 2D-TAN (AAAI 2020); "
    f"config.dataset.version='tall' also needs {', '.join(TALL_FILES.values())} of TALL (ICCV 2017)."
)


def files(options) -> list[Path]:
    """Returns the files that `read` reads; UserError lists all that are missing."""
    version = choice(options.version, VERSIONS, "version")
    names = [*TABLES.values(), *(TALL_FILES.values() if version == "tall" else ())]
    return require_files(manual_dir(options), names, "tacos", _SOURCE)


def read(options) -> Annotations:
    """Reads the files in `options.manual_dir`. The k-th sentence of a video, from 0, is named "VIDEO-k".

    Args:
      options: has `manual_dir`; and
        version: "2d_tan" reads `TABLES`; "tall" reads `TALL_FILES`, and from `TABLES` the videos' lengths.

    Raises:
      UserError: for missing or malformed files, naming file and video or line; where a video is in two splits.
    """
    paths = files(options)
    dropped: list[str] = []
    splits, clipped = {}, 0
    if options.version == "tall":
        lengths = _lengths(paths[: len(TABLES)])
        paths = paths[len(TABLES) :]
    for split, path in zip(TABLES, paths):
        if options.version == "tall":
            splits[split], cut = _tall(path, lengths, dropped)
        else:
            splits[split], cut = video_table(path, dropped, _seconds)
        clipped += cut
    refuse_shared_videos(splits, str(paths[0].parent), apart=tuple(splits))
    queries = sum(len(video.queries) for videos in splits.values() for video in videos)
    return Annotations(splits, dropped, clipped, {f'queries of the version "{options.version}"': queries})


def _seconds(entry: Mapping[str, Any], where: str) -> tuple[float, list[tuple[float, float]]]:
    """Duration and timestamps of an entry of `TABLES`, whose times are frames."""
    fps, duration = _length(entry, where)
    times = moments(field(entry, "timestamps", where), where)
    return duration, [(start / fps, end / fps) for start, end in times]


def _length(entry: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Frames a second, and duration in seconds."""
    fps, frames = (positive(field(entry, name, where), f'{where}: "{name}"') for name in ("fps", "num_frames"))
    return fps, frames / fps


# --- the version of TALL --------------------------------------------------------------------------


def _lengths(paths: Sequence[Path]) -> dict[str, tuple[float, float]]:
    """Video without extension -> frames a second and duration, which TALL's text files do not have."""
    return {
        plain_id(video_id): _length(entry, f"{path}, video {video_id}")
        for path in paths
        for video_id, entry in entries_of(path).items()
    }


def _tall(
    path: Path, lengths: Mapping[str, tuple[float, float]], dropped: list[str]
) -> tuple[list[Video], int]:
    """Videos of a text file and the number of clipped rows; `dropped` gets those that are empty."""
    videos: dict[str, Video] = {}
    position: Counter[str] = Counter()  # sentences of each video so far, the dropped ones too
    clipped = 0
    for row, line in lines_of(path):
        where = f"{path}, line {row}"
        video_id, start, end, texts = _moment(line, where)
        if plain_id(video_id) not in lengths:
            raise UserError(
                f'{where}: the video "{video_id}" is in none of {", ".join(TABLES.values())}, so its length is '
                f"unknown.{nearest(plain_id(video_id), lengths)} Correct the line or get the files again."
            )
        fps, duration = lengths[plain_id(video_id)]
        video = videos.setdefault(video_id, Video(video_id, duration, path.name))
        times = (start / fps, end / fps)
        span = clip(*times, duration)
        for text in texts:
            k = position[video_id]
            position[video_id] += 1
            if span is None:
                dropped.append(f"{path.name}:{row}, {video_id}-{k}")
                continue
            clipped += span != times
            video.queries.append(Sentence(f"{video_id}-{k}", text, span))
    return [video for video in videos.values() if video.queries], clipped


def _moment(line: str, where: str) -> tuple[str, float, float, list[str]]:
    """Takes 'VIDEO_start_end:sentence#sentence#' apart; times are frames."""
    match = _MOMENT.fullmatch(line)
    start, end = (number(match[2]), number(match[3])) if match else (None, None)
    if match is None or start is None or end is None:
        raise UserError(
            f'{where}: "{line[:80]}" is not a line of the form "VIDEO_start_end:sentence#sentence#" with times '
            "in frames. Correct or delete it."
        )
    return match[1], start, end, [sentence(text, where) for text in match[4].removesuffix("#").split("#")]
