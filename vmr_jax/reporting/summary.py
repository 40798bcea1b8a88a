"""The first paragraph of a report: one figure of the run, and the one it must be compared with."""

import math
import re
from collections.abc import Mapping

from vmr_jax.errors import is_number
from vmr_jax.evaluation.rows import SANITY
from vmr_jax.reporting import tables
from vmr_jax.reporting.markup import Markup, join, tag
from vmr_jax.reporting.run_files import Run

_PERCENT = "\N{NO-BREAK SPACE}%"


def architecture(run: Run) -> str:
    """The name of the run's architecture, as its row of results says it."""
    if not run.evaluated:
        return named(run, "model")
    name = run.results["splits"][headline_split(run)]["rows"][0]["name"]
    return name.removesuffix("(this run)").strip() or named(run, "model")


def named(run: Run, part: str) -> str:
    """The `name` of a section of the config, such as 'dataset'; empty where there is none."""
    found = run.config.get(part)
    return str(found.get("name", "")) if isinstance(found, dict) else ""


def headline_split(run: Run) -> str:
    """'test' where it exists, else the first split that served neither training nor selection."""
    names = list(run.results["splits"])
    return next((n for n in ["test", *names] if n in names and not n.startswith(("train", "val"))), names[0])


def _selection(run: Run) -> str | None:
    """The metric of 'val R@1,IoU=0.5' or 'val/R@1,IoU=0.5'."""
    match = re.fullmatch(r"\S+?[ /](.+)", str(protocol_of(run).get("selection", "")))
    return match[1] if match else None


def protocol_of(run: Run) -> Mapping:
    """Setting in which the numbers were measured; empty where results.json does not say."""
    return run.results.get("protocol") or {}


def headline_metric(run: Run) -> str | None:
    """The metric of model selection, else R@1,IoU=0.5, else the first that this run has."""
    ours = run.results["splits"][headline_split(run)]["rows"][0]["metrics"]
    wanted = (_selection(run), "R@1,IoU=0.5", *tables.metric_columns(run.results))
    return next((name for name in wanted if is_number(ours.get(name))), None)


def summary(run: Run) -> Markup:
    """One figure of the run, the best trivial answer, and what the sanity checks found.

    The first sentence is the finding that the video is not used, where the run loses nothing that the paired
    interval would tell from nought when the video is hidden, or shuffled.
    """
    name, metric = headline_split(run), headline_metric(run)
    split = run.results["splits"][name]
    ours, others = split["rows"][0], split["rows"][1:]
    where = f"On the {split['count']} queries of {name}"
    if metric is None:
        return tag("p", f"{where}, {architecture(run)} has no finite metric.", class_="lede")
    others = [row for row in others if is_number(row["metrics"].get(metric))]
    checks = [row for row in others if tables.row_kind(row) == "sanity"]
    idle = [row for row in checks if metric in row.get("lost", {}) and row["lost"][metric][0] <= 0]
    parts: list[str] = [_unused(run, min(idle, key=_check), ours, metric), " "] if idle else []
    parts += [
        f"{where}, {architecture(run)} reaches ",
        tag("strong", f"{ours['metrics'][metric]:.2f}{_PERCENT}"),
        f" in {metric}",
    ]
    trivial = [row for row in others if tables.row_kind(row) == "trivial"]
    if trivial:
        best = max(trivial, key=lambda row: row["metrics"][metric])
        parts += [
            f"; the best trivial answer ({best['name']}) reaches ",
            tag("strong", f"{best['metrics'][metric]:.2f}{_PERCENT}"),
        ]
    findings = [
        tag("p", _finding(row, ours, metric), class_="note")
        for row in checks
        if "lost" not in row and _reaches(row, ours, metric)
    ]
    return join([tag("p", *parts, ".", class_="lede"), *findings, note(run)])


def _unused(run: Run, row: Mapping, ours: Mapping, metric: str) -> Markup:
    """The sentence that the video is not used, of a sanity row that says so."""
    low, high = row["lost"][metric]
    how, without = {
        "blind": ("", "with the video hidden"),
        "shuffled": (" in its order of time", "with its clips shuffled"),
    }[_check(row)]
    return tag(
        "strong",
        f"{architecture(run)} does not use the video{how}, as far as these queries tell: {without} it reaches "
        f"{row['metrics'][metric]:.2f}{_PERCENT} in {metric} in place of "
        f"{ours['metrics'][metric]:.2f}{_PERCENT} (what is lost, 95{_PERCENT} interval, "
        f"paired: {low:.2f} to {high:.2f}).",
    )


def _check(row: Mapping) -> str:
    """The sanity check of a row: a key of `SANITY`."""
    return next(check for check, name in SANITY.items() if name == row["name"])


def _reaches(row: Mapping, ours: Mapping, metric: str) -> bool:
    """Whether a row's figure lies within the interval of ours, or above it."""
    low, _ = (ours.get("intervals") or {}).get(metric, (math.inf, math.inf))
    return row["metrics"][metric] >= low


def _finding(row: Mapping, ours: Mapping, metric: str) -> str:
    low, high = ours["intervals"][metric]
    meaning = {
        "blind": "it is not shown that the video helps; the sentence and the habits of the data explain it",
        "shuffled": "it is not shown that the order of the clips is used",
    }
    return (
        f"The row \N{LEFT DOUBLE QUOTATION MARK}{row['name']}\N{RIGHT DOUBLE QUOTATION MARK} reaches "
        f"{row['metrics'][metric]:.2f}{_PERCENT}, not below the 95{_PERCENT} interval of this run, "
        f"{low:.2f} to {high:.2f}: {meaning[_check(row)]}."
    )


def note(run: Run) -> Markup | None:
    """The note of results.json, where it has one."""
    return tag("p", run.results["note"], class_="note") if run.results.get("note") else None
