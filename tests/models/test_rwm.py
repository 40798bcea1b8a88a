"""RWM: the environment move by move, rewards, loss and answer by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import random_batch

from vmr_jax.layers.actor_critic import Decision
from vmr_jax.layers.window_agent import signed_iou
from vmr_jax.models import create
from vmr_jax.models.rwm import MOVES, STOP, Outputs, mean_of_units, next_window, reward

SMALL = dict(features=6, video_features=4, query_features=5, location_features=3, horizon=2)


def after(window, units, whole_units=False):
    """The window after each of the seven actions."""
    count = len(MOVES)
    windows, lengths = jnp.tile(jnp.array([window]), (count, 1)), jnp.full(count, units)
    return next_window(windows, jnp.arange(count), lengths, whole_units).tolist()


def test_every_move():
    # 40 units, so a step is 4.
    expected = [[14, 24], [6, 16], [14, 20], [6, 20], [10, 24], [10, 16], [10, 20]]
    assert after([10, 20], 40) == expected
    # Of nine units a tenth is none.
    assert after([2, 5], 9) == [[2, 5]] * 7


def test_windows_are_cut_to_the_video():
    # 20 units, a step is 2: the end may be one behind the last unit, 19, unless windows last to the end of it.
    assert after([1, 19], 20)[:2] == [[3, 20], [0, 17]]
    assert after([1, 19], 20, whole_units=True)[:2] == [[3, 19], [0, 17]]
    # Both ends beyond the start, or the start behind the end, leave no window, which then stays.
    assert after([0, 1], 20)[1] == [0, -1] and after([18, 19], 20)[2] == [20, 19]
    for window in ([0, -1], [20, 19], [5, 5]):
        assert after(window, 20) == [window] * 7


def test_mean_of_units():
    video = jnp.arange(1.0, 7.0).reshape(1, 6, 1)  # four units: 1, 2, 3, 4, then padding
    for window, zero_row, expected in (
        ([1, 2], False, 2.5),
        ([2, 4], False, 3.5),  # units 3 and 4; there is none behind
        ([2, 4], True, 7 / 3),  # 3, 4 and a zero
        ([1, 2], True, 2.5),
    ):
        found = mean_of_units(video, jnp.array([window]), jnp.array([4]), zero_row)
        np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


def test_reward():
    before = jnp.float32([[0.2, 0.0, 0.6, 0.6, -0.2, -0.2, 0.2, -0.3]])
    later = jnp.float32([[0.4, 0.1, 0.6, 0.1, -0.1, 0.3, -0.1, -0.3]])
    # Better twice; the same; worse; apart and nearer; from apart to shared; to apart; apart still.
    expected = np.array([1, 1, 0, 0, -1, -1, -1, -1]) - 0.001 * np.arange(1, 9)
    np.testing.assert_allclose(reward(before, later, 0.001)[0], expected, rtol=1e-6)


def test_an_equal_iou_is_no_improvement():
    # Windows [5, 45] and [0, 40] both hold [6, 9]: 3 of 40. In parts of 52, float32 has 0.07500001 for one.
    pair = signed_iou(jnp.array([[5, 45], [0, 40]]), jnp.float32([[6, 9]]), 0)
    np.testing.assert_allclose(reward(pair[None, :1], pair[None, 1:], 0.0), [[0.0]])


def by_hand(windows, moved, ended):
    """One video of 20 units of a second, the moment [5, 11], so units 5..10; two steps."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=20, fill=0))
    batch = dataclasses.replace(
        batch,
        video_mask=np.ones((1, 20), bool),
        duration=np.float32([20]),
        span=np.float32([[5, 11]]),
    )
    action, log_prob, entropy, value = jnp.array([[0, 0]]), [[-1, -2]], [[0.25, 0.25]], [[0.5, 0.25]]
    policy = Decision(action, *(jnp.float32(x) for x in (log_prob, entropy, value)))
    outputs = Outputs(
        windows=jnp.array([windows]),
        moved=jnp.array([moved]),
        ended=jnp.array([ended]),
        iou=jnp.float32([[0.5, 0.25]]),
        moment=jnp.float32([[[0, 0], [1, 1]]]),
        policy=policy,
    )
    return outputs, batch


def terms_of(outputs, batch, **fields):
    terms = jax.jit(create("rwm", **SMALL, **fields).loss)(outputs, batch, epoch=jnp.int32(0))
    return {name: (float(term.sum), float(term.count)) for name, term in terms.items()}


def test_loss_by_hand():
    outputs, batch = by_hand([[4, 14], [5, 12]], [[5, 12], [12, 12]], [False, True])
    terms = terms_of(outputs, batch)
    # IoU before: 5 / 10 and 5 / 7; after: 5 / 7 and -2 / 7 (a gap of two in seven).
    # R_1 = -1 - .002 + .4 * .25 (the value of its own state), R_0 = 1 - .001 + .4 R_1; A = R - V.
    second = -1.002 + 0.1
    advantages = 0.999 + 0.4 * second - 0.5, second - 0.25
    policy = advantages[0] + 2 * advantages[1] - 2 * 0.1 * 0.25
    assert terms["policy"] == pytest.approx((policy, 2), rel=1e-5)
    assert terms["value"] == pytest.approx((advantages[0] ** 2 + advantages[1] ** 2, 2), rel=1e-5)
    assert terms["iou"] == pytest.approx((0 + 5 / 7 - 0.25, 2), rel=1e-5)
    # Both overlap by more than .4. The moment is 5 / 19 to 10 / 19.
    assert terms["location"] == pytest.approx((15 / 19 + 14 / 19 + 9 / 19, 2), rel=1e-5)


def test_after_the_end_the_estimates_count_alone():
    # It stops at once; [12, 14] is two of nine apart.
    outputs, batch = by_hand([[4, 14], [12, 14]], [[12, 14], [12, 14]], [True, False])
    terms = terms_of(outputs, batch)
    # r = -1 - .001, R = r + .4 * .5, A = R - .5.
    advantage = -1.001 + 0.2 - 0.5
    assert terms["policy"] == pytest.approx((advantage - 0.1 * 0.25, 1), rel=1e-5)
    assert terms["value"] == pytest.approx((advantage**2, 1), rel=1e-5)
    assert terms["iou"] == pytest.approx((0.25 + 2 / 9, 2), rel=1e-5)
    assert terms["location"] == pytest.approx((15 / 19, 1), rel=1e-5)  # of the first alone


def test_without_overlap_there_is_no_error_of_location():
    outputs, batch = by_hand([[12, 14], [12, 14]], [[12, 14], [12, 14]], [False, False])
    assert terms_of(outputs, batch)["location"] == (0, 0)


@pytest.mark.parametrize("detach, gradient", [(True, (0, 0)), (False, (-1, -1.04))])
def test_what_moves_the_values(detach, gradient):
    outputs, batch = by_hand([[4, 14], [5, 12]], [[5, 12], [4, 12]], [False, False])
    model = create("rwm", detach_advantage=detach, **SMALL)

    def term(values):
        changed = outputs.replace(policy=outputs.policy.replace(value=values))
        return model.loss(changed, batch, epoch=jnp.int32(0))["policy"].sum

    # R_1 = r_1 + .4 V_1, R_0 = r_0 + .4 R_1, A = R - V. A_0 + 2 A_1 has -1 of V_0, .4 .4 + 2 (.4 - 1) of V_1.
    found = jax.jit(jax.grad(term))(outputs.policy.value)
    np.testing.assert_allclose(found[0], gradient, rtol=1e-5)


def answer(outputs, batch, **fields):
    ranked = create("rwm", **SMALL, **fields).predict(outputs, batch)
    return ranked.spans[0].tolist(), ranked.scores[0]


def test_the_answer_is_where_the_last_action_led():
    outputs, batch = by_hand([[4, 14], [5, 12]], [[5, 12], [6, 12]], [False, False])
    spans, scores = answer(outputs, batch)
    # Then what was seen, by the estimates of .5 and .25.
    assert spans == [[6, 12], [4, 14], [5, 12]]
    np.testing.assert_allclose(scores, [1, 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-0.25))], rtol=1e-6)
    assert answer(outputs, batch, whole_units=True)[0][0] == [6, 13]


def test_the_answer_of_an_episode_that_ends_early():
    outputs, batch = by_hand([[4, 14], [14, 12]], [[14, 12], [14, 12]], [True, True])
    spans, scores = answer(outputs, batch)
    assert spans[:2] == [[4, 14], [4, 14]] and scores[2] == -np.inf
    assert answer(outputs, batch, answer_nothing=True)[0][0] == [14, 14]


@pytest.fixture(scope="module")
def played():
    """Batch, variables and a function (variables, batch, key, train) -> outputs, of three steps."""
    model, batch = create("rwm", **{**SMALL, "horizon": 3}), random_batch(clips=24)
    variables = random_variables(model, batch)

    def apply(variables, batch, key, train):
        return model.apply(variables, batch, train=train, rngs={"dropout": key})

    return batch, variables, jax.jit(apply, static_argnums=3)


def test_the_chain_of_windows(played):
    batch, variables, play = played
    outputs = play(variables, batch, jax.random.key(0), True)
    units = jnp.array(batch.video_mask.sum(1))
    np.testing.assert_array_equal(outputs.windows[:, 1:], outputs.moved[:, :-1])
    for t in range(3):
        action = outputs.policy.action[:, t]
        np.testing.assert_array_equal(
            outputs.moved[:, t], next_window(outputs.windows[:, t], action, units, False)
        )
        lost = outputs.moved[:, t, 1] <= outputs.moved[:, t, 0]
        np.testing.assert_array_equal(outputs.ended[:, t], lost | (action == STOP))


def test_actions_are_drawn_in_training_alone(played):
    batch, variables, play = played
    keys = jax.random.split(jax.random.key(0), 8)
    drawn = np.stack([play(variables, batch, key, True).policy.action for key in keys])
    assert (drawn != drawn[:1]).any()
    greedy = [play(variables, batch, key, False) for key in keys[:2]]
    jax.tree.map(np.testing.assert_array_equal, *greedy)


def test_behind_an_action_that_ends_it_the_agent_observes_nothing(played):
    batch, variables, play = played
    # The policy's bias lets it stop at once.
    stopped = jax.tree.map(np.copy, variables)
    stopped["params"]["agent"]["policy"]["bias"][STOP] = 100.0
    first = play(stopped, batch, jax.random.key(0), False)
    assert first.ended.all()
    # Other units within the window move the first estimate. The whole is the same: they change places with
    # others outside of it.
    units, window = batch.video_mask.sum(1), np.asarray(first.windows)[:, 0]
    video = np.array(batch.video)
    for row, (start, end), last in zip(video, window, units - 1):
        row[[start, last]] = row[[last, start]]
        assert end < last
    other = play(stopped, dataclasses.replace(batch, video=video), jax.random.key(0), False)
    moved = np.abs(other.iou - first.iou)
    assert (moved[:, 0] > 1e-5).sum() >= 6
    np.testing.assert_allclose(moved[:, 1:], 0, atol=1e-6)
