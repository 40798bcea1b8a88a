"""Official checkpoints of MML, against a PyTorch twin written from the official code, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.text.dependencies import DIRECT_OBJECT
from vmr_jax.torch_import import load, load_model, read_checkpoint

torch = pytest.importorskip("torch")
from references.object_evidence import Twin  # noqa: E402

SIZES = dict(features=5, action_features=4, hidden=6)
WINDOWS = dict(lengths=(2, 4, 6), strides=(1, 1, 1), test_lengths=(4,), context=3.0)
DRAWS = jax.random.key(3)


def make_twin(captions=2048):
    torch.manual_seed(0)
    fields = dict(context=3, object_scale=0.5, offset_scale=16.0, regression_weight=0.01, score_clips=2)
    twin = Twin(6, captions, 150, 400, 4, 5, **SIZES, **fields)
    for parameter in twin.parameters():
        parameter.data *= 2
    return twin


def small_batch(captions=2048):
    """Five moments that have windows; widths of captions and scores are the official ones."""
    batch, rng = random_batch(size=5, fill=0), np.random.default_rng(0)
    clips = batch.video_mask.sum(1)
    first = rng.integers(0, 4, 5)
    clip = (batch.duration / clips)[:, None]
    span = np.stack([first + 0.2, first + 4.1], 1).astype(np.float32) * clip
    mask = batch.video_mask[..., None]
    dependencies = np.zeros_like(batch.dependencies)
    dependencies[:4, 0, 1] = DIRECT_OBJECT  # the fifth sentence has no verb

    def stream(width):
        return rng.random((*mask.shape[:2], width), np.float32) * mask

    return batch.replace(
        span=span,
        dependencies=dependencies,
        captions=stream(captions),
        object_scores=stream(150),
        activity_scores=stream(400),
    )


def test_outputs_losses_and_gradients_are_the_twins():
    twin, batch = make_twin(), small_batch()
    fields = dict(object_dropout=0.0, object_scale=0.5, **WINDOWS)
    _, model, variables = load_model("object_evidence", {"net": twin.state_dict()}, **fields)
    assert model == create("object_evidence", **SIZES, **fields)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": DRAWS})
        losses = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        pair = model.apply({}, batch, True, method="verb_object", rngs={"dropout": DRAWS})
        return sum(losses.values()), (losses, outputs, pair)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-7, rtol=1e-4)

    gradients, (losses, outputs, pair) = train(variables["params"])
    assert outputs.found.all() and np.abs(pair).max() > 0
    windows = torch.tensor(np.asarray(outputs.window))
    scores = twin(batch, windows, np.array(pair))
    close(np.concatenate([outputs.score[..., None], outputs.offsets], -1), scores.detach().numpy())
    expected = twin.loss(scores, batch, windows)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    for parameter in twin.parameters():
        parameter.data = parameter.grad
    jax.tree.map(close, gradients, load("object_evidence", twin.state_dict())["params"])


def test_a_checkpoint_is_read_as_the_program_saves_it(tmp_path):
    twin = make_twin()
    state = {
        "net": twin.state_dict(),
        "best_R1_IOU5": 0.3,
        "obj_dr": 0.5,
        "sr": 0.005,
        "act_dr": 0,
        "csr": 0.005,
    }
    torch.save(state, tmp_path / "best.t7")
    fields, _, read = load_model("object_evidence", read_checkpoint(tmp_path / "best.t7"))
    assert fields == {**SIZES, "use_objects": True}
    np.testing.assert_array_equal(read["params"]["concepts"]["bias"], twin.soft2s_lt.bias.detach())


def test_a_checkpoint_without_captions_asks_for_the_setting():
    twin = make_twin(captions=0)
    with pytest.raises(UserError, match="Set use_captions=False if it has none"):
        load_model("object_evidence", twin.state_dict())
    _, model, _ = load_model("object_evidence", twin.state_dict(), use_captions=False)
    assert "captions" not in model.requires()
