"""Prediction files: what is read is what was written, and every way in which a file can be wrong."""

import gzip
import json
import pathlib
import zipfile

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files as predictions
from vmr_jax.evaluation.prediction_files import Prediction
from vmr_jax.evaluation.protocols import Predictions
from vmr_jax.evaluation.results import prediction_rows
from vmr_jax.input import packed as packed_files
from vmr_jax.input import schema
from vmr_jax.input.dataset import Split, Video

SHARED = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/predictions"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

ROW = {
    "qid": 7,
    "query": "a man runs",
    "vid": "v1",
    "pred_relevant_windows": [[0.0, 4.5, 0.9], [2.0, 8.0, 0.1]],
}


def written(tmp_path, *rows, name="predictions.jsonl", **changes):
    """A jsonl of `rows`, or of ROW with other fields."""
    path = tmp_path / name
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in rows or (ROW,)), encoding="utf-8")
    return path


def same(a, b):
    for name in ("windows", "videos", "saliency"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        np.testing.assert_array_equal(left, right)
    assert (a.qid, a.query, a.vid, a.split) == (b.qid, b.query, b.vid, b.split)


# --- round trips ----------------------------------------------------------------------------------


def test_moment_detr_round_trip(tmp_path):
    rows = [
        Prediction("7", np.array([[0.0, 4.5, 0.9], [2.0, 8.0, 0.1]]), None, np.array([0.5, -1.25]), "a", "v1"),
        Prediction("x-1", np.zeros((0, 3)), None, None, "Größe ☃", "v2", "test"),
    ]
    predictions.write_moment_detr(tmp_path / "p.jsonl", rows)
    found = predictions.read(tmp_path / "p.jsonl")
    assert list(found.tasks) == ["SVMR"] and len(found.tasks["SVMR"]) == 2
    for a, b in zip(found.tasks["SVMR"], rows):
        same(a, b)
    first, second = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert first["qid"] == 7 and second["qid"] == "x-1"  # the official evaluator looks for whole numbers
    assert "split" not in first and second["split"] == "test"


def test_tvr_round_trip(tmp_path):
    rows = [
        Prediction("90200", np.array([[0.0, 4.5, 0.9], [2.0, 8.0, 0.1]]), np.array([3, 5]), query="a man"),
        Prediction("007", np.array([[1.0, 2.0, 0.5]]), np.array([5]), query="b"),
    ]
    predictions.write_tvr(tmp_path / "p.json", {"VCMR": rows, "VR": rows[:1]}, {"v3": 3, "v5": 5})
    found = predictions.read(tmp_path / "p.json")
    assert found.video_index == {"v3": 3, "v5": 5} and list(found.tasks) == ["VCMR", "VR"]
    for a, b in zip((*found.tasks["VCMR"], *found.tasks["VR"]), (*rows, rows[0])):
        same(a, b)
    document = json.loads((tmp_path / "p.json").read_text())
    assert [row["desc_id"] for row in document["VCMR"]] == [90200, "007"]
    assert document["VCMR"][0]["predictions"][0] == [3, 0.0, 4.5, 0.9]


def test_single_video_predictions_are_written_for_tvr_in_their_own_video(tmp_path):
    found = predictions.read(written(tmp_path))
    predictions.write_tvr(tmp_path / "p.json", found.tasks, {"v1": 4})
    (row,) = predictions.read(tmp_path / "p.json").tasks["SVMR"]
    np.testing.assert_array_equal(row.videos, [4, 4])
    np.testing.assert_array_equal(row.windows, ROW["pred_relevant_windows"])


def test_our_own_predictions_are_read(tmp_path):
    split = Split(
        "test", [Video("v1", 10.0, {})], [schema.Query("q", "a man", (0.0, 4.0))], np.zeros(1, np.int32)
    )
    spans, scores = np.array([[[0, 5], [0, 0]]], np.float32), np.array([[0.5, -np.inf]], np.float32)
    rows = prediction_rows(split, Predictions(spans, scores, np.array([[0.8, 0.0]]), {}))
    (found,) = predictions.read(written(tmp_path, *rows)).tasks["SVMR"]
    same(found, Prediction("q", np.array([[0.0, 5.0, 0.5]]), query="a man", vid="v1", split="test"))


@needs_shared
def test_published_files_are_read():
    rows = predictions.read(SHARED / "sample_val_preds.jsonl").tasks["SVMR"]
    assert len(rows) == 1550 and {p.windows.shape for p in rows} == {(10, 3)}
    assert rows[0].qid == "2579" and rows[0].windows[0].tolist() == [0.0, 70.0, 0.9986]
    rows = predictions.read(SHARED / "cbp_charades_predict_proposals_test_nms_0.55.json").tasks["SVMR"]
    assert len(rows) == 3720
    assert rows[0].qid == "3MSZA-0" and rows[0].windows[0].tolist() == [7.5, 13.5, 0.4222589582204819]


@needs_shared
def test_the_published_file_survives_a_round_trip(tmp_path):
    before = predictions.read(SHARED / "sample_val_preds.jsonl").tasks["SVMR"]
    predictions.write_moment_detr(tmp_path / "again.jsonl", before)
    lines = [(SHARED / "sample_val_preds.jsonl").read_text(), (tmp_path / "again.jsonl").read_text()]
    first, second = [[json.loads(line) for line in text.splitlines()] for text in lines]
    assert first == second


OTHER_LAYOUTS = {
    "a list": [{"qid": "7", "pred_relevant_windows": [[1, 2, 0.5]]}],
    "ActivityNet": {"version": "V", "results": {"7": [{"segment": [1, 2], "score": 0.5}]}},
    "query to windows": {"7": [[1, 2, 0.5]]},
}


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_other_layouts_are_read(tmp_path, layout, indent):
    (tmp_path / "p.json").write_text(json.dumps(OTHER_LAYOUTS[layout], indent=indent))
    (row,) = predictions.read(tmp_path / "p.json").tasks["SVMR"]
    assert row.qid == "7" and row.windows.tolist() == [[1.0, 2.0, 0.5]]


# --- packed files ---------------------------------------------------------------------------------


def test_packed_files_are_opened(tmp_path):
    plain = written(tmp_path, ROW, {**ROW, "qid": 8})
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed:
        packed.mkdir("folder")
        packed.writestr("folder/p.jsonl", plain.read_text())
    for name in ("p.jsonl.gz", "p.zip"):
        for a, b in zip(predictions.read(tmp_path / name).tasks["SVMR"], predictions.read(plain).tasks["SVMR"]):
            same(a, b)


def test_packed_files_that_are_wrong(tmp_path, monkeypatch):
    path = tmp_path / "p.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(UserError, match=r"p\.gz is packed and damaged"):
        predictions.read(path)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.jsonl", "{}")
        packed.writestr("b.jsonl", "{}")
    with pytest.raises(UserError, match=r"p\.gz holds a\.jsonl, b\.jsonl; one file is expected"):
        predictions.read(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"p\.gz is packed and damaged"):
        predictions.read(path)
    monkeypatch.setattr(packed_files, "MOST_BYTES", 999)  # a thousand bytes in thirty
    path.write_bytes(gzip.compress(b"x" * 1000))
    with pytest.raises(UserError, match=r"p\.gz holds more than .* when it is unpacked"):
        predictions.read(path)


# --- encodings and line ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.rstrip(b"\n"),
        lambda raw: raw + b"\n\n",
    ],
    ids=("windows line ends", "byte order mark", "no last line end", "blank lines"),
)
def test_harmless_differences(tmp_path, change):
    path = written(tmp_path, ROW, {**ROW, "qid": 8})
    expected = predictions.read(path).tasks["SVMR"]
    path.write_bytes(change(path.read_bytes()))
    for a, b in zip(predictions.read(path).tasks["SVMR"], expected, strict=True):
        same(a, b)


def test_tvr_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(b'\xef\xbb\xbf {"video2idx": {"v": 0},\r\n "SVMR": [{"desc_id": 1, "predictions": []}]}')
    (row,) = predictions.read(path).tasks["SVMR"]
    assert row.qid == "1" and row.windows.shape == (0, 3) and row.videos.shape == (0,)


# --- wrong files ----------------------------------------------------------------------------------


def test_a_jsonl_cut_in_a_line_names_it(tmp_path):
    path = written(tmp_path, ROW, {**ROW, "qid": 8})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 2: no valid JSON"):
        predictions.read(path)


def test_a_json_cut_short(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"video2idx": {"v": 0},\n "SVMR": [{"desc_id": 1, "predict')
    with pytest.raises(UserError, match=r"p\.json, line 2: no valid JSON .* cut short"):
        predictions.read(path)


@pytest.mark.parametrize(
    "raw,message",
    [
        (b'{"qid": 1, "pred_relevant_windows": []}\n{"qid": "\xff"}\n', "line 2: not UTF-8"),
        (b"", "is empty"),
        (b"[1, 2]\n", "a list of something else; expected .*pred_relevant_windows"),
        (b"1\n", "line 1: expected an object"),
        (b'{"a": 1}\n{"a": 2}\n', "line 1: an object with the keys a; expected .*video2idx.*results"),
        (
            b'{"version": "1.0", "challenge": "ego4d_nlq_challenge", "results": [{"clip_uid": "c"}]}',
            'a submission of the challenge "ego4d_nlq_challenge" .* list.*; expected .*video2idx.*results',
        ),
        (b'{"a": [[1, 2, 0.5]], "b": 3}', "an object with the keys a, b; expected"),
        (b'{"a": [[1, 2]]}', r'"a" is not \[\[start, end, score\]'),
        (b'{"video2idx": {"v": 0}}', "expected .*video2idx"),
        (b'{"SVMR": []}', "expected .*video2idx"),
        (b'{"video2idx": {"v": "zero"}, "SVMR": []}', "expected .*video2idx"),
        (b'{"video2idx": {"v": 0}, "SVMR": {"7": []}}', "SVMR: expected"),
        (b'{"video2idx": {"v": 0}, "SVMR": [{"desc_id": 1}]}', 'SVMR, row 0: "predictions" is not'),
        (b'{"video2idx": {"v": 0}, "VR": [{"desc_id": 1, "predictions": [[0.5, 0, 1, 1]]}]}', "not whole"),
        (b'{"results": {"a-0": [{"score": 1}]}}', "results, a-0: expected"),
        (b'{"results": {"a-0": [{"timestamp": [1], "score": 1}]}}', "results, a-0: "),
        (b'{"results": {"a-0": [], "a-0": []}}', '"a-0" stands twice'),
    ],
)
def test_files_that_are_wrong(tmp_path, raw, message):
    path = tmp_path / "p"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=message) as error:
        predictions.read(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl does not exist"):
        predictions.read(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("qid", [None, 1.5, True, "", [1]])
def test_ids_that_are_none(tmp_path, qid):
    with pytest.raises(UserError, match='line 1: "qid" is'):
        predictions.read(written(tmp_path, qid=qid))


@pytest.mark.parametrize(
    "windows",
    [
        None,
        [1, 2, 3],
        [[0, 1]],
        [[0, 1, 1], [0, 1]],
        [["0", "1", "1"]],
        [[0, float("nan"), 1]],
        [[]],
        "[[0, 1, 1]]",
    ],
)
def test_windows_that_are_none(tmp_path, windows):
    with pytest.raises(
        UserError, match=r'line 1: "pred_relevant_windows" is not \[\[start, end, score\], ...\]'
    ):
        predictions.read(written(tmp_path, pred_relevant_windows=windows))


def test_a_moment_that_ends_before_it_starts(tmp_path):
    with pytest.raises(UserError, match="line 1: moment 1 .* starts at 5 s and ends at 4 s"):
        predictions.read(written(tmp_path, pred_relevant_windows=[[0, 1, 0.9], [5, 4, 0.8]]))


@pytest.mark.parametrize("saliency", [[], [[1]], ["1"], 3, [float("inf")]])
def test_saliency_that_is_none(tmp_path, saliency):
    with pytest.raises(UserError, match='line 1: "pred_saliency_scores"'):
        predictions.read(written(tmp_path, pred_saliency_scores=saliency))


def test_windows_by_threshold_that_are_none(tmp_path):
    with pytest.raises(UserError, match='line 1: expected "pred_relevant_windows_at"'):
        predictions.read(written(tmp_path, pred_relevant_windows_at=[1]))


def test_the_order_of_the_file_is_kept_and_told(tmp_path, caplog):
    caplog.set_level("WARNING", "vmr_jax")
    windows = [[0.0, 1.0, 0.1], [1.0, 2.0, 0.9]]
    rows = predictions.read(written(tmp_path, ROW, {**ROW, "qid": 8, "pred_relevant_windows": windows}))
    np.testing.assert_array_equal(rows.tasks["SVMR"][1].windows, windows)
    assert "1 of 2 queries are not in the order of their scores" in caplog.text


# --- ids ------------------------------------------------------------------------------------------


def test_whole_numbers_and_text_are_one_id(tmp_path):
    rows = predictions.read(written(tmp_path, ROW, {**ROW, "qid": "8"})).tasks["SVMR"]
    assert [p.qid for p in predictions.match(rows, ["8", "7"], "here")] == ["8", "7"]
    with pytest.raises(UserError, match="1 ids stand more than once: 7"):
        predictions.read(written(tmp_path, ROW, {**ROW, "qid": "7"}))
    # A leading zero is another id.
    assert len(predictions.read(written(tmp_path, ROW, {**ROW, "qid": "07"})).tasks["SVMR"]) == 2


def test_repeated_ids_are_listed(tmp_path):
    rows = [{**ROW, "qid": i // 2} for i in range(30)]
    with pytest.raises(UserError, match=r"15 ids stand more than once: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        predictions.read(written(tmp_path, *rows))


def test_missing_and_unknown_ids_are_listed():
    rows = [Prediction(qid, np.zeros((0, 3))) for qid in ("a", "b", "y", "x")]
    with pytest.raises(UserError) as error:
        predictions.match(rows, ["a", "b", "c"], "file, split test")
    assert "file, split test: 1 of 3 queries have no prediction: c; 2 ids are of no query: x, y." in str(
        error.value
    )


def test_a_file_of_several_splits_is_filtered(tmp_path):
    rows = [{**ROW, "split": split} for split in ("val", "test")]
    found = predictions.read(written(tmp_path, *rows)).tasks["SVMR"]  # one id in two splits is no repetition
    assert [p.split for p in predictions.of_split(found, "test")] == ["test"]
    with pytest.raises(UserError, match="more than once"):
        predictions.read(written(tmp_path, *rows, *rows[:1]))


def test_stacking_pads_with_minus_infinity():
    rows = [np.array([[0, 1, 0.9], [2, 3, 0.8], [4, 5, 0.7]]), np.zeros((0, 3))]
    spans, scores = predictions.stacked(rows, depth=2)
    np.testing.assert_array_equal(scores, [[0.9, 0.8], [-np.inf, -np.inf]])
    np.testing.assert_array_equal(spans[0], [[0, 1], [2, 3]])
    assert predictions.stacked(rows[1:])[1].shape == (1, 1)
