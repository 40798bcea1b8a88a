"""Curves, timelines and score maps: their coordinates, by hand."""

import math

import numpy as np
import pytest
from page_reader import parse

from vmr_jax.reporting.charts import Series, line_chart
from vmr_jax.reporting.maps import heat_map, level, nearest_cell, trimmed
from vmr_jax.reporting.scales import figure, number, ticks, ticks_around
from vmr_jax.reporting.timelines import best_iou, timeline


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
    assert legend == "strength 0.100.90"


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
