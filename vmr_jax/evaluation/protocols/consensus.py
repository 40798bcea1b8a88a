"""'consensus': the ranks of 21 segments for several annotators, as DiDeMo and TEMPO count them."""

from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation.metrics import Groups
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols.base import (
    Collected,
    Predictions,
    Protocol,
    annotated_windows,
    nearest_iou,
    type_weights,
    types_of,
)
from vmr_jax.input.dataset import Split
from vmr_jax.input.schema import CHUNK_SECONDS, CHUNKS
from vmr_jax.models.base import GroundingModel

_TOLERANCE = 0.01  # seconds by which a time may miss the grid of chunks: files are rounded
_CHUNK = np.stack(np.triu_indices(CHUNKS), axis=1)  # [21,2] first and last chunk of the segments
_SECONDS = CHUNK_SECONDS * (_CHUNK + [0, 1])  # [21,2]


class Consensus(Protocol):
    """Rank@n and mIoU of the three annotators who agree best (Hendricks et al., ICCV 2017 and EMNLP 2018).

    Where queries have types (TEMPO), every type counts alike in the metrics, and a segment that a file does not
    rank has rank 21; without types (DiDeMo) a file must rank every segment that an annotator chose.

    A model's moments that are no segments become the segment of highest IoU, each segment at its best place;
    those that no moment becomes follow in the order of time.

    Args:
      options: `config.evaluation`: top_n, keep, nms_threshold and nms_margin, the last three such that nothing
        is suppressed.
    """

    name = "consensus"
    counted_with = ("top_n", "keep")
    prior_grid = CHUNKS

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Also asks for annotated segments, and for options that leave all segments ranked."""
        super().prepare(model, split)
        options = self.options
        if options.keep < metrics.SEGMENTS or options.nms_threshold < 1 or options.nms_margin:
            raise UserError(
                f"The protocol consensus ranks all {metrics.SEGMENTS} segments, and config.evaluation has keep="
                f"{options.keep}, nms_threshold={options.nms_threshold:g}, nms_margin={options.nms_margin:g}. "
                f"Set keep={metrics.SEGMENTS}, nms_threshold=1.0 and nms_margin=0.0."
            )
        _annotated(split)
        types_of(split)

    def metric_names(self) -> list[str]:
        """As `counted` gives them."""
        return [*(f"Rank@{n}" for n in self.options.top_n), "mIoU"]

    def of_file(self, split: Split, found: PredictionFile) -> Collected:
        """The ranked segments as they are; UserError for a moment that is none."""
        collected = super().of_file(split, found)
        given = np.isfinite(collected["scores"][:, 0])
        ranking = _chunks(collected["spans"][:, 0], given, split, f"{found.path}: ")
        annotated = _annotated(split)
        ranked = (annotated[:, :, None] == ranking[:, None]).all(axis=-1).any(axis=-1) | (annotated[..., 0] < 0)
        if not types_of(split) and not ranked.all():
            queries = [split.queries[i].qid for i in np.flatnonzero(~ranked.all(axis=1))]
            raise UserError(
                f"{found.path}: for {len(queries)} of {len(split.queries)} queries, such as {queries[0]}, a "
                "segment that an annotator chose is not ranked. DiDeMo's ranks need all "
                f"{metrics.SEGMENTS} segments of every query (config.evaluation.keep=21 without NMS)."
            )
        return collected

    def as_written(self, split: Split, collected: Collected) -> Collected:
        """All 21 segments of every query, best first."""
        spans, scores = collected["spans"][:, 0], collected["scores"][:, 0]
        overlap = metrics.iou(spans[:, :, None], _SECONDS[None, None])  # [Q,K,21]
        nearest = np.where(np.isfinite(scores), overlap.argmax(axis=-1), -1)  # [Q,K]
        is_segment = nearest[:, None] == np.arange(metrics.SEGMENTS)[None, :, None]  # [Q,21,K]
        chosen, count = is_segment.any(axis=-1), scores.shape[1]
        place = np.where(chosen, is_segment.argmax(axis=-1), count)  # [Q,21]
        order = np.argsort(place, axis=1, kind="stable")
        lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=1)
        lowest = np.where(np.isfinite(lowest), lowest, 0.0)[:, None]
        own = np.take_along_axis(scores, np.minimum(place, count - 1), axis=1)
        written = np.where(chosen, own, lowest)
        return self.ranked(_SECONDS[order], np.take_along_axis(written, order, axis=1))

    def counted(self, split: Split, collected: Collected) -> Predictions:
        """The values of the consensus; the mean over types where queries have types."""
        spans, scores = collected["spans"][:, 0], collected["scores"][:, 0]
        ranking = _chunks(spans, np.isfinite(scores), split)
        values = metrics.segment_values(ranking, _annotated(split), tuple(self.options.top_n))
        ious = nearest_iou(spans, scores, annotated_windows(split))
        return Predictions(spans, scores, ious, values, weights=type_weights(types_of(split)))

    def groups(self, split: Split, found: Predictions) -> Groups:
        """All queries, or the mean over types and every type."""
        types = types_of(split)
        return metrics.mean_over_types(found.values, types) if types else {"all": found.metrics()}

    def rule(self) -> str:
        """When a segment counts."""
        return "the three best-agreeing annotators count; a segment that is not ranked has rank 21"

    def stamp(self) -> dict[str, Any]:
        """As of every protocol; no IoU is asked for."""
        return {**super().stamp(), "strict": False, "comparison": self.rule()}


def _annotated(split: Split) -> np.ndarray:
    """[Q,A,2] first and last chunk of the annotated segments, -1 past the last."""
    windows = annotated_windows(split)
    return _chunks(windows, windows[..., 1] > 0, split, f"The annotations of {split.name}: ")


def _chunks(spans: np.ndarray, given: np.ndarray, split: Split, where: str = "") -> np.ndarray:
    """[Q,K,2] first and last chunk of spans in seconds; -1 where not `given`. UserError for another span."""
    edges = np.rint(spans / CHUNK_SECONDS).astype(int)
    wrong = (np.abs(spans - edges * CHUNK_SECONDS) > _TOLERANCE).any(axis=-1)
    wrong |= (edges[..., 0] < 0) | (edges[..., 0] >= edges[..., 1]) | (edges[..., 1] > CHUNKS)
    if (wrong & given).any():
        i, k = np.argwhere(wrong & given)[0]
        raise UserError(
            f"{where}query {split.queries[i].qid} has the moment {spans[i, k, 0]:g} to {spans[i, k, 1]:g} s, "
            f"which is none of the {metrics.SEGMENTS} segments, runs of the {CHUNKS} chunks of "
            f"{CHUNK_SECONDS:g} s, that the protocol consensus ranks."
        )
    return np.where(given[..., None], edges - [0, 1], -1)
