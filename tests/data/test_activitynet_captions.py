"""ActivityNet Captions: reading rules, every error, conventions, preparation, and the real files."""

import json
import logging
import pathlib

import h5py
import ml_collections
import numpy as np
import pytest

from vmr_jax.data import activitynet_captions
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.features import missing

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/activitynet_captions"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

TRAIN = {
    "v_A": {
        "duration": 20.0,
        "timestamps": [[0.5, 6.25], [9.0, 5.0], [3.0, 20.01], [4.0, 4.0]],
        "sentences": ["A man sits.", " He stands.", " He runs\nfast. ", "He falls."],
    },
    "v_B": {"duration": 10, "timestamps": [[-1, 4]], "sentences": [" A dog barks."]},
    "v_C": {"duration": 5.0, "timestamps": [[5.0, 6.0]], "sentences": ["Nobody is there."]},
    "v_D": {"duration": 8.0, "timestamps": [[0, 8]], "sentences": ["They swim."]},
}
VAL_1 = {
    "v_E": {"duration": 12.0, "timestamps": [[0, 6], [6, 12]], "sentences": ["She dances.", "She bows."]},
    "v_F": {"duration": 7.0, "timestamps": [[1, 2]], "sentences": ["A cat jumps."]},
}
VAL_2 = {"v_E": {"duration": 12.0, "timestamps": [[0, 5]], "sentences": ["A girl is dancing."]}}


def _write(folder, **tables):
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(table))


@pytest.fixture
def folder(tmp_path):
    """A small manual_dir: v_C has no valid row, v_E is annotated twice."""
    path = tmp_path / "manual"
    path.mkdir()
    _write(path, train=TRAIN, val_1=VAL_1, val_2=VAL_2)
    return path


def _options(manual_dir, data_dir="unused", **changes):
    options = dict(
        name="activitynet_captions",
        data_dir=str(data_dir),
        manual_dir=str(manual_dir),
        features="features",
        feature_key="",
        feature_dim=4,
        convention="2d_tan",
        val_fraction=0.5,
    )
    return ml_collections.ConfigDict({**options, **changes})


def _annotations(manual_dir, **changes):
    return records.read(activitynet_captions.SOURCE, _options(manual_dir, **changes))


def _queries(found):
    """Split -> [(qid, text, span)] in order."""
    return {
        name: [(q.qid, q.text, q.span) for video in videos for q in video.queries]
        for name, videos in found.splits.items()
    }


# --- reading --------------------------------------------------------------------------------------

EXPECTED = {
    "train": [
        ("v_A-0", "A man sits.", (0.5, 6.25)),
        # v_A-1 ends before it starts, v_A-3 where it starts; the others keep their own numbers.
        ("v_A-2", "He runs\nfast.", (3.0, 20.0)),
        ("v_B-0", "A dog barks.", (0.0, 4.0)),
        ("v_D-0", "They swim.", (0.0, 8.0)),
    ],
    "anet_val_1": [
        ("anet_val_1/v_E-0", "She dances.", (0.0, 6.0)),
        ("anet_val_1/v_E-1", "She bows.", (6.0, 12.0)),
        ("anet_val_1/v_F-0", "A cat jumps.", (1.0, 2.0)),
    ],
    "anet_val_2": [("anet_val_2/v_E-0", "A girl is dancing.", (0.0, 5.0))],
}


@pytest.mark.parametrize("convention", ["2d_tan", "vslnet"])
def test_rows_are_stripped_clipped_dropped_and_named(folder, convention):
    found = _annotations(folder, convention=convention)
    assert _queries(found) == EXPECTED
    assert found.dropped == ["train.json, v_A, row 1", "train.json, v_A, row 3", "train.json, v_C, row 0"]
    assert found.clipped == 2  # the end of v_A-2 and the start of v_B-0
    assert {v.id: v.duration for v in found.splits["train"]} == {"v_A": 20.0, "v_B": 10.0, "v_D": 8.0}
    assert {q.tags for videos in found.splits.values() for v in videos for q in v.queries} == {()}


def test_windows_line_ends_and_byte_order_marks(folder):
    path = folder / "train.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(TRAIN, indent=1).encode().replace(b"\n", b"\r\n"))
    assert b"\r\n" in path.read_bytes()
    assert _queries(_annotations(folder)) == EXPECTED


@pytest.mark.parametrize("renamed", [("val_1",), ("val_2",), ("val_1", "val_2")])
def test_names_of_2d_tan_make_no_difference(folder, renamed):
    for name in renamed:
        (folder / f"{name}.json").rename(folder / {"val_1": "val.json", "val_2": "test.json"}[name])
    assert _queries(_annotations(folder)) == EXPECTED


@pytest.mark.parametrize("first, second", [("val_1.json", "val.json"), ("val_2.json", "test.json")])
def test_both_names_of_one_file_are_refused(folder, first, second):
    (folder / second).write_bytes((folder / first).read_bytes())
    with pytest.raises(UserError, match=f"has {first} and {second}: .*Keep one"):
        _annotations(folder)


def test_swapped_files_are_refused(folder):
    _write(folder, val_1=VAL_2, val_2=VAL_1)
    with pytest.raises(UserError, match=r"val_1\.json has 1 videos.* 2 of val_2\.json.*swapped"):
        _annotations(folder)
    # A part of the dataset in which both annotate the same videos says nothing about their order.
    _write(folder, val_1=VAL_2, val_2=VAL_2)
    assert len(_annotations(folder).splits["anet_val_2"]) == 1


def test_missing_files_are_listed_at_once(folder):
    (folder / "train.json").unlink()
    (folder / "val_2.json").unlink()
    with pytest.raises(UserError) as error:
        _annotations(folder)
    message = str(error.value)
    assert "train.json, val_2.json missing" in message
    assert "Krishna et al." in message and "2D-TAN" in message and "README.md" in message


@pytest.mark.parametrize("split", ["val_1", "val_2"])
def test_training_videos_in_a_validation_file_are_refused(folder, split):
    table = {"val_1": VAL_1, "val_2": VAL_2}[split]
    _write(folder, **{split: {**table, "v_D": TRAIN["v_D"]}})
    with pytest.raises(UserError, match=f"1 videos of anet_{split} are also in train, such as v_D"):
        _annotations(folder)


def _entry(**changes):
    entry = {"duration": 9.0, "timestamps": [[0, 1]], "sentences": ["He sits."], **changes}
    return {"v_A": TRAIN["v_A"], "v_Z": {k: v for k, v in entry.items() if v is not None}}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"train\.json is empty"),
        (b" \n", r"train\.json is empty"),
        (json.dumps(TRAIN, indent=1).encode()[:300], r"train\.json, line \d+: no valid JSON .* cut short"),
        (b'{"v_A":\n {"duration": "caf\xe9"}}', r"train\.json, line 2: not UTF-8"),
        (b'{"v_A": {}, "v_A": {}}', r'train\.json: the key "v_A" stands twice'),
        (b"[]", r'train\.json: expected \{"VIDEO"'),
        (b'{"v_A": []}', r'train\.json: expected \{"VIDEO"'),
        (b"{}", r'The split "train" of activitynet_captions has no queries'),
        (_entry(duration=None), r'v_Z: no "duration"'),
        (_entry(duration="long"), r'v_Z: "duration" is \'long\'; expected a positive number'),
        (_entry(duration=0), r'v_Z: "duration" is 0; expected a positive number'),
        (_entry(timestamps=None, timestamp=[[0, 1]]), r'v_Z: no "timestamps"\. Did you mean "timestamp"'),
        (_entry(timestamps={}), r'v_Z: "timestamps" is dict'),
        (_entry(timestamps=[[0, 1], [1, 2]]), r'v_Z: 2 "timestamps" and 1 "sentences"'),
        (_entry(timestamps=[]), r'v_Z: 0 "timestamps" and 1 "sentences"'),
        (_entry(sentences=None), r'v_Z: no "sentences"'),
        (_entry(sentences="He sits."), r'v_Z: 1 "timestamps" and no "sentences"'),
        (_entry(timestamps=[["one", 2]]), r"v_Z, row 0: the moment is \['one', 2\]"),
        (_entry(timestamps=[[0, float("nan")]]), r"v_Z, row 0: the moment is \[0, nan\]"),
        (_entry(timestamps=[[0, None]]), r"v_Z, row 0: the moment is \[0, None\]"),
        (_entry(timestamps=[[0]]), r"v_Z, row 0: the moment is \[0\]"),
        (_entry(timestamps=[0]), r"v_Z, row 0: the moment is 0"),
        (_entry(sentences=["  "]), r"v_Z, row 0: the sentence is empty"),
        (_entry(sentences=["."]), r"v_Z, row 0: the sentence is empty"),
        (_entry(sentences=[5]), r"v_Z, row 0: the sentence is empty"),
    ],
)
def test_defects_name_file_video_and_row(folder, content, message):
    (folder / "train.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=message):
        _annotations(folder)


# --- conventions ----------------------------------------------------------------------------------


def test_lgi_tests_on_both_files_and_selects_on_training_videos(folder):
    # sha256sum of v_A, v_B, v_D begins with 206f, 8723, 3cd8; round(0.34 * 3) = 1.
    found = _annotations(folder, convention="lgi", val_fraction=0.34)
    assert {name: [v.id for v in videos] for name, videos in found.splits.items()} == {
        "train": ["v_B", "v_D"],
        "val": ["v_A"],
        "anet_val_1_and_2": ["v_E", "v_F"],  # one record for each video, though v_E is in both files
    }
    merged = [q for video in found.splits["anet_val_1_and_2"] for q in video.queries]
    assert [(q.qid, q.tags) for q in merged] == [
        ("anet_val_1/v_E-0", ("anet_val_1",)),
        ("anet_val_1/v_E-1", ("anet_val_1",)),
        ("anet_val_2/v_E-0", ("anet_val_2",)),
        ("anet_val_1/v_F-0", ("anet_val_1",)),
    ]
    # What is held out keeps its name, and nothing else changes.
    rows = _queries(found)
    assert sorted(rows["train"] + rows["val"]) == EXPECTED["train"]
    assert sorted(rows["anet_val_1_and_2"]) == EXPECTED["anet_val_1"] + EXPECTED["anet_val_2"]


def test_lgi_without_a_validation_fraction_has_no_val(folder):
    assert list(_annotations(folder, convention="lgi", val_fraction=0.0).splits) == [
        "train",
        "anet_val_1_and_2",
    ]
    with pytest.raises(UserError, match="config.dataset.val_fraction is 1.5"):
        _annotations(folder, convention="lgi", val_fraction=1.5)


def test_lgi_refuses_a_video_of_two_durations(folder):
    _write(folder, val_2={"v_E": {**VAL_2["v_E"], "duration": 13.0}})
    assert len(_annotations(folder).splits["anet_val_2"]) == 1
    with pytest.raises(UserError, match="video v_E lasts 12 s in val_1 and 13 s in val_2"):
        _annotations(folder, convention="lgi")


def test_unknown_convention_names_the_nearest(folder):
    with pytest.raises(UserError, match='config.dataset.convention is "2dtan". Did you mean "2d_tan"'):
        _annotations(folder, convention="2dtan")


# --- preparation ----------------------------------------------------------------------------------


def _read(builder, split):
    import tensorflow_datasets as tfds

    return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def test_prepared_by_convention(folder, tmp_path, caplog):
    options = _options(folder, tmp_path / "data")
    with caplog.at_level(logging.INFO, logger="vmr_jax"):
        builder = activitynet_captions.prepare(options)
    assert "3 rows dropped" in caplog.text and "2 clipped" in caplog.text
    assert list(builder.info.splits) == ["train", "anet_val_1", "anet_val_2"]
    first, second = _read(builder, "anet_val_1")
    assert (first["video"], first["duration"], second["video"]) == (b"v_E", 12.0, b"v_F")
    np.testing.assert_array_equal(first["queries"]["span"], [[0, 6], [6, 12]])
    np.testing.assert_array_equal(first["queries"]["windows"][:, 0], [[0, 6], [6, 12]])
    assert first["queries"]["text"].tolist() == [b"She dances.", b"She bows."]

    lgi = activitynet_captions.prepare(_options(folder, tmp_path / "data", convention="lgi"))
    assert lgi.data_path != builder.data_path
    (merged, _) = _read(lgi, "anet_val_1_and_2")
    assert merged["queries"]["tags"].tolist() == [b"anet_val_1", b"anet_val_1", b"anet_val_2"]


def test_feature_layouts_of_the_field(folder):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    with h5py.File(folder / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:  # the challenge, 2D-TAN
        file.create_group("v_E")["c3d_features"] = rows
    for kind in ("h5", "npy"):
        (folder / kind).mkdir()
    with h5py.File(folder / "h5/v_E.h5", "w") as file:  # SCN, RTBPN
        file["feature"] = rows
    np.save(folder / "npy/v_E.npy", rows)  # VSLNet
    for path in ("sub_activitynet_v1-3.c3d.hdf5", "h5", "npy"):
        reader = activitynet_captions.features(_options(folder, features=path))
        assert missing(reader, ["v_E", "v_F"]) == ["v_F"]
        np.testing.assert_array_equal(reader.read("v_E"), rows)
    assert activitynet_captions.word_vectors(_options(folder)) is None


# --- the real files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official():
    return _annotations(SHARED)


@needs_shared
def test_official_counts(official):
    counts = {
        name: {"queries": sum(len(v.queries) for v in videos), "videos": len(videos)}
        for name, videos in official.splits.items()
    }
    assert counts == activitynet_captions.PUBLISHED_COUNTS
    # The four training moments that the field drops: 37,421 - 4 = 37,417.
    assert [place.split(", ")[1] for place in official.dropped] == [
        "v_N7ppHQNikv8",
        "v_4rKTw99bM8g",
        "v_0bosp4-pyTM",
        "v_rhOtqArO-3Y",
    ]
    assert counts["train"]["queries"] + len(official.dropped) == 37421
    assert official.clipped == 506
    qids = [q.qid for videos in official.splits.values() for v in videos for q in v.queries]
    assert len(set(qids)) == len(qids)


@needs_shared
def test_ends_are_clipped_by_a_hundredth_of_a_second():
    beyond = {}
    for name in ("train", "val_1", "val_2"):
        table = json.loads((SHARED / f"{name}.json").read_text())
        ends = [end - e["duration"] for e in table.values() for _, end in e["timestamps"]]
        beyond[name] = [over for over in ends if over > 0]
    assert {name: len(over) for name, over in beyond.items()} == {"train": 261, "val_1": 134, "val_2": 111}
    assert max(max(over) for over in beyond.values()) == pytest.approx(0.01, abs=1e-9)


@needs_shared
def test_official_facts(official):
    videos = {name: {v.id: v for v in split} for name, split in official.splits.items()}
    assert set(videos["anet_val_2"]) < set(videos["anet_val_1"])
    assert not set(videos["train"]) & set(videos["anet_val_1"])
    facts = {}
    for name, split in videos.items():
        queries = [q for v in split.values() for q in v.queries]
        words = [len(q.text.split()) for q in queries]
        facts[name] = (
            round(np.mean([q.span[1] - q.span[0] for q in queries]), 1),
            round(np.mean([v.duration for v in split.values()])),
            round(np.mean(words), 1),
            max(words),
        )
    assert facts == {  # moment (s), video (s), words, most words
        "train": (35.5, 117, 13.5, 73),
        "anet_val_1": (37.7, 118, 13.6, 82),
        "anet_val_2": (40.2, 118, 12.0, 73),
    }
    share = [(q.span[1] - q.span[0]) / v.duration for v in videos["anet_val_2"].values() for q in v.queries]
    assert sum(x > 0.95 for x in share) == 1092


@needs_shared
def test_official_lgi(official):
    found = _annotations(SHARED, convention="lgi", val_fraction=0.05)
    counts = {name: (len(v), sum(len(x.queries) for x in v)) for name, v in found.splits.items()}
    # round(0.05 * 10,009) = 500 videos; 17,505 + 17,031 = 34,536 (LGI's test set).
    assert counts == {"train": (9509, 35479), "val": (500, 1938), "anet_val_1_and_2": (4917, 34536)}
    names = {q.qid for v in official.splits["anet_val_1"] + official.splits["anet_val_2"] for q in v.queries}
    assert {q.qid for v in found.splits["anet_val_1_and_2"] for q in v.queries} == names
