"""Random ragged batches for tests: every padded axis is padded, two rows only fill the batch."""

import dataclasses

import jax
import numpy as np

from data import schema
from vmr_jax.types import Batch, Tree


def random_batch(size=8, clips=16, words=7, dim=6, word_dim=5, seed=0, fill=2) -> Batch:
    """Host batch with masks; filling rows hold noise, which must not matter."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(clips // 2, clips + 1, size)
    lengths = rng.integers(2, words + 1, size)
    video_mask = np.arange(clips) < rows[:, None]
    query_mask = np.arange(words) < lengths[:, None]
    duration = rng.uniform(20, 60, size).astype(np.float32)
    span = np.sort(rng.uniform(0, 1, (size, 2)), axis=1).astype(np.float32) * duration[:, None]
    return Batch(
        video=rng.normal(size=(size, clips, dim)).astype(np.float32) * video_mask[..., None],
        video_mask=video_mask,
        duration=duration,
        query=(rng.integers(2, 10, (size, words)) * query_mask).astype(np.int32),
        query_vectors=rng.normal(size=(size, words, word_dim)).astype(np.float32) * query_mask[..., None],
        query_mask=query_mask,
        span=span,
        example_mask=np.arange(size) < size - fill,
        example_index=np.arange(size, dtype=np.int32),
        video_index=np.arange(size, dtype=np.int32),
        tree=_random_tree(rng, lengths, words),
        query_chars=_random_chars(rng, query_mask),
    )


def _random_chars(rng, query_mask, longest=6) -> np.ndarray:
    """Words of one to `longest` characters."""
    lengths = rng.integers(1, longest + 1, query_mask.shape) * query_mask
    ids = rng.integers(1, 40, (*query_mask.shape, longest))
    return np.where(np.arange(longest) < lengths[..., None], ids, 0).astype(np.int32)


def _random_tree(rng, lengths, words) -> Tree:
    """One verb (word 0) and one or two nouns; the first query has no verb at all."""
    size, v, n = len(lengths), schema.MAX_VERBS, schema.MAX_NOUNS
    verbs, nouns = np.zeros((size, v, words), bool), np.zeros((size, n, words), bool)
    edges = np.zeros((size, v, n), bool)
    for b in range(1, size):
        verbs[b, 0, 0] = True
        for i in range(1 + int(rng.integers(2))):
            nouns[b, i, min(i + 1, lengths[b] - 1)] = True
            edges[b, 0, i] = True
    return Tree(verb_words=verbs, noun_words=nouns, edges=edges)


def double_padding(batch: Batch) -> Batch:
    """The same examples with twice the clips, words, verbs, nouns and rows, all of it padding."""

    def words_last(x):
        return np.concatenate([x, np.zeros_like(x)], axis=-1)

    def second_axis(x):
        return np.concatenate([x, np.zeros_like(x)], axis=1)

    tree = Tree(
        verb_words=second_axis(words_last(batch.tree.verb_words)),
        noun_words=second_axis(words_last(batch.tree.noun_words)),
        edges=second_axis(words_last(batch.tree.edges)),
    )
    batch = dataclasses.replace(
        batch,
        query=second_axis(batch.query),
        query_vectors=second_axis(batch.query_vectors),
        query_mask=second_axis(batch.query_mask),
        tree=tree,
        query_chars=second_axis(words_last(batch.query_chars)),
    )
    noise = jax.tree.map(lambda x: np.concatenate([x, x[::-1]]), batch)
    size = batch.example_mask.shape[0]
    return dataclasses.replace(noise, example_mask=np.concatenate([batch.example_mask, np.zeros(size, bool)]))
