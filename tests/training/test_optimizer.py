"""Rules, schedules, clipping and algorithms of the optimiser, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.training.optimizer import learning_rate, make_optimizer


class Options(dict):
    """Attribute access, as a config has."""

    __getattr__ = dict.__getitem__


OPTIMIZER = Options(
    name="adam", learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, l2=0.0, no_decay="",
    clip_norm=0.0, clip_each=False, clip_value=0.0, schedule="constant", warmup="0 steps", warmup_from=0.0,
    decay_at=(), decay_by=0.1, rules=((".*", 1.0),),
)  # fmt: skip


def test_rules_freeze_and_scale_by_path():
    params = {"text": {"kernel": np.ones(2)}, "head": {"kernel": np.ones(2)}, "video": {"bias": np.ones(2)}}
    options = Options(OPTIMIZER, name="sgd", b1=0.0)
    options["rules"] = (("text/.*", 0.0), ("head/.*", 0.5), (".*", 1.0))
    schedule = learning_rate(options, 10, 5)
    optimizer = make_optimizer(options, schedule, params, 5)
    gradients = jax.tree.map(np.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Update = -rate * multiplier * gradient, rate .1.
    np.testing.assert_allclose(updates["text"]["kernel"], 0.0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05)
    np.testing.assert_allclose(updates["video"]["bias"], -0.1)


def test_weight_decay_leaves_out_what_the_config_says():
    params = {"head": {"kernel": np.ones(2), "bias": np.ones(2)}, "norm": {"scale": np.ones(2)}}
    options = Options(OPTIMIZER, name="adamw", weight_decay=0.5, no_decay=r".*bias|norm/scale")
    optimizer = make_optimizer(options, learning_rate(options, 10, 5), params, 5)
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
    # 4 steps of warm-up from .02 to .1, then .1 * sqrt(4 / step): step 16 has half of it.
    options = Options(OPTIMIZER, schedule="inverse_sqrt", warmup="4 steps", warmup_from=0.02)
    rate = learning_rate(options, 20, 5)
    np.testing.assert_allclose([rate(0), rate(2), rate(4), rate(16)], [0.02, 0.06, 0.1, 0.05], rtol=1e-6)


def test_inverse_sqrt_needs_a_warmup():
    with pytest.raises(UserError, match=r"config.optimizer.warmup is 0"):
        learning_rate(Options(OPTIMIZER, schedule="inverse_sqrt"), 20, 5)


def updates_of(options, gradient, params, steps):
    """The update of every one of `steps` steps with the same gradient; an epoch has 5."""
    optimizer = make_optimizer(options, learning_rate(options, 20, 5), params, 5)
    state, found = optimizer.init(params), []
    for _ in range(steps):
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        found.append(updates)
    return found


def test_rules_say_when():
    # Momentum .5, rate 1, gradient 1: the first update of a parameter is -1, the second -1.5.
    params = {"leaf": jnp.zeros(1), "root": jnp.zeros(1), "text": jnp.zeros(1)}
    options = Options(OPTIMIZER, name="sgd", b1=0.5, learning_rate=1.0)
    options["rules"] = (
        ("leaf", 1.0, "phase 0 of 2, 2 steps"),
        ("root", 1.0, "phase 1 of 2, 2 steps"),
        ("text", 1.0, "from 1 epochs"),
    )
    found = updates_of(options, jax.tree.map(jnp.ones_like, params), params, 6)
    series = {name: [float(update[name][0]) for update in found] for name in params}
    # Frozen steps change neither the parameter nor its momentum: it goes on where it was.
    assert series["leaf"] == [-1.0, -1.5, 0.0, 0.0, -1.75, -1.875]
    assert series["root"] == [0.0, 0.0, -1.0, -1.5, 0.0, 0.0]
    assert series["text"] == [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def test_schedule_goes_on_while_a_parameter_is_frozen():
    # The rate falls tenfold at step 2; a parameter that is frozen for the first two steps starts with .1.
    options = Options(OPTIMIZER, name="sgd", b1=0.0, learning_rate=1.0, schedule="step", decay_at=("2 steps",))
    options["rules"] = ((".*", 1.0, "from 2 steps"),)
    found = updates_of(options, {"a": jnp.ones(1)}, {"a": jnp.zeros(1)}, 3)
    np.testing.assert_allclose([float(u["a"][0]) for u in found], [0.0, 0.0, -0.1], rtol=1e-6)


@pytest.mark.parametrize("when", ["4 epochs", "phase 2 of 2, 5 steps", "from 3 weeks"])
def test_unreadable_when_is_refused(when):
    options = Options(OPTIMIZER, rules=((".*", 1.0, when),))
    with pytest.raises(UserError, match=r"`when` of a rule in config.optimizer.rules"):
        make_optimizer(options, learning_rate(options, 10, 5), {"a": jnp.zeros(1)}, 5)


def test_bert_adam_has_no_bias_correction():
    # m = .1 * 2, v = .001 * 4: the first update is -rate * (m / (sqrt(v) + eps) + decay * parameter).
    options = Options(OPTIMIZER, name="bert_adam", eps=1e-6, weight_decay=0.01)
    (update,) = updates_of(options, {"a": jnp.full(1, 2.0)}, {"a": jnp.full(1, 3.0)}, 1)
    expected = -0.1 * (0.2 / (np.sqrt(0.004) + 1e-6) + 0.01 * 3)
    np.testing.assert_allclose(update["a"][0], expected, rtol=1e-5)


def test_tf_adam_adds_its_constant_before_the_correction():
    # Gradients of 2, eps .1. Step 1: m .2, v .004, corrected by sqrt(.001) / .1. Step 2: m .38, v .007996.
    options = Options(OPTIMIZER, name="tf_adam", eps=0.1)
    updates = updates_of(options, {"a": jnp.full(1, 2.0)}, {"a": jnp.full(1, 3.0)}, 2)
    expected = [
        -0.1 * np.sqrt(0.001) / 0.1 * 0.2 / (np.sqrt(0.004) + 0.1),
        -0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * 0.38 / (np.sqrt(0.007996) + 0.1),
    ]
    # Of 1 - .999^2 = .001999 float32 keeps four digits.
    np.testing.assert_allclose([update["a"][0] for update in updates], expected, rtol=3e-5)


def test_l2_is_part_of_the_gradient():
    # Gradient 1 + .5 * 4 = 3, clipped to 2; the bias is left out.
    options = Options(OPTIMIZER, name="sgd", b1=0.0, learning_rate=1.0, l2=0.5, no_decay="bias", clip_value=2.0)
    params = {"kernel": jnp.full(1, 4.0), "bias": jnp.full(1, 4.0)}
    (update,) = updates_of(options, jax.tree.map(jnp.ones_like, params), params, 1)
    assert (update["kernel"][0], update["bias"][0]) == (-2.0, -1.0)


def test_three_ways_to_clip():
    # Gradients (3, 4) and (6, 8) have the norms 5 and 10, together sqrt(125).
    gradient = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([6.0, 8.0])}
    params = jax.tree.map(jnp.zeros_like, gradient)
    options = Options(OPTIMIZER, name="sgd", b1=0.0, learning_rate=1.0)

    def clipped(**fields):
        (update,) = updates_of(Options(options, **fields), gradient, params, 1)
        return [*-update["a"], *-update["b"]]

    np.testing.assert_allclose(clipped(clip_norm=1.0), np.array([3, 4, 6, 8]) / np.sqrt(125), rtol=1e-6)
    np.testing.assert_allclose(clipped(clip_norm=5.0, clip_each=True), [3, 4, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(clipped(clip_value=5.0), [3, 4, 5, 5], rtol=1e-6)
