"""Batches: the queries of a split become arrays of fixed shape.

The batch at a step is a pure function of (seed, step): the order of an epoch is a permutation drawn from
(seed, epoch), the position in it is the step. Nothing needs to be saved to resume. `tf.data` runs the
assembly in the background, fed with step numbers.

TensorFlow is imported inside functions, so that importing this module does not need it.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset, Split, Video
from vmr_jax.input.examples import Examples
from vmr_jax.input.queries import QueryReader
from vmr_jax.parallel import host_rows
from vmr_jax.text.vectors import WordVectors
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

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
        self._grouped: tuple[Any, Any] = (None, None)  # (seed, epoch) and its rows by video
        self._make = Examples(config, QueryReader(config, vocabulary, vectors, fields), fields, self._rows)
        self._tokens = [self._make.tokens(query) for query in split.queries]
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
        for part in ("verbs", "nouns") if "tree" in self.fields and self.shown == "real" else ():
            most = self.config.text[f"max_{part}"]
            cut = sum(len(getattr(query, part)) > most for query in self.split.queries)
            if cut:
                log.info("%s: %d of %d role trees cut to %d %s", self.split.name, cut, len(self), most, part)
        if "constituents" in self.fields and self.shown == "real":
            self._check_parses()

    def _check_parses(self) -> None:
        """Says how many sentences have no parse; UserError where none has one."""
        without = [query for query in self.split.queries if not self._make.is_parsed(query)]
        if len(without) == len(self):
            raise UserError(
                f"Of the {len(self)} sentences of {self.split.name} none has a parse in config.text.parses: "
                f'not "{without[0].text}" ({without[0].qid}), for one. Trees are found by their words, which '
                "must be those of the sentence. Bring the trees of this dataset, or set config.text.parses to "
                "'right_branching' for trees that are made without a parser."
            )
        if without:
            log.warning(
                "%s: %d of %d sentences, such as %s, have no parse; they get trees that branch to the right",
                self.split.name,
                len(without),
                len(self),
                without[0].qid,
            )

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

        for accelerator in ("GPU", "TPU"):  # they are JAX's
            tf.config.set_visible_devices([], accelerator)
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
        return self._make(query, video, self._tokens[row], int(self.split.owner[row]))

    def _rows(self, video: Video, stream: str) -> np.ndarray:
        # Order matters among the native rows alone, which are read anew; zeros are zeros of either.
        source = self.dataset.features if self.shown == "shuffled" else self.dataset.clips
        return show_rows(source(video, stream), self.shown, self.config.seed, video.id)


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
