"""Official ACRM checkpoints, against a PyTorch twin of the official code, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.layers.attention import masked_softmax
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model, read_checkpoint

torch = pytest.importorskip("torch")
from references.acrm import Twin  # noqa: E402

SIZES = dict(features=6, recurrent_features=3, head_features=4)


def make_twin(query_bias=True, fusion="product"):
    torch.manual_seed(0)
    return Twin(6, 5, query_bias=query_bias, fusion=fusion, **SIZES)


@pytest.mark.parametrize("query_bias, fusion", [(True, "product"), (False, "difference")])
def test_outputs_losses_and_gradients_are_the_twins(query_bias, fusion):
    twin, batch = make_twin(query_bias, fusion), random_batch(fill=0)
    _, model, variables = load_model("acrm", twin.state_dict(), dropout=0.0, fusion=fusion)
    assert model == create("acrm", dropout=0.0, query_bias=query_bias, fusion=fusion, **SIZES)  # all sizes

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs = model.apply({"params": params}, batch, train=True)
        losses = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        return sum(losses.values()), (losses, outputs)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)

    gradients, (losses, outputs) = train(variables["params"])
    expected = twin(batch)
    for name, x in expected.items():
        found = masked_softmax(getattr(outputs, name), jnp.asarray(batch.video_mask))
        close(found[batch.video_mask], x.detach().numpy()[batch.video_mask])
    expected = twin.loss(expected, batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    shared = twin.model_df.pooling_layer
    shared.projection_S.bias.grad *= 0  # ours is one bias in place of two, and its gradient one of two alike
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    jax.tree.map(close, gradients, load("acrm", twin.state_dict())["params"])


def test_a_whole_model_is_read_as_the_program_saves_it(tmp_path):
    twin = make_twin()
    torch.save(twin, tmp_path / "model_ACRM")
    read = load("acrm", read_checkpoint(tmp_path / "model_ACRM"))
    jax.tree.map(np.testing.assert_array_equal, read, load("acrm", twin.state_dict()))
