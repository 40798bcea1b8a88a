"""Official XML checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.xml import Twin  # noqa: E402

B, T, L, D, W, S, F, HEADS, KERNEL = 3, 9, 6, 7, 5, 4, 16, 2, 3
SETTINGS = {
    "both": dict(streams="both"),
    "no_cross_att": dict(streams="both", cross_attention=False),
    "video": dict(streams="video"),
}


def ragged_batch():
    rng = np.random.default_rng(0)
    video_mask = np.arange(T) < np.array([[T], [T - 2], [4]])
    query_mask = np.arange(L) < np.array([[L], [2], [L - 1]])

    def rows(mask, width):
        return (rng.normal(size=(*mask.shape, width)) * mask[..., None]).astype(np.float32)

    said = video_mask & (rng.random(video_mask.shape) < 0.6)  # where nothing is said, the official row is zero
    return Batch(
        video=rows(video_mask, D),
        video_mask=video_mask,
        duration=np.float32([30, 40, 50]),
        query=np.full((B, L), 2, np.int32),
        query_vectors=rows(query_mask, W),
        query_mask=query_mask,
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        subtitles=rows(said, S),
        subtitle_mask=said,
    )


SIZES = dict(features=F, heads=HEADS, conv_kernel=KERNEL, max_clips=12, max_words=8)


def make_twin(**fields):
    return Twin(D, S, W, **SIZES, **fields)


def created(**fields):
    return create("xml", video_scale=1.0, **SIZES, **fields)


def official(twin, **extra):
    return {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, **extra}


@pytest.fixture(scope="module", params=SETTINGS)
def trio(request):
    """The twin, what it finds, and our model."""
    torch.manual_seed(0)
    twin = make_twin(**SETTINGS[request.param]).eval()
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(ragged_batch()).items()}
    return twin, expected, created(**SETTINGS[request.param])


def test_every_output_is_the_twins(trio):
    twin, expected, created = trio
    batch = ragged_batch()
    _, model, variables = load_model("xml", official(twin, epoch=60), heads=HEADS, video_scale=1.0)
    assert model == created  # with all sizes
    run = jax.jit(lambda m, v, b: m.apply(v, b, train=False), static_argnums=0)
    outputs = run(model, variables, batch)
    np.testing.assert_allclose(outputs.queries, expected["queries"], atol=1e-4, rtol=0)
    real = batch.video_mask
    # By default only the video without padding has the official logits throughout: those of the last clips of
    # the others, half a kernel of them, depend on the padding there.
    changes = real & ~np.roll(real, -(KERNEL // 2), axis=1) & ~real.all(1)[:, None]
    for name in ("start", "end"):
        found = getattr(outputs, name)
        np.testing.assert_allclose(found[real & ~changes], expected[name][real & ~changes], atol=1e-4, rtol=0)
        assert np.abs(found - expected[name])[changes].max() > 1e-2
    outputs = run(model.clone(official_padding=True), variables, batch)
    for name in ("start", "end"):
        np.testing.assert_allclose(
            getattr(outputs, name)[real], expected[name][real], atol=2e-4, rtol=0, err_msg=name
        )


def test_the_scores_of_videos_are_the_twins(trio):
    twin, expected, model = trio
    batch, variables = ragged_batch(), load("xml", official(twin))

    def fit(v, b):
        videos = model.apply(v, b, method="encode_videos")
        return model.apply(v, b, videos, method="score_videos")

    np.testing.assert_allclose(jax.jit(fit)(variables, batch), expected["fit"], atol=1e-4, rtol=0)


def test_every_parameter_is_set(trio):
    twin, _, model = trio
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("xml", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_a_wrong_shape_is_named():
    state = dict(make_twin().state_dict())
    key = "sub_cross_att.value.weight"
    state[key] = state[key][:-1]
    with pytest.raises(UserError, match=rf"1 of another shape: {key} is \(15, 16\), expected \(16, 16\)"):
        load("xml", state)
