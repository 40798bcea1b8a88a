"""'highlights': several moments of a video, and the saliency of its clips, as QVHighlights counts them."""

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.metrics import Groups
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols.base import Collected, Predictions, annotated_windows, milliseconds
from vmr_jax.evaluation.protocols.moment_retrieval import MomentRetrieval
from vmr_jax.input import schema
from vmr_jax.input.dataset import Split
from vmr_jax.models.base import GroundingModel
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

_LEVEL = "VeryGood"  # of the highlights that a run reports
_DETECTION = ("mAP", "mAP,IoU=0.5", "mAP,IoU=0.75")  # that a run reports
SALIENCY = "pred_saliency_scores"  # of a line of predictions.jsonl, and of what `counted` takes


class Highlights(MomentRetrieval):
    """Several moments of a video, and the saliency of its clips (Lei et al., NeurIPS 2021).

    To the metrics of moment retrieval come 'mAP' (the mean over ten IoUs), 'mAP,IoU=0.5', 'mAP,IoU=0.75',
    'HL-mAP,VeryGood' and 'HL-Hit@1,VeryGood'; `groups` has all of the official figures.
    """

    name = "highlights"
    counted_with = ("top_n", "thresholds", "keep", "discounted")

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Also asks for the architecture's saliency and the split's annotation of it."""
        super().prepare(model, split)
        if type(model).saliency is GroundingModel.saliency:
            raise UserError(
                f"{type(model).__module__} gives clips no saliency; set config.evaluation.protocol="
                "'moment_retrieval'."
            )
        if any(query.saliency is None for query in split.queries):
            raise UserError(
                f"The split {split.name} has no annotated saliency, which the protocol highlights needs. Set "
                "config.evaluation.protocol='moment_retrieval'."
            )
        if self.options.strict:
            raise UserError(
                "config.evaluation.strict is True, and the protocol highlights counts IoU >= m. Set it to "
                "False."
            )

    def metric_names(self) -> list[str]:
        """As `counted` gives them."""
        return [*super().metric_names(), *_DETECTION, f"HL-mAP,{_LEVEL}", f"HL-Hit@1,{_LEVEL}"]

    def score_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Also the saliency [B,T] and the number of clips [B]."""
        outputs = model.apply(variables, batch, train=False)
        return {
            **self.kept(model.predict(outputs, batch)),
            "saliency": model.saliency(outputs, batch),
            "clips": batch.video_mask.sum(1),
        }

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> Collected:
        """Saliency is random."""
        clips = _annotated_clips(split)
        saliency = rng.random((len(split.queries), clips.max()), np.float32)
        return {**super().trivial(spans, split, rng), "saliency": saliency, "clips": clips}

    def of_file(self, split: Split, found: PredictionFile) -> Collected:
        """Also the saliency of the clips, where the file has it for all queries."""
        collected = super().of_file(split, found)
        rows = files.of_task(found, split, "SVMR")
        without = [p.qid for p in rows if p.saliency is None]
        if len(without) == len(rows):
            log.info("%s: no %s, so no highlight metrics", found.path, SALIENCY)
            return collected
        if without:
            raise UserError(
                f"{found.path}: {len(without)} of {len(rows)} queries have no {SALIENCY}, such as "
                f"{without[0]}. Give them for every query or for none."
            )
        if any(q.saliency is None for q in split.queries):
            raise UserError(
                f"The split {split.name} has no annotated saliency, which the protocol highlights needs."
            )
        return {**collected, SALIENCY: [np.asarray(p.saliency).tolist() for p in rows]}

    def as_written(self, split: Split, collected: Collected) -> Collected:
        """Saliency is read at the centre of each annotated clip, as the shortest decimals of its float32."""
        clips, rows = _annotated_clips(split), []
        saliency = np.asarray(collected["saliency"], np.float32)
        for i, count in enumerate(clips):
            centres = (np.arange(count) + 0.5) * schema.SALIENCY_SECONDS / split.durations[i]
            read = np.minimum(centres * collected["clips"][i], collected["clips"][i] - 1).astype(int)
            rows.append(saliency[i, read].astype(str).astype(np.float64).tolist())
        return {**super().as_written(split, collected), SALIENCY: rows}

    def counted(self, split: Split, collected: Collected) -> Predictions:
        """Also the average precision of the moments, and the highlights where there is saliency."""
        found = super().counted(split, collected)
        values = metrics.detection_values(found.spans, found.scores, annotated_windows(split))
        found.values |= {name: values[name] for name in _DETECTION}
        if SALIENCY in collected:
            found.extra[SALIENCY] = collected[SALIENCY]
            highlights = metrics.highlight_values(*_of_clips(split, collected[SALIENCY]))[_LEVEL]
            found.values |= {f"{name},{_LEVEL}": column for name, column in highlights.items()}
        return found

    def groups(self, split: Split, found: Predictions) -> Groups:
        """The official figures: moments by their length, highlights by how salient they must be.

        'full' has the metrics of moment retrieval too.
        """
        groups = metrics.detection_metrics(found.spans, found.scores, annotated_windows(split))
        retrieval = {name: v for name, v in found.metrics().items() if not name.startswith(("mAP", "HL-"))}
        groups["full"] = {**retrieval, **groups["full"]}
        if SALIENCY in found.extra:
            groups |= metrics.highlight_metrics(*_of_clips(split, found.extra[SALIENCY]))
        return groups

    def rule(self) -> str:
        """When a moment counts."""
        return "a hit is IoU >= m; mAP of the first 10 moments, VOC 2011 interpolation"


def _annotated_clips(split: Split) -> np.ndarray:
    """[Q] int, clips of 2 s in each query's video."""
    return (milliseconds(split.durations) / schema.SALIENCY_SECONDS).astype(int)


def _of_clips(split: Split, scores: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted [Q,T] and annotated [Q,T,Z] saliency and the number of clips [Q], for `metrics`."""
    predicted = np.full((len(scores), max(map(len, scores))), -np.inf)
    for row, of_query in zip(predicted, scores):
        row[: len(of_query)] = of_query
    return predicted, np.stack([np.asarray(query.saliency) for query in split.queries]), _annotated_clips(split)
