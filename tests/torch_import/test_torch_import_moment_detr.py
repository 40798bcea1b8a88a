"""Official Moment-DETR checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.moment_detr import Twin  # noqa: E402

B, T, L, D, W, F, HEADS, HIDDEN, QUERIES = 3, 9, 6, 7, 5, 16, 4, 24, 4


def ragged_batch():
    """The official code masks padding too, so the twin is compared where there is some."""
    rng = np.random.default_rng(0)
    video_mask = np.arange(T) < np.array([[T], [T - 2], [4]])
    query_mask = np.arange(L) < np.array([[L], [2], [L - 1]])
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=video_mask,
        duration=np.float32([30, 40, 50]),
        query=np.full((B, L), 2, np.int32),
        query_vectors=rng.normal(size=(B, L, W)).astype(np.float32),
        query_mask=query_mask,
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
    )


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    fields = dict(
        features=F, heads=HEADS, hidden=HIDDEN, encoder_layers=1, decoder_layers=3, num_queries=QUERIES
    )
    twin = Twin(D, W, **fields)
    for p in twin.parameters():  # PyTorch starts some biases at zero and all scales at one
        if p.dim() == 1:
            p.data += 0.3 * torch.randn_like(p)
    return twin.eval(), create("moment_detr", all_windows=False, annotated_saliency=False, **fields)


def test_every_output_is_the_twins(pair):
    twin, created = pair
    batch = ragged_batch()
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(batch).items()}
    state = {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}}
    given = dict(heads=HEADS, all_windows=False, annotated_saliency=False)
    _, model, variables = load_model("moment_detr", state, **given)
    assert model == created  # with all sizes
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name in ("logits", "spans"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], atol=1e-4, rtol=0)
    real = batch.video_mask
    np.testing.assert_allclose(outputs.saliency[real], expected["saliency"][real], atol=1e-4, rtol=0)


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("moment_detr", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_a_wrong_shape_is_named(pair):
    state = dict(pair[0].state_dict())
    key = "transformer.decoder.layers.1.multihead_attn.in_proj_weight"
    state[key] = state[key][:-1]
    with pytest.raises(UserError, match=rf"1 of another shape: {key} is \(47, 16\), expected \(48, 16\)"):
        load("moment_detr", state)
