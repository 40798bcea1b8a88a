"""Losses that more than one architecture uses. Each is elementwise; `Mean.of` sums and counts."""

import jax
import jax.numpy as jnp


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-t log sigmoid(x) - (1-t) log(1 - sigmoid(x)), elementwise, stable for any logit."""
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def scaled_iou(iou: jax.Array, low: float, high: float) -> jax.Array:
    """Soft label clip((iou - low) / (high - low), 0, 1) (2D-TAN, section 3.5)."""
    return jnp.clip((iou - low) / (high - low), 0.0, 1.0)


def position_cross_entropy(logits: jax.Array, position: jax.Array) -> jax.Array:
    """Cross-entropy [B] of logits [B,T] with positions [B] along T, such as that of the start clip."""
    chosen = jnp.take_along_axis(logits, position[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
