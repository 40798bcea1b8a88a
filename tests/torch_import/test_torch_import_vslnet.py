"""Official VSLNet checkpoints, against a PyTorch twin written from the paper, with random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.vslnet import Twin  # noqa: E402

B, T, L, C, D, W, F, HEADS, CHARS, CHAR = 2, 9, 5, 6, 7, 8, 16, 4, 12, 5


def unpadded_batch():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(B, L, W)).astype(np.float32)
    vectors[0, 2] = 0  # an unknown word
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        duration=np.full(B, 30, np.float32),
        query=np.full((B, L), 2, np.int32),
        query_vectors=vectors,
        query_mask=np.ones((B, L), bool),
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        query_chars=rng.integers(1, CHARS, (B, L, C)).astype(np.int32),
    )


def ragged_batch():
    """The longest example first, as long as the batch: nothing more is padded than in the official code."""
    batch = unpadded_batch()
    video_mask, query_mask = (np.arange(n) < np.array([[n], [n - 3]]) for n in (T, L))
    chars = batch.query_chars * (np.arange(C) < np.array([[C], [1], [C - 1], [3], [2]]))
    return dataclasses.replace(
        batch,
        video=batch.video * video_mask[..., None],
        video_mask=video_mask,
        query_vectors=batch.query_vectors * query_mask[..., None],
        query_mask=query_mask,
        query_chars=(chars * query_mask[..., None]).astype(np.int32),
    )


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def pair(request):
    torch.manual_seed(0)
    fields = dict(
        features=F, heads=HEADS, predictor=request.param, max_positions=12, char_features=CHAR, num_chars=CHARS,
        conv_layers=3, conv_kernel=5,
    )  # fmt: skip
    twin = Twin(D, W, **fields)
    for name in ("w4C", "w4Q", "w4mlu"):  # larger than at the start, so that they matter
        torch.nn.init.normal_(getattr(twin.cq_attention, name))
    torch.nn.init.normal_(twin.cq_concat.weighted_pool.weight)
    return twin, create("vslnet", **fields)


def test_every_output_is_the_twins(pair):
    twin, created = pair
    batch = unpadded_batch()
    with torch.no_grad():
        expected = twin(batch)
    state = {f"module.{key}": x for key, x in twin.state_dict().items()}
    _, model, variables = load_model("vslnet", state, heads=HEADS)
    assert model == created  # with all sizes
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name, logits in expected.items():
        np.testing.assert_allclose(getattr(outputs, name), logits.numpy(), atol=1e-4, rtol=0)


def test_official_padding_is_the_twins(pair):
    twin, created = pair
    batch = ragged_batch()
    with torch.no_grad():
        expected = twin(batch)
        terms = twin.loss(expected, batch)
    model = created.clone(official_padding=True, dropout=0.0)
    variables = load("vslnet", twin.state_dict())

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables, batch):
        outputs = model.apply(variables, batch, train=False)
        losses = model.loss(outputs, batch, epoch=jnp.int32(0))
        return outputs, {name: term.value() for name, term in losses.items()}

    real = batch.video_mask
    # Clips, words and characters that no example has do not exist in the official batch.
    outputs, losses = run(model, variables, batch.pad(T=3, L=2, C=1))
    for name, logits in expected.items():
        np.testing.assert_allclose(getattr(outputs, name)[:, :T][real], logits.numpy()[real], atol=1e-4, rtol=0)
    np.testing.assert_allclose([losses[name] for name in terms], list(terms.values()), rtol=1e-5)
    outputs, _ = run(created, variables, batch.pad(T=3, L=2, C=1))
    assert np.abs(outputs.start[:, :T] - expected["start"].numpy())[real].max() > 1e-2


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), unpadded_batch())
    loaded = load("vslnet", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_left_over_and_missing_tensors_are_named(pair):
    state = dict(pair[0].state_dict())
    state["predictor.extra"] = state.pop("cq_attention.w4C")
    with pytest.raises(UserError, match=r"1 left over: predictor.extra; 1 missing: cq_attention.w4C"):
        load("vslnet", state)
