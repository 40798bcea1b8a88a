"""Annotation files: what every dataset reads into, and the reading that they share.

A dataset's own `annotations.py` turns its files into `Annotations`; `input/records.py` makes records of those.
Rules that all of them follow, in every split:

- Times are seconds. A moment is cut to its video and counted; one that is empty then, or was before, is dropped
  and named, and the other moments of its row stay. A row of which nothing is left is dropped.
- A row without a moment (null, [], or, but in train, no such field) is left out and named; where a split other
  than train has no moment at all it is unlabelled: its queries can be predicted, not evaluated.
- Everything else that is wrong with a row is refused; all such rows are named at once, with file and row.
- Rows that repeat video, sentence and moments of another are kept and named.
"""

import contextlib
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, nearest, unknown
from vmr_jax.input.text_files import json_of
from vmr_jax.text.roles import Roles

SPLITS = ("train", "val", "test")  # that a user's split file can name
MOST_SECONDS = 7 * 24 * 3600  # of a video: a week
MOST_CHARACTERS = 10_000  # of a sentence; 1,000 of an id

_NAMED = 10  # rows that a message names
# The other fields of the rows of jsonl files, which are no misspelt name of the moments.
_FIELDS = {
    "video",
    "vid",
    "duration",
    "query",
    "qid",
    "relevant_clip_ids",
    "saliency_scores",
    "label",
    "domain",
    "tree",
}

_WORD = re.compile(r"[^\W_]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A query before it is parsed; the fields but the last are those of `schema.Query`."""

    qid: str
    text: str
    span: tuple[float, float]
    windows: Sequence[tuple[float, float]] = ()
    tags: Sequence[str] = ()
    context: tuple[float, float] | None = None
    saliency: np.ndarray | None = None
    labelled: bool = True
    roles: Roles | None = None  # of the user's own tree; None: the sentence is parsed

    def fields(self) -> dict[str, Any]:
        """Those that `schema.Query` has too."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "roles"}


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
      dropped: 'file:line' or 'file, video, row' of the moments that are empty within their video.
      clipped: number of kept rows whose start or end was cut.
      counts: other defects and choices, such as {'extra training queries used': 8580}, for the log.
      unlabelled: the places of rows that were left out as they have no moment.
      repeated: 'file: "qid" repeats "qid"' of the rows that say what another says.
      wrong: what is wrong with the rows that are refused; `complete` raises it.
    """

    splits: dict[str, list[Video]]
    dropped: list[str] = dataclasses.field(default_factory=list)
    clipped: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    unlabelled: list[str] = dataclasses.field(default_factory=list)
    repeated: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def count(self, what: str, number: int) -> None:
        """Adds to `counts`; 0 says that it was looked for."""
        self.counts[what] = self.counts.get(what, 0) + number

    @contextlib.contextmanager
    def row(self) -> Iterator[None]:
        """Reads a row: what is wrong with it is kept in `wrong`, and the next one is read."""
        try:
            yield
        except UserError as error:
            self.wrong.append(str(error))

    def within(
        self, moments: Sequence[tuple[float, float]], duration: float, places: Sequence[str]
    ) -> list[tuple[float, float]]:
        """The moments of a row within their video; those of which nothing is left are dropped.

        Args:
          moments: (start, end) in seconds.
          duration: of the video.
          places: of each moment, to name those that are dropped.
        """
        cut = [clip(start, end, duration) for start, end in moments]
        self.dropped += [place for place, moment in zip(places, cut) if moment is None]
        self.clipped += any(moment and moment != whole for moment, whole in zip(cut, moments))
        return [moment for moment in cut if moment]

    def complete(self) -> "Annotations":
        """These annotations, with `repeated`; UserError that names all rows that are refused."""
        if len(self.wrong) == 1:
            raise UserError(self.wrong[0])
        if self.wrong:
            named = " ".join(f"({k}) {text}" for k, text in enumerate(self.wrong[:_NAMED], 1))
            more = len(self.wrong) - _NAMED
            raise UserError(
                f"{len(self.wrong):,} rows cannot be read: {named}"
                + (f" And {more:,} more, which are named when these are put right." if more > 0 else "")
            )
        self.repeated = [text for videos in self.splits.values() for text in _repeated(videos)]
        return self


def _repeated(videos: Iterable[Video]) -> Iterator[str]:
    for video in videos:
        first: dict[Any, str] = {}
        for query in video.queries:
            said = (query.text, tuple(query.windows or [query.span]) if query.labelled else ())
            if (qid := first.setdefault(said, query.qid)) != query.qid:
                yield f'{video.source}: "{query.qid}" repeats "{qid}"'


# --- values ---------------------------------------------------------------------------------------


def sentence(text: Any, where: str) -> str:
    """The sentence without blanks around it; UserError where it has no word, or is no text that can be kept."""
    if not isinstance(text, str) or not _WORD.search(text):
        raise UserError(f"{where}: the sentence is empty. Write one or delete the row.")
    return characters(text.strip(), MOST_CHARACTERS, f"{where}: the sentence")


def characters(text: str, most: int, what: str) -> str:
    """The text; UserError naming `what` where it is longer than `most`, or holds half a character."""
    if len(text) > most:
        raise UserError(f"{what} has {len(text):,} characters; at most {most:,} are read. Correct it.")
    if half := _SURROGATE.search(text):
        raise UserError(
            f"{what} holds U+{ord(half[0]):04X}, one half of a character that was cut in two. Write the whole "
            "character, or delete it."
        )
    return text


def number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(value if value is not None else "")
    except (ValueError, TypeError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def clip(start: float, end: float, duration: float) -> tuple[float, float] | None:
    """The moment within the video, None where nothing of it is left in float32, as records hold it."""
    start, end = max(start, 0.0), min(end, duration)
    return (start, end) if np.float32(start) < np.float32(end) else None


def no_moment(entry: Mapping[str, Any], name: str, split: str) -> bool:
    """Whether a row says that it has no moment: the field `name` is null or [], or, but in train, not there."""
    absent = name not in entry and split != "train" and not nearest(name, set(entry) - _FIELDS)
    return absent or (name in entry and entry[name] in (None, []))


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


def video_table(path: Path, found: Annotations, length_of=None, tags_of=None, prefix: str = "") -> list[Video]:
    """Reads {"VIDEO": {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}.

    The layout of ActivityNet Captions, TACoS, MMN and most out-of-distribution splits. The k-th sentence of a
    video gets the qid "VIDEO-k", counted from 0 over all of its rows, after `prefix`.

    Args:
      path: the file.
      found: gets what is put right and what is wrong.
      length_of: (entry, where) -> duration in seconds, units of the timestamps in a second; `duration_of` where
        it is None.
      tags_of: (entry, k, where) -> tags of the k-th sentence.
      prefix: starts every qid, where several files have queries of the same videos.

    Returns:
      The videos that have a query.
    """
    videos = []
    for video_id, entry in entries_of(path).items():
        with found.row():
            where = f"{path}, video {video_id}"
            characters(video_id, MOST_CHARACTERS // 10, f"{where}: the name")
            duration, units = (length_of or duration_of)(entry, where)
            video = Video(video_id, duration, path.name)
            for k, (moment_, text) in enumerate(_rows(entry, where)):
                with found.row():
                    start, end = moment(moment_, f"{where}, row {k}")
                    place = f"{path.name}, {video_id}, row {k}"
                    spans = found.within([(start / units, end / units)], duration, [place])
                    said = sentence(text, f"{where}, row {k}")
                    tags = tags_of(entry, k, where) if tags_of else ()
                    qid = f"{prefix}{video_id}-{k}"
                    video.queries += [Sentence(qid, said, span, tags=tags) for span in spans]
            if video.queries:
                videos.append(video)
    return videos


def _rows(entry: Mapping[str, Any], where: str) -> Iterable[tuple[Any, Any]]:
    """(moment, sentence) of an entry."""
    times, texts = list_of(field(entry, "timestamps", where), where), field(entry, "sentences", where)
    if not isinstance(texts, list) or len(texts) != len(times):
        raise UserError(
            f'{where}: {len(times)} "timestamps" and {len(texts) if isinstance(texts, list) else "no"} '
            '"sentences"; expected one sentence for each moment. Correct the entry.'
        )
    return zip(times, texts)


def entries_of(path: Path) -> dict[str, dict[str, Any]]:
    """The entry of each video in a file {"VIDEO": {...}, ...}; UserError for another layout."""
    table = json_of(path)
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise UserError(f'{path}: expected {{"VIDEO": {{"timestamps": ..., "sentences": ...}}, ...}}.')
    return table


def duration_of(entry: Mapping[str, Any], where: str, name: str = "duration") -> tuple[float, float]:
    """Duration of an entry in seconds, and 1.0, as its timestamps are seconds too; `name` is its field."""
    return duration_in(field(entry, name, where), f'{where}: "{name}"'), 1.0


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


def duration_in(value: Any, what: str) -> float:
    """The seconds of a video, at most a week; UserError naming `what` otherwise."""
    found = positive(value, what)
    if found > MOST_SECONDS:
        raise UserError(
            f"{what} is {value!r} s, more than a week. Durations are seconds, no milliseconds and no frames; "
            "correct the entry."
        )
    return found


def list_of(value: Any, where: str, name: str = "timestamps") -> list[Any]:
    """The list in the field `name` of moments; UserError otherwise."""
    if not isinstance(value, list):
        raise UserError(f'{where}: "{name}" is {type(value).__name__}; expected [[start, end], ...].')
    return value


def moments(value: Any, where: str, name: str = "timestamps") -> list[tuple[float, float]]:
    """Pairs of finite numbers from [[start, end], ...], the field `name`; UserError otherwise."""
    return [moment(pair, f"{where}, row {k}") for k, pair in enumerate(list_of(value, where, name))]


def moment(pair: Any, where: str) -> tuple[float, float]:
    """Two finite numbers from [start, end]; UserError otherwise."""
    start, end = map(number, pair) if isinstance(pair, list) and len(pair) == 2 else (None, None)
    if start is None or end is None:
        raise UserError(f"{where}: the moment is {pair!r}; expected [start, end]. Correct it.")
    return start, end


def windows_of(
    row: Mapping[str, Any], name: str, duration: float, path: Path, line: int, found: Annotations
) -> list[tuple[float, float]]:
    """The moments in the field `name` of a line that are within the video (`Annotations.within`)."""
    where = f"{path}, line {line}"
    annotated = moments(field(row, name, where), where, name)
    return found.within(annotated, duration, [f"{path.name}:{line}, window {k}" for k in range(len(annotated))])


def unlabelled(qid: str, text: str, duration: float) -> Sentence:
    """A query whose moment nobody has told; the whole video stands in its place."""
    return Sentence(qid, text, (0.0, duration), labelled=False)


def name_of(entry: Mapping[str, Any], name: str, where: str) -> str:
    """The field of an entry that names a video; UserError where it is no text or blank."""
    found = field(entry, name, where)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f'{where}: "{name}" is {found!r}; expected the name of a video. Correct it.')
    return characters(found, MOST_CHARACTERS // 10, f'{where}: "{name}"')


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
    found = characters(str(value).strip(), MOST_CHARACTERS // 10, f"{where}: the id")
    if found in places:
        raise UserError(
            f'{where}: the id "{found}" is also that of {places[found]}; ids are unique within a dataset. '
            "Remove or rename one of the two."
        )
    places[found] = where
    return found


# --- splits ---------------------------------------------------------------------------------------


def chosen(files: Mapping[str, Any], only: str) -> dict[str, Any]:
    """The files by split; with the split `only` its own alone, all where it has none of its own."""
    return {only: files[only]} if only in files else dict(files)


def training_for_val(only: str) -> str:
    """The split whose file is read for `only`, of a dataset that holds val out of its training videos."""
    return "train" if only == "val" else only


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
        found.splits[split] = _settled(read_file(path, places, found), split, places, found)
    found.complete()
    refuse_shared_videos(found.splits, ", ".join(map(str, paths.values())))
    return found


def _settled(videos: Sequence[Video], split: str, places: Mapping[str, str], found: Annotations) -> list[Video]:
    """The videos with the queries that have a moment; with all where none has one, but in train."""
    queries = [query for video in videos for query in video.queries]
    if split != "train" and not any(query.labelled for query in queries):
        return list(videos)
    found.unlabelled += [places[query.qid] for query in queries if not query.labelled]
    for video in videos:
        video.queries = [query for query in video.queries if query.labelled]
    return [video for video in videos if video.queries]


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
