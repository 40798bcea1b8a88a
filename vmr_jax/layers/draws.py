"""Random choices that do not depend on how a batch is shared among devices, nor on padding."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.types import Batch


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


def annotated_moment(key: jax.Array, batch: Batch, moments: str, owner: str) -> jax.Array:
    """Returns [B,2] seconds, the moment that a sentence is to find in this step.

    Args:
      key: a random key.
      batch: the examples.
      moments: 'windows' draws one of the annotated moments; 'span' is the one to learn.
      owner: name of the architecture, for the error message.

    Raises:
      UserError: where one is drawn and the batch has no `windows`.
    """
    if moments == "span":
        return batch.span
    if batch.windows is None or batch.window_mask is None:
        raise UserError(
            f"{owner} draws one of the annotated moments of a query, and this batch does not have them. Use a "
            "dataset that has them, or set moments='span'."
        )
    index, _ = uniform_choice(key, batch.example_index, batch.window_mask)
    return jnp.take_along_axis(batch.windows, index[:, None, None], axis=1)[:, 0]


def random_segments(key: jax.Array, example_index: jax.Array, duration: jax.Array, count: int) -> jax.Array:
    """Draws [B,count,2] seconds, segments of videos [B] between two uniform times each."""
    ends = draw_per_example(key, example_index, jax.random.uniform, (count, 2))
    return jnp.sort(ends, axis=-1) * duration[:, None, None]
