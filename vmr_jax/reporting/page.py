"""The report of a run: one HTML page made of the files in its working directory, and of nothing else.

The page needs no network, script, font or style from outside, and the same files give the same bytes.
Drawings are in vmr_jax/reporting/drawings.py, the choice of metrics in vmr_jax/reporting/tables.py.
"""

import dataclasses
import json
import math
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.reporting import tables
from vmr_jax.reporting.drawings import (
    Markup,
    Series,
    bar_table,
    figure,
    heat_map,
    join,
    line_chart,
    map_legend,
    tag,
    timeline,
    timeline_legend,
    trimmed,
)
from vmr_jax.reporting.tables import results_table

__all__ = ["results_table", "write_report"]

MAX_POINTS = 150  # of a curve; more are averaged, so that the page stays small and its titles can be hit
DRAWN = 3  # queries of each kind, where examples.json does not choose them
_TRAIN = "python launch.py --config=configs/<architecture>.py --workdir=DIR"
EVALUATE = "python launch.py --mode=evaluate --workdir=DIR"
_PERCENT = "\N{NO-BREAK SPACE}%"
_FILES = {
    "config.json": "the configuration, resolved",
    "metrics.jsonl": "losses and validation metrics by step",
    "results.json": "final metrics and protocol",
    "predictions.jsonl": "ranked moments of every query",
    "examples.json": "the queries drawn here",
    "examples.npz": "their score pictures",
    "timing.jsonl": "speed by step",
}
_KINDS = {
    "best": "The highest IoU of the first prediction.",
    "median": "The middle of all queries ordered by the IoU of the first prediction.",
    "worst": "The lowest IoU of the first prediction.",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a working directory hold; optional files that are absent are empty."""

    results: Mapping
    metrics: Sequence[Mapping]
    config: Mapping
    predictions: Sequence[Mapping]
    examples: Sequence[Mapping]
    pictures: Mapping[str, np.ndarray]
    timing: Sequence[Mapping]
    files: Sequence[str]


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `workdir`/report.html and returns its path.

    Reads results.json and metrics.jsonl, and, where they exist, config.json, predictions.jsonl,
    examples.json with examples.npz, and timing.jsonl; the section of an absent file is left out.

    Raises:
      UserError: one of the two is missing, or a file is not what the writer of its name makes.
    """
    run = _read(workdir)
    path = workdir / "report.html"
    # A lone surrogate, which JSON can carry, has no UTF-8 form.
    path.write_bytes(_page(run).encode("utf-8", "replace"))
    return path


# --- Reading ------------------------------------------------------------------------------------------


def _read(workdir: pathlib.Path) -> Run:
    results = read_results(workdir)
    metrics = read_file(workdir / "metrics.jsonl", _TRAIN)
    _check_rows(workdir / "metrics.jsonl", metrics, ("step",))
    predictions = read_predictions(workdir) if (workdir / "predictions.jsonl").exists() else []
    examples = _optional(workdir / "examples.json", [])
    _check_rows(workdir / "examples.json", examples, ("split", "qid", "kind"))
    pictures = {}
    if (workdir / "examples.npz").exists():
        with np.load(workdir / "examples.npz", allow_pickle=False) as stored:
            pictures = {name: stored[name] for name in stored.files}
    return Run(
        results=results,
        metrics=metrics,
        config=_optional(workdir / "config.json", {}),
        predictions=predictions,
        examples=examples,
        pictures=pictures,
        timing=_optional(workdir / "timing.jsonl", []),
        files=[name for name in _FILES if (workdir / name).exists()],
    )


def read_results(workdir: pathlib.Path) -> dict:
    """The content of results.json; UserError where it is missing or not what the evaluation writes."""
    results = read_file(workdir / "results.json", EVALUATE)
    _check_results(workdir / "results.json", results)
    return results


def read_predictions(workdir: pathlib.Path) -> list[dict]:
    """The rows of predictions.jsonl; UserError where it is missing or a row lacks a field."""
    rows = read_file(workdir / "predictions.jsonl", EVALUATE)
    needed = ("split", "qid", "vid", "query", "duration", "relevant_windows", "pred_relevant_windows")
    _check_rows(workdir / "predictions.jsonl", rows, needed)
    return rows


def read_file(path: pathlib.Path, command: str):
    """The content of a .json or .jsonl file of a run; UserError naming `command` where it is missing."""
    if not path.exists():
        raise UserError(f"{path} is missing, and is needed here. It is written by: {command}")
    return _parse(path)


def _optional(path: pathlib.Path, absent):
    return _parse(path) if path.exists() else absent


def _parse(path: pathlib.Path):
    """The value of a .json file, or the list of the values of the lines of a .jsonl file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return _value(text, f"{path}")
    *lines, last = text.split("\n")
    # What follows the last line break was torn by a kill, unless it is whole.
    rows = [_value(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    try:
        return [*rows, json.loads(last)]
    except json.JSONDecodeError:
        return rows


def _value(text: str, where: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: this is not JSON ({error}). Delete it and write the file again with: {EVALUATE}"
        ) from error


def _check_results(path: pathlib.Path, results) -> None:
    splits = results.get("splits") if isinstance(results, dict) else None
    if not isinstance(splits, dict) or not splits:
        raise UserError(
            f'{path}: the field "splits" must hold at least one evaluated split. Write the file again '
            f"with: {EVALUATE}"
        )
    for name, split in splits.items():
        _check_rows(path, [split], ("count", "rows"), f'split "{name}"')
        _check_rows(path, split["rows"], ("name", "metrics"), f'split "{name}", row')
        if not split["rows"]:
            raise UserError(f'{path}, split "{name}": it has no row. Write the file again with: {EVALUATE}')


def _check_rows(path: pathlib.Path, rows: Sequence, fields: Sequence[str], what: str = "record") -> None:
    for i, row in enumerate(rows, 1):
        for field in fields:
            if not isinstance(row, dict) or field not in row:
                raise UserError(
                    f'{path}, {what} {i}: the field "{field}" is missing. Write the file again with: {EVALUATE}'
                )


# --- The page -----------------------------------------------------------------------------------------


def _page(run: Run) -> str:
    title = _title(run)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    body = tag(
        "main",
        tag("header", tag("h1", title), _summary(run)),
        _section("results", "Results", _results(run)),
        _section("protocol", "Protocol", _protocol(run)),
        _section("training", "Training", _training(run)),
        _section("breakdown", "Breakdown", _breakdown(run)),
        _section("examples", "Examples", _examples(run)),
        _section("configuration", "Configuration", _configuration(run)),
        _section("files", "Files", _files(run)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _section(name: str, heading: str, parts: Sequence[str]) -> Markup | None:
    return tag("section", tag("h2", heading), *parts, id=name) if parts else None


def _architecture(run: Run) -> str:
    name = run.results["splits"][_headline_split(run)]["rows"][0]["name"]
    return name.removesuffix("(this run)").strip() or _named(run, "model")


def _named(run: Run, part: str) -> str:
    found = run.config.get(part)
    return str(found.get("name", "")) if isinstance(found, dict) else ""


def _title(run: Run) -> str:
    dataset = _named(run, "dataset")
    return f"{_architecture(run)} on {dataset}" if dataset else _architecture(run)


def _headline_split(run: Run) -> str:
    """'test' where it exists, else the first split that served neither training nor selection."""
    names = list(run.results["splits"])
    return next((n for n in ["test", *names] if n in names and not n.startswith(("train", "val"))), names[0])


def _selection(run: Run) -> str | None:
    """The metric of 'val R@1,IoU=0.5' or 'val/R@1,IoU=0.5'."""
    match = re.fullmatch(r"\S+?[ /](.+)", str(_protocol_of(run).get("selection", "")))
    return match[1] if match else None


def _protocol_of(run: Run) -> Mapping:
    return run.results.get("protocol") or {}


def _headline_metric(run: Run) -> str | None:
    """The metric of model selection, else R@1,IoU=0.5, else the first that this run has."""
    ours = run.results["splits"][_headline_split(run)]["rows"][0]["metrics"]
    wanted = (_selection(run), "R@1,IoU=0.5", *tables.metric_columns(run.results))
    return next((name for name in wanted if tables.is_number(ours.get(name))), None)


def _summary(run: Run) -> Markup:
    name, metric = _headline_split(run), _headline_metric(run)
    split = run.results["splits"][name]
    ours, others = split["rows"][0], split["rows"][1:]
    where = f"On the {split['count']} queries of {name}"
    if metric is None:
        return tag("p", f"{where}, {_architecture(run)} has no finite metric.", class_="lede")
    parts = [
        f"{where}, {_architecture(run)} reaches ",
        tag("strong", f"{ours['metrics'][metric]:.2f}{_PERCENT}"),
        f" in {metric}",
    ]
    others = [row for row in others if tables.is_number(row["metrics"].get(metric))]
    trivial = [row for row in others if not tables.is_published(row) and not tables.is_sanity(row)]
    if trivial:
        best = max(trivial, key=lambda row: row["metrics"][metric])
        parts += [
            f"; the best trivial answer ({best['name']}) reaches ",
            tag("strong", f"{best['metrics'][metric]:.2f}{_PERCENT}"),
        ]
    findings = [
        tag("p", _finding(row, ours, metric), class_="note")
        for row in others
        if tables.is_sanity(row) and _reaches(row, ours, metric)
    ]
    return join([tag("p", *parts, ".", class_="lede"), *findings, _note(run)])


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
    check = next(check for check, name in tables.SANITY.items() if name == row["name"])
    return (
        f"The row \N{LEFT DOUBLE QUOTATION MARK}{row['name']}\N{RIGHT DOUBLE QUOTATION MARK} reaches "
        f"{row['metrics'][metric]:.2f}{_PERCENT}, not below the 95{_PERCENT} interval of this run, "
        f"{low:.2f} to {high:.2f}: {meaning[check]}."
    )


def _note(run: Run) -> Markup | None:
    return tag("p", run.results["note"], class_="note") if run.results.get("note") else None


# --- Results and protocol -----------------------------------------------------------------------------


def _results(run: Run) -> list[Markup]:
    columns, splits = tables.metric_columns(run.results), run.results["splits"]
    table = tag(
        "table",
        tag("thead", *_heading_rows(columns)),
        *(_split_body(name, split, columns) for name, split in splits.items()),
        class_="metrics results",
    )
    overview = _overview(splits, columns) if len(splits) > 2 else []
    sign = ">" if _protocol_of(run).get("strict") else "≥"
    meaning = (
        f"All in percent. R@n, IoU = m: share of queries for which one of the first n moments has IoU {sign} m "
        "with the annotated one. mIoU: mean IoU of the first moment. Trivial answers see neither video nor "
        "sentence."
    )
    rows = [row for split in splits.values() for row in split["rows"]]
    return [
        *overview,
        _frame(table, "Results"),
        tag("p", meaning, class_="caption"),
        tag("p", _DISCOUNTED, class_="caption") if any(name.startswith("dR@") for name in columns) else None,
        tag("p", _INTERVALS, class_="caption") if any(row.get("intervals") for row in rows) else None,
        tag("p", _SANITY, class_="caption") if any(tables.is_sanity(row) for row in rows) else None,
    ]


_DISCOUNTED = (
    "dR@n: R@n in which a hit counts the less, the farther its start and end lie from the annotated ones, as "
    "shares of the video (Yuan et al. 2021)."
)
_INTERVALS = (
    "Under the figures of this run: 95% bootstrap intervals, videos resampled with all their queries 1,000 "
    "times. They cover the choice of the videos, not that of the training seed."
)
_SANITY = (
    f"{tables.SANITY['blind'].capitalize()}: the same checkpoint, with the features of the video made zero and "
    "its length kept. Where it comes near this run, the sentence and the habits of the data explain the "
    f"figure, not the video. {tables.SANITY['shuffled'].capitalize()}: the features in a random temporal "
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


def _split_body(name: str, split: Mapping, columns: Sequence[str]) -> Markup:
    title = tag("th", tag("span", name), f" {split['count']} queries", scope="rowgroup")
    rows = [tag("tr", title, tag("td", colspan=len(columns)) if columns else None, class_="split")]
    for i, row in enumerate(split["rows"]):
        cells = _cells(row, columns)
        rows.append(tag("tr", tag("th", row["name"], scope="row"), *cells, class_=_kind(i, row)))
    return tag("tbody", *rows)


def _kind(place: int, row: Mapping) -> str:
    if place == 0:
        return "ours"
    if tables.is_sanity(row):
        return "sanity"
    return "published" if tables.is_published(row) else "trivial"


def _protocol(run: Run) -> list[Markup]:
    steps = {"step": run.results.get("step"), "best step": run.results.get("best_step")}
    stamp = {**_protocol_of(run), **{k: v for k, v in steps.items() if v is not None}}
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


_SPEEDS = {
    "steps_per_second": "steps/s",
    "examples_per_second": "examples/s",
    "compile_seconds": "s for the first step with its compilation",
}

# --- Training -----------------------------------------------------------------------------------------


def _training(run: Run) -> list[Markup]:
    curves = _curves(run.metrics)
    if not curves:
        return [tag("p", "metrics.jsonl holds no value.", class_="none")]
    charts = [_loss_chart(curves), _validation_chart(run, curves)]
    for key, title in (("train/learning_rate", "Learning rate"), ("train/grad_norm", "Gradient norm")):
        if key in curves:
            charts.append(line_chart(title, [Series(title.lower(), _thinned(curves[key]), "line total")]))
    return [tag("div", *charts, class_="charts"), *_training_notes(run, curves)]


def _curves(records: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) per key, in order of step; of two records of one step the later counts."""
    curves: dict[str, dict] = {}
    for record in records:
        for key, value in record.items():
            if "/" in key:
                curves.setdefault(key, {})[record["step"]] = value if tables.is_number(value) else math.nan
    return {key: sorted(points.items()) for key, points in curves.items()}


def _group_size(points: Sequence) -> int:
    return math.ceil(len(points) / MAX_POINTS)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points: means of equal groups of neighbours, each at the last step of its group.

    A group with a value that is not finite is not finite, so that a gap stays visible.
    """
    size = _group_size(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _terms(curves: Mapping) -> list[str]:
    other = ("train/loss", "train/learning_rate", "train/grad_norm")
    return [key for key in curves if key.startswith("train/") and key not in other]


def _is_loss(key: str, curves: Mapping) -> bool:
    """True for a loss or one of its terms, on the training split or another."""
    name = key.split("/", 1)[1]
    return name == "loss" or f"train/{name}" in _terms(curves)


def _loss_chart(curves: Mapping) -> Markup:
    series = [
        Series(key.removeprefix("train/"), _thinned(curves[key]), f"line s{i % 8}")
        for i, key in enumerate(_terms(curves))
    ]
    for key in curves:
        if key == "train/loss":
            series.insert(0, Series("loss", _thinned(curves[key]), "line total"))
        elif key.endswith("/loss"):
            series.append(Series(key.replace("/", " "), curves[key], "line held dash1"))
    return line_chart("Loss and its terms", series)


def _validation_chart(run: Run, curves: Mapping) -> Markup | None:
    keys = [key for key in curves if not key.startswith("train/") and not _is_loss(key, curves)]
    if not keys:
        return None
    prefixes = {key.split("/", 1)[0] for key in keys}
    names = [key.split("/", 1)[1] for key in keys]
    series = [
        Series(name if len(prefixes) == 1 else key, curves[key], f"line {style}")
        for key, name, style in zip(keys, names, _metric_styles(names))
    ]
    title = f"Metrics on {' and '.join(sorted(prefixes))}, %"
    best = run.results.get("best_step")
    mark = (best, f"best step {best}") if tables.is_number(best) else None
    return line_chart(title, series, mark)


def _metric_styles(names: Sequence[str]) -> list[str]:
    """A colour per IoU threshold and a dash per n of R@n; other metrics take the colours that are left."""
    headings = [tables.column_heading(name) for name in names]
    thresholds = sorted({under for over, under in headings if over})
    depths = sorted({over for over, _ in headings if over}, key=lambda over: int(over.split("@")[1]))
    rest = [under for over, under in headings if not over]
    return [
        f"s{thresholds.index(under) % 8} dash{depths.index(over) % 3}"
        if over
        else f"s{(len(thresholds) + rest.index(under)) % 8}"
        for over, under in headings
    ]


def _training_notes(run: Run, curves: Mapping) -> list[Markup]:
    notes = []
    size = max(_group_size(points) for key, points in curves.items())
    if size > 1:
        notes.append(f"Each point of a training curve is the mean of up to {size} records.")
    speed = [
        f"{figure(statistics.median(values))} {unit}"
        for key, unit in _SPEEDS.items()
        if (values := [row[key] for row in run.timing if tables.is_number(row.get(key))])
    ]
    if speed:
        notes.append(f"Median of {len(run.timing)} timing records: {', '.join(speed)}.")
    return [tag("p", " ".join(notes), class_="caption")] if notes else []


# --- Breakdown ----------------------------------------------------------------------------------------

_DIVISIONS = {
    "by_length": "Moment length",
    "by_position": "Moment position",
    "by_words": "Query length",
    "by_tag": "Tag",
}


def _breakdown(run: Run) -> list[Markup]:
    metric, headline = _headline_metric(run), _headline_split(run)
    panels = {}
    for name, split in run.results["splits"].items():
        overall = split["rows"][0]["metrics"].get(metric)
        panels[name] = [
            bar_table(title, split[key], metric, overall)
            for key, title in _DIVISIONS.items()
            if split.get(key) and metric
        ]
    panels = {name: tag("div", *tables_, class_="charts three") for name, tables_ in panels.items() if tables_}
    if not panels:
        return []
    first = headline if headline in panels else next(iter(panels))
    caption = f"{metric} of this run on {first}, in percent; the line marks all its queries together."
    rest = [tag("details", tag("summary", name), drawing) for name, drawing in panels.items() if name != first]
    return [tag("p", caption, class_="caption"), panels[first], *rest]


# --- Examples -----------------------------------------------------------------------------------------


def _examples(run: Run) -> list[Markup]:
    drawn = _drawn(run)
    if not drawn:
        return []
    maps = any(_picture(run, example.get("map")) is not None for _, example in drawn)
    parts = [timeline_legend(), map_legend() if maps else None]
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
    return _chosen(run.predictions, _headline_split(run))


def _chosen(predictions: Sequence[Mapping], split: str) -> list[tuple[Mapping, Mapping]]:
    rows = [row for row in predictions if row["split"] == split and tables.is_number(row.get("iou"))]
    rows.sort(key=lambda row: -row["iou"])  # stable: equal ones keep the order of the file
    middle = max((len(rows) - DRAWN) // 2, 0)
    order = {
        "best": range(len(rows))[:DRAWN],
        "median": range(len(rows))[middle : middle + DRAWN],
        "worst": range(len(rows))[::-1][:DRAWN],
    }
    taken: set[int] = set()
    pairs = []
    for kind, places in order.items():
        pairs += [(rows[i], {"kind": kind}) for i in places if i not in taken]
        taken.update(places)
    return pairs


def _card(run: Run, row: Mapping, example: Mapping) -> Markup:
    windows, moments = (
        [span for span in row[field] if all(tables.is_number(t) for t in span[:2])]
        for field in ("relevant_windows", "pred_relevant_windows")
    )
    ends = [span[1] for span in [*windows, *moments]]
    duration = (
        row["duration"] if tables.is_number(row["duration"]) and row["duration"] > 0 else max(ends, default=1)
    )
    clips, scores = (_picture(run, example.get(kind)) for kind in ("clips", "map"))
    iou = f"IoU {row['iou']:.2f}" if tables.is_number(row.get("iou")) else "no IoU"
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
    if name not in run.pictures:
        return None
    scores = trimmed(run.pictures[name])
    return scores if scores.size else None


# --- Configuration and files --------------------------------------------------------------------------


def _configuration(run: Run) -> list[Markup]:
    if not run.config:
        return []
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", _literal(value)))
        for name, value in _flattened(run.config, "")
    ]
    table = tag("div", tag("table", tag("tbody", *rows)), class_="scroll")
    return [tag("details", tag("summary", f"{len(rows)} fields"), table, class_="config")]


def _literal(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _flattened(tree: Mapping, prefix: str) -> list[tuple[str, object]]:
    """('model.name', value) of every leaf, in the order of the file."""
    rows: list[tuple[str, object]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            rows += _flattened(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _files(run: Run) -> list[Markup]:
    pairs = [tag("div", tag("dt", tag("code", name)), tag("dd", _FILES[name])) for name in run.files]
    text = "This page was made of these files, which stand beside it in the working directory."
    return [tag("p", text, class_="caption"), tag("dl", *pairs, class_="files")]


# --- Style --------------------------------------------------------------------------------------------

_FONT = '-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,system-ui,sans-serif'
_STYLE = """
:root{--bg:#fff;--panel:#f5f6f8;--ink:#1b2127;--muted:#56616c;--rule:#d8dde2;--track:#eceff2;
--accent:#0a5c9e;--tint:#eaf3fa;--truth:#b04a06;--mark:#1b2127;
--s0:#0a5c9e;--s1:#b04a06;--s2:#17744a;--s3:#8338a0;--s4:#b32650;--s5:#646b00;--s6:#00757f;--s7:#6e5a48;
--h0:#d5e6ec;--h1:#bad8e1;--h2:#9cc7d4;--h3:#7db4c4;--h4:#5da0b4;--h5:#3b869e;--h6:#236b85;--h7:#13506a;--h8:#07364b}
@media (prefers-color-scheme:dark){:root{
--bg:#12161a;--panel:#1a2026;--ink:#e8ebee;--muted:#9fabb6;--rule:#323b44;
--track:#222a31;--accent:#6fb4f2;--tint:#17293a;--truth:#f2a45f;--mark:#e8ebee;
--s0:#6fb4f2;--s1:#f2a45f;--s2:#62c690;--s3:#d09ce9;--s4:#f58ba3;--s5:#c3c957;--s6:#5bc8d6;--s7:#c2af9c;
--h0:#29414c;--h1:#2b4d5b;--h2:#2f5a6b;--h3:#34697d;--h4:#3d7b90;--h5:#4f8fa4;--h6:#70a9ba;--h7:#9cc6d2;--h8:#d5edf2}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 FONT;
font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:56px 24px 80px}
h1{font-size:32px;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 12px;
overflow-wrap:anywhere}
h2{font-size:20px;line-height:1.3;font-weight:650;margin:0 0 16px}
h3{font-size:16px;font-weight:650;margin:32px 0 12px}
h3 span{font-weight:400;color:var(--muted);font-size:14px;margin-left:12px}
section{margin-top:48px;padding-top:24px;border-top:1px solid var(--rule)}
p{margin:0 0 12px}
.lede{font-size:19px;max-width:44em;margin:0}
.note{color:var(--muted);margin:8px 0 0;max-width:52em}
.caption,.none{color:var(--muted);font-size:14px;max-width:60em;margin:12px 0}
code,.config{
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:13px}
table{border-collapse:collapse}
.scroll{overflow-x:auto}
.metrics{width:100%;font-size:15px}
.metrics th,.metrics td{padding:6px 10px;text-align:right;white-space:nowrap;font-weight:400}
.metrics tr>:first-child{text-align:left;padding-left:12px;position:sticky;left:0;background:var(--bg);
white-space:normal;min-width:130px}
.metrics thead th{color:var(--muted);font-size:13px;padding-top:2px;padding-bottom:2px}
.metrics td{width:9%}
.metrics .group{text-align:center;box-shadow:inset -10px 0 var(--bg),inset 0 -1px var(--rule)}
.metrics thead tr:last-child>*{border-bottom:1px solid var(--rule);padding-bottom:6px}
.metrics .split th,.metrics .split td{padding-top:20px;color:var(--muted);font-size:13px;white-space:nowrap}
.metrics .split span{color:var(--ink);font-weight:650;font-size:15px;margin-right:4px}
.metrics .ours>*,.metrics tr.ours>:first-child{background:var(--tint);font-weight:650}
.metrics .ours>:first-child{box-shadow:inset 3px 0 var(--accent)}
.metrics .trivial th,.metrics .sanity th{color:var(--muted)}
.metrics small{display:block;font-size:12px;font-weight:400;color:var(--muted)}
.overview{margin-bottom:8px}
.metrics.overview tr>:first-child{overflow-wrap:anywhere}
.overview tbody tr>*{border-bottom:1px solid var(--rule)}
.metrics .published th{color:var(--muted);font-style:italic}
.metrics :not(.published)+.published>*{border-top:1px solid var(--rule)}
dl{margin:0}
dd{margin:0;overflow-wrap:anywhere}
dt{color:var(--muted);font-size:13px}
.stamp{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:16px 24px}
.stamp dd{font-size:15px}
.stamp .wide{grid-column:1/-1}
.files div{display:grid;grid-template-columns:180px 1fr;gap:0 16px;padding:4px 0;font-size:14px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:32px 40px}
.charts.three{grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr))}
figure{margin:0;min-width:0}
figcaption{font-weight:650;font-size:15px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:4px 0 0;padding:0;
font-size:13px;color:var(--muted)}
.legend li{display:inline-flex;align-items:center;gap:6px}
svg{display:block;overflow:visible;flex:none}
svg text{font-size:12px;fill:var(--muted)}
svg text.strong{fill:var(--ink);font-weight:650}
.plot{padding:28px 20px 40px 48px}
.grid{stroke:var(--rule)}
.base{stroke:var(--muted)}
.mark{stroke:var(--mark);stroke-dasharray:2 3}
.gap{stroke:var(--bg);stroke-width:5}
.all{stroke:var(--ink);stroke-width:1.5}
.line{fill:none;stroke-width:1.75;stroke-linejoin:round}
.total,.held{stroke:var(--ink)}
.total{stroke-width:2.5}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}
.s4{stroke:var(--s4)}.s5{stroke:var(--s5)}.s6{stroke:var(--s6)}.s7{stroke:var(--s7)}
.dash1{stroke-dasharray:6 4}.dash2{stroke-dasharray:2 3}
circle.line{fill:var(--bg);stroke-dasharray:none}
.hover rect{fill:transparent}
.hover line{stroke:var(--muted);opacity:0;pointer-events:none}
.hover:hover line{opacity:1}
.bars{width:100%;font-size:14px;table-layout:fixed;align-self:start}
.bars col.label{width:104px}
.bars col.value{width:56px}
.bars th,.bars td{font-weight:400;text-align:left;padding:4px 0}
.bars tbody th{overflow-wrap:anywhere;padding-right:8px}
.bars thead th{color:var(--muted);font-size:13px}
.bars thead th:first-child{color:var(--ink);font-weight:650;font-size:15px}
.bars .figure{text-align:right}
.track{fill:var(--track)}
.bar,.predicted{fill:var(--accent)}
.clip{fill:var(--h4)}
.frame{fill:none;stroke:var(--rule)}
.predicted,.truth{stroke-width:1}
.predicted{stroke:var(--accent)}
.truth{fill:var(--truth);stroke:var(--truth)}
article{background:var(--panel);border-radius:8px;padding:16px 20px 20px;margin:0 0 16px}
h4{font-size:16px;line-height:1.4;font-weight:550;margin:0;max-width:52em;overflow-wrap:anywhere}
article header p{color:var(--muted);font-size:13px;margin:2px 0 0;overflow-wrap:anywhere}
article header strong{color:var(--ink)}
.drawings{display:flex;flex-wrap:wrap;gap:8px 40px;align-items:flex-start}
.timeline{flex:1 1 420px;min-width:0;padding:28px 88px 28px 76px}
.mapbox{flex:none;padding:28px 4px 0 36px}
.map{padding-bottom:36px}
.outline,.halo,.cross{fill:none}
.outline{stroke:var(--truth);stroke-width:2}
.cross{stroke:var(--ink);stroke-width:2}
.halo{stroke:var(--panel);stroke-width:5}
.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}.h4{fill:var(--h4)}
.h5{fill:var(--h5)}.h6{fill:var(--h6)}.h7{fill:var(--h7)}.h8{fill:var(--h8)}
details{margin:12px 0}
summary{cursor:pointer;padding:4px 0;font-size:15px}
details .charts{padding:12px 0 20px}
.config summary{font-family:FONT}
.config th{font-weight:400;color:var(--muted);text-align:left;padding:2px 24px 2px 0;vertical-align:top}
.config td{padding:2px 0;overflow-wrap:anywhere}
@media (max-width:600px){
main{padding:28px 16px 48px}
h1{font-size:26px}
.lede{font-size:17px}
section{margin-top:36px;padding-top:20px}
.metrics{font-size:13px}
.metrics th,.metrics td{padding:6px 6px}
.metrics tr>:first-child{min-width:104px;padding-left:8px;max-width:120px}
h3 span{display:block;margin:0}
.metrics small{font-size:11px}
article{margin-left:-16px;margin-right:-16px;border-radius:0;padding:16px}
.timeline{padding:28px 84px 28px 68px;flex-basis:100%}
.stamp{grid-template-columns:1fr 1fr}
.files div{grid-template-columns:1fr;padding:6px 0}
}
""".replace("FONT", _FONT)
