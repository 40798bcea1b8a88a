"""Official MS-2D-TAN checkpoints, against a PyTorch twin of the official code, with random weights."""

import dataclasses

import jax
import numpy as np
import pytest
from batches import random_batch
from flax import traverse_util

from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.ms_2d_tan import Twin  # noqa: E402

SIZES = dict(num_clips=8, scale_layers=(4, 2), features=8, map_kernel=3, map_layers=2, lstm_layers=2)


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    twin = Twin(6, 5, **SIZES)
    for p in twin.parameters():  # PyTorch starts scales at one and some biases at zero
        if p.dim() == 1:
            p.data += 0.3 * torch.randn_like(p)
    return twin


def applied(model, train):
    """Outputs, state and, of the sum of all logits times fixed numbers, gradients."""

    @jax.jit
    def run(variables, batch):
        def objective(params):
            outputs, state = model.apply(
                {**variables, "params": params}, batch, train=train, mutable=["batch_stats"]
            )
            return sum((x * np.cos(np.arange(x.size).reshape(x.shape))).sum() for x in outputs.logits), (
                outputs.logits,
                state,
            )

        return jax.grad(objective, has_aux=True)(variables["params"])

    return run


@pytest.mark.parametrize("train", [False, True])
def test_the_official_padding_is_the_twins(twin, train):
    """Logits, gradients and running statistics, of a ragged batch."""
    batch = random_batch(size=4, fill=0)
    _, model, variables = load_model("ms_2d_tan", twin.state_dict(), official_padding=True)
    assert model == create("ms_2d_tan", official_padding=True, **SIZES)  # with all sizes
    gradients, (logits, state) = applied(model, train)(variables, batch)
    twin.train(train).zero_grad()
    expected = twin(batch)
    for found, x in zip(logits, expected, strict=True):
        np.testing.assert_allclose(found, x.detach(), atol=2e-5, rtol=0)
    numbers = (torch.tensor(np.cos(np.arange(x.numel()).reshape(x.shape))) for x in expected)
    sum((x * y).sum() for x, y in zip(expected, numbers, strict=True)).backward()
    named = {key: x.grad for key, x in twin.named_parameters()}
    of_twin = load("ms_2d_tan", {**twin.state_dict(), **named})
    theirs = traverse_util.flatten_dict(of_twin["params"], sep="/")
    for path, x in traverse_util.flatten_dict(gradients, sep="/").items():
        scale = max(1.0, np.abs(theirs[path]).max())
        np.testing.assert_allclose(x, theirs[path], atol=2e-4 * scale, rtol=0, err_msg=path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state["batch_stats"], of_twin["batch_stats"]
    )


def test_without_padding_both_are_the_same(twin):
    """By default a video and a sentence have the result that the official code gives them alone."""
    _, model, variables = load_model("ms_2d_tan", twin.state_dict(), num_clips=12)
    batch = random_batch(size=3, clips=24, fill=0)
    batch = dataclasses.replace(batch, video_mask=np.arange(24) < np.array([[24], [20], [18]]))
    logits = applied(model, False)(variables, batch)[1][0]
    twin.eval()
    for row, clips in enumerate((12, 10, 9)):
        alone = jax.tree.map(lambda x: x[row : row + 1], batch)  # noqa: B023
        alone = alone.cut(T=2 * clips, L=int(alone.query_mask.sum()))
        twin.num_clips = clips
        with torch.no_grad():
            expected = twin(alone)
        for found, x in zip(logits, expected, strict=True):
            np.testing.assert_allclose(found[row : row + 1, : x.shape[1]], x, atol=2e-5, rtol=0)
    twin.num_clips = 8
