"""Input: the records of a dataset become batches of fixed shape.

The batch at a step is a pure function of (seed, step): the order of an epoch is a permutation drawn from
(seed, epoch), the position in it is the step. Nothing needs to be saved to resume. `tf.data` runs the
assembly in the background, fed with step numbers.

TensorFlow is imported inside functions, so that importing this module does not need it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import logging
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import data
from data import schema
from data.features import (
    RESAMPLE,
    FeatureReader,
    FeatureStore,
    build_feature_store,
    fit_rows,
    missing,
    normalize_rows,
    read_rows,
)
from vmr_jax.errors import UserError, nearest
from vmr_jax.parallel import host_rows
from vmr_jax.query_input import FIRST_WORD, OF_ANY_SENTENCE, QueryReader, field_shapes
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors, load_word_vectors
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

_VISUAL = ("flow", "audio", "objects", "subtitles")  # optional fields that follow the clips
_MASKS = {
    "objects": "object_mask",
    "subtitles": "subtitle_mask",
    "windows": "window_mask",
    "subwords": "subword_mask",
}
_OF_ANY_QUERY = (*OF_ANY_SENTENCE, "windows")  # optional fields that every dataset can fill


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
    def spans(self) -> np.ndarray:
        """[Q,2] float32 seconds."""
        return np.asarray([q.span for q in self.queries], np.float32).reshape(-1, 2)

    @property
    def durations(self) -> np.ndarray:
        """[Q] float32 seconds, of each query's video."""
        return np.asarray([self.videos[v].duration for v in self.owner], np.float32)


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
        self._stores: dict[str, FeatureStore] = {}  # by stream; none where the records hold the features
        self._readers: dict[str, FeatureReader] = {}  # of native rows
        self._native = functools.lru_cache(maxsize=8)(self._read_native)
        self._read: dict[str, Split] = {}
        self._splits: dict[str, Split] = {}
        if not annotations_only:
            check_resample(clips.resample)
            if self._module.features(options) is not None:
                self._open_features()
        self.word_vectors_of_dataset = self._module.word_vectors(options)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that hold queries."""
        return tuple(self._builder.info.splits)

    def _open_features(self) -> None:
        """Opens the features, and the further streams of `config.dataset.streams`."""
        every = (v.id for name in self.split_names for v in self._records(name).videos)
        videos = list(dict.fromkeys(every))
        readers = {name: self._open_reader(name) for name in ("video", *self.options.streams)}
        for reader in readers.values():
            self._check_missing(reader, videos)
        present = [v for v in videos if all(v in reader for reader in readers.values())]
        for name, reader in readers.items():
            with progress("features" if name == "video" else name) as on_progress:
                self._stores[name] = build_feature_store(
                    reader,
                    present,
                    self._row_size(name),
                    Path(self.options.data_dir).expanduser() / "features",
                    self._settings.num_clips,
                    self._settings.normalize,
                    on_progress,
                    getattr(self.options, "beam", ""),
                )

    def _open_reader(self, stream: str) -> FeatureReader:
        """Opened again when native rows are asked for: an open HDF5 file bars others from opening it."""
        return self._module.features(self.options, "" if stream == "video" else stream)

    def _row_size(self, stream: str) -> int:
        """Numbers in a row of a stream."""
        return self.options.feature_dim if stream == "video" else math.prod(self.options.streams[stream][1:])

    def _check_missing(self, reader: FeatureReader, videos: list[str]) -> None:
        absent = missing(reader, videos)
        if absent and (self.options.on_missing != "drop" or len(absent) == len(videos)):
            shown = ", ".join(sorted(absent)[:20]) + (", ..." if len(absent) > 20 else "")
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
        import tensorflow_datasets as tfds

        videos, queries, owner = [], [], []
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
            raise UserError(
                f'The dataset {self.options.name} has no split "{name}".{nearest(name, self.split_names)} '
                f"It has: {', '.join(self.split_names)}."
            )
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

    def clips(self, video: Video, stream: str = "video") -> np.ndarray:
        """Returns the rows [n,...] float32 of a stream for `fit_rows`: averaged where the video has many."""
        if not self._stores:
            return self.features(video, stream)
        return self._shaped(self._stores[stream][video.id], stream)

    def features(self, video: Video, stream: str = "video") -> np.ndarray:
        """Returns all native rows [n,...] float32 of a stream ('video', or an optional field of `Batch`).

        They are read from the user's files, which takes far longer than `clips`. Rows of files are normalised
        where `config.input.normalize`, those in the records the video's alone.
        """
        if self._stores:
            return self._shaped(self._native(video.id, stream), stream)
        if stream != "video":
            return np.asarray(video.embedded[stream], np.float32)
        rows = video.embedded[self.options.features]
        return normalize_rows(rows) if self._settings.normalize else np.asarray(rows, np.float32)

    def _shaped(self, rows: np.ndarray, stream: str) -> np.ndarray:
        """Rows of a file are flat: objects [n,O*D] become [n,O,D]."""
        return rows if stream == "video" else rows.reshape(len(rows), *self.options.streams[stream][1:])

    def _read_native(self, video_id: str, stream: str) -> np.ndarray:
        """Of the few videos read last, as the queries of a video follow each other in evaluation."""
        if stream not in self._readers:
            self._readers[stream] = self._open_reader(stream)
        return read_rows(self._readers[stream], video_id, self._row_size(stream), self._settings.normalize)


def dataset_module(name: str):
    """Imports `data/<name>`; raises UserError with the nearest name where there is none."""
    known = sorted(m.name for m in pkgutil.iter_modules(data.__path__) if m.ispkg)
    if name not in known:
        raise UserError(f'There is no dataset "{name}".{nearest(name, known)} Known: {", ".join(known)}.')
    return importlib.import_module(f"data.{name}")


def _query(row: dict[str, Any]) -> schema.Query:
    def spans(rows, number=int):
        return [(number(a), number(b)) for a, b in rows if a >= 0]

    return schema.Query(
        qid=row["qid"].decode(),
        text=row["text"].decode(),
        span=(float(row["span"][0]), float(row["span"][1])),
        windows=spans(row["windows"], float),
        tags=row["tags"].decode().split(),
        saliency=row.get("saliency"),
        verbs=spans(row["verbs"]),
        nouns=spans(row["nouns"]),
        edges=[(int(v), int(n)) for v, n in np.argwhere(row["edges"])],
        static=spans(row["static"]),
        sentence=row.get("sentence"),
    )


# --- words ----------------------------------------------------------------------------------------


def build_vocabulary(split: Split, tokenizer: str) -> list[str]:
    """Returns the sorted words of a split's queries; word i has id i + 2 (0 padding, 1 unknown)."""
    return sorted({token.text for q in split.queries for token in tokenize(q.text, tokenizer)})


def open_word_vectors(config, dataset: Dataset, sentences: Sequence[str] | None = ()) -> WordVectors | None:
    """Opens `config.text.vectors`, or the dataset's own vectors where that is empty.

    Of a file only the words of the dataset and of `sentences` (a user's queries) are kept in memory; where
    `sentences` is None, as any may come, all of its words are (GloVe 6B with 300 dimensions: 0.5 GB). Returns
    None where `config.text.features` takes the place of word vectors. 'none' has no word, for architectures
    that learn their vectors from random ones.
    """
    if config.text.features:
        return None
    if config.text.vectors == "none":
        return WordVectors([], np.zeros((0, config.text.dim), np.float32))
    if config.text.vectors:
        wanted = None
        if sentences is not None:
            every = itertools.chain(dataset.sentences(), sentences)
            wanted = {token.text for text in every for token in tokenize(text, config.text.tokenizer)}
        vectors = load_word_vectors(Path(config.text.vectors).expanduser(), wanted)
    elif dataset.word_vectors_of_dataset is not None:
        vectors = WordVectors(*dataset.word_vectors_of_dataset)
    else:
        raise UserError(
            f"config.text.vectors is empty and {dataset.options.name} brings no word vectors of its own. "
            "Set it to a GloVe file: glove.6B.300d.txt, or an .npz with `words` and `vectors`."
        )
    if vectors.dim != config.text.dim:
        raise UserError(
            f"The word vectors in {config.text.vectors or dataset.options.name} have {vectors.dim} "
            f"dimensions; config.text.dim says {config.text.dim}. Set it to {vectors.dim} or bring other "
            "vectors."
        )
    return vectors


# --- clips ----------------------------------------------------------------------------------------


def check_resample(resample: str) -> None:
    """Raises UserError for a value of `config.input.resample` that `fit_rows` does not know."""
    if resample not in RESAMPLE:
        raise UserError(
            f'config.input.resample is "{resample}".{nearest(resample, RESAMPLE)} Known: {", ".join(RESAMPLE)}.'
        )


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


# --- sanity checks --------------------------------------------------------------------------------


def show_rows(rows: np.ndarray, shown: str, seed: int, video_id: str) -> np.ndarray:
    """Feature rows [n,...] as a sanity check shows them (Otani et al., BMVC 2020).

    'real' leaves them, 'blind' makes them zeros, 'shuffled' puts them into a random temporal order. That
    order is a function of (seed, video_id, n): the streams of a video that have n rows keep together.
    """
    if shown == "blind":
        return np.zeros_like(rows)
    if shown == "shuffled":
        digest = hashlib.sha256(f"{seed} {video_id}".encode()).digest()
        return rows[np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(rows))]
    return rows


# --- batches --------------------------------------------------------------------------------------


class Loader:
    """Makes the batches of one split.

    Args:
      config: the resolved config; reads `config.input` and `config.text`.
      dataset: where features come from.
      split: the queries to serve.
      vocabulary: training words, for `Batch.query`.
      vectors: word vectors, for `Batch.query_vectors`; None where `config.text.features` gives them.
      fields: optional `Batch` fields to fill (what the architecture requires).
      shown: what is shown of the videos, as in `show_rows`; their length and mask stay.
    """

    def __init__(
        self,
        config,
        dataset: Dataset,
        split: Split,
        vocabulary: Sequence[str],
        vectors: WordVectors | None,
        fields: Sequence[str] = (),
        shown: str = "real",
    ):
        self.config, self.dataset, self.split, self.vectors = config, dataset, split, vectors
        self.fields, self.shown = tuple(fields), shown
        self._vocabulary = vocabulary
        ids = {word: i + FIRST_WORD for i, word in enumerate(vocabulary)}
        self._grouped = (None, None)  # (seed, epoch) and its rows by video
        self._read_query = QueryReader(config, ids, vectors, fields)
        self._tokens = [self._read_query.tokens(q) for q in split.queries]
        self._check_words()

    def __len__(self) -> int:
        return len(self.split.queries)

    def showing(self, shown: str) -> "Loader":
        """The same queries with another view of their videos, as in `show_rows`."""
        return Loader(self.config, self.dataset, self.split, self._vocabulary, self.vectors, self.fields, shown)

    def _check_words(self) -> None:
        limit = self.config.text.max_words
        for query, tokens in zip(self.split.queries, self._tokens):
            if not tokens:
                raise UserError(
                    f'Query {query.qid} ("{query.text}") has no word for the tokeniser '
                    f'"{self.config.text.tokenizer}". Correct the sentence.'
                )
        cut = sum(len(tokens) > limit for tokens in self._tokens)
        if cut and self.shown == "real":
            log.info("%s: %d of %d queries cut to %d words", self.split.name, cut, len(self), limit)

    @property
    def group(self) -> int:
        """S of `config.input.queries_per_video`: training rows that stand for one video."""
        return max(self.config.input.queries_per_video, 1)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Training batches in one pass; the last one is filled up with masked rows."""
        return steps_per_epoch(self.split.owner, batch_size, self.group)

    def training_rows(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """[batch_size] int64 positions in the split at a 0-based step; a negative i is a masked filler.

        The filler shows query -1 - i. With `config.input.queries_per_video` = S > 1 every S rows are queries of
        one video; what it lacks is filled with its own.
        """
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        groups, count = self._epoch(seed, epoch), groups_of_batch(batch_size, self.group)
        return _filled(groups[position * count : (position + 1) * count].ravel(), batch_size)

    def _epoch(self, seed: int, epoch: int) -> np.ndarray:
        """[groups,S] rows of an epoch; S is 1 where queries do not come by video."""
        order = epoch_order(seed, epoch, len(self))
        if self.group == 1:
            return order[:, None]
        if self._grouped[0] != (seed, epoch):
            self._grouped = (seed, epoch), _by_video(order, self.split.owner, self.group)
        return self._grouped[1]

    def batch(self, rows: np.ndarray) -> Batch:
        """Assembles the queries at `rows` [B] (negative: a masked filler) into a host batch."""
        examples = [self._example(int(row) if row >= 0 else -1 - int(row)) for row in rows]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
        index = np.maximum(rows, -1).astype(np.int32)
        return dataclasses.replace(batch, example_mask=rows >= 0, example_index=index)

    def training_batches(self, seed: int, first: int, last: int, batch_size: int) -> Iterator[Batch]:
        """Yields the batches of steps first, ..., last - 1 of this host."""
        return self._stream(first, last, lambda s: self.training_rows(seed, s, batch_size))

    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields every query once, in order; the last batch is filled up with masked rows."""
        batches = filled_batches(np.arange(len(self)), batch_size)
        return self._stream(0, len(batches), batches.__getitem__)

    def _stream(self, first: int, last: int, rows_of_step) -> Iterator[Batch]:
        """Assembles batches in the background with tf.data; errors are raised as they were."""
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        example = self.batch(host_rows(rows_of_step(first)))
        leaves, structure = jax.tree.flatten(example)
        failures = []

        def assemble(step):
            try:
                batch = self.batch(host_rows(rows_of_step(int(step))))
                return jax.tree.leaves(batch)
            except Exception as error:
                failures.append(error)
                raise

        def load(step):
            arrays = tf.numpy_function(assemble, [step], [leaf.dtype for leaf in leaves], stateful=False)
            for array, leaf in zip(arrays, leaves):
                array.set_shape(leaf.shape)
            return tuple(arrays)

        stream = tf.data.Dataset.range(first, last)
        stream = stream.map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
        try:
            for arrays in stream.as_numpy_iterator():
                yield jax.tree.unflatten(structure, arrays)
        except tf.errors.OpError:
            if failures:
                raise failures[0] from None
            raise

    def _example(self, row: int) -> Batch:
        """One example as a Batch without the batch axis."""
        query, video = self.split.queries[row], self.split.videos[self.split.owner[row]]
        return self.example(query, video, self._tokens[row], int(self.split.owner[row]))

    def example(self, query: schema.Query, video: Video, tokens, video_index: int = 0) -> Batch:
        """Builds one unbatched example; `tokens` are the query's, from `tokenize`."""
        clips, clip_mask = self._clips(video, "video")
        optional = {name: self._clips(video, name)[0] for name in _VISUAL if name in self.fields}
        if "objects" in optional:
            optional["object_mask"] = np.abs(optional["objects"]).sum(-1) > 0
        if "subtitles" in optional:
            optional["subtitle_mask"] = np.abs(optional["subtitles"]).sum(-1) > 0
        if "windows" in self.fields:
            optional["windows"], optional["window_mask"] = _windows(query)
        if "saliency" in self.fields:
            optional["saliency"] = _saliency(query.saliency, clip_mask, video.duration)
        return Batch(
            video=clips,
            video_mask=clip_mask,
            duration=np.float32(video.duration),
            span=np.asarray(query.span, np.float32),
            example_mask=np.True_,
            example_index=np.int32(0),
            video_index=np.int32(video_index),
            **self._read_query(query, tokens),
            **optional,
        )

    def _clips(self, video: Video, stream: str) -> tuple[np.ndarray, np.ndarray]:
        options = self.config.input
        # Order matters among the native rows alone, which are read anew; zeros are zeros of either.
        source = self.dataset.features if self.shown == "shuffled" else self.dataset.clips
        return fit_rows(self._show(source(video, stream), video), options.num_clips, options.resample)

    def _show(self, rows: np.ndarray, video: Video) -> np.ndarray:
        return show_rows(rows, self.shown, self.config.seed, video.id)


def steps_per_epoch(owner: np.ndarray, batch_size: int, rows_per_video: int) -> int:
    """Batches that hold every query once.

    Args:
      owner: [Q] the video of each query.
      batch_size: rows in a batch.
      rows_per_video: of which so many together stand for one video; 1 where queries do not come by video.
    """
    queries_of_video = np.bincount(owner, minlength=1)
    groups = int((-(-queries_of_video // rows_per_video)).sum())
    return -(-groups // groups_of_batch(batch_size, rows_per_video))


def groups_of_batch(batch_size: int, rows_per_video: int) -> int:
    """Videos in a batch of rows; UserError where their rows do not fill it."""
    if batch_size % rows_per_video:
        raise UserError(
            f"config.batch_size is {batch_size} rows, which are no whole number of videos with "
            f"{rows_per_video} rows each (config.input.queries_per_video). Use a multiple of {rows_per_video}."
        )
    return batch_size // rows_per_video


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The permutation of n examples in an epoch: a pure function of (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def filled_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """`rows` in order, `size` at a time; -1 fills the last."""
    return [_filled(rows[first : first + size], size) for first in range(0, len(rows), size)]


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - len(rows), -1, np.int64)])


def _by_video(order: np.ndarray, owner: np.ndarray, size: int) -> np.ndarray:
    """[groups,size] rows: the queries of each video in an order, the groups in the order of their first query.

    A group with fewer queries is filled with masked copies (-1 - row) of its first one.
    """
    waiting: dict[int, list[int]] = {}
    groups = []
    for row in order:
        group = waiting.setdefault(int(owner[row]), [])
        if not group:
            groups.append(group)
        group.append(int(row))
        if len(group) == size:
            del waiting[int(owner[row])]
    return np.asarray([group + [-1 - group[0]] * (size - len(group)) for group in groups], np.int64)


def _windows(query: schema.Query) -> tuple[np.ndarray, np.ndarray]:
    """The annotated moments [M,2] and their mask [M]; M is `schema.MAX_WINDOWS`."""
    moments = list(query.windows or [query.span])
    windows = np.zeros((schema.MAX_WINDOWS, 2), np.float32)
    windows[: len(moments)] = moments
    return windows, np.arange(schema.MAX_WINDOWS) < len(moments)


def _saliency(scores: np.ndarray | None, clip_mask: np.ndarray, duration: float) -> np.ndarray:
    """[T] float32: the sum over annotators, of the annotated clip in which the centre of each clip lies.

    Args:
      scores: [clips, annotators] int for every `schema.SALIENCY_SECONDS`, -1 where none was given; None, of a
        sentence that nobody annotated, is 0 everywhere.
      clip_mask: [T] bool.
      duration: of the video, in seconds.
    """
    if scores is None:
        return np.zeros(len(clip_mask), np.float32)
    total = np.maximum(scores, 0).sum(1).astype(np.float32)
    centres = (np.arange(clip_mask.sum()) + 0.5) * duration / max(clip_mask.sum(), 1)
    annotated = np.minimum((centres / schema.SALIENCY_SECONDS).astype(np.int64), len(total) - 1)
    filled = np.zeros(len(clip_mask), np.float32)
    filled[: len(centres)] = total[annotated]
    return filled


# --- shapes without data --------------------------------------------------------------------------


def batch_spec(config, batch_size: int, fields: Sequence[str] = ()) -> Batch:
    """Returns the batch of a config as ShapeDtypeStructs, without opening the dataset."""
    b, t, length = batch_size, config.input.num_clips, config.text.max_words

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct((b, *shape), dtype)

    check_fields(config, fields)
    widths = _widths(config)
    shapes = field_shapes(config, *widths.get("sentence", (0,)))
    shapes["windows"], shapes["window_mask"] = (
        ((schema.MAX_WINDOWS, 2), np.float32),
        ((schema.MAX_WINDOWS,), bool),
    )
    shapes["saliency"] = ((t,), np.float32)
    shapes["subtitle_mask"] = ((t,), bool)
    for name in _VISUAL:
        if name in widths:
            shapes[name] = ((t, *widths[name]), np.float32)
    if "objects" in widths:
        shapes["object_mask"] = ((t, widths["objects"][0]), bool)
    wanted = [*fields, *(mask for name, mask in _MASKS.items() if name in fields)]
    optional = {
        name: jax.tree.map(lambda s: array(*s[0], dtype=s[1]), shapes[name], is_leaf=_is_shape)
        for name in wanted
    }
    return Batch(
        video=array(t, config.dataset.feature_dim),
        video_mask=array(t, dtype=bool),
        duration=array(),
        query=array(length, dtype=np.int32),
        query_vectors=array(length, config.text.dim),
        query_mask=array(length, dtype=bool),
        span=array(2),
        example_mask=array(dtype=bool),
        example_index=array(dtype=np.int32),
        video_index=array(dtype=np.int32),
        **optional,
    )


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def _widths(config) -> dict[str, tuple[int, ...]]:
    """Optional field -> its shape in one clip or one query, of the dataset's and of the user's files."""
    widths = dict(dataset_module(config.dataset.name).MODALITIES)
    widths.update({name: tuple(stream[1:]) for name, stream in config.dataset.get("streams", {}).items()})
    if config.text.sentence_features:
        widths["sentence"] = (config.text.sentence_dim,)
    return widths


def check_fields(config, fields: Sequence[str]) -> None:
    """Raises UserError where the architecture requires what the dataset lacks."""
    available = _widths(config)
    for name in fields:
        if name not in available and name not in _OF_ANY_QUERY:
            raise UserError(
                f'The architecture {config.model.name} needs "{name}", which the dataset '
                f"{config.dataset.name} does not have (it has: {', '.join(available) or 'none'}). Choose "
                "another dataset or switch off the option that needs it."
            )
