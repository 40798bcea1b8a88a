"""From a batch's query to word vectors, and from subwords to the first states of a text encoder."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.types import Batch

FIRST_WORD = 2  # ids below are padding and the unknown word


class WordEmbedding(nn.Module):
    """Pretrained word vectors, frozen or fine-tuned.

    Fine-tuning learns the offset of each word from its pretrained vector, which is zero at first. So the
    pretrained table (of the batch) is no parameter, and a word never seen in training keeps its vector.

    Attributes:
      vocab_size: number of words in the vocabulary, padding and unknown included; 0 freezes the vectors.
      dtype: number format of the result.
      unknown: initialiser of one learned vector 'unknown' [1,W] for all words without a pretrained one; None
        leaves them zero.
    """

    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32
    unknown: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, batch: Batch) -> jax.Array:
        """Returns word vectors [B,L,W]; padding and words outside the vocabulary get no offset."""
        vectors = batch.query_vectors
        if self.unknown is not None:
            absent = batch.query_mask & ~jnp.any(vectors != 0, axis=-1)
            vector = self.param("unknown", self.unknown, (1, vectors.shape[-1]))
            vectors = vectors + jnp.where(absent[..., None], vector[None], 0.0)
        if self.vocab_size:
            shape = (self.vocab_size, vectors.shape[-1])
            offset = self.param("offset", nn.initializers.zeros, shape)
            known = (batch.query >= FIRST_WORD) & batch.query_mask
            vectors = vectors + jnp.where(known[..., None], offset[batch.query], 0.0)
        return vectors.astype(self.dtype)


def only_words(batch: Batch, kept: jax.Array) -> Batch:
    """The batch with the sentences of the words [B,L] bool that are kept, side by side; all else is padding."""
    kept = batch.query_mask & kept
    order = jnp.argsort(~kept, axis=1, stable=True)
    mask = jnp.take_along_axis(kept, order, axis=1)

    def words(x: jax.Array) -> jax.Array:
        x = jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)
        return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))

    return dataclasses.replace(
        batch,
        query=words(batch.query),
        query_vectors=words(batch.query_vectors),
        query_mask=mask,
        content_words=None if batch.content_words is None else words(batch.content_words),
    )


def words_with_vectors(batch: Batch, vocab_size: int) -> Batch:
    """The batch with the sentences of the words that have a vector, pretrained or learnt."""
    known = jnp.any(batch.query_vectors != 0, axis=-1)
    return only_words(batch, known | (batch.query >= FIRST_WORD) if vocab_size else known)


class SubwordEmbedding(nn.Module):
    """The sum of a learned vector of every subword and of every place, as pretrained text encoders have it.

    Parameters: words (a row for each of `vocab_size` subwords) and positions (one for each of `max_positions`
    places), both normal at first.

    Attributes:
      vocab_size: number of subwords in the vocabulary.
      features: F, width of the result.
      max_positions: number of subwords in the longest sentence.
      words_std: standard deviation of `words` at first.
      positions_std: standard deviation of `positions` at first.
      dtype: number format of the result.
    """

    vocab_size: int
    features: int
    max_positions: int
    words_std: float = 0.02
    positions_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, subwords: jax.Array) -> jax.Array:
        """Maps [B,S] int32 ids to [B,S,F].

        Raises UserError where S is above max_positions.
        """
        length = subwords.shape[1]
        if length > self.max_positions:
            raise UserError(
                f"The queries have {length} subwords, but the text encoder has only {self.max_positions} "
                f"positions. Set config.text.max_subwords to {self.max_positions} or less."
            )
        shape = (self.vocab_size, self.features)
        words = self.param("words", nn.initializers.normal(self.words_std), shape)
        shape = (self.max_positions, self.features)
        positions = self.param("positions", nn.initializers.normal(self.positions_std), shape)
        return (words[subwords] + positions[None, :length]).astype(self.dtype)
