"""'moment_retrieval': moments in a given video, R@n,IoU=m and mIoU."""

from typing import Any, ClassVar

import numpy as np

from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols.base import (
    Collected,
    Predictions,
    Protocol,
    annotated_windows,
    milliseconds,
    nearest_iou,
)
from vmr_jax.input.dataset import Split

_AT = "pred_relevant_windows_at"  # of predictions.jsonl, where NMS depends on m


class MomentRetrieval(Protocol):
    """Moments in a given video: R@n,IoU=m and mIoU; dR@n,IoU=m too, where `discounted` asks for it.

    Of several annotated moments the nearest counts, for dR the one to learn.

    Args:
      options: `config.evaluation`: top_n, thresholds, strict, nms_threshold, nms_margin, keep, discounted.
    """

    name: ClassVar[str] = "moment_retrieval"
    counted_with: ClassVar[tuple[str, ...]] = ("top_n", "thresholds", "strict", "keep", "discounted")

    def metric_names(self) -> list[str]:
        """As `counted` gives them."""
        names = list(self.per_query(np.zeros((1, 1))))
        recalls = [name for name in names if name.startswith("R@")]
        return names + [f"d{name}" for name in recalls if self.options.discounted]

    def of_file(self, split: Split, found: PredictionFile) -> Collected:
        """The moments as they are; where the file of a run has others for each m, those too."""
        collected = super().of_file(split, found)
        names = [f"{m:g}" for m in self.options.thresholds]
        rows = files.of_task(found, split, "SVMR")
        if not self.options.nms_margin or not all(set(names) <= set(p.windows_at) for p in rows):
            return collected
        each = [files.stacked([p.windows_at[name] for p in rows], self.options.keep) for name in names]
        depth = max(scores.shape[1] for _, scores in each)
        spans, scores = zip(*(files.padded(*pair, depth) for pair in each))
        return {**collected, "spans": np.stack(spans, axis=1), "scores": np.stack(scores, axis=1)}

    def counted(self, split: Split, collected: Collected) -> Predictions:
        """The IoUs with the nearest of the annotated moments; each m has the moments of its own NMS."""
        spans, scores, windows = collected["spans"], collected["scores"], annotated_windows(split)
        ious = [nearest_iou(spans[:, p], scores[:, p], windows) for p in range(spans.shape[1])]
        values = self.per_query(ious[0])
        for m, of_m in zip(self.options.thresholds, ious if len(ious) > 1 else ()):
            values.update({name: v for name, v in self.per_query(of_m).items() if name.endswith(f"IoU={m:g}")})
        if self.options.discounted:
            truth, durations = milliseconds(split.spans), milliseconds(split.durations)
            values |= metrics.discounted_values(spans[:, 0], ious[0], truth, durations, *self._counted())
        found = Predictions(spans[:, 0], scores[:, 0], ious[0], values)
        if len(ious) > 1:
            found.extra[_AT] = [self._at(*moments) for moments in zip(spans, scores)]
        return found

    def per_query(self, ious: np.ndarray) -> dict[str, np.ndarray]:
        """Per-query values [Q] of each metric: a hit as 0 or 1, or the IoU, of IoUs [Q,K]."""
        return metrics.retrieval_values(ious, *self._counted())

    def rule(self) -> str:
        """When a moment counts."""
        return f"a hit is IoU {'>' if self.options.strict else '>='} m; mIoU of the first moment"

    def _counted(self) -> tuple[tuple[int, ...], tuple[float, ...], bool]:
        return tuple(self.options.top_n), tuple(self.options.thresholds), bool(self.options.strict)

    def _at(self, spans: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """The moments [P,K,2], [P,K] of one query, by m."""
        return {f"{m:g}": files.windows_of(spans[p], scores[p]) for p, m in enumerate(self.options.thresholds)}
