"""Rows of a batch among the rows of all devices."""

import jax

from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch


def own_rows(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which rows of all devices are the example of a row [B,B'], and which of them are real [B']."""
    index, real = gather_examples((batch.example_index, batch.example_mask))
    return (batch.example_index[:, None] == index[None]) & real[None], real
