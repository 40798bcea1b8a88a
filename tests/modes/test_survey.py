"""`--mode=survey`: which rows it has, its filters and its three forms."""

import csv
import io

import pytest

from vmr_jax import published
from vmr_jax.errors import UserError
from vmr_jax.modes import survey


def rows(**filters):
    return survey.selected(survey.stored(), filters.get("dataset"), filters.get("features"))


def test_every_stored_number_has_its_place():
    assert sum(len(row["metrics"]) for row in rows()) == len(published.numbers())


def test_versions_stand_in_tables_of_their_own():
    titles = [title for title, _, _ in survey.tables(rows(dataset="tacos"))]
    assert titles == ["tacos, 2d_tan, test", "tacos, tall, test"]


def test_table_1_of_fvmr_with_its_times():
    # Text encoding 3.51 ms and matching 0.14 ms, 3.65 ms in all, R@1,IoU=0.5 29.12.
    (row,) = (
        row
        for row in rows(dataset="tacos")
        if row["method"] == "fvmr" and row["source"] == "Gao and Xu, ICCV 2021, table 1"
    )
    assert [row["metrics"][name] for name in published.TIMES] == [3.51, 0.14, 3.65]
    assert row["metrics"]["R@1,IoU=0.5"] == 29.12


def test_features_are_a_filter_and_the_nearest_is_named():
    assert {row["features"] for row in rows(dataset="charades_sta", features="c3d")} == {"c3d"}
    assert {row["features"] for row in rows(dataset="charades_sta", features="unknown")} == {""}
    with pytest.raises(UserError, match='No row has the features "c3dd". Did you mean "c3d"'):
        rows(dataset="charades_sta", features="c3dd")
    with pytest.raises(UserError, match='There is no dataset "tacoss". Did you mean "tacos"'):
        rows(dataset="tacoss")


def test_what_was_measured_stands_beside(tmp_path):
    (tmp_path / "storyboard.csv").write_text(
        "row,test,novel_word,novel_composition,shifted_position\nfvmr,48.90,44.12,,18.34\n"
    )
    found = survey.measured(tmp_path)
    assert [(row["split"], row["metrics"]) for row in found] == [
        ("test", {"R@1,IoU=0.5": 48.90}),
        ("test_novel_word", {"R@1,IoU=0.5": 44.12}),
        ("test_shifted_position", {"R@1,IoU=0.5": 18.34}),
    ]
    assert {row["source"] for row in found} == {survey.OURS}
    assert survey.measured(tmp_path / "absent") == []


def test_the_three_forms_say_the_same(tmp_path, capsys):
    survey.survey("didemo", "vgg+flow")
    text = capsys.readouterr().out
    assert "didemo, test" in text and "28.10" in text and "Hendricks et al., ICCV 2017" in text
    for form in ("csv", "html"):
        survey.survey("didemo", "vgg+flow", str(tmp_path / f"table.{form}"))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert ("Rank@1", "28.1") in {(line["metric"], line["value"]) for line in lines}
    page = (tmp_path / "table.html").read_text()
    assert page.startswith("<!doctype html>") and "<td>28.10</td>" in page
    with pytest.raises(UserError, match="its ending says the form: .txt, .csv, .html"):
        survey.survey(None, None, str(tmp_path / "table.xlsx"))
