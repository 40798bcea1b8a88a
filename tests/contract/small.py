"""The small model of each architecture, and its training step, compiled once for each way of mapping it."""

import functools

import cases
import jax
import numpy as np
import optax
from batches import random_batch
from simple_draws import padded_key, simple_key

from vmr_jax import models
from vmr_jax.parallel import Parallel
from vmr_jax.training.experiment import initial_variables
from vmr_jax.training.step import initial_state, make_step


class Small:
    """The model that `cases` describes, of 'architecture' or of 'architecture,option'.

    Attributes:
      model: the one that is tested.
      key: makes the random keys; draws of `padded_key` do not depend on any padding.
      seed: of the initial variables.
      batch: eight rows, the last two filling: six of eight devices have one real example each, two have none.
      tolerance: of comparisons of float32 sums in another order.
      draws_rows: whether it draws among the rows of the batch, so that their order matters.
    """

    def __init__(self, name: str):
        name, _, option = name.partition(",")
        case = cases.ALL[name]
        self.model = models.create(name, **case.SMALL, **(case.OPTIONS[option] if option else {}))
        self.key = padded_key if getattr(case, "PADDED_DRAWS", False) else simple_key
        self.batch = random_batch()
        self.seed = getattr(case, "SEED", 0)
        self.tolerance = getattr(case, "TOLERANCE", 1e-6)
        self.draws_rows = getattr(case, "DRAWS_ROWS", False)
        self._steps = {}

    @functools.cached_property
    def variables(self):
        """The initial ones; they are compiled."""
        return initial_variables(self.model, self.batch, self.seed)

    def _step(self, mode: str, devices: int):
        if (mode, devices) not in self._steps:
            # SGD of rate 1: the update is the gradient itself.
            optimizer, schedule = optax.sgd(1.0), optax.constant_schedule(1.0)
            state = jax.tree.map(np.asarray, initial_state(self.variables, optimizer))
            parallel = Parallel(mode, devices)
            step = parallel.map_step(make_step(self.model, optimizer, schedule, 10, seed=0))
            self._steps[mode, devices] = state, parallel, step
        return self._steps[mode, devices]

    @functools.cached_property
    def one_step(self):
        """Variables and scalars after one step on eight devices, by `pmap`: what others are compared with."""
        return self.trained("pmap", 8)

    def trained(self, mode: str, devices: int, batch=None, *, steps: int = 1, first: int = 0):
        """Variables and scalars after `steps` steps on one batch; each way of mapping is compiled once.

        `first` is the number of the first step, on which random draws depend.
        """
        state, parallel, step = self._step(mode, devices)
        state = state.replace(step=np.int32(first))
        placed, batch = parallel.replicate(state), parallel.put_batch(batch or self.batch)
        for _ in range(steps):
            placed, scalars = step(placed, batch)
        return jax.tree.map(np.asarray, (placed.variables, scalars))


def assert_close(a, b, tolerance: float) -> None:
    """Equal to `tolerance`, relative to the size of the numbers of each leaf where that is above 1."""

    def check(x, y):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1.0, np.abs(y).max()), rtol=0)

    jax.tree.map(check, a, b)
