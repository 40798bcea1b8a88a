"""AVMR: rewards, the adversary and the answer by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.ddpg import Values
from vmr_jax.models import create
from vmr_jax.models.avmr import Discriminator, Outputs

SMALL = dict(actor_hidden=(5,), critic_hidden=(6, 4), features=4, hidden=(5,), horizon=3)


def by_hand():
    """One video of 20 s, the moment [5, 11]: from .25 to .55. Of two moves the second could not be made."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(fill=0))
    batch = dataclasses.replace(batch, duration=np.float32([20]), span=np.float32([[5, 11]]))
    outputs = Outputs(
        before=jnp.float32([[[0.25, 0.75], [0.25, 0.65]]]),
        after=jnp.float32([[[0.25, 0.65], [0.25, 0.65]]]),
        can=jnp.array([[True, False]]),
        values=Values(*(jnp.float32([x]) for x in ([0.1, 0.2], [0.3, 0.4], [0.5, 0.6]))),
        logits=jnp.float32([[0, np.log(3)]]),  # D = 1 / 2 and 3 / 4
        true_logit=jnp.float32([np.log(3)]),  # 3 / 4
        consistency=jnp.float32([0.5]),
    )
    return outputs, batch


def test_loss_by_hand():
    outputs, batch = by_hand()
    model = create("avmr", **{**SMALL, "horizon": 2})
    terms = jax.jit(model.loss)(outputs, batch, epoch=jnp.int32(0))
    # The first move raises the IoU, 3 / 5 to 3 / 4, and the moment ranks above it; the second one is as good as
    # the moment and -1, since it could not be made. log sigmoid(D(true) - D).
    first = 0.8 * 0.5 - 0.1 * np.log(1 / (1 + np.exp(-0.25)))
    second = -0.8 * 0.75 - 0.5 * np.log(0.5)
    assert float(terms["discriminator"].value()) == pytest.approx(first + second, rel=1e-5)
    rewards = first - 0.2 * 0.5, second - 0.2 * 0.5 - 0.01021
    errors = [q - (0.95 * after + 0.01 * r) for q, after, r in zip((0.1, 0.2), (0.3, 0.4), rewards)]
    assert float(terms["critic"].value()) == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    assert float(terms["actor"].value()) == pytest.approx(-0.55, rel=1e-5)


def test_a_segment_above_the_moment_weighs_ten_times_as_much():
    outputs, batch = by_hand()
    model = create("avmr", **{**SMALL, "horizon": 2})
    weights = []
    for true in (-5.0, 0.0, 5.0):  # the first segment has logit 0
        ranking = model._ranking(outputs.replace(true_logit=jnp.float32([true])))[0, 0]
        weights.append(float(ranking) / np.log(1 / (1 + np.exp(0.5 - 1 / (1 + np.exp(-true))))))
    np.testing.assert_allclose(weights, [1, 0.5, 0.1], rtol=1e-5)


def test_prediction_ranks_what_was_visited():
    outputs, batch = by_hand()
    ranked = create("avmr", **{**SMALL, "horizon": 2}).predict(
        outputs.replace(after=jnp.float32([[[0.25, 0.65], [0.3, 0.65]]])), batch
    )
    np.testing.assert_allclose(ranked.spans[0], [[6, 13], [5, 13]], rtol=1e-6)
    np.testing.assert_allclose(ranked.scores[0], [0.75, 0.5], rtol=1e-6)


def test_frames_are_read_at_once():
    # Two segments of three and of five clips, of which four are read.
    video = np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32)
    inside = np.zeros((1, 2, 6), bool)
    inside[0, 0, 2:5] = inside[0, 1, 1:6] = True
    module = Discriminator(3, (5,), 4, True, jnp.float32)
    variables = jax.jit(lambda: module.init(jax.random.key(0), video, inside, jnp.zeros((1, 2))))()

    @jax.jit
    def apply(variables):
        return module.apply(variables, video, inside, jnp.ones((1, 2)), capture_intermediates=True)

    _, kept = apply(variables)
    found = kept["intermediates"]["pool"]["__call__"][0].reshape(2, 3)
    lstm, layer = (jax.tree.map(np.asarray, variables["params"][name]) for name in ("lstm", "pool"))
    weights = lstm["layer_0"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for segment, rows in enumerate((video[0, 2:5], video[0, 1:5])):
        numbers = np.zeros((3, 4), np.float32)
        numbers[:, : len(rows)] = rows.T
        gates = numbers @ weights["input_kernel"] + weights["input_bias"] + weights["recurrent_bias"]
        i, _, g, o = np.split(gates, 4, axis=1)
        state = sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g))
        np.testing.assert_allclose(found[segment], (state @ layer["kernel"] + layer["bias"])[:, 0], rtol=1e-4)


@pytest.fixture(scope="module")
def small():
    model, batch = create("avmr", look_every=2, **SMALL), random_batch()
    return model, batch, random_variables(model, batch)


def test_segments_follow_each_other(small):
    model, batch, variables = small
    outputs = outputs_of(model, variables, batch, train=True)
    np.testing.assert_allclose(outputs.before[:, 0], [[0.25, 0.75]] * batch.size)
    np.testing.assert_array_equal(outputs.before[:, 1:], outputs.after[:, :-1])
    still = (outputs.before == outputs.after).all(-1)
    np.testing.assert_array_equal(still, ~outputs.can)


def test_the_agent_explores_in_training(small):
    model, batch, variables = small
    drawn = [outputs_of(model, variables, batch, train=True, key=key).after for key in (0, 1)]
    assert (drawn[0] != drawn[1]).any()
    greedy = [outputs_of(model, variables, batch, key=key).after for key in (0, 1)]
    np.testing.assert_array_equal(*greedy)
    curious = model.clone(noise_at_test=True)
    noisy = [outputs_of(curious, variables, batch, key=key).after for key in (0, 1)]
    np.testing.assert_array_equal(*noisy)  # the same for an example, whatever the key
    assert (noisy[0] != greedy[0]).any()


def test_the_state_holds_the_first_segment_unless_it_looks_again(small):
    """Clips outside of the first segment reach the agent by the video's mean, or by later segments too."""
    model, batch, variables = small
    # Of two clips outside, one gains what the other loses.
    video = np.array(batch.video)
    video[:, 0] += 1
    video[np.arange(batch.size), batch.video_mask.sum(1) - 1] -= 1
    other = dataclasses.replace(batch, video=video)
    # The bias of the actor moves both ends back at each step.
    led = jax.tree.map(np.copy, variables)
    led["params"]["agent"]["actor"]["layer_1"]["bias"][0] = 50.0
    blind = model.clone(look_every=0)
    for model_, moves in ((blind, False), (model.clone(look_every=1, step=0.1), True)):
        taken = [outputs_of(model_, led, b).values.taken for b in (batch, other)]
        assert (np.abs(taken[0] - taken[1]).max() > 1e-4) == moves


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match='pooling of avmr is "max"[.] .*Known: mean, lstm'):
        create("avmr", pooling="max", **SMALL)
