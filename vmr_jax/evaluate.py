"""Evaluation: protocols score a model, exactly over every query, whatever the batch size.

A protocol is what is evaluated, independent of the architecture: `prepare` looks at the splits, `score_batch`
runs inside jit on the devices, `finish` turns what was collected into metrics and predictions. The one
of the spine is moment retrieval in a given video; `config.evaluation.protocol` names it.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vmr_jax
from vmr_jax import metrics
from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError, nearest
from vmr_jax.input import Loader, Split
from vmr_jax.models.base import GroundingModel
from vmr_jax.parallel import Parallel
from vmr_jax.types import Batch, Moments
from vmr_jax.writer import disk_error, write_json

log = logging.getLogger("vmr_jax")

PRIOR_GRID = 16  # cells per side for the best single span of the training prior


@dataclasses.dataclass
class Predictions:
    """Ranked moments of every query of a split, after NMS."""

    spans: np.ndarray  # [Q,K,2] float32 seconds
    scores: np.ndarray  # [Q,K] float32, -inf past the last moment
    ious: np.ndarray  # [Q,K] float64, 0 past the last moment


class MomentRetrieval:
    """Moments in a given video: R@n,IoU=m and mIoU.

    Args:
      options: `config.evaluation`: top_n, thresholds, strict, nms_threshold, keep.
    """

    name = "moment_retrieval"

    def __init__(self, options):
        self.options = options

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Raises UserError where the architecture or the split cannot serve this protocol."""
        if type(model).predict is GroundingModel.predict:
            raise UserError(f"{type(model).__module__} predicts no moments; choose another protocol.")
        if not len(split.queries):
            raise UserError(f"The split {split.name} holds no query to evaluate on.")

    def score_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Runs on the devices: spans [B,K,2] and scores [B,K] after NMS."""
        outputs = model.apply(variables, batch, train=False)
        ranked = model.predict(outputs, batch)
        ranked.check()
        kept = moments_lib.nms(ranked, self.options.nms_threshold, k=self.options.keep)
        return {"spans": kept.spans, "scores": kept.scores}

    def finish(self, split: Split, collected: dict[str, np.ndarray]) -> Predictions:
        """Adds the IoUs. Times are clamped to the video, as every demo of the field needs them."""
        spans = np.clip(collected["spans"], 0.0, split.durations[:, None, None])
        ious = metrics.ranked_iou(spans, collected["scores"], split.spans)
        return Predictions(spans, collected["scores"], ious)

    def metrics(self, ious: np.ndarray) -> dict[str, float]:
        """The protocol's metrics, in percent, of IoUs [Q,K] in rank order."""
        options = self.options
        return metrics.retrieval_metrics(ious, tuple(options.top_n), tuple(options.thresholds), options.strict)

    def stamp(self) -> dict[str, Any]:
        """What must be printed beside the numbers for them to mean something."""
        return {
            "name": self.name,
            "strict": bool(self.options.strict),
            "comparison": "IoU > m" if self.options.strict else "IoU >= m",
            "nms_threshold": float(self.options.nms_threshold),
            "kept": int(self.options.keep),
        }


PROTOCOLS = {protocol.name: protocol for protocol in (MomentRetrieval,)}


def make_protocol(options) -> MomentRetrieval:
    """Builds the protocol that `config.evaluation.protocol` names."""
    if options.protocol not in PROTOCOLS:
        raise UserError(
            f'config.evaluation.protocol is "{options.protocol}".{nearest(options.protocol, PROTOCOLS)} '
            f"Known: {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[options.protocol](options)


class Evaluator:
    """Scores variables on splits; compiled once, used after every epoch and at the end."""

    def __init__(self, config, model: GroundingModel, parallel: Parallel):
        self.config, self.model, self.parallel = config, model, parallel
        self.protocol = make_protocol(config.evaluation)
        self.batch_size = config.evaluation.batch_size
        parallel.check_batch_size(self.batch_size, "config.evaluation.batch_size")
        self._score = parallel.map_examples(
            lambda variables, batch: self.protocol.score_batch(model, variables, batch)
        )
        self._explain = parallel.map_examples(
            lambda variables, batch: model.explain(model.apply(variables, batch, train=False), batch)
        )

    def score(self, variables: Any, batch: Batch) -> dict[str, np.ndarray]:
        """What the protocol collects of one host batch, B rows."""
        return self._score(variables, self.parallel.put_batch(batch))

    def run(self, variables: Any, loader: Loader) -> Predictions:
        """Predicts for every query of the loader's split exactly once."""
        self.protocol.prepare(self.model, loader.split)
        collected: dict[str, list[np.ndarray]] = {}
        for batch in loader.evaluation_batches(self.batch_size):
            for name, rows in self.score(variables, batch).items():
                collected.setdefault(name, []).append(rows)
        merged = {name: np.concatenate(rows)[: len(loader)] for name, rows in collected.items()}
        return self.protocol.finish(loader.split, merged)

    def metrics(self, variables: Any, loader: Loader) -> dict[str, float]:
        """The protocol's metrics in percent on the loader's split."""
        return self.protocol.metrics(self.run(variables, loader).ious)

    def pictures(self, variables: Any, loader: Loader, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The architecture's pictures ([len(rows),...]) of the queries at `rows`."""
        size = -(-len(rows) // len(self.parallel.devices)) * len(self.parallel.devices)
        filled = np.concatenate([rows, np.full(size - len(rows), -1, rows.dtype)])
        drawn = self._explain(variables, self.parallel.put_batch(loader.batch(filled)))
        return {name: picture[: len(rows)] for name, picture in drawn.items()}


# --- trivial rows ---------------------------------------------------------------------------------


def trivial_rows(protocol: MomentRetrieval, train: Split, split: Split, seed: int) -> dict[str, dict]:
    """Metrics of three predictors that see neither the video nor the query.

    - 'whole video': [0, duration];
    - 'best span of the training prior': the cells of a 16 x 16 map ranked by how many training moments
      they hit at IoU 0.5, then by their mean IoU; after the protocol's NMS;
    - 'random span': spans between two uniform points, drawn from the seed.
    """
    keep = protocol.options.keep
    rows = {
        "whole video": np.asarray([[0.0, 1.0]], np.float32)[None].repeat(len(split.queries), 0),
        "best span of the training prior": _prior_spans(protocol, train)[None].repeat(len(split.queries), 0),
        "random span": np.sort(
            np.random.default_rng(seed).random((len(split.queries), keep, 2), np.float32), axis=-1
        ),
    }
    durations = split.durations[:, None, None]
    return {
        name: protocol.metrics(metrics.ranked_iou(spans * durations, np.zeros(spans.shape[:2]), split.spans))
        for name, spans in rows.items()
    }


def _prior_spans(protocol: MomentRetrieval, train: Split) -> np.ndarray:
    """[K,2] spans as fractions of the video, best first."""
    starts, ends = np.triu_indices(PRIOR_GRID)
    cells = np.stack([starts, ends + 1], axis=1) / PRIOR_GRID  # [N,2]
    truth = train.spans / train.durations[:, None]
    ious = metrics.iou(cells[:, None, :], truth[None, :, :])  # [N,Q]
    quality = (ious >= 0.5).mean(1) + 1e-3 * ious.mean(1)
    order = np.argsort(-quality, kind="stable")
    ranked = Moments(
        spans=cells[order][None].astype(np.float32), scores=quality[order][None].astype(np.float32)
    )
    kept = moments_lib.nms(ranked, protocol.options.nms_threshold, k=protocol.options.keep)
    spans, scores = np.asarray(kept.spans[0]), np.asarray(kept.scores[0])
    return spans[np.isfinite(scores)]


# --- results --------------------------------------------------------------------------------------

_LENGTHS = ((0, 5), (5, 10), (10, 20), (20, 40), (40, float("inf")))
_WORDS = ((1, 4), (5, 8), (9, 12), (13, 10**6))


def breakdown(protocol: MomentRetrieval, split: Split, ious: np.ndarray) -> dict[str, list[dict]]:
    """Metrics by moment length (s), by position of its centre (thirds), and by query length."""
    spans, durations = split.spans, split.durations
    length = spans[:, 1] - spans[:, 0]
    centre = spans.mean(1) / durations
    words = np.asarray([len(q.text.split()) for q in split.queries])
    by_length = [
        (f"{low}-{high} s" if np.isfinite(high) else f"over {low} s", (length > low) & (length <= high))
        for low, high in _LENGTHS
    ]
    by_position = [
        (name, (centre >= i / 3) & ((centre < (i + 1) / 3) | (i == 2)))
        for i, name in enumerate(("first third", "middle third", "last third"))
    ]
    by_words = [
        (
            f"{low}-{high} words" if high < 10**6 else f"over {low - 1} words",
            (words >= low) & (words <= high),
        )
        for low, high in _WORDS
    ]

    def rows(groups):
        return [
            {"label": label, "count": int(member.sum()), "metrics": protocol.metrics(ious[member])}
            for label, member in groups
            if member.any()
        ]

    return {"by_length": rows(by_length), "by_position": rows(by_position), "by_words": rows(by_words)}


def split_results(config, protocol: MomentRetrieval, train: Split, split: Split, ious: np.ndarray) -> dict:
    """One entry of results.json: ours, the trivial rows, the published ones, the breakdown."""
    rows = [{"name": f"{config.model.name} (this run)", "metrics": protocol.metrics(ious)}]
    trivial = trivial_rows(protocol, train, split, config.seed)
    rows += [{"name": name, "metrics": values} for name, values in trivial.items()]
    rows += [
        {"name": name, "metrics": dict(values)}
        for where, name, values in config.published
        if where == split.name
    ]
    return {
        "count": len(split.queries),
        "rows": rows,
        **breakdown(protocol, split, ious),
    }


def prediction_rows(split: Split, predictions: Predictions) -> list[dict]:
    """Lines of predictions.jsonl: Moment-DETR's keys, plus split, duration, truth and top IoU."""
    rows = []
    for i, query in enumerate(split.queries):
        real = np.isfinite(predictions.scores[i])
        windows = [
            [round(float(s), 3), round(float(e), 3), round(float(p), 6)]
            for (s, e), p in zip(predictions.spans[i][real], predictions.scores[i][real])
        ]
        video = split.videos[split.owner[i]]
        rows.append(
            {
                "split": split.name,
                "qid": query.qid,
                "vid": video.id,
                "query": query.text,
                "duration": round(video.duration, 3),
                "relevant_windows": [[round(float(t), 3) for t in query.span]],
                "pred_relevant_windows": windows,
                "iou": round(float(predictions.ious[i, 0]), 6),
            }
        )
    return rows


def choose_examples(ious: np.ndarray, count: int = 3) -> list[tuple[str, int]]:
    """(kind, row) of the best, median and worst queries by the IoU of the top moment."""
    order = np.argsort(-ious[:, 0], kind="stable")
    middle = max((len(order) - count) // 2, 0)
    chosen, seen = [], set()
    for kind, rows in (
        ("best", order[:count]),
        ("median", order[middle : middle + count]),
        ("worst", order[::-1][:count]),
    ):
        for row in rows:
            if int(row) not in seen:
                seen.add(int(row))
                chosen.append((kind, int(row)))
    return chosen


def save_examples(workdir: Path, split: Split, chosen, pictures: dict[str, np.ndarray]) -> None:
    """Writes examples.json and examples.npz, the pictures of the drawn queries."""
    arrays, rows = {}, []
    for i, (kind, row) in enumerate(chosen):
        entry = {"qid": split.queries[row].qid, "split": split.name, "kind": kind}
        for name in ("map", "clips"):
            entry[name] = f"{name}_{i}" if name in pictures else None
            if name in pictures:
                arrays[f"{name}_{i}"] = pictures[name][i]
        rows.append(entry)
    try:
        np.savez_compressed(workdir / "examples.npz", **arrays)
    except OSError as error:
        raise disk_error(workdir / "examples.npz", error) from None
    write_json(workdir / "examples.json", rows)


def protocol_stamp(config, protocol: MomentRetrieval) -> dict[str, Any]:
    """The protocol, what the checkpoint was selected on, features, seed and version."""
    return {
        **protocol.stamp(),
        "selection": f"{config.evaluation.select_split} {config.evaluation.select_by}",
        "dataset": config.dataset.name,
        "features": str(config.dataset.features),
        "seed": int(config.seed),
        "version": vmr_jax.__version__,
    }
