"""The report of a run: one HTML page made of the files in its working directory, and of nothing else.

The page needs no network, script, font or style from outside, and the same files give the same bytes. Its
larger sections are the files *_section.py of this folder; drawings are in charts.py, timelines.py and maps.py,
the choice of metrics in tables.py, the style in page.css.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from vmr_jax.files import write_whole
from vmr_jax.reporting.charts import bar_table
from vmr_jax.reporting.confidence_section import confidence
from vmr_jax.reporting.examples_section import examples
from vmr_jax.reporting.markup import Markup, tag
from vmr_jax.reporting.results_section import protocol, results
from vmr_jax.reporting.run_files import FILES, Run, read_run, whole_files
from vmr_jax.reporting.summary import architecture, headline_metric, headline_split, named, note, summary
from vmr_jax.reporting.training_section import training

_STYLE = pathlib.Path(__file__).with_name("page.css")


def write_report(workdir: pathlib.Path, content: Mapping | None = None) -> pathlib.Path:
    """Writes `workdir`/report.html and returns its path.

    Reads results.json and metrics.jsonl, and, where they exist, config.json, predictions.jsonl,
    examples.json with examples.npz, and timing.jsonl; the section of an absent file is left out.

    Args:
      workdir: the folder.
      content: of results.json, where that is written after the report; None reads the file.

    Raises:
      UserError: one of the two is missing, or a file is not what the writer of its name makes.
    """
    run = read_run(workdir, content)
    path = workdir / "report.html"
    with whole_files(f"{workdir}"):
        page = _page(run)
    write_whole(path, page)
    return path


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
        tag("style", Markup("\n" + _STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "main",
        tag("header", tag("h1", title), summary(run) if run.evaluated else note(run)),
        _section("results", "Results", results(run) if run.evaluated else []),
        _section("confidence", "Confidence", confidence(run) if run.evaluated else []),
        _section("protocol", "Protocol", protocol(run)),
        _section("training", "Training", training(run)),
        _section("breakdown", "Breakdown", _breakdown(run) if run.evaluated else []),
        _section("examples", "Examples", examples(run) if run.evaluated else []),
        _section("configuration", "Configuration", _configuration(run)),
        _section("files", "Files", _files(run)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _section(name: str, heading: str, parts: Sequence[str | None]) -> Markup | None:
    return tag("section", tag("h2", heading), *parts, id=name) if parts else None


def _title(run: Run) -> str:
    dataset = named(run, "dataset")
    return f"{architecture(run)} on {dataset}" if dataset else architecture(run)


_DIVISIONS = {
    "by_length": "Moment length",
    "by_position": "Moment position",
    "by_words": "Query length",
    "by_tag": "Tag",
}


def _breakdown(run: Run) -> list[Markup]:
    metric, headline = headline_metric(run), headline_split(run)
    tables = {}
    for name, split in run.results["splits"].items():
        overall = split["rows"][0]["metrics"].get(metric)
        tables[name] = [
            bar_table(title, split[key], metric, overall)
            for key, title in _DIVISIONS.items()
            if split.get(key) and metric
        ]
    panels = {name: tag("div", *found, class_="charts three") for name, found in tables.items() if found}
    if not panels:
        return []
    first = headline if headline in panels else next(iter(panels))
    caption = f"{metric} of this run on {first}, in percent; the line marks all its queries together."
    rest = [tag("details", tag("summary", name), drawing) for name, drawing in panels.items() if name != first]
    return [tag("p", caption, class_="caption"), panels[first], *rest]


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
    pairs = [tag("div", tag("dt", tag("code", name)), tag("dd", FILES[name])) for name in run.files]
    text = "This page was made of these files, which stand beside it in the working directory."
    return [tag("p", text, class_="caption"), tag("dl", *pairs, class_="files")]
