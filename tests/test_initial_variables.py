"""Initial variables: how often a model is traced for them, and what the shapes have to do with the numbers."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import pytest
from batches import random_batch

from vmr_jax.models.base import GroundingModel, abstract_variables
from vmr_jax.training.experiment import initial_variables


class Traced(GroundingModel):
    """Counts how often it is run."""

    features: Any = 3
    runs: ClassVar[list[Any]] = []

    @nn.compact
    def __call__(self, batch, *, train):
        del train
        self.runs.append(self.features)
        return nn.Dense(self.features if isinstance(self.features, int) else self.features[0])(batch.video)


@pytest.mark.parametrize(("features", "traces"), [(3, 1), ([3], 3)])
def test_models_with_the_same_fields_are_traced_once(features, traces):
    """A list has no hash, so that such models are not known to be the same, and are traced each time."""
    Traced.runs.clear()
    batch = random_batch()
    shapes = [abstract_variables(Traced(features=features), batch) for _ in range(2)]
    variables = initial_variables(Traced(features=features), batch, 0)
    assert len(Traced.runs) == traces
    width = batch.video.shape[-1]
    for tree in (*shapes, variables):
        assert jax.tree.map(lambda x: x.shape, tree) == {
            "params": {"Dense_0": {"kernel": (width, 3), "bias": (3,)}}
        }


def test_initial_variables_are_those_of_flax():
    """Of the seed alone, and of a batch no more than its shapes."""
    batch = random_batch()
    expected = jax.jit(lambda key: Traced().init(key, batch, train=True))(jax.random.key(7))
    jax.tree.map(
        lambda ours, flax: (ours == flax).all() or pytest.fail("others than flax draws"),
        initial_variables(Traced(), batch, 7),
        jax.device_get(expected),
    )
