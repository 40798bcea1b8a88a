"""Checkpoints of RWM's re-implementation, against a PyTorch twin, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.rwm import Twin  # noqa: E402

D, Q, H = 5, 7, 10
SIZES = dict(features=12, video_features=6, query_features=8, location_features=4)
UNITS = np.array([43, 36, 25, 12, 21, 40])


def batch_of():
    rng = np.random.default_rng(0)
    return Batch.of(
        video=[rng.normal(size=(n, D)).astype(np.float32) for n in UNITS],
        duration=UNITS.astype(np.float32),
        sentence=rng.normal(size=(len(UNITS), Q)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def twin():
    """With weights that are large enough for the agent to vary its actions."""
    torch.manual_seed(5)
    twin = Twin(D, Q, horizon=H, **SIZES)
    for name, parameter in twin.named_parameters():
        if name.endswith(("weight", "weight_hh")):
            torch.nn.init.normal_(parameter)
    twin.actor_linear.bias.data[6] = -1.5
    return twin


def test_every_step_is_the_twins(twin):
    batch = batch_of()
    state = {"net": {f"module.{key}": x for key, x in twin.state_dict().items()}, "best_R1_IOU7": 0.1}
    sizes, model, variables = load_model("rwm", state, answer_nothing=True)
    assert sizes == {**SIZES, "answer_nothing": True}

    @jax.jit
    def play(variables, batch):
        outputs = model.apply(variables, batch, train=False)
        return outputs, model.predict(outputs, batch)

    outputs, ranked = play(variables, batch)
    with torch.no_grad():
        expected = twin(batch)
    lengths = [len(windows) for windows in expected["windows"]]
    numbers = {"iou": outputs.iou, "moment": outputs.moment, "value": outputs.policy.value}
    exact = {"windows": outputs.windows, "action": outputs.policy.action}
    for b, n in enumerate(lengths):
        for name, ours in exact.items():
            np.testing.assert_array_equal(ours[b, :n], expected[name][b])
        for name, ours in numbers.items():
            np.testing.assert_allclose(ours[b, :n], expected[name][b], atol=1e-4, rtol=0)
        # The answer, in seconds of one unit each; one that is no window is empty.
        start, end = expected["answer"][b]
        np.testing.assert_array_equal(ranked.spans[b, 0], [start, max(start, end)])
    assert min(lengths) < H and len({tuple(x) for x in expected["action"]}) > 2


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["actor_linear.weight"] = state["actor_linear.weight"][:6]
    with pytest.raises(UserError, match=r"actor_linear.weight is \(6, 12\), expected \(7, 12\)"):
        load("rwm", state)
