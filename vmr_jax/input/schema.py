"""The record that every dataset builder yields: one video with all its queries.

Builders differ in where they read from; what they yield is the same, so that the input pipeline knows
no dataset. Times are seconds, texts are UTF-8, positions in a text are character offsets (end
exclusive), so that a semantic role tree does not depend on a tokeniser.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from vmr_jax.errors import UserError

MAX_VERBS = 12  # of a sentence that are kept; `config.text.max_verbs` of them are read
MAX_NOUNS = 16  # likewise
MAX_SPANS = 12  # spans of the static query
MAX_WINDOWS = 32  # annotated moments of one query; QVHighlights has up to 25
ANNOTATORS = 3  # of saliency, in QVHighlights
SALIENCY_SECONDS = 2.0  # of a clip with saliency scores
CHUNK_SECONDS = 5.0  # of a chunk of DiDeMo and TEMPO, whose moments are runs of chunks
CHUNKS = 6  # of the longest of their videos
EXTRA = "extra"  # tag of training queries that a user added to those of the dataset


@dataclasses.dataclass(frozen=True)
class Query:
    """One sentence and the moment it describes.

    Attributes:
      qid: unique within the dataset.
      text: the sentence as annotated.
      span: (start, end) in seconds, 0 <= start < end <= duration: the moment to learn.
      windows: all annotated moments in seconds, for the metrics: the windows of QVHighlights, the
        annotators of DiDeMo; empty means `span` alone.
      tags: labels by which results are broken down, such as the query type of TVR; without blanks.
      context: the moment to which the sentence relates its own, in seconds; zeros where there is none, None
        where the dataset does not tell.
      saliency: [clips, ANNOTATORS] int scores 0 to 4 of each clip, -1 where none was given, or None.
      verbs: character spans of the predicates, at most MAX_VERBS.
      nouns: character spans of the arguments, at most MAX_NOUNS.
      edges: (verb, noun) index pairs: noun is an argument of verb.
      static: character spans of the noun chunks (the static query); the other words are dynamic.
      sentence: one vector for the whole sentence, or None.
      translation: the sentence in a second language; '' where there is none.
      parse: the constituency tree in brackets (`vmr_jax.text.constituency`), '' where the dataset has none.
      labelled: False where nobody has told the moment; `span` is the whole video then and there are no windows.
    """

    qid: str
    text: str
    span: tuple[float, float]
    windows: Sequence[tuple[float, float]] = ()
    tags: Sequence[str] = ()
    context: tuple[float, float] | None = None
    saliency: np.ndarray | None = None
    verbs: Sequence[tuple[int, int]] = ()
    nouns: Sequence[tuple[int, int]] = ()
    edges: Sequence[tuple[int, int]] = ()
    static: Sequence[tuple[int, int]] = ()
    sentence: np.ndarray | None = None
    translation: str = ""
    parse: str = ""
    labelled: bool = True


def check_query(query: Query, duration: float, where: str) -> None:
    """Raises UserError, naming `where` (file and row), for an empty sentence or an impossible moment."""
    if not query.text.strip():
        raise UserError(f"{where}: the sentence is empty. Write one or delete the row.")
    if len(query.windows) > MAX_WINDOWS:
        raise UserError(f"{where}: {len(query.windows)} moments; at most {MAX_WINDOWS} are kept for one query.")
    for start, end in (query.span, *query.windows):
        _check_moment(start, end, duration, where)


def _check_moment(start: float, end: float, duration: float, where: str) -> None:
    if not (math.isfinite(start) and math.isfinite(end)):
        raise UserError(f"{where}: the moment {start} to {end} s is not a pair of finite numbers.")
    if start >= end:
        raise UserError(
            f"{where}: the moment starts at {start:g} s and ends at {end:g} s; the start must come "
            "before the end. Correct or delete the row."
        )
    if start < 0 or end > duration:
        raise UserError(
            f"{where}: the moment {start:g} to {end:g} s lies outside its video, which lasts "
            f"{duration:g} s. Times are seconds from the start of the video; correct the row, or the "
            "duration."
        )


def feature_spec(
    embedded: Mapping[str, tuple[int | None, ...]],
    sentence_dim: int = 0,
    saliency_clips: int = 0,
    translated: bool = False,
    parsed: bool = False,
    related: bool = False,
):
    """The TFDS features of a record.

    Args:
      embedded: shapes of the arrays stored in the record itself, such as {'rgb': (None, 64)}; empty
        where features are read from the user's files.
      sentence_dim: width of the sentence vector, 0 where the dataset has none.
      saliency_clips: most clips with saliency scores, 0 where the dataset has none.
      translated: whether queries are in two languages.
      parsed: whether the dataset has a constituency tree of each sentence.
      related: whether it has the moments to which sentences relate theirs.
    """
    import tensorflow_datasets as tfds

    query = {
        "qid": tfds.features.Text(),
        "text": tfds.features.Text(),
        "span": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "windows": tfds.features.Tensor(shape=(MAX_WINDOWS, 2), dtype=np.float32),
        "tags": tfds.features.Text(),
        "verbs": tfds.features.Tensor(shape=(MAX_VERBS, 2), dtype=np.int32),
        "nouns": tfds.features.Tensor(shape=(MAX_NOUNS, 2), dtype=np.int32),
        "edges": tfds.features.Tensor(shape=(MAX_VERBS, MAX_NOUNS), dtype=np.uint8),
        "static": tfds.features.Tensor(shape=(MAX_SPANS, 2), dtype=np.int32),
    }
    if sentence_dim:
        query["sentence"] = tfds.features.Tensor(shape=(sentence_dim,), dtype=np.float32)
    if translated:
        query["translation"] = tfds.features.Text()
    if saliency_clips:
        query["saliency"] = tfds.features.Tensor(shape=(saliency_clips, ANNOTATORS), dtype=np.int32)
    if parsed:
        query["parse"] = tfds.features.Text()
    if related:
        query["context"] = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    return tfds.features.FeaturesDict(
        {
            "video": tfds.features.Text(),
            "duration": np.float32,
            "queries": tfds.features.Sequence(query),
            **{name: tfds.features.Tensor(shape=shape, dtype=np.float32) for name, shape in embedded.items()},
        }
    )


def record(
    video: str,
    duration: float,
    queries: Sequence[Query],
    where: str,
    embedded: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Builds the record of one video, after checking every query. `where` names its source."""
    for query in queries:
        check_query(query, duration, f"{where}, query {query.qid}")
    return {
        "video": video,
        "duration": np.float32(duration),
        "queries": [_query_record(query) for query in queries],
        **(embedded or {}),
    }


def _query_record(query: Query) -> dict:
    edges = np.zeros((MAX_VERBS, MAX_NOUNS), np.uint8)
    for verb, noun in query.edges:
        if verb < MAX_VERBS and noun < MAX_NOUNS:
            edges[verb, noun] = 1
    row = {
        "qid": query.qid,
        "text": query.text,
        "span": np.asarray(query.span, np.float32),
        "windows": _padded((query.windows or (query.span,)) if query.labelled else (), MAX_WINDOWS, np.float32),
        "tags": " ".join(query.tags),
        "verbs": _padded(query.verbs, MAX_VERBS),
        "nouns": _padded(query.nouns, MAX_NOUNS),
        "edges": edges,
        "static": _padded(query.static, MAX_SPANS),
    }
    if query.sentence is not None:
        row["sentence"] = np.asarray(query.sentence, np.float32)
    if query.translation:
        row["translation"] = query.translation
    if query.saliency is not None:
        row["saliency"] = np.asarray(query.saliency, np.int32)
    if query.parse:
        row["parse"] = query.parse
    if query.context is not None:
        row["context"] = np.asarray(query.context, np.float32)
    return row


def _padded(spans: Sequence[tuple[float, float]], size: int, dtype=np.int32) -> np.ndarray:
    """[size,2], -1 where there is no span."""
    rows = np.full((size, 2), -1, dtype)
    for i, span in enumerate(list(spans)[:size]):
        rows[i] = span
    return rows
