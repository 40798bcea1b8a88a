"""A caption generator: a video encoder, soft masks of a segment, a recurrent decoder and its beam search.

Sentences are ids: those of `Batch.query` with END behind them, and the start, the largest id, before them.

Letters beyond the usual: X classes of words, the start included; Y words of a caption; Z rows that are
searched; U layers; E width of a word; k beams.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU, GRUCell
from vmr_jax.types import Batch

END = 0  # id behind the last word: that of padding
UNKNOWN = 1
LEAST = 1e-4  # official code of WSSL: DELTA


def sentences_of(batch: Batch, classes: int) -> tuple[jax.Array, jax.Array]:
    """Returns ids [B,L+2] with start and end, and their mask; X is `classes`, the start's id X - 1."""
    words = jnp.where(batch.query < classes - 1, batch.query, UNKNOWN)
    words = jnp.pad(jnp.where(batch.query_mask, words, END), ((0, 0), (1, 1)), constant_values=END)
    place = jnp.arange(words.shape[1])[None]
    return jnp.where(place == 0, classes - 1, words), place < batch.query_mask.sum(1)[:, None] + 2


def soft_masks(segment: jax.Array, mask: jax.Array, slope: float) -> jax.Array:
    """How much each clip is left of, in and right of a segment: [...,2], [...,T] -> [...,3,T].

    A segment is its centre and width in clips, of which clip i is at i; the slope is that of both ends.
    """
    place = jnp.arange(mask.shape[-1], dtype=jnp.float32).reshape(*(1,) * (mask.ndim - 1), -1)
    centre, width = segment[..., :1], segment[..., 1:]
    start, end = (slope * (place - (centre + side * width / 2)) for side in (-1, 1))
    masks = (nn.sigmoid(-start), nn.sigmoid(start) - nn.sigmoid(end), nn.sigmoid(end))
    return jnp.stack(masks, axis=-2) * mask[..., None, :]


class StackedEncoder(nn.Module):
    """A GRU of U layers whose states are all kept, and if asked with its input added to its output.

    Parameters: gru_0, gru_1, ..., and residual, a linear layer without bias.

    Attributes:
      features: F, width of every layer.
      layers: U.
      dropout: dropout rate of what a layer passes to the next.
      residual: whether the input is added to the output.
      dtype: number format of the products.
    """

    features: int
    layers: int
    dropout: float
    residual: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """[B,T,D] with right-padded mask [B,T] -> output [B,T,F] and states [B,T,U F], zero at padding."""
        y, states = x, []
        for i in range(self.layers):
            if i:
                y = Dropout(self.dropout, name=f"dropout_{i}")(y, example_index, train)
            y = GRU(self.features, dtype=self.dtype, name=f"gru_{i}")(y, mask)
            states.append(y)
        if self.residual:
            y = y + torch_linear(self.features, x, self.dtype, "residual", use_bias=False)
        return jnp.where(mask[..., None], y, 0), jnp.concatenate(states, axis=-1)


class CaptionGenerator(nn.Module):
    """Writes a sentence about a segment of a video (official code of WSSL: CaptionGenerator).

    Parameters: encoder; words [X,E]; cell_0, cell_1, ...; output, a linear layer.

    Attributes:
      classes: X.
      embedding: E, width of a word.
      features: F, width of every layer.
      layers: U.
      slope: of the soft masks at the ends of a segment, see `soft_masks`.
      dropout: dropout rate of what a layer passes to the next.
      dtype: number format of the products.
    """

    classes: int
    embedding: int
    features: int
    layers: int
    slope: float
    dropout: float
    dtype: jnp.dtype

    def setup(self):
        """Names the parts."""
        self.encoder = StackedEncoder(self.features, self.layers, self.dropout, True, self.dtype)
        self.words = self.param("words", nn.initializers.normal(1.0), (self.classes, self.embedding))
        self.cell = [GRUCell(self.features, self.dtype) for _ in range(self.layers)]
        self.between = [Dropout(self.dropout) for _ in range(self.layers - 1)]
        self.output = nn.Dense(self.classes, dtype=jnp.float32)

    def encode(self, video: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool):
        """Reads the video: output and states as of `StackedEncoder`."""
        return self.encoder(video.astype(self.dtype), mask, example_index, train)

    def segment(
        self, output: jax.Array, states: jax.Array, mask: jax.Array, segment: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Context [B,3F] of segments [B,2], and the decoder's first states [B,U,F], those where they end.

        A segment is its centre and width as shares of the video.
        """
        count = mask.sum(1)[:, None]
        masks = soft_masks(segment * count, mask, self.slope)
        total = jnp.einsum("bzt,btf->bzf", masks, output.astype(jnp.float32))
        context = (total / (masks.sum(-1, keepdims=True) + LEAST)).reshape(len(output), -1)
        end = jnp.minimum(segment[:, 0] + segment[:, 1] / 2, 1 - LEAST)
        place = (jax.lax.stop_gradient(end) * count[:, 0]).astype(jnp.int32)
        first = jnp.take_along_axis(states, place[:, None, None], axis=1)[:, 0]
        return context, first.reshape(len(output), self.layers, -1).astype(jnp.float32)

    def teach(
        self, sentences: jax.Array, context: jax.Array, first: jax.Array, example_index: jax.Array, train: bool
    ) -> jax.Array:
        """Log-probabilities [B,Y,X] of the next id behind each of [B,Y], the sentence itself being read."""

        def step(module, states, word):
            return module._next(states, word, context, example_index, train)

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        return scan(self, first, sentences)[1]

    def _next(self, states, word, context, example_index, train):
        """A step of the decoder: states [B,U,F], ids [B] -> the next states, log-probabilities [B,X]."""
        x = jnp.concatenate([self.words[word], context], axis=-1)
        new = []
        for i, cell in enumerate(self.cell):
            x = cell(states[:, i], x)
            new.append(x)
            if train and i < len(self.between):
                x = self.between[i](x, example_index, train)
        return jnp.stack(new, axis=1), jax.nn.log_softmax(self.output(x))

    def search(
        self, context: jax.Array, first: jax.Array, words: int, beams: int
    ) -> tuple[jax.Array, jax.Array]:
        """The likeliest sentence of up to `words` words that k beams find: ids [Z,Y] and their mask.

        A beam that ends leaves the search; the best of all that ended, and of those that run at the last word,
        is taken, without regard to its length (official code: forward_bmsearch).
        """
        chex.assert_rank([context, first], [2, 3])
        rows = len(context)
        context, first = (jnp.repeat(x, beams, axis=0) for x in (context, first))
        scores = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)[None].repeat(rows, 0)
        empty = jnp.full((rows, beams, words), END)
        best = jnp.full(rows, -jnp.inf), empty[:, 0], jnp.zeros(rows, jnp.int32)
        start = jnp.full(rows * beams, self.classes - 1)
        carry = (first, start, scores, empty, best)
        step = nn.scan(
            functools.partial(_search_step, context=context, beams=beams),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        (_, _, scores, written, best), _ = step(self, carry, jnp.arange(words))
        best = _better(best, scores, written, jnp.int32(words))
        return best[1], jnp.arange(words)[None] < best[2][:, None]


def _search_step(module, carry, place, *, context, beams):
    """Extends every beam [Z k] by a word; those that end are compared with the best sentence so far."""
    states, word, scores, written, best = carry
    states, log_probability = module._next(states, word, context, None, False)
    rows, classes = len(scores), log_probability.shape[-1]
    total = scores[..., None] + log_probability.reshape(rows, beams, classes)
    scores, picked = jax.lax.top_k(total.reshape(rows, -1), beams)
    parent, word = picked // classes, picked % classes
    states = states.reshape(rows, beams, *states.shape[1:])
    states = jnp.take_along_axis(states, parent[..., None, None], axis=1).reshape(-1, *states.shape[2:])
    written = jnp.take_along_axis(written, parent[..., None], axis=1).at[:, :, place].set(word)
    ended = word == END
    best = _better(best, jnp.where(ended, scores, -jnp.inf), written, place)
    scores = jnp.where(ended, -jnp.inf, scores)
    return (states, word.reshape(-1), scores, written, best), None


def _better(best, scores, written, length):
    """The best sentence (score [Z], ids [Z,Y], length [Z]), or a better one among the beams [Z,k]."""
    beam = scores.argmax(1)
    score = jnp.take_along_axis(scores, beam[:, None], axis=1)[:, 0]
    ids = jnp.take_along_axis(written, beam[:, None, None], axis=1)[:, 0]
    better = score > best[0]
    return (
        jnp.where(better, score, best[0]),
        jnp.where(better[:, None], ids, best[1]),
        jnp.where(better, length, best[2]),
    )
