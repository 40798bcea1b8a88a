"""Choices per example."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.draws import uniform_choice


def test_every_candidate_and_no_other_is_drawn_equally_often():
    # 6000 examples, three of five candidates: 2000 each, standard deviation sqrt(6000 * 1/3 * 2/3) = 36.5.
    mask = np.tile([False, True, False, True, True], (6000, 1))
    index, found = uniform_choice(jax.random.key(0), jnp.arange(6000), mask)
    counts = np.bincount(index, minlength=5)
    assert found.all() and counts[[0, 2]].tolist() == [0, 0]
    np.testing.assert_allclose(counts[[1, 3, 4]], 2000, atol=150)


def test_nothing_to_draw_is_told():
    mask = np.array([[False, False], [False, True]])
    index, found = uniform_choice(jax.random.key(0), jnp.arange(2), mask)
    assert (index.tolist(), found.tolist()) == ([0, 1], [False, True])


def test_a_draw_depends_on_the_example_alone():
    mask = np.random.default_rng(0).random((50, 20)) < 0.5
    mask[:, 0] = True
    expected, _ = uniform_choice(jax.random.key(0), jnp.arange(50), mask)
    backwards, _ = uniform_choice(jax.random.key(0), jnp.arange(50)[::-1], mask[::-1])
    np.testing.assert_array_equal(backwards[::-1], expected)
    # Candidates that cannot be drawn, before and after the others.
    wider = np.pad(mask, ((0, 0), (3, 5)))
    found, _ = uniform_choice(jax.random.key(0), jnp.arange(50), wider)
    np.testing.assert_array_equal(found - 3, expected)
    other, _ = uniform_choice(jax.random.key(1), jnp.arange(50), mask)
    assert (other != expected).mean() > 0.5
