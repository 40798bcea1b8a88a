"""The report: a page of the files of a run, section by section."""

import json
import re

import pytest
from page_reader import parse, report_of, section_ids
from run_folder import METRICS, add_sanity, edit_results, metrics_near, write_lines, write_run

from vmr_jax.reporting.page import write_report
from vmr_jax.reporting.tables import results_table

ALL = ["results", "protocol", "training", "breakdown", "examples", "configuration", "files"]


def test_sections_in_order(run):
    page = report_of(run)
    assert section_ids(page) == ALL
    assert page.one("h1").text == "FVMR on storyboard"
    assert page.one("head").one("title").text == "FVMR on storyboard"


@pytest.mark.parametrize("splits", [("val",), ("test",), ("val", "test", "test_words", "test_new", "test_far")])
def test_any_number_of_splits(tmp_path, splits):
    page = report_of(write_run(tmp_path / "run", splits))
    assert section_ids(page) == ALL
    headings = [
        node.one("span").text for node in page.one("table", class_="results").all("th", scope="rowgroup")
    ]
    assert headings == list(splits)
    # The breakdown of one split is open, those of the others are folded.
    folded = [node.one("summary").text for node in page.one("section", id="breakdown").all("details")]
    shown = "test" if "test" in splits else splits[0]
    assert folded == [name for name in splits if name != shown]


def test_nothing_comes_from_outside(run):
    source = write_report(run).read_text(encoding="utf-8")
    page = parse(source)
    names = {node.name for node in page.all()}
    assert not names & {
        "script",
        "link",
        "img",
        "image",
        "iframe",
        "object",
        "embed",
        "use",
        "base",
        "foreignobject",
    }
    for node in page.all():
        assert not {"src", "href", "xlink:href", "srcset", "style"} & set(node.attributes), node.name
        assert not any(key.startswith("on") for key in node.attributes)
    assert "://" not in source and "url(" not in source and "@import" not in source


def test_every_attribute_of_a_drawing_is_a_number_or_a_known_word(run):
    for node in report_of(run).all():
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if key in node.attributes:
                assert re.fullmatch(r"-?\d+(\.\d+)?%?|width=device-width", node.attributes[key]), (
                    node.attributes
                )


def test_summary_names_our_figure_and_the_best_trivial_one(run):
    rows = json.loads((run / "results.json").read_text())["splits"]["test"]["rows"]
    trivial = max((row["metrics"]["R@1,IoU=0.5"], row["name"]) for row in rows[1:4])
    lede = report_of(run).one("p", class_="lede").text.replace("\xa0", " ")
    assert lede == (
        f"On the 360 queries of test, FVMR reaches {rows[0]['metrics']['R@1,IoU=0.5']:.2f} % in R@1,IoU=0.5; "
        f"the best trivial answer ({trivial[1]}) reaches {trivial[0]:.2f} %."
    )


def test_summary_follows_the_selection_metric_and_ignores_published_rows(run):
    def change(results):
        results["protocol"]["selection"] = "val mIoU"
        results["splits"]["test"]["rows"] = [
            {"name": "fvmr (this run)", "metrics": {"mIoU": 31.256, "R@1,IoU=0.5": 40.0}},
            {"name": "whole video", "metrics": {"mIoU": 20.0}},
            {"name": "random span", "metrics": {"mIoU": float("nan")}},
            {"name": "published, vgg", "metrics": {"mIoU": 90.0}},
        ]

    edit_results(run, change)
    lede = report_of(run).one("p", class_="lede").text.replace("\xa0", " ")
    assert "fvmr reaches 31.26 % in mIoU" in lede
    assert "(whole video) reaches 20.00 %" in lede


def test_quoted_rows_are_no_trivial_answers(run):
    """'official repository, i3d' is a quoted row: by its field, or by its name in a file of 0.1."""

    def quote(results, **fields):
        results["splits"]["test"]["rows"] = [
            {"name": "vslnet (this run)", "metrics": {"R@1,IoU=0.5": 40.0}},
            {"name": "random span", "metrics": {"R@1,IoU=0.5": 8.0}},
            {"name": "official repository, i3d", "metrics": {"R@1,IoU=0.5": 54.38}, **fields},
        ]

    for fields in ({}, {"kind": "published", "source": "official repository"}):
        edit_results(run, lambda results, fields=fields: quote(results, **fields))
        page = report_of(run)
        assert "the best trivial answer (random span) reaches 8.00" in page.one("p", class_="lede").text
        rows = list(page.one("table", class_="results").all("tbody"))[1].all("tr")
        assert [node.attributes["class"] for node in rows] == ["split", "ours", "trivial", "published"]
    edit_results(
        run, lambda results: quote(results, kind="published", source="Zhang et al. 2020", note="a remark")
    )
    assert report_of(run).one("tr", class_="published").one("small").text == "Zhang et al. 2020; a remark"
    text = " ".join(results_table(json.loads((run / "results.json").read_text())).split())
    assert "official repository, i3d: Zhang et al. 2020; a remark. Protocol:" in text


def test_table_holds_the_figures_of_results_json(run):
    results = json.loads((run / "results.json").read_text())
    table = report_of(run).one("table", class_="results")
    bodies = list(table.all("tbody"))
    assert len(bodies) == 2
    for body, split in zip(bodies, results["splits"].values()):
        rows = list(body.all("tr"))[1:]
        assert len(rows) == len(split["rows"])
        for node, row in zip(rows, split["rows"]):
            assert node.one("th").text == row["name"]
            expected = [f"{row['metrics'][name]:.2f}" if name in row["metrics"] else "—" for name in METRICS]
            assert [cell.text for cell in node.all("td")] == expected
    kinds = [node.attributes["class"] for node in bodies[1].all("tr")]
    assert kinds == ["split", "ours", "trivial", "trivial", "trivial", "published"]


def test_sanity_rows_and_intervals_are_shown_and_explained(run):
    edit_results(run, lambda results: add_sanity(results, 12.5, 30.25, 40.123, 48.5))
    page = report_of(run)
    body = list(page.one("table", class_="results").all("tbody"))[1]
    assert [node.attributes["class"] for node in body.all("tr")][1:4] == ["ours", "sanity", "sanity"]
    assert body.one("tr", class_="ours").one("small").text == "40.12–48.50"
    text = page.one("section", id="results").text
    assert (
        "95% bootstrap intervals" in text and "Shuffled video: the features in a random temporal order" in text
    )
    # The best trivial answer is none of them, and both lie below the interval: nothing to be found fault with.
    header = next(page.all("header")).text
    assert "blind" not in header and "shuffled" not in header


def test_without_sanity_rows_or_intervals_nothing_is_explained(run):
    text = report_of(run).one("section", id="results").text
    assert "bootstrap" not in text and "Shuffled" not in text


@pytest.mark.parametrize(
    ("blind", "shuffled", "found"),
    [
        (40.0, 39.9, ["blind (no video)"]),  # the low end itself is not below
        (10.0, 47.0, ["shuffled video"]),
        (60.0, 60.0, ["blind (no video)", "shuffled video"]),
    ],
)
def test_sanity_rows_that_are_not_below_the_interval_are_named(run, blind, shuffled, found):
    edit_results(run, lambda results: add_sanity(results, blind, shuffled, 40.0, 48.0))
    notes = [node.text for node in report_of(run).all("p", class_="note")][:-1]
    assert [re.search("“(.*)”", note)[1] for note in notes] == found
    for note in notes:
        assert "not below the 95\xa0% interval of this run, 40.00 to 48.00" in note


@pytest.mark.parametrize(
    ("lost", "first"),
    [
        (
            ([-1.0, 3.0], [-2.0, 2.0]),
            "FVMR does not use the video, as far as these queries tell: with the video hidden it reaches "
            "30.00 % in R@1,IoU=0.5 in place of ",
        ),
        (
            ([5.0, 9.0], [-2.0, 2.0]),
            "FVMR does not use the video in its order of time, as far as these queries tell: with its clips "
            "shuffled it reaches 31.00 % in R@1,IoU=0.5 in place of ",
        ),
        (([5.0, 9.0], [0.5, 2.0]), "On the 360 queries of test, FVMR reaches"),
    ],
)
def test_the_first_sentence_says_that_the_video_is_not_used(run, lost, first):
    edit_results(run, lambda results: add_sanity(results, 30.0, 31.0, 28.0, 48.0, lost))
    page = report_of(run)
    lede = page.one("p", class_="lede").text.replace("\xa0", " ")
    assert lede.startswith(first)
    unused = [ends for ends in lost if ends[0] <= 0][:1]
    assert [f"paired: {low:.2f} to {high:.2f})" in lede for low, high in unused] == [True] * len(unused)
    assert len(list(page.all("p", class_="note"))) == 1  # of results.json: nothing is said twice


def test_score_and_strength_are_two_words(run):
    examples = report_of(run).one("section", id="examples")
    assert "on the scale of the architecture" in examples.text and "from 0 to 1" in examples.text
    assert "score" not in "".join(node.text for node in examples.all("div", class_="mapbox"))


HOSTILE = "\x1b[31mred\x1b[0m \x07 \u202e[/bold] <b>"
SHOWN = "\\x1b[31mred\\x1b[0m \\x07 \\u202e[/bold] <b>"


def test_terminal_codes_are_shown_and_not_obeyed(run):
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    write_lines(run / "predictions.jsonl", [{**row, "query": HOSTILE, "vid": HOSTILE} for row in rows])

    def change(results):
        results["note"] = HOSTILE
        results["splits"][HOSTILE] = results["splits"].pop("val")
        results["splits"]["test"]["rows"][1]["name"] = HOSTILE

    edit_results(run, change)
    page = report_of(run)
    assert {node.text for node in page.all("h4")} == {SHOWN}
    assert page.one("p", class_="note").text == SHOWN
    assert not set("\x1b\x07\u202e") & set(write_report(run).read_text())
    table = results_table(json.loads((run / "results.json").read_text()))
    assert not set("\x1b\x07\u202e") & set(table) and table.count("\\x1b[31mred") == 3


@pytest.mark.parametrize(("splits", "shown"), [(("val", "test"), False), (("val", "test", "test_ood"), True)])
def test_overview_of_more_than_two_splits(tmp_path, splits, shown):
    folder = write_run(tmp_path / "run", splits)
    tables = list(report_of(folder).one("section", id="results").all("table"))
    assert ["overview" in table.attributes["class"].split() for table in tables] == [True, False][1 - shown :]
    if shown:
        results = json.loads((folder / "results.json").read_text())
        for node, (name, split) in zip(
            tables[0].one("tbody").all("tr"), results["splits"].items(), strict=True
        ):
            assert node.one("th").text == f"{name} {split['count']} queries"
            ours = split["rows"][0]["metrics"]
            columns = ("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "mIoU")
            assert [cell.text for cell in node.all("td")] == [f"{ours[column]:.2f}" for column in columns]


def test_tags_are_a_part_of_the_breakdown(run):
    groups = [{"label": "after", "count": 7, "metrics": metrics_near(20, 0)}]
    edit_results(run, lambda results: results["splits"]["test"].update(by_tag=groups))
    panels = list(report_of(run).one("section", id="breakdown").all("table", class_="bars"))
    assert [panel.one("tbody").all("tr").__next__().one("th").text for panel in panels[:4]][3] == "after"
    assert panels[3].one("thead").one("tr").text.startswith("Tag")


def test_counts_of_the_splits_are_written_out(run):
    def change(results):
        results["protocol"].update(splits={"val": 400, "test": 360}, selected_on_test=True)

    edit_results(run, change)
    last = list(report_of(run).one("dl", class_="stamp").all("div"))[-1]
    assert (last.one("dt").text, last.one("dd").text) == ("splits", "val 400, test 360")


def test_table_heading_spans_every_column(run):
    edit_results(run, lambda r: r["splits"]["val"]["rows"][0]["metrics"].update({"R@1,IoU=0.1": 80, "mAP": 30}))
    above, below = report_of(run).one("table", class_="results").one("thead").all("tr")
    spans = [(node.text, int(node.attributes["colspan"])) for node in above.all("th")]
    # mIoU stands between R@5 and the further R@1, so that no group reaches across it.
    assert spans == [("R@1, IoU =", 3), ("R@5, IoU =", 3), ("", 1), ("R@1, IoU =", 1), ("", 1)]
    assert [n.text for n in below.all("th")] == ["0.3", "0.5", "0.7"] * 2 + ["mIoU", "0.1", "mAP"]


@pytest.mark.parametrize(("strict", "sign"), [(True, "IoU > m"), (False, "IoU ≥ m")])
def test_table_says_what_counts_as_a_hit(run, strict, sign):
    edit_results(run, lambda results: results["protocol"].update(strict=strict))
    assert sign in report_of(run).one("section", id="results").text


def test_protocol_stamp_shows_every_field(run):
    results = json.loads((run / "results.json").read_text())
    stamp = report_of(run).one("dl", class_="stamp")
    shown = dict(zip([n.text for n in stamp.all("dt")], [n.text for n in stamp.all("dd")]))
    assert set(shown) == {key.replace("_", " ") for key in results["protocol"]} | {"step", "best step"}
    assert (shown["strict"], shown["nms threshold"], shown["best step"]) == ("no", "0.5", "800")


def test_texts_are_escaped(run):
    hostile = "</h4><script>alert('1')</script> a < b & \"c\" 'd' &amp;"
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row.update(query=hostile, vid=hostile)
    write_lines(run / "predictions.jsonl", rows)
    (run / "config.json").write_text(json.dumps({"dataset": {"name": hostile}, hostile: hostile}))

    def change(results):
        results["note"] = hostile
        results["protocol"]["features"] = hostile
        results["splits"][hostile] = results["splits"].pop("val")
        for row in results["splits"]["test"]["rows"]:
            row["name"] += hostile
        results["splits"]["test"]["by_length"][0]["label"] = hostile

    edit_results(run, change)
    write_lines(run / "metrics.jsonl", [{"step": 1, f"train/{hostile}": 1.0, "train/other": 2.0}])
    page = report_of(run)
    assert not list(page.all("script"))
    assert {node.text for node in page.all("h4")} == {hostile}
    assert page.one("p", class_="note").text == hostile
    assert hostile in [node.text for node in page.one("table", class_="results").all("span")]
    assert hostile in [node.text for node in page.one("section", id="breakdown").all("th")]
    assert hostile in [node.text for node in page.one("section", id="configuration").all("td")]
    assert hostile in [node.text for node in page.one("section", id="training").all("li")]
    assert any(hostile in node.attributes.get("aria-label", "") for node in page.all("svg"))


def test_same_files_give_the_same_bytes(tmp_path):
    first = write_report(write_run(tmp_path / "a"))
    again = write_report(write_run(tmp_path / "b")).read_bytes()
    assert first.read_bytes() == again
    assert write_report(tmp_path / "a").read_bytes() == again
    assert first == tmp_path / "a" / "report.html"


def test_curve_of_many_records_is_thinned(run):
    write_lines(run / "metrics.jsonl", [{"step": s, "train/loss": float(s % 2)} for s in range(1, 1001)])
    training = report_of(run).one("section", id="training")
    # 1000 records in groups of ceil(1000 / 150) = 7: 142 groups and a rest of 6 records, the last at 1000.
    path = training.one("path", class_="total").attributes["d"]
    points = [tuple(float(v) for v in p.split()) for p in path[1:].split("L")]
    assert len(points) == 143
    # First group: steps 1..7, values 1 0 1 0 1 0 1, mean 4/7, at step 7. Ticks 0 .. 0.6: 200 (1 - (4/7) / 0.6).
    assert points[0] == pytest.approx((7.0, 200 * (1 - (4 / 7) / 0.6)), abs=0.005)
    assert points[-1][0] == 1000
    assert "mean of up to 7 records" in training.text


def test_of_two_records_of_one_step_the_later_counts(run):
    records = [{"step": 2, "train/loss": 9.0}, {"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 0.0}]
    write_lines(run / "metrics.jsonl", records)
    path = report_of(run).one("section", id="training").one("path", class_="total")
    assert path.attributes["d"] == "M500 0L1000 200"  # step 1 of 2 at the top, then zero


def test_breakdown_bars(run):
    results = json.loads((run / "results.json").read_text())["splits"]["test"]
    panel = next(report_of(run).one("section", id="breakdown").all("table", class_="bars"))
    for node, group in zip(panel.one("tbody").all("tr"), results["by_length"]):
        value = group["metrics"]["R@1,IoU=0.5"]
        assert node.one("th").text == group["label"]
        assert [cell.text for cell in node.all("td")][1:] == [f"{value:.2f}", str(group["count"])]
        assert node.one("rect", class_="bar").attributes["width"] == f"{value:.4g}%"
        overall = node.one("line", class_="all").attributes["x1"]
        assert overall == f"{results['rows'][0]['metrics']['R@1,IoU=0.5']:.4g}%"


def test_configuration_is_folded_and_named_as_flags_are(run):
    details = report_of(run).one("section", id="configuration").one("details")
    assert "open" not in details.attributes
    shown = {row.one("th").text: row.one("td").text for row in details.all("tr")}
    assert shown["model.name"] == "fvmr"
    assert shown["model.scale_layers"] == "[15]"
    assert shown["evaluation.strict"] == "false" and shown["evaluation.note"] == "null"
    assert shown["dataset.root"] == '""'
    assert shown["optimizer.rules"] == '[[".*", {"weight_decay": 0.01}]]'
    assert len(shown) == 5 + 4 + 3 + 3 + 1


def contrast(a, b):
    """WCAG 2.1 contrast ratio of two #rrggbb or #rgb colours."""

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_their_ground(run, scheme):
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    style = report_of(run).one("style").text
    colours = dict(re.findall(r"--(\w+):(#\w+)", re.findall(r":root\{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("bg", "panel", "tint"):
        for text in ("ink", "muted"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for drawn in ("accent", "truth", "mark", *(f"s{i}" for i in range(8))):
        for ground in ("bg", "panel"):
            assert contrast(colours[drawn], colours[ground]) >= 3, (drawn, ground)
    assert contrast(colours["accent"], colours["track"]) >= 3
    # The colours of a map go one way from the ground: each stands out from it more than the one before.
    ramp = [contrast(colours[f"h{i}"], colours["panel"]) for i in range(9)]
    assert ramp == sorted(ramp) and ramp[0] > 1.15 and ramp[8] > 9
