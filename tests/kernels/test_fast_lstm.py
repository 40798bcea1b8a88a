"""The fast LSTM, beside the plain scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.kernels import use_kernels
from vmr_jax.layers.recurrent import LSTM

MASK = np.arange(7) < np.array([7, 1, 0, 4])[:, None]
X = np.random.default_rng(0).normal(size=(4, 7, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def kernels_at_the_end():
    yield
    use_kernels(True)


def run(module):
    """Result, and gradients with respect to parameters and input."""
    variables = initial_variables(module, 0, X, MASK)
    y, pull = jax.vjp(lambda variables, x: module.apply(variables, x, MASK), variables, X)
    return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
def test_equal_to_the_plain_form(layers, bidirectional, use_bias):
    module = LSTM(6, layers, bidirectional, use_bias=use_bias, fast=True)
    found = run(module)
    use_kernels(False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), found, run(module))


def test_gradients_of_bfloat16_are_near_those_of_float32():
    (exact, of_exact), (rounded, of_rounded) = (
        run(LSTM(6, 1, True, dtype=dtype, fast=True)) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), exact, atol=0.02)
    # Eight bits of a mantissa, in sums of up to 4 x 7 steps: of the size of a parameter's gradient.
    for a, b in zip(jax.tree.leaves(of_rounded), jax.tree.leaves(of_exact), strict=True):
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() < 0.03 * np.abs(b).max()


def test_the_loop_has_one_product_for_both_directions():
    module = LSTM(6, 1, True, fast=True)
    variables = initial_variables(module, 0, X, MASK)
    loops = [
        equation
        for equation in jax.make_jaxpr(lambda v: jax.grad(lambda v: module.apply(v, X, MASK).sum())(v))(
            variables
        ).eqns
        if equation.primitive.name == "scan"
    ]
    assert [str(loop.params["jaxpr"]).count("dot_general") for loop in loops] == [1, 1]
