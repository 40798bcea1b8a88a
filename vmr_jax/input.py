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
from data.features import RESAMPLE, build_feature_store, fit_rows, missing, normalize_rows, read_rows
from vmr_jax.errors import UserError, nearest
from vmr_jax.text.tokenize import MAX_CHARACTERS, characters, tokenize
from vmr_jax.text.vectors import WordVectors, load_word_vectors
from vmr_jax.types import Batch, Tree

log = logging.getLogger("vmr_jax")

PADDING, UNKNOWN = 0, 1  # vocabulary ids
_OF_ANY_SENTENCE = ("query_chars",)  # optional fields that every dataset can fill
_VISUAL = ("flow", "audio", "objects", "subtitles")  # optional fields that follow the clips


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
        self._store = None
        self._native = functools.lru_cache(maxsize=4)(self._read_native)
        self._read: dict[str, Split] = {}
        self._splits: dict[str, Split] = {}
        if not annotations_only:
            check_resample(clips.resample)
            reader = self._module.features(options)
            if reader is not None:
                self._open_features(reader)
        self.word_vectors_of_dataset = self._module.word_vectors(options)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that hold queries."""
        return tuple(self._builder.info.splits)

    def _open_features(self, reader) -> None:
        every = (v.id for name in self.split_names for v in self._records(name).videos)
        videos = list(dict.fromkeys(every))
        absent = missing(reader, videos)
        present = [v for v in videos if v in reader]
        if absent and (self.options.on_missing != "drop" or not present):
            shown = ", ".join(sorted(absent)[:20]) + (", ..." if len(absent) > 20 else "")
            raise UserError(
                f"{len(absent)} of {len(videos)} videos have no features in {reader.path}: {shown}."
                f"{reader.spelling(min(absent))} Check config.dataset.features, and that features have the "
                "names of the annotated videos; bring the missing ones, or set "
                "config.dataset.on_missing='drop' to go on with the others."
            )
        with _progress("features") as on_progress:
            self._store = build_feature_store(
                reader,
                present,
                self.options.feature_dim,
                Path(self.options.data_dir).expanduser() / "features",
                self._settings.num_clips,
                self._settings.normalize,
                on_progress,
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
        if self._store is None:
            return split
        keep = [v for v in range(len(split.videos)) if split.videos[v].id in self._store]
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

    def clips(self, video: Video) -> np.ndarray:
        """Returns the rows [n,D] float32 of a video for `fit_rows`: normalised, averaged where it has many."""
        return self.features(video) if self._store is None else self._store[video.id]

    def features(self, video: Video) -> np.ndarray:
        """Returns all native rows [n,D] float32 of a video, normalised where `config.input.normalize`.

        They are read from the user's files, which takes far longer than `clips`.
        """
        if self._store is not None:
            return self._native(video.id)
        rows = video.embedded[self.options.features]
        return normalize_rows(rows) if self._settings.normalize else np.asarray(rows, np.float32)

    def _read_native(self, video_id: str) -> np.ndarray:
        """Of the few videos read last, as the queries of a video follow each other in evaluation."""
        return read_rows(self._reader, video_id, self.options.feature_dim, self._settings.normalize)

    @functools.cached_property
    def _reader(self):
        """Opened again when native rows are asked for: an open HDF5 file bars others from opening it."""
        return self._module.features(self.options)


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


def open_word_vectors(config, dataset: Dataset, sentences: Sequence[str] = ()) -> WordVectors:
    """Opens `config.text.vectors`, or the dataset's own vectors where that is empty.

    Of a file only the words of the dataset and of `sentences` (a user's queries) are kept in memory.
    """
    if config.text.vectors:
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
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
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
      vectors: word vectors, for `Batch.query_vectors`.
      fields: optional `Batch` fields to fill (what the architecture requires).
      shown: what is shown of the videos, as in `show_rows`; their length and mask stay.
    """

    def __init__(
        self,
        config,
        dataset: Dataset,
        split: Split,
        vocabulary: Sequence[str],
        vectors: WordVectors,
        fields: Sequence[str] = (),
        shown: str = "real",
    ):
        self.config, self.dataset, self.split, self.vectors = config, dataset, split, vectors
        self.fields, self.shown = tuple(fields), shown
        self._ids = {word: i + 2 for i, word in enumerate(vocabulary)}
        self._tokens = [tokenize(q.text, config.text.tokenizer) for q in split.queries]
        self._check_words()

    def __len__(self) -> int:
        return len(self.split.queries)

    def showing(self, shown: str) -> "Loader":
        """The same queries with another view of their videos, as in `show_rows`."""
        return Loader(self.config, self.dataset, self.split, list(self._ids), self.vectors, self.fields, shown)

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

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in one pass; the last one is filled up with masked rows."""
        return -(-len(self) // batch_size)

    def training_rows(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """[batch_size] int64 positions in the split at a 0-based step; -1 fills the last batch."""
        steps = self.steps_per_epoch(batch_size)
        epoch, position = divmod(step, steps)
        order = epoch_order(seed, epoch, len(self))
        return _filled(order[position * batch_size : (position + 1) * batch_size], batch_size)

    def batch(self, rows: np.ndarray) -> Batch:
        """Assembles the queries at `rows` [B] (-1: a masked filler) into a host batch."""
        examples = [self._example(int(max(row, 0))) for row in rows]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
        return dataclasses.replace(batch, example_mask=rows >= 0, example_index=rows.astype(np.int32))

    def training_batches(self, seed: int, first: int, last: int, batch_size: int) -> Iterator[Batch]:
        """Yields the batches of steps first, ..., last - 1 of this host."""
        return self._stream(first, last, lambda s: self.training_rows(seed, s, batch_size))

    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields every query once, in order; the last batch is filled up with masked rows."""

        def rows(step):
            first = step * batch_size
            return _filled(np.arange(first, min(first + batch_size, len(self))), batch_size)

        return self._stream(0, self.steps_per_epoch(batch_size), rows)

    def _stream(self, first: int, last: int, rows_of_step) -> Iterator[Batch]:
        """Assembles batches in the background with tf.data; errors are raised as they were."""
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        example = self.batch(self._host_rows(rows_of_step(first)))
        leaves, structure = jax.tree.flatten(example)
        failures = []

        def assemble(step):
            try:
                batch = self.batch(self._host_rows(rows_of_step(int(step))))
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

    @staticmethod
    def _host_rows(rows: np.ndarray) -> np.ndarray:
        """The share of a global batch that this host reads."""
        share = rows.shape[0] // jax.process_count()
        return rows[jax.process_index() * share : (jax.process_index() + 1) * share]

    def _example(self, row: int) -> Batch:
        """One example as a Batch without the batch axis."""
        query, video = self.split.queries[row], self.split.videos[self.split.owner[row]]
        return self.example(query, video, self._tokens[row], int(self.split.owner[row]))

    def example(self, query: schema.Query, video: Video, tokens, video_index: int = 0) -> Batch:
        """Builds one unbatched example; `tokens` are the query's, from `tokenize`."""
        options, limit = self.config.input, self.config.text.max_words
        tokens = tokens[:limit]
        clips, clip_mask = self._clips(video)
        ids = np.zeros(limit, np.int32)
        ids[: len(tokens)] = [self._ids.get(token.text, UNKNOWN) for token in tokens]
        vectors = np.zeros((limit, self.vectors.dim), np.float32)
        vectors[: len(tokens)] = self.vectors.lookup([token.text for token in tokens])
        optional = {}
        if "tree" in self.fields:
            optional["tree"] = _tree(query, tokens, limit)
        static = _word_mask(query.static, tokens, limit)
        if "static_words" in self.fields:
            optional["static_words"] = static
        if "dynamic_words" in self.fields:
            optional["dynamic_words"] = ~static & (np.arange(limit) < len(tokens))
        if "query_chars" in self.fields:
            optional["query_chars"] = characters(tokens, self.config.text.characters, limit)
        if "sentence" in self.fields:
            optional["sentence"] = query.sentence
        for name in _VISUAL:
            if name in self.fields:
                rows = self._show(video.embedded[name], video)
                optional[name], _ = fit_rows(rows, options.num_clips, options.resample)
        if "objects" in self.fields:
            optional["object_mask"] = np.abs(optional["objects"]).sum(-1) > 0
        if "subtitles" in self.fields:
            optional["subtitle_mask"] = np.abs(optional["subtitles"]).sum(-1) > 0
        return Batch(
            video=clips,
            video_mask=clip_mask,
            duration=np.float32(video.duration),
            query=ids,
            query_vectors=vectors,
            query_mask=np.arange(limit) < len(tokens),
            span=np.asarray(query.span, np.float32),
            example_mask=np.True_,
            example_index=np.int32(0),
            video_index=np.int32(video_index),
            **optional,
        )

    def _clips(self, video: Video) -> tuple[np.ndarray, np.ndarray]:
        options = self.config.input
        # Order matters among the native rows alone, which are read anew; zeros are zeros of either.
        source = self.dataset.features if self.shown == "shuffled" else self.dataset.clips
        return fit_rows(self._show(source(video), video), options.num_clips, options.resample)

    def _show(self, rows: np.ndarray, video: Video) -> np.ndarray:
        return show_rows(rows, self.shown, self.config.seed, video.id)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The permutation of n examples in an epoch: a pure function of (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - len(rows), -1, np.int64)])


def _word_mask(spans: Sequence[tuple[int, int]], tokens, limit: int) -> np.ndarray:
    """[limit] bool: the words that overlap one of the character spans."""
    mask = np.zeros(limit, bool)
    for i, token in enumerate(tokens[:limit]):
        mask[i] = any(token.start < end and token.end > start for start, end in spans)
    return mask


def _tree(query: schema.Query, tokens, limit: int) -> Tree:
    """The unbatched semantic role tree over the words of one tokeniser."""

    def nodes(spans, size):
        masks = np.zeros((size, limit), bool)
        for i, span in enumerate(spans):
            masks[i] = _word_mask([span], tokens, limit)
        return masks

    verbs, nouns = nodes(query.verbs, schema.MAX_VERBS), nodes(query.nouns, schema.MAX_NOUNS)
    edges = np.zeros((schema.MAX_VERBS, schema.MAX_NOUNS), bool)
    for verb, noun in query.edges:
        edges[verb, noun] = verbs[verb].any() and nouns[noun].any()
    return Tree(verb_words=verbs, noun_words=nouns, edges=edges)


# --- shapes without data --------------------------------------------------------------------------


def batch_spec(config, batch_size: int, fields: Sequence[str] = ()) -> Batch:
    """Returns the batch of a config as ShapeDtypeStructs, without opening the dataset."""
    b, t, length = batch_size, config.input.num_clips, config.text.max_words
    v, n = schema.MAX_VERBS, schema.MAX_NOUNS

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct((b, *shape), dtype)

    optional = {}
    widths = dataset_module(config.dataset.name).MODALITIES
    check_fields(config, fields)
    for name in fields:
        if name == "tree":
            optional[name] = Tree(
                verb_words=array(v, length, dtype=bool),
                noun_words=array(n, length, dtype=bool),
                edges=array(v, n, dtype=bool),
            )
        elif name in ("static_words", "dynamic_words"):
            optional[name] = array(length, dtype=bool)
        elif name == "query_chars":
            optional[name] = array(length, MAX_CHARACTERS, dtype=np.int32)
        elif name == "sentence":
            optional[name] = array(*widths[name])
        else:
            optional[name] = array(t, *widths[name])
        if name == "objects":
            optional["object_mask"] = array(t, widths[name][0], dtype=bool)
        if name == "subtitles":
            optional["subtitle_mask"] = array(t, dtype=bool)
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


def check_fields(config, fields: Sequence[str]) -> None:
    """Raises UserError where the architecture requires what the dataset lacks."""
    available = dataset_module(config.dataset.name).MODALITIES
    for name in fields:
        if name not in available and name not in _OF_ANY_SENTENCE:
            raise UserError(
                f'The architecture {config.model.name} needs "{name}", which the dataset '
                f"{config.dataset.name} does not have (it has: {', '.join(available) or 'none'}). Choose "
                "another dataset or switch off the option that needs it."
            )
