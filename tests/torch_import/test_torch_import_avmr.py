"""Networks of AVMR, against a PyTorch twin, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.avmr import Twin  # noqa: E402

D, Q, H = 5, 7, 10
SIZES = dict(actor_hidden=(9, 8), critic_hidden=(10, 8, 6), features=6, hidden=(7, 5), frames=12)
UNITS = (43, 20, 25, 30)


def batch_of():
    rng = np.random.default_rng(0)
    return Batch.of(
        video=[rng.normal(size=(n, D)).astype(np.float32) for n in UNITS],
        sentence=rng.normal(size=(len(UNITS), Q)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def twin():
    """With weights that are large enough for the agent to vary its actions."""
    torch.manual_seed(1)
    twin = Twin(D, Q, horizon=H, look_every=1, **SIZES)
    for name, parameter in twin.named_parameters():
        if "actors.0" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return twin


def test_every_step_is_the_twins(twin):
    batch = batch_of()
    sizes, model, variables = load_model("avmr", twin.state_dict(), look_every=1)
    assert sizes == {**SIZES, "pooling": "lstm", "look_every": 1}
    assert variables["schedule"] == {"step": 0}  # nothing is counted
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    with torch.no_grad():
        expected = twin(batch)
    np.testing.assert_allclose(outputs.after, expected["after"], atol=1e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(outputs.logits), expected["score"], atol=1e-5)
    np.testing.assert_allclose(outputs.values.taken, expected["taken"], atol=1e-5)
    assert len(np.unique(expected["after"][:, -1, 0])) > 1


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["critics.0.FC2.weight"] = state["critics.0.FC2.weight"][:, 6:]
    with pytest.raises(UserError, match=r"critics.0.FC2.weight is \(8, 10\), expected \(8, 16\)"):
        load("avmr", state)
