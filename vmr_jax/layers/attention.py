"""Attention under masks. Axes beyond the usual: Z keys that a query attends to."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.dropout import Dropout

MASKED = -1e30  # a logit that no softmax sees


def masked_softmax(logits: jax.Array, mask: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax in float32 over the entries of `mask` (broadcast); zero elsewhere, and where nothing is real."""
    logits = jnp.where(mask, logits.astype(jnp.float32), MASKED)
    return jnp.where(mask, jax.nn.softmax(logits, axis=axis), 0.0)


def attention_weights(
    queries: jax.Array,
    keys: jax.Array,
    mask: jax.Array,
    key_weights: jax.Array | None = None,
    alike: jax.Array | None = None,
) -> jax.Array:
    """Weights [B,H,T,Z] of scaled dot products of queries [B,T,H,F] and keys [B,Z,H,F], under a mask.

    The mask is broadcast to [B,H,T,Z]. With `key_weights` [B,Z] in [0,1] the weights are multiplied by them and
    divided by their sum. Queries of `alike` [B,T] weigh all keys of their mask alike, with the gradients of
    their logits. The softmax is float32, the result has the dtype of the queries.
    """
    logits = jnp.einsum("bthf,bzhf->bhtz", queries, keys) / jnp.sqrt(queries.shape[-1]).astype(queries.dtype)
    if key_weights is not None:
        # Added before the softmax, which divides by the sum; 1e-10 as in the official code of CNM.
        logits = logits + jnp.log(key_weights.astype(jnp.float32) + 1e-10)[:, None, None]
    if alike is not None:
        logits = jnp.where(alike[:, None, :, None], logits - jax.lax.stop_gradient(logits), logits)
    return masked_softmax(logits, mask).astype(queries.dtype)


def attended(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Sums values [B,Z,H,F] with weights [B,H,T,Z], the heads side by side: [B,T,H F]."""
    y = jnp.einsum("bhtz,bzhf->bthf", weights, values)
    return y.reshape(*y.shape[:2], -1)


def check_heads(owner: str, width: int, heads: int) -> None:
    """Raises UserError where the heads of the architecture `owner` cannot share clips of this width."""
    if width % heads:
        raise UserError(
            f"{heads} heads cannot share {width} features equally. Set config.model.heads of {owner} to a "
            "divisor of the features' width, or config.model.projection to a multiple of the heads."
        )


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with H heads (Vaswani et al., 2017), without an output projection.

    Parameters: query, key, value, linear layers with bias.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: H, number of attention heads.
      dropout: dropout rate of the attention weights.
      kernel_init: initialiser of the weights of the three linear layers.
      dtype: number format of the computation; the softmax is float32.
      causal: whether a query sees only the keys up to its own place (then T = Z).
      bias_init: initialiser of the biases of the three linear layers.
      band: number of places by which a key may be away from the query (then T = Z); None: any.
    """

    features: int
    heads: int
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    band: int | None = None

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        keys: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        values: jax.Array | None = None,
        key_weights: jax.Array | None = None,
        alike: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of queries [B,T,D], keys and values (None: the keys) [B,Z,D] and their mask [B,Z].

        With `key_weights` [B,Z] in [0,1] the attention weights are multiplied by them and divided by their sum.
        The mask may be [B,H,T,Z] too, of the keys that each head sees from each query. Queries [B,T] of `alike`
        weigh all its keys [B,Z] or [1,Z] alike, as padded ones do in official code that adds -1e30 to all of
        their logits; the gradients of these are kept.
        """
        if mask.ndim != 4:
            chex.assert_shape(mask, keys.shape[:2])
        values = keys if values is None else values
        chex.assert_shape(values, (*keys.shape[:2], None))
        split = (self.heads, self.features // self.heads)

        def project(x, name):
            y = nn.Dense(
                self.features,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                name=name,
            )(x)
            return y.reshape(*x.shape[:2], *split)

        q, k, v = project(queries, "query"), project(keys, "key"), project(values, "value")
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask
        if self.causal:
            mask = mask & jnp.tri(queries.shape[1], keys.shape[1], dtype=bool)[None, None]
        if self.band is not None:
            place = jnp.arange(queries.shape[1])
            mask = mask & (jnp.abs(place[:, None] - place[None, :]) <= self.band)[None, None]
        if alike is not None:
            mask = jnp.where(alike[0][:, None, :, None], alike[1][:, None, None, :], mask)
        weights = attention_weights(q, k, mask, key_weights, alike[0] if alike else None)
        weights = Dropout(self.dropout, name="weights")(weights, example_index, train)
        return attended(weights, v)
