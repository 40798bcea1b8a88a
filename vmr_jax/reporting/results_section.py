"""The sections 'Results' and 'Protocol' of a report."""

import json
import re
from collections.abc import Mapping, Sequence

from vmr_jax.evaluation.rows import SANITY
from vmr_jax.reporting import tables
from vmr_jax.reporting.markup import Markup, tag
from vmr_jax.reporting.run_files import Run
from vmr_jax.reporting.summary import protocol_of


def results(run: Run) -> list[Markup | None]:
    """The tables of every split, and what their figures mean."""
    columns, splits = tables.metric_columns(run.results), run.results["splits"]
    table = tag(
        "table",
        tag("thead", *_heading_rows(columns)),
        *(_split_body(name, split, columns) for name, split in splits.items()),
        class_="metrics results",
    )
    overview = _overview(splits, columns) if len(splits) > 2 else []
    sign = ">" if protocol_of(run).get("strict") else "≥"
    recall = (
        f"R@n, IoU = m: share of queries for which one of the first n moments has IoU {sign} m with the "
        "annotated one. mIoU: mean IoU of the first moment."
    )
    meaning = _RANKS if any(name.startswith("Rank@") for name in columns) else recall
    meaning = f"All in percent. {meaning} Trivial answers see neither video nor sentence."
    rows = [row for split in splits.values() for row in split["rows"]]
    return [
        *overview,
        _frame(table, "Results"),
        tag("p", meaning, class_="caption"),
        tag("p", _DISCOUNTED, class_="caption") if any(name.startswith("dR@") for name in columns) else None,
        tag("p", _INTERVALS, class_="caption") if any(row.get("intervals") for row in rows) else None,
        tag("p", _SANITY, class_="caption") if any(tables.row_kind(row) == "sanity" for row in rows) else None,
    ]


_RANKS = (
    "Rank@n: share of queries whose annotated segments, of the three annotators who agree best with the "
    "ranking, have a mean rank of at most n among the 21 segments. mIoU: mean IoU of the first segment with "
    "those of the three annotators who agree best with it."
)
_DISCOUNTED = (
    "dR@n: R@n in which a hit counts the less, the farther its start and end lie from the annotated ones, as "
    "shares of the video (Yuan et al. 2021)."
)
_INTERVALS = (
    "Under the figures of this run: 95% bootstrap intervals, videos resampled with all their queries 1,000 "
    "times; where no query has a hit, or all have, the exact interval for as many "
    "videos (Clopper and Pearson). They cover the choice of the videos, not that of the training seed."
)
_SANITY = (
    f"{SANITY['blind'].capitalize()}: the same checkpoint, with the features of the video made zero and "
    "its length kept. Where it comes near this run, the sentence and the habits of the data explain the "
    f"figure, not the video. {SANITY['shuffled'].capitalize()}: the features in a random temporal "
    "order. Where it equals this run, the model does not use temporal content."
)


def _overview(splits: Mapping, columns: Sequence[str]) -> list[Markup]:
    """A row of this run for every split, so that ordinary and shifted ones stand beside each other."""
    headline = [name for name in columns if name == "mIoU" or re.match(r"d?R@1,", name)] or columns
    rows = [
        tag(
            "tr",
            tag("th", name, tag("small", f" {split['count']} queries"), scope="row"),
            *_cells(split["rows"][0], headline),
        )
        for name, split in splits.items()
    ]
    table = tag("table", tag("thead", *_heading_rows(headline)), tag("tbody", *rows), class_="metrics overview")
    return [tag("h3", "This run on every split"), _frame(table, "Overview"), tag("h3", "Split by split")]


def _frame(table: Markup, label: str) -> Markup:
    """Focusable, so that a table wider than the page can be scrolled from the keyboard."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _cells(row: Mapping, columns: Sequence[str]) -> list[Markup]:
    """The figures of a row, with its intervals below them where it has some."""
    cells = []
    for column in columns:
        ends = (row.get("intervals") or {}).get(column, ())
        interval = tag("small", "–".join(map(tables.percent, ends))) if ends else None
        cells.append(tag("td", tables.percent(row["metrics"].get(column)), interval))
    return cells


def _heading_rows(columns: Sequence[str]) -> list[Markup]:
    headings = [tables.column_heading(column) for column in columns]
    groups: list[list] = []
    for over, _ in headings:
        if groups and over and groups[-1][0] == over:
            groups[-1][1] += 1
        else:
            groups.append([over, 1])
    above = [
        tag(
            "th",
            f"{over}, IoU =" if over else None,
            colspan=n,
            scope="colgroup",
            class_="group" if over else None,
        )
        for over, n in groups
    ]
    below = [tag("th", under, scope="col") for _, under in headings]
    return [tag("tr", tag("td"), *above), tag("tr", tag("td"), *below)]


def _source(row: Mapping) -> Markup | None:
    """Who states the figures of a quoted row, and what a reader must know of them."""
    said = tables.source_of(row)
    return tag("small", said) if said else None


def _split_body(name: str, split: Mapping, columns: Sequence[str]) -> Markup:
    title = tag("th", tag("span", name), f" {split['count']} queries", scope="rowgroup")
    rows = [tag("tr", title, tag("td", colspan=len(columns)) if columns else None, class_="split")]
    for i, row in enumerate(split["rows"]):
        heading = tag("th", row["name"], _source(row), scope="row")
        kind = "ours" if i == 0 else tables.row_kind(row)
        rows.append(tag("tr", heading, *_cells(row, columns), class_=kind))
    return tag("tbody", *rows)


def protocol(run: Run) -> list[Markup]:
    """Setting in which the numbers were measured, field by field."""
    steps = {"step": run.results.get("step"), "best step": run.results.get("best_step")}
    stamp = {**protocol_of(run), **{k: v for k, v in steps.items() if v is not None}}
    pairs = [
        tag(
            "div",
            tag("dt", str(key).replace("_", " ")),
            tag("dd", _written(value)),
            class_="wide" if isinstance(value, dict) else None,
        )
        for key, value in sorted(stamp.items(), key=lambda pair: isinstance(pair[1], dict))
    ]
    return [tag("dl", *pairs, class_="stamp")] if pairs else []


def _written(value: object) -> str:
    if value is None or value == "":
        return tables.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_written(part)}" for key, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
