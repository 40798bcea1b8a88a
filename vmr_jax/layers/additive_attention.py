"""Attention whose scores are the sum of a query's and a key's projection (Bahdanau et al., ICLR 2015)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.linear import torch_linear


class AdditiveAttention(nn.Module):
    """Each query's mean of the keys, weighed by softmax(w . tanh(W_q q + b + W_k k)).

    Parameters: query (with bias), key, score, linear layers.

    Attributes:
      features: E, width of the two projections.
      dtype: number format of the products; the softmax is float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        """Queries [B,T,D], keys [B,L,F], mask of the keys [B,L] -> [B,T,F]."""
        chex.assert_shape(mask, keys.shape[:2])
        q = torch_linear(self.features, queries, self.dtype, "query")
        k = torch_linear(self.features, keys, self.dtype, "key", use_bias=False)
        hidden = jnp.tanh(q[:, :, None] + k[:, None])
        scores = torch_linear(1, hidden, self.dtype, "score", use_bias=False)[..., 0]
        weights = masked_softmax(scores, mask[:, None, :]).astype(self.dtype)
        return jnp.einsum("btl,blf->btf", weights, keys)
