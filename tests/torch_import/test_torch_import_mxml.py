"""Official mXML checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.mxml import TIED, Twin  # noqa: E402

B, T, L, D, W, S, F = 3, 9, 6, 7, 5, 4, 16
SIZES = dict(features=F, heads=2, max_clips=12, max_words=8)


def ragged_batch():
    rng = np.random.default_rng(0)

    def rows(lengths, width):
        return [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]

    return Batch.of(
        video=rows((T, T - 2, 4), D),
        query_vectors=rows((L, 2, L - 1), W),
        translation=rows((2, L, 3), W),
        subtitles=rows((T, T - 2, 4), S),
        translated_subtitles=rows((T, T - 2, 4), S),
        duration=np.float32([30, 40, 50]),
        span=np.tile(np.float32([3, 9]), (B, 1)),
    )


def official(twin):
    return {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, "epoch": 60}


@pytest.fixture(scope="module", params=["both", "video"])
def pair(request):
    """The twin, and our model and variables."""
    torch.manual_seed(0)
    twin = Twin(D, S, W, streams=request.param, **SIZES).eval()
    fields = dict(heads=2, official_padding=True, margin=3.0)
    _, model, variables = load_model("mxml", official(twin), **fields)
    assert model == create("mxml", streams=request.param, **{**SIZES, **fields})
    return twin, model, variables


def test_both_languages_are_the_twins(pair):
    twin, model, variables = pair
    batch = ragged_batch()

    @jax.jit
    def found(v, b):
        outputs = model.apply(v, b, train=False)
        terms = model.loss(outputs, b, epoch=jnp.int32(0))
        fits = {}
        for language in ("query", "translation"):
            of = model.clone(language=language)
            videos = of.apply(v, b, method="encode_videos")
            fits[language] = of.apply(v, b, videos, method="score_videos") / model.video_scale
        return outputs, terms["neighbours"].value(), fits

    outputs, neighbours, fits = found(variables, batch)
    with torch.no_grad():
        expected = twin(batch)
        # At evaluation nothing is drawn: the hardest negative is taken.
        close = twin.neighbours(expected, 0, 3.0).item()
    assert float(neighbours) == pytest.approx(close, rel=1e-5) and close > 1
    real = batch.video_mask
    for language, theirs in expected.items():
        ours = getattr(outputs, language)
        for name in ("queries", "meaning"):
            np.testing.assert_allclose(getattr(ours, name), theirs[name], atol=1e-4, rtol=0, err_msg=name)
        for name in ("start", "end"):
            np.testing.assert_allclose(
                getattr(ours, name)[real], theirs[name].numpy()[real], atol=2e-4, rtol=0, err_msg=name
            )
        np.testing.assert_allclose(fits[language], theirs["fit"], atol=1e-4, rtol=0)


def test_copies_of_common_encoders_must_be_equal(pair):
    twin, _, _ = pair
    state = {key: x.clone() for key, x in twin.state_dict().items()}
    part = f"xml_zh.{TIED[1]}.output.dense.weight"
    state[part][0, 0] += 1e-3
    with pytest.raises(
        UserError, match=rf"mxml has once are not equal to their copies: {part}\. It was trained"
    ):
        load("mxml", state)


def test_attention_between_the_streams_is_refused():
    twin = Twin(D, S, W, streams="both", **SIZES)
    state = {key: x for key, x in twin.state_dict().items() if "encoder3" not in key}
    with pytest.raises(UserError, match="attention between the streams"):
        load_model("mxml", state)
