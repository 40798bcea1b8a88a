"""The part that all protocols share: from moments of any source to predictions and per-query values.

Moments are counted alike whether they come from a model, from a trivial predictor or from a file:

    a model     score_batch, on the devices --> as_written --+
    a predictor trivial ----------------------> as_written --+--> counted --> Predictions
    a file      of_file -------------------------------------+

`as_written` makes of moments what predictions.jsonl holds of them, so a run and its file give the same numbers.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.metrics import Groups
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.input.dataset import Split
from vmr_jax.models.base import GroundingModel
from vmr_jax.types import Batch, Moments

Collected = dict[str, Any]  # name -> array [Q,...]: 'spans', 'scores' and what the protocol needs besides


@dataclasses.dataclass
class Predictions:
    """Ranked moments of every query of a split in its own video, after NMS, and what they count for.

    Attributes:
      spans: [Q,K,2] float64 seconds.
      scores: [Q,K] float32, -inf past the last moment.
      ious: [Q,K] float64 with the nearest annotated moment, 0 past the last moment.
      values: metric -> [Q], of which it is the mean.
      extra: further keys of a query's line in predictions.jsonl -> one value per query.
      weights: [Q] of the queries in these means; None where all count alike.
    """

    spans: np.ndarray
    scores: np.ndarray
    ious: np.ndarray
    values: dict[str, np.ndarray]
    extra: dict[str, list] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None

    def metrics(self) -> dict[str, float]:
        """The metrics in percent."""
        return means(self.values, weights=self.weights)


class Protocol:
    """A way to evaluate, one in each file of this folder; `config.evaluation.protocol` gives its `name`.

    Args:
      options: `config.evaluation`.

    Attributes:
      name: of the protocol.
      counted_with: the options that change what is counted of given moments.
      prior_grid: cells along each side of the map in which the best span of the training prior is looked for.
    """

    name: ClassVar[str]
    counted_with: ClassVar[tuple[str, ...]]
    prior_grid: ClassVar[int] = 16

    def __init__(self, options: Any):
        self.options = options

    # What is refused, and what there is to select by.

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Raises UserError where the architecture or the split cannot serve this protocol."""
        if type(model).predict is GroundingModel.predict:
            raise UserError(f"{type(model).__module__} predicts no moments; choose another protocol.")
        if not len(split.queries):
            raise UserError(f"The split {split.name} holds no query to evaluate on.")
        split.require_moments()

    def metric_names(self) -> list[str]:
        """The metrics by which a checkpoint can be selected."""
        raise NotImplementedError

    # Where moments come from.

    def score_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Runs on the devices: spans [B,P,K,2] and scores [B,P,K] after NMS at each of P IoUs."""
        outputs = model.apply(variables, batch, train=False)
        return self.kept(model.predict(outputs, batch))

    def kept(self, ranked: Moments) -> dict[str, jax.Array]:
        """The first `keep` moments after NMS, as `score_batch` gives them."""
        ranked.check()
        kept = [moments_lib.nms(ranked, at, k=self.options.keep) for at in self.nms_thresholds()]
        return {
            "spans": jnp.stack([moments.spans for moments in kept], axis=1),
            "scores": jnp.stack([moments.scores for moments in kept], axis=1),
        }

    def nms_thresholds(self) -> tuple[float, ...]:
        """The IoU of NMS; with `nms_margin` one for each m (CTRL suppresses above m - 0.05)."""
        if not self.options.nms_margin:
            return (self.options.nms_threshold,)
        return tuple(m - self.options.nms_margin for m in self.options.thresholds)

    def ranked(self, spans: np.ndarray, scores: np.ndarray) -> Collected:
        """Returns what `score_batch` would collect of moments [Q,K,2], [Q,K], best first, without NMS."""
        return {"spans": spans[:, None], "scores": scores[:, None]}

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> Collected:
        """Returns what `finish` takes of a predictor of `spans` [Q,K,2] that sees neither video nor query."""
        del split, rng
        return self.ranked(spans, np.zeros(spans.shape[:2], np.float32))

    def of_file(self, split: Split, found: PredictionFile) -> Collected:
        """Returns what `counted` takes of any program's file: its moments as they are, `keep` of a query.

        Raises:
          UserError: where the file lacks a query, or what this protocol needs.
        """
        rows = files.in_own_video(found, split)
        return self.ranked(*files.stacked(rows, self.options.keep))

    # What is counted.

    def finish(self, split: Split, collected: Collected) -> Predictions:
        """Counts what a model or a trivial predictor has given for all queries of the split."""
        return self.counted(split, self.as_written(split, collected))

    def read(self, split: Split, found: PredictionFile) -> Predictions:
        """Counts a prediction file; UserError where it does not fit the split or the protocol."""
        return self.counted(split, self.of_file(split, found))

    def as_written(self, split: Split, collected: Collected) -> Collected:
        """Cuts times to the video and to milliseconds, as predictions.jsonl holds them."""
        spans = milliseconds(np.clip(collected["spans"], 0.0, split.durations[:, None, None, None]))
        return {**collected, "spans": spans}

    def counted(self, split: Split, collected: Collected) -> Predictions:
        """The per-query values of moments as a file holds them."""
        raise NotImplementedError

    def groups(self, split: Split, found: Predictions) -> Groups:
        """The metrics in percent of all queries, then of the subsets that are usual for this protocol."""
        del split
        return {"all": found.metrics()}

    # What is said beside the numbers.

    def rule(self) -> str:
        """When a moment counts, as one phrase."""
        raise NotImplementedError

    def stamp(self) -> dict[str, Any]:
        """Returns all that must be printed beside the numbers for them to mean something."""
        margin = self.options.nms_margin
        return {
            "name": self.name,
            "strict": bool(self.options.strict),
            "comparison": "IoU > m" if self.options.strict else "IoU >= m",
            "nms_threshold": f"m - {margin:g}" if margin else float(self.options.nms_threshold),
            "kept": int(self.options.keep),
        }


# --- annotated moments ----------------------------------------------------------------------------


def milliseconds(seconds: np.ndarray) -> np.ndarray:
    """Seconds as float64, rounded to milliseconds."""
    return np.round(np.asarray(seconds, np.float64), 3)


def annotated_windows(split: Split) -> np.ndarray:
    """[Q,A,2] float64 seconds, in milliseconds: all annotated moments of each query; [0,0] fills."""
    windows = [query.windows or [query.span] for query in split.queries]
    filled = np.zeros((len(windows), max(map(len, windows), default=1), 2))
    for row, moments in zip(filled, windows):
        row[: len(moments)] = moments
    return milliseconds(filled)


def nearest_iou(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """IoU [Q,K] of ranked moments [Q,K,2] with the nearest of the annotated [Q,A,2]; 0 where score is -inf.

    One annotated moment is the rule of the field; of several, QVHighlights takes the one with the highest IoU.
    """
    each = [metrics.ranked_iou(spans, scores, windows[:, a]) for a in range(windows.shape[1])]
    return np.max(each, axis=0)


def types_of(split: Split) -> list[str]:
    """The type of each query, its first tag; none where no query has a tag.

    Raises:
      UserError: where some queries have a type and others none.
    """
    untyped = [query.qid for query in split.queries if not query.tags]
    if len(untyped) == len(split.queries):
        return []
    if untyped:
        raise UserError(
            f"{len(untyped)} of {len(split.queries)} queries of {split.name} have no type, such as "
            f"{untyped[0]}. Give every query a type, or none."
        )
    return [query.tags[0] for query in split.queries]


# --- means ----------------------------------------------------------------------------------------


def means(
    values: Mapping[str, np.ndarray],
    rows: np.ndarray | slice = slice(None),
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """The metrics in percent of the queries at `rows`, of values [Q] and, where given, weights [Q]."""
    if weights is None:
        return {name: 100.0 * float(np.mean(column[rows])) for name, column in values.items()}
    return {name: 100.0 * _weighted_mean(column[rows], weights[rows]) for name, column in values.items()}


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float((values * weights).sum() / weights.sum())


def type_weights(types: Sequence[str]) -> np.ndarray | None:
    """[Q] weights that give every type the same share; None where there are no types."""
    if not types:
        return None
    _, members, counts = np.unique(np.asarray(types), return_inverse=True, return_counts=True)
    return 1.0 / counts[members]
