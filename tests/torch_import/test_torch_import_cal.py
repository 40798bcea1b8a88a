"""Official CAL checkpoints, against a PyTorch twin written from the paper, with random weights."""

import functools

import jax
import numpy as np
import pytest

from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.cal import Twin  # noqa: E402

D, W, T, SECONDS = 6, 5, 9, 3.0
SIZES = dict(hidden=8, features=7, lstm_features=10)
FIELDS = dict(clip_seconds=SECONDS, scales=(1, 2, 4), moments="span")


def ragged_batch():
    rng = np.random.default_rng(0)
    mask = np.arange(T) < np.array([[9], [7], [4]])
    words = np.arange(6) < np.array([[6], [1], [4]])
    return Batch.of(
        video=(3 * rng.normal(size=(3, T, D)) * mask[..., None]).astype(np.float32),
        video_mask=mask,
        duration=np.float32([26.5, 21.0, 10.4]),
        query_vectors=(rng.normal(size=(3, 6, W)) * words[..., None]).astype(np.float32),
        query_mask=words,
    )


@functools.partial(jax.jit, static_argnums=0)
def ours(model, variables, batch):
    outputs = model.apply(variables, batch, train=False)
    return outputs.distances, model.apply(variables, batch, method="_windows")


@pytest.mark.parametrize("distance", ["mean", "chamfer"])
def test_every_distance_is_the_twins(distance):
    torch.manual_seed(0)
    twin, batch = Twin(D, W, **SIZES, distance=distance).eval(), ragged_batch()
    saved = {"state_dict": twin.state_dict()}
    _, model, variables = load_model("cal", saved, **FIELDS)
    assert model == create("cal", **SIZES, **FIELDS, distance=distance)
    found, (_, _, spans, real) = ours(model, variables, batch)
    with torch.no_grad():
        sentences = twin.sentences(batch)
        for b in range(3):
            windows = np.asarray(spans)[b][np.asarray(real)[b]].astype(np.float64)
            expected = [
                twin.distance(
                    torch.as_tensor(batch.video[b]),
                    batch.video_mask[b],
                    float(batch.duration[b]),
                    SECONDS,
                    window,
                    sentences[b],
                ).item()
                for window in windows
            ]
            np.testing.assert_allclose(found[b][real[b]], expected, rtol=1e-4)


def test_the_width_of_a_clip_follows_from_its_endpoints_and_context():
    state = Twin(D, W, **SIZES).state_dict()
    assert load("cal", state)["params"]["clips"]["hidden_kernel"].shape == (2 * D + 2, 8)
    # 14 inputs are 6 + 6 + 2, 7 + 7, 12 + 2 or 14 numbers.
    for endpoints, context in (("clip", True), ("none", True), ("moment", False), ("none", False)):
        load_model("cal", state, endpoints=endpoints, global_context=context)
