"""Maxima over spans from a table of windows, beside the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.kernels import use_kernels
from vmr_jax.layers.map2d import candidate_mask, max_pool_map


@pytest.fixture(autouse=True)
def kernels_at_the_end():
    yield
    use_kernels(True)


@pytest.mark.parametrize("num_clips, scale_layers", [(1, (1,)), (5, (5,)), (16, (16,)), (22, (6, 8))])
def test_equal_to_the_plain_form(num_clips, scale_layers):
    clips = jax.random.normal(jax.random.key(0), (2, num_clips, 3))
    mask = candidate_mask(num_clips, scale_layers)

    def run():
        y, pull = jax.vjp(lambda clips: max_pool_map(clips, mask), clips)
        return y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    found, gradient = run()
    use_kernels(False)
    plain, expected = run()
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)
