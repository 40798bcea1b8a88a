"""The content of results.json, of predictions.jsonl and of the examples of a report."""

import collections
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vmr_jax
from vmr_jax import published
from vmr_jax.evaluation import significance
from vmr_jax.evaluation.prediction_files import windows_of
from vmr_jax.evaluation.protocols import Predictions, Protocol, check_selection, means, milliseconds
from vmr_jax.evaluation.trivial import trivial_rows
from vmr_jax.files import disk_error, last_name, write_json
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.schema import ANNOTATORS, SALIENCY_SECONDS, Query
from vmr_jax.models import model_class, model_fields

log = logging.getLogger("vmr_jax")

MOST_TAGS = 20  # rows of the breakdown by tag
_LENGTHS = ((0, 5), (5, 10), (10, 20), (20, 40), (40, float("inf")))
_WORDS = ((1, 4), (5, 8), (9, 12), (13, 10**6))


def breakdown(
    split: Split, values: dict[str, np.ndarray], weights: np.ndarray | None = None
) -> dict[str, list[dict]]:
    """Metrics by moment length (s), position of its centre (thirds), query length, and frequent tag."""
    spans, durations = split.spans, split.durations
    length = spans[:, 1] - spans[:, 0]
    centre = spans.mean(1) / durations
    words = np.asarray([len(q.text.split()) for q in split.queries])
    by_length = [
        (f"{low}-{high} s" if np.isfinite(high) else f"over {low} s", (length > low) & (length <= high))
        for low, high in _LENGTHS
    ]
    by_position = thirds(centre)
    by_words = [
        (
            f"{low}-{high} words" if high < 10**6 else f"over {low - 1} words",
            (words >= low) & (words <= high),
        )
        for low, high in _WORDS
    ]

    def rows(groups: Sequence[tuple[str, np.ndarray]]) -> list[dict]:
        return [
            {"label": label, "count": int(member.sum()), "metrics": means(values, member, weights)}
            for label, member in groups
            if member.any()
        ]

    return {
        "by_length": rows(by_length),
        "by_position": rows(by_position),
        "by_words": rows(by_words),
        "by_tag": rows(_tag_members(split)),
    }


def thirds(centre: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, [Q] bool: the moments whose centre lies in that third of its video).

    Args:
      centre: [Q] of the moments, as fractions of their videos.
    """
    return [
        (name, (centre >= i / 3) & ((centre < (i + 1) / 3) | (i == 2)))
        for i, name in enumerate(("first third", "middle third", "last third"))
    ]


def _tag_members(split: Split) -> list[tuple[str, np.ndarray]]:
    """(tag, [Q] bool: which queries have it) of the most frequent tags."""
    counts = collections.Counter(tag for query in split.queries for tag in set(query.tags))
    ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
    if len(ranked) > MOST_TAGS:
        log.info("%s: results by the %d most frequent of %d tags", split.name, MOST_TAGS, len(ranked))
    return [(tag, np.asarray([tag in query.tags for query in split.queries])) for tag in ranked[:MOST_TAGS]]


def intervals(
    split: Split, values: dict[str, np.ndarray], seed: int, weights: np.ndarray | None = None
) -> dict[str, list[float]]:
    """[low, high] of each metric in percent: 95% intervals over videos (`significance.interval`)."""
    columns = np.stack([*values.values()], axis=1)
    ends = 100.0 * significance.interval(columns, split.owner, seed, weights)
    return {name: [float(low), float(high)] for name, low, high in zip(values, *ends)}


def split_results(
    config: Any,
    protocol: Protocol,
    train: Split,
    split: Split,
    predictions: Predictions,
    sanity: Mapping[str, Predictions],
) -> dict:
    """One entry of results.json: ours, the sanity and trivial rows, the published ones, groups, the breakdown.

    Args:
      config: the resolved config.
      protocol: what is measured.
      train: whose moments are the prior.
      split: what was evaluated.
      predictions: of this run on the split.
      sanity: row name -> predictions, of `Evaluator.sanity`.
    """
    ours = {
        "name": f"{config.model.name} (this run)",
        "kind": "run",
        "metrics": predictions.metrics(),
        "intervals": intervals(split, predictions.values, config.seed, predictions.weights),
    }
    rows = [
        ours,
        *(_sanity_row(name, split, found, predictions, config.seed) for name, found in sanity.items()),
        *_rows("trivial", trivial_rows(protocol, train, split, config.seed).items()),
        *published.rows(config, split.name),
    ]
    groups = protocol.groups(split, predictions)
    return {
        "count": len(split.queries),
        "rows": rows,
        **({"groups": groups} if len(groups) > 1 else {}),
        **breakdown(split, predictions.values, predictions.weights),
    }


def _sanity_row(name: str, split: Split, found: Predictions, ours: Predictions, seed: int) -> dict:
    """The row of a sanity check; 'lost' has the 95% interval of ours less its figure, query by query."""
    lost = np.stack([ours.values[metric] * 1.0 - found.values[metric] for metric in ours.values], axis=1)
    ends = 100.0 * significance.interval(lost, split.owner, seed, ours.weights, bounds=(-1.0, 1.0))
    return {
        "name": name,
        "kind": "sanity",
        "metrics": found.metrics(),
        "lost": {metric: [float(low), float(high)] for metric, low, high in zip(ours.values, *ends)},
    }


def _rows(kind: str, metrics: Iterable[tuple[str, dict[str, float]]]) -> list[dict]:
    """Rows of one kind (`rows.KINDS`), of (name, metrics)."""
    return [{"name": name, "kind": kind, "metrics": values} for name, values in metrics]


def prediction_rows(split: Split, predictions: Predictions) -> list[dict]:
    """Lines of predictions.jsonl: Moment-DETR's keys, plus split, duration, truth, top IoU, tags, `extra`.

    Annotated saliency is told as QVHighlights does, by "relevant_clip_ids" and their "saliency_scores".
    """
    rows = []
    for i, query in enumerate(split.queries):
        video = split.videos[split.owner[i]]
        rows.append(
            {
                "split": split.name,
                "qid": query.qid,
                "vid": video.id,
                "query": query.text,
                "duration": round(video.duration, 3),
                "relevant_windows": milliseconds(np.asarray(query.windows or [query.span])).tolist(),
                "pred_relevant_windows": windows_of(predictions.spans[i], predictions.scores[i]),
                "iou": round(float(predictions.ious[i, 0]), 6),
                **({"tags": list(query.tags)} if query.tags else {}),
                **_annotated_saliency(query),
                **{key: column[i] for key, column in predictions.extra.items()},
            }
        )
    return rows


def _annotated_saliency(query: Query) -> dict[str, list]:
    if query.saliency is None:
        return {}
    scores = np.asarray(query.saliency)
    given = np.flatnonzero((scores >= 0).any(axis=1))
    return {"relevant_clip_ids": given.tolist(), "saliency_scores": scores[given].tolist()}


def _saliency_of(row: Mapping[str, Any], clips: int) -> np.ndarray | None:
    """[clips, annotators] of a line of predictions.jsonl, -1 where none was given; None where it tells none."""
    if "saliency_scores" not in row:
        return None
    saliency = np.full((clips, ANNOTATORS), -1, np.int32)
    saliency[row["relevant_clip_ids"]] = np.reshape(row["saliency_scores"], (-1, ANNOTATORS))
    return saliency


def split_of_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> Split:
    """A split as far as lines of predictions.jsonl tell it: the first annotated moment is the one to learn.

    Args:
      name: of the split.
      rows: its lines (`prediction_rows`), whose order is kept.
    """
    durations = {row["vid"]: float(row["duration"]) for row in rows}
    number = {video: i for i, video in enumerate(durations)}
    told = [max(row.get("relevant_clip_ids") or [0]) + 1 for row in rows]
    clips = max([*told, math.ceil(max(durations.values(), default=0.0) / SALIENCY_SECONDS)])
    queries = [
        Query(
            qid=str(row["qid"]),
            text=row["query"],
            span=tuple(row["relevant_windows"][0]),
            windows=[tuple(window) for window in row["relevant_windows"]],
            tags=row.get("tags", ()),
            saliency=_saliency_of(row, clips),
        )
        for row in rows
    ]
    owner = np.asarray([number[row["vid"]] for row in rows], np.int32)
    return Split(name, [Video(video, seconds, {}) for video, seconds in durations.items()], queries, owner)


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


def save_examples(
    workdir: Path, split: Split, chosen: Sequence[tuple[str, int]], pictures: dict[str, np.ndarray]
) -> None:
    """Writes examples.json and examples.npz, the pictures of the drawn queries."""
    arrays, rows = {}, []
    for i, (kind, row) in enumerate(chosen):
        entry: dict[str, Any] = {"qid": split.queries[row].qid, "split": split.name, "kind": kind}
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


def selected_on_test(config: Any, splits: Collection[str]) -> bool:
    """True where the checkpoint was chosen by a test split, or by the only one of the evaluated `splits`."""
    chosen_by = config.evaluation.select_split
    return chosen_by.startswith("test") or set(splits) == {chosen_by}


def protocol_stamp(
    config: Any, protocol: Protocol, splits: dict[str, int], began: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that must be known to compare the numbers with others.

    Args:
      config: the resolved config.
      protocol: what is measured.
      splits: evaluated split -> number of its queries.
      began: 'step' and 'weights' of the run that the training began with, where its checkpoint tells them.
    """
    options, dataset = config.evaluation, config.dataset
    selection = "none, the last step"
    if options.select_split:
        selection = f"{options.select_split} {check_selection(options, protocol)}"
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
        **_set_anew(config),
        **_began_with(config, began),
        "seed": int(config.seed),
        "version": vmr_jax.__version__,
    }


def _began_with(config: Any, began: Mapping[str, Any] | None) -> dict[str, str]:
    """'init_from' -> 'first, step 20, weights 9b1c40a2e7d3': of two folders of one name each is known."""
    if not config.init_from:
        return {}
    told = f", step {began['step']}, weights {began['weights']}" if began else ""
    return {"init_from": last_name(config.init_from) + told}


def _set_anew(config: Any) -> dict[str, str]:
    """'model' -> 'longest_share=0.5': hyper-parameters that an evaluation may set and that are no default."""
    kind = model_class(config.model.name)
    defaults = model_fields(kind)
    values = {field: config.model[field] for field in kind.of_evaluation}
    shown = [f"{field}={value}" for field, value in values.items() if value != defaults[field]]
    return {"model": ", ".join(shown)} if shown else {}
