"""A report of files that are absent, empty, broken or odd."""

import json
import os

import pytest
from page_reader import report_of, section_ids
from run_folder import METRICS, edit_results, write_lines

from vmr_jax.errors import UserError
from vmr_jax.reporting.page import write_report

ALL = ["results", "protocol", "training", "breakdown", "examples", "configuration", "files"]


@pytest.mark.parametrize(
    ("name", "absent"),
    [("config.json", "configuration"), ("predictions.jsonl", "examples"), ("timing.jsonl", None)],
)
def test_optional_files(run, name, absent):
    (run / name).unlink()
    page = report_of(run)
    assert section_ids(page) == [section for section in ALL if section != absent]
    assert name not in page.one("section", id="files").text
    if name == "timing.jsonl":
        assert "steps/s" not in page.one("section", id="training").text


def test_without_optional_parts_of_results(run):
    def change(results):
        del results["protocol"], results["note"], results["step"], results["best_step"]
        for split in results["splits"].values():
            del split["by_length"], split["by_position"], split["by_words"]

    edit_results(run, change)
    for name in ("config.json", "predictions.jsonl", "timing.jsonl", "examples.json", "examples.npz"):
        (run / name).unlink()
    page = report_of(run)
    assert section_ids(page) == ["results", "training", "files"]
    assert page.one("h1").text == "FVMR"


@pytest.mark.parametrize(
    ("name", "mode"), [("results.json", "--mode=evaluate"), ("metrics.jsonl", "--config=")]
)
def test_missing_file_names_the_command(run, name, mode):
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing.*launch\.py {mode}"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("content", ["{}", "[]", '{"splits": {}}', '{"splits": [1]}'])
def test_results_without_splits(run, content):
    (run / "results.json").write_text(content)
    with pytest.raises(UserError, match='results.json: the field "splits"'):
        write_report(run)


def test_results_with_a_broken_split(run):
    edit_results(run, lambda results: results["splits"]["test"]["rows"][1].pop("metrics"))
    with pytest.raises(UserError, match='split "test", row 2: the field "metrics" is missing'):
        write_report(run)
    edit_results(run, lambda results: results["splits"]["test"].update(rows=[]))
    with pytest.raises(UserError, match='split "test": it has no row'):
        write_report(run)


@pytest.mark.parametrize("damage", [b'{"split": "te', b"\xff\xfe{", b"\x00"])
def test_a_damaged_line_is_named_and_loses_nothing_after_it(run, caplog, damage):
    caplog.set_level("WARNING", "vmr_jax")
    for name in ("predictions.jsonl", "metrics.jsonl"):
        lines = (run / name).read_bytes().splitlines()
        (run / name).write_bytes(b"\n".join(lines[:2] + lines[3:]) + b"\n")
    without = write_report(run).read_bytes()
    assert not caplog.text
    for name in ("predictions.jsonl", "metrics.jsonl"):
        lines = (run / name).read_bytes().splitlines()
        (run / name).write_bytes(b"\n".join([*lines[:2], damage, *lines[2:]]) + b"\n")
    assert write_report(run).read_bytes() == without
    for name in ("predictions.jsonl", "metrics.jsonl"):
        assert f"{name}: 1 line is damaged, line 3, left out here; the others are read" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("examples.npz", "PK", r"examples\.npz is damaged \("),
        ("examples.json", "[" * 100_000, r"examples\.json: this is not JSON"),
        ("config.json", "[1]", "cannot be shown .*one of its files is damaged"),
        ("predictions.jsonl", None, r"predictions\.jsonl cannot be read \(it is no regular file\)"),
    ],
)
def test_a_damaged_file_is_one_line(run, name, content, message):
    (run / name).unlink()
    if content is None:
        os.mkfifo(run / name)
    else:
        (run / name).write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        write_report(run)
    assert "\n" not in str(refused.value)


def test_a_line_of_a_log_without_a_step_is_left_out(run):
    """Infinity is what JSON makes of 1e400."""
    before = report_of(run).one("section", id="training").text
    for name in ("metrics.jsonl", "timing.jsonl"):
        text = (run / name).read_text()
        (run / name).write_text('{"step": 1e400, "train/loss": 1}\n{"step": "x", "train/loss": 2}\n' + text)
    assert report_of(run).one("section", id="training").text == before


def test_a_record_without_a_field_is_named(run):
    lines = (run / "predictions.jsonl").read_text().splitlines()
    lines[2] = json.dumps({"split": "test", "qid": "1"})
    (run / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r'predictions\.jsonl, record 3: the field "vid" is missing'):
        write_report(run)


def test_a_line_torn_by_a_kill_is_no_line(run):
    whole = write_report(run).read_bytes()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 910, "train/lo')
    assert write_report(run).read_bytes() == whole


def test_no_metric_at_all(run):
    (run / "metrics.jsonl").write_text("")
    page = report_of(run)
    assert section_ids(page) == ALL
    assert page.one("section", id="training").text == "Trainingmetrics.jsonl holds no value."


def test_one_point_is_a_dot(run):
    write_lines(run / "metrics.jsonl", [{"step": 50, "epoch": 1.0, "train/loss": 0.5, "val/mIoU": 12.0}])
    training = report_of(run).one("section", id="training")
    assert len(list(training.all("figure"))) == 2
    # The loss: the only step is the end of the axis; ticks 0, 0.1 ... 0.5, so that 0.5 is at the top.
    dot = training.one("circle", class_="total").attributes
    assert (dot["cx"], dot["cy"]) == ("100%", "0")
    # The metrics: best_step 800 is the end of the axis, 50 / 800 = 6.25 %; ticks 0, 5, 10, 15; 200 * 3 / 15.
    dot = training.one("circle", class_="s0").attributes
    assert (dot["cx"], dot["cy"]) == ("6.25%", "40")
    assert not list(training.all("path"))


def test_values_that_are_not_finite(run):
    nan, inf = float("nan"), float("inf")
    records = [
        {"step": s, "train/loss": v, "val/mIoU": nan} for s, v in ((1, inf), (2, nan), (3, None), (4, -inf))
    ]
    write_lines(run / "metrics.jsonl", records)

    def change(results):
        for row in results["splits"]["test"]["rows"]:
            row["metrics"] = dict.fromkeys(METRICS, nan) | {"mIoU": None}
        results["splits"]["test"]["by_length"][0]["metrics"] = {"mIoU": nan}

    edit_results(run, change)
    page = report_of(run)
    assert page.one("p", class_="lede").text == "On the 360 queries of test, FVMR has no finite metric."
    assert [node.text for node in page.all("p", class_="none")] == ["No value was recorded."] * 2
    figures = [cell.text for cell in list(page.one("table", class_="results").all("tbody"))[1].all("td")]
    assert set(figures) == {"", "—"}
    for node in page.all():
        assert not any(
            "nan" in value for key, value in node.attributes.items() if key in {"d", "x", "y", "cx", "cy"}
        )
