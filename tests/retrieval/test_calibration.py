"""Confidence: the fit, its judgement on queries that it was not fitted to, and what it says of a poor match."""

import json
import math

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.retrieval.calibration import (
    CONFIDENT,
    Answer,
    Bin,
    Calibration,
    fit,
    no_match,
    read_calibration,
    write_calibration,
)
from vmr_jax.retrieval.index import Found


def answers(count, slope, intercept, hits=5, seed=0, scale=1.0):
    """Queries whose hits are right with the probability sigmoid(slope * score + intercept)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        scores = np.sort(rng.normal(size=hits))[::-1] * scale
        right = rng.random(hits) < 1 / (1 + np.exp(-(slope * scores + intercept)))
        found.append(Answer(scores, right))
    return found


def test_hits_are_compared_with_the_annotated_moments():
    hits = [Found("a", 0, 10, 3.0), Found("b", 0, 10, 2.0), Found("a", 5, 15, 1.0), Found("a", 0, 5, 0.5)]
    # IoU with 0 to 10 in "a": 1, another video, 5 / 15, and exactly 5 / 10; with 6 to 16 the third has 9 / 11.
    assert Answer.of(hits, "a", [(0, 10)]).right.tolist() == [True, False, False, True]
    answer = Answer.of(hits, "a", [(0, 10), (6, 16)])
    assert answer.right.tolist() == [True, False, True, True] and answer.scores.tolist() == [3, 2, 1, 0.5]


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-3, 0.25), (300.0, -5.0)])
def test_the_likeliest_sigmoid_is_found(scale, shift):
    """Of 2,000 hits slope and intercept have standard errors below 0.1. Units of the score do not matter."""
    made = answers(400, 2.0, -1.0)
    found = fit([Answer(a.scores * scale + shift, a.right) for a in made])
    assert found.slope * scale == pytest.approx(2.0, abs=0.3)
    assert found.intercept + found.slope * shift == pytest.approx(-1.0, abs=0.3)
    assert found.queries == 400
    # Its gradient is zero: the mean of what it says is that of Platt's targets.
    scores, right = (np.concatenate([a[i] for a in made]) for i in (0, 1))
    yes, no = right.sum(), (~right).sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    said = found.confidence(scores * scale + shift)
    assert said.mean() == pytest.approx(target.mean(), abs=1e-6)
    assert (said * scores).mean() == pytest.approx((target * scores).mean(), abs=1e-6)


def test_what_it_says_is_what_happens():
    found = fit(answers(1000, 2.0, -1.0))
    # 5,000 hits in eleven bins: the standard error of a share is about .5 / sqrt(450) = .024.
    assert found.error < 0.03 and sum(b.hits for b in found.bins) == 5000
    assert all(abs(b.said - b.was) < 0.1 for b in found.bins)
    assert [b.said for b in found.bins] == sorted(b.said for b in found.bins)
    assert "1,000 sentences" in str(found) and f"{100 * found.error:.1f} points" in str(found)


def test_the_error_is_of_queries_that_it_was_not_fitted_to():
    """Two halves of which one is always right and the other never: each judges the other, and is all wrong."""
    scores = np.linspace(0, 1, 5)
    always, never = Answer(scores, np.ones(5, bool)), Answer(scores, np.zeros(5, bool))
    found = fit([always, never] * 50)
    # 250 hits, all right, have Platt's target 251 / 252, and the others 1 / 252: 0 and 1 are 251 / 252 away.
    assert found.error == pytest.approx(251 / 252)


def test_scores_that_say_nothing_have_one_confidence():
    """The share of the right ones, (yes + 1) / (all + 2), also where better scores are more often wrong."""
    rng = np.random.default_rng(0)
    same = [Answer(np.full(2, 0.3), np.array([True, False])) for _ in range(40)]
    assert fit(same).confidence([0.1, 0.3]).tolist() == pytest.approx([0.5, 0.5])
    wrong = [Answer(x := rng.normal(size=4), x < -0.5) for _ in range(100)]
    found, yes = fit(wrong), sum(a.right.sum() for a in wrong)
    assert found.slope == 0
    np.testing.assert_allclose(found.confidence([-5.0, 5.0]), (yes + 1) / 402)


def test_more_confidence_never_stands_behind_less():
    found = fit(answers(60, 1.0, 0.0))
    confidences = found.confidence(np.linspace(-50, 50, 101))
    assert (np.diff(confidences) >= 0).all() and 0 <= confidences[0] and confidences[-1] <= 1


def test_separable_scores_stay_finite():
    """Without Platt's targets the slope would grow without end."""
    made = [Answer(np.array([2.0, 1.0]), np.array([True, False])) for _ in range(40)]
    found = fit(made)
    # The two targets are reached: 41 / 42 and 1 / 42, logits +-log 41.
    assert found.slope == pytest.approx(2 * math.log(41), rel=1e-4)
    assert found.confidence(1.5) == pytest.approx(0.5, abs=1e-6)


def test_few_queries_are_refused():
    with pytest.raises(UserError, match="at least 30 sentences whose moments are known, and there are 29"):
        fit([*answers(29, 1.0, 0.0), Answer(np.zeros(0), np.zeros(0, bool))])


def test_no_confident_match():
    assert no_match([]) == no_match([None, None]) == no_match([0.2, CONFIDENT]) == ""
    assert no_match([0.124, 0.03]) == (
        "No confident match: the most likely moment is right with a probability of 12%, below 50%."
    )
    assert no_match([0.6, 0.1], threshold=0.9).endswith("of 60%, below 90%.")


def test_it_is_kept(tmp_path):
    found = fit(answers(50, 1.0, 0.0))
    write_calibration(tmp_path / "calibration" / "a.json", found)
    assert read_calibration(tmp_path / "calibration" / "a.json") == found
    assert found.bins and all(isinstance(b, Bin) for b in found.bins)
    assert read_calibration(tmp_path / "b.json") is None
    unlike = ({"slope": 1, "bins": [[1, 2]]}, {"slope": "x", "bins": []})
    for damaged in ("{", "[]", *map(json.dumps, unlike)):
        (tmp_path / "b.json").write_text(damaged)
        assert read_calibration(tmp_path / "b.json") is None
    assert isinstance(found, Calibration)
