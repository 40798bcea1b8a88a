"""Networks of STRONG, against a PyTorch twin, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.strong import Twin  # noqa: E402

D, CELLS, Q = 5, 3, 7
SIZES = dict(actor_hidden=(9, 8), critic_hidden=(10, 8, 6), crop_hidden=6, crop_features=5)
EPISODE = dict(horizon=6, look_every=2, looks=2, box_step=0.05)
UNITS = (43, 20, 25, 30)


def batch_of():
    rng = np.random.default_rng(0)

    def rows(*shape):
        return [rng.normal(size=(n, *shape)).astype(np.float32) for n in UNITS]

    sentence = rng.normal(size=(len(UNITS), Q)).astype(np.float32)
    return Batch.of(video=rows(D), grid=rows(4, 4, CELLS), sentence=sentence)


@pytest.fixture(scope="module")
def twin():
    """With weights that are large enough for the agents to vary their actions."""
    torch.manual_seed(2)
    twin = Twin(D, CELLS, Q, **SIZES, **EPISODE)
    for name, parameter in twin.named_parameters():
        if "actors.0" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.1 if "FC3" in name else 1.0)
    return twin


def test_every_step_is_the_twins(twin):
    batch = batch_of()
    sizes, model, variables = load_model("strong", twin.state_dict(), **EPISODE)
    assert sizes == {**SIZES, **EPISODE}
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    with torch.no_grad():
        expected = twin(batch)
    np.testing.assert_allclose(outputs.after, expected["after"], atol=1e-6)
    np.testing.assert_allclose(outputs.boxes, expected["boxes"], atol=1e-6)
    np.testing.assert_allclose(outputs.values.taken, expected["taken"], atol=1e-5)
    assert len(np.unique(expected["after"][:, -1, 0])) > 1 and len(np.unique(expected["boxes"][:, -1])) > 4


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["ddpg_image.actors.0.FC3.weight"] = state["ddpg_image.actors.0.FC3.weight"][:6]
    with pytest.raises(UserError, match=r"ddpg_image.actors.0.FC3.weight is \(6, 8\), expected \(8, 8\)"):
        load("strong", state)
