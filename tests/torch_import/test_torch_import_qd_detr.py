"""Official QD-DETR checkpoints, against a PyTorch twin written from the official code, with random weights."""

import dataclasses

import jax
import numpy as np
import pytest
from batches import random_batch
from flax import traverse_util

from vmr_jax.models import create
from vmr_jax.torch_import import hyper_parameters, load, load_model

torch = pytest.importorskip("torch")
from references.qd_detr import Twin  # noqa: E402

SIZES = dict(features=16, heads=4, hidden=12, encoder_layers=1, decoder_layers=3, num_queries=4)
GIVEN = dict(heads=4, all_windows=False, annotated_saliency=False, dropout=0.0, input_dropout=0.0)


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    twin = Twin(6, 5, **SIZES)
    for p in twin.parameters():  # PyTorch starts some biases at zero and all scales at one
        if p.dim() == 1:
            p.data += 0.3 * torch.randn_like(p)
    return twin


def batch_of(**fields):
    """Four rows; the twin's loss knows no padding of clips."""
    batch = random_batch(size=4, clips=9, fill=0)
    return dataclasses.replace(batch, video=np.abs(batch.video), **fields)


def test_outputs_losses_and_gradients_are_the_twins(twin):
    batch = batch_of(video_mask=np.ones((4, 9), bool))
    state = {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}}
    _, model, variables = load_model("qd_detr", state, **GIVEN)
    assert model == create("qd_detr", **{**SIZES, **GIVEN})  # with all sizes

    @jax.jit
    def run(params):
        def objective(params):
            outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(0)})
            terms = {name: x.value() for name, x in model.loss(outputs, batch, epoch=0).items()}
            return sum(terms.values()), (terms, outputs)

        return jax.value_and_grad(objective, has_aux=True)(params)

    (_, (terms, outputs)), gradients = run(variables["params"])
    expected = twin(batch)
    losses = twin.loss(expected, batch, torch.tensor(np.asarray(outputs.clip_draws)))
    for name, x in expected.items():
        np.testing.assert_allclose(getattr(outputs, name), x.detach(), atol=1e-5, rtol=0, err_msg=name)
    assert terms.keys() == losses.keys()
    for name, x in losses.items():
        np.testing.assert_allclose(terms[name], x.detach(), rtol=1e-5, err_msg=name)
    sum(losses.values()).backward()
    found = {key: torch.zeros_like(x) if x.grad is None else x.grad for key, x in twin.named_parameters()}
    found = traverse_util.flatten_dict(load("qd_detr", found)["params"], sep="/")
    for path, x in traverse_util.flatten_dict(gradients, sep="/").items():
        np.testing.assert_allclose(x, found[path], atol=1e-4 * max(1, np.abs(found[path]).max()), err_msg=path)


def test_padding_is_hidden_as_in_the_twin(twin):
    batch = batch_of()
    _, model, variables = load_model("qd_detr", twin.state_dict(), **GIVEN)
    outputs = jax.jit(lambda v: model.apply(v, batch, train=False))(variables)
    with torch.no_grad():
        expected = twin(batch)
    for name in ("logits", "spans"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], atol=1e-5, rtol=0)
    real = batch.video_mask
    np.testing.assert_allclose(outputs.saliency[real], expected["saliency"][real], atol=1e-5, rtol=0)


def test_the_published_checkpoint_with_sound_is_told_by_its_width(twin):
    state = dict(twin.state_dict())
    assert hyper_parameters("qd_detr", state)["audio"] is False
    # SlowFast 2304, CLIP 512, PANN 2048, and twice begin and end of the clip.
    width = 2304 + 512 + 2 + 2048 + 2
    for key, shape in (
        ("net.1.weight", (16, width)),
        ("LayerNorm.weight", (width,)),
        ("LayerNorm.bias", (width,)),
    ):
        state[f"input_vid_proj.0.{key}"] = np.zeros(shape, np.float32)
    imported = load_model("qd_detr", state, **GIVEN)
    assert imported.model.audio and imported.variables["params"]["clips_0"]["kernel"].shape == (width, 16)
