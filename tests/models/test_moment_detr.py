"""Moment-DETR: losses by hand, prediction, and what changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import OF_CLIPS, random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.moment_detr import Outputs

SMALL = dict(features=8, heads=2, hidden=12, num_queries=4)


def created(**fields):
    return create("moment_detr", **{**SMALL, **fields})


@functools.partial(jax.jit, static_argnames=("model", "train"))
def outputs_of(model, variables, batch, train=False):
    return model.apply(variables, batch, train=train, rngs={"dropout": jax.random.key(0)})


@functools.partial(jax.jit, static_argnames="model")
def terms_of(model, outputs, batch):
    return {name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}


def bare_batch():
    """Without the fields of other architectures that have an axis of clips."""
    others = dict.fromkeys(name for name in OF_CLIPS if name != "saliency")
    return dataclasses.replace(random_batch(), **others)


@pytest.fixture(scope="module")
def pair():
    model = created(dropout=0.0, input_dropout=0.0)
    return model, random_variables(model, bare_batch())


def test_draws_are_uniform_and_of_the_example(pair):
    model, variables = pair
    batch = bare_batch()
    found = outputs_of(model, variables, batch, train=True).clip_draws
    # 8 * 16 uniform numbers: mean .5, standard deviation of the mean sqrt(1 / 12 / 128) = .026.
    assert abs(found.mean() - 0.5) < 0.1 and 0 <= found.min() < 0.1 and 0.9 < found.max() < 1
    assert len(np.unique(found)) == 128
    backwards = jax.tree.map(lambda x: x[::-1], batch)
    other = outputs_of(model, variables, backwards, train=True)
    np.testing.assert_array_equal(other.clip_draws[::-1], found)


# Losses.


def one_query(**fields):
    """Five clips of 2 s and the moment [2, 6]: clips 1 and 2 are relevant."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=5, fill=0))
    return dataclasses.replace(
        batch,
        video_mask=np.ones((1, 5), bool),
        duration=np.float32([10]),
        span=np.float32([[2, 6]]),
        windows=np.float32([[[2, 6], [0, 0], [0, 0]]]),
        window_mask=np.array([[True, False, False]]),
        saliency=np.float32([[0, 9, 3, 0, 0]]),
        **fields,
    )


def outputs_by_hand():
    """One layer and two queries: [2, 6] exactly, as unlikely as the other, [8, 10]."""
    return Outputs(
        logits=jnp.zeros((1, 1, 2, 2)),
        spans=jnp.float32([[[[0.9, 0.2], [0.4, 0.4]]]]),
        saliency=jnp.float32([[1.0, 0.0, 0.5, 2.0, 0.1]]),
        window_draws=jnp.zeros((1, 3)),
        clip_draws=jnp.float32([[0.9, 0.2, 0.8, 0.1, 0.3]]),
    )


@pytest.mark.parametrize("annotated,expected", [(True, 0.7 + 0.7), (False, 0.7 + 0.3)])
def test_loss_by_hand(annotated, expected):
    model = created(decoder_layers=1, num_queries=2, annotated_saliency=annotated)
    terms = terms_of(model, outputs_by_hand(), one_query())
    # The moment is the second query: no distance, no gap. Classes: (1 + .1) * log 2 / 2, times 4.
    # Annotated: the best clip 1 over the worst 2, .2 + .5 - 0; relevant clip 2 over the other 0 (the highest
    # draws), .2 + 1 - .5. Not annotated: clips 2 and 1 over 0 and 4: .2 + 1 - .5, and .2 + .1 - 0.
    values = {"span": 0.0, "giou": 0.0, "label": 2.2 * np.log(2), "saliency": expected}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(values, abs=1e-5)


def test_weights_are_in_the_terms():
    plain, fields = dict(decoder_layers=1, num_queries=2), {
        "span_weight": 30.0, "giou_weight": 3.0, "label_weight": 12.0, "saliency_weight": 3.0
    }  # fmt: skip
    outputs = outputs_by_hand().replace(spans=jnp.float32([[[[0.9, 0.2], [0.5, 0.4]]]]))
    first, second = (terms_of(created(**plain, **more), outputs, one_query()) for more in ({}, fields))
    for name in first:
        assert first[name] > 0
        np.testing.assert_allclose(second[name], 3 * first[name], rtol=1e-6)


def test_scores_of_annotators_make_clips_relevant_too():
    # Clip 4, outside the moment, has a score of 1, the least: the hard pair is 1 over 4, .2 + .1 - 0; the easy
    # one is 2 (highest draw of 1, 2, 4) over 0 (of 0, 3), .2 + 1 - .5.
    batch = one_query()
    batch.saliency[0, 4] = 1
    terms = terms_of(created(decoder_layers=1, num_queries=2), outputs_by_hand(), batch)
    np.testing.assert_allclose(terms["saliency"], 0.3 + 0.7, rtol=1e-6)


def test_without_many_moments_the_span_is_the_one():
    batch = one_query()
    other = dataclasses.replace(batch, windows=None, window_mask=None, saliency=None)
    many, one = (
        created(decoder_layers=1, num_queries=2, annotated_saliency=False, all_windows=every)
        for every in (True, False)
    )
    outputs = outputs_by_hand()
    expected, found = terms_of(many, outputs, batch), terms_of(one, outputs, other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert (many.requires(), one.requires()) == (("windows",), ())
    assert created().requires() == ("windows", "saliency")


# Prediction.


def test_prediction_is_rounded_cut_and_ranked():
    model = created(num_queries=3, round_to=2.0)
    batch = dataclasses.replace(one_query(), duration=np.float32([9]))
    spans = np.zeros((1, 2, 3, 2), np.float32)
    # Of 9 s: [2.7, 5.4]; [-.9, 2.7]; [6.3, 9.9].
    spans[0, 1] = [[0.45, 0.3], [0.1, 0.4], [0.9, 0.4]]
    logits = np.zeros((1, 2, 3, 2), np.float32)
    logits[0, 1, :, 0] = np.log([1, 4, 0.25])
    outputs = Outputs(logits, spans, jnp.zeros((1, 5)), None, None)
    moments = model.predict(outputs, batch)
    # Probabilities 1/2, 4/5, 1/5. Even seconds: [2, 6], [0, 2], [6, 10], the last one cut to the video.
    np.testing.assert_allclose(moments.scores, [[0.8, 0.5, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(moments.spans, [[[0, 2], [2, 6], [6, 9]]])
    exact = created(num_queries=3, round_to=0.0).predict(outputs, batch)
    np.testing.assert_allclose(exact.spans, [[[0, 2.7], [2.7, 5.4], [6.3, 9]]], rtol=1e-5)


def test_saliency_and_its_picture():
    batch = dataclasses.replace(one_query(), video_mask=np.array([[True, True, True, False, False]]))
    outputs = outputs_by_hand().replace(saliency=jnp.float32([[1.0, -1.0, 0.5, MASKED, MASKED]]))
    model = created()
    np.testing.assert_array_equal(model.saliency(outputs, batch), outputs.saliency)
    # From the least, -1, to the most, 1.
    picture = model.explain(outputs, batch)["clips"]
    np.testing.assert_allclose(picture, [[1.0, 0.0, 0.75, np.nan, np.nan]], rtol=1e-6)


# What must not change the results.


def test_padded_clips_change_nothing(pair):
    model, variables = pair
    batch = bare_batch()

    def padded(x, fill):
        return np.concatenate([x, np.full_like(x, fill)], axis=1)

    longer = dataclasses.replace(
        batch,
        video=padded(batch.video, 7.0),
        video_mask=padded(batch.video_mask, False),
        saliency=padded(batch.saliency, 5.0),
    )
    expected, found = (outputs_of(model, variables, b, train=True) for b in (batch, longer))
    clips = batch.video.shape[1]
    for name in ("logits", "spans"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5)
    for name in ("saliency", "clip_draws"):
        np.testing.assert_allclose(getattr(found, name)[:, :clips], getattr(expected, name), atol=2e-5)
    terms = (terms_of(model, o, b) for o, b in ((expected, batch), (found, longer)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), *terms)
    a, b = model.predict(expected, batch), model.predict(found, longer)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), a, b)


def test_word_vectors_are_normalised_unless_told(pair):
    model, variables = pair
    batch = bare_batch()
    # So short that the epsilon of the first layer norm matters.
    short = dataclasses.replace(batch, query_vectors=1e-3 * batch.query_vectors)
    expected = outputs_of(model, variables, batch, train=True)
    found = outputs_of(model, variables, short, train=True)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    raw = outputs_of(model.clone(normalize_words=False), variables, short, train=True)
    assert np.abs(raw.logits - expected.logits).max() > 1e-3


def test_missing_labels_are_told():
    batch = dataclasses.replace(bare_batch(), windows=None, window_mask=None, saliency=None)
    with pytest.raises(UserError, match="learns windows and saliency, and this batch has none"):
        jax.eval_shape(lambda b: created().init(jax.random.key(0), b, train=False), batch)
