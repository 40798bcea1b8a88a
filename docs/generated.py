"""The parts of README and site that are made, not written: tables of results/*.csv and of the cards.

In a text, `<!-- table: NAME -->` and `<!-- end -->` enclose the table NAME, which `python docs/generated.py`
writes anew in README.md and docs/*.md. The pages of the methods are made while the site is built
(docs/hooks.py).
"""

import csv
import functools
import importlib
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vmr_jax import published
from vmr_jax.models import architectures
from vmr_jax.models.card import Card
from vmr_jax.modes import survey
from vmr_jax.reporting.tables import column_heading

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows_of(question: str) -> list[dict[str, str]]:
    """The rows of results/`question`.csv."""
    with (ROOT / "results" / f"{question}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cards() -> dict[str, Card]:
    """The card of every architecture, by the name of its file."""
    return {name: importlib.import_module(f"vmr_jax.models.{name}").CARD for name in architectures()}


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _code(name: str) -> str:
    """The name of an architecture as code, the name of anything else as it is."""
    return f"`{name}`" if (ROOT / "vmr_jax" / "models" / f"{name}.py").exists() else name


def _thousands(text: str) -> str:
    """'1927.4' as '1,927.4'."""
    return f"{float(text):,.{len(text.partition('.')[2])}f}" if text else ""


# --- tables of results ----------------------------------------------------------------------------


def storyboard() -> str:
    """R@1,IoU=0.5 of every architecture on the embedded test bed."""
    columns = ("test", "novel_word", "novel_composition", "shifted_position")
    return markdown(
        ["", *(column.replace("_", " ") for column in columns)],
        ([_code(row["row"]), *(row[column] for column in columns)] for row in rows_of("storyboard")),
    )


def films() -> str:
    """R@1,IoU=0.5 on the test bed with pictures."""
    return markdown(
        ["", "val", "test"], ([_code(row["row"]), row["val"], row["test"]] for row in rows_of("films"))
    )


def charades_clip(budget: str) -> str:
    """Every architecture on a part of Charades-STA with CLIP features: the mean over seeds, and the spread."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows_of("charades_clip"):
        if row["split"] == "test" and row["budget"] in ("", budget):
            found.setdefault(row["row"], []).append(row)
    shown = ("r1_iou03", "r1_iou05", "r1_iou07", "r5_iou05", "r5_iou07", "miou")
    ranked = sorted(found.items(), key=lambda item: -statistics.mean(float(row["r1_iou05"]) for row in item[1]))
    return markdown(
        [
            "",
            "seeds",
            *_CLIP_HEADING,
            "blind",
            "shuffled",
            "uses the video",
            "parameters",
            "learning rate",
            "steps",
            "CPU minutes",
        ],
        (
            [
                _code(name),
                str(len(rows)) if rows[0]["seed"] else "",
                *(_spread(rows, column) for column in shown),
                *(_spread(rows, f"{pass_}_r1_iou05") for pass_ in ("blind", "shuffled")),
                "/".join(dict.fromkeys(row["uses_video"] for row in rows)),
                _thousands(rows[0]["parameters"]),
                f"{float(rows[0]['learning_rate']):g}" if rows[0]["learning_rate"] else "",
                _thousands(rows[0]["steps"]),
                _spread(rows, "cpu_minutes"),
            ]
            for name, rows in ranked
        ),
    )


def charades_clip_prior(budget: str) -> str:
    """R@1,IoU=0.5 by where the moment lies, mean over seeds: who finds most where the prior has none first."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows_of("charades_clip_subsets"):
        if row["budget"] in ("", budget):
            found.setdefault(row["row"], []).append(row)
    thirds = ("first", "middle", "last")
    parts = [f"{part}_r1_iou05" for part in (*thirds, *_RE_SPLITS)]
    heads, runs = [*found.values()][:2], [*found.values()][2:]
    runs.sort(key=lambda rows: -float(_mean(rows, "middle_r1_iou05")))
    return markdown(
        ["", *(f"{third} third" for third in thirds), *_RE_SPLITS.values()],
        (
            [
                _code(rows[0]["row"]),
                *(_mean(rows, part) if len(rows) > 1 else rows[0][part] for part in parts),
            ]
            for rows in [*heads, *runs]
        ),
    )


def _mean(rows: Sequence[dict[str, str]], column: str) -> str:
    return f"{statistics.mean(float(row[column]) for row in rows):.2f}"


def span_study(split: str) -> str:
    """What was tried with span predictors, best by short moments first: of any length, and short ones."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows_of("span_study"):
        if row["split"] == split:
            found.setdefault(row["row"], {})[row["longest_share"]] = row
    shares = ("1", "0.5")
    shown = ("r1_iou05", "r1_iou07", "blind_r1_iou05", "uses_video")
    heading = ("R@1 .5", "R@1 .7", "blind", "uses the video")
    return markdown(
        ["", "settings", "steps", "nats", *heading, *(f"{title}, short" for title in heading)],
        (
            [
                _code(rows["1"]["architecture"]) if rows["1"]["steps"] else name,
                _settings(rows["1"]["settings"]),
                _thousands(rows["1"]["steps"]),
                " / ".join(rows["1"][f"{end}_nats"] for end in ("start", "end") if rows["1"][f"{end}_nats"]),
                *(rows.get(share, {}).get(column, "") for share in shares for column in shown),
            ]
            for name, rows in sorted(found.items(), key=lambda item: -_best(item[1]))
        ),
    )


def _best(rows: dict[str, dict[str, str]]) -> float:
    """R@1,IoU=0.5 of short moments, of a trivial answer its only one."""
    return float(rows.get("0.5", rows["1"])["r1_iou05"])


def _settings(text: str) -> str:
    """'dataset.extra_queries=, model.heads=2' as the flags that set it."""
    return ", ".join(f"`{field}`" for field in text.split(", ") if field)


_RE_SPLITS = {  # part of the test split -> its heading
    "iid": "CD iid",
    "ood": "CD ood",
    "trivial": "CG trivial",
    "composition": "CG composition",
    "word": "CG word",
}
_CLIP_SIZES = ("parameters", "steps", "CPU minutes")
_CLIP_HEADING = ("R@1 .3", "R@1 .5", "R@1 .7", "R@5 .5", "R@5 .7", "mIoU")


def _spread(rows: Sequence[dict[str, str]], column: str) -> str:
    """'40.45' of one row, '40.45 ± 0.77' of several: mean and standard deviation; '' where it is empty."""
    if not rows[0][column]:
        return ""
    values = [float(row[column]) for row in rows]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def charades_clip_sizes() -> str:
    """R@1,IoU=0.5 / R@1,IoU=0.7 of two architectures at other sizes on the same part, a line each."""
    found: dict[str, dict[str, str]] = {}
    for row in rows_of("charades_clip_sizes"):
        found.setdefault(row["row"], {})[row["seed"] or "mean"] = f"{row['r1_iou05']} / {row['r1_iou07']}"
    seeds = ("0", "1", "2", "mean")
    return markdown(
        ["", "seed 0", "seed 1", "seed 2", "mean"],
        ([_named(name), *(values.get(seed, "") for seed in seeds)] for name, values in found.items()),
    )


def _named(row: str) -> str:
    name, comma, rest = row.partition(",")
    return f"{_code(name)}{comma}{rest}"


def search() -> str:
    """Milliseconds of one search beside other programs over float32 rows, and shares of the machine."""
    columns = ("float32", "bfloat16", "int8", "int8_float32", "blas", "usearch", "faiss")
    shares = ("read_of_blas", "of_peak")
    return markdown(
        [
            *("moments", "queries", "float32", "bfloat16", "int8", "int8+float32"),
            *("BLAS", "usearch", "FAISS flat", "read, of BLAS", "of the peak"),
        ],
        (
            [
                _thousands(row["moments"]),
                _thousands(row["queries"]),
                *(_thousands(row[column]) for column in columns),
                *(f"{float(row[column]):.0%}" if row[column] else "" for column in shares),
            ]
            for row in rows_of("search")
        ),
    )


def latency() -> str:
    """Milliseconds of a query at the size of Charades-STA."""
    columns = ("text_encoding_ms", "matching_ms", "total_per_query_ms", "once_a_video_ms")
    return markdown(
        ["model", "text encoding", "matching", "total per query", "once a video"],
        (
            [_code(row["model"]), *(row[column] for column in columns)]
            for row in rows_of("latency")
            if row["dataset"] == "charades_sta"
        ),
    )


def training() -> str:
    """Training steps beside PyTorch: of each setting the line that was measured last."""
    last = {(row["model"], row["setting"], row["dtype"]): row for row in rows_of("training")}
    figures = ("step_ms", "examples_per_second", "percent_of_peak")
    rivals = ("eager_ms", "times_eager", "compiled_ms", "times_compiled")
    return markdown(
        ["model", "setting", "batch", "step, ms", "examples/s", "of the peak, %"]
        + ["eager, ms", "times as fast", "compiled, ms", "times as fast", ""],
        (
            [
                *(_code(row["model"]), f"`{row['setting']}`", row["batch"]),
                *(_thousands(row[column]) for column in (*figures, *rivals)),
                row["note"],
            ]
            for row in last.values()
        ),
    )


def official() -> str:
    """An epoch beside the official programs: of each pair the line that was measured last."""
    last = {row["name"]: row for row in rows_of("official")}
    figures = [f"{side}_{figure}" for figure in ("s", "cpu_s", "start_s") for side in ("ours", "theirs")]
    return markdown(
        ["model", "times as fast", "of the CPU time", "ours, s", "theirs, s", "CPU, s", "theirs, CPU, s"]
        + ["start, s", "theirs, start, s", "theirs"],
        (
            [_code(name), f"{row['times']} ({row['times_low']} to {row['times_high']})", row["times_cpu"]]
            + [*(row[column] for column in figures), row["note"]]
            for name, row in last.items()
        ),
    )


def dead_work() -> str:
    """Operations of the convolutions over moment maps, done and needed: of each setting the last line."""
    last = {(row["model"], row["setting"]): row for row in rows_of("dead_work")}
    figures = ("convolutions", "done_gflop", "needed_gflop", "times", "cells_times")
    return markdown(
        ["model", "setting", "convolutions", "done, GFLOP", "needed", "times", "cells, times"],
        (
            [_code(row["model"]), f"`{row['setting']}`", *(row[column] for column in figures)]
            for row in last.values()
        ),
    )


def start() -> str:
    """Seconds from the command to the first step: of each architecture the last."""
    last = {(row["model"], row["cache"]): row for row in rows_of("start")}
    figures = ("seconds", "imports_s", "data_s", "compile_s", "cpu_s")
    return markdown(
        ["model", "cache", "to the first step, s", "imports", "data", "compiling", "CPU, s"],
        ([_code(row["model"]), row["cache"], *(row[column] for column in figures)] for row in last.values()),
    )


def growth() -> str:
    """Exponents of what a training step takes in each length: of all points, and of the last two."""
    found: dict[tuple[str, str], dict[int, dict[str, str]]] = {}
    for row in rows_of("growth"):
        found.setdefault((row["model"], row["axis"]), {})[int(row["length"])] = row
    quantities = ("operations", "temporary_bytes", "cpu_seconds")
    return markdown(
        ["model", "over", "from", "to", "mathematics", "operations", "temporaries", "CPU time"],
        (
            [
                *(_code(model), axis, f"{min(rows):,}", f"{max(rows):,}", rows[max(rows)]["mathematics"]),
                *(_exponents(rows, quantity) for quantity in quantities),
            ]
            for (model, axis), rows in sorted(found.items())
        ),
    )


def _exponents(rows: dict[int, dict[str, str]], quantity: str) -> str:
    """'1.53, last 1.93' of the lengths that have the quantity, and up to which where not all do; '' of one."""
    points = [(x, float(row[quantity])) for x, row in sorted(rows.items()) if row[quantity]]
    if len(points) < 2:
        return ""
    upto = f" (to {points[-1][0]:,})" if len(points) < len(rows) else ""
    return f"{_exponent(points):.2f}, last {_exponent(points[-2:]):.2f}{upto}"


def _exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through the logarithms by least squares."""
    return statistics.linear_regression(*([math.log(x) for x in part] for part in zip(*points))).slope


# --- of the cards ---------------------------------------------------------------------------------


def architecture_table() -> str:
    """A line per architecture: what it is, and what it reaches on the test bed."""
    reached = {row["row"]: row["test"] for row in rows_of("storyboard")}
    return markdown(
        ["file", "paper", "family", "supervision", "official checkpoint", "`storyboard`"],
        (
            [
                f"[`{name}`](vmr_jax/models/{name}.py)",
                card.citation,
                f"{card.family}: {card.kind}",
                card.supervision,
                "imported" if _imported(name) else "",
                reached.get(name, ""),
            ]
            for name, card in cards().items()
        ),
    )


def _imported(name: str) -> bool:
    return (ROOT / "vmr_jax" / "torch_import" / f"{name}.py").exists()


def methods() -> str:
    """The same with the features; docs/hooks.py turns its links into those to the pages of the methods."""
    return markdown(
        ["method", "paper", "family", "supervision", "features of the paper", "official code"],
        (
            [
                f"[`{name}`](../vmr_jax/models/{name}.py)",
                card.citation,
                f"{card.family}: {card.kind}",
                card.supervision,
                card.features,
                card.official_code,
            ]
            for name, card in cards().items()
        ),
    )


def method_page(name: str, card: Card) -> str:
    """The page of an architecture."""
    facts = (
        ("Paper", f"*{card.title}*, {card.citation}"),
        ("Family", f"{card.family}: {card.kind}"),
        ("Supervision", card.supervision),
        ("Features of the paper", card.features),
        ("Official code", card.official_code or "nobody published any"),
        ("Official checkpoints", "`--mode=import` reads them" if _imported(name) else "cannot be imported"),
    )
    parts = [f"# {name}\n", "".join(f"- **{label}**: {text}\n" for label, text in facts)]
    parts.append(
        f"`python launch.py --config=configs/{name}.py` trains it on the embedded test bed. Read the file "
        f"`vmr_jax/models/{name}.py` from top to bottom."
    )
    if card.equations:
        parts.append(f"It names, at the lines that compute them, Eq. {', '.join(map(str, card.equations))}.")
    if card.sections:
        parts.append(f"It names the sections {', '.join(card.sections)} of the paper.")
    lists = (("Choices that are ours", card.ours), ("What was verified", card.verified))
    parts += [f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) for title, lines in lists if lines]
    parts += [*_published(name), *_measured(name), *_fields(name)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _published(name: str) -> list[str]:
    """The published numbers, a line for each source and setting."""
    found: dict[tuple[str, ...], list[str]] = {}
    for number in published.numbers():
        if number.architecture == name:
            data = f"{number.dataset} {number.version}".rstrip()
            key = (data, number.split, number.features, number.variant, number.source, number.note)
            found.setdefault(key, []).append(f"{number.metric} {number.value:.2f}")
    if not found:
        return []
    heading = ["dataset", "split", "features", "variant", "in %", "source", "note"]
    rows = [[*key[:4], "; ".join(values), *key[4:]] for key, values in found.items()]
    text = "Quoted, from `vmr_jax/published.csv`; none was measured here."
    return ["## Published numbers", text, markdown(heading, rows)]


def _measured(name: str) -> list[str]:
    """The section on its rows of the test bed; nothing where it has none."""
    columns = {"test": "test", "novel_word": "novel word", "novel_composition": "novel composition"}
    columns["shifted_position"] = "shifted position"
    found = [[row[column] for column in columns] for row in rows_of("storyboard") if row["row"] == name]
    if not found:
        return []
    text = "R@1,IoU=0.5 in % on `storyboard`, a generated test bed that says nothing about real video:"
    return ["## Measured", text, markdown([*columns.values()], found)]


def _fields(name: str) -> list[str]:
    """Its hyper-parameters, from the docstring of the class."""
    return ["## Hyper-parameters", f"::: vmr_jax.models.{name}.Model\n    options:\n      heading_level: 3"]


# --- what papers report ---------------------------------------------------------------------------


def survey_page() -> str:
    """The page of `--mode=survey`: published rows beside those of this library, a table for each split."""
    parts = [
        "# What papers report",
        "Every number that a paper, or the README of its code, prints and `vmr_jax/published.csv` holds, in % "
        f"(times in ms), beside the rows of `{survey.OURS}` that stand in `results/`. Quoted rows were not "
        "measured here: protocols, features and splits differ between papers even where their names agree, and "
        "sources that conflict stand side by side. A ? means that the source does not state the features. A "
        f"source marked {published.UNCONFIRMED} is quoted from memory: no text that was read has the number.",
        "The same as text, CSV or a page, of one dataset or of one kind of features:",
        "    python launch.py --mode=survey --dataset=tacos --feature=c3d --output=survey.csv",
    ]
    for title, metrics, rows in survey.tables([*survey.stored(), *survey.measured(survey.RESULTS)]):
        heading = ["method", "features", "source", *(" ".join(column_heading(m)).strip() for m in metrics)]
        parts += [
            f"## {title}",
            markdown(heading, ([*survey.names(row), *survey.values(row, metrics)] for row in rows)),
        ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "architectures": architecture_table,
    "charades_clip_10": functools.partial(charades_clip, "10"),
    "charades_clip_3": functools.partial(charades_clip, "3"),
    "charades_clip_prior": functools.partial(charades_clip_prior, "3"),
    "charades_clip_sizes": charades_clip_sizes,
    "dead_work": dead_work,
    "films": films,
    "growth": growth,
    "latency": latency,
    "methods": methods,
    "official": official,
    "search": search,
    "span_study_test": functools.partial(span_study, "test"),
    "span_study_val": functools.partial(span_study, "val"),
    "start": start,
    "storyboard": storyboard,
    "training": training,
}


def pages() -> list[Path]:
    """README and the written pages of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str) -> str:
    """The text with every table between its marks written anew; KeyError for a name that is none."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


if __name__ == "__main__":
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)} was written.\n")
