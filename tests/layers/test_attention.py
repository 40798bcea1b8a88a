"""Attention of queries that are outside of the mask."""

import jax
import jax.numpy as jnp
import numpy as np
from applied import initial_variables

from vmr_jax.layers.attention import MultiHeadAttention


def test_a_query_can_weigh_all_keys_alike():
    rng = np.random.default_rng(0)
    x, keys = rng.normal(size=(2, 3, 4)).astype("f"), rng.normal(size=(2, 5, 4)).astype("f")
    mask = np.arange(5) < np.array([[4], [2]])
    module, row = MultiHeadAttention(4, 2), np.arange(2)
    variables = jax.tree.map(np.asarray, initial_variables(module, 0, x, keys, mask, row, False))
    outside, steps = np.array([[False, True, False], [False, False, True]]), np.arange(5)[None] < 4

    @jax.jit
    def attended(variables, *alike):
        return module.apply(variables, x, keys, mask, row, False, alike=alike or None)

    plain, found = attended(variables), attended(variables, outside, steps)
    np.testing.assert_array_equal(found[~outside], plain[~outside])
    # The mean of the values of the first four keys.
    values = keys @ variables["params"]["value"]["kernel"] + variables["params"]["value"]["bias"]
    np.testing.assert_allclose(found[outside], values[:, :4].mean(1), rtol=1e-5)

    # A softmax of four equal weights passes on (value - mean) / 4, to a logit of half the width of two heads.
    def total(query):
        changed = {**variables["params"], "query": {**variables["params"]["query"], "bias": query}}
        return attended({"params": changed}, outside, steps)[0, 1, 0]

    slope = jax.grad(total)(variables["params"]["query"]["bias"])
    key = variables["params"]["key"]
    k = keys[0, :4] @ key["kernel"] + key["bias"]
    value = values[0, :4, 0]
    expected = ((value - value.mean()) / 4) @ k[:, :2] / np.sqrt(2)
    np.testing.assert_allclose(slope, jnp.concatenate([expected, jnp.zeros(2)]), atol=1e-6)
