"""Every reference has the same interface and stands for the model of any config."""

import importlib
import pkgutil

import jax
import numpy as np
import pytest

from vmr_jax.input.spec import batch_spec
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.experiment import make_model

pytest.importorskip("torch")
import references

NAMES = sorted(m.name for m in pkgutil.iter_modules(references.__path__))


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_a_built_twin_are_all_of_ours(name):
    module = importlib.import_module(f"references.{name}")
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config("storyboard")
    twin = module.build(config)
    assert isinstance(twin, module.Twin)
    # The 20 words of the twin, and padding.
    model = make_model(config, vocab_size=21 if make_model(config).needs_vocabulary else 0)
    ours = abstract_variables(model, batch_spec(config, 8, model.requires()))
    assert jax.tree.map(np.shape, module.variables(twin)) == jax.tree.map(lambda x: x.shape, ours)
