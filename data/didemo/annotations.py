"""DiDeMo's annotation files: chunk indices become seconds, and the annotators' moments one to learn.

A video is cut into chunks of five seconds, five or six of them. An annotator's moment is [first chunk, last
chunk], both inclusive. TEMPO's files have the same layout and are read here too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    chosen,
    field,
    name_of,
    query_id,
    read_splits,
    require_files,
    sentence,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.schema import CHUNK_SECONDS
from vmr_jax.input.schema import CHUNKS as MOST_CHUNKS
from vmr_jax.input.text_files import json_of

QUERY_FILES = {"train": "train_data.json", "val": "val_data.json", "test": "test_data.json"}
CHUNKS = (MOST_CHUNKS - 1, MOST_CHUNKS)  # that a video can have

_SOURCE = (
    "All three are in the repository LocalizingMoments of Hendricks et al., folder data (DiDeMo, ICCV 2017)."
)
_DISAGREE = "videos whose rows differ in num_segments, taken as the longer"
_UNTOLD = "videos without num_segments, taken as six chunks"


def splits(options) -> list[str]:
    """The names of the splits."""
    return list(QUERY_FILES)


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads; raises one UserError that lists all that are missing."""
    return require_files(manual_dir(options), chosen(QUERY_FILES, only).values(), "didemo", _SOURCE)


def read(options, only: str = "") -> Annotations:
    """Reads the three files in `options.manual_dir`, or that of the split `only`.

    Raises:
      UserError: for missing or malformed files, naming file and row; for an id that two rows have; for a
        training video in another split.
    """
    return read_splits(dict(zip(chosen(QUERY_FILES, only), files(options, only))), read_file)


def read_file(
    path: Path,
    places: dict[str, str],
    found: Annotations,
    learn: str = "times",
    tags_of: Callable[[str, str], Sequence[str]] | None = None,
    chunks_untold: bool = False,
    related: bool = False,
) -> list[Video]:
    """Reads one file [{"annotation_id", "description", "video", "times", "num_segments"}, ...].

    Every annotator's moment becomes seconds, [5 first, 5 (last + 1)], in file order with repeats; the one that
    most chose is the span to learn (`most_chosen`). Every video is given six chunks, 30 s, as the authors'
    features and the ranking of 21 segments have it; its true length is not in the file.

    Args:
      path: the file.
      places: ids of the queries so far; gets those of this file.
      found: gets the number of videos whose rows do not settle how many chunks they have.
      learn: the field whose moments are voted on; where it is an empty list, "times" are.
      tags_of: (id, where) -> tags of a query.
      chunks_untold: whether a row may lack "num_segments", the number of chunks.
      related: whether the field "context" is read, the moment to which a sentence relates its own.
    """
    rows = _rows(path)
    chunks = _chunks(rows, found, chunks_untold)
    videos: dict[str, Video] = {}
    for where, row in rows:
        if row.get("video") not in chunks:
            continue  # a row that `_chunks` has refused
        with found.row():
            name = row["video"]
            qid = query_id(field(row, "annotation_id", where), places, where)
            windows = _moments(row, "times", chunks[name], where)
            if not windows:
                raise UserError(f'{where}: "times" is empty; expected a moment of each annotator. Correct it.')
            voted = windows if learn == "times" else _moments(row, learn, chunks[name], where) or windows
            text = sentence(field(row, "description", where), where)
            tags = tags_of(qid, where) if tags_of else ()
            context = _context(row, where) if related else None
            video = videos.setdefault(name, Video(name, CHUNK_SECONDS * max(CHUNKS), path.name))
            moment = most_chosen(voted)
            video.queries.append(Sentence(qid, text, moment, windows=windows, tags=tags, context=context))
    return list(videos.values())


def most_chosen(moments: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The moment that stands most often; of several such, the one that starts, then ends, first."""
    votes = Counter(moments)
    return min(votes, key=lambda moment: (-votes[moment], moment))


def _rows(path: Path) -> list[tuple[str, dict]]:
    """(place, row) of a file; rows are counted from 0."""
    rows = json_of(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path}: expected [{{"annotation_id": ..., "times": ...}}, ...], one object a query.')
    return [(f"{path}, row {k}", row) for k, row in enumerate(rows)]


def _chunks(rows: list[tuple[str, dict]], found: Annotations, untold: bool) -> dict[str, int]:
    """The number of chunks of each video; rows that do not say are refused in `found`."""
    told: dict[str, set[int]] = {}
    for where, row in rows:
        with found.row():
            numbers = told.setdefault(name_of(row, "video", where), set())
            if "num_segments" in row or not untold:
                number = field(row, "num_segments", where)
                if number not in CHUNKS:
                    raise UserError(f'{where}: "num_segments" is {number!r}; expected 5 or 6. Correct it.')
                numbers.add(number)
    found.count(_DISAGREE, sum(len(numbers) > 1 for numbers in told.values()))
    if untold:
        found.count(_UNTOLD, sum(not numbers for numbers in told.values()))
    return {video: max(numbers, default=max(CHUNKS)) for video, numbers in told.items()}


def _context(row: dict[str, Any], where: str) -> tuple[float, float]:
    """The moment in "context" in seconds; zeros where there is none."""
    if row.get("context", []) == []:
        return 0.0, 0.0
    return _moments({"context": [row["context"]]}, "context", MOST_CHUNKS, where)[0]


def _moments(row: dict[str, Any], name: str, chunks: int, where: str) -> list[tuple[float, float]]:
    """[[first, last], ...] of chunks in seconds."""
    pairs = field(row, name, where)
    if not isinstance(pairs, list):
        raise UserError(
            f'{where}: "{name}" is {pairs!r}; expected [[first chunk, last chunk], ...]. Correct it.'
        )
    for pair in pairs:
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(chunk) is int for chunk in pair)
        if not whole or not 0 <= pair[0] <= pair[1] < chunks:
            raise UserError(
                f'{where}: "{name}" has {pair!r}; expected [first, last] with 0 <= first <= last <= '
                f"{chunks - 1}, as the video has {chunks} chunks. Correct it."
            )
    return [(CHUNK_SECONDS * first, CHUNK_SECONDS * (last + 1)) for first, last in pairs]
