"""Deterministic policy gradient: the environment move by move, targets, and which loss moves what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.layers.ddpg import (
    MOVES,
    DeterministicAgent,
    Values,
    absolute_iou,
    act,
    annealed,
    ddpg_terms,
    explored,
    improvement,
    mean_inside,
    next_segment,
    rows_inside,
    value,
    values_of,
)


def after(segment):
    """Where each of the six actions leads by steps of .1, and whether it can be taken."""
    moved, can = next_segment(jnp.tile(jnp.float32([segment]), (6, 1)), jnp.eye(6), 0.1)
    return np.round(np.asarray(moved, float), 4).tolist(), can.tolist()


def test_every_move():
    moved, can = after([0.4, 0.7])
    assert moved == [[0.3, 0.6], [0.5, 0.8], [0.3, 0.7], [0.5, 0.7], [0.4, 0.6], [0.4, 0.8]]
    assert all(can) and len(MOVES) == 6


def test_a_move_that_leaves_the_video_or_no_segment_is_not_made():
    moved, can = after([0.05, 0.95])
    assert can == [False, False, False, True, True, False]
    assert moved == [[0.05, 0.95]] * 3 + [[0.15, 0.95], [0.05, 0.85], [0.05, 0.95]]
    # A start that reaches the end.
    assert after([0.5, 0.6])[1] == [True, True, True, False, False, True]


def test_of_equal_numbers_the_first_action_is_taken():
    vector = explored(jnp.zeros((1, 6)), jnp.float32([[0, 0, 5, 9, 0, 0]]), 1.0)  # both are cut to 1
    moved, _ = next_segment(jnp.float32([[0.4, 0.7]]), vector, 0.1)
    np.testing.assert_allclose(moved, [[0.3, 0.7]], rtol=1e-6)


def test_absolute_iou():
    # Shared .2 of .6; apart by .2 in .6, which counts as shared.
    pairs = jnp.float32([[0.2, 0.6], [0.2, 0.4]]), jnp.float32([[0.4, 0.8], [0.6, 0.8]])
    np.testing.assert_allclose(absolute_iou(*pairs), [1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("absolute, expected", [(False, [False, True, False]), (True, [True, True, False])])
def test_improvement(absolute, expected):
    # Away from [.8, .9]: the gap grows from .2 of .5 to .3 of .6. Towards [.3, .6]: .1 of .5, then .2. [.2, .7]
    # and [.1, .6] both hold the same three tenths of five, which float32 does not quite say.
    before = jnp.float32([[[0.4, 0.6]], [[0.5, 0.8]], [[0.2, 0.7]]])
    later = jnp.float32([[[0.3, 0.5]], [[0.4, 0.8]], [[0.1, 0.6]]])
    truth = jnp.float32([[0.8, 0.9], [0.3, 0.6], [0.3, 0.6]])
    assert improvement(before, later, truth, absolute)[:, 0].tolist() == expected


def test_rows_inside():
    mask = jnp.arange(12)[None] < 10
    # Ten clips: [.25, .75] is 2.5 to 7.5, so 2 to 6; [.31, .35] is within clip 3; [.99, 1] is the last.
    inside = rows_inside(jnp.float32([[[0.25, 0.75], [0.31, 0.35], [0.99, 1.0], [1.0, 1.0]]]), mask)[0]
    assert [np.flatnonzero(row).tolist() for row in inside] == [[2, 3, 4, 5, 6], [3], [9], [9]]
    video = jnp.arange(12.0).reshape(1, 12, 1)
    np.testing.assert_allclose(mean_inside(video, inside[None])[0, :2, 0], [4, 3])


def test_annealed():
    np.testing.assert_allclose(annealed(1.0, 0.5, 0.2, jnp.arange(4)), [1, 0.5, 0.25, 0.2])


def test_terms_by_hand():
    values = Values(*(jnp.float32([x]) for x in ([1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [5.0, 7.0, 9.0])))
    counted = jnp.array([[True, True, False]])
    critic, actor = ddpg_terms(values, jnp.float32([[1, -1, 9]]), counted, discount=0.5, reward_scale=0.1)
    # Targets .5 * 3 + .1 and .5 * 4 - .1: errors .6 and .1.
    assert float(critic.sum) == pytest.approx(0.36 + 0.01, rel=1e-5) and critic.count == 2
    assert float(actor.sum) == pytest.approx(-12) and actor.count == 2


AGENT = DeterministicAgent(
    inputs=3, actions=6, actor_hidden=(4,), critic_hidden=(5, 2), target_rate=0.25, target_every=10
)


@pytest.fixture(scope="module")
def agent():
    """Variables and a function (variables, updates) -> networks, collections."""

    @jax.jit
    def apply(variables, updates):
        return AGENT.apply(variables, updates, True, mutable=["targets"])

    return initial_variables(AGENT, 0, jnp.int32(0), False), apply


def test_networks_by_hand(agent):
    variables, apply = agent
    networks, _ = apply(variables, jnp.int32(1))
    x, vector = jnp.float32([[1, -2, 0.5]]), jnp.float32([[0.1, 0.2, 0.3, -0.1, 0.5, 0.9]])
    actor, critic = jax.tree.map(np.asarray, (networks.actor, networks.critic))

    def layer(tree, i, x):
        return np.asarray(x) @ tree[f"layer_{i}"]["kernel"] + tree[f"layer_{i}"]["bias"]

    hidden = np.maximum(layer(actor, 0, x), 0)
    np.testing.assert_allclose(act(actor, x, jnp.float32), np.tanh(layer(actor, 1, hidden)), rtol=1e-5)
    hidden = np.concatenate([np.maximum(layer(critic, 0, x), 0), vector], axis=1)
    hidden = np.maximum(layer(critic, 1, hidden), 0)
    np.testing.assert_allclose(value(critic, x, vector, jnp.float32), layer(critic, 2, hidden)[:, 0], rtol=1e-5)


def test_targets_follow_every_ten_updates(agent):
    variables, apply = agent
    jax.tree.map(np.testing.assert_array_equal, variables["targets"], variables["params"])  # at first
    moved = {**variables, "params": jax.tree.map(lambda x: x + 4.0, variables["params"])}
    for updates, way in ((0, 0), (9, 0), (10, 1), (11, 0)):
        _, changed = apply(moved, jnp.int32(updates))
        # A quarter of the way of 4.
        for found, start in zip(*map(jax.tree.leaves, (changed["targets"], variables["targets"]))):
            np.testing.assert_allclose(found, start + way, atol=1e-6)


def test_each_loss_moves_its_own_network(agent):
    variables, _ = agent
    rng = np.random.default_rng(0)
    states, later = (jnp.asarray(rng.normal(size=(2, 3, 3)), jnp.float32) for _ in range(2))
    vectors, rewards = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32), jnp.ones((2, 3))

    @jax.jit
    def gradients(params):
        def term(params, which):
            networks, _ = AGENT.apply({**variables, "params": params}, jnp.int32(1), True, mutable=["targets"])
            values = values_of(networks, states, vectors, later, jnp.float32)
            counted = jnp.ones((2, 3), bool)
            return ddpg_terms(values, rewards, counted, discount=0.9, reward_scale=1.0)[which].sum

        return [jax.grad(term)(params, which) for which in range(2)]

    for which, (own, other) in enumerate((("critic", "actor"), ("actor", "critic"))):
        found = gradients(variables["params"])[which]
        assert all((x == 0).all() for x in jax.tree.leaves(found[other]))
        assert any((x != 0).any() for x in jax.tree.leaves(found[own]))
