"""The completion of a sentence from clips of a video, which SCN (Lin et al., AAAI 2020) and its heirs share.

Two stacks of layers, one for clips and one for words; the output of one is the memory of the other. Words have
the ids of `Batch.query`; the unknown word is left out of sentences and is none of the classes.

Letters beyond the usual: Z candidate moments from which the sentence is completed.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.text import only_words
from vmr_jax.layers.transformer import Attention
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch

UNKNOWN = 1  # id of a word that the training split lacks
END = 0  # id that follows the last word: that of padding


class Stack(nn.Module):
    """Causal transformer layers that normalise after every sum, with or without attention to a memory.

    The same weights serve both; without a memory the sub-layer that would read it is left out. Source:
    `TransformerDecoder` of the official code.

    Attributes:
      features: F, width of every layer.
      hidden: width inside the feed-forward networks.
      heads: number of attention heads.
      layers: number of layers.
      dropout: dropout rate of the output of every sub-layer.
      dtype: number format of the layers.
    """

    features: int
    hidden: int
    heads: int
    layers: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        *,
        weights: jax.Array | None = None,
        memory_weights: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of [B,T,F] and a memory [B,T',F] with their masks; meaningless at padding.

        With `weights` [B,T] every step is attended to in proportion to its weight, and so is the memory with
        `memory_weights` [B,T'] (`key_weights` of `Attention`).
        """

        def add(x, y, name):
            y = Dropout(self.dropout, name=f"{name}_dropout")(y, example_index, train)
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"{name}_norm")(x + y)

        for i in range(self.layers):
            y = self._attention(x, x, mask, example_index, train, weights, f"layer_{i}_self")
            x = add(x, y, f"layer_{i}_self")
            if memory is not None:
                name = f"layer_{i}_memory"
                y = self._attention(x, memory, memory_mask, example_index, train, memory_weights, name)
                x = add(x, y, name)
            y = nn.relu(torch_linear(self.hidden, x, self.dtype, f"layer_{i}_hidden"))
            x = add(x, torch_linear(self.features, y, self.dtype, f"layer_{i}_output"), f"layer_{i}_output")
        return x

    def _attention(self, x, keys, mask, example_index, train, weights, name: str) -> jax.Array:
        attention = Attention(
            self.features, self.heads, dtype=self.dtype, causal=keys is x, name=f"{name}_attention"
        )
        return attention(x, keys, keys, mask, example_index, train, key_weights=weights)


class Reading:
    """A video and its sentence as the two stacks read them; its layers are those of the calling module.

    Attributes:
      clips: [B,T',F] the frames, before they are read.
    """

    def __init__(self, model: Any, video: jax.Array, batch: Batch, train: bool):
        """Reads the sentence.

        Args:
          model: the calling module, whose fields features, hidden, heads, layers, dropout, vocab_size and dtype
            are those of the layers; they are called clip_stack, word_stack, clips, words, start_vector and
            mask_vector.
          video: [B,T',D], the clips of the batch and what the architecture adds to them.
          batch: the examples, their words those of `known_words`.
          train: whether there is dropout.
        """
        self._model, self._batch, self._train = model, batch, train
        sizes = (model.features, model.hidden, model.heads, model.layers, model.dropout, model.dtype)
        self._clip_stack, self._word_stack = (Stack(*sizes, name=f"{of}_stack") for of in ("clip", "word"))
        self._word_layer = torch_dense(model.features, batch.query_vectors.shape[-1], model.dtype, "words")
        index = batch.example_index

        clips = Dropout(model.dropout)(video.astype(model.dtype), index, train)
        self.clips = torch_linear(model.features, clips, model.dtype, "clips")
        words = started(self._vector("start_vector"), batch.query_vectors).astype(model.dtype)
        self._words = self._word_layer(Dropout(model.dropout)(words, index, train))
        self._positions = sinusoids(words.shape[1], model.features)[None].astype(model.dtype)
        self._word_mask = starts_of(batch.query_mask)
        self._memory = self._word_stack(self._words + self._positions, self._word_mask, index, train)

    def _vector(self, name: str) -> jax.Array:
        return self._model.param(name, nn.initializers.zeros, self._batch.query_vectors.shape[-1:])

    def states(self, mask: jax.Array) -> jax.Array:
        """Returns [B,T',F], the clips of `mask` [B,T'] read with the sentence; meaningless at padding."""
        index = self._batch.example_index
        return self._clip_stack(self.clips, mask, index, self._train, self._memory, self._word_mask)

    def complete(self, frames: jax.Array, hidden: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        """Word logits [B,Z,L+1,X] of the sentence without the words `hidden` [B,L], see `complete`."""
        mask_vector = self._word_layer(self._vector("mask_vector").astype(self._model.dtype))
        words = jnp.where(starts_of(hidden, False)[..., None], mask_vector[None, None], self._words)
        return complete(
            self._clip_stack,
            self._word_stack,
            self._model.vocab_size,
            frames,
            words + self._positions,
            self._word_mask,
            self._batch.example_index,
            self._train,
            weights,
        )


def complete(
    clip_stack: Stack,
    word_stack: Stack,
    classes: int,
    frames: jax.Array,
    words: jax.Array,
    word_mask: jax.Array,
    example_index: jax.Array,
    train: bool,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Word logits [B,Z,L+1,X], float32, of the sentence from each candidate, which is a row of its own.

    The layer 'completion' of the calling module makes logits of the last states.

    Args:
      clip_stack: reads the frames.
      word_stack: reads the words, with the frames as its memory.
      classes: X.
      frames: [B,Z,R,F].
      words: [B,L+1,F], behind the start vector.
      word_mask: [B,L+1].
      example_index: [B].
      train: whether there is dropout, another one for each candidate.
      weights: [B,Z,R] in [0,1], how much of a frame belongs to the candidate; None: all of each.
    """
    size, picks = frames.shape[:2]
    frames = frames.reshape(size * picks, *frames.shape[2:])
    words, word_mask = (jnp.repeat(x, picks, axis=0) for x in (words, word_mask))
    rows = (example_index[:, None] * picks + jnp.arange(picks)[None]).reshape(-1)
    frame_mask = jnp.ones(frames.shape[:2], bool)
    if weights is not None:
        weights = weights.reshape(frame_mask.shape)
    memory = clip_stack(frames, frame_mask, rows, train, weights=weights)
    states = word_stack(words, word_mask, rows, train, memory, frame_mask, memory_weights=weights)
    logits = torch_linear(classes, states.astype(jnp.float32), jnp.float32, "completion")
    return logits.reshape(size, picks, *logits.shape[1:])


def completion_loss(
    logits: jax.Array,
    query: jax.Array,
    word_mask: jax.Array,
    smoothing: float,
    predict_end: bool | jax.Array,
) -> jax.Array:
    """Label-smoothed cross-entropy [B,Z] of logits [B,Z,L+1,X] with words [B,L], averaged over a sentence.

    Position l predicts word l, and the position after the last word the end, in all sentences or in those of
    `predict_end` [B]. The unknown word is none of the classes.
    """
    targets = jnp.pad(jnp.where(word_mask, query, END), ((0, 0), (0, 1)), constant_values=END)
    without_end = jnp.pad(word_mask, ((0, 0), (0, 1)))
    counted = jnp.where(jnp.reshape(predict_end, (-1, 1)), starts_of(word_mask), without_end)
    possible = jnp.arange(logits.shape[-1]) != UNKNOWN
    log_p = jax.nn.log_softmax(jnp.where(possible, logits, -jnp.inf))
    of_target = jnp.take_along_axis(log_p, targets[:, None, :, None], axis=-1)[..., 0]
    uniform = jnp.where(possible, log_p, 0.0).sum(-1) / possible.sum()
    nll = -(1 - smoothing) * of_target - smoothing * uniform
    nll = jnp.where(counted[:, None], nll, 0.0)
    return nll.sum(-1) / jnp.maximum(counted.sum(-1), 1)[:, None]


def shorter_than_longest(batch: Batch) -> jax.Array:
    """The sentences [B] that padding follows in a batch of no more words than its longest sentence has.

    Those alone predict their end in the official code, where so a loss depends on the rest of the batch.
    """
    lengths = jnp.where(batch.example_mask, batch.query_mask.sum(-1), 0)
    return lengths < gather_examples(lengths).max()


# Clips.


def sample(clips: jax.Array, spans: jax.Array, rows: int) -> jax.Array:
    """Returns [B,Z,R,F], R evenly spaced clips [B,T,F] of each candidate [B,Z,2], first and last included."""
    longest = clips.shape[1]
    # As numpy rounds them; a candidate has at least one clip.
    table = np.stack([np.linspace(0, max(n - 1, 0), rows).astype(np.int32) for n in range(longest + 1)])
    places = spans[..., :1] + jnp.asarray(table)[spans[..., 1] - spans[..., 0]]  # [B,Z,R]
    flat = places.reshape(places.shape[0], -1, 1)
    return jnp.take_along_axis(clips, flat, axis=1).reshape(*places.shape, clips.shape[-1])


def sample_whole(clips: jax.Array, clip_mask: jax.Array, rows: int) -> jax.Array:
    """Returns [B,R,F], R evenly spaced ones of the real clips [B,T,F] of a video."""
    count = clip_mask.sum(-1)
    return sample(clips, jnp.stack([jnp.zeros_like(count), count], axis=-1)[:, None], rows)[:, 0]


# Words.


def known_words(batch: Batch, vocab_size: int) -> Batch:
    """The batch with the sentences of the words that the vocabulary has, side by side (`BaseDataset`)."""
    return only_words(batch, (batch.query != UNKNOWN) & (batch.query < vocab_size))


def started(start: jax.Array, vectors: jax.Array) -> jax.Array:
    """Returns [B,L+1,W], word vectors [B,L,W] behind the start vector [W]."""
    start = jnp.broadcast_to(start[None, None], (vectors.shape[0], 1, vectors.shape[-1]))
    return jnp.concatenate([start, vectors], axis=1)


def starts_of(words: jax.Array, start: bool = True) -> jax.Array:
    """Returns [B,L+1] of words [B,L] bool, with `start` at the place of the start vector."""
    return jnp.pad(words, ((0, 0), (1, 0)), constant_values=start)


def sinusoids(length: int, features: int) -> jax.Array:
    """Returns a row [F] of each position p: sines, then cosines of p / 10000^(i / (F/2 - 1)); row 0: zeros."""
    rate = 10_000.0 ** (-np.arange(features // 2) / (features // 2 - 1))
    angle = np.arange(length)[:, None] * rate[None]
    table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    table[0] = 0
    return jnp.asarray(table, jnp.float32)


def hide(keys: jax.Array, word_mask: jax.Array, one_in: int, at_least: int = 0) -> jax.Array:
    """The words [B,L] bool with the highest keys [B,L]: one in `one_in` of each sentence, rounded down.

    Of equal keys the first are chosen. `at_least` is a number of words that a sentence which has them hides in
    any case. Source: `_mask_words` of the official code.
    """
    keys = jnp.where(word_mask, keys, -jnp.inf)
    place = jnp.argsort(jnp.argsort(-keys, axis=1), axis=1)
    count = jnp.maximum(word_mask.sum(1, keepdims=True) // one_in, at_least)
    return (place < count) & word_mask


def hidden_words(
    key: jax.Array | None, batch: Batch, content_weight: float, one_in: int, at_least: int = 0
) -> jax.Array:
    """Draws the words [B,L] bool that are hidden, as many as `hide` says, without replacement.

    The logit of a content word is `content_weight`, that of another word 1; with Gumbel noise the highest ones
    are a draw from their softmax. Without a random key it is the likeliest draw: the first content words, then
    the first others.
    """
    content: Any = batch.content_words
    logits = jnp.where(content, content_weight, 1.0)
    if key is not None:
        words = batch.query_mask.shape[1:]
        logits = logits + draw_per_example(key, batch.example_index, jax.random.gumbel, words)
    return hide(logits, batch.query_mask, one_in, at_least)
