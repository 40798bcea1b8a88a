"""Official EMB checkpoints, against a PyTorch twin of the official code, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.emb import proposal_cells
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.emb import Twin  # noqa: E402

B, T, L, D, W, BLOCK = 3, 10, 5, 7, 6, 4
FIELDS = dict(features=8, heads=2, block=BLOCK, guide_kernel=3)


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return Twin(D, W, **FIELDS)


def ragged_batch():
    """The longest video ends within a block, and so do the others, in other blocks."""
    rng = np.random.default_rng(0)
    video_mask, query_mask = np.arange(T) < [[T], [T - 4], [3]], np.arange(L) < [[L], [2], [3]]
    vectors = rng.normal(size=(B, L, W))
    vectors[0, 2] = 0  # an unknown word
    return Batch.of(
        video=(rng.normal(size=(B, T, D)) * video_mask[..., None]).astype(np.float32),
        video_mask=video_mask,
        query_vectors=(vectors * query_mask[..., None]).astype(np.float32),
        query_mask=query_mask,
        duration=np.float32([30, 12, 60]),
        span=np.float32([[3, 9], [2, 11], [31, 60]]),
    )


@functools.partial(jax.jit, static_argnums=0)
def gradients_of(model, variables, batch):
    def objective(params):
        outputs = model.apply({"params": params}, batch, train=False)
        losses = {name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(60)).items()}
        return sum(losses.values()), (outputs, losses)

    return jax.grad(objective, has_aux=True)(variables["params"])


def test_outputs_losses_and_gradients_are_the_twins(twin):
    saved = {"epoch": 3, "step": 7, "state_dict": twin.state_dict(), "optimizer": {"lr": 1.0}}
    given = dict(heads=2, block=BLOCK, dropout=0.0, official_padding=True)
    _, model, variables = load_model("emb", saved, **given)
    assert model == create("emb", dropout=0.0, official_padding=True, **FIELDS)
    batch = ragged_batch()
    # Clips and words that no example has do not exist in the official batch.
    gradients, (outputs, losses) = gradients_of(model, variables, batch.pad(T=3, L=2))
    expected = twin(batch)
    real = batch.video_mask
    for name in ("start", "end", "highlight"):
        found = getattr(outputs, name)[:, :T][real]
        np.testing.assert_allclose(found, expected[name].detach().numpy()[real], atol=1e-4, rtol=0)
    first, last = proposal_cells(T + 3, BLOCK, 16)
    theirs = np.full((B, 4, 4), -1e30, np.float32)
    theirs[:, :3, :3] = expected["proposal"].detach().numpy()
    np.testing.assert_allclose(outputs.proposal, theirs[:, first, last], atol=1e-4, rtol=0)
    terms = twin.loss(expected, batch, needed=float(model.needed_iou(60)))
    np.testing.assert_allclose([losses[name] for name in terms], [x.item() for x in terms.values()], rtol=1e-5)
    sum(terms.values()).backward()
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = load("emb", twin.state_dict())["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3), gradients, expected)


def test_a_missing_tensor_is_named(twin):
    state = dict(twin.state_dict())
    state.pop("encoder.s2s.layers.0.guide.layer_norm.bias")
    with pytest.raises(UserError, match="1 missing: encoder.s2s.layers.0.guide.layer_norm.bias"):
        load("emb", state)
