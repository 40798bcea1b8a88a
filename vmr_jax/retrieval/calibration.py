"""Confidence: a score that a person can read, fitted to queries whose moments are known.

A hit is right where its video is the annotated one and the IoU with an annotated moment is at least 0.5. The
probability of that is a sigmoid of the score (Platt, "Probabilistic outputs for support vector machines", 1999;
the targets are smoothed as there, the fit is Newton's), so more confidence never stands behind less. It holds
for the search that it was fitted to: the same moments, in the same videos.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.files import read_json, write_json

LEAST = 30  # queries; fewer say little
IOU = 0.5  # with an annotated moment, from which on a hit is right
CONFIDENT = 0.5  # confidence below which the best hit is no match: it is more likely wrong than right
_EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the bins that are shown
_STEPS = 100  # of Newton's method at most


class _Hit(Protocol):
    """A moment that was found in a video; `vmr_jax.retrieval.index.Found` is one."""

    @property
    def video(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def score(self) -> float: ...


class Answer(NamedTuple):
    """The hits of one query, and which of them are right.

    Attributes:
      scores: of the hits.
      right: as many bool.
    """

    scores: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, hits: Sequence[_Hit], video: str, windows: Sequence[tuple[float, float]]) -> "Answer":
        """Compares hits with the annotated moments, (start, end) in seconds of the annotated video."""
        annotated = np.asarray(windows, np.float64).reshape(-1, 2)
        right = [
            hit.video == video and metrics.iou(np.array([hit.start, hit.end]), annotated).max() >= IOU - 1e-6
            for hit in hits
        ]
        return cls(np.array([hit.score for hit in hits], np.float64), np.array(right, bool))


class Bin(NamedTuple):
    """Hits of about the same confidence.

    Attributes:
      hits: their number.
      said: their mean confidence.
      was: the share of them that is right.
    """

    hits: int
    said: float
    was: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The sigmoid, and how well it does on queries that it was not fitted to.

    Attributes:
      slope: by which a score is multiplied.
      intercept: which is added.
      queries: number of queries that it was fitted to.
      error: mean distance of `said` and `was`, weighted by hits, in [0,1]: the expected calibration error. Each
        half of the queries is judged by a fit to the other half.
      bins: the same hits by confidence, rising.
    """

    slope: float
    intercept: float
    queries: int
    error: float
    bins: tuple[Bin, ...]

    def confidence(self, scores: Any) -> np.ndarray:
        """Probabilities of the shape of the scores."""
        return _sigmoid(self.slope * np.asarray(scores, np.float64) + self.intercept)

    def judged(self, answers: Sequence[Answer]) -> tuple[float, tuple[Bin, ...]]:
        """The error, and the bins, on the hits of other queries, at least one."""
        scores, right = _joined([answer for answer in answers if len(answer.scores)])
        return _judged(self.confidence(scores), right)

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"Confidence is fitted to {self.queries:,} sentences whose moments are known (IoU >= {IOU}); on "
            f"those that it was not fitted to it is {100 * self.error:.1f} points off on average."
        )


def fit(answers: Sequence[Answer]) -> Calibration:
    """Fits the confidence to the hits of queries.

    Args:
      answers: one for each query, in an order that says nothing.

    Raises:
      UserError: for fewer than `LEAST` queries with a hit.
    """
    answers = [answer for answer in answers if len(answer.scores)]
    if len(answers) < LEAST:
        raise UserError(
            f"Confidence is fitted to at least {LEAST} sentences whose moments are known, and there are "
            f"{len(answers)}. Annotate more, or read rank and lead instead."
        )
    halves = answers[::2], answers[1::2]
    judged = [
        (_sigmoid(slope * scores + intercept), right)
        for (slope, intercept), (scores, right) in zip(map(_platt, halves), map(_joined, halves[::-1]))
    ]
    error, bins = _judged(*(np.concatenate(parts) for parts in zip(*judged)))
    return Calibration(*_platt(answers), len(answers), error, bins)


def no_match(confidences: Sequence[float | None], threshold: float = CONFIDENT) -> str:
    """A sentence where not even the best hit is likely to be right; '' where one is, or nothing is calibrated.

    Args:
      confidences: of the hits.
      threshold: confidence from which on a hit is a match.
    """
    known = [confidence for confidence in confidences if confidence is not None]
    if not known or max(known) >= threshold:
        return ""
    return (
        f"No confident match: the most likely moment is right with a probability of {max(known):.0%}, below "
        f"{threshold:.0%}."
    )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes it as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(calibration))


def read_calibration(path: Path) -> Calibration | None:
    """Reads what `write_calibration` wrote; None where there is none, or a damaged one, to be fitted again."""
    try:
        found = read_json(path)
        bins = tuple(Bin(int(hits), float(said), float(was)) for hits, said, was in found["bins"])
        slope, intercept, error = (float(found[name]) for name in ("slope", "intercept", "error"))
        return Calibration(slope, intercept, int(found["queries"]), error, bins)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _joined(answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truths of all hits."""
    scores, right = (np.concatenate(parts) for parts in zip(*answers))
    return scores, right


def _platt(answers: Sequence[Answer]) -> tuple[float, float]:
    """Slope, which is not negative, and intercept of the likeliest sigmoid."""
    scores, right = _joined(answers)
    yes, no = right.sum(), (~right).sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    prior = math.log((yes + 1) / (no + 1))
    middle, scale = scores.mean(), scores.std()
    if scale <= 1e-12 * max(1.0, abs(middle)):
        return 0.0, prior  # all scores are one
    x = np.stack([(scores - middle) / scale, np.ones_like(scores)], axis=1)
    weights = np.array([0.0, prior])
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - target)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Halved until the loss falls: far from the optimum Newton's step can be too long.
        while _loss(x @ (weights - step), target) > _loss(x @ weights, target) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] <= 0:
        return 0.0, prior  # better scores are not more often right: they say nothing
    slope = weights[0] / scale
    return float(slope), float(weights[1] - slope * middle)


def _loss(logits: np.ndarray, target: np.ndarray) -> float:
    """Cross-entropy."""
    return float((np.logaddexp(0, logits) - target * logits).sum())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _judged(said: np.ndarray, was: np.ndarray) -> tuple[float, tuple[Bin, ...]]:
    """The expected calibration error, and the bins that have a hit."""
    place = np.clip(np.searchsorted(_EDGES, said, side="right") - 1, 0, len(_EDGES) - 2)
    bins = tuple(
        Bin(int(inside.sum()), float(said[inside].mean()), float(was[inside].mean()))
        for inside in (place == i for i in range(len(_EDGES) - 1))
        if inside.any()
    )
    return sum(b.hits * abs(b.said - b.was) for b in bins) / len(said), bins
