"""The training step gives the same numbers however it is mapped, padded or batched."""

import cases
import jax
import numpy as np
import optax
import pytest
from batches import double_padding, random_batch

from vmr_jax import models
from vmr_jax.experiment import initial_variables
from vmr_jax.optimizer import learning_rate, make_optimizer
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


class Options(dict):
    """Attribute access, as a config has."""

    __getattr__ = dict.__getitem__


OPTIMIZER = Options(
    name="adam", learning_rate=0.1, b1=0.9, b2=0.999, weight_decay=0.0, no_decay="", clip_norm=0.0,
    schedule="constant", warmup="0 steps", decay_at=(), decay_by=0.1, rules=((".*", 1.0),),
)  # fmt: skip


def test_rules_freeze_and_scale_by_path():
    params = {"text": {"kernel": np.ones(2)}, "head": {"kernel": np.ones(2)}, "video": {"bias": np.ones(2)}}
    options = Options(OPTIMIZER, name="sgd", b1=0.0)
    options["rules"] = (("text/.*", 0.0), ("head/.*", 0.5), (".*", 1.0))
    schedule = learning_rate(options, 10, 5)
    optimizer = make_optimizer(options, schedule, params)
    gradients = jax.tree.map(np.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Update = -rate * multiplier * gradient, rate .1.
    np.testing.assert_allclose(updates["text"]["kernel"], 0.0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05)
    np.testing.assert_allclose(updates["video"]["bias"], -0.1)


def test_weight_decay_leaves_out_what_the_config_says():
    params = {"head": {"kernel": np.ones(2), "bias": np.ones(2)}, "norm": {"scale": np.ones(2)}}
    options = Options(OPTIMIZER, name="adamw", weight_decay=0.5, no_decay=r".*bias|norm/scale")
    optimizer = make_optimizer(options, learning_rate(options, 10, 5), params)
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    # No gradient, so the update is -rate * decay * parameter = -.1 * .5 * 1, where there is decay.
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["head"]["bias"], 0.0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0.0)


def test_schedules_by_hand():
    # Warm-up of one epoch = 5 steps: 0, .02, ..., then cosine over the 15 that remain: half at 5 + 7.5.
    options = Options(OPTIMIZER, schedule="cosine", warmup="1 epochs")
    rate = learning_rate(options, 20, 5)
    np.testing.assert_allclose([rate(0), rate(1), rate(5), rate(20)], [0, 0.02, 0.1, 0.0], atol=1e-7)
    np.testing.assert_allclose((rate(12) + rate(13)) / 2, 0.05, atol=1e-7)
    # Steps at 10 and 15 of 20, each times .1; warm-up 0.
    options = Options(OPTIMIZER, schedule="step", decay_at=("2 epochs", "15 steps"))
    rate = learning_rate(options, 20, 5)
    np.testing.assert_allclose([rate(9), rate(10), rate(14), rate(15)], [0.1, 0.01, 0.01, 0.001], rtol=1e-5)
