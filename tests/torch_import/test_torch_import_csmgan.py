"""Official CSMGAN checkpoints, against a PyTorch twin with the official names, with random weights."""

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.csmgan import Twin  # noqa: E402

B, T, L, D, W, F = 3, 9, 6, 10, 8, 12
GIVEN = dict(widths=(3, 4), heads=2, band=2)


def make_twin(**fields):
    torch.manual_seed(0)
    return Twin(D, W, features=F, attention_layers=1, **GIVEN, **fields)


@pytest.fixture(scope="module")
def batch():
    """No padded clips; queries of different lengths."""
    batch = random_batch(B, T, L, D, W, fill=0)
    video = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    assert len(set(batch.query_mask.sum(1))) > 1
    return batch.replace(video=video, video_mask=np.ones((B, T), bool))


@pytest.mark.parametrize("fields", [{}, dict(official_padding=True, projection=6)], ids=["masked", "official"])
def test_every_output_is_the_twins(fields, batch):
    twin = make_twin(**fields)
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(batch).items()}
    padding = {name: value for name, value in fields.items() if name != "projection"}
    state = {f"module.{key}": x for key, x in twin.state_dict().items()}
    sizes, model, variables = load_model("csmgan", state, **GIVEN, **padding)
    read = dict(features=F, attention_layers=1, lstm_layers=2, projection=fields.get("projection", 0))
    assert sizes == {**read, **GIVEN, **padding}
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name in ("logits", "offsets"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], atol=1e-5, rtol=1e-5)
    assert np.abs(expected["logits"]).max() > 0.1


def test_wrong_and_missing_tensors_are_named():
    state = dict(make_twin().state_dict())
    state["v2s.ws2.weight"] = state["v2s.ws2.weight"][1:]
    del state["update_s_intra.out_gate.bias"]
    with pytest.raises(UserError, match=r"1 missing: update_s_intra.out_gate.bias; 1 of another shape: v2s"):
        load("csmgan", state)
