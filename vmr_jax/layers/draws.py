"""Random choices that do not depend on how a batch is shared among devices, nor on padding."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def draw_per_example(
    key: jax.Array, example_index: jax.Array, draw: Callable[..., jax.Array], shape: tuple[int, ...] = ()
) -> jax.Array:
    """Returns [B,...], `draw(key, shape)` of each example from its position in the split [B] alone."""
    return jax.vmap(lambda index: draw(jax.random.fold_in(key, index), shape))(example_index)


def draw_per_column(key: jax.Array, example_index: jax.Array, count: int) -> jax.Array:
    """Returns uniform numbers [B,count] that depend on the example [B] and the column alone."""

    def one(row, column):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), column))

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(example_index, jnp.arange(count))


def uniform_choice(key: jax.Array, example_index: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one candidate of each example, all with the same probability.

    One number in [0,1) is drawn per example, from `key` and the example's position in its split, and stands for
    a place in the list of the candidates of `mask`. So candidates outside the mask may be added anywhere.

    Args:
      key: a random key.
      example_index: [B] int32.
      mask: [B,M] bool, the candidates that may be drawn.

    Returns:
      Positions [B] int32 along M, and whether there was anything to draw [B]; the position is 0 where not.
    """
    chex.assert_shape(mask, (example_index.shape[0], None))
    share = draw_per_example(key, example_index, jax.random.uniform)
    count = jnp.asarray(mask).sum(-1)
    # The product can round up to the count.
    place = jnp.minimum(jnp.floor(share * count).astype(count.dtype), count - 1)
    chosen = mask & (jnp.cumsum(mask, axis=-1) == place[:, None] + 1)
    return jnp.argmax(chosen, axis=-1), count > 0
