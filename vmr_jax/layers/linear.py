"""Linear layers as PyTorch starts them, and with Glorot's uniform weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.dropout import Dropout
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


def project_twice(
    x: jax.Array,
    example_index: jax.Array,
    train: bool,
    *,
    features: int,
    dropout: float,
    dtype: jnp.dtype,
    name: str,
) -> jax.Array:
    """Maps [B,*,D] to [B,*,F] by two linear layers, each behind a layer norm and dropout, a ReLU between them.

    They are the layers `name`_norm_0, `name`_0, `name`_norm_1 and `name`_1 of the calling module. Source:
    `LinearLayer` of jayleicn/moment_detr and of its successors.
    """
    x = nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=f"{name}_norm_0")(x.astype(dtype))
    x = Dropout(dropout)(x, example_index, train)
    x = nn.relu(torch_linear(features, x, dtype, f"{name}_0"))
    x = nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=f"{name}_norm_1")(x)
    x = Dropout(dropout)(x, example_index, train)
    return torch_linear(features, x, dtype, f"{name}_1")
