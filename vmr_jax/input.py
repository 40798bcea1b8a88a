"""Input: the records of a dataset become batches of fixed shape.

The batch at a step is a pure function of (seed, step): the order of an epoch is a permutation drawn from
(seed, epoch), the position in it is the step. Nothing needs to be saved to resume. `tf.data` runs the
assembly in the background, fed with step numbers.

TensorFlow is imported inside functions, so that importing this module does not need it.
"""

import dataclasses
import importlib
import itertools
import logging
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import data
from data import schema
from data.features import build_feature_store, missing
from vmr_jax.errors import UserError, nearest
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors, load_word_vectors
from vmr_jax.types import Batch, Tree

log = logging.getLogger("vmr_jax")

PADDING, UNKNOWN = 0, 1  # vocabulary ids
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
      annotations_only: leaves the features alone, which scoring does not need.
    """

    def __init__(self, options, annotations_only: bool = False):
        self.options = options
        self._module = dataset_module(options.name)
        self._builder = self._module.prepare(options)
        self._store = None
        self._read: dict[str, Split] = {}
        self._splits: dict[str, Split] = {}
        reader = None if annotations_only else self._module.features(options)
        if reader is not None:
            self._open_features(reader)
        self.word_vectors_of_dataset = self._module.word_vectors(options)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that hold queries."""
        return tuple(self._builder.info.splits)

    def _open_features(self, reader) -> None:
        videos = [v.id for name in self.split_names for v in self._records(name).videos]
        absent = set(missing(reader, videos))
        if absent and self.options.on_missing != "drop":
            shown = ", ".join(sorted(absent)[:20]) + (", ..." if len(absent) > 20 else "")
            raise UserError(
                f"{len(absent)} of {len(videos)} videos have no features in {reader.path}: {shown}. Bring "
                "the missing files, name a split file that leaves these videos out "
                "(config.dataset.split_file), or set config.dataset.on_missing='drop' to go on without "
                "them."
            )
        present = [v for v in videos if v not in absent]
        if not present:
            raise UserError(
                f"None of the {len(videos)} annotated videos has features in {reader.path}. Check "
                "config.dataset.features and that file names are the video ids of the annotations."
            )
        self._store = build_feature_store(
            reader, present, self.options.feature_dim, Path(self.options.data_dir).expanduser() / "features"
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

    def features(self, video: Video) -> np.ndarray:
        """Returns the clip features [n,D] of a video, native rows."""
        if self._store is not None:
            return self._store[video.id]
        return video.embedded[self.options.features]


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


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """L2-normalises rows [n,D] (2D-TAN and its line; eps 1e-12), float32."""
    rows = rows.astype(np.float32)
    norm = np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]
    return rows / np.maximum(norm, 1e-12)


def average_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Resamples [n,...] to [length,...]: the mean of each bucket, a repeated row where n < length.

    Edges are min(round(k/length*n), n-1) in float32, halves to even, as 2D-TAN's
    `average_to_fixed_length` has them; the last bucket therefore never contains the last row when
    n > length.
    """
    n = rows.shape[0]
    edges = np.round(np.arange(length + 1, dtype=np.float32) / np.float32(length) * np.float32(n))
    edges = np.minimum(edges, n - 1).astype(np.int64)
    counts = np.maximum(edges[1:] - edges[:-1], 1).astype(np.float32)
    # reduceat gives rows[a] alone where the next edge is not larger, which is the repeated row.
    sums = np.add.reduceat(rows.astype(np.float32), edges[:-1], axis=0)
    # The last bucket must stop at the last edge; reduceat runs to the end of the array.
    sums[-1] = rows[edges[-2] : max(edges[-1], edges[-2] + 1)].astype(np.float32).sum(0)
    return sums / counts.reshape(-1, *([1] * (rows.ndim - 1)))


def fit_rows(rows: np.ndarray, length: int, resample: str) -> tuple[np.ndarray, np.ndarray]:
    """Brings [n,...] to [length,...] and its mask [length].

    'average' resamples every video to `length`; 'pad' keeps the rows of a shorter one and pads.
    """
    if resample == "average" or rows.shape[0] > length:
        return average_rows(rows, length), np.ones(length, bool)
    fitted = np.zeros((length, *rows.shape[1:]), np.float32)
    fitted[: rows.shape[0]] = rows
    return fitted, np.arange(length) < rows.shape[0]


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
    """

    def __init__(
        self,
        config,
        dataset: Dataset,
        split: Split,
        vocabulary: Sequence[str],
        vectors: WordVectors,
        fields: Sequence[str] = (),
    ):
        self.config, self.dataset, self.split, self.vectors = config, dataset, split, vectors
        self.fields = tuple(fields)
        self._ids = {word: i + 2 for i, word in enumerate(vocabulary)}
        self._tokens = [tokenize(q.text, config.text.tokenizer) for q in split.queries]
        self._check_words()

    def __len__(self) -> int:
        return len(self.split.queries)

    def _check_words(self) -> None:
        limit = self.config.text.max_words
        for query, tokens in zip(self.split.queries, self._tokens):
            if not tokens:
                raise UserError(
                    f'Query {query.qid} ("{query.text}") has no word for the tokeniser '
                    f'"{self.config.text.tokenizer}". Correct the sentence.'
                )
        cut = sum(len(tokens) > limit for tokens in self._tokens)
        if cut:
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
        if "sentence" in self.fields:
            optional["sentence"] = query.sentence
        for name in _VISUAL:
            if name in self.fields:
                optional[name], _ = fit_rows(video.embedded[name], options.num_clips, options.resample)
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
        rows = self.dataset.features(video)
        rows = normalize_rows(rows) if options.normalize else np.asarray(rows, np.float32)
        return fit_rows(rows, options.num_clips, options.resample)


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
        if name not in available:
            raise UserError(
                f'The architecture {config.model.name} needs "{name}", which the dataset '
                f"{config.dataset.name} does not have (it has: {', '.join(available) or 'none'}). Choose "
                "another dataset or switch off the option that needs it."
            )
