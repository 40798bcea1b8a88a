"""Annotation files: what every dataset reads into, and the reading that they share.

A dataset's own `annotations.py` turns its files into `Annotations`; `input/records.py` makes records of those.
Rules that all of them follow: times are seconds; a moment is cut to its video and counted; one that is empty
then is dropped, counted and named; everything else that is wrong is a UserError that names file and row. Files
are UTF-8, with or without a byte order mark, with either kind of line ends.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, nearest, unknown
from vmr_jax.input.packed import read_packed

SPLITS = ("train", "val", "test")  # that a user's split file can name

_WORD = re.compile(r"[^\W_]")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A query before it is parsed; the fields are those of `schema.Query`."""

    qid: str
    text: str
    span: tuple[float, float]
    windows: Sequence[tuple[float, float]] = ()
    tags: Sequence[str] = ()
    saliency: np.ndarray | None = None


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
      dropped: 'file:line' or 'file, video, row' of the rows that are empty after clipping.
      clipped: number of kept rows whose start or end was cut.
      counts: other defects and choices, such as {'extra training queries used': 8580}, for the log.
    """

    splits: dict[str, list[Video]]
    dropped: list[str] = dataclasses.field(default_factory=list)
    clipped: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def count(self, what: str, number: int) -> None:
        """Adds to `counts`; 0 says that it was looked for."""
        self.counts[what] = self.counts.get(what, 0) + number


# --- values ---------------------------------------------------------------------------------------


def sentence(text: Any, where: str) -> str:
    """The sentence without blanks around it; UserError where it has no word."""
    if not isinstance(text, str) or not _WORD.search(text):
        raise UserError(f"{where}: the sentence is empty. Write one or delete the row.")
    return text.strip()


def number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(value if value is not None else "")
    except (ValueError, TypeError):
        return None
    return value if math.isfinite(value) else None


def clip(start: float, end: float, duration: float) -> tuple[float, float] | None:
    """The moment within the video, None where nothing of it is left."""
    start, end = max(start, 0.0), min(end, duration)
    return (start, end) if start < end else None


def choice(value: Any, known: Sequence[str], option: str) -> str:
    """`value` where it is one of the `known`; UserError naming config.dataset.`option` otherwise."""
    if value not in known:
        raise unknown(f"config.dataset.{option} is", value, known)
    return value


# --- files ----------------------------------------------------------------------------------------


def require_files(manual_dir: Path, names: Iterable[str], dataset: str, source: str) -> list[Path]:
    """Returns the paths of the files; raises one UserError that lists all that are missing.

    Args:
      manual_dir: the user's folder.
      names: files in it.
      dataset: folder of `data/`, whose README is named.
      source: from whom the files are, a sentence.
    """
    names = list(names)
    absent = [name for name in names if not (manual_dir / name).is_file()]
    if absent:
        raise UserError(
            f"{dataset} is not complete in {manual_dir.absolute()}: {', '.join(absent)} missing. {source} Set "
            f"config.dataset.manual_dir to the folder that holds them; see data/{dataset}/README.md."
        )
    return [manual_dir / name for name in names]


def published_folder(manual_dir: Path, name: str) -> Path:
    """`manual_dir/name`, as its authors publish it, where there is such a folder; else `manual_dir` itself."""
    return manual_dir / name if (manual_dir / name).is_dir() else manual_dir


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark; .gz and .zip are opened (`read_packed`)."""
    raw = read_packed(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line without blanks around it) of the lines that are not blank."""
    for i, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield i, line.strip()


def json_of(path: Path) -> Any:
    """The content of a JSON file; UserError for an empty or damaged one, and for a key that stands twice."""
    text = text_of(path)
    if not text.strip():
        raise UserError(f"{path} is empty. Get it again.")
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: no valid JSON ({error.msg}). The file is damaged or cut short; get "
            "it again."
        ) from None


def _unique(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f'{path}: the key "{key}" stands twice. Remove one of the two entries.')
        found[key] = value
    return found


def jsonl_of(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields (line from 1, object) of a file with one JSON object a line; UserError where there is none."""
    found = False
    for i, line in lines_of(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f'{path}, line {i}: no valid JSON ({error.msg}): "{line[:80]}".') from None
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {i}: expected an object {{...}}, found "{line[:80]}".')
        found = True
        yield i, row
    if not found:
        raise UserError(f"{path} is empty. Get it again.")


def video_table(
    path: Path, dropped: list[str], seconds_of=None, tags_of=None, prefix: str = ""
) -> tuple[list[Video], int]:
    """Reads {"VIDEO": {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}.

    The layout of ActivityNet Captions, TACoS and most out-of-distribution splits. The k-th sentence of a video
    gets the qid "VIDEO-k", counted from 0 over all of its rows, after `prefix`.

    Args:
      path: the file.
      dropped: gets the place of every row that is empty after clipping.
      seconds_of: (entry, where) -> (duration, timestamps) in seconds, where the layout differs.
      tags_of: (entry, k, where) -> tags of the k-th sentence.
      prefix: starts every qid, where several files have queries of the same videos.

    Returns:
      The videos that have a query, and the number of clipped rows.
    """
    videos, clipped = [], 0
    for video_id, entry in entries_of(path).items():
        where = f"{path}, video {video_id}"
        duration, times = (seconds_of or seconds)(entry, where)
        texts = field(entry, "sentences", where)
        if not isinstance(texts, list) or len(texts) != len(times):
            raise UserError(
                f'{where}: {len(times)} "timestamps" and {len(texts) if isinstance(texts, list) else "no"} '
                '"sentences"; expected one sentence for each moment. Correct the entry.'
            )
        video = Video(video_id, duration, path.name)
        for k, ((start, end), text) in enumerate(zip(times, texts)):
            span = clip(start, end, duration)
            if span is None:
                dropped.append(f"{path.name}, {video_id}, row {k}")
                continue
            clipped += span != (start, end)
            tags = tags_of(entry, k, where) if tags_of else ()
            video.queries.append(
                Sentence(f"{prefix}{video_id}-{k}", sentence(text, f"{where}, row {k}"), span, tags=tags)
            )
        if video.queries:
            videos.append(video)
    return videos, clipped


def entries_of(path: Path) -> dict[str, dict[str, Any]]:
    """The entry of each video in a file {"VIDEO": {...}, ...}; UserError for another layout."""
    table = json_of(path)
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise UserError(f'{path}: expected {{"VIDEO": {{"timestamps": ..., "sentences": ...}}, ...}}.')
    return table


def seconds(
    entry: Mapping[str, Any], where: str, duration: str = "duration"
) -> tuple[float, list[tuple[float, float]]]:
    """Duration and timestamps of an entry that has both in seconds; `duration` names its field."""
    length = positive(field(entry, duration, where), f'{where}: "{duration}"')
    return length, moments(field(entry, "timestamps", where), where)


def field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    """The field of an entry; UserError with the nearest name where it is not there."""
    if name not in entry:
        raise unknown(f"{where}: no", name, entry, "Correct the entry.")
    return entry[name]


def positive(value: Any, what: str) -> float:
    """A positive number; UserError naming `what` otherwise."""
    found = number(value)
    if found is None or found <= 0:
        raise UserError(f"{what} is {value!r}; expected a positive number. Correct the entry.")
    return found


def moments(value: Any, where: str, name: str = "timestamps") -> list[tuple[float, float]]:
    """Pairs of finite numbers from [[start, end], ...], the field `name`; UserError otherwise."""
    if not isinstance(value, list):
        raise UserError(f'{where}: "{name}" is {type(value).__name__}; expected [[start, end], ...].')
    return [moment(pair, f"{where}, row {k}") for k, pair in enumerate(value)]


def moment(pair: Any, where: str) -> tuple[float, float]:
    """Two finite numbers from [start, end]; UserError otherwise."""
    start, end = map(number, pair) if isinstance(pair, list) and len(pair) == 2 else (None, None)
    if start is None or end is None:
        raise UserError(f"{where}: the moment is {pair!r}; expected [start, end]. Correct it.")
    return start, end


def name_of(entry: Mapping[str, Any], name: str, where: str) -> str:
    """The field of an entry that names a video; UserError where it is no text or blank."""
    found = field(entry, name, where)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f'{where}: "{name}" is {found!r}; expected the name of a video. Correct it.')
    return found


def query_id(value: Any, places: dict[str, str], where: str) -> str:
    """The id of a query as text, noted in `places`: 12 and "12" are the same id.

    Args:
      value: a whole number or a text.
      places: id -> place of the queries so far; gets this one.
      where: place of this one.

    Raises:
      UserError: it is neither, or another query has it.
    """
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise UserError(f"{where}: the id is {value!r}; expected a whole number or a text. Correct it.")
    found = str(value).strip()
    if found in places:
        raise UserError(
            f'{where}: the id "{found}" is also that of {places[found]}; ids are unique within a dataset. '
            "Remove or rename one of the two."
        )
    places[found] = where
    return found


# --- splits ---------------------------------------------------------------------------------------


def hold_out(ids: Iterable[str], fraction: float) -> set[str]:
    """A part of the ids, those with the smallest SHA-256: the same everywhere, whatever the order."""
    ids = list(ids)
    if not 0 <= fraction < 1:
        raise UserError(f"config.dataset.val_fraction is {fraction}; expected 0 <= val_fraction < 1.")
    ranked = sorted(ids, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    return set(ranked[: max(1, round(fraction * len(ids)))]) if fraction else set()


def with_val(training: Sequence[Video], fraction: float) -> dict[str, list[Video]]:
    """The splits train and val, the latter being what `hold_out` takes; no val where that is nothing."""
    held = hold_out([video.id for video in training], fraction)
    splits = {"train": [video for video in training if video.id not in held]}
    if held:
        splits["val"] = [video for video in training if video.id in held]
    return splits


def read_splits(
    paths: Mapping[str, Path], read_file: Callable[[Path, dict[str, str], Annotations], list[Video]]
) -> Annotations:
    """Reads one file a split, of a dataset whose queries have ids of their own.

    Args:
      paths: split -> file.
      read_file: (path, places, found) -> videos. `places` are the ids of the queries so far, for `query_id`;
        what is put right goes to `found`.

    Raises:
      UserError: for what `read_file` does not accept; for a video of train that is also in another split.
    """
    found = Annotations({})
    places: dict[str, str] = {}
    for split, path in paths.items():
        found.splits[split] = read_file(path, places, found)
    refuse_shared_videos(found.splits, ", ".join(map(str, paths.values())))
    return found


def refuse_shared_videos(
    splits: Mapping[str, Iterable[Video]], where: str, apart: Sequence[str] = ("train",)
) -> None:
    """Raises UserError where a video of a split in `apart` is also in another split."""
    for alone in apart:
        own = {video.id for video in splits.get(alone, ())}
        for name, videos in splits.items():
            shared = [] if name == alone else [v.id for v in videos if v.id in own]
            if shared:
                raise UserError(
                    f"{where}: {len(shared)} videos of {name} are also in {alone}, such as {shared[0]}; what "
                    "is tested must not be trained on, nor selected by. Remove them from one of the two."
                )


def read_split_file(path: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """A user's split {"train": [video ids], "val": [...], "test": [...]}; val may be absent.

    Its videos must be in `known`, and in one split each. Splits come in the order of `SPLITS`; an id that
    stands twice in its list counts once.
    """
    splits = json_of(path)
    if not isinstance(splits, dict) or not all(
        isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in splits.values()
    ):
        raise UserError(f'{path}: expected {{"train": [video ids], "val": [video ids], "test": [video ids]}}.')
    for name in splits:
        if name not in SPLITS:
            raise unknown(f"{path} names a split", name, SPLITS)
    for name in ("train", "test"):
        if name not in splits:
            raise UserError(f'{path} has no split "{name}"; at least train and test are needed. Add it.')
    known = set(known)
    owner: dict[str, str] = {}
    for name, ids in splits.items():
        strangers = [i for i in ids if i not in known]
        if strangers:
            raise UserError(
                f"{path}: {len(strangers)} videos of {name} have no annotations: {', '.join(strangers[:10])}."
                f"{nearest(strangers[0], known)} Remove them."
            )
        for video_id in ids:
            if owner.setdefault(video_id, name) != name:
                raise UserError(
                    f'{path}: the video "{video_id}" is in {owner[video_id]} and in {name}. A video belongs to '
                    "one split; remove it from the other."
                )
    return {name: list(dict.fromkeys(splits[name])) for name in SPLITS if name in splits}
