"""DiDeMo: chunks and votes, every error, preparation, and the real files of val and test."""

import itertools
import json
import logging
import pathlib
from collections import Counter

import h5py
import ml_collections
import numpy as np
import pytest

from vmr_jax.data import didemo
from vmr_jax.data.didemo import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.annotations import Annotations

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/didemo"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def _row(annotation_id, video, times, num_segments=6, description="a dog runs"):
    return {
        "annotation_id": annotation_id,
        "description": description,
        "video": video,
        "times": times,
        "num_segments": num_segments,
        "dl_link": "https://example.org",
    }


TRAIN = [
    _row(12, "a.mov", [[1, 1], [1, 1], [1, 2], [0, 0]], description=" a dog runs \n"),
    _row(7, "b.mp4", [[3, 4], [0, 0], [3, 4], [0, 0]], num_segments=5),
    _row(9, "a.mov", [[0, 5], [5, 5], [4, 5], [2, 2]]),
]
VAL = [_row(30, "c.", [[0, 0]] * 7)]
TEST = [_row(40, "d.avi", [[2, 3]] * 4)]


def _write(path, rows):
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows, indent=1), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "manual"
    path.mkdir()
    for name, rows in zip(annotations.QUERY_FILES.values(), (TRAIN, VAL, TEST)):
        _write(path / name, rows)
    return path


def _options(manual_dir, data_dir="unused", **changes):
    options = dict(
        name="didemo",
        data_dir=str(data_dir),
        manual_dir=str(manual_dir),
        features="average_fc7.h5",
        feature_key="",
        feature_dim=4,
        feature_stride=5.0,
        on_missing="error",
    )
    return ml_collections.ConfigDict({**options, **changes})


def _read(folder):
    return records.read(didemo.SOURCE, _options(folder))


def test_chunks_become_seconds_and_the_majority_is_learnt(folder):
    found = _read(folder)
    first, second = found.splits["train"]
    assert (first.id, first.duration, first.source) == ("a.mov", 30.0, "train_data.json")
    assert (second.id, second.duration) == ("b.mp4", 30.0)  # five chunks, in features and ranking of six
    query, other = first.queries
    assert (query.qid, query.text, query.tags) == ("12", "a dog runs", ())
    # Chunk i is 5 i to 5 (i + 1) s; both chunks of a moment belong to it; repeats stay.
    assert query.windows == [(5.0, 10.0), (5.0, 10.0), (5.0, 15.0), (0.0, 5.0)]
    assert query.span == (5.0, 10.0)
    # One vote each: the earliest start wins, though it ends last.
    assert other.windows == [(0.0, 30.0), (25.0, 30.0), (20.0, 30.0), (10.0, 15.0)]
    assert other.span == (0.0, 30.0)
    # Two votes each.
    assert second.queries[0].span == (0.0, 5.0)
    assert [v.id for v in found.splits["val"] + found.splits["test"]] == ["c.", "d.avi"]
    assert (found.dropped, found.clipped, list(found.counts.values())) == ([], 0, [0])


def test_the_majority_does_not_depend_on_the_order_of_the_annotators():
    votes = [(5.0, 10.0), (0.0, 10.0), (5.0, 10.0), (0.0, 10.0), (0.0, 30.0)]
    assert {annotations.most_chosen(order) for order in itertools.permutations(votes)} == {(0.0, 10.0)}


def test_seconds_give_the_chunks_back(folder):
    """The rule by which metrics recover chunks, for all 21 segments."""
    segments = [[i, j] for i in range(6) for j in range(i, 6)]
    _write(folder / "val_data.json", [_row(100 + k, "v.mov", [s]) for k, s in enumerate(segments)])
    (video,) = _read(folder).splits["val"]
    spans = [query.span for query in video.queries]
    assert [[round(start / 5), round(end / 5) - 1] for start, end in spans] == segments


def test_rows_of_a_video_that_differ_in_chunks_are_counted(folder):
    rows = [_row(1, "v.mov", [[4, 4]], num_segments=5), _row(2, "v.mov", [[5, 5]], num_segments=6)]
    _write(folder / "val_data.json", rows)
    found = _read(folder)
    (video,) = found.splits["val"]
    assert video.duration == 30.0 and list(found.counts.values()) == [1]


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = _read(folder)
    for path in list(folder.iterdir()):
        assert b"\n" in path.read_bytes()
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert _read(folder) == expected


def test_missing_files_are_listed_at_once(folder):
    (folder / "train_data.json").unlink()
    (folder / "test_data.json").unlink()
    with pytest.raises(UserError) as error:
        _read(folder)
    message = str(error.value)
    assert "train_data.json, test_data.json missing" in message and "val_data.json" not in message
    assert "LocalizingMoments" in message and "data/didemo/README.md" in message


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "val_data.json is empty"),
        ("\n \n", "val_data.json is empty"),
        ("[]", r"val_data\.json: expected \["),
        ("{}", r"val_data\.json: expected \["),
        ("[5]", r"val_data\.json: expected \["),
        (json.dumps(VAL, indent=1)[:-60], r"val_data\.json, line \d+: no valid JSON .*cut short"),
    ],
)
def test_damaged_files(folder, content, message):
    _write(folder / "val_data.json", content)
    with pytest.raises(UserError, match=message):
        _read(folder)


def test_file_that_is_not_utf8(folder):
    rows = [_row(1, "v.mov", [[0, 0]], description="the cafe"), _row(2, "v.mov", [[0, 0]], description="caf#")]
    text = json.dumps(rows, indent=1)
    (folder / "val_data.json").write_bytes(text.encode().replace(b"#", b"\xe9"))
    line = text[: text.index("#")].count("\n") + 1
    with pytest.raises(UserError, match=rf"val_data\.json, line {line}: not UTF-8"):
        _read(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"times": [[0, 0], [1]]}, r'"times" has \[1\]; expected \[first, last\]'),
        ({"times": [[0, 6]]}, r'"times" has \[0, 6\].* <= 5, as the video has 6 chunks'),
        ({"times": [[5, 5]], "num_segments": 5}, r'"times" has \[5, 5\].* <= 4, as the video has 5 chunks'),
        ({"times": [[-1, 0]]}, r'"times" has \[-1, 0\]'),
        ({"times": [[2, 1]]}, r'"times" has \[2, 1\]'),
        ({"times": [[0.0, 1.0]]}, r'"times" has \[0\.0, 1\.0\]'),
        ({"times": [["0", "1"]]}, r'"times" has \['),
        ({"times": [None]}, r'"times" has None'),
        ({"times": 3}, r'"times" is 3'),
        ({"times": []}, r'"times" is empty'),
        ({"num_segments": 7}, r'"num_segments" is 7; expected 5 or 6'),
        ({"num_segments": "6"}, r'"num_segments" is \'6\''),
        ({"description": "."}, r"the sentence is empty"),
        ({"description": None}, r"the sentence is empty"),
        ({"video": ""}, r'"video" is \'\''),
        ({"video": 5}, r'"video" is 5'),
        ({"annotation_id": None}, r"the id is None"),
        ({"annotation_id": True}, r"the id is True"),
        ({"annotation_id": 1.5}, r"the id is 1\.5"),
        ({"annotation_id": " "}, r"the id is ' '"),
    ],
)
def test_defects_name_file_and_row(folder, change, message):
    _write(folder / "val_data.json", [*VAL, {**_row(31, "e.mov", [[0, 0]]), **change}])
    with pytest.raises(UserError, match=r"val_data\.json, row 1: " + message):
        _read(folder)


@pytest.mark.parametrize("field", ["annotation_id", "description", "video", "times", "num_segments"])
def test_missing_field_names_the_nearest(folder, field):
    row = _row(31, "e.mov", [[0, 0]])
    row[field + "s_"] = row.pop(field)
    _write(folder / "val_data.json", [*VAL, row])
    with pytest.raises(UserError, match=rf'row 1: no "{field}"\. Did you mean "{field}s_"\?'):
        _read(folder)


@pytest.mark.parametrize("again", [12, "12", " 12"])
@pytest.mark.parametrize("name, place", [("train_data.json", "row 3"), ("test_data.json", "row 0")])
def test_ids_are_unique_over_all_files(folder, again, name, place):
    rows = [*TRAIN, _row(again, "z.mov", [[0, 0]])] if "train" in name else [_row(again, "z.mov", [[0, 0]])]
    _write(folder / name, rows)
    with pytest.raises(
        UserError, match=rf'{name}, {place}: the id "12" is also that of .*train_data\.json, row 0'
    ):
        _read(folder)


def test_training_video_in_another_split(folder):
    _write(folder / "test_data.json", [_row(40, "a.mov", [[0, 0]])])
    with pytest.raises(UserError, match=r"1 videos of test are also in train, such as a\.mov"):
        _read(folder)


def test_prepared_records(folder, tmp_path, caplog):
    import tensorflow_datasets as tfds

    options = _options(folder, tmp_path / "data")
    with caplog.at_level(logging.INFO, "vmr_jax"):
        builder = didemo.prepare(options)
    assert "0 videos whose rows differ in num_segments" in caplog.text
    assert set(builder.info.splits) == {"train", "val", "test"}
    first, second = tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))
    assert (first["video"], first["duration"], second["duration"]) == (b"a.mov", 30.0, 30.0)
    assert list(first["queries"]["qid"]) == [b"12", b"9"]
    windows = first["queries"]["windows"][0]
    np.testing.assert_array_equal(windows[:4], [[5, 10], [5, 10], [5, 15], [0, 5]])
    assert (windows[4:] == -1).all()
    assert list(first["queries"]["tags"]) == [b"", b""]


def test_features_by_the_names_of_the_annotations(folder):
    with h5py.File(folder / "average_fc7.h5", "w") as file:
        for k, name in enumerate(("a.mov", "b.mp4", "c.", "d.avi")):
            file[name] = np.full((6, 4), k, np.float32)
    reader = didemo.features(_options(folder))
    names = [video.id for videos in _read(folder).splits.values() for video in videos]
    assert [reader.read(name)[0, 0] for name in names] == [0, 1, 2, 3]
    assert didemo.word_vectors(_options(folder)) is None


# --- the real files -------------------------------------------------------------------------------


def _real(split, places):
    return annotations.read_file(SHARED / annotations.QUERY_FILES[split], places, Annotations({}))


@needs_shared
@pytest.mark.parametrize(
    "split, annotators, chunks, videos",
    [
        ("val", {4: 4165, 7: 15}, {6: 3457, 5: 723}, 1065),
        ("test", {4: 4009, 7: 11, 5: 1}, {6: 3548, 5: 473}, 1004),
    ],
)
def test_official_counts(split, annotators, chunks, videos):
    """Rows, names, annotators, chunks; and the paper's number of videos: names without their extension."""
    found = _real(split, {})
    queries = [query for video in found for query in video.queries]
    assert didemo.PUBLISHED_COUNTS[split] == {"queries": len(queries), "videos": len(found)}
    assert Counter(len(query.windows) for query in queries) == annotators
    rows = json.loads((SHARED / annotations.QUERY_FILES[split]).read_text())
    assert Counter(row["num_segments"] for row in rows) == chunks
    assert len({video.id.rpartition(".")[0] for video in found}) == videos


@needs_shared
@pytest.mark.parametrize("split", ["val", "test"])
def test_official_windows_equal_the_raw_times(split):
    rows = json.loads((SHARED / annotations.QUERY_FILES[split]).read_text())
    raw = {str(row["annotation_id"]): (np.asarray(row["times"]) + [0, 1]) * 5.0 for row in rows}
    found = {query.qid: query for video in _real(split, {}) for query in video.queries}
    assert found.keys() == raw.keys()
    for qid, windows in raw.items():
        np.testing.assert_array_equal(found[qid].windows, windows)
        votes = (windows[:, None] == windows).all(-1).sum(0)
        assert max(votes) == sum(map(tuple(found[qid].span).__eq__, map(tuple, windows.tolist())))


@needs_shared
def test_official_splits_share_neither_ids_nor_videos():
    places = {}
    names = [{video.id.rpartition(".")[0] for video in _real(split, places)} for split in ("val", "test")]
    assert len(places) == 4180 + 4021 and not names[0] & names[1]
