"""Metrics of moment retrieval, on the host in float64. Sums and counts; nothing is divided twice.

Definitions: Gao et al. 2017 (R@n,IoU=m), 2D-TAN and the rest of the field (mIoU). Spans are seconds.
"""

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal IoU of spans [...,2] with [...,2] (leading axes broadcast), 0 for an empty union."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    intersection = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    intersection = np.maximum(intersection, 0.0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def ranked_iou(spans: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU [Q,K] of ranked moments [Q,K,2] with the annotated span [Q,2]; 0 where score is -inf."""
    return np.where(np.isfinite(scores), iou(spans, truth[:, None, :]), 0.0)


def hit(ious: np.ndarray, threshold: float, strict: bool) -> np.ndarray:
    """Which IoUs reach the threshold: > where strict (2D-TAN, DRN), >= otherwise (most others)."""
    return ious > threshold if strict else ious >= threshold


def retrieval_metrics(
    ious: np.ndarray, top_n: tuple[int, ...], thresholds: tuple[float, ...], strict: bool
) -> dict[str, float]:
    """R@n,IoU=m and mIoU in percent.

    Args:
      ious: [Q,K] IoU of the moments of each query, best-scored first. A query with fewer than n moments
        simply has fewer chances.
      top_n: the n of R@n.
      thresholds: the m of IoU=m.
      strict: whether a hit needs IoU > m instead of IoU >= m.
    """
    metrics = {}
    for n in top_n:
        best = ious[:, :n].max(axis=1, initial=0.0)
        for m in thresholds:
            metrics[recall_name(n, m)] = 100.0 * _mean(hit(best, m, strict))
    metrics["mIoU"] = 100.0 * _mean(ious[:, 0])
    return metrics


def recall_name(n: int, threshold: float) -> str:
    """The canonical name, 'R@1,IoU=0.5'."""
    return f"R@{n},IoU={threshold:g}"


def _mean(values: np.ndarray) -> float:
    return float(values.sum() / values.size) if values.size else float("nan")
