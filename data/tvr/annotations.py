"""Annotation files of TVR and of mTVR: one query a line, and an index of all videos with their durations."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, unknown
from vmr_jax.input.annotations import (
    Annotations,
    Sentence,
    Video,
    choice,
    chosen,
    duration_in,
    field,
    moment,
    name_of,
    query_id,
    read_splits,
    require_files,
    sentence,
)
from vmr_jax.input.records import manual_dir
from vmr_jax.input.text_files import json_of, jsonl_of

QUERY_FILES = {"train": "tvr_train_release.jsonl", "val": "tvr_val_release.jsonl"}
INDEX_FILE = "tvr_video2dur_idx.json"
LANGUAGES = ("en", "zh", "google_zh")  # of mTVR's queries; the last is machine translation of the first
TYPES = ("v", "t", "vt")  # a query needs the video, the subtitles (text), or both

WHERE_FROM = (
    "They are in folder data of the repository TVRetrieval (Lei et al., ECCV 2020), or of mTVRetrieval (Lei et "
    "al., ACL 2021) where config.dataset.language is set."
)
_DIFFER = "rows whose duration is not that of the index, which is taken"


def language_of(options) -> str:
    """The language of mTVR's queries that is read, '' for TVR's own files; UserError for an unknown one."""
    language = getattr(options, "language", "")  # a run from before there was the field has none
    return choice(language, LANGUAGES, "language") if language else ""


def file_of(name: str, language: str) -> str:
    """The file of mTVR where there is a language, which has the name of TVR's and says its languages."""
    return name.replace("tvr_", "tvr_zh_en_", 1) if language else name


def splits(options) -> list[str]:
    """The names of the splits."""
    return list(QUERY_FILES)


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads; raises one UserError that lists all that are missing."""
    language = language_of(options)
    names = [*(file_of(name, language) for name in chosen(QUERY_FILES, only).values()), INDEX_FILE]
    return require_files(manual_dir(options), names, "tvr", WHERE_FROM)


def read(options, only: str = "") -> Annotations:
    """Reads the three files in `options.manual_dir`, or those of the split `only`.

    Raises:
      UserError: for missing or malformed files, naming file and line; for an id that two rows have; for a
        training video in another split.
    """
    *queries, index = files(options, only)
    return read_splits(
        dict(zip(chosen(QUERY_FILES, only), queries)),
        functools.partial(read_file, durations=durations_of(index), language=language_of(options)),
    )


def durations_of(path: Path) -> dict[str, float]:
    """Seconds of all videos of the index."""
    return {name: seconds for videos in index_of(path).values() for name, (seconds, _) in videos.items()}


def index_of(path: Path) -> dict[str, dict[str, tuple[float, Any]]]:
    """Split -> video -> (seconds, number in the server's files), from {split: {video: [duration, number]}}."""
    index = json_of(path)
    splits: list[Any] = list(index.values()) if isinstance(index, dict) else [None]
    if not all(isinstance(videos, dict) for videos in splits):
        raise UserError(f'{path}: expected {{"train": {{"VIDEO": [duration, number], ...}}, ...}}.')
    return {
        split: {name: _entry(entry, f"{path}, video {name}") for name, entry in videos.items()}
        for split, videos in index.items()
    }


def _entry(entry: Any, where: str) -> tuple[float, Any]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise UserError(f"{where}: found {entry!r}; expected [duration, number]. Correct it.")
    return duration_in(entry[0], f"{where}: the duration"), entry[1]


def read_file(
    path: Path, places: dict[str, str], found: Annotations, durations: Mapping[str, float], language: str = ""
) -> list[Video]:
    """Reads one file, a line {"vid_name", "duration", "ts": [start, end], "desc", "type", "desc_id"} a query.

    In place of "desc", mTVR's lines have "descs": {"en", "zh", "google_zh"}.

    Args:
      path: the file.
      places: ids of the queries so far; gets those of this file.
      found: gets the dropped rows, the clipped ones, and those of another duration.
      durations: video -> seconds (`durations_of`).
      language: of mTVR's, see `language_of`.

    Returns:
      The videos that have a query; the type of the query is its tag.
    """
    videos: dict[str, Video] = {}
    for line, row in jsonl_of(path, found.row):
        with found.row():
            where = f"{path}, line {line}"
            name = name_of(row, "vid_name", where)
            if name not in durations:
                raise unknown(
                    f"{where}: {INDEX_FILE} has no video", name, durations, "Correct the row or the index."
                )
            told = duration_in(field(row, "duration", where), f'{where}: "duration"')
            found.count(_DIFFER, round(told, 2) != round(durations[name], 2))  # the files have two decimals
            qid = query_id(field(row, "desc_id", where), places, where)
            text = text_of(row, language, where)
            tags = (_type(field(row, "type", where), where),)
            annotated = moment(field(row, "ts", where), where)
            for span in found.within([annotated], durations[name], [f"{path.name}:{line}"]):
                video = videos.setdefault(name, Video(name, durations[name], path.name))
                video.queries.append(Sentence(qid, text, span, tags=tags))
    return list(videos.values())


def text_of(row: Mapping[str, Any], language: str, where: str) -> str:
    """The sentence of a line, in one of its languages where it has several."""
    if not language:
        return sentence(field(row, "desc", where), where)
    texts = field(row, "descs", where)
    if not isinstance(texts, dict):
        raise UserError(f'{where}: "descs" is {texts!r}; expected {{"en": text, "zh": text}}. Correct it.')
    return sentence(field(texts, language, where), where)


def _type(value: Any, where: str) -> str:
    if value not in TYPES:
        expected = f"{', '.join(TYPES[:-1])} or {TYPES[-1]}"
        raise UserError(f'{where}: "type" is {value!r}; expected {expected}. Correct it.')
    return value
