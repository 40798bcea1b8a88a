"""Agents that move a window over the units of a video (TSP-PRL, RWM): windows, their IoU, layers.

A unit is a row of features. A window [...,2] is an integer pair, its first and last unit. Official code:
WuJie1010/TSP-PRL and WuJie1010/Temporally-language-grounding, whose environments have these in common.

Letters beyond the usual: Z actions of a policy.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.actor_critic import unit_rows
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Moments


def valid(window: jax.Array) -> jax.Array:
    """Returns [...] bool, whether the end of windows [...,2] is behind the start."""
    return window[..., 1] > window[..., 0]


def first_window(units: jax.Array) -> jax.Array:
    """Returns the middle half of each video of units [B]: [B,2]."""
    quarter = units // 4
    return jnp.stack([jnp.maximum(quarter - 1, 0), units - quarter - 1], axis=-1)


def annotated_window(span: jax.Array, duration: jax.Array, units: jax.Array, whole_units: bool) -> jax.Array:
    """Returns the annotated moment [B,2] (seconds) in units: float32, its last unit included.

    `whole_units` keeps fractions. Else they are round(start) and round(end) - 1, within the video.
    """
    ends = span * (units / duration)[:, None]
    if whole_units:
        return ends - jnp.array([[0.0, 1.0]])
    return jnp.clip(jnp.round(ends) - jnp.array([[0.0, 1.0]]), 0, (units - 1)[:, None])


def signed_iou(window: jax.Array, truth: jax.Array, last: int) -> jax.Array:
    """Returns the IoU of windows [...,2] with `truth` (broadcast), negative by the gap where they are apart.

    `last` is 1 to count the last unit in, 0 for a window that lasts to its start.
    """
    inner = jnp.minimum(window[..., 1], truth[..., 1]) + last - jnp.maximum(window[..., 0], truth[..., 0])
    outer = jnp.maximum(window[..., 1], truth[..., 1]) + last - jnp.minimum(window[..., 0], truth[..., 0])
    return inner / jnp.where(outer > 0, outer, 1)


def agent_linear(features: int, unit_weights: bool, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A layer `name` of the calling module; its weights start as N(0, 1), or else LeCun normal."""
    init = nn.initializers.normal(1.0) if unit_weights else nn.initializers.lecun_normal()
    return nn.Dense(features, kernel_init=init, dtype=dtype, name=name)


def relu_of_unit(x: jax.Array) -> jax.Array:
    """Returns the ReLU of x [...,F] over its L2 norm."""
    return nn.relu(l2_normalize(x))


def policy_and_value(
    actions: int, hidden: jax.Array, policy: str = "policy", value: str = "value"
) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B,Z] of Z actions and value [B], of states [B,F], by layers of the calling module.

    Official code: normalized_columns_initializer.
    """
    logits = nn.Dense(actions, kernel_init=unit_rows(0.01), name=policy)(hidden)
    return logits, nn.Dense(1, kernel_init=unit_rows(1.0), name=value)(hidden)[:, 0]


def plays(agent: type[nn.Module], in_axes: Any) -> Any:
    """Returns the class of a module that takes the steps of an episode, all of the same layers.

    Its call is (carry, *inputs) -> (carry, what the agent returns of each step [B,Y,...]); `in_axes` has the
    axis of the steps of each input, or `nn.broadcast`.
    """
    return nn.scan(
        agent, variable_broadcast="params", split_rngs={"params": False}, in_axes=in_axes, out_axes=1
    )


def ranked_windows(
    windows: jax.Array, logits: jax.Array, mask: jax.Array, batch: Batch, whole_units: bool
) -> Moments:
    """The moments of windows [B,M,2], in units, by the logit of their IoU [B,M], whose sigmoid is the score.

    Those outside `mask` [B,M] come last, with score -inf. A window lasts to the end of its last unit with
    `whole_units`, else to the start of it.
    """
    units = jnp.maximum(batch.video_mask.sum(1), 1)
    ends = windows + jnp.array([0, int(whole_units)])[None, None]
    ranked = rank(ends * (batch.duration / units)[:, None, None], logits, mask, windows.shape[1])
    scores = jnp.where(ranked.scores > -jnp.inf, nn.sigmoid(ranked.scores), -jnp.inf)
    return dataclasses.replace(ranked, scores=scores)
