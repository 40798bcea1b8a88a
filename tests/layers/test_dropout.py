"""Dropout per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.dropout import Dropout, bernoulli


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 64)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_draws_are_those_of_jax_random(shape, p):
    for seed in range(20):
        key = jax.random.fold_in(jax.random.key(seed), 5)
        np.testing.assert_array_equal(bernoulli(key, p, shape), jax.random.bernoulli(key, p, shape))


def test_a_key_of_another_generator_draws_too():
    # 10,000 draws of 0.3: standard deviation sqrt(10000 * .3 * .7) = 46.
    drawn = bernoulli(jax.random.key(3, impl="rbg"), 0.3, (10_000,))
    np.testing.assert_allclose(drawn.sum(), 3000, atol=200)


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
