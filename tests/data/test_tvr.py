"""TVR: durations and types, every error, preparation, and the real files of val."""

import json
import logging
import pathlib
from collections import Counter

import ml_collections
import numpy as np
import pytest

from vmr_jax.data import tvr
from vmr_jax.data.tvr import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.annotations import Annotations

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/tvr"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def _row(desc_id, vid_name, ts, duration=60.5, kind="v", desc="Monica opens the door."):
    return {
        "vid_name": vid_name,
        "duration": duration,
        "ts": ts,
        "desc": desc,
        "type": kind,
        "desc_id": desc_id,
    }


TRAIN = [
    _row(12, "friends_1", [0, 2.29], desc="Monica opens the door.  "),
    _row(13, "house_1", [50, 91.2], duration=90.0, kind="vt"),
    _row(14, "friends_1", [16.48, 33.87], duration=60.6, kind="t"),
    _row(15, "friends_1", [10, 10]),
    _row(16, "house_2", [40.01, 41]),
]
VAL = [_row(20, "castle_1", [1, 2], duration=30.0, kind="t")]
INDEX = {
    "train": {"friends_1": [60.5, 0], "house_1": [90.0, 1], "house_2": [40, 2]},
    "val": {"castle_1": [30.0, 3]},
}


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "manual"
    path.mkdir()
    for name, rows in zip(annotations.QUERY_FILES.values(), (TRAIN, VAL)):
        _write(path / name, rows)
    (path / annotations.INDEX_FILE).write_text(json.dumps(INDEX, indent=1))
    return path


def _options(manual_dir, data_dir="unused"):
    return ml_collections.ConfigDict(
        dict(
            name="tvr",
            data_dir=str(data_dir),
            manual_dir=str(manual_dir),
            features="features",
            feature_key="",
            feature_dim=4,
            feature_stride=1.5,
            on_missing="error",
        )
    )


def _read(folder):
    return records.read(tvr.SOURCE, _options(folder))


def test_rows_are_clipped_dropped_and_tagged(folder):
    found = _read(folder)
    queries = {
        (video.id, query.qid): (query.text, query.span, query.tags)
        for videos in found.splits.values()
        for video in videos
        for query in video.queries
    }
    assert queries == {
        ("friends_1", "12"): ("Monica opens the door.", (0.0, 2.29), ("v",)),
        ("house_1", "13"): ("Monica opens the door.", (50.0, 90.0), ("vt",)),
        ("friends_1", "14"): ("Monica opens the door.", (16.48, 33.87), ("t",)),
        ("castle_1", "20"): ("Monica opens the door.", (1.0, 2.0), ("t",)),
    }
    assert list(found.splits) == ["train", "val"]
    # Line 4 has no length; line 5 starts after house_2 has ended, by the index (40 s), not the row (60.5 s).
    assert found.dropped == ["tvr_train_release.jsonl:4", "tvr_train_release.jsonl:5"]
    assert found.clipped == 1
    # friends_1 has 60.6 s in a row and 60.5 s in the index; house_2 60.5 s and 40 s.
    assert list(found.counts.values()) == [2]
    assert {v.id: v.duration for v in found.splits["train"]} == {"friends_1": 60.5, "house_1": 90.0}


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = _read(folder)
    for path in list(folder.iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert _read(folder) == expected


@pytest.mark.parametrize("name", [*annotations.QUERY_FILES.values(), annotations.INDEX_FILE])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf": {name} missing.*TVRetrieval.*data/tvr/README\.md"):
        _read(folder)


def test_missing_files_are_listed_at_once(folder):
    with pytest.raises(UserError, match=", ".join([*annotations.QUERY_FILES.values(), annotations.INDEX_FILE])):
        _read(folder / "nowhere")


@pytest.mark.parametrize("name", [*annotations.QUERY_FILES.values(), annotations.INDEX_FILE])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda raw: b"", "is empty"),
        (lambda raw: raw[:-9], r"line \d+: no valid JSON"),
        (lambda raw: raw.replace(b"_1", b"_\xff"), r"line \d+: not UTF-8"),
    ],
)
def test_damaged_files(folder, name, damage, message):
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError, match=rf"{name}.*{message}"):
        _read(folder)


@pytest.mark.parametrize(
    "index, message",
    [
        ([], r"expected \{"),
        ({"train": [], "val": {}}, r"expected \{"),
        ({"train": {"friends_1": 60.5}}, r"video friends_1: found 60\.5; expected \[duration, number\]"),
        ({"train": {"friends_1": []}}, r"video friends_1: found \[\]"),
        ({"train": {"friends_1": [0, 1]}}, r"video friends_1: the duration is 0; expected a positive number"),
        ({"train": {"friends_1": ["long", 1]}}, r"video friends_1: the duration is 'long'"),
    ],
)
def test_defects_of_the_index(folder, index, message):
    (folder / annotations.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(UserError, match=rf"{annotations.INDEX_FILE}.*{message}"):
        _read(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"vid_name": "castle_2"},
            r'tvr_video2dur_idx\.json has no video "castle_2"\. Did you mean "castle_1"',
        ),
        ({"vid_name": 3}, r'"vid_name" is 3'),
        ({"duration": 0}, r'"duration" is 0; expected a positive number'),
        ({"duration": None}, r'"duration" is None'),
        ({"ts": [1]}, r"the moment is \[1\]; expected \[start, end\]"),
        ({"ts": 1}, r"the moment is 1"),
        ({"ts": [1, "x"]}, r"the moment is \[1, 'x'\]"),
        ({"ts": [1, float("nan")]}, r"the moment is \[1, nan\]"),
        ({"desc": " "}, "the sentence is empty"),
        ({"type": "tv"}, r"\"type\" is 'tv'; expected v, t or vt"),
        ({"type": ["v"]}, r"\"type\" is \['v'\]"),
        ({"desc_id": None}, "the id is None"),
        ({"desc_id": []}, r"the id is \[\]"),
    ],
)
def test_defects_name_file_and_line(folder, change, message):
    _write(folder / "tvr_val_release.jsonl", [*VAL, {**_row(21, "castle_1", [1, 2]), **change}])
    with pytest.raises(UserError, match=rf"tvr_val_release\.jsonl, line 2: {message}"):
        _read(folder)


@pytest.mark.parametrize("field", ["vid_name", "duration", "ts", "desc", "type", "desc_id"])
def test_missing_field_names_the_nearest(folder, field):
    row = _row(21, "castle_1", [1, 2])
    row[field + "_"] = row.pop(field)
    _write(folder / "tvr_val_release.jsonl", [*VAL, row])
    with pytest.raises(UserError, match=rf'line 2: no "{field}"\. Did you mean "{field}_"\?'):
        _read(folder)


@pytest.mark.parametrize("again", [12, "12"])
def test_ids_are_unique_over_all_files(folder, again):
    _write(folder / "tvr_val_release.jsonl", [_row(again, "castle_1", [1, 2])])
    with pytest.raises(UserError, match=r'val_release\.jsonl, line 1: the id "12" is also .*train.*, line 1;'):
        _read(folder)


def test_training_video_in_another_split(folder):
    _write(folder / "tvr_val_release.jsonl", [_row(21, "friends_1", [1, 2])])
    with pytest.raises(UserError, match="1 videos of val are also in train, such as friends_1"):
        _read(folder)


def test_prepared_records(folder, tmp_path, caplog):
    import tensorflow_datasets as tfds

    with caplog.at_level(logging.INFO, "vmr_jax"):
        builder = tvr.prepare(_options(folder, tmp_path / "data"))
    assert "2 rows dropped" in caplog.text and "2 rows whose duration is not that of the index" in caplog.text
    assert set(builder.info.splits) == {"train", "val"}
    first, second = tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))
    assert (first["video"], first["duration"]) == (b"friends_1", 60.5)
    assert list(first["queries"]["tags"]) == [b"v", b"t"]
    assert list(second["queries"]["tags"]) == [b"vt"]
    np.testing.assert_allclose(first["queries"]["span"], np.float32([[0, 2.29], [16.48, 33.87]]))


def test_features_by_the_names_of_the_videos(folder):
    (folder / "features").mkdir()
    np.save(folder / "features" / "castle_1.npy", np.ones((20, 4), np.float32))
    assert tvr.features(_options(folder)).read("castle_1").shape == (20, 4)
    assert tvr.word_vectors(_options(folder)) is None


# --- mTVR -----------------------------------------------------------------------------------------


def _translated(rows):
    """The rows as mTVR has them."""
    texts = [{"en": row["desc"], "zh": "莫妮卡打开了门。"} for row in rows]
    kept = [{k: v for k, v in row.items() if k != "desc"} for row in rows]
    return [{**row, "descs": both} for row, both in zip(kept, texts)]


@pytest.fixture
def translated(folder):
    """The same queries in two languages, without TVR's own files."""
    for name, rows in zip(annotations.QUERY_FILES.values(), (TRAIN, VAL)):
        (folder / name).unlink()
        _write(folder / name.replace("tvr", "tvr_zh_en"), _translated(rows))
    return folder


def _in_language(folder, language):
    options = _options(folder)
    options.language = language
    return records.read(tvr.SOURCE, options)


def test_a_language_of_mtvr(translated):
    for language, text in (("en", "Monica opens the door."), ("zh", "莫妮卡打开了门。")):
        found = _in_language(translated, language)
        texts = [q.text for videos in found.splits.values() for video in videos for q in video.queries]
        assert texts == 4 * [text]
        assert found.dropped == ["tvr_zh_en_train_release.jsonl:4", "tvr_zh_en_train_release.jsonl:5"]


@pytest.mark.parametrize(
    "language, change, message",
    [
        ("cn", {}, r'config\.dataset\.language is "cn"'),
        ("google_zh", {}, 'line 1: no "google_zh"'),
        ("zh", {"descs": "Monica opens the door."}, '"descs" is .*; expected {"en": text, "zh": text}'),
        ("zh", {"descs": {"en": "A door."}}, 'line 1: no "zh"'),
    ],
)
def test_defects_of_a_language(translated, language, change, message):
    _write(translated / "tvr_zh_en_val_release.jsonl", [{**_translated(VAL)[0], **change}])
    with pytest.raises(UserError, match=message):
        _in_language(translated, language)


def test_missing_files_of_mtvr(folder):
    with pytest.raises(UserError, match="tvr_zh_en_train_release.jsonl.* missing.*mTVRetrieval"):
        _in_language(folder, "en")


# --- the real files -------------------------------------------------------------------------------


def _real(name):
    found = Annotations({})
    durations = annotations.durations_of(SHARED / annotations.INDEX_FILE)
    return annotations.read_file(SHARED / name, {}, found, durations), found


@needs_shared
def test_official_validation():
    videos, found = _real("tvr_val_release.jsonl")
    queries = [query for video in videos for query in video.queries]
    assert tvr.PUBLISHED_COUNTS["val"] == {"queries": len(queries), "videos": len(videos)}
    assert Counter(query.tags for query in queries) == {("v",): 8097, ("t",): 964, ("vt",): 1834}
    # No moment had to be cut, and every duration is that of the index.
    assert (found.dropped, found.clipped, list(found.counts.values())) == ([], 0, [0])
    lengths = [query.span[1] - query.span[0] for query in queries]
    durations = [video.duration for video in videos for _ in video.queries]
    words = [len(query.text.split()) for query in queries]
    means = [round(float(np.mean(values)), 1) for values in (lengths, durations, words)]
    assert means == [9.2, 75.7, 12.2]


@needs_shared
def test_official_moments_equal_the_raw_ones():
    raw = [json.loads(line) for line in (SHARED / "tvr_val_release.jsonl").read_text().splitlines()]
    videos, _ = _real("tvr_val_release.jsonl")
    found = {query.qid: (video.id, *query.span) for video in videos for query in video.queries}
    assert found == {str(row["desc_id"]): (row["vid_name"], *row["ts"]) for row in raw}


@needs_shared
def test_official_index():
    index = json.loads((SHARED / annotations.INDEX_FILE).read_text())
    counts = {split: len(videos) for split, videos in index.items()}
    assert counts == {"train": 17435, "val": 2179, "test_public": 1089, "test_challenge": 1090}
    assert len(annotations.durations_of(SHARED / annotations.INDEX_FILE)) == sum(counts.values())
    # Five queries a video, in the split that is here; so the published number of training queries follows.
    assert tvr.PUBLISHED_COUNTS["train"] == {"queries": 5 * counts["train"], "videos": counts["train"]}
    videos, _ = _real("tvr_val_release.jsonl")
    assert {len(video.queries) for video in videos} == {5}


@needs_shared
def test_public_test_has_no_moments():
    path = SHARED / "tvr_test_public_release.jsonl"
    assert {frozenset(json.loads(line)) for line in path.read_text().splitlines()} == {
        frozenset({"desc", "desc_id"})
    }
    found = Annotations({})
    annotations.read_file(path, {}, found, {})
    assert len(found.wrong) == len(path.read_text().splitlines())
    with pytest.raises(UserError, match='line 1: no "vid_name"'):
        found.complete()
