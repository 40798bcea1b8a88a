"""Padding as official programs have it: a batch reaches to its longest example, and some layers see it."""

import chex
import jax
import jax.numpy as jnp

from vmr_jax.parallel import sum_over_devices


def batch_steps(mask: jax.Array, example_mask: jax.Array) -> jax.Array:
    """Returns [1,T] bool, the steps that the longest real example of all devices has, of right-padded [B,T].

    A program that pads a batch to its longest example alone has no others.
    """
    chex.assert_shape(example_mask, mask.shape[:1])
    longest = jnp.any(mask & example_mask[:, None], axis=0, keepdims=True)
    return sum_over_devices(longest.astype(jnp.float32)) > 0
