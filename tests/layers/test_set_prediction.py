"""Matching by exhaustion, the set loss by loops over all assignments, and generalised IoU by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from scipy.optimize import linear_sum_assignment

from vmr_jax.layers.set_prediction import (
    SetWeights,
    choose_windows,
    generalized_iou,
    match,
    set_losses,
    set_truth,
)


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


def overlap_of(span, window):
    """Generalised IoU of (centre, width) with (start, end)."""
    start, end = span[0] - span[1] / 2, span[0] + span[1] / 2
    both = max(0, min(end, window[1]) - max(start, window[0]))
    union = end - start + window[1] - window[0] - both
    hull = max(end, window[1]) - min(start, window[0])
    return both / union - (hull - union) / hull


def set_loss(all_logits, all_spans, batch):
    """The terms of the paper's set loss by loops over examples, layers and all assignments, in float64."""
    terms = {"span": [], "giou": [], "label": []}
    layers = all_logits.shape[1]
    for b, i in itertools.product(np.flatnonzero(batch.example_mask), range(layers)):
        windows = batch.windows[b][batch.window_mask[b]].astype(float) / batch.duration[b]
        centres = np.stack([windows.mean(1), windows[:, 1] - windows[:, 0]], 1)
        logits, spans = all_logits[b, i].astype(float), all_spans[b, i].astype(float)
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
    batch = random_batch()
    logits = rng.normal(size=(batch.size, 2, 4, 2)).astype(np.float32)
    spans = rng.uniform(0.05, 0.95, (batch.size, 2, 4, 2)).astype(np.float32)

    @jax.jit
    def losses(logits, spans):
        draws, mask = rng.random(batch.window_mask.shape), batch.window_mask & batch.example_mask[:, None]
        truth, mask = set_truth(jnp.asarray(batch.windows), mask, batch.duration, draws, 3)
        return set_losses(logits, spans, truth, mask, batch.example_mask, SetWeights(10, 1, 4, 0.1))

    found, expected = losses(logits, spans), set_loss(logits, spans, batch)
    assert {name: float(term.value()) for name, term in found.items()} == pytest.approx(expected, rel=1e-4)
