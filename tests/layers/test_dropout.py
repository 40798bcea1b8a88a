"""Dropout per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.dropout import Dropout
from vmr_jax.parallel import Parallel


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


@pytest.mark.parametrize("mode,devices", [("pmap", 1), ("pmap", 8), ("jit", 8)])
def test_devices_draw_alike(mode, devices):
    x, index = np.ones((8, 6, 50), np.float32), np.arange(8)[::-1].copy()

    def drop(key, batch):
        return Dropout(0.2).apply({}, *batch, True, rngs={"dropout": jax.random.wrap_key_data(key)})

    key, parallel = jax.random.key_data(jax.random.key(0)), Parallel(mode, devices)
    found = parallel.map_examples(drop)(parallel.replicate(np.asarray(key)), parallel.put_batch((x, index)))
    np.testing.assert_array_equal(found, jax.jit(drop)(key, (x, index)))
