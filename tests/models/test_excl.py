"""ExCL: both objectives and what is predicted by hand, the three predictors, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.excl import SMALL

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.excl import Outputs, expected_clip


def layers(**fields):
    model = create("excl", **{**SMALL, **fields})
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
    return {name: next(iter(part.values())) for name, part in shapes["params"].items()}


def of_one_video():
    """Four clips of 2 s, the last one padding; a moment of 2.5 to 6 s."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0))
    batch = batch.replace(
        video_mask=np.array([[True] * 3 + [False]]), duration=np.float32([6]), span=np.float32([[2.5, 6]])
    )
    start, end = (jnp.log(jnp.float32([x])) for x in ((0.2, 0.5, 0.3, 1.0), (0.5, 0.3, 0.2, 1.0)))
    return batch, Outputs(start=start.at[:, 3].set(MASKED), end=end.at[:, 3].set(MASKED))


def terms(**fields):
    batch, outputs = of_one_video()
    found = create("excl", **SMALL, **fields).loss(outputs, batch, epoch=jnp.int32(0))
    return [float(found[name].value()) for name in ("start", "end")]


def test_the_mean_place():
    batch, outputs = of_one_video()
    # .5 + 2 * .3, and .3 + 2 * .2.
    np.testing.assert_allclose(expected_clip(outputs.start, batch.video_mask), [1.1], rtol=1e-6)
    np.testing.assert_allclose(expected_clip(outputs.end, batch.video_mask), [0.7], rtol=1e-6)


def test_losses_by_hand():
    # The moment starts in clip 1 and ends with clip 2.
    np.testing.assert_allclose(terms(), [-np.log(0.5), -np.log(0.2)], rtol=1e-6)
    np.testing.assert_allclose(terms(objective="regression"), [0.1, 1.3], rtol=1e-5)
    # There is no clip after it.
    np.testing.assert_allclose(terms(late_end=True), terms(), rtol=1e-6)


def test_pairs_are_ranked():
    batch, outputs = of_one_video()
    moments = create("excl", **SMALL).predict(outputs, batch)
    # (1,1) .5 * .3, (0,0) .2 * .5, (1,2) .5 * .2, (0,1) and (2,2) .3 * .2, (0,2) .2 * .2.
    np.testing.assert_allclose(np.exp(moments.scores[0, :6]), [0.15, 0.1, 0.1, 0.06, 0.06, 0.04], rtol=1e-5)
    np.testing.assert_allclose(moments.spans[0, :3], [[2, 4], [0, 2], [2, 6]])
    assert not np.isfinite(moments.scores[0, 6:]).any()
    moments = create("excl", **SMALL, shortest=2, longest=2).predict(outputs, batch)
    np.testing.assert_allclose(moments.spans[0, :2], [[2, 6], [0, 4]])
    assert np.isfinite(moments.scores[0]).sum() == 2


def test_regression_predicts_one_moment():
    batch, outputs = of_one_video()
    model = create("excl", **SMALL, objective="regression")
    moments = model.predict(outputs, batch)
    moments.check()
    # From 1.1 to .7 + 1 clips of 2 s.
    np.testing.assert_allclose(moments.spans, [[[2.2, 3.4]]], rtol=1e-5)
    # From 1.1 to .1 + 1 clips, which is nothing.
    certain = outputs.replace(end=jnp.log(jnp.float32([[0.9, 0.1, 1e-9, 1]])).at[:, 3].set(MASKED))
    found = model.predict(certain, batch).spans[0, 0]
    assert abs(found[1] - found[0]) < 1e-5


def test_each_predictor_reads_its_parts():
    pairs, three = 4 * 3, 6 * 3  # clip and sentence, of 2 * 3 numbers each; and states
    mlp, tied, conditioned = (layers(predictor=name) for name in ("mlp", "tied", "conditioned"))
    assert set(tied) == {*mlp, "video_predictor_lstm"}
    assert set(conditioned) == {*mlp, "video_start_lstm", "video_end_lstm"}
    assert mlp["video_end_hidden"].shape == (4,)
    model = create("excl", **SMALL, predictor="mlp")
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
    assert shapes["params"]["video_start_hidden"]["kernel"].shape == (pairs, 4)
    model = create("excl", **SMALL, predictor="conditioned")
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
    assert shapes["params"]["video_end_hidden"]["kernel"].shape == (three, 4)
    # Both networks read states or a clip beside the sentence.
    kernels = [shapes["params"][f"video_{end}_lstm"]["layer_0"]["input_kernel"] for end in ("start", "end")]
    assert [kernel.shape[0] for kernel in kernels] == [pairs, pairs]


def test_padding_changes_nothing():
    model, batch = create("excl", **SMALL, streams="both", predictor="conditioned"), random_batch()
    variables = random_variables(model, batch)
    expected = outputs_of(model, variables, batch)
    found = outputs_of(model, variables, pad_clips(batch, batch.video.shape[1]))
    clips = batch.video.shape[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, :clips], atol=2e-6), expected, found)


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(predictor="lstm"), 'predictor of excl is "lstm"[.] Known: mlp, tied, conditioned'),
        (dict(objective="l1"), 'objective of excl is "l1"[.] Known: classification, regression'),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        layers(**fields)


def test_subtitles_that_are_read_must_be_there():
    model, batch = (
        create("excl", **SMALL, streams="both"),
        random_batch().replace(subtitles=None, subtitle_mask=None),
    )
    assert model.requires() == ("subtitles",)
    with pytest.raises(UserError, match="ExCL reads subtitles, and this batch has none"):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
