"""Input: the records of a dataset become batches of fixed shape.

The batch at a step is a pure function of (seed, step): the order of an epoch is a permutation drawn from
(seed, epoch), the position in it is the step. Nothing needs to be saved to resume. `tf.data` runs the
assembly in the background, fed with step numbers.

TensorFlow is imported inside functions, so that importing this module does not need it.
"""

import contextlib
import dataclasses
import importlib
import logging
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vmr_jax.errors import UserError, first_few, unknown, user_path
from vmr_jax.input import schema
from vmr_jax.input.cache import FeatureStore, build_feature_store
from vmr_jax.input.features import RESAMPLE, FeatureReader, missing, normalize_rows, read_rows, shorten
from vmr_jax.input.preparing import whole_records
from vmr_jax.types import Batch, fields_of

log = logging.getLogger("vmr_jax")


@dataclasses.dataclass
class Video:
    """One video of a split: its id, length in seconds and the feature arrays of its record."""

    id: str
    duration: float
    embedded: dict[str, np.ndarray]


@dataclasses.dataclass
class Split:
    """The videos and queries of one split; `queries[i]` belongs to `videos[owner[i]]`."""

    name: str
    videos: list[Video]
    queries: list[schema.Query]
    owner: np.ndarray  # [Q] int32

    @property
    def labelled(self) -> bool:
        """Whether its moments are known; a split where none is can be predicted, not evaluated."""
        return all(query.labelled for query in self.queries)

    def require_moments(self) -> None:
        """Raises UserError where no moments are known."""
        if not self.labelled:
            raise UserError(
                f"The split {self.name} has no moments in its annotation file, so it can be predicted and not "
                "evaluated. Leave it out of config.evaluation.splits and select_split, or bring its moments."
            )

    @property
    def spans(self) -> np.ndarray:
        """[Q,2] float32 seconds."""
        return np.asarray([q.span for q in self.queries], np.float32).reshape(-1, 2)

    @property
    def durations(self) -> np.ndarray:
        """[Q] float32 seconds, of each query's video."""
        return np.asarray([self.videos[v].duration for v in self.owner], np.float32)


class _Latest:
    """Rows of the videos read last, as the queries of a video follow each other in evaluation."""

    def __init__(self, read: Callable[[str, str], np.ndarray], most_bytes: int = 2**28):
        """`read(video id, stream)`; of what it returned last, `most_bytes` are held, or one video."""
        self._read, self._most_bytes = read, most_bytes
        self._held: dict[tuple[str, str], np.ndarray] = {}  # the last one asked for at the end

    def __call__(self, video_id: str, stream: str) -> np.ndarray:
        rows = self._held.pop((video_id, stream), None)
        if rows is None:
            rows = self._read(video_id, stream)
        held = rows.nbytes + sum(other.nbytes for other in list(self._held.values()))
        for key, other in list(self._held.items()):
            if held <= self._most_bytes:
                break
            self._held.pop(key, None)  # another thread may have
            held -= other.nbytes
        self._held[video_id, stream] = rows
        return rows


class Dataset:
    """A prepared dataset: its splits, features and word vectors.

    Args:
      options: `config.dataset`; `options.name` is a folder of `data/`.
      clips: `config.input`, how features become clips; None with `annotations_only`.
      annotations_only: leaves the features alone, which scoring does not need.
    """

    def __init__(self, options, clips=None, annotations_only: bool = False):
        self.options, self._settings = options, clips
        self._module = dataset_module(options.name)
        self._builder = self._module.prepare(options)
        # By stream; none where the records hold the features, nor of streams with several vectors in a row.
        self._stores: dict[str, FeatureStore] = {}
        self._readers: dict[str, FeatureReader] = {}  # of native rows
        self._native = _Latest(self._read_native)
        self._read: dict[str, Split] = {}
        self._splits: dict[str, Split] = {}
        if not annotations_only:
            check_resample(clips.resample)
            if self._module.features(options) is not None:
                self._open_features()

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that hold queries."""
        return tuple(self._builder.info.splits)

    @property
    def labelled_splits(self) -> tuple[str, ...]:
        """Names of the splits whose moments are known."""
        return tuple(name for name in self.split_names if self._records(name).labelled)

    def _open_features(self) -> None:
        """Opens the features, and the further streams of `config.dataset.streams`."""
        every = (v.id for name in self.split_names for v in self._records(name).videos)
        videos = list(dict.fromkeys(every))
        readers = {name: self._open_reader(name) for name in ("video", *self.options.streams)}
        for reader in readers.values():
            self._check_missing(reader, videos)
        present = [v for v in videos if all(v in reader for reader in readers.values())]
        for name, reader in readers.items():
            if len(self._row_shape(name)) > 1:
                # A cache of patches would be as large as their files, or twice (float32 of float16).
                self._native(present[0], name)  # what is wrong with the stream shows here
                continue
            with progress("features" if name == "video" else name) as on_progress:
                self._stores[name] = build_feature_store(
                    reader,
                    present,
                    self._row_size(name),
                    user_path(self.options.data_dir) / "features",
                    self._settings.num_clips,
                    self._normalized(name),
                    on_progress,
                    getattr(self.options, "beam", ""),
                    self._settings.resample,
                )

    def _open_reader(self, stream: str) -> FeatureReader:
        """Opened again when native rows are asked for: an open HDF5 file bars others from opening it."""
        return self._module.features(self.options, "" if stream == "video" else stream)

    def _row_shape(self, stream: str) -> tuple[int, ...]:
        """(D,), or (O,D) of a stream with O vectors in a row."""
        return (self.options.feature_dim,) if stream == "video" else tuple(self.options.streams[stream][1:])

    def _normalized(self, stream: str) -> bool:
        """Whether vectors of a stream are L2-normalised; flags never are."""
        return self._settings.normalize and fields_of(Batch)[stream].has_vectors

    def _row_size(self, stream: str) -> int:
        """Numbers in a row of a stream."""
        return math.prod(self._row_shape(stream))

    def _check_missing(self, reader: FeatureReader, videos: list[str]) -> None:
        absent = missing(reader, videos)
        if absent and (self.options.on_missing != "drop" or len(absent) == len(videos)):
            shown = first_few(sorted(absent), 20)
            raise UserError(
                f"{len(absent)} of {len(videos)} videos have no features in {reader.path}: {shown}."
                f"{reader.spelling(min(absent))} Check config.dataset.features, and that features have the "
                "names of the annotated videos; bring the missing ones, or set "
                "config.dataset.on_missing='drop' to go on with the others."
            )

    def _records(self, name: str) -> Split:
        """All records of a split, read once."""
        if name not in self._read:
            self._read[name] = self._read_records(name)
        return self._read[name]

    def _read_records(self, name: str) -> Split:
        with whole_records(self._builder):
            split = self._parsed_records(name)
            expected = self._builder.info.splits[name].num_examples
            if len(split.videos) != expected:
                raise ValueError(f"{len(split.videos)} of {expected} videos of the split {name}")
        return split

    def _parsed_records(self, name: str) -> Split:
        import tensorflow_datasets as tfds

        videos: list[Video] = []
        queries, owner = [], []
        for row in tfds.as_numpy(self._builder.as_dataset(split=name, shuffle_files=False)):
            embedded = {k: v for k, v in row.items() if k not in ("video", "duration", "queries")}
            fields = row["queries"]
            for i in range(len(fields["qid"])):
                queries.append(_query({k: v[i] for k, v in fields.items()}))
                owner.append(len(videos))
            videos.append(Video(row["video"].decode(), float(row["duration"]), embedded))
        return Split(name, videos, queries, np.asarray(owner, np.int32))

    def split(self, name: str) -> Split:
        """Returns a split, without the videos whose features are missing (counted in the log)."""
        if name not in self._splits:
            self._splits[name] = self._split(name)
        return self._splits[name]

    def _split(self, name: str) -> Split:
        if name not in self.split_names:
            raise unknown(f"The dataset {self.options.name} has no split", name, self.split_names)
        split = self._records(name)
        if not self._stores:
            return split
        keep = [v for v in range(len(split.videos)) if split.videos[v].id in self._stores["video"]]
        if len(keep) < len(split.videos):
            kept = set(keep)
            rows = [i for i, v in enumerate(split.owner) if v in kept]
            log.warning(
                "%s: %d of %d videos (%d of %d queries) dropped, they have no features",
                name,
                len(split.videos) - len(keep),
                len(split.videos),
                len(split.queries) - len(rows),
                len(split.queries),
            )
            new_index = {old: new for new, old in enumerate(keep)}
            split = Split(
                name,
                [split.videos[v] for v in keep],
                [split.queries[i] for i in rows],
                np.asarray([new_index[split.owner[i]] for i in rows], np.int32),
            )
        if not split.queries:
            raise UserError(f"The split {name} of {self.options.name} is empty; there is nothing to read.")
        return split

    def sentences(self) -> Iterator[str]:
        """Yields the sentences of every split."""
        for name in self.split_names:
            yield from (query.text for query in self._records(name).queries)

    def find(self, video: str) -> tuple[Video, str]:
        """A video by its id, and the split that holds it; UserError with the nearest id where none does."""
        known = []
        for name in self.split_names:
            for candidate in self.split(name).videos:
                if candidate.id == video:
                    return candidate, name
                known.append(candidate.id)
        raise unknown(f"The dataset {self.options.name} has no video", video, known)

    def clips(self, video: Video, stream: str = "video") -> np.ndarray:
        """Returns the rows [n,...] float32 of a stream for `fit_rows`, as `shorten` has left them."""
        if not self._stores:
            return self.features(video, stream)
        if stream not in self._stores:
            return shorten(self.features(video, stream), self._settings.num_clips)
        return self._shaped(self._stores[stream][video.id], stream)

    def features(self, video: Video, stream: str = "video") -> np.ndarray:
        """Returns all native rows [n,...] float32 of a stream ('video', or an optional field of `Batch`).

        They are read from the user's files, which takes far longer than `clips`. Rows of files are normalised
        where `config.input.normalize`, each vector of a row for itself; those in the records the video's alone.
        """
        if self._stores:
            return self._shaped(self._native(video.id, stream), stream)
        if stream != "video":
            return np.asarray(video.embedded[stream], np.float32)
        rows = video.embedded[self.options.features]
        return normalize_rows(rows) if self._settings.normalize else np.asarray(rows, np.float32)

    def _shaped(self, rows: np.ndarray, stream: str) -> np.ndarray:
        """Rows of a file are flat: objects [n,O*D] become [n,O,D]."""
        return rows.reshape(len(rows), *self._row_shape(stream))

    def _read_native(self, video_id: str, stream: str) -> np.ndarray:
        if stream not in self._readers:
            self._readers[stream] = self._open_reader(stream)
        vectors = self._row_size(stream) // self._row_shape(stream)[-1]
        return read_rows(
            self._readers[stream], video_id, self._row_size(stream), self._normalized(stream), vectors
        )


def dataset_names() -> list[str]:
    """The folders of `data/`: datasets are found, not listed."""
    folder = importlib.import_module("vmr_jax.data").__path__
    return sorted(m.name for m in pkgutil.iter_modules(folder) if m.ispkg)


def dataset_module(name: str):
    """Imports `data/<name>`; raises UserError with the nearest name where there is none."""
    known = dataset_names()
    if name not in known:
        raise unknown("There is no dataset", name, known)
    return importlib.import_module(f"vmr_jax.data.{name}")


def _query(row: dict[str, Any]) -> schema.Query:
    def spans(rows):
        return [(start, end) for start, end in rows[rows[:, 0] >= 0].tolist()]

    windows = spans(row["windows"])
    return schema.Query(
        qid=row["qid"].decode(),
        text=row["text"].decode(),
        span=(float(row["span"][0]), float(row["span"][1])),
        windows=windows,
        labelled=bool(windows),  # records hold at least the span of a query whose moment is known
        tags=row["tags"].decode().split(),
        saliency=row.get("saliency"),
        verbs=spans(row["verbs"]),
        nouns=spans(row["nouns"]),
        edges=[(int(v), int(n)) for v, n in np.argwhere(row["edges"])],
        static=spans(row["static"]),
        sentence=row.get("sentence"),
        translation=row.get("translation", b"").decode(),
        parse=row.get("parse", b"").decode(),
        context=(float(row["context"][0]), float(row["context"][1])) if "context" in row else None,
    )


# --- clips ----------------------------------------------------------------------------------------


def check_resample(resample: str) -> None:
    """Raises UserError for a value of `config.input.resample` that `fit_rows` does not know."""
    if resample not in RESAMPLE:
        raise unknown("config.input.resample is", resample, RESAMPLE)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, from the first call of the function it gives; none elsewhere."""
    console = Console()
    bar = Progress(
        TextColumn(what + " {task.completed:.0f}/{task.total:.0f} videos"),
        BarColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(what)

    def update(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        bar.start()

    try:
        yield update
    finally:
        bar.stop()
