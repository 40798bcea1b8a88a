"""The file of the search benchmark: a run of some sizes leaves the lines of the others."""

import csv

import pytest

from vmr_jax.errors import UserError


@pytest.fixture(scope="module")
def search(program):
    """The program."""
    return program("search")


def test_lines_of_other_sizes_stay(search, tmp_path):
    path = str(tmp_path / "search.csv")
    search.write([{"moments": "1000", "queries": n, "float32": "1.0"} for n in ("1", "32")], path, "a")
    search.write([{"moments": "1000", "queries": "32", "float32": "2.0"}], path, "b")
    search.write([{"moments": "100", "queries": "32", "float32": "3.0"}], path, "c")
    with open(path, encoding="utf-8") as file:
        found = [
            (line["moments"], line["queries"], line["float32"], line["machine"])
            for line in csv.DictReader(file)
        ]
    assert found == [("100", "32", "3.0", "c"), ("1000", "1", "1.0", "a"), ("1000", "32", "2.0", "b")]


def test_a_file_of_other_columns_is_written_anew(search, tmp_path):
    path = tmp_path / "search.csv"
    path.write_text("moments,queries,faiss\n10,1,5.0\n")
    search.write([{"moments": "1000", "queries": "1", "float32": "1.0"}], str(path), "a")
    assert [line["moments"] for line in csv.DictReader(path.read_text().splitlines())] == ["1000"]


def test_what_cannot_be_written_is_said_first(search, tmp_path):
    search.check_places("", "")  # neither is asked for
    search.check_places(str(tmp_path / "a.csv"), str(tmp_path))
    for file, folder in ((str(tmp_path), ""), ("", str(tmp_path / "none"))):
        with pytest.raises(UserError, match="cannot be written"):
            search.check_places(file, folder)
