"""PyTorch's default initialisers, for architectures whose paper trained with them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

# kaiming_uniform_(a=sqrt(5)), the default of torch.nn.Linear and Conv: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_default_kernel: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def symmetric_uniform(bound: float) -> Initializer:
    """U(-bound, bound)."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_bias(fan_in: int) -> Initializer:
    """The bias of torch.nn.Linear and Conv: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    `fan_in` is the number of inputs of one output: in-features, times the kernel's area for a convolution.
    """
    return symmetric_uniform(1 / math.sqrt(fan_in))
