"""Moments as Gaussian weights of frames (CNM, Zheng et al., AAAI 2022; CPL, Zheng et al., CVPR 2022)."""

import jax
import jax.numpy as jnp


def bells(center: jax.Array, deviation: jax.Array, rows: int) -> jax.Array:
    """Returns [...,R], exp(-(u - center)^2 / (2 deviation^2)) at R places u from 0 to 1; both are [...]."""
    return jnp.exp(_exponents(center, deviation, rows))


def peaked_bells(center: jax.Array, deviation: jax.Array, rows: int) -> jax.Array:
    """`bells` divided by their largest value: 1 at the place that is nearest to the center."""
    exponents = _exponents(center, deviation, rows)
    return jnp.exp(exponents - exponents.max(-1, keepdims=True))


def _exponents(center: jax.Array, deviation: jax.Array, rows: int) -> jax.Array:
    u = jnp.linspace(0.0, 1.0, rows).reshape(*(1 for _ in center.shape), rows)
    return -0.5 * ((u - center[..., None]) / deviation[..., None]) ** 2


def bell_over_clips(center: jax.Array, deviation: jax.Array, video_mask: jax.Array) -> jax.Array:
    """Returns [B,T], the Gaussian of center and deviation [B] at the middle of every clip; NaN at padding."""
    count = jnp.maximum(video_mask.sum(-1, keepdims=True), 1)
    middle = (jnp.arange(video_mask.shape[1])[None] + 0.5) / count
    weight = jnp.exp(-0.5 * ((middle - center[:, None]) / deviation[:, None]) ** 2)
    return jnp.where(video_mask, weight, jnp.nan)


def spans_of(center: jax.Array, width: jax.Array) -> jax.Array:
    """Start and end [...,2], as shares of the video, of moments of this center and width [...]."""
    start = jnp.maximum(center - width / 2, 0.0)
    return jnp.stack([start, jnp.minimum(center + width / 2, 1.0)], axis=-1)
