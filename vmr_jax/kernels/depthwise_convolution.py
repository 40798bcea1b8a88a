"""A depthwise convolution over time as a sum of shifted products: twin of XLA's grouped convolution."""

from typing import Any

import chex
import jax
import jax.numpy as jnp


def shifted_products(
    x: jax.Array, kernel: jax.Array, strides, padding, *, feature_group_count: int, **unused
) -> jax.Array:
    """[B,T,F] and a kernel for every feature [k,1,F] -> [B,T',F], k being the steps that a kernel sees.

    Called as `jax.lax.conv_general_dilated` is, whose grouped convolution is several times slower on the CPU.
    Only what `depthwise_conv` asks for is done: stride 1, no dilation, F groups, explicit padding.
    """
    del strides, unused
    size = kernel.shape[0]
    chex.assert_shape(kernel, (size, 1, x.shape[-1]))
    chex.assert_equal(feature_group_count, x.shape[-1])
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    length = padded.shape[1] - size + 1
    total: Any = sum(padded[:, i : i + length] * kernel[i : i + 1] for i in range(size))
    return total
