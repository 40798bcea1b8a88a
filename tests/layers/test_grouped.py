"""Grouped convolutions, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.grouped import GroupedConv


def test_a_grouped_convolution_is_xlas():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    params = {
        "kernel": rng.normal(size=(3, 2, 6)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
    }
    found = jax.jit(lambda p: GroupedConv(3, 2, 3, jnp.float32).apply({"params": p}, x))(params)
    expected = jax.lax.conv_general_dilated(
        x, params["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=3
    )
    np.testing.assert_allclose(found, expected + params["bias"][None, None], rtol=1e-5, atol=1e-5)


def test_axes_between_steps_and_features_are_left_alone():
    """A kernel of one step, with two neighbours of each: as each of them alone."""
    x = jnp.arange(16.0).reshape(1, 4, 2, 2)
    params = {"kernel": jnp.float32([[[2, 3]]]), "bias": jnp.float32([1, 0])}
    found = GroupedConv(2, 1, 1, jnp.float32).apply({"params": params}, x)
    np.testing.assert_array_equal(found[..., 0], 2 * x[..., 0] + 1)
    np.testing.assert_array_equal(found[..., 1], 3 * x[..., 1])
