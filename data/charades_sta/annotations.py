"""Charades-STA's annotation files: rows become videos with queries, split as the options say."""

import csv
import io
import math
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from vmr_jax.errors import UserError, nearest
from vmr_jax.files import parsed
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    chosen,
    duration_in,
    hold_out,
    moment,
    name_of,
    number,
    read_split_file,
    refuse_shared_videos,
    require_files,
    sentence,
    training_for_val,
    video_table,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.schema import EXTRA
from vmr_jax.input.text_files import json_of, lines_of, text_of

QUERY_FILES = {"train": "charades_sta_train.txt", "test": "charades_sta_test.txt"}
DURATION_FILES = ("Charades_v1_train.csv", "Charades_v1_test.csv")
# As others distribute it, with the durations in it; read where the official files are not there.
MMN_FILES = {"train": "charades_train.json", "test": "charades_test.json"}
CPL_FILES = {"train": "train.json", "test": "test.json"}

_ROW = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_SOURCE = (
    f"The folder needs {' and '.join(QUERY_FILES.values())} (Charades-STA, distributed by Gao et al. with the "
    f"code of their paper TALL, ICCV 2017) and {' and '.join(DURATION_FILES)} (the annotations of "
    f"Charades, distributed by the Allen Institute for AI); or {' and '.join(MMN_FILES.values())} as MMN has "
    f"them, or {' and '.join(CPL_FILES.values())} as CPL and SCN have them."
)


def splits(options) -> list[str]:
    """The names of the splits that there can be."""
    return ["train", "val", "test"]


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads; raises one UserError that lists all that are missing.

    Args:
      options: as of `read`.
      only: a split, whose files alone are read unless a split file divides the videos anew; '' for all.
    """
    folder, only = manual_dir(options), _own(options, only)
    names = chosen(_layout(folder), only)
    lengths = _duration_files(names) if _layout(folder) is QUERY_FILES else ()
    needed = require_files(folder, [*names.values(), *lengths], "charades_sta", _SOURCE)
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


def _own(options, only: str) -> str:
    """The split whose files are read for the split `only`; '' where all are needed."""
    return "" if options.split_file else training_for_val(only)


def _duration_files(splits: Container[str]) -> list[str]:
    """The files with the durations of the videos of these official splits."""
    return [name for split, name in zip(QUERY_FILES, DURATION_FILES) if split in splits]


def _layout(folder: Path) -> dict[str, str]:
    """Split -> file, of the files that are there; the official ones where none is."""
    for layout in (QUERY_FILES, MMN_FILES, CPL_FILES):
        if any((folder / name).is_file() for name in layout.values()):
            return layout
    return QUERY_FILES


def read(options, only: str = "") -> Annotations:
    """Reads the files in `options.manual_dir`.

    Args:
      options: has `manual_dir`, the folder of `QUERY_FILES` and `DURATION_FILES`, of `MMN_FILES` or of
        `CPL_FILES`; and
        split_file: JSON {"train": [ids], "val": [ids], "test": [ids]} over the videos of both official files,
          relative to `manual_dir`; '' is the official split;
        val_fraction: share of the official training videos that become the split val, where there is no split
          file: those whose ids have the smallest SHA-256;
        extra_queries: jsonl of more training queries, {"video", "query", "windows": [[start, end], ...]} on
          each line, relative to `manual_dir`; '' is none. They carry the tag `EXTRA`.
      only: a split, whose file alone is read; '' for all.

    Raises:
      UserError: for missing or malformed files, naming file and line.
    """
    files(options, only)
    folder, found = manual_dir(options), Annotations({})
    official = _official(folder, chosen(_layout(folder), _own(options, only)), found)
    found.complete()
    videos = {video.id: video for split in official.values() for video in split}
    if options.split_file:
        ids = read_split_file(folder / options.split_file, videos)
    else:
        ids = _official_ids(
            {name: [v.id for v in split] for name, split in official.items()}, options.val_fraction
        )
    if options.extra_queries and "train" in ids:
        _add_extra(folder / options.extra_queries, {i: videos[i] for i in ids["train"]}, found)
    found.splits = {name: [videos[i] for i in members if videos[i].queries] for name, members in ids.items()}
    return found.complete()


# --- the official files ---------------------------------------------------------------------------


def _official(folder: Path, paths: Mapping[str, str], found: Annotations) -> dict[str, list[Video]]:
    """Videos of the official splits, those of which all rows are dropped too; `found` gets what is wrong."""
    if not set(paths.values()) <= set(QUERY_FILES.values()):
        read_file = _pairs if set(paths.values()) <= set(CPL_FILES.values()) else video_table
        splits = {split: read_file(folder / name, found) for split, name in paths.items()}
        refuse_shared_videos(splits, str(folder))
        return splits
    durations = _durations([folder / name for name in _duration_files(paths)], found)
    splits = {}
    owner: dict[str, str] = {}
    for split, name in paths.items():
        videos: dict[str, Video] = {}
        position: dict[str, int] = {}  # rows of each video so far, the dropped ones too
        for row, line in lines_of(folder / name):
            with found.row():
                where = f"{folder / name}, line {row}"
                video_id, start, end, text = _row(line, where)
                if video_id not in durations:
                    raise UserError(
                        f'{where}: the video "{video_id}" is in neither {" nor ".join(DURATION_FILES)}, '
                        f"so its duration is unknown.{nearest(video_id, durations)} Correct the row or add the "
                        "video."
                    )
                if owner.setdefault(video_id, split) != split:
                    raise UserError(
                        f'{where}: the video "{video_id}" is also in {QUERY_FILES[owner[video_id]]}; a test '
                        "video must not be a training video. Remove it from one of them."
                    )
                video = videos.setdefault(video_id, Video(video_id, durations[video_id], name))
                k = position[video_id] = position.get(video_id, -1) + 1
                spans = found.within([(start, end)], video.duration, [f"{name}:{row}"])
                video.queries += [Sentence(f"{video_id}-{k}", text, span) for span in spans]
        splits[split] = list(videos.values())
    return splits


def _pairs(path: Path, found: Annotations) -> list[Video]:
    """Videos of a file [[video, duration, [start, end], sentence], ...], as CPL has it."""
    rows = json_of(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f"{path}: expected [[video, duration, [start, end], sentence], ...], one for each query."
        )
    videos: dict[str, Video] = {}
    position: dict[str, int] = {}
    for number_, row in enumerate(rows):
        with found.row():
            where = f"{path}, row {number_}"
            if not isinstance(row, list) or len(row) != 4:
                raise UserError(f"{where}: expected [video, duration, [start, end], sentence]. Correct it.")
            name, duration = (
                name_of({"video": row[0]}, "video", where),
                duration_in(row[1], f"{where}: the duration"),
            )
            video = videos.setdefault(name, Video(name, duration, path.name))
            k = position[name] = position.get(name, -1) + 1
            text = sentence(row[3], where)
            spans = found.within([moment(row[2], where)], duration, [f"{path.name}, row {number_}"])
            video.queries += [Sentence(f"{name}-{k}", text, span) for span in spans]
    return list(videos.values())


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


def _durations(paths: Sequence[Path], found: Annotations) -> dict[str, float]:
    """Seconds of each video, from the column `length` of the csv files."""
    durations: dict[str, float] = {}
    for path in paths:
        reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
        if not {"id", "length"} <= set(reader.fieldnames or ()):
            raise UserError(
                f"{path} has the columns {', '.join(reader.fieldnames or ()) or '(none)'}; expected id and "
                "length among them. Get the file again from the annotations of Charades."
            )
        for row in reader:
            with found.row():
                durations[row["id"]] = _length(row, f"{path}, line {reader.line_num}")
    found.complete()
    return durations


def _length(row: Mapping[str, str], where: str) -> float:
    seconds = number(row["length"])
    if not row["id"] or seconds is None or seconds <= 0:
        raise UserError(
            f'{where}: the video "{row["id"]}" has the length "{row["length"]}"; expected a positive number of '
            "seconds. Correct the row."
        )
    return duration_in(seconds, f'{where}: the length of "{row["id"]}"')


def _official_ids(ids: Mapping[str, list[str]], val_fraction: float) -> dict[str, list[str]]:
    """The official split, with the validation videos taken out of training; of the splits that were read."""
    if "train" not in ids:
        return dict(ids)
    val = hold_out(ids["train"], val_fraction)
    divided = {"train": [i for i in ids["train"] if i not in val]}
    if val:
        divided["val"] = [i for i in ids["train"] if i in val]
    return divided | {name: members for name, members in ids.items() if name != "train"}


# --- extra queries --------------------------------------------------------------------------------


def _add_extra(path: Path, training: Mapping[str, Video], found: Annotations) -> None:
    """Appends extra queries to the training videos; the qid of the k-th of a video is "VIDEO-xk"."""
    used, left_out, clipped, before = 0, 0, found.clipped, len(found.dropped)
    position: dict[str, int] = {}
    for row, line in lines_of(path):
        with found.row():
            video_id, text, windows = _extra_row(line, f"{path}, line {row}")
            if video_id not in training:
                left_out += len(windows)
                continue
            video = training[video_id]
            for window in windows:
                k = position[video_id] = position.get(video_id, -1) + 1
                for span in found.within([window], video.duration, [f"{path.name}:{row}"]):
                    video.queries.append(Sentence(f"{video_id}-x{k}", text, span, tags=(EXTRA,)))
                    used += 1
    dropped, found.clipped = len(found.dropped) - before, clipped  # the clipped rows are the official ones
    found.count("extra training queries used", used)
    found.count("extra queries of other videos left out", left_out)
    found.count("extra queries empty after clipping dropped", dropped)


def _extra_row(line: str, where: str) -> tuple[str, str, list[tuple[float, float]]]:
    try:
        row = parsed(line)
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
