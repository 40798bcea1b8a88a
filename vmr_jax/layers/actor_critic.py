"""Advantage actor-critic (Mnih et al., 2016) on episodes of one fixed length of Y steps, under a mask.

Nothing here knows what an action does. An architecture plays its episode in a scan and keeps a `Decision` of
every step; its loss calls `episode_terms`. `counted` [B,Y] marks the steps that belong to the episode, which
are the first ones of each row.

Letters beyond the usual: Z actions of a policy.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.nn.initializers import Initializer

from vmr_jax.layers.draws import draw_per_example
from vmr_jax.types import Mean


@struct.dataclass
class Decision:
    """Actions that were taken, and the networks' opinion of them; every field [B] or [B,Y]."""

    action: jax.Array  # int32
    log_prob: jax.Array  # of the action
    entropy: jax.Array  # of the policy
    value: jax.Array  # of the state


def decide(logits: jax.Array, value: jax.Array, action: jax.Array) -> Decision:
    """The decision for `action` [B] of the policy with logits [B,Z] in a state of value [B]; float32."""
    chex.assert_shape([value, action], logits.shape[:1])
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    probs = jnp.exp(log_probs)
    return Decision(
        action=action,
        log_prob=jnp.take_along_axis(log_probs, action[:, None], axis=1)[:, 0],
        # An action without probability (masked) adds nothing.
        entropy=-jnp.where(probs > 0, probs * log_probs, 0.0).sum(-1),
        value=value.astype(jnp.float32),
    )


def action_noise(key: jax.Array, example_index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gumbel noise [B,*shape]: the largest of logits [...,Z] plus noise is a draw from their policy.

    The noise of an example depends on its position in the split alone, and is the same on any device. Draw it
    for the whole episode at once, outside of the scan.
    """
    return draw_per_example(key, example_index, jax.random.gumbel, shape)


def discounted_returns(
    rewards: jax.Array, bootstrap: jax.Array, counted: jax.Array, discount: float
) -> jax.Array:
    """R_k = r_k + discount * R_{k+1}, [B,Y]; after the last counted step, `bootstrap` of that step for R_{k+1}.

    Args:
      rewards: [B,Y] float32.
      bootstrap: [B,Y], what is expected after step k should the episode be cut there: the value of the next
        state, or 0 where k ends the episode for good.
      counted: [B,Y] bool. Steps behind the counted ones have no meaning.
      discount: weight of the later rewards, gamma.
    """
    chex.assert_equal_shape([rewards, bootstrap, counted])

    def step(later, inputs):
        reward, cut, goes_on = inputs
        value = reward + discount * jnp.where(goes_on, later, cut)
        return value, value

    goes_on = jnp.concatenate([counted[:, 1:], jnp.zeros_like(counted[:, :1])], axis=1)
    inputs = (rewards.T, bootstrap.T, goes_on.T)
    _, returns = jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), inputs, reverse=True)
    return returns.T


def actor_critic_terms(
    decisions: Decision,
    returns: jax.Array,
    counted: jax.Array,
    *,
    entropy_weight: float,
    detach_advantage: bool = True,
) -> tuple[Mean, Mean]:
    """Means over the counted steps of the policy's loss and of the value's.

    With the advantage a = R - V these are -log pi(action) a - entropy_weight * entropy, and a^2.

    Args:
      decisions: those of the episode, fields [B,Y].
      returns: R [B,Y].
      counted: [B,Y] bool; leave filling rows out.
      entropy_weight: weight of the policy's entropy.
      detach_advantage: False lets the gradient of the policy's loss into the values too.
    """
    advantage = returns - decisions.value
    weight = jax.lax.stop_gradient(advantage) if detach_advantage else advantage
    policy = -decisions.log_prob * weight - entropy_weight * decisions.entropy
    return Mean.of(policy, counted), Mean.of(jnp.square(advantage), counted)


def episode_terms(
    decisions: Decision,
    rewards: jax.Array,
    counted: jax.Array,
    *,
    discount: float,
    entropy_weight: float,
    detach_advantage: bool,
) -> tuple[Mean, Mean]:
    """Returns the losses of policy and of value of an episode, from its rewards [B,Y].

    Behind the last step that is `counted` the value of that step stands for all later rewards.

    `detach_advantage` False lets gradients of the policy's loss and of the returns into the values.
    """
    returns = discounted_returns(rewards, decisions.value, counted, discount)
    if detach_advantage:
        returns = jax.lax.stop_gradient(returns)
    return actor_critic_terms(
        decisions, returns, counted, entropy_weight=entropy_weight, detach_advantage=detach_advantage
    )


def unit_rows(length: float) -> Initializer:
    """N(0, 1), then the weights of every output scaled to one Euclidean length: [in,out], columns here."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        kernel = nn.initializers.normal(1.0)(key, shape, dtype)
        return length * kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)

    return init
