"""Charades-STA's annotation files: rows become videos with queries, split as the options say."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from vmr_jax.errors import UserError, nearest
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    clip,
    hold_out,
    lines_of,
    number,
    read_split_file,
    require_files,
    sentence,
    text_of,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.schema import EXTRA

QUERY_FILES = {"train": "charades_sta_train.txt", "test": "charades_sta_test.txt"}
DURATION_FILES = ("Charades_v1_train.csv", "Charades_v1_test.csv")

_ROW = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_SOURCE = (
    f"The folder needs {' and '.join(QUERY_FILES.values())} (Charades-STA, distributed by Gao et al. with the "
    f"code of their paper TALL, ICCV 2017) and {' and '.join(DURATION_FILES)} (the annotations of Charades, "
    "distributed by the Allen Institute for AI)."
)


def files(options) -> list[Path]:
    """Returns the files that `read` reads; raises one UserError that lists all that are missing."""
    folder = manual_dir(options)
    needed = require_files(folder, [*QUERY_FILES.values(), *DURATION_FILES], "charades_sta", _SOURCE)
    for field in ("split_file", "extra_queries"):
        name = getattr(options, field)
        if name and not (folder / name).is_file():
            raise UserError(
                f"config.dataset.{field} names {folder / name}, which does not exist. Give a path relative to "
                "config.dataset.manual_dir, or '' for none."
            )
        if name:
            needed.append(folder / name)
    return needed


def read(options) -> Annotations:
    """Reads the four files in `options.manual_dir`.

    Args:
      options: has `manual_dir`, the folder of `QUERY_FILES` and `DURATION_FILES`; and
        split_file: JSON {"train": [ids], "val": [ids], "test": [ids]} over the videos of both official files,
          relative to `manual_dir`; '' is the official split;
        val_fraction: share of the official training videos that become the split val, where there is no split
          file: those whose ids have the smallest SHA-256;
        extra_queries: jsonl of more training queries, {"video", "query", "windows": [[start, end], ...]} on
          each line, relative to `manual_dir`; '' is none. They carry the tag `EXTRA`.

    Raises:
      UserError: for missing or malformed files, naming file and line.
    """
    files(options)
    folder = manual_dir(options)
    official, dropped, clipped = _official(folder, _durations(folder))
    videos = {video.id: video for split in official.values() for video in split}
    val = hold_out([video.id for video in official["train"]], options.val_fraction)
    if options.split_file:
        ids = read_split_file(folder / options.split_file, videos)
    else:
        ids = _official_ids({name: [v.id for v in split] for name, split in official.items()}, val)
    counts = {}
    if options.extra_queries:
        training = {video_id: videos[video_id] for video_id in ids["train"]}
        counts = _add_extra(folder / options.extra_queries, training)
    splits = {name: [videos[i] for i in members if videos[i].queries] for name, members in ids.items()}
    return Annotations(splits, dropped, clipped, counts)


# --- the official files ---------------------------------------------------------------------------


def _official(
    manual_dir: Path, durations: Mapping[str, float]
) -> tuple[dict[str, list[Video]], list[str], int]:
    """Videos of the two official splits, places of the dropped rows, number of clipped rows."""
    splits: dict[str, list[Video]] = {}
    owner: dict[str, str] = {}
    dropped, clipped = [], 0
    for split, name in QUERY_FILES.items():
        videos: dict[str, Video] = {}
        position: dict[str, int] = {}  # rows of each video so far, the dropped ones too
        for row, line in lines_of(manual_dir / name):
            where = f"{manual_dir / name}, line {row}"
            video_id, start, end, text = _row(line, where)
            if video_id not in durations:
                raise UserError(
                    f'{where}: the video "{video_id}" is in neither {" nor ".join(DURATION_FILES)}, so its '
                    f"duration is unknown.{nearest(video_id, durations)} Correct the row or add the video."
                )
            if owner.setdefault(video_id, split) != split:
                raise UserError(
                    f'{where}: the video "{video_id}" is also in {QUERY_FILES[owner[video_id]]}; a test video '
                    "must not be a training video. Remove it from one of them."
                )
            video = videos.setdefault(video_id, Video(video_id, durations[video_id], name))
            k = position[video_id] = position.get(video_id, -1) + 1
            span = clip(start, end, video.duration)
            if span is None:
                dropped.append(f"{name}:{row}")
                continue
            clipped += span != (start, end)
            video.queries.append(Sentence(f"{video_id}-{k}", text, span))
        splits[split] = list(videos.values())
    return splits, dropped, clipped


def _row(line: str, where: str) -> tuple[str, float, float, str]:
    """Takes 'VID start end##sentence' apart."""
    match = _ROW.fullmatch(line)
    start, end = (number(match[2]), number(match[3])) if match else (None, None)
    if match is None or start is None or end is None:
        raise UserError(
            f'{where}: "{line[:80]}" is not a row of the form "VIDEO start end##sentence" with times in '
            "seconds. Correct or delete it."
        )
    return match[1], start, end, sentence(match[4], where)


def _durations(manual_dir: Path) -> dict[str, float]:
    """Seconds of each video, from the column `length` of both csv files."""
    durations = {}
    for name in DURATION_FILES:
        path = manual_dir / name
        reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
        if not {"id", "length"} <= set(reader.fieldnames or ()):
            raise UserError(
                f"{path} has the columns {', '.join(reader.fieldnames or ()) or '(none)'}; expected id and "
                "length among them. Get the file again from the annotations of Charades."
            )
        for row in reader:
            seconds = number(row["length"])
            if not row["id"] or seconds is None or seconds <= 0:
                raise UserError(
                    f'{path}, line {reader.line_num}: the video "{row["id"]}" has the length '
                    f'"{row["length"]}"; expected a positive number of seconds. Correct the row.'
                )
            durations[row["id"]] = seconds
    return durations


def _official_ids(ids: Mapping[str, list[str]], val: set[str]) -> dict[str, list[str]]:
    """The official split, with the validation videos taken out of training."""
    if not val:
        return {"train": ids["train"], "test": ids["test"]}
    return {
        "train": [i for i in ids["train"] if i not in val],
        "val": [i for i in ids["train"] if i in val],
        "test": ids["test"],
    }


# --- extra queries --------------------------------------------------------------------------------


def _add_extra(path: Path, training: Mapping[str, Video]) -> dict[str, int]:
    """Appends extra queries to the training videos; the qid of the k-th of a video is "VIDEO-xk"."""
    used, left_out, dropped = 0, 0, 0
    position: dict[str, int] = {}
    for row, line in lines_of(path):
        video_id, text, windows = _extra_row(line, f"{path}, line {row}")
        if video_id not in training:
            left_out += len(windows)
            continue
        video = training[video_id]
        for start, end in windows:
            k = position[video_id] = position.get(video_id, -1) + 1
            span = clip(start, end, video.duration)
            if span is None:
                dropped += 1
                continue
            video.queries.append(Sentence(f"{video_id}-x{k}", text, span, tags=(EXTRA,)))
            used += 1
    return {
        "extra training queries used": used,
        "extra queries of other videos left out": left_out,
        "extra queries empty after clipping dropped": dropped,
    }


def _extra_row(line: str, where: str) -> tuple[str, str, list[tuple[float, float]]]:
    try:
        row = json.loads(line)
        video_id, text = row["video"], row["query"]
        windows = [(float(start), float(end)) for start, end in row["windows"]]
        if not isinstance(video_id, str) or not all(math.isfinite(t) for window in windows for t in window):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f'{where}: expected {{"video": "ID", "query": "sentence", "windows": [[start, end], ...]}} with '
            f'times in seconds, found "{line[:80]}". Correct or delete the row.'
        ) from None
    return video_id, sentence(text, where), windows
