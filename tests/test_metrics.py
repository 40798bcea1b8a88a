"""Metrics against cases worked out by hand."""

import numpy as np
import pytest

from vmr_jax import metrics


def test_recall_and_miou_by_hand():
    # Query 1, truth [0,10]: moments [0,5] (IoU 5/10 = .5), [0,9] (.9).
    # Query 2, truth [10,20]: moments [12,20] (8/10 = .8), [0,5] (0).
    # Query 3, truth [0,4]: moments [4,8] (0), [1,4] (3/4 = .75).
    spans = np.array([[[0, 5], [0, 9]], [[12, 20], [0, 5]], [[4, 8], [1, 4]]], float)
    truth = np.array([[0, 10], [10, 20], [0, 4]], float)
    ious = metrics.ranked_iou(spans, np.zeros((3, 2)), truth)
    np.testing.assert_allclose(ious, [[0.5, 0.9], [0.8, 0.0], [0.0, 0.75]])
    got = metrics.retrieval_metrics(ious, (1, 5), (0.5, 0.7), strict=False)
    # R@1,.5: queries 1 and 2 of 3; strict: only query 2. R@1,.7: query 2. R@5: .9, .8, .75 all reach .7.
    assert got == pytest.approx(
        {
            "R@1,IoU=0.5": 200 / 3,
            "R@1,IoU=0.7": 100 / 3,
            "R@5,IoU=0.5": 100.0,
            "R@5,IoU=0.7": 100.0,
            "mIoU": 100 * (0.5 + 0.8 + 0.0) / 3,
        }
    )
    strict = metrics.retrieval_metrics(ious, (1,), (0.5,), strict=True)
    assert strict["R@1,IoU=0.5"] == pytest.approx(100 / 3)


def test_absent_moments_never_count():
    # The second place is empty (-inf); its span would have hit.
    ious = metrics.ranked_iou(
        np.array([[[5.0, 6.0], [0.0, 1.0]]]), np.array([[1.0, -np.inf]]), np.array([[0.0, 1.0]])
    )
    np.testing.assert_array_equal(ious, [[0.0, 0.0]])


def test_empty_group_is_nan_not_zero():
    assert np.isnan(metrics.retrieval_metrics(np.zeros((0, 5)), (1,), (0.5,), False)["mIoU"])


def test_names_are_the_fields():
    assert metrics.recall_name(5, 0.7) == "R@5,IoU=0.7"
    assert metrics.recall_name(1, 0.30) == "R@1,IoU=0.3"
