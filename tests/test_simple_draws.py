"""The draws of tests/simple_draws.py are what the contract takes them for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_draws import padded_key, simple_key


@pytest.mark.parametrize("key", [simple_key, padded_key])
def test_they_are_spread_evenly(key):
    """Means of 4096 uniform numbers are 1/2 with a deviation of 1/sqrt(12 * 4096) = 0.0045, of any seed."""
    drawn = jax.jit(lambda seeds: jax.vmap(lambda seed: jax.random.uniform(key(seed), (64, 64)))(seeds))
    rows = np.asarray(drawn(np.arange(8)))
    np.testing.assert_allclose(rows.mean((1, 2)), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(rows.reshape(8, -1)) - np.eye(8)).max() < 0.1
    assert len(np.unique(rows)) > 0.99 * rows.size


@pytest.mark.parametrize("key", [jax.random.key, simple_key, padded_key])
def test_how_an_array_may_be_padded(key):
    """Where a place has the same number whatever the shape, a test of padding sees nothing of the draws."""
    draw = jax.jit(lambda shape: jax.random.uniform(key(3), shape), static_argnums=0)
    drawn = draw((4, 3, 5))
    np.testing.assert_array_equal(drawn, draw((6, 3, 5))[:4])
    for longer in ((4, 7, 5), (4, 3, 9)):
        assert np.array_equal(drawn, draw(longer)[:, :3, :5]) == (key is padded_key)


def test_keys_that_are_split_or_folded_differ():
    """As of JAX, the keys of a split are the key folded with their numbers: five of each of two seeds."""

    def drawn(seed):
        key = simple_key(seed)
        folded = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
        return jax.vmap(jax.random.bits)(jax.random.split(key, 5)), jax.vmap(jax.random.bits)(folded)

    split, folded = jax.jit(jax.vmap(drawn))(jnp.arange(2))
    np.testing.assert_array_equal(split, folded)
    assert len(np.unique(split)) == 10
