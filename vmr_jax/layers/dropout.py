"""Dropout that does not depend on how a batch is shared among devices."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.kernels import kernels_in_use
from vmr_jax.kernels.bernoulli import bernoulli


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) with a mask per example.

    The mask is drawn from the random stream 'dropout' and the example's position in its split, so an example
    has the same mask on any device and in any place of the batch.

    Attributes:
      rate: probability that a number becomes zero.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """[B,...] and positions [B] -> [B,...]; the identity where `train` is False or the rate is 0."""
        chex.assert_shape(example_index, x.shape[:1])
        if not train or not self.rate:
            return x
        key = self.make_rng("dropout")
        draw = bernoulli if kernels_in_use() else jax.random.bernoulli  # the same booleans

        def one(index, row):
            keep = draw(jax.random.fold_in(key, index), 1.0 - self.rate, row.shape)
            return jnp.where(keep, row / (1.0 - self.rate), jnp.zeros_like(row))

        return jax.vmap(one)(example_index, x)
