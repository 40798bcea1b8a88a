"""A linear layer as PyTorch starts it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.init import torch_bias, torch_default_kernel


def torch_linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str, use_bias: bool = True) -> jax.Array:
    """[...,D] -> [...,features]: a layer `name` of the calling module, which starts as torch.nn.Linear."""
    layer = nn.Dense(
        features,
        use_bias,
        kernel_init=torch_default_kernel,
        bias_init=torch_bias(x.shape[-1]),
        dtype=dtype,
        name=name,
    )
    return layer(x)
