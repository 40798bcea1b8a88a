"""The splits of a dataset as they are annotated: what is enough to score predictions.

Nothing is parsed, prepared or written, and TensorFlow is not imported. Times are rounded as records hold them,
so that a split is the one that a run was evaluated on.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from vmr_jax.errors import UserError, unknown
from vmr_jax.input import records
from vmr_jax.input.annotations import Sentence
from vmr_jax.input.annotations import Video as AnnotatedVideo
from vmr_jax.input.dataset import Dataset, Split, Video, dataset_module
from vmr_jax.input.schema import Query


class Splits(Protocol):
    """The splits of a dataset by name: `AnnotatedSplits`, or a prepared `Dataset`."""

    @property
    def split_names(self) -> Sequence[str]:
        """Names of the splits that hold queries."""

    def split(self, name: str) -> Split:
        """One of them; UserError for another name."""


class AnnotatedSplits:
    """The splits of a dataset that is read from the user's annotation files, each when it is asked for.

    The files of the other splits need not be there.

    Args:
      source: of the dataset.
      options: `config.dataset`.

    Raises:
      UserError: where there are no files of any split.
    """

    def __init__(self, source: records.Source, options: Any):
        self._source, self._options = source, options
        self._found: dict[str, list[AnnotatedVideo]] = {}
        self._names = tuple(name for name in source.splits(options) if self._is_there(name))
        if not self._names:
            source.files(options)  # says which are missing

    def _is_there(self, name: str) -> bool:
        try:
            return bool(self._source.files(self._options, name))
        except UserError:
            return False

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits whose files are there."""
        return self._names

    def split(self, name: str) -> Split:
        """The videos and queries of a split.

        Raises:
          UserError: for an unknown one; for missing or wrong annotation files, naming file and row.
        """
        if name not in self._source.splits(self._options):
            raise unknown(f"The dataset {self._source.name} has no split", name, self._names)
        if name not in self._found:
            self._found |= records.read(self._source, self._options, name).splits
        if name not in self._found:  # as val, where nothing is held out
            raise unknown(f"The dataset {self._source.name} has no split", name, self._names)
        videos = self._found[name]
        return Split(
            name,
            [Video(video.id, float(np.float32(video.duration)), {}) for video in videos],
            [_query(sentence) for video in videos for sentence in video.queries],
            np.repeat(np.arange(len(videos), dtype=np.int32), [len(video.queries) for video in videos]),
        )


def annotated_splits(options: Any) -> Splits:
    """The splits of `config.dataset`; those of the embedded dataset, which has no files, are generated once."""
    source = getattr(dataset_module(options.name), "SOURCE", None)
    return Dataset(options, annotations_only=True) if source is None else AnnotatedSplits(source, options)


def _query(sentence: Sentence) -> Query:
    """A query without roles and noun chunks."""
    fields = sentence.fields()
    known = (sentence.windows or [sentence.span]) if sentence.labelled else []
    windows = np.asarray(known, np.float32).tolist()
    span = tuple(np.asarray(sentence.span, np.float32).tolist())
    return Query(**{**fields, "span": span, "windows": [tuple(window) for window in windows]})
