"""The form of TVR's server: the numbers of the videos, and its public test, whose videos are not told."""

from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.data.tvr.annotations import INDEX_FILE, WHERE_FROM, file_of, index_of, language_of, text_of
from vmr_jax.errors import unknown
from vmr_jax.input.annotations import Sentence, field, query_id, require_files
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.records import manual_dir, query_of
from vmr_jax.input.text_files import jsonl_of

PUBLIC_TEST = "test_public"
_FILE = "tvr_test_public_release.jsonl"


def video_numbers(options, split: str) -> dict[str, int]:
    """Video -> number, of the videos of a split of the index; UserError where it has no such split."""
    (path,) = require_files(manual_dir(options), [INDEX_FILE], "tvr", WHERE_FROM)
    return {video: int(number) for video, (_, number) in _videos_of(path, split).items()}


def _videos_of(path: Path, split: str) -> dict[str, tuple[float, Any]]:
    index = index_of(path)
    if split not in index:
        raise unknown(f"{path} has no split", split, index)
    return index[split]


def public_test(options) -> Split:
    """The queries of the public test with all of its videos: the moment and the video are to be found.

    A query is given the first video, as nobody has told its own.
    """
    language = language_of(options)
    names = [file_of(_FILE, language), INDEX_FILE]
    queries_path, index = require_files(manual_dir(options), names, "tvr", WHERE_FROM)
    places: dict[str, str] = {}
    videos = [Video(name, seconds, {}) for name, (seconds, _) in _videos_of(index, PUBLIC_TEST).items()]
    queries = []
    for line, row in jsonl_of(queries_path):
        where = f"{queries_path}, line {line}"
        qid = query_id(field(row, "desc_id", where), places, where)
        text = text_of(row, language, where)
        queries.append(query_of(Sentence(qid, text, (0.0, videos[0].duration))))
    return Split(PUBLIC_TEST, videos, queries, np.zeros(len(queries), np.int32))
