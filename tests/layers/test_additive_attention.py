"""Additive attention against loops, and the band of the multi-head one."""

import jax
import numpy as np
from applied import initial_variables

from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.attention import MultiHeadAttention


def test_additive_attention_against_loops():
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 6))
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    module = AdditiveAttention(7)
    variables = initial_variables(module, 0, queries, keys, mask)
    found = module.apply(variables, queries, keys, mask)
    p = jax.tree.map(np.float64, variables["params"])
    for b in range(2):
        for t in range(3):
            query = queries[b, t] @ p["query"]["kernel"] + p["query"]["bias"]
            scores = [
                (np.tanh(query + keys[b, s] @ p["key"]["kernel"]) @ p["score"]["kernel"])[0]
                for s in range(mask[b].sum())
            ]
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(found[b, t], weights @ keys[b, : len(scores)], atol=1e-5)


def test_a_band_hides_far_keys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 6, 4)).astype(np.float32)
    mask = np.array([[True] * 5 + [False]])
    index = np.zeros(1, np.int32)
    module = MultiHeadAttention(4, 2, band=1)
    variables = initial_variables(module, 0, x, x, mask, index, False)
    found = module.apply(variables, x, x, mask, index, False)
    # Place t sees t - 1, t, t + 1 alone, as if the others were padding.
    everywhere = MultiHeadAttention(4, 2)
    for t in range(5):
        near = mask & (np.abs(np.arange(6) - t) <= 1)[None]
        np.testing.assert_allclose(
            found[0, t], everywhere.apply(variables, x, x, near, index, False)[0, t], atol=1e-6
        )
    assert np.abs(found - everywhere.apply(variables, x, x, mask, index, False)).max() > 1e-2
