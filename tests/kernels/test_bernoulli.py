"""Random booleans beside those of JAX."""

import jax
import numpy as np
import pytest

from vmr_jax.kernels import use_kernels
from vmr_jax.kernels.bernoulli import bernoulli
from vmr_jax.layers.dropout import Dropout


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


def test_dropout_is_the_same_by_both_forms():
    x, index = np.ones((3, 40), np.float32), np.array([4, 0, 2])

    @jax.jit
    def step(x):
        def drop(x):
            return Dropout(0.4).apply({}, x, index, True, rngs={"dropout": jax.random.key(1)})

        y, pull = jax.vjp(drop, x)
        return y, pull(y)

    found = step(x)
    use_kernels(False)
    step.clear_cache()
    plain = step(x)
    use_kernels(True)
    jax.tree.map(np.testing.assert_array_equal, found, plain)
