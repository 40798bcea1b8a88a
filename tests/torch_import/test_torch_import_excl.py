"""Checkpoints of ExCL's re-implementation, against a PyTorch twin, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.excl import Twin  # noqa: E402

SIZES = dict(recurrent_features=3, hidden=4)
STREAMS = {"both": {"video": 6, "sub": 4}, "video": {"video": 6}, "subtitles": {"sub": 4}}


@pytest.mark.parametrize("streams", STREAMS)
def test_outputs_losses_and_gradients_are_the_twins(streams):
    torch.manual_seed(0)
    given = dict(unit_words=streams == "both", late_end=streams == "both")
    twin, batch = Twin(STREAMS[streams], 5, **SIZES, **given), random_batch(fill=0)
    _, model, variables = load_model("excl", {"model": twin.state_dict(), "epoch": 3}, dropout=0.0, **given)
    assert model == create("excl", dropout=0.0, streams=streams, **SIZES, **given)  # with all sizes

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
        close(getattr(outputs, name)[batch.video_mask], x.detach().numpy()[batch.video_mask])
    expected = twin.loss(expected, batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    for parameter in twin.parameters():
        parameter.data = parameter.grad
    jax.tree.map(close, gradients, load("excl", twin.state_dict())["params"])


def test_what_does_not_fit_is_named():
    state = Twin(STREAMS["both"], 5, **SIZES).state_dict()
    state["sub_extra"] = state.pop("sub_ed_predictor.2.bias")
    with pytest.raises(UserError, match="1 left over: sub_extra; 1 missing: sub_ed_predictor.2.bias"):
        load("excl", state)


def test_a_missing_predictor_is_all_that_is_named():
    state = Twin(STREAMS["video"], 5, **SIZES).state_dict()
    state = {name: x for name, x in state.items() if not name.startswith("video_st_predictor")}
    with pytest.raises(UserError, match=r"Tensors 4 missing: video_st_predictor[^;]*\. Expected"):
        load("excl", state)
    state = {name: x for name, x in state.items() if "_ed_predictor" not in name}
    with pytest.raises(UserError, match='has no tensor "video_st_predictor.0.weight"'):
        load("excl", state)
