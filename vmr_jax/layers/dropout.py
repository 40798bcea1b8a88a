"""Dropout that does not depend on how a batch is shared among devices."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) with a mask per example.

    The mask is drawn from the random stream 'dropout' and the example's position in its split, so an example
    has the same mask on any device and in any place of the batch.

    Attributes:
      rate: probability of a zero.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """[B,...] and positions [B] -> [B,...]; the identity where `train` is False or the rate is 0."""
        chex.assert_shape(example_index, x.shape[:1])
        if not train or not self.rate:
            return x
        key = self.make_rng("dropout")

        def one(index, row):
            keep = bernoulli(jax.random.fold_in(key, index), 1.0 - self.rate, row.shape)
            return jnp.where(keep, row / (1.0 - self.rate), jnp.zeros_like(row))

        return jax.vmap(one)(example_index, x)


def bernoulli(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.bernoulli`: booleans of the given shape, each True with probability p.

    The same numbers without a loop: on the CPU, JAX's own goes through the memory once in four rounds of the
    cipher, where this is one pass together with what uses it.
    """
    k0, k1 = jax.random.key_data(key)[:2]  # a key of four words ('rbg') is two keys of Threefry
    count = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    high, low = _threefry(k0, k1, jnp.zeros_like(count), count)
    uniform = ((high ^ low) >> 9).astype(jnp.float32) * np.float32(2**-23)  # [0, 1) in steps of 2^-23
    return uniform < p


def _threefry(k0, k1, x0, x1):
    """Threefry-2x32 of 20 rounds (Salmon et al., SC 2011): the pair of uint32 x under the key k."""
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << turn | x1 >> 32 - turn) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
