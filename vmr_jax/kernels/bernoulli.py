"""Random booleans in one pass through the memory: twin of `jax.random.bernoulli`, equal to the bit."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def bernoulli(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """Booleans of the given shape, each True with probability p: those of `jax.random.bernoulli`.

    On the CPU, JAX's own goes through the memory once in each of four rounds of the cipher; this is one pass,
    together with the layer that uses the booleans.
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
