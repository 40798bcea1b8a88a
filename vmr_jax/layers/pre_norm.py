"""Parts that the towers of CLIP and SigLIP share: layers that normalise first, and patches of an image.

Axes beyond the usual: I side of a square image in pixels, Z steps of a sequence, or patches of an image.
"""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import MultiHeadAttention

_glorot = nn.initializers.xavier_uniform()


class PreNormLayer(nn.Module):
    """Attention and a feed-forward network, each of the normalised states and added to them.

    Attributes:
      features: F, width of the states, a multiple of `heads`.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      activation: function between the two layers of the feed-forward network.
      epsilon: number that is added to the variances.
      causal: whether a step sees only those up to itself.
      attention_init: initialiser of the queries, keys and values.
      output_init: initialiser of the two layers whose results are added.
      hidden_init: initialiser of the first layer of the feed-forward network.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    hidden: int
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float
    causal: bool = False
    attention_init: nn.initializers.Initializer = _glorot
    output_init: nn.initializers.Initializer = _glorot
    hidden_init: nn.initializers.Initializer = _glorot
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the next states [B,Z,F] of states [B,Z,F] and their mask [B,Z]."""
        chex.assert_shape(mask, x.shape[:2])
        attention = MultiHeadAttention(
            self.features,
            self.heads,
            causal=self.causal,
            kernel_init=self.attention_init,
            dtype=self.dtype,
            name="attention",
        )
        y = layer_norm("attention_norm", self.epsilon, self.dtype)(x)
        y = attention(y, y, mask, no_draws(x), train=False)
        x = x + self._dense(self.features, self.output_init, "output")(y)
        y = layer_norm("feed_forward_norm", self.epsilon, self.dtype)(x)
        y = self._dense(self.hidden, self.hidden_init, "hidden")(y)
        return x + self._dense(self.features, self.output_init, "feed_forward")(self.activation(y))

    def _dense(self, features: int, init: nn.initializers.Initializer, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)


class Patches(nn.Module):
    """A linear layer over the pixels of each square patch: a convolution as wide as its steps.

    Attributes:
      features: F, width of the result.
      patch: side of a patch in pixels.
      use_bias: whether the layer has a bias.
      dtype: number format of the computation.
    """

    features: int
    patch: int
    use_bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B,I,I,3] to their patches [B,Z,F], row by row; I is a multiple of `patch`."""
        b, side = images.shape[:2]
        chex.assert_shape(images, (b, side, side, 3))
        grid = side // self.patch
        x = images.reshape(b, grid, self.patch, grid, self.patch, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, grid * grid, -1)
        return nn.Dense(self.features, use_bias=self.use_bias, dtype=self.dtype, name="linear")(x)


def layer_norm(name: str, epsilon: float, dtype: jnp.dtype) -> nn.LayerNorm:
    """A layer normalisation in two passes, as PyTorch's."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def no_draws(x: jax.Array) -> jax.Array:
    """Positions in the split [B] for an attention without dropout, which draws nothing."""
    return jnp.zeros(x.shape[:1], jnp.int32)


def every_step(x: jax.Array) -> jax.Array:
    """The mask [B,Z] of a sequence [B,Z,F] without padding."""
    return jnp.ones(x.shape[:2], bool)
