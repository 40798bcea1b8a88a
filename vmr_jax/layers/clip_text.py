"""The text tower of CLIP ViT-B/32: the text encoder of VDI (Radford et al., ICML 2021).

A transformer with causal attention, layer normalisations before each block and the "quick" GELU,
x * sigmoid(1.702 x). Its weights come in through `vmr_jax.torch_import.text_encoders`.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import MultiHeadAttention
from vmr_jax.layers.recurrent import last_state
from vmr_jax.layers.text import SubwordEmbedding


class ClipText(nn.Module):
    """Maps subwords to the states of all subwords, and to the sentence in the space shared with CLIP's images.

    Attributes:
      vocab_size: number of subwords in CLIP's byte-pair vocabulary.
      features: F, width of the states, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads; CLIP's are 64 wide.
      max_positions: number of subwords in the longest sentence, special tokens included.
      project: E, width of the space shared with images.
      dtype: number format of the computation; parameters are float32.
    """

    vocab_size: int = 49408
    features: int = 512
    layers: int = 12
    heads: int = 8
    max_positions: int = 77
    project: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, subwords: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps [B,S] int32 with begin and end tokens, and mask [B,S], to states [B,S,F] and sentence [B,E].

        The states are those after the last layer normalisation, zero at padding. The sentence is the projected
        state of the last real subword, the end token. Padding is on the right.
        """
        x = SubwordEmbedding(
            self.vocab_size,
            self.features,
            self.max_positions,
            positions_std=0.01,
            dtype=self.dtype,
            name="embedding",
        )(subwords)
        for i in range(self.layers):
            x = _Layer(self.features, self.heads, self.layers, self.dtype, name=f"layer_{i}")(x, mask)
        states = jnp.where(mask[..., None], _norm("norm", self.dtype)(x), 0)
        projection = nn.Dense(
            self.project,
            use_bias=False,
            kernel_init=nn.initializers.normal(self.features**-0.5),
            dtype=self.dtype,
            name="projection",
        )
        return states, projection(last_state(states, mask))


class _Layer(nn.Module):
    """Attention and a feed-forward network, each added to its input.

    Attributes:
      features: F, width of the states.
      heads: number of attention heads.
      depth: number of layers of the whole encoder, by which the first weights are scaled.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    depth: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the next states [B,S,F] of states [B,S,F]."""
        chex.assert_shape(mask, x.shape[:2])
        inside, outside = self.features**-0.5, (2 * self.depth * self.features) ** -0.5
        attention = MultiHeadAttention(
            self.features,
            self.heads,
            causal=True,
            kernel_init=nn.initializers.normal(inside),
            dtype=self.dtype,
            name="attention",
        )
        y = _norm("attention_norm", self.dtype)(x)
        unused = jnp.zeros(x.shape[:1], jnp.int32)  # the attention has no dropout, so no draws per example
        y = attention(y, y, mask, unused, train=False)
        x = x + self._dense(self.features, outside, "output")(y)
        y = _norm("feed_forward_norm", self.dtype)(x)
        y = self._dense(4 * self.features, (2 * self.features) ** -0.5, "hidden")(y)
        return x + self._dense(self.features, outside, "feed_forward")(_quick_gelu(y))

    def _dense(self, features: int, std: float, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=nn.initializers.normal(std), dtype=self.dtype, name=name)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)
