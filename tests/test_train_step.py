"""The training step gives the same numbers however it is mapped, padded or batched."""

import cases
import jax
import numpy as np
import optax
import pytest
from batches import double_padding, random_batch

from vmr_jax import models
from vmr_jax.experiment import initial_variables
from vmr_jax.parallel import Parallel
from vmr_jax.train import initial_state, make_step


def step_of(name, seed=0, **fields):
    """A step whose update is the gradient itself (SGD, rate 1), and its initial state."""
    model = models.create(name, **{**cases.ALL[name].SMALL, **fields})
    variables = initial_variables(model, random_batch(), seed)
    optimizer, schedule = optax.sgd(1.0), optax.constant_schedule(1.0)
    state = jax.tree.map(np.asarray, initial_state(variables, optimizer))
    return make_step(model, optimizer, schedule, steps_per_epoch=10, seed=seed), state


def run(name, parallel, batch, steps=1, **fields):
    step, state = step_of(name, **fields)
    mapped, placed = parallel.map_step(step), parallel.replicate(state)
    for _ in range(steps):
        placed, scalars = mapped(placed, parallel.put_batch(batch))
    return jax.tree.map(np.asarray, (placed.variables, scalars))


def assert_close(a, b, tolerance=1e-6):
    """Equal to `tolerance`, relative to the size of the numbers of each leaf where that is above 1."""

    def check(x, y):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1.0, np.abs(y).max()), rtol=0)

    jax.tree.map(check, a, b)


@pytest.mark.parametrize("name", cases.ALL)
@pytest.mark.parametrize("mode,devices", [("pmap", 8), ("jit", 1), ("jit", 8)])
def test_same_on_any_devices(name, mode, devices):
    # Eight rows, the last two filling: six devices have one real example each and two have none.
    batch = random_batch()
    expected = run(name, Parallel("pmap", 1), batch)
    assert_close(run(name, Parallel(mode, devices), batch), expected)


@pytest.mark.parametrize("name", cases.ALL)
def test_doubling_every_padded_axis_changes_nothing(name):
    batch, fields = random_batch(), getattr(cases.ALL[name], "WITHOUT_DRAWS", {})
    parallel = Parallel("jit", 1)
    doubled = run(name, parallel, double_padding(batch), **fields)
    assert_close(doubled, run(name, parallel, batch, **fields))


@pytest.mark.parametrize("name", cases.ALL)
def test_steps_are_repeatable_bit_by_bit(name):
    parallel = Parallel("pmap")
    first, second = (run(name, parallel, random_batch(), steps=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_loss_is_the_sum_of_its_terms():
    _, scalars = run("fvmr", Parallel("jit", 1), random_batch())
    known = {"train/loss", "train/grad_norm", "train/learning_rate"}
    terms = [value for name, value in scalars.items() if name not in known]
    assert len(terms) >= 2
    np.testing.assert_allclose(scalars["train/loss"], sum(terms), rtol=1e-6)
