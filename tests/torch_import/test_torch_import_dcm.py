"""Official DCM checkpoints, against a PyTorch twin with the official names, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.dcm import Twin  # noqa: E402

B, T, L, D, W, F = 4, 12, 6, 10, 8, 12
SETTINGS = dict(
    num_clips=6, scale_layers=(3, 1), map_kernel=3, map_layers=2, lstm_layers=2, heads=2, own_weight=0.7
)
WEIGHTS = dict(negative_weight=0.5, location_weight=0.3, independence_weight=0.2, norm_weight=1e-2)


def make_twin(**fields):
    torch.manual_seed(0)
    return Twin(D, W, F, T, **SETTINGS | WEIGHTS | fields)


@pytest.fixture(scope="module")
def batch():
    """Rows of any number of words, no padded clips, two rows of one video."""
    batch = random_batch(B, T, L, D, W, fill=0)
    video = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    return batch.replace(video=video, video_mask=np.ones((B, T), bool), video_index=np.int32([0, 0, 1, 2]))


@pytest.fixture(scope="module")
def trained(batch):
    """Outputs, terms and gradients of ours, and of the twin with the same weights and negatives."""
    twin = make_twin()
    state = {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, "epoch": {}}
    given = {name: SETTINGS[name] for name in ("num_clips", "scale_layers", "heads", "own_weight")}
    _, model, variables = load_model("dcm", state, dropout=0.0, **given, **WEIGHTS)

    @jax.jit
    def ours(params, batch):
        def objective(params):
            outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(0)})
            terms = {
                name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()
            }
            return sum(terms.values()), (outputs, terms)

        return jax.grad(objective, has_aux=True)(params)

    gradients, (outputs, terms) = ours(variables["params"], batch)
    assert outputs.has_negative.all()
    theirs = twin(batch, np.array(outputs.negatives))
    losses = twin.loss(theirs, batch)
    sum(losses.values()).backward()
    return (gradients, outputs, terms), (twin, theirs, losses)


def test_outputs_and_losses_are_the_twins(trained):
    (_, outputs, terms), (_, theirs, losses) = trained
    for name, expected in theirs.items():
        np.testing.assert_allclose(getattr(outputs, name), expected.detach(), atol=1e-5, rtol=1e-5)
    assert terms.keys() == losses.keys()
    for name, expected in losses.items():
        assert expected > 1e-3
        np.testing.assert_allclose(terms[name], expected.item(), rtol=1e-5)


def test_gradients_are_the_twins(trained):
    (gradients, *_), (twin, *_) = trained
    expected = load("dcm", {key: parameter.grad for key, parameter in twin.named_parameters()})["params"]
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, atol=1e-4 * max(1e-3, np.abs(e).max())),
        gradients,
        expected,
    )


@pytest.mark.parametrize("intervention", [True, False])
def test_sizes_are_read_off(intervention, batch):
    twin = make_twin(intervention=intervention)
    given = {name: SETTINGS[name] for name in ("num_clips", "scale_layers", "heads")}
    read = load_model("dcm", twin.state_dict(), **given).hyper_parameters
    sizes = dict(features=F, map_kernel=3, map_layers=2, lstm_layers=2, intervention=intervention)
    assert read == {**sizes, **given}
    shapes = jax.eval_shape(lambda b: create("dcm", **read).init(jax.random.key(0), b, train=False), batch)
    assert jax.tree.map(np.shape, load("dcm", twin.state_dict())) == jax.tree.map(lambda x: x.shape, shapes)
    if not intervention:
        outputs = jax.jit(lambda v, b: create("dcm", **read).apply(v, b, train=False))(
            load("dcm", twin.state_dict()), batch
        )
        np.testing.assert_allclose(outputs.logits, twin(batch)["logits"].detach(), atol=1e-5)


def test_wrong_and_missing_tensors_are_named():
    state = make_twin().state_dict()
    state["TCN.fc.bias"] = state["TCN.fc.bias"][1:]
    del state["TCN.BD_Adjust_Att.fc_qry.weight"]
    with pytest.raises(
        UserError, match=r"1 missing: TCN.BD_Adjust_Att.fc_qry.weight; 1 of another shape: TCN.fc"
    ):
        load("dcm", state)
