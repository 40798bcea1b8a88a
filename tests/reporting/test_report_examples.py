"""The section of a report that draws queries."""

import json

from page_reader import report_of
from run_folder import prediction_rows, write_lines


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
    assert [card.one("h4").text for card in cards] == [
        "word " * 300,
        "",
        r"\ud800 ü 日本",
    ]  # the last has no IoU
    bars = [node.attributes for node in cards[1].all("rect", class_="predicted")]
    # The first span is not finite and left out; [3,3] has no length; [-5,99] is cut to the video.
    assert [(bar["x"], bar["width"]) for bar in bars] == [("30%", "0%"), ("0%", "100%")]
