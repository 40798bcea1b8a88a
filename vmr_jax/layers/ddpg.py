"""Deterministic policy gradient (DDPG; Lillicrap et al., 2016) for agents that move a segment (AVMR, STRONG).

The actor maps a state to a vector of numbers, one for each action; the environment takes the action of the
largest. The critic values a state and such a vector, and the actor follows its gradient. Parameters are plain
trees, so that one network can be applied while another one stands still, and in a scan.

Official code: model.py, MADDPG.py and main.py of yawenzeng/AVMR and yawenzeng/STRONG, which share them.

Letters beyond the usual: Z actions of a policy.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.moments import iou
from vmr_jax.types import Mean

# Steps that each action moves start and end, in the order of the official code: both, the start, the end.
MOVES = np.array([[-1, -1], [1, 1], [-1, 0], [1, 0], [0, -1], [0, 1]])
FIRST = (0.25, 0.75)  # the segment at first, in parts of the video
_RISE = 1e-6  # an IoU that rises by less has not changed: float32 is not exact


@struct.dataclass
class Networks:
    """Parameters of an agent: trees of layers."""

    actor: Any
    critic: Any
    target_actor: Any
    target_critic: Any


class DeterministicAgent(nn.Module):
    """The parameters of an actor, a critic and their targets, which follow them slowly.

    Attributes:
      inputs: width of a state.
      actions: Z, number of actions.
      actor_hidden: widths of the actor's hidden layers.
      critic_hidden: widths of the critic's hidden layers; the action joins behind the first.
      target_rate: share of the way that the targets go at a time (official code: tau).
      target_every: number of updates between two such times.
    """

    inputs: int
    actions: int
    actor_hidden: tuple[int, ...]
    critic_hidden: tuple[int, ...]
    target_rate: float
    target_every: int

    @nn.compact
    def __call__(self, updates: jax.Array, train: bool) -> Networks:
        """Returns the networks after `updates` [] updates; in training the targets move when it is time."""
        first, *later = self.critic_hidden
        actor_sizes = [self.inputs, *self.actor_hidden, self.actions]
        critic_sizes = [(self.inputs, first), *_pairs([first + self.actions, *later, 1])]
        own = {
            "actor": self.param("actor", linear_layers, _pairs(actor_sizes)),
            "critic": self.param("critic", linear_layers, critic_sizes),
        }
        targets = {
            name: self.variable("targets", name, lambda x: jax.tree.map(jnp.copy, x), tree)
            for name, tree in own.items()
        }
        if train and not self.is_initializing():
            now = (updates > 0) & (updates % self.target_every == 0)
            rate = jnp.where(now, self.target_rate, 0.0)
            for name, target in targets.items():
                source = jax.lax.stop_gradient(own[name])
                target.value = jax.tree.map(lambda t, s: (1 - rate) * t + rate * s, target.value, source)
        return Networks(own["actor"], own["critic"], targets["actor"].value, targets["critic"].value)


def _pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[:-1], sizes[1:]))


def linear_layers(key: jax.Array, sizes: list[tuple[int, int]]) -> dict[str, dict[str, jax.Array]]:
    """Linear layers of (inputs, outputs), which start as PyTorch's."""
    found = {}
    for i, (inputs, outputs) in enumerate(sizes):
        of_kernel, of_bias = jax.random.split(jax.random.fold_in(key, i))
        found[f"layer_{i}"] = {
            "kernel": torch_default_kernel(of_kernel, (inputs, outputs)),
            "bias": torch_bias(inputs)(of_bias, (outputs,)),
        }
    return found


def linear_of(layer: dict[str, jax.Array], x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Maps [...,D] to [...,F] float32; `dtype` is that of the product."""
    product = jnp.dot(x.astype(dtype), layer["kernel"].astype(dtype)).astype(jnp.float32)
    return product + jnp.broadcast_to(layer["bias"], product.shape)


def act(actor: Any, state: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the actor's vector [...,Z] in (-1, 1) for states [...,D] (official code: Actor)."""
    for i in range(len(actor)):
        state = linear_of(actor[f"layer_{i}"], state, dtype)
        state = nn.relu(state) if i < len(actor) - 1 else jnp.tanh(state)
    return state


def value(critic: Any, state: jax.Array, action: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the value [...] of states [...,D] and vectors [...,Z] of actions (official code: Critic)."""
    x = jnp.concatenate([nn.relu(linear_of(critic["layer_0"], state, dtype)), action], axis=-1)
    for i in range(1, len(critic)):
        x = linear_of(critic[f"layer_{i}"], x, dtype)
        x = nn.relu(x) if i < len(critic) - 1 else x
    return x[..., 0]


@struct.dataclass
class Values:
    """Values of transitions [B,Y], from which the two losses follow."""

    taken: jax.Array  # of the action that was taken
    after: jax.Array  # of the next state with its target's action, by the targets
    actor: jax.Array  # of the actor's own action; its gradient moves the actor alone


def values_of(
    networks: Networks, states: jax.Array, actions: jax.Array, after: jax.Array, dtype: jnp.dtype
) -> Values:
    """The values of states [B,Y,D], action vectors [B,Y,Z] and next states [B,Y,D]."""
    still, seen = jax.lax.stop_gradient((networks.critic, states))
    next_action = act(networks.target_actor, after, dtype)
    return Values(
        taken=value(networks.critic, states, actions, dtype),
        after=jax.lax.stop_gradient(value(networks.target_critic, after, next_action, dtype)),
        actor=value(still, seen, act(networks.actor, seen, dtype), dtype),
    )


def ddpg_terms(
    values: Values, rewards: jax.Array, counted: jax.Array, *, discount: float, reward_scale: float
) -> tuple[Mean, Mean]:
    """The critic's squared error and the actor's loss, means over the counted transitions.

    Args:
      values: of the transitions [B,Y].
      rewards: [B,Y].
      counted: [B,Y] bool.
      discount: weight of what the next state is worth; 0 where it counts for nothing.
      reward_scale: factor of the rewards.
    """
    target = jax.lax.stop_gradient(discount * values.after + reward_scale * rewards)
    return Mean.of(jnp.square(values.taken - target), counted), Mean.of(-values.actor, counted)


def explored(vector: jax.Array, noise: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Returns action vectors with Gaussian noise of deviation `sigma`, cut to [-1,1]."""
    return jnp.clip(vector + sigma * noise, -1.0, 1.0)


def annealed(start: float, decay: float, least: float, steps: jax.Array) -> jax.Array:
    """Deviation of the noise after `steps` steps, each of which multiplies it by `decay`, down to `least`."""
    return jnp.maximum(start * jnp.power(decay, steps.astype(jnp.float32)), least)


def episode_noise(
    agent: Any, example_index: jax.Array, shape: tuple[int, ...], updates: jax.Array, train: bool
) -> jax.Array:
    """Noise on the numbers of an actor: normal draws [B,Y,...], whose deviation is `annealed`.

    At test there is none, or as much as at the first step of all.

    Args:
      agent: the calling module, whose fields noise, noise_decay and noise_least `annealed` takes; noise_at_test
        says whether there is noise at test.
      example_index: [B].
      shape: (Y, ...), that of the draws of an example.
      updates: [] number of updates before, each of Y steps.
      train: whether the agent learns.
    """
    if not train and not agent.noise_at_test:
        return jnp.zeros((*example_index.shape, *shape))
    key = agent.make_rng("dropout") if train else jax.random.key(0)
    steps = updates * shape[0] + jnp.arange(shape[0]) if train else jnp.zeros(shape[0])
    sigma = annealed(agent.noise, agent.noise_decay, agent.noise_least, steps)
    sigma = sigma.reshape(1, -1, *(1 for _ in shape[1:]))
    return sigma * draw_per_example(key, example_index, jax.random.normal, shape)


def next_segment(segment: jax.Array, vector: jax.Array, step: float) -> tuple[jax.Array, jax.Array]:
    """Returns the segment [B,2] that vectors [B,Z] move segments [B,2] to, and whether they can [B].

    A move out of the video or to no segment leaves it where it is. Official code: state_update.
    """
    moved = segment + step * jnp.asarray(MOVES, jnp.float32)[vector.argmax(-1)]
    can = (moved[:, 0] >= 0) & (moved[:, 1] <= 1) & (moved[:, 0] < moved[:, 1])
    return jnp.where(can[:, None], moved, segment), can


def improvement(before: jax.Array, after: jax.Array, truth: jax.Array, absolute: bool) -> jax.Array:
    """Returns [B,Y] bool, whether the IoU with truth [B,2] rises from segments [B,Y,2] to segments [B,Y,2].

    `absolute` takes the absolute value of the intersection, as the official code does: segments that are apart
    then overlap too.
    """
    measure = absolute_iou if absolute else iou
    truth = jnp.broadcast_to(truth[:, None], before.shape)
    return measure(after, truth) > measure(before, truth) + _RISE


def absolute_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU of segments [...,2], the gap between them taken for an intersection."""
    inner = jnp.minimum(a[..., 1], b[..., 1]) - jnp.maximum(a[..., 0], b[..., 0])
    outer = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    return jnp.abs(inner) / jnp.where(outer == 0, 1.0, jnp.abs(outer))


def rows_inside(segment: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,M,T] bool, the clips of videos of mask [B,T] in segments [B,M,2]; at least one, the first.

    Both ends are cut to whole clips, the last one not included. Official code: resnet, of frames.
    """
    count = mask.sum(1, dtype=jnp.int32)[:, None]
    ends = (count[..., None] * segment).astype(jnp.int32)
    first = jnp.minimum(ends[..., 0], jnp.maximum(count - 1, 0))
    last = jnp.maximum(ends[..., 1], first + 1)
    place = jnp.arange(mask.shape[1])[None, None]
    return (place >= first[..., None]) & (place < last[..., None]) & mask[:, None]


def mean_inside(video: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns [B,M,D] float32, the mean of the clips of video [B,T,D] that are `inside` [B,M,T]."""
    total = jnp.einsum("bmt,btd->bmd", inside.astype(jnp.float32), video.astype(jnp.float32))
    return total / jnp.maximum(inside.sum(-1), 1)[..., None]
