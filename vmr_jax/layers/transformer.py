"""Transformer layers that normalise after every sum (Vaswani et al., NeurIPS 2017), with DETR's positions.

Positions are added to the queries and keys of every attention, never to the values (Carion et al., ECCV 2020).
Weights are Glorot uniform, as those of torch.nn.MultiheadAttention and of DETR.

Axes beyond the usual: Z steps of a memory, or keys, that are attended to.
"""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import MultiHeadAttention
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_bias

glorot = nn.initializers.xavier_uniform()
# PyTorch draws query, key and value as one matrix [3F,F]: U(-a, a) with a = sqrt(6 / (F + 3F)).
_joint_glorot = nn.initializers.variance_scaling(0.5, "fan_in", "uniform")


def sine_positions(mask: jax.Array, features: int) -> jax.Array:
    """Positions [B,T,F] of the real steps of `mask` [B,T], float32: the last real step is at 2 pi.

    Dimensions 2i and 2i + 1 are the sine and the cosine of position / 10000^(2i / F) (DETR's normalised
    positions, along one axis). F is even.
    """
    place = jnp.cumsum(mask, axis=1, dtype=jnp.float32)
    return sines(place / (place[:, -1:] + 1e-6) * (2 * math.pi), features)


def sines(place: jax.Array, features: int) -> jax.Array:
    """Sines and cosines [B,T,F] of places [B,T], side by side: of place / 10000^(2i / F). F is even."""
    rate = 10_000.0 ** (jnp.arange(0, features, 2) / features)
    angle = place[:, :, None] / rate[None, None, :]
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*place.shape, features)


class Attention(nn.Module):
    """Multi-head attention with an output projection, as torch.nn.MultiheadAttention.

    Parameters: heads/query, heads/key, heads/value and out, linear layers; the official in_proj holds the first
    three on top of each other.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights.
      dtype: number format of the computation.
      causal: whether a query sees only the keys up to its own place (then T = Z).
      band: number of places by which a key may be away from the query (then T = Z); None: any.
    """

    features: int
    heads: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    band: int | None = None

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        key_weights: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of queries [B,T,D], keys and values [B,Z,D], their mask and their weights [B,Z]."""
        heads = MultiHeadAttention(
            self.features,
            self.heads,
            self.dropout,
            kernel_init=_joint_glorot,
            dtype=self.dtype,
            causal=self.causal,
            band=self.band,
            name="heads",
        )
        attended = heads(queries, keys, mask, example_index, train, values=values, key_weights=key_weights)
        return nn.Dense(self.features, kernel_init=glorot, dtype=self.dtype, name="out")(attended)


class PostNormLayer(nn.Module):
    """The parts that the kinds of layers share.

    Attributes:
      features: F, width of the layer, a multiple of `heads`.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      dropout: dropout rate of the attention weights, inside the feed-forward network and before every sum.
      dtype: number format of the computation.
      learned_slope: whether the feed-forward network's ReLU has a learned slope below zero, 1/4 at first
        (torch.nn.PReLU; parameter slope/negative_slope).
    """

    features: int
    heads: int
    hidden: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    learned_slope: bool = False

    def _attention(self, name: str) -> Attention:
        return Attention(self.features, self.heads, self.dropout, self.dtype, name=name)

    def _drop(self, x, example_index, train):
        return Dropout(self.dropout)(x, example_index, train)

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)(x)

    def _feed_forward(
        self, x: jax.Array, example_index: jax.Array, train: bool, residual: jax.Array | None = None
    ) -> jax.Array:
        """The feed-forward network, the sum with `residual` (None: its input), and the norm."""
        y = self._linear(self.hidden, x, "hidden")
        y = nn.PReLU(negative_slope_init=0.25, name="slope")(y) if self.learned_slope else nn.relu(y)
        y = self._linear(self.features, self._drop(y, example_index, train), "output")
        residual = x if residual is None else residual
        return self._norm(residual + self._drop(y, example_index, train), "output_norm")

    def _linear(self, features: int, x: jax.Array, name: str) -> jax.Array:
        bias = torch_bias(x.shape[-1])
        return nn.Dense(features, kernel_init=glorot, bias_init=bias, dtype=self.dtype, name=name)(x)


class EncoderLayer(PostNormLayer):
    """Self-attention and a feed-forward network.

    Parameters: attention, attention_norm; hidden, output, output_norm.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,F] with mask and positions; the result at padding is meaningless."""
        chex.assert_shape(x, (*mask.shape, self.features))
        placed = _placed(x, positions)
        y = self._attention("attention")(placed, placed, x, mask, example_index, train)
        x = self._norm(x + self._drop(y, example_index, train), "attention_norm")
        return self._feed_forward(x, example_index, train)


class DecoderLayer(PostNormLayer):
    """Self-attention of the queries, attention to a memory, and a feed-forward network.

    Parameters: attention, attention_norm; memory_attention, memory_norm; hidden, output, output_norm.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        mask: jax.Array,
        memory_mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        positions: jax.Array | None = None,
        memory_positions: jax.Array | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of queries [B,T,F] and a memory [B,Z,D] with their masks and positions."""
        chex.assert_shape(x, (*mask.shape, self.features))
        chex.assert_shape(memory, (*memory_mask.shape, None))
        placed = _placed(x, positions)
        y = self._attention("attention")(placed, placed, x, mask, example_index, train)
        x = self._norm(x + self._drop(y, example_index, train), "attention_norm")
        keys = _placed(memory, memory_positions)
        attention = self._attention("memory_attention")
        y = attention(_placed(x, positions), keys, memory, memory_mask, example_index, train)
        x = self._norm(x + self._drop(y, example_index, train), "memory_norm")
        return self._feed_forward(x, example_index, train)


def _placed(x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """The sum of `x` and its positions; `x` itself where there are none."""
    if positions is None:
        return x
    chex.assert_equal_shape([x, positions])
    return x + positions.astype(x.dtype)
