"""`--mode=compare`: folders of runs side by side, with figures counted by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmr_jax.config import config_as_dict
from vmr_jax.configs import fvmr
from vmr_jax.errors import UserError
from vmr_jax.modes.compare import compare
from vmr_jax.reporting.compare import comparison, read_runs

ROOT = Path(__file__).resolve().parents[2]
TRUTH = [0.0, 10.0]
# Spans whose IoU with [0,10] is 1, 0.5 and 0.
FULL, HALF, NONE = [0.0, 10.0], [0.0, 5.0], [20.0, 30.0]


def config_of(**evaluation):
    config = fvmr.get_config(None)
    config.evaluation.top_n, config.evaluation.thresholds, config.evaluation.strict = (1, 2), (0.5,), False
    config.evaluation.update(evaluation)
    return config


def lines(moments, split="test"):
    """Rows of predictions.jsonl: query i belongs to the video i // 2; `moments[i]` are its ranked spans."""
    return [
        {
            "split": split,
            "qid": f"q{i}",
            "vid": f"v{i // 2}",
            "query": "a man runs",
            "duration": 30.0,
            "relevant_windows": [TRUTH],
            "pred_relevant_windows": [[*span, 1.0 - k] for k, span in enumerate(ranked)],
        }
        for i, ranked in enumerate(moments)
    ]


def write_run(folder, rows, metrics=None, protocol=None, **evaluation):
    """A folder with the three files that are read; the figures of results.json default to none."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_as_dict(config_of(**evaluation))))
    row = {"name": "fvmr (this run)", "metrics": metrics or {}}
    splits = {name: {"count": 1, "rows": [row]} for name in dict.fromkeys(line["split"] for line in rows)}
    (folder / "results.json").write_text(json.dumps({"splits": splits, "protocol": protocol or {}}))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def pair(tmp_path):
    """Two runs on three videos of two queries."""
    first = write_run(tmp_path / "first", lines([[NONE], [HALF], [NONE], [FULL], [NONE, FULL], [NONE]]))
    second = write_run(tmp_path / "second", lines([[FULL], [FULL], [FULL], [FULL], [FULL], [NONE]]))
    return first, second


def test_figures_by_hand(pair):
    (split,) = comparison(read_runs(pair))["splits"].values()
    assert (split["count"], split["videos"]) == (6, 3)
    first, second = (row["metrics"] for row in split["rows"])
    # First: IoUs 0 .5 0 1 0 0 of the top moment; the second moment hits the fifth query. Second: all but one.
    expected = {"R@1,IoU=0.5": 200 / 6, "R@2,IoU=0.5": 300 / 6, "mIoU": 150 / 6}
    assert first == pytest.approx(expected)
    assert second == pytest.approx({"R@1,IoU=0.5": 500 / 6, "R@2,IoU=0.5": 500 / 6, "mIoU": 500 / 6})
    (difference,) = split["differences"]
    assert (difference["run"], difference["against"]) == ("second", "first")
    assert difference["difference"] == pytest.approx(
        {"R@1,IoU=0.5": 50, "R@2,IoU=0.5": 200 / 6, "mIoU": 350 / 6}
    )
    # R@1: every video gains one hit, so that each resample gains one of two; of the eight sign patterns two are
    # as extreme. R@2: videos gain 1, 1 and 0: between 0 and 50 %, and two of four patterns. mIoU: 1.5, 1, 1.
    assert difference["interval"]["R@1,IoU=0.5"] == pytest.approx([50, 50])
    assert difference["interval"]["R@2,IoU=0.5"] == pytest.approx([0, 50])
    assert difference["p"] == {"R@1,IoU=0.5": 0.25, "R@2,IoU=0.5": 0.5, "mIoU": 0.25}
    assert "p_holm" not in difference


def test_of_three_runs_p_is_corrected(tmp_path, pair):
    third = write_run(tmp_path / "third", lines([[NONE], [HALF], [NONE], [FULL], [NONE, FULL], [FULL]]))
    document = comparison(read_runs([*pair, third]))
    one, two = document["splits"]["test"]["differences"]
    # p of R@1 is 0.25 and, of one video that differs, 1: Holm gives 2 * 0.25 and max(0.5, 1).
    assert (one["p"]["R@1,IoU=0.5"], two["p"]["R@1,IoU=0.5"]) == (0.25, 1.0)
    assert (one["p_holm"]["R@1,IoU=0.5"], two["p_holm"]["R@1,IoU=0.5"]) == (0.5, 1.0)
    assert any("Holm" in line for line in document["method"])


def test_order_of_lines_does_not_matter(tmp_path, pair):
    rows = lines([[FULL], [FULL], [FULL], [FULL], [FULL], [NONE]])
    write_run(tmp_path / "turned", rows[::-1])
    plain, turned = (
        comparison(read_runs([pair[0], run]))["splits"]["test"]["differences"][0]
        for run in (pair[1], str(tmp_path / "turned"))
    )
    assert {**turned, "run": ""} == {**plain, "run": ""}


def test_several_annotated_moments_and_no_prediction(tmp_path):
    rows = lines([[NONE], []])
    for row in rows:
        row["relevant_windows"] = [TRUTH, NONE]
    runs = [write_run(tmp_path / name, rows) for name in ("a", "b")]
    found = comparison(read_runs(runs))["splits"]["test"]["rows"][0]["metrics"]
    assert found == pytest.approx({"R@1,IoU=0.5": 50, "R@2,IoU=0.5": 50, "mIoU": 50})


def test_protocols_that_differ(tmp_path):
    rows = lines([[HALF], [FULL]])
    loose = write_run(tmp_path / "loose", rows)
    strict = write_run(
        tmp_path / "strict", rows, {"R@1,IoU=0.5": 50.0}, strict=True, nms_threshold=0.45, keep=1
    )
    for order, recall in (((loose, strict), 100), ((strict, loose), 50)):
        document = comparison(read_runs(order))
        # Both are counted with the protocol of the first.
        assert [row["metrics"]["R@1,IoU=0.5"] for row in document["splits"]["test"]["rows"]] == [recall] * 2
        text = "\n".join(document["warnings"])
        assert "IoU > m" in text and "IoU >= m" in text
        assert "NMS threshold of" in text and "R@1 and mIoU are fair" in text and "at most this many" in text
        # Its own protocol gives what the strict run has recorded.
        assert len(document["warnings"]) == 3


def test_results_that_predictions_do_not_give(tmp_path, pair):
    stale = write_run(tmp_path / "stale", lines([[FULL]] * 6), {"R@1,IoU=0.5": 83.33, "mIoU": 100.0})
    (warning,) = comparison(read_runs([pair[0], stale]))["warnings"]
    assert "stale, test: R@1,IoU=0.5 is 83.33 in results.json and 100.00 by predictions.jsonl" in warning


def test_what_else_differs_and_splits_of_one_run(tmp_path):
    rows = lines([[FULL]])
    one = write_run(tmp_path / "one", rows, protocol={"features": "vgg", "seed": 0})
    other = {"features": "i3d", "seed": 0, "model": "longest_share=0.5", "init_from": "first"}
    two = write_run(tmp_path / "two", [*rows, *lines([[FULL]], "val")], protocol=other)
    document = comparison(read_runs([one, two]))
    assert document["differs"] == [
        "Features: one: vgg; two: i3d.",
        "Model: one: none; two: longest_share=0.5.",
        "Init from: one: none; two: first.",
    ]
    assert list(document["splits"]) == ["test"]
    assert document["warnings"] == ["val was evaluated by two but not by all, and is left out."]


def test_printed_and_written(pair, tmp_path, capsys):
    compare(pair, None)
    assert not (tmp_path / "out").exists()
    first = capsys.readouterr().out
    compare(pair, tmp_path / "out")
    assert capsys.readouterr().out == first
    assert max(map(len, first.splitlines())) <= 100
    assert "test, 6 queries of 3 videos: difference from first, %" in first
    (line,) = (line for line in first.splitlines() if line.split()[:2] == ["second", "R@1,IoU=0.5"])
    assert line.split()[2:] == ["+50.00", "+50.00", "to", "+50.00", "0.2500"]
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["splits"]["test"]["differences"][0]["p"]["mIoU"] == 0.25


# --- what is refused ------------------------------------------------------------------------------


def change(folder, name, edit):
    path = Path(folder) / name
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_one_run_or_one_twice(pair):
    with pytest.raises(UserError, match="needs the folders of two runs or more, not 1"):
        read_runs(pair[:1])
    with pytest.raises(UserError, match="named twice"):
        read_runs([pair[0], pair[0] + "/."])


def test_runs_are_counted_by_their_own_protocol(tmp_path):
    # Six queries, four of the type 'then' and two of 'before', which count alike: each of 'then' weighs 1/8.
    options = dict(keep=21, nms_threshold=1.0, top_n=(1,))
    folders = []
    for name, right in (("first", (0, 4)), ("second", (0, 1, 4, 5))):
        rows = lines([[FULL] if i in right else [NONE] for i in range(6)])
        for i, row in enumerate(rows):
            row["tags"] = ["then" if i < 4 else "before"]
        figures = {"Rank@1": 37.5 if name == "first" else 75.0}  # 1/8 + 1/4, 2/8 + 2/4
        folders.append(write_run(tmp_path / name, rows, figures, **options))
        change(folders[-1], "config.json", lambda config: config["evaluation"].update(protocol="consensus"))
    compared = comparison(read_runs(folders))
    (split,) = compared["splits"].values()
    assert [row["metrics"]["Rank@1"] for row in split["rows"]] == pytest.approx([37.5, 75.0])
    assert set(split["rows"][0]["metrics"]) == {"Rank@1", "mIoU"}
    assert split["differences"][0]["difference"]["Rank@1"] == pytest.approx(37.5)
    assert not compared["warnings"]


@pytest.mark.parametrize("name", ["config.json", "results.json", "predictions.jsonl"])
def test_missing_file(pair, name):
    (Path(pair[1]) / name).unlink()
    with pytest.raises(UserError, match=rf"second.*{name}"):
        read_runs(pair)


def test_other_dataset_or_protocol(pair):
    change(pair[1], "config.json", lambda config: config["dataset"].update(name="tacos"))
    with pytest.raises(UserError, match="the dataset of first is storyboard, that of second is tacos"):
        comparison(read_runs(pair))


def test_no_split_in_common(tmp_path, pair):
    other = write_run(tmp_path / "other", lines([[FULL]], "val"))
    with pytest.raises(UserError, match="no split in common: first has test; other has val"):
        comparison(read_runs([pair[0], other]))


@pytest.mark.parametrize(("count", "alone"), [(5, "first"), (7, "other")])
def test_other_queries(tmp_path, pair, count, alone):
    other = write_run(tmp_path / "other", lines([[FULL]] * count))
    with pytest.raises(UserError, match=rf"{count} in other|{count} queries in other") as error:
        comparison(read_runs([pair[0], other]))
    assert f"1 stand in {alone} alone, such as q{5 if count == 5 else 6}" in str(error.value)


def test_other_annotations(tmp_path, pair):
    rows = lines([[FULL]] * 6)
    rows[3]["relevant_windows"] = [[0.0, 9.0]]
    other = write_run(tmp_path / "other", rows)
    with pytest.raises(UserError, match=r'"relevant_windows" of the query q3 of test is \[\[0.0, 10.0\]\]'):
        comparison(read_runs([pair[0], other]))


def test_a_query_twice(tmp_path):
    folder = write_run(tmp_path / "twice", lines([[FULL]]) * 2)
    with pytest.raises(UserError, match="the query q0 of test stands twice"):
        read_runs([folder, str(tmp_path)])


# --- the command ----------------------------------------------------------------------------------


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_folders_are_named_in_this_mode_alone(pair, tmp_path):
    done = launch("--mode=compare", *pair, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "difference from first" in done.stdout and (tmp_path / "out" / "compare.json").is_file()
    done = launch("--mode=train", *pair)
    assert done.returncode == 2 and "Unexpected argument" in done.stderr
