"""The section 'Examples' of a report: queries drawn with their moments, maps and clips."""

from collections.abc import Mapping, Sequence

import numpy as np

from vmr_jax.errors import is_number
from vmr_jax.reporting.maps import heat_map, map_legend, trimmed
from vmr_jax.reporting.markup import Markup, tag
from vmr_jax.reporting.run_files import Run
from vmr_jax.reporting.summary import headline_split
from vmr_jax.reporting.timelines import timeline, timeline_legend

DRAWN = 3  # queries of each kind, where examples.json does not choose them
_KINDS = {
    "best": "The highest IoU of the first prediction.",
    "median": "The middle of all queries ordered by the IoU of the first prediction.",
    "worst": "The lowest IoU of the first prediction.",
}
_SCORE = (
    "Score: what the predictions are ranked by, as in predictions.jsonl, on the scale of the architecture: a "
    "logit, a probability or a product. It orders the predictions of one query."
)
_STRENGTH = (
    "Strength: how the architecture rates the cells of a map or the clips, from 0 to 1; it is no score of the "
    "list."
)


def examples(run: Run) -> list[Markup | None]:
    """The best, median and worst queries, each with its moments and pictures."""
    drawn = _drawn(run)
    if not drawn:
        return []
    maps, clips = (
        any(_picture(run, example.get(kind)) is not None for _, example in drawn) for kind in ("map", "clips")
    )
    pictures = maps or clips
    parts: list[Markup | None] = [timeline_legend(), map_legend() if maps else None]
    parts.append(tag("p", _SCORE if not pictures else f"{_SCORE} {_STRENGTH}", class_="caption"))
    for kind, meaning in _KINDS.items():
        cards = [_card(run, row, example) for row, example in drawn if example["kind"] == kind]
        if cards:
            parts.append(tag("h3", kind.capitalize(), tag("span", meaning)))
            parts += cards
    return parts


def _drawn(run: Run) -> list[tuple[Mapping, Mapping]]:
    """(prediction, example) pairs: those of examples.json, else chosen by IoU on the headline split."""
    if run.examples:
        known = {(row["split"], str(row["qid"])): row for row in run.predictions}
        pairs = [(known.get((e["split"], str(e["qid"]))), e) for e in run.examples]
        # examples.json may be of an earlier evaluation than predictions.jsonl.
        return [(row, example) for row, example in pairs if row is not None]
    return _chosen(run.predictions, headline_split(run))


def _chosen(predictions: Sequence[Mapping], split: str) -> list[tuple[Mapping, Mapping]]:
    rows = [row for row in predictions if row["split"] == split and is_number(row.get("iou"))]
    rows.sort(key=lambda row: -row["iou"])  # stable: equal ones keep the order of the file
    middle = max((len(rows) - DRAWN) // 2, 0)
    order = {
        "best": range(len(rows))[:DRAWN],
        "median": range(len(rows))[middle : middle + DRAWN],
        "worst": range(len(rows))[::-1][:DRAWN],
    }
    taken: set[int] = set()
    pairs: list[tuple[Mapping, Mapping]] = []
    for kind, places in order.items():
        pairs += [(rows[i], {"kind": kind}) for i in places if i not in taken]
        taken.update(places)
    return pairs


def _card(run: Run, row: Mapping, example: Mapping) -> Markup:
    windows, moments = (
        [span for span in row[field] if all(is_number(t) for t in span[:2])]
        for field in ("relevant_windows", "pred_relevant_windows")
    )
    ends = [span[1] for span in [*windows, *moments]]
    duration = row["duration"] if is_number(row["duration"]) and row["duration"] > 0 else max(ends, default=1)
    clips, scores = (_picture(run, example.get(kind)) for kind in ("clips", "map"))
    iou = f"IoU {row['iou']:.2f}" if is_number(row.get("iou")) else "no IoU"
    facts = f"{row['split']} · video {row['vid']} · query {row['qid']}"
    return tag(
        "article",
        tag("header", tag("h4", str(row["query"])), tag("p", tag("strong", iou), f" · {facts}")),
        tag(
            "div",
            timeline(duration, windows, moments, clips),
            heat_map(scores, duration, windows, moments) if scores is not None else None,
            class_="drawings",
        ),
    )


def _picture(run: Run, name: str | None) -> np.ndarray | None:
    if name is None or name not in run.pictures:
        return None
    scores = trimmed(run.pictures[name])
    return scores if scores.size else None
