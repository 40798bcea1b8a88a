"""The training step gives the same numbers however it is mapped, padded or batched."""

import functools

import cases
import jax
import numpy as np
import optax
import pytest
from batches import double_padding, random_batch

from vmr_jax import models
from vmr_jax.parallel import Parallel
from vmr_jax.training.experiment import initial_variables
from vmr_jax.training.step import initial_state, make_step


class Case:
    """A step of one architecture, mapped in one way: compiled once, however many tests ask."""

    def __init__(self, name, mode, devices, without_draws):
        model, variables = initialised(name, without_draws)
        # SGD of rate 1: the update is the gradient itself.
        optimizer, schedule = optax.sgd(1.0), optax.constant_schedule(1.0)
        self.state = jax.tree.map(np.asarray, initial_state(variables, optimizer))
        self.parallel = Parallel(mode, devices)
        self.step = self.parallel.map_step(make_step(model, optimizer, schedule, steps_per_epoch=10, seed=0))

    def run(self, batch, steps=1):
        """Variables and scalars after `steps` steps on one batch."""
        placed = self.parallel.replicate(self.state)
        for _ in range(steps):
            placed, scalars = self.step(placed, self.parallel.put_batch(batch))
        return jax.tree.map(np.asarray, (placed.variables, scalars))


@functools.cache
def initialised(name, without_draws):
    """A small model and its variables."""
    fields = cases.ALL[name].WITHOUT_DRAWS if without_draws else {}
    model = models.create(name, **{**cases.ALL[name].SMALL, **fields})
    return model, initial_variables(model, random_batch(), 0)


@functools.cache
def case(name, mode, devices, without_draws=False):
    return Case(name, mode, devices, without_draws)


@pytest.fixture(scope="module", params=cases.ALL)
def name(request):
    """One architecture after the other, so that the programs of one are held at a time."""
    yield request.param
    initialised.cache_clear()
    case.cache_clear()
    jax.clear_caches()


def assert_close(a, b, tolerance=1e-6):
    """Equal to `tolerance`, relative to the size of the numbers of each leaf where that is above 1."""

    def check(x, y):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1.0, np.abs(y).max()), rtol=0)

    jax.tree.map(check, a, b)


@pytest.mark.parametrize("mode,devices", [("pmap", 8), ("jit", 1), ("jit", 8)])
def test_same_on_any_devices(name, mode, devices):
    # Eight rows, the last two filling: six devices have one real example each and two have none.
    batch = random_batch()
    tolerance = getattr(cases.ALL[name], "TOLERANCE", 1e-6)
    assert_close(case(name, mode, devices).run(batch), case(name, "pmap", 1).run(batch), tolerance)


def test_doubling_every_padded_axis_changes_nothing(name):
    batch = random_batch()
    one = case(name, "jit", 1, without_draws=hasattr(cases.ALL[name], "WITHOUT_DRAWS"))
    assert_close(one.run(double_padding(batch)), one.run(batch), getattr(cases.ALL[name], "TOLERANCE", 1e-6))


def test_steps_are_repeatable_bit_by_bit(name):
    first, second = (case(name, "pmap", 8).run(random_batch(), steps=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_loss_is_the_sum_of_its_terms():
    _, scalars = case("fvmr", "jit", 1).run(random_batch())
    known = {"train/loss", "train/grad_norm", "train/learning_rate"}
    terms = [value for name, value in scalars.items() if name not in known]
    assert len(terms) >= 2
    np.testing.assert_allclose(scalars["train/loss"], sum(terms), rtol=1e-6)
