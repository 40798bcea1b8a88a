"""From a batch's query to word vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.types import Batch

FIRST_WORD = 2  # ids below are padding and the unknown word


class WordEmbedding(nn.Module):
    """Pretrained word vectors, frozen or fine-tuned.

    Fine-tuning learns the offset of each word from its pretrained vector, which is zero at first. So the
    pretrained table (of the batch) is no parameter, and a word never seen in training keeps its vector.

    Attributes:
      vocab_size: words in the vocabulary, padding and unknown included; 0 freezes the vectors.
      dtype: of the result.
    """

    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch) -> jax.Array:
        """Returns word vectors [B,L,W]; padding and unknown words get no offset."""
        vectors = batch.query_vectors
        if self.vocab_size:
            shape = (self.vocab_size, vectors.shape[-1])
            offset = self.param("offset", nn.initializers.zeros, shape)
            known = (batch.query >= FIRST_WORD) & batch.query_mask
            vectors = vectors + jnp.where(known[..., None], offset[batch.query], 0.0)
        return vectors.astype(self.dtype)
