"""QVHighlights: windows and saliency, every error, preparation, and the real files."""

import json
import logging
import pathlib

import ml_collections
import numpy as np
import pytest

from vmr_jax.data import qvhighlights
from vmr_jax.data.qvhighlights import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.annotated import AnnotatedSplits
from vmr_jax.input.annotations import Annotations

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/qvhighlights"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
TRAIN_FILE, VAL_FILE, TEST_FILE = annotations.QUERY_FILES.values()


def _row(qid, vid, windows, clips, scores, duration=150, query="A man cooks."):
    return {
        "qid": qid,
        "query": query,
        "duration": duration,
        "vid": vid,
        "relevant_windows": windows,
        "relevant_clip_ids": clips,
        "saliency_scores": scores,
    }


TRAIN = [
    _row(12, "a_0.0_150.0", [[0, 2], [10, 14], [20, 24]], [0, 5, 6, 10, 11], [[k, 1, 4] for k in range(5)]),
    _row("b7", "b_0.0_26.0", [[24, 26]], [12], [[0, 0, 0]], duration=26),
    _row(13, "a_0.0_150.0", [[148, 150]], [74], [[4, 3, 2]], query=" A man sits. "),
]
VAL = [_row(20, "c_60.0_210.0", [[0, 150]], list(range(75)), [[2, 2, 2]] * 75)]
TEST = [_row(30, "d_60.0_210.0", [[4, 6]], [2], [[1, 2, 3]])]


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "manual"
    path.mkdir()
    for name, rows in zip(annotations.QUERY_FILES.values(), (TRAIN, VAL, TEST)):
        _write(path / name, rows)
    return path


def _options(manual_dir, data_dir="unused"):
    return ml_collections.ConfigDict(
        dict(
            name="qvhighlights",
            data_dir=str(data_dir),
            manual_dir=str(manual_dir),
            features="clip_features",
            feature_key="features",
            feature_dim=4,
            feature_stride=2.0,
            on_missing="error",
        )
    )


def _read(folder):
    return records.read(qvhighlights.SOURCE, _options(folder))


def _plain(found):
    """Split -> [(video, duration, qid, text, span, windows, saliency as lists)]."""
    return {
        split: [
            (v.id, v.duration, q.qid, q.text, q.span, q.windows, q.saliency.tolist())
            for v in videos
            for q in v.queries
        ]
        for split, videos in found.splits.items()
    }


def test_windows_and_saliency(folder):
    found = _read(folder)
    assert list(found.splits) == ["train", "val", "test"]
    first, second = found.splits["train"]
    assert [(v.id, v.duration) for v in (first, second)] == [("a_0.0_150.0", 150.0), ("b_0.0_26.0", 26.0)]
    query, other = first.queries
    assert (query.qid, query.tags, query.windows) == ("12", (), [(0.0, 2.0), (10.0, 14.0), (20.0, 24.0)])
    assert query.span == (10.0, 14.0)  # as long as (20, 24), and before it
    assert query.saliency.shape == (75, 3) and query.saliency.dtype == np.int32
    expected = np.full((75, 3), -1)
    for clip, score in zip((0, 5, 6, 10, 11), range(5)):
        expected[clip] = (score, 1, 4)
    np.testing.assert_array_equal(query.saliency, expected)
    assert (other.qid, other.text, other.saliency[74].tolist()) == ("13", "A man sits.", [4, 3, 2])
    assert second.queries[0].qid == "b7" and second.queries[0].saliency[12].tolist() == [0, 0, 0]
    assert (found.dropped, found.clipped, list(found.counts.values())) == ([], 0, [0])


def test_windows_off_the_grid_or_the_video_are_counted(folder):
    rows = [
        _row(12, "a", [[0, 3], [5, 7], [148, 151]], [0], [[1, 1, 1]]),  # three off the grid, one cut
        _row(13, "a", [[150, 152], [2, 4], [4, 4]], [1], [[1, 1, 1]]),  # two are empty
        _row(14, "a", [[9, 8]], [], []),  # nothing is left
        _row(15, "a", [[2, 4.5]], [1], [[1, 1, 1]]),  # one off the grid
    ]
    _write(folder / TRAIN_FILE, rows)
    found = _read(folder)
    (video,) = found.splits["train"]
    assert [(q.qid, q.windows) for q in video.queries] == [
        ("12", [(0.0, 3.0), (5.0, 7.0), (148.0, 150.0)]),
        ("13", [(2.0, 4.0)]),
        ("15", [(2.0, 4.5)]),
    ]
    places = [(2, 0), (2, 2), (3, 0)]
    assert found.dropped == [f"{TRAIN_FILE}:{line}, window {k}" for line, k in places]
    assert found.clipped == 1
    assert list(found.counts.values()) == [3 + 1 + 1]  # 9 to 8 s is off the grid too


def test_without_the_ground_truth_test_is_unlabelled(folder):
    """Its file is then the one without moments; without that one there is no such split."""
    (folder / TEST_FILE).unlink()
    told = ("qid", "query", "vid", "duration")
    unlabelled = folder / "highlight_test_release.jsonl"
    _write(unlabelled, [{name: row[name] for name in told} for row in TEST])
    found = _read(folder)
    queries = [query for video in found.splits["test"] for query in video.queries]
    assert [query.qid for query in queries] == [str(row["qid"]) for row in TEST]
    assert not any(query.labelled or query.windows for query in queries) and not found.unlabelled
    (message,) = [what for what in found.counts if "split test" in what]
    assert TEST_FILE in message and "highlight_test_release.jsonl has no moments" in message
    unlabelled.unlink()
    assert list(_read(folder).splits) == ["train", "val"]


@pytest.mark.parametrize("none", [None, []])
def test_a_row_without_a_moment_among_others_is_left_out_and_named(folder, none):
    extra = {**_row(21, "e", [[0, 2]], [0], [[1, 2, 3]]), "relevant_windows": none}
    for name, rows in ((TRAIN_FILE, TRAIN), (VAL_FILE, VAL)):
        _write(folder / name, [*rows, {**extra, "qid": f"new in {name}", "vid": name}])
    found = _read(folder)
    assert [place.split("/")[-1] for place in found.unlabelled] == [
        f"{TRAIN_FILE}, line {len(TRAIN) + 1}",
        f"{VAL_FILE}, line {len(VAL) + 1}",
    ]
    assert all(query.labelled for videos in found.splits.values() for v in videos for query in v.queries)


def test_the_test_split_is_read_alone(folder):
    for name in (TRAIN_FILE, VAL_FILE):
        (folder / name).unlink()
    options = _options(folder)
    assert list(records.read(qvhighlights.SOURCE, options, "test").splits) == ["test"]
    splits = AnnotatedSplits(qvhighlights.SOURCE, options)
    assert splits.split_names == ("test",) and len(splits.split("test").queries) == len(TEST)
    with pytest.raises(UserError, match=rf"{TRAIN_FILE} missing"):
        splits.split("train")


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = _plain(_read(folder))
    for path in list(folder.iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert _plain(_read(folder)) == expected


def test_missing_files_are_listed_at_once(folder):
    for name in (TRAIN_FILE, VAL_FILE, TEST_FILE):
        (folder / name).unlink()
    with pytest.raises(UserError) as error:
        _read(folder)
    message = str(error.value)
    assert f": {TRAIN_FILE}, {VAL_FILE} missing" in message and "moment_detr" in message
    assert "data/qvhighlights/README.md" in message


@pytest.mark.parametrize("name", [TRAIN_FILE, VAL_FILE, TEST_FILE])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda raw: b"", "is empty"),
        (lambda raw: b"\r\n \r\n", "is empty"),
        (lambda raw: raw[:-9], r"line \d: no valid JSON"),
        (lambda raw: raw + b"[]\n", r"line \d: expected an object"),
        (lambda raw: raw.replace(b"man", b"m\xe4n"), "line 1: not UTF-8"),
    ],
)
def test_damaged_files(folder, name, damage, message):
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError, match=rf"{name}.*{message}"):
        _read(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"duration": 0}, '"duration" is 0; expected a positive number'),
        ({"duration": 152}, '"duration" is 152 s; videos of QVHighlights last 150 s at most'),
        ({"vid": None}, '"vid" is None'),
        ({"query": "?"}, "the sentence is empty"),
        ({"relevant_windows": 4}, '"relevant_windows" is int'),
        ({"relevant_windows": [[0, 2], [4]]}, r"row 1: the moment is \[4\]"),
        ({"relevant_clip_ids": [0, 1, 2]}, "not two lists of one length"),
        ({"saliency_scores": None}, "not two lists of one length"),
        ({"relevant_clip_ids": [0, 13]}, r'"relevant_clip_ids" has 13, which is no clip of a video of 26 s'),
        ({"relevant_clip_ids": [0, -1]}, r'"relevant_clip_ids" has -1'),
        ({"relevant_clip_ids": [0, 1.0]}, r'"relevant_clip_ids" has 1\.0'),
        ({"relevant_clip_ids": [1, 1]}, r'"relevant_clip_ids" has 1 twice'),
        ({"saliency_scores": [[1, 2, 3], [1, 2]]}, r'"saliency_scores" has \[1, 2\]; expected 3 whole numbers'),
        ({"saliency_scores": [[1, 2, 3], [1, 2, 5]]}, r'"saliency_scores" has \[1, 2, 5\]'),
        ({"saliency_scores": [[1, 2, 3], [1, 2, -1]]}, r'"saliency_scores" has \[1, 2, -1\]'),
        ({"saliency_scores": [[1, 2, 3], [1, 2, 2.5]]}, r'"saliency_scores" has \[1, 2, 2\.5\]'),
        ({"saliency_scores": [[1, 2, 3], 4]}, r'"saliency_scores" has 4'),
        ({"qid": None}, "the id is None"),
        ({"vid": "c_60.0_210.0"}, r'"c_60\.0_210\.0" lasts 26 s here, 150 s in a row above'),
    ],
)
def test_defects_name_file_and_line(folder, change, message):
    row = _row(21, "e", [[0, 4]], [0, 1], [[1, 2, 3]] * 2, duration=26)
    _write(folder / VAL_FILE, [*VAL, {**row, **change}])
    with pytest.raises(UserError, match=rf"{VAL_FILE}, line 2.*{message}"):
        _read(folder)


def test_the_last_clip_of_an_odd_video_belongs_to_it(folder):
    _write(folder / VAL_FILE, [_row(21, "e", [[24, 25]], [12], [[1, 2, 3]], duration=25)])
    (video,) = _read(folder).splits["val"]
    assert video.queries[0].saliency[12].tolist() == [1, 2, 3]


@pytest.mark.parametrize("field", list(TEST[0]))
def test_missing_field_names_the_nearest(folder, field):
    row = dict(TEST[0])
    row[field + "_"] = row.pop(field)
    _write(folder / TEST_FILE, [row])
    message = rf'{TEST_FILE}, line 1: no "{field}"\. Did you mean "{field}_"\?'
    with pytest.raises(UserError, match=message):
        _read(folder)


@pytest.mark.parametrize("again", [12, "12", "b7"])
@pytest.mark.parametrize("name", [VAL_FILE, TEST_FILE])
def test_ids_are_unique_over_all_files(folder, again, name):
    _write(folder / name, [_row(again, "e", [[0, 2]], [0], [[1, 2, 3]])])
    with pytest.raises(
        UserError, match=rf'{name}, line 1: the id "{again}" is also that of .*{TRAIN_FILE}, line'
    ):
        _read(folder)


def test_training_video_in_another_split(folder):
    _write(folder / TEST_FILE, [_row(31, "a_0.0_150.0", [[0, 2]], [0], [[1, 2, 3]])])
    with pytest.raises(UserError, match=r"1 videos of test are also in train, such as a_0\.0_150\.0"):
        _read(folder)


def test_too_many_windows(folder, tmp_path):
    """Up to 25 occur; the record has room for 32."""
    windows = [[4 * k, 4 * k + 2] for k in range(33)]
    _write(folder / VAL_FILE, [_row(20, "c", windows, [], [])])
    with pytest.raises(UserError, match=rf"{VAL_FILE}, video c, query 20: 33 moments; at most 32"):
        qvhighlights.prepare(_options(folder, tmp_path / "data"))


def test_prepared_records(folder, tmp_path, caplog):
    import tensorflow_datasets as tfds

    options = _options(folder, tmp_path / "data")
    with caplog.at_level(logging.INFO, "vmr_jax"):
        builder = qvhighlights.prepare(options)
    assert "0 windows that are not on the grid" in caplog.text and "split test" not in caplog.text
    first, _ = tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))
    queries = first["queries"]
    assert list(queries["qid"]) == [b"12", b"13"]
    np.testing.assert_array_equal(queries["span"], [[10, 14], [148, 150]])
    np.testing.assert_array_equal(queries["windows"][0, :4], [[0, 2], [10, 14], [20, 24], [-1, -1]])
    expected = [query.saliency for query in _read(folder).splits["train"][0].queries]
    np.testing.assert_array_equal(queries["saliency"], expected)

    (folder / TEST_FILE).unlink()
    caplog.clear()
    with caplog.at_level(logging.INFO, "vmr_jax"):
        without = qvhighlights.prepare(options)
    assert without.data_path != builder.data_path and set(without.info.splits) == {"train", "val"}
    assert f"0 queries with moments in the split test, as {TEST_FILE} is not there" in caplog.text


def test_features_by_the_names_of_the_videos(folder):
    (folder / "clip_features").mkdir()
    for name in ("a_0.0_150.0", "b_0.0_26.0"):
        np.savez(folder / "clip_features" / f"{name}.npz", features=np.ones((75, 4), np.float32))
    reader = qvhighlights.features(_options(folder))
    assert reader.ids == ("a_0.0_150.0", "b_0.0_26.0") and reader.read("b_0.0_26.0").shape == (75, 4)
    assert qvhighlights.word_vectors(_options(folder)) is None


# --- the real files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official():
    """Annotations and raw rows of all three splits."""
    found = annotations.read(_options(SHARED))
    raw = {
        split: [json.loads(line) for line in (SHARED / name).read_text().splitlines()]
        for split, name in annotations.QUERY_FILES.items()
    }
    return found, raw


@needs_shared
def test_official_counts(official):
    found, _ = official
    counts = {
        split: {"queries": sum(len(video.queries) for video in videos), "videos": len(videos)}
        for split, videos in found.splits.items()
    }
    assert counts == qvhighlights.PUBLISHED_COUNTS
    # Nothing had to be put right, and every window is on the grid.
    assert (found.dropped, found.clipped, list(found.counts.values())) == ([], 0, [0])


@needs_shared
@pytest.mark.parametrize(
    "split, per_query, seconds, most",
    [("train", 1.77, 25.1, 24), ("val", 1.81, 23.2, 25), ("test", 1.79, 23.8, 20)],
)
def test_official_windows(official, split, per_query, seconds, most):
    videos = official[0].splits[split]
    queries = [query for video in videos for query in video.queries]
    lengths = [end - start for query in queries for start, end in query.windows]
    assert round(len(lengths) / len(queries), 2) == per_query
    assert round(float(np.mean(lengths)), 1) == seconds
    assert max(len(query.windows) for query in queries) == most
    assert round(np.mean([len(query.text.split()) for query in queries]), 1) == 10.5
    longest = [max(end - start for start, end in query.windows) for query in queries]
    assert [query.span[1] - query.span[0] for query in queries] == longest
    full = sum(video.duration == 150 for video in videos for _ in video.queries)
    assert round(100 * full / len(queries)) == 97


@needs_shared
@pytest.mark.parametrize("split", list(annotations.QUERY_FILES))
def test_official_saliency_equals_the_raw_scores_and_lies_in_the_windows(official, split):
    found, raw = official
    queries = {query.qid: query for video in found.splits[split] for query in video.queries}
    assert queries.keys() == {str(row["qid"]) for row in raw[split]}
    for row in raw[split]:
        query = queries[str(row["qid"])]
        assert query.saliency[row["relevant_clip_ids"]].tolist() == row["saliency_scores"]
        starts = np.arange(annotations.CLIPS) * 2
        inside = np.zeros(annotations.CLIPS, bool)
        for start, end in query.windows:
            inside |= (starts >= start) & (starts < end)
        np.testing.assert_array_equal((query.saliency >= 0).all(1), inside)
        np.testing.assert_array_equal((query.saliency < 0).all(1), ~inside)


@needs_shared
def test_the_published_test_file_has_no_moments():
    path = SHARED / "highlight_test_release.jsonl"
    videos = annotations.read_file(path, {}, Annotations({}))
    queries = [query for video in videos for query in video.queries]
    assert len(queries) == 1542 and not any(query.labelled for query in queries)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    truth = [json.loads(line) for line in (SHARED / TEST_FILE).read_text().splitlines()]
    keys = ("qid", "query", "vid", "duration")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in truth]
