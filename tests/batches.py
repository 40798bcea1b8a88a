"""Random ragged batches for tests: every padded axis is padded, two rows only fill the batch."""

import dataclasses

import jax
import numpy as np

from vmr_jax.input import schema
from vmr_jax.types import TREES, Batch, Constituents, Tree, fields_of

# The optional fields with an axis of clips: those that a test with other clips has to leave out.
OF_CLIPS = tuple(name for name, info in fields_of(Batch).items() if info.optional and "T" in info.axes)


def random_batch(size=8, clips=16, words=7, dim=6, word_dim=5, seed=0, fill=2) -> Batch:
    """Host batch with masks; filling rows hold noise, which must not matter."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(clips // 2, clips + 1, size)
    lengths = rng.integers(2, words + 1, size)
    video_mask = np.arange(clips) < rows[:, None]
    query_mask = np.arange(words) < lengths[:, None]
    duration = rng.uniform(20, 60, size).astype(np.float32)
    span = np.sort(rng.uniform(0, 1, (size, 2)), axis=1).astype(np.float32) * duration[:, None]
    fields = dict(
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
        constituents=_random_constituents(np.random.default_rng([seed, 3]), lengths, words),
        query_chars=_random_chars(rng, query_mask),
        **_random_modalities(np.random.default_rng([seed, 1]), video_mask, query_mask, span),
    )
    # Every clip is a row of the features, so that there is nothing to say of them.
    return Batch(**fields, **_others(np.random.default_rng([seed, 2]), fields), clip_rows=None)


def _others(rng, fields) -> dict[str, np.ndarray]:
    """Every field of `Batch` that is not made by hand above, of zeros and ones."""
    lengths = {letter: 4 for letter in "DW"}
    for name, value in fields.items():
        if name not in TREES:
            lengths |= {x: n for x, n in zip(fields_of(Batch)[name].axes, value.shape) if x not in "DW"}
    return {
        name: rng.integers(0, 2, [lengths[letter] for letter in info.axes]).astype(info.dtype)
        for name, info in fields_of(Batch).items()
        if name not in (*fields, "clip_rows")
    }


def _random_modalities(rng, video_mask, query_mask, span, width=4) -> dict[str, np.ndarray]:
    """The other optional fields: streams of `width` features, up to two more moments than the one to learn."""
    (size, clips), (_, words) = video_mask.shape, query_mask.shape

    def stream(*shape):
        rows = rng.normal(size=(size, clips, *shape, width)).astype(np.float32)
        return rows * video_mask.reshape(size, clips, *(1 for _ in shape), 1)

    first = np.argmax(query_mask, axis=1)  # a special token at both ends
    special = np.zeros_like(query_mask)
    special[np.arange(size), first] = special[np.arange(size), query_mask.sum(1) - 1] = True
    static = (rng.random((size, words)) < 0.5) & query_mask
    heads = rng.integers(0, 41, (size, words, words)) * (rng.random((size, words, words)) < 0.2)
    pairs = query_mask[:, :, None] & query_mask[:, None, :]
    others = np.tile(span[:, None], (1, 3, 1))
    others[:, 1:] *= rng.uniform(0.2, 0.9, (size, 2, 1))
    window_mask = np.arange(3) < rng.integers(1, 4, size)[:, None]
    return {
        "flow": stream(),
        "audio": stream(),
        "objects": stream(2),
        "object_mask": np.tile(video_mask[..., None], (1, 1, 2)),
        "subtitles": stream(),
        "subtitle_mask": video_mask & (rng.random((size, clips)) < 0.7),
        "sentence": rng.normal(size=(size, width)).astype(np.float32),
        "static_words": static,
        "dynamic_words": query_mask & ~static,
        "content_words": query_mask & (rng.random((size, words)) < 0.6),
        "dependencies": (np.where(np.eye(words, dtype=bool), 1, np.where(heads == 1, 2, heads)) * pairs).astype(
            np.int32
        ),
        "subwords": (rng.integers(1, 20, (size, words)) * query_mask).astype(np.int32),
        "subword_mask": query_mask,
        "subword_static": static | special,
        "subword_dynamic": (query_mask & ~static) | special,
        "windows": np.where(window_mask[..., None], others, 0).astype(np.float32),
        "window_mask": window_mask,
        "saliency": (rng.integers(0, 13, (size, clips)) * video_mask).astype(np.float32),
        "grid": stream(3, 3),
        **_second_language(np.random.default_rng([len(video_mask), words]), video_mask, words, width),
    }


def _second_language(rng, video_mask, words, width) -> dict[str, np.ndarray]:
    """Translations of one to `words` words, and what is said in every other clip."""
    size = len(video_mask)
    mask = np.arange(words) < rng.integers(1, words + 1, size)[:, None]
    said = video_mask & (rng.random(video_mask.shape) < 0.5)
    return {
        "translation": rng.normal(size=(size, words, width)).astype(np.float32) * mask[..., None],
        "translation_mask": mask,
        "translated_subtitles": rng.normal(size=(*said.shape, width)).astype(np.float32) * said[..., None],
    }


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


def _random_constituents(rng, lengths, words) -> Constituents:
    """Leaves, and phrases of two or three neighbours until one is left; the last query has no tree."""
    size, most = len(lengths), 2 * words
    parents, labels = np.zeros((size, most), np.int32), np.zeros((size, most), np.int32)
    nodes = np.zeros((size, most, words), bool)
    for b, count in enumerate(lengths[:-1]):
        order, waiting = [], [(word, None) for word in range(count)]
        while len(waiting) > 1:
            first, many = int(rng.integers(len(waiting) - 1)), int(rng.integers(2, 4))
            waiting[first : first + many] = [(None, waiting[first : first + many])]

        def place(piece, b=b, order=order):
            word, children = piece
            below = [place(child) for child in children or ()]
            z = len(order)
            order.append(z)
            parents[b, below] = z
            nodes[b, z] = nodes[b, below].any(0) if below else np.arange(words) == word
            labels[b, z] = rng.integers(1, 74)
            return z

        place(waiting[0])
    return Constituents(parents=parents, labels=labels, words=nodes)


def pad_clips(batch: Batch, more: int, noise: float = 7.0) -> Batch:
    """The same examples with `more` padded clips, whose features are `noise`: they must not matter."""

    def noisy(info, x):
        if "T" in info.axes and info.dtype == np.float32:
            x[:, -more:] = noise
        return x

    return batch.pad(T=more).map(noisy)


def double_padding(batch: Batch) -> Batch:
    """The same examples with twice the words, subwords, verbs, nouns, nodes, moments and rows, all padding."""
    lengths = {letter: n for _, info, x in batch.entries() for letter, n in zip(info.axes, x.shape)}
    batch = batch.pad(**{letter: lengths[letter] for letter in "LSCVNZA"})
    noise = jax.tree.map(lambda x: np.concatenate([x, x[::-1]]), batch)
    size = batch.example_mask.shape[0]
    return dataclasses.replace(noise, example_mask=np.concatenate([batch.example_mask, np.zeros(size, bool)]))
