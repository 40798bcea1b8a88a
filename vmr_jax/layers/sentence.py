"""One vector per query: one that comes with the data, or one made of its words."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.recurrent import LSTM, last_state, mean_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.types import Batch

SENTENCE_VECTORS = ("sentence", "mean", "lstm")


def read_fields(kind: str) -> tuple[str, ...]:
    """Names the field of the batch that `SentenceVector` of a kind cannot do without, if any."""
    return ("sentence",) if kind == "sentence" else ()


class SentenceVector(nn.Module):
    """`batch.sentence` (such as a skip-thought vector), the mean of the word vectors, or an LSTM's last state.

    Attributes:
      kind: source of the vector, one of `SENTENCE_VECTORS`.
      features: number of units of the LSTM.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      dtype: number format of the result.
    """

    kind: str
    features: int
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch) -> jax.Array:
        """Returns [B,D]; UserError where the batch has no sentence vectors."""
        if self.kind == "sentence":
            if batch.sentence is None:
                raise UserError(
                    "The architecture reads a vector of the whole query, and this batch has none (sentence). "
                    "Set config.text.sentence_features to a file of them, or config.model.text to 'lstm' or "
                    "'mean', which read word vectors."
                )
            return batch.sentence.astype(self.dtype)
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        if self.kind == "lstm":
            states = LSTM(self.features, dtype=self.dtype, name="lstm")(words, batch.query_mask)
            return last_state(states, batch.query_mask)
        total = jnp.where(batch.query_mask[..., None], words, 0).sum(1)
        return total / jnp.maximum(batch.query_mask.sum(1), 1)[:, None].astype(self.dtype)


class MeanState(nn.Module):
    """A sentence from word vectors: the mean state of a bidirectional LSTM ('lstm').

    Attributes:
      features: F, width of the result; even, half for each direction.
      dtype: number format of the result.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps [B,L,W] with right-padded mask [B,L] to [B,F]; zero without a word. UserError for an odd F."""
        if self.features % 2:
            raise UserError(
                f"The bidirectional LSTM of the query is {self.features} wide; it must be even, half for each "
                "direction."
            )
        states = LSTM(self.features // 2, bidirectional=True, dtype=self.dtype, name="lstm")(words, mask)
        return mean_state(states, mask)
