"""`--mode=survey`: what papers report beside what was measured here: method, dataset, features, metric."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vmr_jax import published
from vmr_jax.configs import datasets
from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.files import write_whole
from vmr_jax.reporting.markup import Markup, join, tag
from vmr_jax.reporting.tables import MISSING, column_heading

KEY = ("dataset", "version", "split", "features", "method", "variant", "source")
FORMATS = (".txt", ".csv", ".html")
OURS = "this library"
RESULTS = Path(__file__).resolve().parents[2] / "results"  # of the clone that the package lies in
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2rem}table{border-collapse:collapse;margin:0 0 2rem}"
    "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}tr.ours{background:#eef6ee}"
)


def survey(dataset: str | None = None, feature: str | None = None, output: str | None = None) -> None:
    """Prints the tables, or writes them.

    Args:
      dataset: only of this one.
      feature: only of this option, such as 'c3d'; 'unknown' for those whose source does not state them.
      output: file to write, text, CSV or HTML by its ending; None prints text.
    """
    rows = selected([*stored(), *measured(RESULTS)], dataset, feature)
    text = _as(output, rows)
    if output:
        write_whole(user_path(output), text)
        print(f"{output} has {len(rows)} rows of papers and of this library.")
    else:
        print(text, end="")


def stored(numbers: Iterable[published.Number] | None = None) -> list[dict[str, Any]]:
    """Published rows: `KEY`, 'note' and 'metrics', {name: number}."""
    found: dict[tuple, dict[str, Any]] = {}
    for n in published.numbers() if numbers is None else numbers:
        key = (n.dataset, n.version, n.split, n.features, n.architecture, n.variant, n.source)
        row = found.setdefault(key, {**dict(zip(KEY, key)), "note": n.note, "metrics": {}})
        row["metrics"][n.metric] = n.value
    return list(found.values())


def measured(folder: Path) -> list[dict[str, Any]]:
    """Rows of results/*.csv in the same form; none where the folder is absent, as in an installed package."""
    rows = []
    for row in _read(folder / "storyboard.csv"):
        for split in ("test", "novel_word", "novel_composition", "shifted_position"):
            name = split if split == "test" else f"test_{split}"
            metrics = {"R@1,IoU=0.5": float(row[split])} if row[split] else {}
            rows.append(_ours("storyboard", name, "rgb", row["row"], "", metrics, "a generated test bed"))
    for row in _read(folder / "charades_clip.csv"):
        method, _, variant = row["row"].partition(", ")
        if row["split"] != "test":
            continue
        seed = f"{row['budget']} CPU minutes, seed {row['seed']}" if row["seed"] else ""
        metrics = {"R@1,IoU=0.5": float(row["r1_iou05"]), "R@1,IoU=0.7": float(row["r1_iou07"])}
        note = "a part of Charades-STA, divided anew: not the official split"
        rows.append(
            _ours("charades_sta", "re-split", "clip", method, f"{variant}; {seed}".strip("; "), metrics, note)
        )
    for row in _read(folder / "latency.csv"):
        columns = ("text_encoding_ms", "matching_ms", "total_per_query_ms")
        metrics = {n: float(row[c]) for n, c in zip(published.TIMES, columns) if row[c]}
        rows.append(_ours(row["dataset"], "test", "", row["model"], "", metrics, row["machine"]))
    return [row for row in rows if row["metrics"]]


def _ours(dataset, split, features, method, variant, metrics, note) -> dict[str, Any]:
    values = (dataset, "", split, features, method, variant, OURS)
    return {**dict(zip(KEY, values)), "note": note, "metrics": metrics}


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def selected(rows: Sequence[dict[str, Any]], dataset: str | None, features: str | None) -> list[dict[str, Any]]:
    """The rows of a dataset and of features; UserError that names the nearest where there are none."""
    if dataset and dataset not in datasets.DATASETS:
        raise unknown("There is no dataset", dataset, datasets.DATASETS)
    kept = [row for row in rows if not dataset or row["dataset"] == dataset]
    known = sorted({row["features"] or "unknown" for row in kept})
    if features and features not in known:
        raise unknown("No row has the features", features, known)
    return [row for row in kept if not features or (row["features"] or "unknown") == features]


# --- forms ----------------------------------------------------------------------------------------


def _as(output: str | None, rows: Sequence[dict[str, Any]]) -> str:
    form = Path(output).suffix if output else ".txt"
    if form not in FORMATS:
        raise UserError(f"--output={output} ends in '{form}'; its ending says the form: {', '.join(FORMATS)}.")
    return {".txt": as_text, ".csv": as_csv, ".html": as_html}[form](rows)


def tables(rows: Sequence[dict[str, Any]]) -> list[tuple[str, tuple[str, ...], list[dict[str, Any]]]]:
    """(title, metrics, rows) of each dataset, version and split; methods by name, this library's rows last."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:3]), []).append(row)
    found = []
    for place, members in sorted(groups.items()):
        metrics = tuple(sorted({name for row in members for name in row["metrics"]}, key=_metric_order))
        members = sorted(members, key=lambda row: (row["source"] == OURS, row["method"].lower(), row["source"]))
        found.append((", ".join(part for part in place if part), metrics, members))
    return found


def _metric_order(name: str) -> tuple:
    return (name in published.TIMES, published.TIMES.index(name) if name in published.TIMES else 0, name)


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each dataset, version and split."""
    out = io.StringIO()
    for title, metrics, members in tables(rows):
        cells = [["method", "features", "source", *(" ".join(column_heading(m)).strip() for m in metrics)]]
        cells += [[*names(row), *values(row, metrics)] for row in members]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        out.write(f"{title}\n")
        for line in cells:
            left = [cell.ljust(width) for cell, width in zip(line[:3], widths)]
            right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:])]
            out.write("  " + "  ".join(left + right).rstrip() + "\n")
        out.write("\n")
    return out.getvalue()


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One number a line: `KEY`, metric, value, note."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*KEY, "metric", "value", "note"))
    for row in rows:
        for metric, value in row["metrics"].items():
            writer.writerow((*(row[name] for name in KEY), metric, value, row["note"]))
    return out.getvalue()


def as_html(rows: Sequence[dict[str, Any]]) -> str:
    """A page of tables; what a reader must know of a row is its tooltip."""
    parts = []
    for title, metrics, members in tables(rows):
        heading = tag("tr", *(tag("th", name) for name in ("method", "features", "source", *metrics)))
        lines = [
            tag(
                "tr",
                *(tag("td", cell) for cell in (*names(row), *values(row, metrics))),
                class_="ours" if row["source"] == OURS else None,
                title=row["note"] or None,
            )
            for row in members
        ]
        parts += [tag("h2", title), tag("table", heading, *lines)]
    head = tag("head", tag("meta", charset="utf-8"), tag("title", "Survey"), tag("style", Markup(_STYLE)))
    body = tag("body", tag("h1", "What papers report, and what this library reached"), join(parts))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def names(row: dict[str, Any]) -> tuple[str, str, str]:
    """Method with its variant, features and source of a row."""
    method = ", ".join(part for part in (row["method"], row["variant"]) if part)
    return method, row["features"] or "?", row["source"]


def values(row: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """Its numbers, with two decimals."""
    return [f"{row['metrics'][name]:.2f}" if name in row["metrics"] else MISSING for name in metrics]
