"""The norm of tests/simple_norm.py is Optax's."""

import jax
import numpy as np
import optax
from simple_norm import simple_norm


def test_it_is_the_root_of_the_sum_of_all_squares():
    """3, 4 and 12 have the norm 13; of other numbers it is what Optax says, and so is its derivative."""
    assert simple_norm({"a": np.float32(3), "b": [np.zeros((2, 0), np.float32), np.float32([[4, -12]])]}) == 13
    rng = np.random.default_rng(0)
    tree = [rng.normal(size=shape).astype(np.float32) for shape in ((), (5,), (3, 2, 7), (40, 50))]
    ours, theirs = (jax.jit(jax.value_and_grad(norm))(tree) for norm in (simple_norm, optax.tree.norm))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
