"""Moment-DETR: matching by exhaustion, labels and losses by hand, prediction, and what changes nothing."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import random_batch
from scipy.optimize import linear_sum_assignment

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.moment_detr import (
    Outputs,
    annotated_pairs,
    choose_windows,
    clip_bounds,
    generalized_iou,
    match,
    random_pairs,
    relevant_clips,
)

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
    others = dict.fromkeys(
        ("flow", "audio", "objects", "object_mask", "subtitles", "subtitle_mask", "clip_rows")
    )
    return dataclasses.replace(random_batch(), **others)


@pytest.fixture(scope="module")
def pair():
    model = created(dropout=0.0, input_dropout=0.0)
    return model, random_variables(model, bare_batch())


# Matching.


def cheapest(cost):
    """The least cost of a one-to-one assignment of [Q,M], by trying all of them."""
    cost = cost if cost.shape[0] >= cost.shape[1] else cost.T
    rows = itertools.permutations(range(cost.shape[0]), cost.shape[1])
    return min(cost[list(chosen), range(cost.shape[1])].sum() for chosen in rows)


@pytest.mark.parametrize("queries,moments", [(5, 3), (4, 4), (3, 5), (5, 1)])
def test_matching_is_the_cheapest_of_all(queries, moments):
    rng = np.random.default_rng(queries)
    costs = rng.normal(size=(60, queries, moments)).astype(np.float32)
    masks = rng.random((60, moments)) < 0.7
    masks[:20], masks[20] = True, False
    chosen, found = map(np.asarray, jax.jit(jax.vmap(match))(costs, masks))
    for cost, mask, query, has in zip(costs, masks, chosen, found, strict=True):
        real = cost[:, mask]
        assert has.sum() == min(queries, mask.sum()) and not has[~mask].any()
        assert len(set(query[has])) == has.sum()  # one to one
        total = cost[query[has], np.flatnonzero(has)].sum()
        expected = cheapest(real) if mask.any() else 0.0
        np.testing.assert_allclose(total, expected, atol=1e-5)
        np.testing.assert_allclose(real[linear_sum_assignment(real)].sum(), expected, atol=1e-5)


def test_matching_ends_where_costs_are_not_finite():
    cost = jnp.full((3, 2), jnp.nan).at[0, 0].set(jnp.inf)
    query, found = jax.jit(match)(cost, jnp.ones(2, bool))
    assert found.all() and query[0] != query[1]


def test_of_many_moments_random_ones_are_learnt():
    mask = np.array([[True] * 6, [True, False, True, False, False, False]])
    draws = jnp.float32([[0.3, 0.9, 0.1, 0.8, 0.2, 0.7], [0.5] * 6])
    chosen, real = choose_windows(mask, draws, 3)
    assert set(chosen[0].tolist()) == {1, 3, 5} and real[0].all()
    assert set(chosen[1][real[1]].tolist()) == {0, 2} and real[1].sum() == 2


def test_generalized_iou_by_hand():
    a = jnp.float32([[0, 2], [0, 1], [0, 1], [1, 4], [2, 3], [2, 2]])
    b = jnp.float32([[1, 3], [3, 4], [1, 3], [1, 4], [0, 4], [2, 2]])
    # Overlap 1 of 3; a gap of 2 in a hull of 4; touching; the same; 1 within 4; two empty ones.
    np.testing.assert_allclose(generalized_iou(a, b), [1 / 3, -0.5, 0.0, 1.0, 0.25, 0.0], atol=1e-6)
    gradients = jax.grad(lambda a: generalized_iou(a, b).sum())(a)
    assert np.isfinite(gradients).all()
    # [s,e] before [3,4]: -(3 - e) / (4 - s), at [0,1] with the gradient -2 / 16 by s and 1 / 4 by e.
    np.testing.assert_allclose(gradients[1], [-1 / 8, 1 / 4], atol=1e-6)


# Clips.


def test_clips_are_told_where_they_are():
    mask = np.array([[True] * 4, [True, True, False, False]])
    expected = [
        [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]],
        [[0, 0.5], [0.5, 1], [0, 0], [0, 0]],
    ]
    np.testing.assert_allclose(clip_bounds(jnp.asarray(mask)), expected, atol=1e-6)


def test_a_clip_is_relevant_if_its_middle_is_in_a_moment():
    # Five clips of 2 s: middles at 1, 3, 5, 7, 9.
    windows = jnp.float32([[[2, 6], [0, 0]], [[3, 7], [8.5, 10]], [[4.1, 4.3], [9, 9.5]]])
    window_mask = np.array([[True, False], [True, True], [True, False]])
    mask = np.array([[True] * 5] * 3)
    found = relevant_clips(windows, window_mask, jnp.full(3, 10.0), mask)
    # [2,6]: 3 and 5. [3,7] and [8.5,10]: 3 and 5, as the end does not count, and 9. [4.1,4.3] has no middle:
    # the clip that holds it, [4,6].
    assert [np.flatnonzero(row).tolist() for row in found] == [[1, 2], [1, 2, 4], [2]]


def test_padded_clips_are_not_relevant():
    # Two real clips of 5 s, two of padding.
    mask = np.array([[True, True, False, False]])
    found = relevant_clips(jnp.float32([[[0, 10]]]), np.ones((1, 1), bool), jnp.full(1, 10.0), mask)
    assert found.tolist() == [[True, True, False, False]]


def test_annotated_pairs_are_a_hard_and_an_easy_one():
    relevant = np.array([[False, True, True, True, False], [True, True, False, False, False], [False] * 5])
    mask = np.array([[True] * 5, [True, True, False, False, False], [True] * 5])
    scores = jnp.float32([[0, 5, 9, 3, 0], [4, 6, 0, 0, 0], [0] * 5])
    draws = jnp.float32([[0.9, 0.2, 0.1, 0.7, 0.3], [0.1, 0.9, 0.5, 0.9, 0.9], [0.5] * 5])
    high, low, real = annotated_pairs(relevant, scores, mask, draws)
    # First query: best clip 2 over worst 3; of the relevant ones 3 has the highest draw, of the others 0.
    # Second: all real clips are relevant, so the hard pair 1 over 0 comes twice. Third: nothing is relevant.
    assert high[:2].tolist() == [[2, 3], [1, 1]] and low[:2].tolist() == [[3, 0], [0, 0]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]


def test_of_equally_salient_clips_the_last_is_the_best_and_the_first_the_worst():
    """As `get_saliency_labels` of jayleicn/moment_detr@b7e553ac3b0c answers, run with these scores."""
    relevant = np.array([[False, True, True, True, True, True, False, False]])
    for scores, best, worst in (
        ([0, 4, 9, 9, 4, 9, 0, 0], 5, 1),
        ([0, 6, 6, 6, 6, 6, 0, 0], 5, 1),
        ([0, 7, 3, 7, 3, 5, 0, 0], 3, 2),
    ):
        everywhere, draws = np.ones((1, 8), bool), np.zeros((1, 8))
        high, low, _ = annotated_pairs(relevant, np.float32([scores]), everywhere, draws)
        assert (high[0, 0], low[0, 0]) == (best, worst)


def test_random_pairs_are_of_a_relevant_and_another_clip():
    relevant = np.array([[False, True, True, True, False], [False, True, False, False, False], [True] * 5])
    mask = np.array([[True] * 5, [True, True, True, False, False], [True] * 5])
    draws = jnp.float32([[0.1, 0.2, 0.9, 0.3, 0.4], [0.3, 0.1, 0.2, 0.9, 0.9], [0.5] * 5])
    high, low, real = random_pairs(relevant, mask, draws)
    # First: the two highest draws of each side. Second: one relevant clip, twice; others are 0 and 2, as 3 and
    # 4 are padding. Third: there is no other clip.
    assert high[:2].tolist() == [[2, 3], [1, 1]] and low[:2].tolist() == [[4, 0], [0, 2]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]


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


def random_outputs(rng, size, layers, queries, clips, moments):
    return Outputs(
        logits=rng.normal(size=(size, layers, queries, 2)).astype(np.float32),
        spans=rng.uniform(0.05, 0.95, (size, layers, queries, 2)).astype(np.float32),
        saliency=rng.normal(size=(size, clips)).astype(np.float32),
        window_draws=rng.random((size, moments)).astype(np.float32),
        clip_draws=rng.random((size, clips)).astype(np.float32),
    )


def overlap_of(span, window):
    """Generalised IoU of (centre, width) with (start, end)."""
    start, end = span[0] - span[1] / 2, span[0] + span[1] / 2
    both = max(0, min(end, window[1]) - max(start, window[0]))
    union = end - start + window[1] - window[0] - both
    hull = max(end, window[1]) - min(start, window[0])
    return both / union - (hull - union) / hull


def set_loss(outputs, batch):
    """The terms of the paper's set loss by loops over examples, layers and all assignments, in float64."""
    terms = {"span": [], "giou": [], "label": []}
    layers = outputs.logits.shape[1]
    for b, i in itertools.product(np.flatnonzero(batch.example_mask), range(layers)):
        windows = batch.windows[b][batch.window_mask[b]].astype(float) / batch.duration[b]
        centres = np.stack([windows.mean(1), windows[:, 1] - windows[:, 0]], 1)
        logits, spans = outputs.logits[b, i].astype(float), outputs.spans[b, i].astype(float)
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        distance = np.abs(spans[:, None] - centres[None])
        overlap = np.array([[overlap_of(span, window) for window in windows] for span in spans])
        cost = 10 * distance.sum(-1) - overlap - 4 * probability[:, :1]
        moments = range(len(windows))
        orders = list(itertools.permutations(range(len(spans)), len(windows)))
        best = list(orders[np.argmin([cost[list(order), moments].sum() for order in orders])])
        terms["span"] += [distance[best, moments]]
        terms["giou"] += [1 - overlap[best, moments]]
        label = -0.1 * np.log(probability[:, 1])
        label[best] = -np.log(probability[best, 0])
        terms["label"] += [label]
    weights = {"span": 10, "giou": 1, "label": 4}
    return {name: layers * weight * np.concatenate(terms[name]).mean() for name, weight in weights.items()}


def test_set_loss_is_that_of_the_cheapest_assignment():
    rng = np.random.default_rng(0)
    batch = bare_batch()
    outputs = random_outputs(rng, batch.size, 2, 4, 16, 3)
    found, expected = terms_of(created(), outputs, batch), set_loss(outputs, batch)
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, rel=1e-4)


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
