"""A depthwise convolution as shifted products, beside XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.kernels import use_kernels
from vmr_jax.layers.depthwise import depthwise_conv


@pytest.fixture(autouse=True)
def kernels_at_the_end():
    yield
    use_kernels(True)


def run(kernel_size, x):
    """Parameters, result, and gradients with respect to both."""
    module = depthwise_conv(x.shape[-1], kernel_size, jnp.float32, "conv")
    variables = initial_variables(module, 0, x)
    y, pull = jax.vjp(module.apply, variables, x)
    return variables, y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


@pytest.mark.parametrize("kernel_size", [1, 4, 7])
def test_equal_to_the_plain_form(kernel_size):
    x = jax.random.normal(jax.random.key(1), (2, 9, 5))
    found = run(kernel_size, x)
    use_kernels(False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, run(kernel_size, x)
    )


def test_an_even_kernel_sees_more_behind_than_before():
    # Four steps: one before, itself, two behind. The first of 1, 2, 4, 8, 16 sees 0, 1, 2, 4; the last sees
    # 8, 16, 0, 0.
    x = jnp.array([1.0, 2, 4, 8, 16])[None, :, None]
    module = depthwise_conv(1, 4, jnp.float32, "conv")
    summed = module.apply({"params": {"kernel": jnp.ones((4, 1, 1))}}, x)
    np.testing.assert_array_equal(summed[0, :, 0], [7, 15, 30, 28, 24])
