"""Official CMIN checkpoints, against a PyTorch twin written from the equations, with random weights."""

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.cmin import Twin  # noqa: E402

B, T, L, D, W, F, HEADS, RELATIONS = 2, 9, 6, 10, 8, 12, 2, 5
WIDTHS = (3, 4)
BAND = 2


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    layers = dict(attention_layers=3, graph_layers=3)
    return Twin(D, W, features=F, heads=HEADS, widths=WIDTHS, band=BAND, relations=RELATIONS, **layers)


@pytest.fixture(scope="module")
def model():
    return create(
        "cmin", widths=WIDTHS, features=F, heads=HEADS, band=BAND, relations=RELATIONS, dropout=0.5,
        attention_layers=3, graph_layers=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    """No padded clips; queries of different lengths, and every relation in both directions."""
    batch = random_batch(B, T, L, D, W, fill=0)
    rng = np.random.default_rng(0)
    relations = rng.integers(0, RELATIONS + 1, (B, L, L))
    relations = np.where(np.eye(L, dtype=bool), 1, np.where(relations == 1, 0, relations))
    real = batch.query_mask[:, :, None] & batch.query_mask[:, None, :]
    return batch.replace(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        dependencies=(relations * real).astype(np.int32),
    )


def test_every_output_is_the_twins(twin, batch):
    assert len(set(batch.query_mask.sum(1))) > 1 and set(np.unique(batch.dependencies)) == set(range(6))
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(batch).items()}
    state = {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}}
    sizes, model, variables = load_model("cmin", state, widths=WIDTHS, heads=HEADS, band=BAND)
    read = dict(features=F, attention_layers=3, graph_layers=3, relations=RELATIONS, projection=0)
    assert sizes == {**read, "widths": WIDTHS, "heads": HEADS, "band": BAND}
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name in ("logits", "offsets"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], atol=1e-4, rtol=0)
    assert np.abs(expected["logits"]).max() > 0.1


def test_every_parameter_is_set(twin, model, batch):
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    assert jax.tree.map(np.shape, load("cmin", twin.state_dict())) == jax.tree.map(lambda x: x.shape, shapes)


def test_wrong_and_missing_tensors_are_named(twin):
    state = dict(twin.state_dict())
    state["v2s.ws2.weight"] = state["v2s.ws2.weight"][1:]
    del state["sentence_encoder.gcn_layers.1.fc_gate_bias2.0"]
    with pytest.raises(
        UserError, match=r"1 missing: sentence_encoder.gcn_layers.1.fc_gate_bias2.0; 1 of another"
    ):
        load("cmin", state)
