"""Official DORi checkpoints, against a PyTorch twin written from the paper, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model, read_checkpoint

torch = pytest.importorskip("torch")
from references.dori import Twin  # noqa: E402

SIZES = dict(features=6, recurrent_features=3, key_features=4, recurrent_layers=2)


def make_twin(use_bias=False):
    torch.manual_seed(0)
    twin = Twin(6, 4, 5, use_bias=use_bias, iterations=2, **SIZES)
    for parameter in twin.model_spatial.parameters():
        parameter.data *= 3  # as else hardly anything would come of messages, which are multiplied
    return twin


def small_batch():
    """Three videos of up to four clips; regions are absent here and there, and some of them are people."""
    batch = random_batch(size=3, clips=4, fill=0)
    rng = np.random.default_rng(0)
    there = batch.object_mask & (rng.random(batch.object_mask.shape) < 0.7)
    assert (there & batch.persons).any() and (there & ~batch.persons).any()
    return batch.replace(object_mask=there)


def test_outputs_losses_and_gradients_are_the_twins():
    twin, batch = make_twin(), small_batch()
    _, model, variables = load_model("dori", twin.state_dict(), dropout=0.0, iterations=2)
    assert model == create("dori", dropout=0.0, iterations=2, use_bias=False, **SIZES)  # with all sizes

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs = model.apply({"params": params}, batch, train=True)
        losses = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        return sum(losses.values()), (losses, outputs)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-6, rtol=1e-4)

    gradients, (losses, outputs) = train(variables["params"])
    expected = twin(batch)
    for name, x in expected.items():
        close(getattr(outputs, name)[batch.video_mask], x.detach().numpy()[batch.video_mask])
    expected = twin.loss(expected, batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = load("dori", twin.state_dict())["params"]
    for part in ("human", "thing", "human_message", "query_gru", "clip_human_query"):
        assert max(np.abs(x).max() for x in jax.tree.leaves(expected[part])) > 1e-4, part
    jax.tree.map(close, gradients, expected)


def test_a_whole_model_is_read_as_the_program_saves_it(tmp_path):
    twin = make_twin(use_bias=True)
    torch.save(twin, tmp_path / "model_epoch_19")
    fields, _, read = load_model("dori", read_checkpoint(tmp_path / "model_epoch_19"))
    assert fields["use_bias"]
    jax.tree.map(np.testing.assert_array_equal, read, load("dori", twin.state_dict()))
    # The two layers on regions have each other's names in the official code.
    np.testing.assert_array_equal(
        read["params"]["thing"]["bias"], twin.model_spatial.factor_human.bias.detach()
    )
