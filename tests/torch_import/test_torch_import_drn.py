"""Official DRN checkpoints, against a PyTorch twin written from the paper, with random weights."""

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
from references.drn import Twin  # noqa: E402

FIELDS = dict(features=6, first_features=4, query_features=3, position_features=3)
OTHERS = dict(
    segments=8,
    row_frames=8,
    window_frames=16,
    level_from=(-1.0, 1.4, 2.5),
    level_to=(1.6, 2.5, 1e8),
    least_iou=0.3,
)
WORDS = 8


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    twin = Twin(6, 5, WORDS, **FIELDS, **OTHERS)
    batch = random_batch(size=4, clips=20, fill=0)
    # The vectors stand in the checkpoint, and those of the batch are zero.
    return twin, batch.replace(query_vectors=np.zeros_like(batch.query_vectors))


def test_outputs_losses_and_gradients_are_the_twins(pair):
    twin, batch = pair
    state = {f"module.{key}": x for key, x in twin.state_dict().items()}
    sizes, model, variables = load_model("drn", {"state_dict": state, "epoch": 3, "top1": 45.4}, **OTHERS)
    assert model == create("drn", vocab_size=WORDS + 2, **FIELDS, **OTHERS)  # with all sizes

    @jax.jit
    def evaluate(variables):
        return model.apply(variables, batch, train=False)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs, updated = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        third = jnp.int32(model.third_stage)
        losses = {k: term.value() for k, term in model.loss(outputs, batch, epoch=third).items()}
        return sum(losses.values()), (losses, updated["batch_stats"])

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)

    outputs = evaluate(variables)
    twin.eval()
    with torch.no_grad():
        for name, expected in twin(batch).items():
            close(getattr(outputs, name), expected.numpy())

    gradients, (losses, batch_stats) = train(variables["params"])
    twin.train()
    expected = twin.loss(twin(batch), batch)
    sum(expected.values()).backward()
    assert min(x.item() for x in expected.values()) > 0
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    jax.tree.map(close, batch_stats, load("drn", twin.state_dict())["batch_stats"])  # after three levels
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = load("drn", twin.state_dict())["params"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected["query"]))
    jax.tree.map(close, gradients, expected)


def test_left_over_and_missing_tensors_are_named(pair):
    state = dict(pair[0].state_dict())
    state["fcos.extra"] = state.pop("fcos.head.scales.2.scale")
    with pytest.raises(UserError, match="1 left over: fcos.extra; 1 missing: fcos.head.scales.2.scale"):
        load("drn", state)
