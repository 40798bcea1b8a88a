"""A training step of a twin is the training step of ours: what `benchmarks/training.py` times beside ours."""

import importlib

import jax
import numpy as np
import pytest

from benchmarks.training_steps import random_batch
from vmr_jax.input.spec import batch_spec
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.experiment import make_model
from vmr_jax.training.step import initial_state, make_step

torch = pytest.importorskip("torch")
import references  # noqa: E402


def tiny_config(name):
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config("storyboard")
    for field in ("dropout", "input_dropout"):
        if field in config.model:
            config.model[field] = 0.0
    config.model.features, config.batch_size = 16, 8
    if name == "mmn":
        config.model.text_features = config.model.space = 16
    return config


@pytest.mark.parametrize("name", ["two_d_tan", "mmn", "vslnet", "moment_detr"])
def test_two_steps_are_the_twins(name):
    """The second loss is after an update, so the gradients, their clipping and the optimiser agree too."""
    config = tiny_config(name)
    if name == "mmn":
        config.model.queries_per_video = config.input.queries_per_video = 2
    module = importlib.import_module(f"references.{name}")
    torch.manual_seed(0)
    model, twin = make_model(config), module.build(config)
    spec = batch_spec(config, config.batch_size, model.requires())
    batch = random_batch(spec, queries_per_video=2)
    config.optimizer.schedule, config.optimizer.learning_rate = "constant", 3e-3
    config.optimizer.warmup = "0 steps"
    schedule = optimizer_lib.learning_rate(config.optimizer, 1000, 100)
    variables = module.variables(twin)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 100)
    state = initial_state(variables, optimizer)
    step = jax.jit(make_step(model, optimizer, schedule, 100, seed=0))
    theirs = references.make_optimizer(config.optimizer, twin.train())
    losses = []
    for number in range(2):
        key = jax.random.fold_in(jax.random.key(0), number)
        draws = references.random_draws(model, state.variables, batch, key)
        state, scalars = step(state, batch)
        found = references.train_step(
            twin, theirs, config.optimizer.clip_norm, references.tensors(batch), **draws
        )
        np.testing.assert_allclose(scalars["train/loss"], found, rtol=1e-4)
        losses.append(found)
    assert losses[0] - losses[1] > 1e-3 * losses[0]  # the update matters
