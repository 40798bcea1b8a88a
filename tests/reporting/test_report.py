"""The report: a page of the files of a run, its drawings, and the plain-text table."""

import html.parser
import json
import math
import re

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.reporting.drawings import (
    Series,
    best_iou,
    figure,
    heat_map,
    level,
    line_chart,
    nearest_cell,
    number,
    ticks,
    ticks_around,
    timeline,
    trimmed,
)
from vmr_jax.reporting.page import write_report
from vmr_jax.reporting.tables import STANDARD, metric_columns, results_table

METRICS = [f"R@{n},IoU={m}" for n in (1, 5) for m in (0.3, 0.5, 0.7)] + ["mIoU"]
SENTENCES = [
    "The cook pours water into the pot again.",
    "After closing the fridge, she cuts an onion.",
    "A person opens the door.",
    "He puts the red cup on the shelf before the dog runs in.",
    "Somebody washes a plate in the sink.",
]


def metrics_near(level, seed):
    """Metrics in percent that fall with the threshold and rise with n."""
    noise = np.random.default_rng(seed).uniform(-2, 2, len(METRICS))
    base = np.asarray([1.25, 1.0, 0.65, 1.7, 1.5, 1.2, 0.9]) * level
    return {name: round(float(v), 4) for name, v in zip(METRICS, np.clip(base + noise, 0, 100))}


def split_result(level, count, seed, published=False):
    """One entry of results.json's splits."""
    rows = [
        {"name": "FVMR (this run)", "metrics": metrics_near(level, seed)},
        {
            "name": "whole video",
            "metrics": {k: v for k, v in metrics_near(14, seed + 1).items() if "@5" not in k},
        },
        {"name": "best span of the training prior", "metrics": metrics_near(22, seed + 2)},
        {"name": "random span", "metrics": metrics_near(11, seed + 3)},
    ]
    if published:
        metrics = {"R@1,IoU=0.5": 53.33, "R@1,IoU=0.7": 32.15, "R@5,IoU=0.5": 85.11, "R@5,IoU=0.7": 60.32}
        rows.append({"name": "published, i3d", "metrics": metrics})

    def groups(labels):
        return [
            {"label": label, "count": 23 + 40 * i, "metrics": metrics_near(level - 12 + 8 * i, seed + i)}
            for i, label in enumerate(labels)
        ]

    return {
        "count": count,
        "rows": rows,
        "by_length": groups(["0-5 s", "5-10 s", "10-20 s", "20-40 s", "over 40 s"]),
        "by_position": groups(["first third", "middle third", "last third"]),
        "by_words": groups(["1-4 words", "5-8 words", "9-12 words", "over 12 words"]),
    }


def metric_records(steps=900, every=10):
    """Lines of metrics.jsonl: three terms, validation every 100 steps."""
    rng = np.random.default_rng(0)
    records = []
    for step in range(every, steps + 1, every):
        terms = {
            f"train/{name}": a * math.exp(-step / b) + c + 0.02 * float(rng.random())
            for name, a, b, c in (("match", 0.7, 200, 0.2), ("align", 0.3, 120, 0.1), ("rank", 0.2, 400, 0.05))
        }
        rate = 2e-3 * min(1.0, step / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))
        records.append(
            {
                "step": step,
                "epoch": step / 112.5,
                "train/loss": sum(terms.values()),
                **terms,
                "train/grad_norm": 1.5 * math.exp(-step / 300) + float(rng.random()),
                "train/learning_rate": rate,
            }
        )
        if step % 100 == 0:
            level = 45 * (1 - math.exp(-step / 250)) - (2 if step > 800 else 0)
            values = {f"val/{k}": v for k, v in metrics_near(level, step).items()}
            loss = {"val/loss": 0.45 + 0.7 * math.exp(-step / 150)}
            records.append({"step": step, "epoch": step / 112.5, **values, **loss})
    return records


def prediction_rows(split, count, seed):
    """Lines of predictions.jsonl, IoU computed from the first moment."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        duration = round(float(rng.uniform(20, 60)), 1)
        start = float(rng.uniform(0, duration * 0.7))
        end = min(duration, start + float(rng.uniform(3, 14)))
        shift = float(rng.choice([0.2, 1.5, 12.0]))
        moments = []
        for k in range(5):
            a = float(np.clip(start + rng.normal(0, shift * (1 + k)), 0, duration - 2))
            b = float(np.clip(end + rng.normal(0, shift * (1 + k)), a + 1, duration))
            moments.append([round(a, 3), round(b, 3), round(0.93 - 0.11 * k - 0.1 * float(rng.random()), 4)])
        a, b = moments[0][:2]
        overlap = max(0.0, min(b, end) - max(a, start))
        rows.append(
            {
                "split": split,
                "qid": f"{split}-{i}",
                "vid": f"video{i // 4:04d}",
                "query": SENTENCES[i % len(SENTENCES)],
                "duration": duration,
                "relevant_windows": [[round(start, 3), round(end, 3)]],
                "pred_relevant_windows": moments,
                "iou": overlap / ((b - a) + (end - start) - overlap),
            }
        )
    return rows


def score_map(row, n=16):
    """[n,n] scores that fall with the distance from the first prediction; NaN below the diagonal."""
    a, b = (n * t / row["duration"] for t in row["pred_relevant_windows"][0][:2])
    i, j = np.mgrid[:n, :n]
    scores = 0.9 * np.exp(-((i - a) ** 2 + (j + 1 - b) ** 2) / 20) + 0.02
    return np.where(j >= i, scores, np.nan).astype(np.float32)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder, splits=("val", "test")):
    """A whole working directory of a run that never was."""
    folder.mkdir(exist_ok=True)
    config = {
        "model": {"name": "fvmr", "features": 96, "num_clips": 16, "scale_layers": [15], "warmup_epochs": 2},
        "dataset": {"name": "storyboard", "features": "rgb", "queries_per_video": 4, "root": ""},
        "optimizer": {"name": "adamw", "learning_rate": 0.002, "rules": [[".*", {"weight_decay": 0.01}]]},
        "evaluation": {"nms_threshold": 0.5, "strict": False, "note": None},
        "seed": 0,
    }
    results = {
        "step": 900,
        "best_step": 800,
        "protocol": {
            "name": "moment_retrieval",
            "strict": False,
            "comparison": "IoU >= m",
            "nms_threshold": 0.5,
            "kept": 5,
            "selection": "val R@1,IoU=0.5",
            "dataset": "storyboard",
            "features": "rgb",
            "seed": 0,
            "version": "0.1.0",
        },
        "note": "storyboard is a generated test bed; its numbers say nothing about real video.",
        "splits": {
            name: split_result(44 - 4 * i, 400 - 40 * i, 10 * i, published=name == "test")
            for i, name in enumerate(splits)
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", metric_records())
    rows = [row for i, name in enumerate(splits) for row in prediction_rows(name, 40, i)]
    write_lines(folder / "predictions.jsonl", rows)
    timing = [
        {"step": s, "steps_per_second": 5 + s / 1000, "examples_per_second": 160.0, "compile_seconds": 12.34}
        for s in range(100, 901, 100)
    ]
    write_lines(folder / "timing.jsonl", timing)
    ours = sorted((row for row in rows if row["split"] == splits[-1]), key=lambda row: -row["iou"])
    drawn = [("best", 0), ("best", 1), ("median", 19), ("median", 20), ("worst", 39), ("worst", 38)]
    arrays, examples = {}, []
    for i, (kind, place) in enumerate(drawn):
        arrays[f"map_{i}"] = score_map(ours[place])
        arrays[f"clips_{i}"] = np.nan_to_num(score_map(ours[place])).max(1)
        name = {"map": f"map_{i}", "clips": f"clips_{i}" if i % 2 else None}
        examples.append({"qid": ours[place]["qid"], "split": splits[-1], "kind": kind, **name})
    np.savez(folder / "examples.npz", **arrays)
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    return folder


# --- The page as a reader's browser sees it -----------------------------------------------------------


class Node:
    """An element of a parsed page."""

    def __init__(self, name, attributes):
        self.name, self.attributes, self.children = name, dict(attributes), []

    def all(self, name=None, **attributes):
        """Elements below this one, in order of the page; `class_` must be among the classes."""
        wanted = attributes.pop("class_", None)
        for child in self.children:
            if isinstance(child, Node):
                classes = child.attributes.get("class", "").split()
                same = all(child.attributes.get(key) == value for key, value in attributes.items())
                if (name is None or child.name == name) and same and (wanted is None or wanted in classes):
                    yield child
                yield from child.all(name, **attributes, **({"class_": wanted} if wanted else {}))

    def one(self, name=None, **attributes):
        (found,) = self.all(name, **attributes)
        return found

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Page(html.parser.HTMLParser):
    """Builds the tree and fails on an element that is not closed in order."""

    def __init__(self, source):
        super().__init__()
        self.root = Node("root", [])
        self._open = [self.root]
        self.feed(source)
        self.close()
        assert self._open == [self.root], "not closed at the end"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        node = Node(tag, attrs)
        self._open[-1].children.append(node)
        self._open.append(node)

    def handle_startendtag(self, tag, attrs):
        self._open[-1].children.append(Node(tag, attrs))

    def handle_endtag(self, tag):
        assert self._open.pop().name == tag

    def handle_data(self, data):
        self._open[-1].children.append(data)


def parse(source):
    return Page(source).root


def report_of(folder):
    return parse(write_report(folder).read_text(encoding="utf-8"))


def section_ids(page):
    return [node.attributes["id"] for node in page.all("section")]


ALL = ["results", "protocol", "training", "breakdown", "examples", "configuration", "files"]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def edit_results(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


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


def add_sanity(results, blind, shuffled, low, high):
    """Gives the test split rows of the sanity checks, and this run an interval of R@1,IoU=0.5."""
    rows = results["splits"]["test"]["rows"]
    rows[0]["intervals"] = {"R@1,IoU=0.5": [low, high]}
    rows[1:1] = [
        {"name": name, "metrics": {"R@1,IoU=0.5": value}}
        for name, value in (("blind (no video)", blind), ("shuffled video", shuffled))
    ]


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


# --- What may be absent, empty or broken --------------------------------------------------------------


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


def test_a_broken_line_is_named(run):
    lines = (run / "predictions.jsonl").read_text().splitlines()
    lines[2] = lines[2][:30]
    (run / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 3: this is not JSON"):
        write_report(run)
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


def test_examples_without_pictures(run):
    (run / "examples.npz").unlink()
    examples = report_of(run).one("section", id="examples")
    assert len(list(examples.all("article"))) == 6
    assert not list(examples.all("div", class_="mapbox")) and not list(examples.all("path", class_="clip"))


def test_examples_show_the_listed_pictures(run):
    examples = report_of(run).one("section", id="examples")
    cards = list(examples.all("article"))
    assert [len(list(card.all("div", class_="mapbox"))) for card in cards] == [1] * 6
    # write_run gives the second, fourth and sixth a clip curve.
    assert [len(list(card.all("path", class_="clip"))) for card in cards] == [0, 1, 0, 1, 0, 1]


def test_examples_of_another_evaluation_are_not_drawn(run):
    examples = json.loads((run / "examples.json").read_text())
    examples[0]["qid"] = "gone"
    (run / "examples.json").write_text(json.dumps(examples))
    assert len(list(report_of(run).one("section", id="examples").all("article"))) == 5


def test_examples_chosen_by_iou_without_examples_json(run):
    (run / "examples.json").unlink()
    rows = prediction_rows("test", 8, 0)
    for row, iou in zip(rows, (0.1, 0.8, 0.3, 0.8, 0.0, 0.5, 0.9, 0.4)):
        row["iou"] = iou
    write_lines(run / "predictions.jsonl", [*prediction_rows("val", 3, 1), *rows])
    examples = report_of(run).one("section", id="examples")
    qids = [card.one("p").text.rsplit("query ", 1)[1] for card in examples.all("article")]
    # By IoU, equal ones in order of the file: 6 1 3 5 7 2 0 4. Best 6 1 3. Median: three from place
    # (8 - 3) // 2 = 2, of which 3 is taken: 5 7. Worst, from the end: 4 0 2.
    assert qids == [f"test-{i}" for i in (6, 1, 3, 5, 7, 4, 0, 2)]
    assert [node.text.split("The")[0] for node in examples.all("h3")] == ["Best", "Median", "Worst"]


def test_one_query_is_drawn_once(run):
    (run / "examples.json").unlink()
    write_lines(run / "predictions.jsonl", prediction_rows("test", 1, 0))
    assert len(list(report_of(run).one("section", id="examples").all("article"))) == 1


def test_odd_predictions(run):
    (run / "examples.json").unlink()
    base = {"split": "test", "vid": "v", "duration": 10.0, "relevant_windows": [[2.0, 4.0]], "iou": 0.0}
    nan = float("nan")
    rows = [
        {**base, "qid": 1, "query": "word " * 300, "pred_relevant_windows": []},
        {
            **base,
            "qid": 2,
            "query": "",
            "pred_relevant_windows": [[nan, nan, 0.5], [3, 3, nan], [-5, 99, -1e9]],
        },
        {**base, "qid": 3, "query": "\ud800 ü 日本", "pred_relevant_windows": [[1, 2, 0.5]], "duration": 0.0},
        {**base, "qid": 4, "query": "x", "pred_relevant_windows": [], "relevant_windows": [], "iou": None},
    ]
    write_lines(run / "predictions.jsonl", rows)
    cards = list(report_of(run).one("section", id="examples").all("article"))
    assert [card.one("h4").text for card in cards] == ["word " * 300, "", "? ü 日本"]  # the last has no IoU
    bars = [node.attributes for node in cards[1].all("rect", class_="predicted")]
    # The first span is not finite and left out; [3,3] has no length; [-5,99] is cut to the video.
    assert [(bar["x"], bar["width"]) for bar in bars] == [("30%", "0%"), ("0%", "100%")]


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


# --- Colours ------------------------------------------------------------------------------------------


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


# --- Drawings, by hand --------------------------------------------------------------------------------


def test_timeline_coordinates():
    moments = [[12.0, 22.0, 0.9], [0.0, 50.0, 0.5], [30.0, 36.0, 0.7]]
    drawing = parse(timeline(40.0, [[10.0, 20.0]], moments))
    # 10 of 40 s is 25 %; the bar of 14 px is in the middle of a row of 24 px.
    truth = drawing.one("rect", class_="truth").attributes
    assert [truth[key] for key in ("x", "y", "width", "height")] == ["25%", "5", "25%", "14"]
    bars = [node.attributes for node in drawing.all("rect", class_="predicted")]
    # Rows of 24 px below the first: 24 + 5, 48 + 5, 72 + 5. The second span is cut at 40 s.
    assert [(b["x"], b["y"], b["width"]) for b in bars] == [
        ("30%", "29", "25%"),
        ("0%", "53", "100%"),
        ("75%", "77", "15%"),
    ]
    # Scores 0.9, 0.5, 0.7: best 1, worst 0.3, half way 0.65.
    assert [b["fill-opacity"] for b in bars] == ["1", "0.3", "0.65"]
    # IoU: 8 s of 12; 10 s of 50; none.
    beside = [node.text for node in drawing.all("text", dx="84")]
    assert beside == ["IoU", "0.67", "0.20", "0.00"]
    assert [node.text for node in drawing.all("text", dx="44")] == ["score", "0.90", "0.50", "0.70"]
    # Ticks: 40 / 6 = 6.7, next round number 10. The end has its own label.
    assert [(n.text, n.attributes["x"]) for n in drawing.all("text", y="112")] == [
        ("0", "0%"),
        ("10", "25%"),
        ("20", "50%"),
        ("30", "75%"),
        ("40.0 s", "100%"),
    ]


def test_timeline_draws_five_and_the_clips():
    clips = np.asarray([0.0, 0.5, np.nan, 2.0])
    drawing = parse(timeline(8.0, [[0.0, 4.0]], [[0.0, 4.0, 0.1]] * 9, clips))
    assert len(list(drawing.all("rect", class_="predicted"))) == 5
    # 36 px high: 0 lies on the ground, 0.5 half way, NaN is nothing, 2 is cut to 1.
    assert drawing.one("path", class_="clip").attributes["d"] == "M0 36V36H1V36ZM1 36V18H2V36ZM3 36V0H4V36Z"
    # Equal scores are equally dark, and the first prediction lies below the clips' row of 44 px.
    bars = [node.attributes for node in drawing.all("rect", class_="predicted")]
    assert {bar["fill-opacity"] for bar in bars} == {"1"} and bars[0]["y"] == "73"


def test_curve_coordinates():
    chart = parse(
        line_chart("Loss", [Series("loss", [(0, 0.0), (50, 30.0), (100, 60.0)], "line s0")], (50, "best"))
    )
    # Values 0..60, step 60 / 5 = 12, next round number 20: the axis is 0..60. 30 is half way up 200 px.
    dots = [(n.attributes["cx"], n.attributes["cy"]) for n in chart.all("circle")]
    assert dots == [("0%", "200"), ("50%", "100"), ("100%", "0")]
    assert chart.one("path").attributes["d"] == "M0 200L500 100L1000 0"
    labels = [(n.text, n.attributes["y"]) for n in chart.all("text", x="-8")]
    assert labels == [("0", "200"), ("20", "133.33"), ("40", "66.67"), ("60", "0")]
    assert [n.text for n in chart.all("text", y="218")] == ["0", "20", "40", "60", "80", "100"]
    mark = chart.one("line", class_="mark").attributes
    assert mark["x1"] == mark["x2"] == "50%"
    # Hover: half way between neighbours, 0-25, 25-75 and 75-100.
    bands = [
        (n.one("rect").attributes["x"], n.one("rect").attributes["width"])
        for n in chart.all("g", class_="hover")
    ]
    assert bands == [("0%", "25%"), ("25%", "50%"), ("75%", "25%")]
    assert [n.text for n in chart.all("title")] == ["step 0\nloss 0", "step 50\nloss 30", "step 100\nloss 60"]


def test_curve_is_interrupted_where_a_value_is_missing():
    points = [(i, 1.0) for i in range(30)]
    points[10], points[12] = (10, math.nan), (12, math.nan)
    chart = parse(line_chart("Loss", [Series("loss", points, "line")]))
    # 0..9 and 13..29 are lines; 11 stands alone and is a dot, at 11 / 29 of the width.
    assert [n.attributes["d"].count("L") for n in chart.all("path")] == [9, 16]
    assert chart.one("circle").attributes["cx"] == "37.93%"


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 900, 5, [0, 200, 400, 600, 800]),  # 180, next 200
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.12, 0.37, 5, [0.15, 0.2, 0.25, 0.3, 0.35]),  # 0.05 is itself round
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 3e-4, 3, [0, 1e-4, 2e-4, 3e-4]),
    ],
)
def test_ticks(low, high, count, expected):
    assert ticks(low, high, count) == expected


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.31], (0, 0.4)),  # 0.062, next 0.1
        ([0.0, 0.0], (0, 1)),
        ([100, 101], (100, 101)),  # far from zero
        ([70, 101], (0, 150)),  # not far from zero; 20.2, next 50
        ([-3, 7], (-4, 8)),  # 2
        ([-3], (-3, 0)),  # 0.6, next 1
    ],
)
def test_ticks_around(values, ends):
    found = ticks_around(values)
    assert (found[0], found[-1]) == ends


def test_figures():
    values = (0.0004, 0.1234567, 12345, 1_500_000, 900, -0.0)
    assert [figure(v) for v in values] == ["0.0004", "0.1235", "12.35k", "1.5M", "900", "0"]


def test_map_colours_and_runs():
    scores = np.asarray([[0.1, 0.9, 0.9], [np.nan, 0.5, 0.1], [np.nan, np.nan, 0.1]])
    drawing = parse(heat_map(scores, 30.0, [[10.0, 20.0]], [[10.0, 30.0, 0.9]]))
    cells = {
        n.attributes["class"]: n.attributes["d"]
        for n in drawing.all("path")
        if n.attributes["class"][0] == "h" and n.attributes["class"] != "halo"
    }
    # Nine parts of 0.1..0.9: 0.5 is in the middle one. Two neighbours of one colour are one rectangle.
    assert cells == {"h0": "M0 0H1V1H0ZM2 1H3V2H2ZM2 2H3V3H2Z", "h4": "M1 1H2V2H1Z", "h8": "M1 0H3V1H1Z"}
    # 176 px in 3 cells of 58.67: [10,20] is cell (1,1), [10,30] is row 1, column 2.
    outline = drawing.one("rect", class_="outline").attributes
    assert (outline["x"], outline["y"], outline["width"]) == ("58.67", "58.67", "58.67")
    # The centre of the cell is 2.5 and 1.5 cells: 146.67, 88; the cross begins 5 px before.
    assert drawing.one("path", class_="cross").attributes["d"].startswith("M141.67 83l10 10")
    legend = drawing.one("ul", class_="legend").text
    assert legend == "score 0.100.90"


def test_map_without_candidates_or_range():
    assert level(0.5, 0.5, 0.5) == 8 and level(0.0, 0.0, 1.0) == 0 and level(1.0, 0.0, 1.0) == 8
    assert trimmed(np.full((3, 3), np.nan)).shape == (0, 0)
    assert trimmed(np.asarray([np.nan, 0.5, np.nan])).tolist()[1:] == [0.5]
    padded = np.full((4, 4), np.nan)
    padded[0, 2] = 0.5
    assert trimmed(padded).shape == (3, 3)


@pytest.mark.parametrize(
    ("span", "n", "cell"),
    [
        ((10, 30), 4, (1, 2)),  # clips of 10 s
        ((5, 15), 4, (0, 1)),  # 10/20; 0..10 and 10..20 have 5/15
        ((38, 60), 4, (3, 3)),  # cut to the video
        ((15, 20), 2, (0, 0)),
        ((10, 30), 1, (0, 0)),
    ],
)
def test_nearest_cell(span, n, cell):
    assert nearest_cell(span, 40.0, n) == cell


def test_best_iou_takes_the_best_window():
    # With [0,10]: 5 of 15. With [8,16]: 7 of 11.
    assert best_iou([5, 15], [[0, 10], [8, 16]]) == pytest.approx(7 / 11)
    assert best_iou([5, 15], []) == 0 and best_iou([5, 5], [[5, 5]]) == 0


def test_number_writes_short_coordinates():
    assert [number(v) for v in (12.5, 40.0, 1 / 3, -0.001, 1000.0, 99.999)] == [
        "12.5",
        "40",
        "0.33",
        "0",
        "1000",
        "100",
    ]


# --- The plain-text table -----------------------------------------------------------------------------


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
    assert "SELECTED ON TEST: test R@1,IoU=0.5." in " ".join(results_table(results).split())


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
    assert "30.00" in results_table(results)
    rows[1]["metrics"]["mIoU"] = 1.0
    assert metric_columns(results) == (*STANDARD, "MR-full-mAP", "HL-Hit1")
    assert list(STANDARD) == METRICS


def test_text_table_is_bold_on_a_terminal(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[1m" in results_table(json.loads((run / "results.json").read_text()))
