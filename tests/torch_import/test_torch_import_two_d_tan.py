"""Official 2D-TAN checkpoints, against a PyTorch twin written from the paper, with random weights."""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.kernels.map_convolution import cropped, map_regions
from vmr_jax.layers.map2d import candidate_mask, map_weights, max_pool_map
from vmr_jax.layers.recurrent import last_state
from vmr_jax.models import create
from vmr_jax.torch_import import architectures, load, load_model, read_checkpoint
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.two_d_tan import Twin  # noqa: E402

B, T, L, D, W, F = 3, 64, 7, 10, 8, 12
SETTINGS = {
    "one scale": {"num_clips": 16, "scale_layers": (16,), "map_kernel": 3, "map_layers": 3},
    "two scales": {"num_clips": 32, "scale_layers": (16, 8), "map_kernel": 5, "map_layers": 2},
}


def make_twin(proposal, setting):
    return Twin(D, W, F, T, proposal=proposal, lstm_layers=2, **SETTINGS[setting])


def make_batch():
    rng = np.random.default_rng(0)
    lengths = np.array([4, 7, 1])
    query_mask = np.arange(L) < lengths[:, None]
    video = rng.normal(size=(B, T, D)).astype(np.float32)
    words = rng.normal(size=(B, L, W)).astype(np.float32)
    return Batch(
        video=video,
        video_mask=np.ones((B, T), bool),
        duration=np.array([30.0, 12.5, 60.0], np.float32),
        query=np.where(query_mask, 2, 0).astype(np.int32),
        query_vectors=words * query_mask[..., None],
        query_mask=query_mask,
        span=np.array([[3.0, 9.0], [0.0, 12.5], [41.0, 47.0]], np.float32),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
    )


@pytest.fixture(scope="module", params=[(p, s) for p in ("pool", "conv") for s in SETTINGS], ids=" ".join)
def pair(request):
    """A twin with random weights, the same in JAX, and all stages of the twin."""
    proposal, setting = request.param
    torch.manual_seed(0)
    twin = make_twin(proposal, setting)
    for conv in twin.map_layer.convs:
        # A layer divides by the cells under its kernel; without this, biases are all that is left of the input.
        conv.weight.data *= 2 * conv.kernel_size[0] ** 2
    model = create("two_d_tan", proposal=proposal, features=F, lstm_layers=2, **SETTINGS[setting])
    batch = make_batch()
    stages = twin(batch)
    stages["loss"] = twin.loss(stages, batch)["iou"]
    stages["loss"].backward()
    return twin, model, stages


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def middle(x, size):
    """The cells [B,size,size,D] in the middle of a map: we leave out some of the official margin."""
    margin = (x.shape[1] - size) // 2
    return x[:, margin : margin + size, margin : margin + size]


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_every_stage_equals_pytorch(pair):
    twin, created, stages = pair
    batch = make_batch()
    # The map of pooled proposals has no tensors.
    given = dict(num_clips=created.num_clips, scale_layers=created.scale_layers)
    given = given if created.proposal == "pool" else {}
    _, model, variables = load_model("two_d_tan", twin.state_dict(), **given)
    assert model == created  # with all sizes

    @jax.jit
    def run(variables, batch):
        return model.apply(variables, batch, train=False, capture_intermediates=True, mutable=["intermediates"])

    outputs, captured = run(variables, batch)
    captured = captured["intermediates"]
    mask = candidate_mask(model.num_clips, model.scale_layers)

    clips = captured["clips"]["__call__"][0]
    close(clips, channels_last(stages["clips"]))
    pooled = model.proposal == "pool"
    proposals = max_pool_map(clips, mask) if pooled else captured["proposals"]["__call__"][0]
    close(proposals, channels_last(stages["proposals"]))
    close(last_state(captured["lstm"]["__call__"][0], batch.query_mask), stages["state"].detach())
    close(captured["fusion"]["__call__"][0], channels_last(stages["fused"]))
    half = model.map_kernel // 2
    weights = cropped(map_weights(mask, model.map_kernel, model.map_layers), half, whole=False)
    regions = map_regions(mask, weights, half, whole=False)[1:]
    for layer, (weight, region) in enumerate(zip(weights, regions, strict=True)):
        convolved = captured["convs"][f"layer_{layer}"]["__call__"][0]
        ours = jax.nn.relu(convolved) * weight[None, :, :, None]
        theirs = middle(channels_last(stages["layers"][layer]), len(weight))
        close(ours[:, region], theirs[:, region])  # the other cells change no result
    close(outputs.logits, stages["logits"].detach())
    close(model.loss(outputs, batch, epoch=jnp.int32(0))["iou"].value(), stages["loss"].item())


def test_gradients_equal_pytorch(pair):
    twin, model, _ = pair

    @jax.jit
    @jax.grad
    def gradient(variables, batch):
        outputs = model.apply(variables, batch, train=True)
        return model.loss(outputs, batch, epoch=jnp.int32(0))["iou"].value()

    expected = load("two_d_tan", {key: parameter.grad for key, parameter in twin.named_parameters()})
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, atol=2e-5 * max(1e-2, np.abs(e).max())),
        gradient(load("two_d_tan", twin.state_dict()), make_batch()),
        expected,
    )


def test_variables_have_the_shapes_of_the_model(pair):
    twin, model, _ = pair
    expected = jax.eval_shape(lambda key: model.init(key, make_batch(), train=False), jax.random.key(0))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), load("two_d_tan", twin.state_dict()))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), expected)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {key: x.numpy() for key, x in make_twin("conv", "one scale").state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": x for key, x in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": torch.tensor(x) for key, x in state.items()}},
    ],
)
def test_wrappers_are_taken_off(state, wrap):
    expected = load("two_d_tan", state)
    jax.tree.map(np.testing.assert_array_equal, load("two_d_tan", wrap(state)), expected)


def test_half_precision_tensors_become_float32(state):
    half = {key: torch.tensor(x).bfloat16() for key, x in state.items()}
    bias = load("two_d_tan", half)["params"]["score"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, half["pred_layer.bias"].float())


def test_what_does_not_fit_is_named(state):
    wrong = dict(state)
    del wrong["map_layer.convs.1.bias"]
    wrong["map_layer.bn.0.weight"] = np.zeros(F)
    wrong["pred_layer.weight"] = np.zeros((2, F, 1, 1))
    with pytest.raises(UserError) as error:
        load("two_d_tan", wrong)
    for part in (
        "1 left over: map_layer.bn.0.weight",
        "1 missing: map_layer.convs.1.bias",
        "1 of another shape: pred_layer.weight is (2, 12, 1, 1), expected (1, 12, 1, 1)",
    ):
        assert part in str(error.value)


def test_foreign_checkpoints_are_refused(state):
    with pytest.raises(UserError, match='no tensor "frame_layer.vis_conv.weight"'):
        load("two_d_tan", {"encoder.weight": np.zeros((3, 4))})
    with pytest.raises(UserError, match="not a dictionary of tensors: epoch .int."):
        load("two_d_tan", {**state, "epoch": 3})
    with pytest.raises(UserError, match="it is empty"):
        load("two_d_tan", {})
    with pytest.raises(UserError, match='Did you mean "two_d_tan"?'):
        load("two_dtan", state)
    assert "two_d_tan" in architectures()


def test_a_file_becomes_a_model_without_pytorch(state, tmp_path, monkeypatch):
    torch.save({key: torch.tensor(x) for key, x in state.items()}, tmp_path / "model.pkl")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ImportError
    loaded = load("two_d_tan", read_checkpoint(tmp_path / "model.pkl"))
    assert loaded["params"]["score"]["kernel"].shape == (F, 1)


def test_read_checkpoint(state, tmp_path):
    path = tmp_path / "iter.pkl"
    torch.save({key: torch.tensor(x) for key, x in state.items()}, path)
    read = read_checkpoint(path)
    jax.tree.map(np.testing.assert_array_equal, load("two_d_tan", read), load("two_d_tan", state))

    twin = make_twin("pool", "one scale")
    torch.save(twin, path)  # a pickled module, not its state_dict
    read = load("two_d_tan", read_checkpoint(path))
    jax.tree.map(np.testing.assert_array_equal, read, load("two_d_tan", twin.state_dict()))
    torch.save(argparse.Namespace(lr=1e-4), path)
    with pytest.raises(UserError, match=r"holds an object of the type argparse.Namespace, but"):
        read_checkpoint(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(UserError, match="holds an object of the type list"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="no file of tensors at .*absent.pkl"):
        read_checkpoint(tmp_path / "absent.pkl")
