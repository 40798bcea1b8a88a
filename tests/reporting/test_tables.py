"""The plain-text table of results."""

import json
import re

from page_reader import report_of
from run_folder import METRICS, add_sanity, edit_results

from vmr_jax.reporting.tables import STANDARD, TRIVIAL, metric_columns, results_table, row_kind


def test_text_table_holds_the_figures(run):
    results = json.loads((run / "results.json").read_text())
    text = results_table(results)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    for split in results["splits"].values():
        for row in split["rows"]:
            expected = [f"{row['metrics'][name]:.2f}" if name in row["metrics"] else "—" for name in METRICS]
            assert re.search(rf"^ *{re.escape(row['name'])} +{' +'.join(expected)}$", text, re.MULTILINE), row
    assert "test, 360 queries" in text and results["note"] in text
    # One blank line parts what was measured from what was published.
    lines = text.splitlines()
    published = next(i for i, line in enumerate(lines) if "published" in line)
    assert lines[published - 1] == "" and "random span" in lines[published - 2]


def test_text_table_has_the_interval_under_this_run(run):
    edit_results(run, lambda results: add_sanity(results, 12.5, 30.25, 40.123, 48.5))
    lines = results_table(json.loads((run / "results.json").read_text())).splitlines()
    assert max(map(len, lines)) <= 100
    ours = max(i for i, line in enumerate(lines) if "(this run)" in line)
    # R@1,IoU=0.5 is the second of seven columns.
    assert lines[ours + 1].split("from")[1].split() == ["—", "40.12", *"—————"]
    assert lines[ours + 2].split() == ["to", "—", "48.50", *"—————"]
    assert lines[ours + 3].split()[:3] == ["blind", "(no", "video)"]


def test_text_table_has_no_interval_in_a_block_without_one(run):
    def change(results):
        add_sanity(results, 12.5, 30.25, 40.123, 48.5)
        results["splits"]["test"]["rows"][0]["metrics"]["dR@1,IoU=0.5"] = 33.0

    edit_results(run, change)
    text = results_table(json.loads((run / "results.json").read_text()))
    assert text.count("test, 360 queries") == 2 and text.count("95% interval") == 1
    assert "dR@n" in report_of(run).one("section", id="results").text


def test_text_table_ends_with_the_protocol(run):
    def change(results):
        results["protocol"].update(splits={"val": 400, "test": 360}, convention="lgi", feature_dim=64)

    edit_results(run, change)
    results = json.loads((run / "results.json").read_text())
    text = " ".join(results_table(results).split())
    assert (
        "Protocol: moment_retrieval; IoU >= m; NMS 0.5; kept 5; val 400, test 360; "
        "selected by val R@1,IoU=0.5. "
        "Data: dataset storyboard; convention lgi; features rgb; feature dim 64; seed 0; version 0.1.0. "
    ) in text
    assert text.endswith(results["note"])
    results["protocol"].update(selected_on_test=True, selection="test R@1,IoU=0.5")
    assert "SELECTED ON THE SPLIT REPORTED: test R@1,IoU=0.5." in " ".join(results_table(results).split())


def test_text_table_columns_are_aligned(run):
    text = results_table(json.loads((run / "results.json").read_text()))
    rows = [line for line in text.splitlines() if re.match(r" *(FVMR|whole|best|random|published|IoU)", line)]
    ends = [[m.end() for m in re.finditer(r"(—|\d+\.\d\d|IoU=0\.\d|mIoU)(?= |$)", line)] for line in rows]
    assert len(ends) == 2 * 5 + 1 and all(end == ends[0] for end in ends)


def test_text_table_of_many_metrics_and_markup():
    metrics = {f"R@{n},IoU={m}": 10.0 * n + m for n in (1, 5, 10) for m in (0.1, 0.3, 0.5, 0.7)}
    metrics |= {"mAP": 1.0, "dR@1,IoU=0.5": 2.0}
    rows = [{"name": "[bold]x[/bold] (this run)", "metrics": metrics}, {"name": "n" * 300, "metrics": {}}]
    text = results_table({"splits": {"test": {"count": 3, "rows": rows}}})
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "[bold]x[/bold]" in text
    # Seven standard columns; others are R@1 and R@5 at 0.1, four R@10, mAP, dR@1: 15 in blocks of 7, 7, 1.
    assert text.count("test, 3 queries") == 3
    assert "100.30" in text and "50.10" in text


def test_columns_of_another_protocol():
    rows = [
        {"name": "x (this run)", "metrics": {"MR-full-mAP": 30.0}},
        {"name": "y", "metrics": {"HL-Hit1": 50.0}},
    ]
    results = {"splits": {"val": {"count": 1, "rows": rows}}}
    assert metric_columns(results) == ("MR-full-mAP", "HL-Hit1")
    ranks = {"splits": {"val": {"rows": [{"metrics": {"Rank@1": 1.0, "Rank@5": 5.0, "mIoU": 2.0}}]}}}
    assert metric_columns(ranks) == ("Rank@1", "Rank@5", "mIoU")
    assert "30.00" in results_table(results)
    rows[1]["metrics"]["mIoU"] = 1.0
    assert metric_columns(results) == (*STANDARD, "MR-full-mAP", "HL-Hit1")
    assert list(STANDARD) == METRICS


def test_text_table_is_bold_on_a_terminal(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[1m" in results_table(json.loads((run / "results.json").read_text()))


def test_kinds_of_rows():
    """The field says it; without one, the names that an evaluation gives."""
    assert row_kind({"name": "whole video", "kind": "published"}) == "published"
    names = ("x (this run)", "blind (no video)", "shuffled video", *TRIVIAL, "in the VDI paper")
    assert [row_kind({"name": name}) for name in names] == [
        "run",
        *["sanity"] * 2,
        *["trivial"] * 3,
        "published",
    ]
