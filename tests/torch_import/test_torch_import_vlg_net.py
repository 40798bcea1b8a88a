"""Official VLG-Net checkpoints, against a PyTorch twin of the official code, with random weights."""

import dataclasses

import jax
import numpy as np
import pytest
from batches import random_batch
from flax import traverse_util

from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.vlg_net import Twin  # noqa: E402

READ = dict(
    num_clips=8, places=True, features=8, query_features=6, context_layers=2, context_groups=2,
    context_width=3, match_groups=2, match_width=2, lstm_layers=1, syntax_layers=2, score_features=10,
    score_layers=3,
)  # fmt: skip
GIVEN = dict(scale_layers=(4, 2), window=3, context_neighbours=3, match_neighbours=2)


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return Twin(6, 5, **READ, **GIVEN)


@pytest.fixture(scope="module")
def batch():
    """17 rows in windows of 3 that begin 2 apart, all real."""
    batch = random_batch(size=3, clips=17, fill=0)
    rng = np.random.default_rng(0)
    video = rng.normal(size=batch.video.shape).astype(np.float32)
    return dataclasses.replace(batch, video=video, video_mask=np.ones_like(batch.video_mask))


def test_outputs_and_gradients_are_the_twins(twin, batch):
    """Logits and gradients, of a ragged batch."""
    assert len(set(batch.query_mask.sum(1))) > 1
    state = {"model": twin.state_dict()}
    _, model, variables = load_model("vlg_net", state, **GIVEN)
    assert model == create("vlg_net", official_neighbours=True, **READ, **GIVEN)

    @jax.jit
    def run(params):
        def objective(params):
            logits = model.apply({"params": params}, batch, train=False).logits
            return (logits * np.cos(np.arange(logits.size)).reshape(logits.shape)).sum(), logits

        return jax.grad(objective, has_aux=True)(params)

    gradients, logits = run(variables["params"])
    expected = twin(batch)["logits"]
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-5, rtol=0)
    (expected * torch.tensor(np.cos(np.arange(expected.numel()))).reshape(expected.shape)).sum().backward()
    named = {key: x.grad for key, x in twin.named_parameters(remove_duplicate=False)}
    theirs = traverse_util.flatten_dict(load("vlg_net", {**twin.state_dict(), **named})["params"], sep="/")
    for path, x in traverse_util.flatten_dict(gradients, sep="/").items():
        scale = np.abs(theirs[path]).max()
        np.testing.assert_allclose(x, theirs[path], atol=2e-5 * max(scale, 1), rtol=0, err_msg=path)


def test_scores_do_not_depend_on_the_layers_that_are_left_out(twin, batch):
    """Those of the words, and of the sentence: it moves the logits of all clips alike."""
    torch.manual_seed(1)
    other = Twin(6, 5, **READ, **GIVEN)
    state = twin.state_dict()
    for key in state:
        if ".query." in key or "conv1d_lang" in key:
            state[key] = other.state_dict()[key]
    other.load_state_dict(state)
    with torch.no_grad():
        expected, found = twin(batch)["logits"], other(batch)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert load_model("vlg_net", state, **GIVEN).hyper_parameters["official_neighbours"]
