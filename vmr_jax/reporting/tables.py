"""The table of results: which columns it has, how a figure is written, and its plain-text form."""

import io
import re
import sys
from collections.abc import Mapping, Sequence

from vmr_jax.errors import is_number, printable
from vmr_jax.evaluation.rows import SANITY, TRIVIAL

STANDARD = (
    "R@1,IoU=0.3",
    "R@1,IoU=0.5",
    "R@1,IoU=0.7",
    "R@5,IoU=0.3",
    "R@5,IoU=0.5",
    "R@5,IoU=0.7",
    "mIoU",
)
MISSING = "—"
INTERVAL_ENDS = ("  95% interval over videos, from", "                              to")
_DATA = (
    "dataset",
    "convention",
    "dataset_version",
    "features",
    "feature_dim",
    "vectors",
    "tokenizer",
    "model",
    "init_from",
    "seed",
    "version",
)
_WIDTH = 100
_PER_BLOCK = 7  # metric columns that fit beside a name in _WIDTH


def metric_columns(results: Mapping) -> tuple[str, ...]:
    """Names of the metrics to show, in order: the field's seven, then the others of any row.

    The seven (R@1 and R@5 at IoU 0.3, 0.5, 0.7, and mIoU) stand together even where a row lacks some;
    they are left out where no row has any, as in protocols that measure something else, and where segments are
    ranked ('Rank@1'), whose mIoU is another.
    """
    found = [name for split in results["splits"].values() for row in split["rows"] for name in row["metrics"]]
    ranks = any(name.startswith("Rank@") for name in found)
    standard = STANDARD if set(found) & set(STANDARD) and not ranks else ()
    return (*standard, *dict.fromkeys(name for name in found if name not in standard))


def column_heading(metric: str) -> tuple[str, str]:
    """Two lines of a heading: 'R@1,IoU=0.5' is ('R@1', '0.5'); another name is ('', name)."""
    match = re.fullmatch(r"(d?R@\d+),IoU=([\d.]+)", metric)
    return (match[1], match[2]) if match else ("", metric)


def percent(value: float | None) -> str:
    """A metric in percent with two decimals; an em dash where there is none."""
    return f"{value:.2f}" if is_number(value) else MISSING


def row_kind(row: Mapping) -> str:
    """The kind of a row of results.json.

    - 'run': measured with this run's checkpoint;
    - 'sanity': the same checkpoint on videos that were hidden or shuffled;
    - 'trivial': a predictor that sees neither video nor sentence;
    - 'published': quoted, from the row's 'source'.

    Rows without the field 'kind', of runs of version 0.1, are told apart by their names: any name that no
    evaluation gives is that of a quoted row.
    """
    if "kind" in row:
        return row["kind"]
    name = row["name"]
    if name in SANITY.values():
        return "sanity"
    if name in TRIVIAL:
        return "trivial"
    return "run" if name.endswith("(this run)") else "published"


def source_of(row: Mapping) -> str:
    """Who states the figures of a quoted row, and what a reader must know of them; empty for any other."""
    source = "" if row.get("source", "") in row["name"] else row["source"]
    return "; ".join(part for part in (source, row.get("note")) if part)


def _sources(results: Mapping) -> list[str]:
    """A line for each quoted row that has a source."""
    rows = [row for split in results["splits"].values() for row in split["rows"]]
    return list(dict.fromkeys(f"{row['name']}: {source_of(row)}." for row in rows if source_of(row)))


def results_table(results: Mapping) -> str:
    """The plain-text table printed at the end of a run, at most 100 columns wide.

    One block per split; in it this run with its intervals, the sanity and trivial rows, a blank line, the
    published rows. More than seven metrics continue in a further block. Below, the protocol and the note. Bold
    and colour only where standard output is a terminal.

    Args:
      results: the content of results.json: {'splits': {name: {'count', 'rows': [{'name', 'metrics'}]}}},
        where a row may have 'intervals' {metric: [low, high]}; 'protocol' and 'note' may be absent.
    """
    console = _console()
    columns = metric_columns(results)
    for name, split in results["splits"].items():
        for first in range(0, max(len(columns), 1), _PER_BLOCK):
            console.print(_block(name, split, columns[first : first + _PER_BLOCK]))
    for line in (*_sources(results), *protocol_lines(results.get("protocol") or {}), results.get("note")):
        if line:
            console.print(printable(line), markup=False, highlight=False)
    return _printed(console)


def differences_table(name: str, split: Mapping) -> str:
    """The plain-text table of how runs differ from the first of them, at most 100 columns wide.

    Args:
      name: of the split.
      split: of compare.json: {'count', 'videos', 'differences': [{'run', 'against', 'difference', 'interval',
        'p'}]}, the last three {metric: ...}; 'p_holm' where p was corrected.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    differences = split["differences"]
    title = (
        f"{name}, {split['count']} queries of {split['videos']} videos: difference from "
        f"{differences[0]['against']}, %"
    )
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=Text(printable(title), style="bold"),
        title_justify="left",
    )
    headings = [
        "",
        "",
        "difference",
        "95% interval",
        "p",
        *(["p (Holm)"] if "p_holm" in differences[0] else []),
    ]
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right")
    for row in differences:
        for i, (metric, gain) in enumerate(row["difference"].items()):
            low, high = row["interval"][metric]
            chances = [f"{row[p][metric]:.4f}" for p in ("p", "p_holm") if p in row]
            cells = [
                row["run"] if i == 0 else "",
                metric,
                f"{gain:+.2f}",
                f"{low:+.2f} to {high:+.2f}",
                *chances,
            ]
            last = i == len(row["difference"]) - 1
            table.add_row(
                *(Text(printable(cell)) for cell in cells), end_section=last and row is not differences[-1]
            )
    console = _console()
    console.print(table)
    return _printed(console)


def _console():
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        file=io.StringIO(),
        width=_WIDTH,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        legacy_windows=False,
    )


def _printed(console) -> str:
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _block(name: str, split: Mapping, columns: Sequence[str]):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Cells are Text, because rich reads square brackets in a str as markup.
    title = Text(printable(f"{name}, {split['count']} queries, %"), style="bold")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        over, under = column_heading(column)
        heading = Text(printable(f"{over}\nIoU={under}" if over else f"\n{under}"))
        table.add_column(heading, justify="right", vertical="bottom", min_width=7)
    for i, row in enumerate(split["rows"]):
        figures = [percent(row["metrics"].get(column)) for column in columns]
        following = split["rows"][i + 1 : i + 2]
        table.add_row(
            *(Text(text) for text in (printable(row["name"]), *figures)),
            style="bold" if i == 0 else None,
            end_section=bool(following) and row_kind(following[0]) == "published" != row_kind(row),
        )
        intervals = row.get("intervals") or {}
        for end, label in enumerate(INTERVAL_ENDS if set(intervals) & set(columns) else ()):
            ends = [percent(intervals.get(column, (None, None))[end]) for column in columns]
            table.add_row(*(Text(text) for text in (label, *ends)))
    return table


def protocol_lines(protocol: Mapping) -> list[str]:
    """Two lines that say what the numbers were measured with: of the protocol, and of the data.

    Args:
      protocol: 'protocol' of results.json; what it lacks is left out.
    """
    splits = protocol.get("splits") or {}
    measured = (
        ("", protocol.get("name")),
        ("", protocol.get("comparison")),
        ("NMS", protocol.get("nms_threshold")),
        ("kept", protocol.get("kept")),
        ("", ", ".join(f"{name} {count}" for name, count in splits.items())),
        (
            "SELECTED ON THE SPLIT REPORTED:" if protocol.get("selected_on_test") else "selected by",
            protocol.get("selection"),
        ),
    )
    data = [(field.replace("_", " "), protocol.get(field)) for field in _DATA]
    lines = [
        "; ".join(f"{label} {value}".strip() for label, value in pairs if value not in (None, ""))
        for pairs in (measured, data)
    ]
    return [f"{title}: {line}." for title, line in zip(("Protocol", "Data"), lines) if line]
