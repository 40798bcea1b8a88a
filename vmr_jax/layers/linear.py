"""Linear layers as PyTorch starts them, and with Glorot's uniform weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.init import torch_bias, torch_default_kernel


def torch_dense(features: int, inputs: int, dtype: jnp.dtype, name: str, use_bias: bool = True) -> nn.Dense:
    """A layer `name` of the calling module for `inputs` features, which starts as torch.nn.Linear."""
    return nn.Dense(
        features,
        use_bias,
        kernel_init=torch_default_kernel,
        bias_init=torch_bias(inputs),
        dtype=dtype,
        name=name,
    )


def torch_linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str, use_bias: bool = True) -> jax.Array:
    """Maps [...,D] to [...,F] by a `torch_dense` that is used once; F is `features`."""
    return torch_dense(features, x.shape[-1], dtype, name, use_bias)(x)


def xavier_linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str, use_bias: bool = True) -> jax.Array:
    """Maps [...,D] to [...,F] by a layer `name` whose weights are Glorot uniform at first, biases zero."""
    kernel_init = nn.initializers.xavier_uniform()
    return nn.Dense(features, use_bias, kernel_init=kernel_init, dtype=dtype, name=name)(x)
