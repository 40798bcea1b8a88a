"""A query as its word vectors and a convolution over the characters of each word."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.padding import batch_steps
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.types import Batch

# Characters seen at once, and channels (VSLNet's official `CharacterEmbedding`).
_KERNELS = ((1, 10), (2, 20), (3, 30), (4, 40))
_xavier = nn.initializers.xavier_uniform()


class QueryEmbedding(nn.Module):
    """Word vectors and a convolution over characters (Kim, EMNLP 2014), then a linear layer.

    Attributes:
      features: F, width of the result.
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of word vectors and characters.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them.
      dtype: number format of the layers.
      official_padding: whether every word has the windows of the batch's longest, padded words too, as in
        VSLNet's official code; else the windows within a word.
      characters_init: how the table of characters starts.
    """

    features: int
    char_features: int
    num_chars: int
    dropout: float
    vocab_size: int
    dtype: jnp.dtype
    official_padding: bool = False
    characters_init: Initializer = _xavier

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L,F]."""
        chex.assert_shape(batch.query_chars, (*batch.query.shape, None))
        vectors = WordEmbedding(self.vocab_size, jnp.float32, name="vectors")(batch)
        unknown = self.param("unknown", _xavier, (1, vectors.shape[-1]))
        # A word that the table of word vectors lacks has the vector zero.
        absent = batch.query_mask & ~jnp.any(batch.query_vectors != 0, axis=-1)
        vectors = vectors + jnp.where(absent[..., None], unknown[None], 0.0)
        vectors = Dropout(self.dropout)(vectors.astype(self.dtype), batch.example_index, train)
        words = jnp.concatenate([vectors, self._characters(batch, train)], axis=-1)
        return xavier_linear(self.features, words, self.dtype, "linear")

    def _characters(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L,100], the maximum over windows of 1 to 4 characters; a shorter word has one window."""
        ids = jnp.asarray(batch.query_chars)
        real = ids > 0
        length = real.sum(-1, keepdims=True)
        if self.official_padding:
            longest = batch_steps(real.any(1), batch.example_mask).sum()
            length = jnp.full_like(length, longest)
        begin = jnp.arange(real.shape[-1])[None, None]
        table = self.param("characters", self.characters_init, (self.num_chars, self.char_features))
        chars = table[jnp.minimum(ids, self.num_chars - 1)]
        chars = jnp.where(real[..., None], chars, 0.0).astype(self.dtype)
        chars = Dropout(self.dropout)(chars, batch.example_index, train)
        found = []
        for width, channels in _KERNELS:
            conv = nn.Conv(
                channels,
                (1, width),
                padding=((0, 0), (0, width - 1)),
                kernel_init=_xavier,
                dtype=self.dtype,
                name=f"char_conv_{width}",
            )
            inside = (begin + width <= length) | ((begin == 0) & (length > 0))
            found.append(jnp.where(inside[..., None], nn.relu(conv(chars)), 0).max(axis=2))
        return jnp.concatenate(found, axis=-1)
