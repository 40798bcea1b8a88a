"""The steps of a batch that is padded to its longest example alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.padding import batch_steps
from vmr_jax.parallel import Parallel


@pytest.mark.parametrize("mode, devices", [("pmap", 1), ("pmap", 8), ("jit", 8)])
def test_the_longest_real_example_of_all_devices_says_how_long_a_batch_is(mode, devices):
    # Of one, three and two steps, and of one; the row of five only fills the batch.
    mask = np.arange(6) < np.array([1, 3, 2, 5, 1, 1, 1, 1])[:, None]
    real = np.arange(8) != 3
    parallel = Parallel(mode, devices)
    steps = parallel.map_examples(lambda none, batch: jnp.broadcast_to(batch_steps(*batch), batch[0].shape))
    found = steps(parallel.replicate(np.zeros(1)), parallel.put_batch((mask, real)))
    np.testing.assert_array_equal(found, np.tile([[True] * 3 + [False] * 3], (8, 1)))
