"""Actor-critic: returns, terms and draws by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.actor_critic import (
    Decision,
    action_noise,
    actor_critic_terms,
    decide,
    discounted_returns,
    unit_rows,
)


def test_decision_by_hand():
    # Probabilities 1/4, 3/4; the second row's second action is masked.
    logits = jnp.log(jnp.float32([[1, 3], [1, 1]])) + jnp.float32([[0, 0], [0, -1e30]])
    got = decide(logits, jnp.float32([2, 3]), jnp.array([1, 0]))
    np.testing.assert_allclose(got.log_prob, [np.log(3 / 4), 0], atol=1e-6)
    entropy = -(np.log(1 / 4) / 4 + np.log(3 / 4) * 3 / 4)
    np.testing.assert_allclose(got.entropy, [entropy, 0], atol=1e-6)
    np.testing.assert_array_equal(got.value, [2, 3])


def test_entropy_of_masked_actions_has_a_finite_gradient():
    logits = jnp.float32([[0.5, -1e30, 1.0]])
    gradient = jax.grad(lambda x: decide(x, jnp.zeros(1), jnp.array([0])).entropy.sum())(logits)
    # dH/dx_i = -p_i (log p_i + H); of two actions with p = 1 / (1 + sqrt(e)) and the rest.
    p = np.array([1, 0, np.exp(0.5)]) / (1 + np.exp(0.5))
    entropy = -(p[0] * np.log(p[0]) + p[2] * np.log(p[2]))
    expected = [-p[0] * (np.log(p[0]) + entropy), 0, -p[2] * (np.log(p[2]) + entropy)]
    np.testing.assert_allclose(gradient, [expected], atol=1e-6)


def test_returns_by_hand():
    rewards = jnp.float32([[1, 2, 4], [1, 2, 4], [1, 2, 4]])
    values = jnp.float32([[10, 20, 40]] * 3)
    counted = jnp.array([[True, True, True], [True, True, False], [True, False, False]])
    got = discounted_returns(rewards, values, counted, 0.5)
    # 4 + 40/2 = 24, 2 + 24/2 = 14, 1 + 14/2 = 8; then 2 + 20/2 = 12, 1 + 12/2 = 7; then 1 + 10/2 = 6.
    np.testing.assert_allclose(got[0], [8, 14, 24])
    np.testing.assert_allclose(got[1, :2], [7, 12])
    np.testing.assert_allclose(got[2, :1], [6])


def decisions(log_prob, entropy, value):
    return Decision(action=jnp.zeros((1, 2), jnp.int32), log_prob=log_prob, entropy=entropy, value=value)


def test_terms_by_hand():
    log_prob, entropy, value = (jnp.float32([x]) for x in ([-1, -2], [0.5, 0.7], [1, 100]))
    counted = jnp.array([[True, False]])
    taken = decisions(log_prob, entropy, value)
    policy, critic = actor_critic_terms(taken, jnp.float32([[4, 0]]), counted, entropy_weight=0.1)
    # One step counts, with A = 4 - 1: 1 * 3 - 0.1 * 0.5, and 3^2.
    np.testing.assert_allclose([policy.sum, policy.count, critic.sum, critic.count], [2.95, 1, 9, 1])


def test_advantage_is_detached_from_the_policy_where_asked():
    def policy_term(value, detach):
        taken = decisions(jnp.float32([[-1, -2]]), jnp.zeros((1, 2)), value)
        counted = jnp.ones((1, 2), bool)
        terms = actor_critic_terms(
            taken, jnp.zeros((1, 2)), counted, entropy_weight=0.1, detach_advantage=detach
        )
        return terms[0].sum

    # d/dV of -log pi (R - V) is log pi.
    gradient = jax.grad(policy_term)
    np.testing.assert_array_equal(gradient(jnp.ones((1, 2)), True), [[0, 0]])
    np.testing.assert_array_equal(gradient(jnp.ones((1, 2)), False), [[-1, -2]])


def test_draws_follow_the_probabilities_and_the_example_alone():
    index = jnp.arange(4000)
    logits = jnp.log(jnp.float32([0.2, 0.5, 0.3]))[None].repeat(4000, 0)
    draw = jax.jit(lambda index: (logits + action_noise(jax.random.key(0), index, (3,))).argmax(-1))
    actions = draw(index)
    shares = np.bincount(actions, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.03)  # four standard deviations of a half
    np.testing.assert_array_equal(draw(index[::-1]), actions[::-1])


def test_unit_rows_have_one_length():
    kernel = unit_rows(0.01)(jax.random.key(0), (6, 3))
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), [0.01] * 3, rtol=1e-5)
