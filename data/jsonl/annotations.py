"""The jsonl files of a user's own data: each line is a sentence and its moments in a video."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    duration_in,
    field,
    name_of,
    no_moment,
    query_id,
    read_splits,
    require_files,
    sentence,
    training_for_val,
    unlabelled,
    windows_of,
    with_val,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.text_files import jsonl_of
from vmr_jax.input.trees import user_tree

_SPLIT = re.compile(r"train|val|test|test_\w+", re.ASCII)
_SOURCE = "Each split is a file: train.jsonl is needed; val.jsonl, test.jsonl and test_NAME.jsonl are read too."
_OTHER_NAMES = {"video": "vid", "windows": "relevant_windows"}  # of Moment-DETR and its line


def splits(options) -> list[str]:
    """The names of the splits whose files are there, and val where it can be held out of train."""
    there = {path.stem for path in manual_dir(options).glob("*.jsonl") if _SPLIT.fullmatch(path.stem)}
    if "train" in there and options.val_fraction:
        there.add("val")
    return [name for name in ("train", "val", "test") if name in there] + sorted(
        name for name in there if name.startswith("test_")
    )


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads: train, then val and test where they are there, then test_*.

    Args:
      options: has `manual_dir`.
      only: a split, whose file alone is read; '' for all.

    Raises:
      UserError: there is no train.jsonl, or none of the split; a name cannot be that of a split.
    """
    folder = manual_dir(options)
    if only:
        own = only if (folder / f"{only}.jsonl").is_file() else training_for_val(only)
        return require_files(folder, [f"{own}.jsonl"], "jsonl", _SOURCE)
    there = sorted(path.name for path in folder.glob("*.jsonl"))
    has = f"The folder has {', '.join(there) or 'no jsonl file'}."
    require_files(folder, ["train.jsonl"], "jsonl", f"{_SOURCE} {has}")
    for name in there:
        if name.startswith("test_") and not _SPLIT.fullmatch(Path(name).stem):
            raise UserError(
                f"{folder / name}: a split is named by letters, digits and underscores alone. Rename it."
            )
    first = [name for name in ("train.jsonl", "val.jsonl", "test.jsonl") if name in there]
    return [folder / name for name in (*first, *(n for n in there if n.startswith("test_")))]


def read(options, only: str = "") -> Annotations:
    """Reads the files in `options.manual_dir`, or that of the split `only`.

    Args:
      options: has `manual_dir`, and `val_fraction`, the share of the videos of train.jsonl that become the
        split val where there is no val.jsonl: those whose ids have the smallest SHA-256; 0 for no such split.
      only: a split; '' for all.

    Raises:
      UserError: for missing or malformed files, naming file and line; for a video of two durations, a query id
        that two lines have, a training video in another split.
    """
    paths = {path.stem: path for path in files(options, only)}
    durations: dict[str, tuple[float, str]] = {}

    def read_file(path: Path, places: dict[str, str], found: Annotations) -> list[Video]:
        return _videos(path, places, durations, found)

    found = read_splits(paths, read_file)
    if "train" in found.splits and "val" not in found.splits:
        found.splits = _with_val(found.splits, options.val_fraction)
    unread = [path.name for path in manual_dir(options).glob("*.jsonl") if not _SPLIT.fullmatch(path.stem)]
    if unread:
        found.count(f"jsonl files that are no split and not read ({', '.join(sorted(unread))})", len(unread))
    return found


def _with_val(splits: Mapping[str, list[Video]], fraction: float) -> dict[str, list[Video]]:
    """Moves a part of the training videos to the split val."""
    divided = with_val(splits["train"], fraction)
    if not divided["train"]:
        raise UserError(
            f"train.jsonl has {len(splits['train'])} videos, and config.dataset.val_fraction={fraction} would "
            "leave none for training. Bring a val.jsonl, or set val_fraction to 0."
        )
    return {**divided, **{name: videos for name, videos in splits.items() if name != "train"}}


def _videos(
    path: Path, places: dict[str, str], durations: dict[str, tuple[float, str]], found: Annotations
) -> list[Video]:
    """The videos of one file.

    Args:
      path: the file; its name is the split.
      places: ids of the queries so far; gets those of this file.
      durations: video -> its duration and the place that says so, so far; gets those of this file.
      found: gets the dropped windows and the clipped rows.
    """
    videos: dict[str, Video] = {}
    for line, row in jsonl_of(path, found.row):
        with found.row():
            where = f"{path}, line {line}"
            name = name_of(row, _name(row, "video"), where)
            duration = _duration(row, name, durations, where)
            qid = query_id(row.get("qid", f"{path.stem}-{line}"), places, where)
            text = sentence(field(row, "query", where), where)
            if no_moment(row, _name(row, "windows"), path.stem):
                query = unlabelled(qid, text, duration)
            else:
                windows = windows_of(row, _name(row, "windows"), duration, path, line, found)
                if not windows:
                    continue
                query = Sentence(qid, text, windows[0], windows=windows)
            if "tree" in row:
                query = dataclasses.replace(query, roles=user_tree(row["tree"], text, where))
            videos.setdefault(name, Video(name, duration, path.name)).queries.append(query)
    return list(videos.values())


def _name(row: Mapping[str, Any], name: str) -> str:
    """The name under which a row has a field."""
    other = _OTHER_NAMES[name]
    return other if other in row and name not in row else name


def _duration(row: Mapping[str, Any], video: str, durations: dict[str, tuple[float, str]], where: str) -> float:
    duration = duration_in(field(row, "duration", where), f'{where}: "duration"')
    known, place = durations.setdefault(video, (duration, where))
    if known != duration:
        raise UserError(
            f'{where}: the video "{video}" lasts {duration:g} s here and {known:g} s in {place}. Correct '
            "one of the two."
        )
    return duration
