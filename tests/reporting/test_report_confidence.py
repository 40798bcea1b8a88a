"""The section 'Confidence' of a report."""

from page_reader import report_of, section_ids
from run_folder import edit_results


def with_confidence(results):
    results["confidence"] = {
        "split": "val",
        "queries": 400,
        "slope": 2.5,
        "intercept": -1.25,
        "splits": {
            "val": {"error": 0.021, "bins": [[1500, 0.081, 0.1], [500, 0.62, 0.6]]},
            "test": {"error": 0.0349, "bins": [[1250, 0.0824, 0.12], [550, 0.608, 0.5509]]},
        },
    }


def test_what_was_said_stands_beside_what_was(run):
    edit_results(run, with_confidence)
    page = report_of(run)
    assert section_ids(page)[:3] == ["results", "confidence", "protocol"]
    section = page.one("section", id="confidence")
    tables = list(section.all("table"))
    # The test split is open, that of the fit is folded.
    assert [table.one("caption").text for table in tables] == [
        "test: 3.5 points off on average",
        "val: 2.1 points off on average",
    ]
    assert [[cell.text for cell in row.all("td")] for row in tables[0].one("tbody").all("tr")] == [
        ["8.2", "12.0", "1,250"],
        ["60.8", "55.1", "550"],
    ]
    assert [node.one("summary").text for node in section.all("details")] == ["val"]
    assert "1 / (1 + exp(-(2.5 score -1.25))), fitted to 400 queries of val" in section.text


def test_without_it_there_is_no_section(run):
    assert "confidence" not in section_ids(report_of(run))
