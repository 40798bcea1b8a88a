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
    chosen,
    duration_in,
    entries_of,
    field,
    number,
    positive,
    refuse_shared_videos,
    require_files,
    sentence,
    video_table,
)
from vmr_jax.input.features import plain_id
from vmr_jax.input.records import manual_dir
from vmr_jax.input.text_files import lines_of

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


def splits(options) -> list[str]:
    """The names of the splits."""
    return list(TABLES)


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads; UserError lists all that are missing."""
    version = choice(options.version, VERSIONS, "version")
    tall = chosen(TALL_FILES, only).values() if version == "tall" else ()
    return require_files(manual_dir(options), [*chosen(TABLES, only).values(), *tall], "tacos", _SOURCE)


def read(options, only: str = "") -> Annotations:
    """Reads the files in `options.manual_dir`, or those of the split `only`.

    The k-th sentence of a video, from 0, is named "VIDEO-k".

    Args:
      options: has `manual_dir`; and
        version: "2d_tan" reads `TABLES`; "tall" reads `TALL_FILES`, and from `TABLES` the videos' lengths.
      only: a split; '' for all.

    Raises:
      UserError: for missing or malformed files, naming file and video or line; where a video is in two splits.
    """
    names, paths = chosen(TABLES, only), files(options, only)
    found = Annotations({})
    if options.version == "tall":
        lengths = _lengths(paths[: len(names)], found)
        paths = paths[len(names) :]
    for split, path in zip(names, paths):
        tall = options.version == "tall"
        found.splits[split] = _tall(path, lengths, found) if tall else video_table(path, found, _length)
    found.complete()
    refuse_shared_videos(found.splits, str(paths[0].parent), apart=tuple(found.splits))
    queries = sum(len(video.queries) for videos in found.splits.values() for video in videos)
    found.count(f'queries of the version "{options.version}"', queries)
    return found


def _length(entry: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Duration in seconds of an entry of `TABLES`, and frames a second: its timestamps are frames."""
    fps, frames = (positive(field(entry, name, where), f'{where}: "{name}"') for name in ("fps", "num_frames"))
    return duration_in(frames / fps, f"{where}: the duration"), fps


# --- the version of TALL --------------------------------------------------------------------------


def _lengths(paths: Sequence[Path], found: Annotations) -> dict[str, tuple[float, float]]:
    """Video without extension -> duration and frames a second, which TALL's text files do not have."""
    lengths = {}
    for path in paths:
        for video_id, entry in entries_of(path).items():
            with found.row():
                lengths[plain_id(video_id)] = _length(entry, f"{path}, video {video_id}")
    found.complete()
    return lengths


def _tall(path: Path, lengths: Mapping[str, tuple[float, float]], found: Annotations) -> list[Video]:
    """Videos of a text file; `found` gets what is put right and what is wrong."""
    videos: dict[str, Video] = {}
    position: Counter[str] = Counter()  # sentences of each video so far, the dropped ones too
    for row, line in lines_of(path):
        with found.row():
            where = f"{path}, line {row}"
            video_id, start, end, texts = _moment(line, where)
            if plain_id(video_id) not in lengths:
                raise UserError(
                    f'{where}: the video "{video_id}" is in none of {", ".join(TABLES.values())}, so its '
                    f"length is unknown.{nearest(plain_id(video_id), lengths)} Correct the line or get the "
                    "files again."
                )
            duration, fps = lengths[plain_id(video_id)]
            video = videos.setdefault(video_id, Video(video_id, duration, path.name))
            for text in texts:
                qid = f"{video_id}-{position[video_id]}"
                position[video_id] += 1
                spans = found.within([(start / fps, end / fps)], duration, [f"{path.name}:{row}, {qid}"])
                video.queries += [Sentence(qid, text, span) for span in spans]
    return [video for video in videos.values() if video.queries]


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
