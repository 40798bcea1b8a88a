"""The training step gives the same numbers however it is mapped, padded or batched."""

import cases
import jax
import numpy as np
import pytest
from batches import double_padding
from programs import free_programs
from small import Small, assert_close


@pytest.fixture(scope="module", params=cases.ALL)
def small(request):
    """One architecture after the other, so that the programs of one are held at a time."""
    found = Small(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "key", found.key)
        yield found
    free_programs()


def test_eight_devices_are_one(small):
    assert_close(small.trained("pmap", 8), small.one_step, small.tolerance)


def test_padding_and_sharing_change_nothing(small):
    """Every padded axis is doubled, and the rows are shared among eight devices by jit, in one step."""
    found = small.trained("jit", 8, double_padding(small.batch), model=small.quiet)
    one = small.one_step if small.quiet == small.model else small.trained("jit", 1, model=small.quiet)
    assert_close(found, one, small.tolerance)


def test_steps_are_repeatable_bit_by_bit(small):
    first, second = (small.trained("pmap", 8, steps=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_draws_depend_on_the_example_and_the_step(small):
    """And not on the place of the example in the batch: nothing does."""
    one = small.one_step
    if not small.draws_rows:
        turned = jax.tree.map(lambda x: x[::-1], small.batch)
        assert_close(small.trained("pmap", 1, turned), one, small.tolerance)
    if getattr(small.model, "dropout", 0):
        later = small.trained("pmap", 1, first=1)
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


@pytest.mark.parametrize("small", ["fvmr", "mmn"], indirect=True)  # with batch statistics, with shared rows
def test_jit_on_one_device(small):
    """Of the others it is between what is compared above: `pmap` on one device and `jit` on eight."""
    assert_close(small.trained("jit", 1), small.one_step, small.tolerance)


@pytest.mark.parametrize("small", cases.OPTIONS, indirect=True)
def test_options_add_nothing_that_depends_on_padding_or_devices(small):
    test_padding_and_sharing_change_nothing(small)
    test_loss_is_the_sum_of_its_terms(small)
    test_the_gradient_is_finite_and_not_zero(small)
