"""Attention under masks."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.dropout import Dropout

MASKED = -1e30  # a logit that no softmax sees


def masked_softmax(logits: jax.Array, mask: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax in float32 over the entries of `mask` (broadcast); zero elsewhere, and where nothing is real."""
    logits = jnp.where(mask, logits.astype(jnp.float32), MASKED)
    return jnp.where(mask, jax.nn.softmax(logits, axis=axis), 0.0)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with H heads (Vaswani et al., 2017), without an output projection.

    Parameters: query, key, value, linear layers with bias.

    Attributes:
      features: D, width of the result, a multiple of `heads`.
      heads: H.
      dropout: of the attention weights.
      kernel_init: of the three linear layers.
      dtype: of the computation; the softmax is float32.
    """

    features: int
    heads: int
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, keys: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool
    ) -> jax.Array:
        """[B,T,D], [B,S,D], mask of the keys [B,S] -> [B,T,D]."""
        chex.assert_shape(mask, keys.shape[:2])
        split = (self.heads, self.features // self.heads)

        def project(x, name):
            y = nn.Dense(self.features, kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], *split)

        q, k, v = project(queries, "query"), project(keys, "key"), project(keys, "value")
        logits = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(split[1]).astype(self.dtype)
        weights = masked_softmax(logits, mask[:, None, None, :]).astype(self.dtype)
        weights = Dropout(self.dropout, name="weights")(weights, example_index, train)
        return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(*queries.shape[:2], self.features)
