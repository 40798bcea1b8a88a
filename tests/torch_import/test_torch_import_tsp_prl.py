"""Official TSP-PRL checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.tsp_prl import Twin  # noqa: E402

B, T, D, Q, F, H = 6, 43, 5, 7, 16, 20
SEED = 112
UNITS = np.array([43, 36, 25, 12, 9, 40])


def batch_of():
    rng = np.random.default_rng(0)
    mask = np.arange(T) < UNITS[:, None]
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32) * mask[..., None],
        video_mask=mask,
        duration=UNITS.astype(np.float32),
        query=np.full((B, 3), 2, np.int32),
        query_vectors=np.zeros((B, 3, 4), np.float32),
        query_mask=np.ones((B, 3), bool),
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        sentence=rng.normal(size=(B, Q)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def twin():
    """With weights that are large enough for the agent to vary its actions."""
    torch.manual_seed(SEED)
    twin = Twin(D, Q, features=F, critic_features=(12, 6), horizon=H)
    for name, parameter in twin.named_parameters():
        if name.endswith(("fc.weight", "policy.weight", "weight_hh")):
            torch.nn.init.normal_(parameter)
    return twin


@pytest.mark.parametrize("slip", [False, True])
def test_every_step_is_the_twins(twin, slip):
    batch = batch_of()
    state = {"net": {f"module.{key}": x for key, x in twin.state_dict().items()}}
    sizes, model, variables = load_model("tsp_prl", state, slip_in_first_window=slip)
    assert sizes == dict(features=F, critic_features=(12, 6), slip_in_first_window=slip)
    outputs, ranked = jax.jit(lambda v, b: _predicted(model, v, b))(variables, batch)
    twin.slip = slip
    with torch.no_grad():
        expected = twin(batch)
    numbers = {"iou": outputs.iou, "root_value": outputs.root.value, "leaf_value": outputs.leaf.value}
    exact = {"windows": outputs.windows, "root": outputs.root.action, "leaf": outputs.leaf.action}
    lengths = [len(windows) for windows in expected["windows"]]
    for b, n in enumerate(lengths):
        for name, ours in exact.items():
            np.testing.assert_array_equal(ours[b, :n], expected[name][b])
        for name, ours in numbers.items():
            np.testing.assert_allclose(ours[b, :n], expected[name][b], atol=1e-4, rtol=0)
        # The answer, in seconds of one unit each.
        np.testing.assert_array_equal(ranked.spans[b, 0], expected["windows"][b][expected["iou"][b].argmax()])
        assert np.isfinite(ranked.scores[b]).sum() == n
    assert min(lengths) < H


def _predicted(model, variables, batch):
    outputs = model.apply(variables, batch, train=False)
    return outputs, model.predict(outputs, batch)


def test_every_variable_is_set(twin):
    model = create("tsp_prl", features=F, critic_features=(12, 6))
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch_of())
    state = {"state_dict": twin.state_dict()}
    loaded = load_model("tsp_prl", state).variables
    assert jax.tree.map(lambda x: (np.shape(x), x.dtype), loaded) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    # Official checkpoints do not count updates.
    assert loaded["schedule"] == {"step": 0}
    assert set(load("tsp_prl", state)) == set(shapes)


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["scale_policy.weight"] = state["scale_policy.weight"][:3]
    with pytest.raises(UserError, match=r"scale_policy.weight is \(3, 16\), expected \(4, 16\)"):
        load("tsp_prl", state)
