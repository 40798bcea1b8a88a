"""Evaluation: a protocol scores a model on every query once, whatever the batch size; and what is reported."""

import collections
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vmr_jax
from data.schema import EXTRA
from vmr_jax import metrics, significance, tables
from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError, nearest
from vmr_jax.input import Loader, Split, filled_batches
from vmr_jax.models.base import GroundingModel
from vmr_jax.parallel import Parallel, host_rows
from vmr_jax.protocols import Corpus, MomentRetrieval, Predictions, make_protocol, means, milliseconds
from vmr_jax.types import Batch, Moments
from vmr_jax.writer import disk_error, write_json

log = logging.getLogger("vmr_jax")

PRIOR_GRID = 16  # cells per side for the best single span of the training prior
MOST_TAGS = 20  # rows of the breakdown by tag


class Evaluator:
    """Scores variables on splits; compiled once, used after every epoch and at the end."""

    def __init__(self, config, model: GroundingModel, parallel: Parallel):
        self.config, self.model, self.parallel = config, model, parallel
        self.protocol = make_protocol(config.evaluation)
        self.batch_size = config.evaluation.batch_size
        parallel.check_batch_size(self.batch_size, "config.evaluation.batch_size")
        _check_sanity(config.evaluation.sanity)
        self._score = self._map(self.protocol.score_batch)
        if isinstance(self.protocol, Corpus):
            self._encode, self._search = (
                self._map(self.protocol.encode_batch),
                self._map(self.protocol.search_batch),
            )
        self._explain = parallel.map_examples(
            lambda variables, batch: model.explain(model.apply(variables, batch, train=False), batch)
        )

    def _map(self, function):
        return self.parallel.map_examples(lambda state, batch: function(self.model, state, batch))

    def score(self, variables: Any, batch: Batch) -> dict[str, np.ndarray]:
        """What the protocol collects of a batch, B rows, of moments in its own videos.

        Of several hosts each gives its own rows and gets all of them.
        """
        return self._score(variables, self.parallel.put_batch(batch))

    def run(self, variables: Any, loader: Loader) -> Predictions:
        """Predicts for every query of the loader's split exactly once."""
        self.protocol.prepare(self.model, loader.split)
        corpus = self._corpus(variables, loader) if isinstance(self.protocol, Corpus) else None
        collected = []
        for batch in loader.evaluation_batches(self.batch_size):
            rows = self.score(variables, batch)
            if corpus is not None:
                rows |= self._search((variables, corpus), self.parallel.put_batch(batch))
            collected.append(rows)
        return self.protocol.finish(loader.split, _joined(collected, len(loader)))

    def _corpus(self, variables: Any, loader: Loader) -> Any:
        """The encoded videos of the split, C of them, on every device."""
        _, first = np.unique(loader.split.owner, return_index=True)  # a query of each video
        batches = [
            self._encode(variables, self.parallel.put_batch(loader.batch(host_rows(rows))))
            for rows in filled_batches(first, self.batch_size)
        ]
        return self.parallel.replicate(_joined(batches, len(first)))

    def metrics(self, variables: Any, loader: Loader) -> dict[str, float]:
        """The protocol's metrics in percent on the loader's split."""
        return means(self.run(variables, loader).values)

    def sanity(self, variables: Any, loader: Loader) -> dict[str, dict[str, float]]:
        """Metrics of the same variables on videos that are hidden or shuffled: a row of each check."""
        return {
            tables.SANITY[shown]: self.protocol.score(loader.split, self.run(variables, loader.showing(shown)))
            for shown in self.config.evaluation.sanity
        }

    def pictures(self, variables: Any, loader: Loader, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The architecture's pictures ([len(rows),...]) of the queries at `rows`."""
        size = -(-len(rows) // len(self.parallel.devices)) * len(self.parallel.devices)
        filled = np.concatenate([rows, np.full(size - len(rows), -1, rows.dtype)])
        drawn = self._explain(variables, self.parallel.put_batch(loader.batch(host_rows(filled))))
        return {name: picture[: len(rows)] for name, picture in drawn.items()}


def _joined(batches: Sequence[Any], count: int) -> Any:
    """The first `count` rows of trees of arrays [B,...]."""
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:count], *batches)


def _check_sanity(checks) -> None:
    for shown in checks:
        if shown not in tables.SANITY:
            raise UserError(
                f'config.evaluation.sanity names "{shown}".{nearest(shown, tables.SANITY)} Known: '
                f"{', '.join(tables.SANITY)}; () runs none."
            )


# --- trivial rows ---------------------------------------------------------------------------------


def trivial_rows(protocol: MomentRetrieval, train: Split, split: Split, seed: int) -> dict[str, dict]:
    """Metrics of three predictors that see neither the video nor the query.

    - 'whole video': [0, duration];
    - 'best span of the training prior': the cells of a 16 x 16 map ranked by how many training moments
      they hit at IoU 0.5, then by their mean IoU; after the protocol's NMS. Queries that a user added
      (tagged 'extra') do not count, so that the row is the dataset's own;
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
    rng = np.random.default_rng(seed)
    found = {
        name: protocol.finish(split, protocol.trivial(spans * durations, split, rng))
        for name, spans in rows.items()
    }
    return {name: protocol.score(split, predictions) for name, predictions in found.items()}


def _prior_spans(protocol: MomentRetrieval, train: Split) -> np.ndarray:
    """[K,2] spans as fractions of the video, best first."""
    starts, ends = np.triu_indices(PRIOR_GRID)
    cells = np.stack([starts, ends + 1], axis=1) / PRIOR_GRID  # [N,2]
    own = np.asarray([EXTRA not in query.tags for query in train.queries])
    truth = (train.spans / train.durations[:, None])[own]
    ious = metrics.iou(cells[:, None, :], truth[None, :, :])  # [N,Q]
    quality = (ious >= 0.5).mean(1) + 1e-3 * ious.mean(1)
    order = np.argsort(-quality, kind="stable")
    ranked = Moments(
        spans=cells[order][None].astype(np.float32), scores=quality[order][None].astype(np.float32)
    )
    kept = moments_lib.nms(ranked, protocol.nms_thresholds()[0], k=protocol.options.keep)
    spans, scores = np.asarray(kept.spans[0]), np.asarray(kept.scores[0])
    return spans[np.isfinite(scores)]


# --- results --------------------------------------------------------------------------------------

_LENGTHS = ((0, 5), (5, 10), (10, 20), (20, 40), (40, float("inf")))
_WORDS = ((1, 4), (5, 8), (9, 12), (13, 10**6))


def breakdown(split: Split, values: dict[str, np.ndarray]) -> dict[str, list[dict]]:
    """Metrics by moment length (s), position of its centre (thirds), query length, and frequent tag."""
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
            {"label": label, "count": int(member.sum()), "metrics": means(values, member)}
            for label, member in groups
            if member.any()
        ]

    return {
        "by_length": rows(by_length),
        "by_position": rows(by_position),
        "by_words": rows(by_words),
        "by_tag": rows(_tag_members(split)),
    }


def _tag_members(split: Split) -> list[tuple[str, np.ndarray]]:
    """(tag, [Q] bool: which queries have it) of the most frequent tags."""
    counts = collections.Counter(tag for query in split.queries for tag in set(query.tags))
    ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
    if len(ranked) > MOST_TAGS:
        log.info("%s: results by the %d most frequent of %d tags", split.name, MOST_TAGS, len(ranked))
    return [(tag, np.asarray([tag in query.tags for query in split.queries])) for tag in ranked[:MOST_TAGS]]


def intervals(split: Split, values: dict[str, np.ndarray], seed: int) -> dict[str, list[float]]:
    """[low, high] of each metric in percent: 95% bootstrap intervals over videos."""
    ends = 100.0 * significance.bootstrap_interval(np.stack([*values.values()], axis=1), split.owner, seed)
    return {name: [float(low), float(high)] for name, low, high in zip(values, *ends)}


def split_results(
    config,
    protocol: MomentRetrieval,
    train: Split,
    split: Split,
    predictions: Predictions,
    sanity: dict[str, dict[str, float]],
) -> dict:
    """One entry of results.json: ours, the sanity and trivial rows, the published ones, the breakdown.

    Args:
      config: the resolved config.
      protocol: what is measured.
      train: whose moments are the prior.
      split: what was evaluated.
      predictions: of this run on the split.
      sanity: row name -> metrics, of `Evaluator.sanity`.
    """
    ours = {
        "name": f"{config.model.name} (this run)",
        "metrics": protocol.score(split, predictions),
        "intervals": intervals(split, predictions.values, config.seed),
    }
    others = {**sanity, **trivial_rows(protocol, train, split, config.seed)}
    rows = [ours, *({"name": name, "metrics": values} for name, values in others.items())]
    rows += [
        {"name": name, "metrics": dict(values)}
        for where, name, values in config.published
        if where == split.name
    ]
    return {
        "count": len(split.queries),
        "rows": rows,
        **breakdown(split, predictions.values),
    }


def prediction_rows(split: Split, predictions: Predictions) -> list[dict]:
    """Lines of predictions.jsonl: Moment-DETR's keys, plus split, duration, truth and top IoU."""
    rows = []
    for i, query in enumerate(split.queries):
        real = np.isfinite(predictions.scores[i])
        windows = [
            [float(s), float(e), round(float(p), 6)]
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
                "relevant_windows": milliseconds(query.windows or [query.span]).tolist(),
                "pred_relevant_windows": windows,
                "iou": round(float(predictions.ious[i, 0]), 6),
                **{key: column[i] for key, column in predictions.extra.items()},
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


def selected_on_test(config, splits: Collection[str]) -> bool:
    """True where the checkpoint was chosen by a test split, or by the only one of the evaluated `splits`."""
    chosen_by = config.evaluation.select_split
    return chosen_by.startswith("test") or set(splits) == {chosen_by}


def protocol_stamp(config, protocol: MomentRetrieval, splits: dict[str, int]) -> dict[str, Any]:
    """All that must be known to compare the numbers with others.

    Args:
      config: the resolved config.
      protocol: what is measured.
      splits: evaluated split -> number of its queries.
    """
    options, dataset = config.evaluation, config.dataset
    selection = f"{options.select_split} {options.select_by}" if options.select_split else "none, the last step"
    return {
        **protocol.stamp(),
        "splits": splits,
        "selection": selection,
        "selected_on_test": selected_on_test(config, splits),
        "dataset": dataset.name,
        **({"convention": dataset.convention} if "convention" in dataset else {}),
        **({"dataset_version": dataset.version} if "version" in dataset else {}),
        "features": str(dataset.features),
        "feature_dim": int(dataset.feature_dim),
        "vectors": config.text.features or config.text.vectors or "of the dataset",
        "tokenizer": config.text.tokenizer,
        "seed": int(config.seed),
        "version": vmr_jax.__version__,
    }
