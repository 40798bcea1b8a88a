"""Dropout per example."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.dropout import Dropout


def test_what_is_kept_is_scaled_and_depends_on_the_example_alone():
    x = np.random.default_rng(0).uniform(1, 2, (4, 6, 50)).astype(np.float32)
    index = jnp.array([8, 3, 5, 1])

    def drop(x, index, train=True):
        return Dropout(0.2).apply({}, x, index, train, rngs={"dropout": jax.random.key(0)})

    found = drop(x, index)
    kept = found != 0
    np.testing.assert_allclose(found, np.where(kept, x / 0.8, 0), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(), 0.8, atol=0.05)  # 1,200 draws: standard deviation 0.012
    np.testing.assert_array_equal(drop(x[::-1], index[::-1])[::-1], found)
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(drop(x, index, train=False), x)
