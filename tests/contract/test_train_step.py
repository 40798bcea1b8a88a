"""The training step gives the same numbers however it is mapped, padded or batched."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import double_padding
from programs import free_programs
from small import Small, assert_close

from vmr_jax.parallel import MODES, Parallel, gather_examples, sum_over_devices


@pytest.fixture(scope="module", params=cases.ALL)
def small(request):
    """One architecture after the other, so that the programs of one are held at a time."""
    found = Small(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "key", found.key)
        yield found
    free_programs()


def test_devices_sharing_and_padding_change_nothing(small):
    """The program of one device, whose rows `jit` shares among eight, and `pmap`, with a program for each.

    The former has every padded axis doubled.
    """
    assert_close(small.one_step, small.trained("jit", 8, double_padding(small.batch)), small.tolerance)


def test_steps_are_repeatable_bit_by_bit(small):
    first, second = (small.trained("pmap", 8, steps=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_draws_depend_on_the_example_and_the_step(small):
    """And not on the place of the example in the batch: nothing does."""
    one = small.one_step
    if not small.draws_rows:
        turned = jax.tree.map(lambda x: x[::-1], small.batch)
        assert_close(small.trained("pmap", 8, turned), one, small.tolerance)
    if getattr(small.model, "dropout", 0):
        later = small.trained("pmap", 8, first=1)
        assert abs(later[1]["train/loss"] / one[1]["train/loss"] - 1) > 1e-4


def test_loss_is_the_sum_of_its_terms(small):
    _, scalars = small.one_step
    known = {"train/loss", "train/grad_norm", "train/learning_rate"}
    terms = [value for name, value in scalars.items() if name not in known]
    np.testing.assert_allclose(scalars["train/loss"], sum(terms), rtol=1e-6)


def test_the_gradient_is_finite_and_not_zero(small):
    variables, scalars = small.one_step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((variables, scalars)))
    assert scalars["train/grad_norm"] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("small", ["fvmr", "mmn"], indirect=True)  # with batch statistics, with shared rows
def test_eight_devices_are_one(small, mode):
    """Of the others too, as models know of devices only what `test_pmap_of_one_device_is_no_mapping` has."""
    assert_close(small.one_step, small.trained(mode, 1), small.tolerance)


@pytest.mark.parametrize("function", [gather_examples, sum_over_devices])
def test_pmap_of_one_device_is_no_mapping(function):
    """To the bit, in values and gradients: the step of one device is the same by `pmap` as by `jit`."""
    rng = np.random.default_rng(0)
    weights, rows = (rng.normal(size=(6, 3)).astype(np.float32) for _ in range(2))

    def both(weights, rows):
        gradient = jax.grad(lambda x: (jnp.sin(function(x)) * weights).sum())(rows)
        return function(rows), gradient

    ways = [Parallel(mode, 1) for mode in MODES]
    found, expected = (way.map_examples(both)(weights, way.put_batch(rows)) for way in ways)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(found[0], rows)


@pytest.mark.parametrize("small", cases.OPTIONS, indirect=True)
def test_options_add_nothing_that_depends_on_padding_or_devices(small):
    test_devices_sharing_and_padding_change_nothing(small)
    test_loss_is_the_sum_of_its_terms(small)
    test_the_gradient_is_finite_and_not_zero(small)
