"""Anchors of a decoder. The decoder itself is compared with PyTorch in tests/torch_import."""

import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.conditional_decoder import anchor_sines, inverse_sigmoid


def test_the_inverse_of_the_sigmoid_is_cut():
    # log(.75 / .25); at 0 and 1 the epsilon stands for one of both numbers: log(.001 / 1).
    found = inverse_sigmoid(jnp.float32([0.75, 0.0, 1.0]))
    np.testing.assert_allclose(found, [np.log(3), np.log(1e-3), -np.log(1e-3)], rtol=1e-5)


def test_sines_are_of_the_centre_then_of_the_width():
    # Two pairs each, at 2 pi x and at 2 pi x / 10000^(2/4); sin and cos of pi / 2 and of pi / 200, of pi and pi
    # / 100.
    found = anchor_sines(jnp.float32([[[0.25, 0.5]]]), 8)
    angles = np.array([np.pi / 2, np.pi / 200, np.pi, np.pi / 100])
    expected = np.stack([np.sin(angles), np.cos(angles)], -1).ravel()
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
