"""Zero-shot: which moments there are, their vectors and scores, and the two numbers that are trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import pad_clips, random_batch
from cases.zero_shot import SMALL

from vmr_jax import create
from vmr_jax.configs.zero_shot import get_config
from vmr_jax.errors import UserError
from vmr_jax.models.zero_shot import Outputs, windows

TOWER = dict(text_features=8, text_layers=1, text_heads=2, text_vocab=20, text_positions=8)


def initial(model, batch):
    return jax.jit(lambda b: model.init(jax.random.key(0), b, train=True))(batch)


def apply(model, variables, batch):
    return jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)


def places(*arguments):
    first, last, before = windows(*arguments)
    return list(zip(first.tolist(), last.tolist())), before.tolist()


# Moments.


def test_moments_begin_at_every_quarter():
    # Length 4 begins at 0, 1, 2, ...: the first that reaches the end of 5 frames is 1 to 5. Length 8 begins at
    # 0, 2, ...: 0 to 8 reaches it. A moment is needed where the one before reaches less than the video.
    found, before = places(5, (4, 8), 0.75)
    assert found == [(0, 4), (1, 5), (0, 8)]
    assert before == [0, 4, 4]
    # Half: length 4 begins at 0, 2, 4: 2 to 6 is cut at 5.
    assert places(5, (4,), 0.5) == ([(0, 4), (2, 6)], [0, 4])
    assert places(5, (2, 5), 0.0) == ([(0, 2), (2, 4), (4, 6), (0, 5)], [0, 2, 4, 2])
    # No longer ones than the first that is as long as the video.
    assert places(4, (4, 8), 0.75)[0] == [(0, 4)] and places(1, (2, 4), 0.75)[0] == [(0, 2)]


@pytest.mark.parametrize("real", range(1, 9))
def test_a_padded_video_has_the_moments_of_its_own_length(real):
    """Also in seconds: 30 s are shared by the real frames."""
    model = create("zero_shot", **SMALL)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=8))
    batch = dataclasses.replace(
        batch, video_mask=np.arange(8)[None] < real, duration=np.float32([30]), example_mask=np.array([True])
    )
    _, spans, mask = jax.jit(lambda b: model.apply({}, b, method="encode_moments"))(batch)
    found = sorted(map(tuple, (spans[0][mask[0]] * real / 30).tolist()))
    expected, _ = places(real, SMALL["lengths"], 0.75)
    expected = sorted((first, min(last, real)) for first, last in expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Every frame is in one, and of 3 or more frames the whole video is one where a length reaches it.
    assert (0, real) in expected and len(set(expected)) == len(expected)


# Scores.


def test_scores_by_numpy():
    batch, model = random_batch(clips=9), create("zero_shot", **SMALL)
    outputs = apply(model, initial(model, batch), batch)
    found = model.predict(outputs, batch)

    def unit(x):
        return x / max(np.linalg.norm(x), 1e-12)

    for b in range(8):
        count = batch.video_mask[b].sum()
        frames = [unit(x) * said for x, said in zip(batch.subtitles[b, :count], batch.subtitle_mask[b])]
        sentence = unit(batch.sentence[b])
        np.testing.assert_allclose(outputs.clip_cosine[b, :count], np.stack(frames) @ sentence, atol=1e-5)
        scores = {}
        for first, last in places(int(count), SMALL["lengths"], 0.75)[0]:
            last = min(last, count)
            span = np.array([first, last]) * batch.duration[b] / count
            scores[tuple(span.round(2))] = unit(np.mean(frames[first:last], axis=0)) @ sentence
        order = sorted(scores.values(), reverse=True)
        real = np.isfinite(found.scores[b])
        np.testing.assert_allclose(found.scores[b][real], order, atol=1e-5)
        for span, score in zip(np.asarray(found.spans[b])[real][:5], order):
            near = min(scores, key=lambda other: np.abs(np.array(other) - span).max())
            assert abs(scores[near] - score) < 1e-4


def test_a_moment_of_nothing_said_has_score_zero():
    batch, model = random_batch(clips=9), create("zero_shot", **SMALL)
    batch = dataclasses.replace(batch, subtitle_mask=np.zeros_like(batch.subtitle_mask))
    found = model.predict(apply(model, initial(model, batch), batch), batch)
    real = np.isfinite(found.scores)
    assert real.any(1).all() and not np.asarray(found.scores)[real].any()


@pytest.mark.parametrize("text", ["clip", "siglip"])
def test_two_encodings_give_the_score(text):
    """Of the frames without the sentence, of the sentence without frames; lengths of vectors say nothing."""
    batch = random_batch(clips=9)
    model = create("zero_shot", text=text, lengths=(1, 2, 4, 8), **TOWER)
    variables = initial(model, batch)
    outputs = apply(model, variables, batch)
    longer = dataclasses.replace(
        batch, video=batch.video * np.float32(3), query_vectors=batch.query_vectors * np.nan
    )
    vectors, spans, mask = jax.jit(lambda b: model.apply({}, b, method="encode_moments"))(longer)
    without = dataclasses.replace(batch, video=batch.video * np.nan)
    query = jax.jit(lambda v, b: model.apply(v, b, method="encode_query"))(variables, without)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.einsum("bme,be->bm", vectors, query), outputs.cosine, atol=1e-5)
    predicted = model.predict(outputs, batch)
    assert not np.asarray(mask)[6:].any()  # fillers
    np.testing.assert_array_equal(np.asarray(mask)[:6].sum(1), np.isfinite(predicted.scores)[:6].sum(1))
    best = np.where(np.asarray(mask)[:6], outputs.cosine[:6], -np.inf).argmax(1)
    np.testing.assert_allclose(np.asarray(spans)[np.arange(6), best], predicted.spans[:6, 0], rtol=1e-5)
    np.testing.assert_allclose(model.saliency(outputs, batch), outputs.clip_cosine)


def test_padded_frames_change_nothing():
    batch, model = random_batch(clips=9), create("zero_shot", **SMALL)
    variables = initial(model, batch)
    short, long = (model.predict(apply(model, variables, b), b) for b in (batch, pad_clips(batch, 6)))
    kept = np.isfinite(short.scores)
    width = kept.shape[1]
    np.testing.assert_array_equal(np.isfinite(long.scores)[:, :width], kept)
    assert not np.isfinite(long.scores)[:, width:].any()
    np.testing.assert_allclose(np.asarray(long.scores)[:, :width][kept], short.scores[kept], atol=1e-5)


# The two numbers that are trained.


def test_loss_by_hand():
    model = create("zero_shot", text="sentence", lengths=(2, 4))
    batch = random_batch(size=2, clips=4, fill=1)
    batch = dataclasses.replace(
        batch,
        video_mask=np.ones((2, 4), bool),
        duration=np.float32([40, 40]),
        span=np.float32([[0, 40], [0, 1]]),
    )
    # The moments are 0-2, 1-3, 2-4 and 0-4 of four frames, with IoUs .5, .5, .5 and 1: all count as right; the
    # second row is a filler. Logits 0 cost log 2, 1000 costs nothing, -3 costs 3 + log(1 + e^-3).
    logits = jnp.float32([[0, 0, 1000, -3], [9, 9, 9, 9]])
    outputs = Outputs(cosine=logits, clip_cosine=logits, logits=logits, clip_logits=logits)
    (name,), (term,) = zip(*model.loss(outputs, batch, epoch=jnp.int32(0)).items())
    assert name == "probability" and float(term.count) == 4
    np.testing.assert_allclose(term.sum, 2 * np.log(2) + 3 + np.log1p(np.exp(-3)), rtol=1e-6)
    wrong = model.clone(iou=0.6).loss(outputs, batch, epoch=jnp.int32(0))["probability"]
    # Now only the whole is right; 1000 costs 1000.
    np.testing.assert_allclose(wrong.sum, 2 * np.log(2) + 1000 + 3 + np.log1p(np.exp(-3)), rtol=1e-6)


def test_the_probability_is_of_the_cosine():
    batch, model = random_batch(clips=9), create("zero_shot", **SMALL)
    variables = initial(model, batch)
    assert jax.tree.map(float, variables) == {"params": {"probability": {"scale": 10.0, "bias": -4.0}}}
    variables = {"params": {"probability": {"scale": jnp.float32(3.0), "bias": jnp.float32(-1.0)}}}
    outputs = apply(model, variables, batch)
    np.testing.assert_allclose(outputs.logits, 3 * outputs.cosine - 1, rtol=1e-5)
    shown = model.explain(outputs, batch)["clips"]
    expected = 1 / (1 + np.exp(1 - 3 * np.asarray(outputs.clip_cosine)))
    np.testing.assert_allclose(shown, np.where(batch.video_mask, expected, np.nan), rtol=1e-5)


def test_only_two_numbers_are_trained():
    rules = get_config("charades_sta").optimizer.rules
    assert rules == (("probability/.*", 1.0), (".*", 0.0))


# Settings.


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(text="clop"), 'text of zero_shot is "clop"[.] Did you mean "clip"'),
        (dict(lengths=(4, 2)), "lengths of zero_shot is .4, 2.; give rising numbers"),
        (dict(lengths=()), "give rising numbers"),
        (dict(overlap=1.0), "overlap of zero_shot is 1.0"),
        (dict(text="sentence"), "The video has 6 numbers a clip, .* has 4: they are not of one encoder"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    batch = random_batch(clips=4)
    with pytest.raises(UserError, match=message):
        model = create("zero_shot", **fields)
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)


def test_configs():
    assert create("zero_shot").requires() == ("subwords",)
    assert create("zero_shot", **SMALL).requires() == ("sentence", "subtitles")
    clip, siglip = get_config("qvhighlights"), get_config("jsonl,siglip")
    assert (clip.dataset.features, clip.dataset.feature_dim, clip.text.encoder) == (
        "clip_features",
        512,
        "clip",
    )
    assert (siglip.dataset.feature_dim, siglip.text.max_subwords) == (768, 64)
    assert get_config("activitynet_captions,lgi").evaluation.splits == ("anet_val_1_and_2",)
    with pytest.raises(UserError, match='For charades_sta this config has no option "siglip"'):
        get_config("charades_sta,siglip")
    with pytest.raises(UserError, match="Name one encoder, not 2"):
        get_config("jsonl,clip,siglip")
