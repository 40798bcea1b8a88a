"""Moments as Gaussian weights of frames (CNM, Zheng et al., AAAI 2022; CPL, Zheng et al., CVPR 2022)."""

import jax
import jax.numpy as jnp


def bells(center: jax.Array, deviation: jax.Array, rows: int) -> jax.Array:
    """Returns [...,R], exp(-(u - center)^2 / (2 deviation^2)) at R places u from 0 to 1; both are [...]."""
    u = jnp.linspace(0.0, 1.0, rows).reshape(*(1 for _ in center.shape), rows)
    distance = (u - center[..., None]) / deviation[..., None]
    return jnp.exp(-0.5 * distance**2)


def spans_of(center: jax.Array, width: jax.Array) -> jax.Array:
    """Start and end [...,2], as shares of the video, of moments of this center and width [...]."""
    start = jnp.maximum(center - width / 2, 0.0)
    return jnp.stack([start, jnp.minimum(center + width / 2, 1.0)], axis=-1)
