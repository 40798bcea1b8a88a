"""Charades-STA's annotation files: rows become videos with queries, split as the options say.

Times are seconds. Ends are cut at the duration that the csv states and starts at zero; a row that is empty
then is dropped and counted. Everything else that is wrong is a UserError that names file and line.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, nearest

QUERY_FILES = {"train": "charades_sta_train.txt", "test": "charades_sta_test.txt"}
DURATION_FILES = ("Charades_v1_train.csv", "Charades_v1_test.csv")
SPLITS = ("train", "val", "test")

_ROW = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_WORD = re.compile(r"[^\W_]")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A query before it is parsed; `span` is (start, end) in seconds within the video."""

    qid: str
    text: str
    span: tuple[float, float]


@dataclasses.dataclass
class Video:
    """A video with its queries in file order."""

    id: str
    duration: float
    source: str  # the file that annotates it
    queries: list[Sentence] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Annotations:
    """Videos of each split, and what was put right on the way.

    Attributes:
      splits: split -> its videos in file order, those without a query left out.
      dropped: 'file:line' of the rows that are empty after clipping.
      clipped: number of kept rows whose start or end was cut.
      extra: extra queries 'used', 'left_out' (not of a training video) and 'dropped' (empty after clipping).
    """

    splits: dict[str, list[Video]]
    dropped: list[str]
    clipped: int
    extra: dict[str, int]


def read(
    manual_dir: Path, split_file: str = "", val_fraction: float = 0.0, extra_queries: str = ""
) -> Annotations:
    """Reads the four files in `manual_dir`.

    Args:
      manual_dir: the folder of `QUERY_FILES` and `DURATION_FILES`.
      split_file: JSON {"train": [ids], "val": [ids], "test": [ids]} over the videos of both official files,
        relative to `manual_dir`; '' is the official split.
      val_fraction: share of the official training videos that become the split val, where there is no split
        file: those whose ids have the smallest SHA-256.
      extra_queries: jsonl of more training queries, {"video", "query", "windows": [[start, end], ...]} on each
        line, relative to `manual_dir`; '' is none.

    Raises:
      UserError: for missing or malformed files, naming file and line.
    """
    check_files(manual_dir, split_file, extra_queries)
    if not 0 <= val_fraction < 1:
        raise UserError(f"config.dataset.val_fraction is {val_fraction}; expected 0 <= val_fraction < 1.")
    durations = _durations(manual_dir)
    official, dropped, clipped = _official(manual_dir, durations)
    videos = {video.id: video for split in official.values() for video in split}
    if split_file:
        ids = _split_file(manual_dir / split_file, videos)
    else:
        ids = _official_ids({name: [v.id for v in split] for name, split in official.items()}, val_fraction)
    extra = {"used": 0, "left_out": 0, "dropped": 0}
    if extra_queries:
        training = {video_id: videos[video_id] for video_id in ids["train"]}
        extra = _add_extra(manual_dir / extra_queries, training)
    splits = {name: [videos[i] for i in members if videos[i].queries] for name, members in ids.items()}
    for name, members in splits.items():
        if not members:
            raise UserError(
                f'The split "{name}" of {manual_dir / split_file} has no queries. Name videos with queries for '
                "it, or leave it out."
            )
    return Annotations(splits, dropped, clipped, extra)


def check_files(manual_dir: Path, split_file: str = "", extra_queries: str = "") -> list[Path]:
    """Returns the files that `read` reads; raises one UserError that lists all that are missing."""
    needed = [*QUERY_FILES.values(), *DURATION_FILES]
    absent = [name for name in needed if not (manual_dir / name).is_file()]
    if absent:
        raise UserError(
            f"Charades-STA is not complete in {manual_dir.absolute()}: {', '.join(absent)} missing. The folder "
            f"needs {' and '.join(QUERY_FILES.values())} (Charades-STA, distributed by Gao et al. with the "
            f"code of their paper TALL, ICCV 2017) and {' and '.join(DURATION_FILES)} (the annotations of "
            "Charades, distributed by the Allen Institute for AI). Set config.dataset.manual_dir to it; see "
            "data/charades_sta/README.md."
        )
    for field, name in (("split_file", split_file), ("extra_queries", extra_queries)):
        if name and not (manual_dir / name).is_file():
            raise UserError(
                f"config.dataset.{field} names {manual_dir / name}, which does not exist. Give a path relative "
                "to config.dataset.manual_dir, or '' for none."
            )
    return [manual_dir / name for name in (*needed, split_file, extra_queries) if name]


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
        for number, line in _lines(manual_dir / name):
            where = f"{manual_dir / name}, line {number}"
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
            span = _clip(start, end, video.duration)
            if span is None:
                dropped.append(f"{name}:{number}")
                continue
            clipped += span != (start, end)
            video.queries.append(Sentence(f"{video_id}-{k}", text, span))
        splits[split] = list(videos.values())
    return splits, dropped, clipped


def _row(line: str, where: str) -> tuple[str, float, float, str]:
    """Takes 'VID start end##sentence' apart."""
    match = _ROW.fullmatch(line)
    start, end = (_number(match[2]), _number(match[3])) if match else (None, None)
    if start is None or end is None:
        raise UserError(
            f'{where}: "{line[:80]}" is not a row of the form "VIDEO start end##sentence" with times in '
            "seconds. Correct or delete it."
        )
    return match[1], start, end, _sentence(match[4], where)


def _sentence(text: Any, where: str) -> str:
    if not isinstance(text, str) or not _WORD.search(text):
        raise UserError(f"{where}: the sentence is empty. Write one or delete the row.")
    return text.strip()


def _clip(start: float, end: float, duration: float) -> tuple[float, float] | None:
    """The moment within the video, None where nothing of it is left."""
    start, end = max(start, 0.0), min(end, duration)
    return (start, end) if start < end else None


def _durations(manual_dir: Path) -> dict[str, float]:
    """Seconds of each video, from the column `length` of both csv files."""
    durations = {}
    for name in DURATION_FILES:
        path = manual_dir / name
        reader = csv.DictReader(io.StringIO(_text(path), newline=""))
        if not {"id", "length"} <= set(reader.fieldnames or ()):
            raise UserError(
                f"{path} has the columns {', '.join(reader.fieldnames or ()) or '(none)'}; expected id and "
                "length among them. Get the file again from the annotations of Charades."
            )
        for row in reader:
            seconds = _number(row["length"])
            if not row["id"] or seconds is None or seconds <= 0:
                raise UserError(
                    f'{path}, line {reader.line_num}: the video "{row["id"]}" has the length '
                    f'"{row["length"]}"; expected a positive number of seconds. Correct the row.'
                )
            durations[row["id"]] = seconds
    return durations


def _number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# --- splits ---------------------------------------------------------------------------------------


def _official_ids(ids: Mapping[str, Sequence[str]], val_fraction: float) -> dict[str, list[str]]:
    """The official split, with a validation set taken out of the training videos."""
    train = list(ids["train"])
    if not val_fraction:
        return {"train": train, "test": list(ids["test"])}
    ranked = sorted(train, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    val = set(ranked[: max(1, round(val_fraction * len(train)))])
    return {
        "train": [i for i in train if i not in val],
        "val": [i for i in train if i in val],
        "test": list(ids["test"]),
    }


def _split_file(path: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """The user's split; its videos must be annotated, and in one split each."""
    try:
        splits = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no valid JSON ({error.msg}).") from None
    if not isinstance(splits, dict) or not all(
        isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in splits.values()
    ):
        raise UserError(f'{path}: expected {{"train": [video ids], "val": [video ids], "test": [video ids]}}.')
    for name in splits:
        if name not in SPLITS:
            raise UserError(
                f'{path} names a split "{name}".{nearest(name, SPLITS)} Known: {", ".join(SPLITS)}.'
            )
    for name in ("train", "test"):
        if name not in splits:
            raise UserError(f'{path} has no split "{name}"; at least train and test are needed. Add it.')
    known, owner = set(known), {}
    for name, ids in splits.items():
        unknown = [i for i in ids if i not in known]
        if unknown:
            raise UserError(
                f"{path}: {len(unknown)} videos of {name} have no annotations: {', '.join(unknown[:10])}."
                f"{nearest(unknown[0], known)} Remove them."
            )
        for video_id in ids:
            if owner.setdefault(video_id, name) != name:
                raise UserError(
                    f'{path}: the video "{video_id}" is in {owner[video_id]} and in {name}. A video belongs to '
                    "one split; remove it from the other."
                )
    # In the order of `SPLITS`; an id that stands twice in its list counts once.
    return {name: list(dict.fromkeys(splits[name])) for name in SPLITS if name in splits}


# --- extra queries --------------------------------------------------------------------------------


def _add_extra(path: Path, training: Mapping[str, Video]) -> dict[str, int]:
    """Appends extra queries to the training videos; the qid of the k-th of a video is "VIDEO-xk"."""
    counts = {"used": 0, "left_out": 0, "dropped": 0}
    position: dict[str, int] = {}
    for number, line in _lines(path):
        video_id, text, windows = _extra_row(line, f"{path}, line {number}")
        if video_id not in training:
            counts["left_out"] += len(windows)
            continue
        video = training[video_id]
        for start, end in windows:
            k = position[video_id] = position.get(video_id, -1) + 1
            span = _clip(start, end, video.duration)
            if span is None:
                counts["dropped"] += 1
                continue
            video.queries.append(Sentence(f"{video_id}-x{k}", text, span))
            counts["used"] += 1
    return counts


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
    return video_id, _sentence(text, where), windows


# --- text -----------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line) of the lines that are not blank."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.strip()
