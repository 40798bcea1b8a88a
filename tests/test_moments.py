"""IoU, ranking and NMS against hand-computed cases and an independent loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax import moments as moments_lib
from vmr_jax.evaluation import metrics
from vmr_jax.types import Moments


def test_iou_by_hand():
    # [0,4] and [2,6]: 2 / 6. [0,4] and [5,6]: 0. [1,2] in [0,4]: 1 / 4. Empty with empty: 0.
    a = jnp.array([[0.0, 4.0], [0.0, 4.0], [1.0, 2.0], [3.0, 3.0]])
    b = jnp.array([[2.0, 6.0], [5.0, 6.0], [0.0, 4.0], [3.0, 3.0]])
    expected = [2 / 6, 0.0, 1 / 4, 0.0]
    np.testing.assert_allclose(moments_lib.iou(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.iou(a, b), expected, rtol=1e-12)


def test_rank_takes_lower_index_first_on_ties_and_masked_last():
    spans = jnp.arange(8.0).reshape(1, 4, 2)
    ranked = moments_lib.rank(
        spans, jnp.array([[0.5, 0.9, 0.5, 1.0]]), jnp.array([[True, True, True, False]]), k=10
    )
    np.testing.assert_array_equal(ranked.spans[0, :3], [[2, 3], [0, 1], [4, 5]])
    assert ranked.scores.shape == (1, 4) and ranked.scores[0, 3] == -jnp.inf


def test_nms_keeps_a_tie_at_the_threshold():
    # IoU([0,2],[0,1]) = 1/2 exactly: kept at threshold .5, removed at .49. IoU([0,2],[0,1.9]) = .95.
    moments = Moments(
        spans=jnp.array([[[0.0, 2.0], [0.0, 1.9], [0.0, 1.0]]]), scores=jnp.array([[0.9, 0.8, 0.7]])
    )
    kept = moments_lib.nms(moments, 0.5, k=3)
    np.testing.assert_allclose(kept.spans[0], [[0, 2], [0, 1], [0, 0]])
    np.testing.assert_allclose(kept.scores[0, :2], [0.9, 0.7])
    assert kept.scores[0, 2] == -jnp.inf
    assert jnp.isfinite(moments_lib.nms(moments, 0.49, k=3).scores[0]).sum() == 1


def test_nms_keeps_moments_that_end_before_they_start():
    # Lengths 2, -5, 1, -4: [7,2] and [0,2] have the sum -3, and 0 in common, so no share of it is too much.
    spans = jnp.array([[[0.0, 2.0], [7.0, 2.0], [0.0, 1.0], [9.0, 5.0]]])
    kept = moments_lib.nms(Moments(spans=spans, scores=jnp.array([[0.9, 0.8, 0.7, 0.6]])), 0.45, k=4)
    # [0,1] is half of [0,2].
    np.testing.assert_allclose(kept.spans[0], [[0, 2], [7, 2], [9, 5], [0, 0]])


def test_nms_on_a_clip_grid_does_not_depend_on_the_duration():
    # The same cells in seconds of an awkward duration: exact ties must not turn into rounding.
    starts, ends = np.triu_indices(16)
    cells = np.stack([starts, ends + 1], 1) / 16
    order = np.random.default_rng(0).permutation(len(cells))
    scores = np.linspace(1, 0, len(cells))

    def kept(duration):
        spans = jnp.asarray(cells[order][None] * duration, jnp.float32)
        moments = moments_lib.nms(Moments(spans, jnp.asarray(scores[None], jnp.float32)), 0.5, k=5)
        return moments.scores

    for duration in (30.96, 31.3, 7.123, 199.99):
        np.testing.assert_array_equal(kept(1.0), kept(duration))


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.5, 1.0])
def test_nms_equals_the_greedy_loop(threshold):
    rng = np.random.default_rng(1)
    spans = np.sort(rng.random((3, 40, 2)).astype(np.float32) * 60, axis=-1)
    scores = -np.sort(-rng.random((3, 40)).astype(np.float32), axis=-1)
    scores[1, 30:] = -np.inf  # a query with fewer candidates
    got = moments_lib.nms(Moments(jnp.asarray(spans), jnp.asarray(scores)), threshold, k=6)
    for b in range(3):
        kept = []
        for i in range(40):
            if np.isfinite(scores[b, i]) and all(
                metrics.iou(spans[b, i], spans[b, j]) <= threshold for j in kept
            ):
                kept.append(i)
        kept = kept[:6]
        np.testing.assert_allclose(got.spans[b, : len(kept)], spans[b, kept])
        np.testing.assert_allclose(got.scores[b, : len(kept)], scores[b, kept])
        assert not np.isfinite(np.asarray(got.scores[b, len(kept) :])).any()
