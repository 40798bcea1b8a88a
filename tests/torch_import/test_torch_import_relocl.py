"""Official ReLoCLNet checkpoints, against a PyTorch twin written from the paper, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.corpus import compare_examples
from vmr_jax.models import create
from vmr_jax.models.relocl import clip_contrast, pair_contrast
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.relocl import Twin  # noqa: E402

B, T, L, D, W, F, HEADS, KERNEL = 3, 9, 6, 7, 5, 16, 2, 3
SIZES = dict(features=F, heads=HEADS, conv_kernel=KERNEL, max_clips=12, max_words=8)
FIRST, LAST = np.array([1, 0, 2]), np.array([4, 6, 2])  # the second moment is the whole video


def ragged_batch():
    rng = np.random.default_rng(0)
    video_mask = np.arange(T) < np.array([[T], [T - 2], [4]])
    query_mask = np.arange(L) < np.array([[L], [2], [L - 1]])

    def rows(mask, width):
        return (rng.normal(size=(*mask.shape, width)) * mask[..., None]).astype(np.float32)

    said = video_mask & (rng.random(video_mask.shape) < 0.6)  # where nothing is said, the official row is zero
    return Batch.of(
        video=rows(video_mask, D),
        video_mask=video_mask,
        query_vectors=rows(query_mask, W),
        query_mask=query_mask,
        subtitles=rows(said, W),
        subtitle_mask=said,
    )


def official(twin, **extra):
    return {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, **extra}


@pytest.fixture(scope="module")
def pair():
    """The twin, and what it finds with its contrast."""
    torch.manual_seed(0)
    twin, batch = Twin(D, W, W, **SIZES).eval(), ragged_batch()
    with torch.no_grad():
        found = twin(batch)
        found["contrast"] = torch.stack(twin.contrast(found, batch, *map(torch.as_tensor, (FIRST, LAST))))
    return twin, {name: x.numpy() for name, x in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def ours(model, variables, batch):
    """Outputs, r, and both contrasts of moments from FIRST to LAST."""
    outputs = model.apply(variables, batch, train=False)
    videos = model.apply(variables, batch, method="encode_videos")
    fit = jnp.einsum("bzf,bztf->bzt", outputs.queries, outputs.middle)
    clip = np.arange(T)[None]
    inside = jnp.asarray((clip >= FIRST[:, None]) & (clip <= LAST[:, None]))
    clips = clip_contrast(fit, inside, batch.video_mask).mean()
    pairs = pair_contrast(compare_examples(outputs.queries, outputs.middle, batch, cosine=False)).mean()
    fits = model.apply(variables, batch, videos, method="score_videos")
    return outputs, fits / model.video_scale, jnp.stack([clips, pairs])


def test_every_output_is_the_twins(pair):
    twin, expected = pair
    batch = ragged_batch()
    _, model, variables = load_model("relocl", official(twin, epoch=60), heads=HEADS)
    assert model == create("relocl", **SIZES)  # with all sizes, and the endpoints
    outputs, fits, contrast = ours(model, variables, batch)
    np.testing.assert_allclose(outputs.queries, expected["queries"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(fits, expected["fit"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(contrast, expected["contrast"], rtol=1e-5)
    real = batch.video_mask
    # By default only the video without padding has the official logits throughout: those of the last clips of
    # the others, half a kernel of them, depend on the padding there.
    changes = real & ~np.roll(real, -(KERNEL // 2), axis=1) & ~real.all(1)[:, None]
    for name in ("start", "end"):
        found = getattr(outputs, name)
        np.testing.assert_allclose(found[real & ~changes], expected[name][real & ~changes], atol=1e-4, rtol=0)
        assert np.abs(found - expected[name])[changes].max() > 1e-2
    outputs, _, _ = ours(model.clone(official_padding=True), variables, batch)
    for name in ("start", "end"):
        np.testing.assert_allclose(
            getattr(outputs, name)[real], expected[name][real], atol=2e-4, rtol=0, err_msg=name
        )


def test_endpoints_are_read_off_the_widths(pair):
    twin, _ = pair
    state = twin.state_dict()
    for name in ("video", "sub"):  # without the columns of the endpoints
        for key in ("net.1.weight", "LayerNorm.weight", "LayerNorm.bias"):
            state[f"{name}_input_proj.{key}"] = state[f"{name}_input_proj.{key}"][..., :-2]
    fields, _, variables = load_model("relocl", state, heads=HEADS)
    assert not fields["endpoints"]
    assert variables["params"]["inputs_video"]["linear"]["kernel"].shape == (D, F)
    assert load("relocl", twin.state_dict())["params"]["inputs_video"]["linear"]["kernel"].shape == (D + 2, F)
