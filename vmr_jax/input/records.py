"""From annotations to records: the TFDS builder that datasets with a folder of the user's files share."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.files import require_file
from vmr_jax.input import annotations, detections, schema, units
from vmr_jax.input.features import Concatenated, FeatureReader, open_features
from vmr_jax.input.preparing import prepare_once, whole_description
from vmr_jax.text.parse import parse, parser_name

log = logging.getLogger("vmr_jax")

VERSION = "1.3.0"  # of the records; a change of content needs a new one

# The optional fields of `Batch` that parsed sentences fill, with their shape in one query.
TEXT_MODALITIES = {"tree": (), "static_words": (), "dynamic_words": ()}


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset that is read from the user's folder.

    Attributes:
      name: folder of `data/`.
      title: what it is, and where it was published.
      files: (options, only='') -> the annotation files that `read` reads; UserError lists the missing ones.
      read: (options, only='') -> `Annotations`; of a split `only`, its file is enough.
      splits: options -> the names of the splits that there can be.
      fields: names of the options on which the records depend, apart from the files' content.
      saliency_clips: most clips with saliency scores, 0 where there are none.
      related: whether there are moments to which sentences relate theirs.
    """

    name: str
    title: str
    files: Callable[..., Sequence[Path]]
    read: Callable[..., annotations.Annotations]
    splits: Callable[..., Sequence[str]]
    fields: tuple[str, ...] = ()
    saliency_clips: int = 0
    related: bool = False


def manual_dir(options) -> Path:
    """`options.manual_dir`, the user's folder."""
    return user_path(options.manual_dir)


def beam_of(options) -> str:
    """`options.beam`, the options of Apache Beam; a run from before there was the field prepares without it."""
    return getattr(options, "beam", "")


def open_manual_features(options, stream: str = "") -> FeatureReader:
    """Opens the features that the user has.

    Args:
      options: has `manual_dir`, to which paths are relative; `features`, a path, or several as a tuple or with
        commas between them, which are concatenated; `feature_key`, the name of the arrays in all of them;
        `streams`, further streams by name: the path, then the shape of a row.
      stream: the one to open, '' for `features`. `objects` and `persons` may be a folder of detections.
    """
    named, key = (options.streams[stream][0], "") if stream else (options.features, options.feature_key)
    paths = named.split(",") if isinstance(named, str) else named
    folder = manual_dir(options)
    if stream in detections.STREAMS and detections.are_detections(folder / paths[0]):
        return detections.Detections(folder / paths[0], stream, options.streams[stream][1])
    field = f"the path in config.dataset.streams.{stream}" if stream else "config.dataset.features"
    readers = [_opened(folder / user_path(path.strip()), key, field) for path in paths]
    return readers[0] if len(readers) == 1 else Concatenated(readers)


def _opened(path: Path, key: str, field: str) -> FeatureReader:
    units_there = path.is_dir() and units.are_units(path)
    return units.Units(path, key) if units_there else open_features(path, key, field)


def prepare(source: Source, options):
    """Writes the records under `options.data_dir` unless they are there; returns their TFDS builder.

    The records' folder is named by the content of the annotation files, the options and the parser, so
    records of other files or options are never met. What was put right is said in the log.

    Raises:
      UserError: for missing or wrong annotation files, naming file and row.
    """
    data_dir = user_path(options.data_dir)
    name = _fingerprint(source, options)
    for path in (data_dir / source.name / name / VERSION).glob("*"):
        require_file(path)  # TensorFlow would read a pipe or a device for ever
    builder = prepare_once(
        lambda: _builder_class()(source, options, name=name, data_dir=data_dir),
        data_dir,
        manual_dir(options),
        beam_of(options),
    )
    with whole_description(data_dir):
        _report(source, builder.info.metadata)  # which reads a file of its own
    return builder


def entry_points(source: Source) -> tuple[Callable, Callable, Callable]:
    """`prepare`, `features` and `word_vectors` of a dataset's module, functions of `config.dataset`.

    They are `prepare` with this source, `open_manual_features`, and one that returns None: the user brings word
    vectors (config.text.vectors).
    """
    return functools.partial(prepare, source), open_manual_features, lambda options: None


def read(source: Source, options, only: str = "") -> annotations.Annotations:
    """Reads the annotations, of the split `only` or of all; UserError also for a split without queries."""
    found = source.read(options, only) if only else source.read(options)
    for name, videos in found.splits.items():
        if not videos:
            do = "Bring annotations for it, or leave it out."
            if found.dropped:
                do = (
                    "Moments of which nothing lies within their video were dropped"
                    f"{_named(found.dropped)}: write moments and durations in seconds, the start first."
                )
            raise UserError(f'The split "{name}" of {source.name} has no queries. {do}')
    return found


def _fingerprint(source: Source, options) -> str:
    """Of all that decides what the records hold."""
    digest = hashlib.sha256(parser_name().encode())
    for path in source.files(options):
        digest.update(f"{path.name}\0".encode())  # of a user's own data it is the split
        require_file(path)
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}). Get the file again.") from None
    digest.update(repr([(field, getattr(options, field)) for field in source.fields]).encode())
    if source.related:
        digest.update(b"related")  # which records of version 1.3.0 were not
    return digest.hexdigest()[:16]


def _report(source: Source, metadata) -> None:
    """Says in the log what was put right in the annotations, and who parsed them."""
    dropped = metadata["dropped"]
    parts = [
        f"{len(dropped)} rows dropped, of no length within the video{_named(dropped)}",
        f"{metadata['clipped']} clipped",
        *_some(metadata["unlabelled"], "rows without a moment left out"),
        *_some(metadata["repeated"], "rows that say what another says"),
        *(f"{count} {what}" for what, count in metadata["counts"].items()),
        f"parser: {metadata['parser']}",
    ]
    log.info("%s: %s", source.name, "; ".join(parts))


def _some(places: Sequence[str], what: str) -> list[str]:
    """Their number and the first of them; nothing where there is none."""
    return [f"{len(places)} {what}{_named(places)}"] if places else []


def _named(places: Sequence[str]) -> str:
    return f" ({', '.join(places[:10])}{', ...' if len(places) > 10 else ''})" if places else ""


def query_of(found: annotations.Sentence) -> schema.Query:
    """A sentence with its roles and noun chunks."""
    parsed = _parsed(found.text)
    roles = parsed if found.roles is None else found.roles
    return schema.Query(
        **found.fields(),
        verbs=roles.verbs,
        nouns=roles.nouns,
        edges=roles.edges,
        static=parsed.chunks,
    )


def _example(numbered: tuple[int, annotations.Video]) -> tuple[int, dict]:
    """The key and the record of a video."""
    number, video = numbered
    return number, video_record(video)


def video_record(video: annotations.Video, embedded: Mapping[str, np.ndarray] | None = None) -> dict:
    """The record of an annotated video, with the arrays that it is to hold, as in `schema.record`."""
    queries = [query_of(found) for found in video.queries]
    return schema.record(video.id, video.duration, queries, _where(video), embedded)


def _where(video: annotations.Video) -> str:
    return f"{video.source}, video {video.id}"


_parsed = functools.lru_cache(maxsize=2**17)(parse)  # many sentences of these datasets occur more than once


@functools.cache
def _builder_class():
    """The class is made on demand, so that importing this module does not import TensorFlow."""
    import tensorflow_datasets as tfds

    class AnnotatedVideos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """One record per video, features apart. `info.metadata` holds the counts of `Annotations`."""

        VERSION = tfds.core.Version(VERSION)
        MANUAL_DOWNLOAD_INSTRUCTIONS = "See the README of the dataset."
        url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

        def __init__(self, source: Source, options, name: str, data_dir: Path):
            self._source, self._options = source, options
            self.name = source.name
            super().__init__(
                config=tfds.core.BuilderConfig(name=name, description=source.title), data_dir=data_dir
            )

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=self._source.title,
                features=schema.feature_spec(
                    {}, saliency_clips=self._source.saliency_clips, related=self._source.related
                ),
                metadata=tfds.core.MetadataDict(),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            found = read(self._source, self._options)
            self.info.metadata.update(
                dropped=found.dropped,
                clipped=found.clipped,
                counts=found.counts,
                unlabelled=found.unlabelled,
                repeated=found.repeated,
                parser=parser_name(),
            )
            return {name: self._generate_examples(videos) for name, videos in found.splits.items()}

        def _generate_examples(self, videos):
            if not beam_of(self._options):
                return map(_example, enumerate(videos))
            from vmr_jax.input.pipeline import mapped

            for video in videos:  # what is wrong is said here, not by a worker
                for query in video.queries:
                    schema.check_query(query, video.duration, f"{_where(video)}, query {query.qid}")
            return mapped(_example, videos)

    return AnnotatedVideos
