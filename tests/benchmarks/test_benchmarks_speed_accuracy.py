"""Time beside accuracy: which number stands beside a config, and what the picture shows."""

import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import figure
from vmr_jax.configs.ctrl import get_config as ctrl
from vmr_jax.configs.fvmr import get_config as fvmr
from vmr_jax.configs.xml import get_config as xml


def test_accuracy_is_the_published_one_of_the_config():
    # FVMR's tables 2 to 4: 29.12 on TACoS (tall), 45.00 and, with VGG, 42.36; CTRL's 13.30 on TACoS.
    values = [
        figure.best_published(fvmr(name))[0] for name in ("tacos", "activitynet_captions", "charades_sta")
    ]
    assert values == [29.12, 45.00, 42.36]
    assert figure.best_published(ctrl("tacos")) == (13.30, "Gao et al., ICCV 2017")
    assert figure.best_published(fvmr("tacos,2d_tan")) == (None, "")  # another version
    assert figure.best_published(xml("tacos")) == (None, "")
    assert figure.of_variant("fvmr", "tacos", "p+q") == (30.30, "Gao and Xu, ICCV 2021, table 5")


def test_the_picture_places_rows_by_time_and_accuracy():
    rows = [
        figure.Row("tacos", "fvmr", 0.9, 0.1, 29.12, "a"),
        figure.Row("tacos", "ctrl", 0.0, 100.0, 14.56, "b"),
        figure.Row("tacos", "xml", 1.0, 1.0, None, ""),
    ]
    svg = ElementTree.fromstring(figure.picture(rows))
    space = "{http://www.w3.org/2000/svg}"
    places = [(float(mark.get("cx")), float(mark.get("cy"))) for mark in svg.iter(f"{space}circle")]
    # 1 and 100 ms; of 260 px down to the axis at 0%, half the accuracy is half as high; without one no mark.
    (fast, high), (slow, low) = places
    assert fast < slow and 260 - low == pytest.approx((260 - high) / 2, abs=0.1)
    assert {text.text for text in svg.iter(f"{space}text")} >= {"fvmr", "ctrl", "1", "100"}
    assert rows[0].total_ms == 1.0


def test_a_name_that_would_hide_another_one_goes_elsewhere():
    # Three marks at one place, and one far from them: right of it, left of it, and a line (11 px) higher.
    marks = [(200.0, 100.0), (200.0, 100.0), (200.0, 100.0), (400.0, 30.0)]
    places = figure.labels(["abc", "de", "f", "g"], marks)
    assert places == [(207.0, 104.0), (200 - 7 - 2 * 6.6, 104.0), (207.0, 93.0), (407.0, 34.0)]


def test_a_level_is_a_line_at_its_accuracy():
    rows = [figure.Row("x", "fvmr", 1.0, 0.0, 40.0, "")]
    svg = ElementTree.fromstring(figure.picture(rows, 400, 240, ("prior", 20.0)))
    lines = [line.attrib for line in svg.iter("{http://www.w3.org/2000/svg}line")]
    # The plot goes from 30 px (40%) to 240 - 40 = 200 px (0%): 20% is at 115.
    assert [(a["y1"], a["y2"]) for a in lines if "stroke-dasharray" in a] == [("115.0", "115.0")]
