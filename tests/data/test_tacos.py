"""TACoS: the two versions, frames and seconds, every error, preparation, and the real files."""

import json
import logging
import pathlib

import h5py
import ml_collections
import numpy as np
import pytest

from vmr_jax.data import tacos
from vmr_jax.data.tacos import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.features import missing

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/tacos"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def _entry(timestamps, sentences, fps=25.0, num_frames=1000):
    return {"timestamps": timestamps, "sentences": sentences, "fps": fps, "num_frames": num_frames}


# 25 frames a second: 1000 frames are 40 s.
TRAIN = {
    "s1-d1.avi": _entry([[50, 100], [300, 200], [900, 1010]], ["He takes a pan.", "He stirs.", " He eats. "]),
    "s1-d2.avi": _entry([[0, 500]], ["She washes a fig."], fps=50.0),
}
VAL = {"s2-d1.avi": _entry([[10, 20]], ["He cuts bread."])}
TEST = {"s3-d1.avi": _entry([[25, 75], [25, 75]], ["She peels an orange.", "The woman peels."])}
TALL = {
    "train": "s1-d1.avi_50_100:He takes a pan.#A man: a pan.#\ns1-d1.avi_300_200:He stirs.#\n\n"
    "s1-d2.avi_0_500:She washes a fig.#\ns1-d1.avi_900_1010:He eats.#He bites#\n",
    "val": "s2-d1.avi_10_20:He cuts bread.",
    "test": "s3-d1.avi_25_75: She peels an orange.# The woman peels. #\n",
}


@pytest.fixture
def folder(tmp_path):
    """A small manual_dir with both versions."""
    path = tmp_path / "manual"
    path.mkdir()
    for split, table in zip(annotations.TABLES, (TRAIN, VAL, TEST)):
        (path / annotations.TABLES[split]).write_text(json.dumps(table))
        (path / annotations.TALL_FILES[split]).write_text(TALL[split])
    return path


def _options(manual_dir, data_dir="unused", **changes):
    options = dict(
        name="tacos",
        data_dir=str(data_dir),
        manual_dir=str(manual_dir),
        features="features.hdf5",
        feature_key="",
        feature_dim=4,
        version="2d_tan",
    )
    return ml_collections.ConfigDict({**options, **changes})


def _annotations(manual_dir, **changes):
    return records.read(tacos.SOURCE, _options(manual_dir, **changes))


def _queries(found):
    """Split -> [(qid, text, span)] in order."""
    return {
        name: [(q.qid, q.text, q.span) for video in videos for q in video.queries]
        for name, videos in found.splits.items()
    }


# --- 2D-TAN's version -----------------------------------------------------------------------------

EXPECTED = {
    "train": [
        ("s1-d1.avi-0", "He takes a pan.", (2.0, 4.0)),
        # s1-d1.avi-1 ends before it starts; the next keeps its own number and ends with the video.
        ("s1-d1.avi-2", "He eats.", (36.0, 40.0)),
        ("s1-d2.avi-0", "She washes a fig.", (0.0, 10.0)),
    ],
    "val": [("s2-d1.avi-0", "He cuts bread.", (0.4, 0.8))],
    "test": [
        ("s3-d1.avi-0", "She peels an orange.", (1.0, 3.0)),
        ("s3-d1.avi-1", "The woman peels.", (1.0, 3.0)),
    ],
}


def test_frames_become_seconds_and_rows_are_clipped_and_dropped(folder):
    found = _annotations(folder)
    assert _queries(found) == EXPECTED
    assert {v.id: v.duration for v in found.splits["train"]} == {"s1-d1.avi": 40.0, "s1-d2.avi": 20.0}
    assert found.dropped == ["train.json, s1-d1.avi, row 1"]
    assert found.clipped == 1
    assert found.counts == {'queries of the version "2d_tan"': 6}


def test_windows_line_ends_and_byte_order_marks(folder):
    for version in annotations.VERSIONS:
        expected = _annotations(folder, version=version)
        for path in folder.iterdir():
            text = path.read_bytes().replace(b", ", b",\n") if path.suffix == ".json" else path.read_bytes()
            text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"").replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
        assert _annotations(folder, version=version) == expected


def test_missing_files_are_listed_at_once(folder):
    for name in ("val.json", "tacos_test_75_99.txt"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r": val\.json missing\. .*2D-TAN.*README\.md"):
        _annotations(folder)
    with pytest.raises(UserError, match=r": val\.json, tacos_test_75_99\.txt missing\. .*TALL"):
        _annotations(folder, version="tall")


def test_unknown_version_names_the_nearest(folder):
    with pytest.raises(UserError, match='config.dataset.version is "2d-tan". Did you mean "2d_tan"'):
        _annotations(folder, version="2d-tan")


@pytest.mark.parametrize("first, second", [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_video_in_two_splits_is_refused(folder, first, second):
    table = json.loads((folder / f"{second}.json").read_text())
    shared = next(iter(json.loads((folder / f"{first}.json").read_text())))
    (folder / f"{second}.json").write_text(json.dumps({**table, shared: _entry([[0, 9]], ["He sits."])}))
    with pytest.raises(UserError, match=f"videos of {second} are also in {first}, such as {shared}"):
        _annotations(folder)
    tall = {name: (folder / file).read_text() for name, file in annotations.TALL_FILES.items()}
    (folder / annotations.TALL_FILES[second]).write_text(f"{tall[second]}\n{shared}_0_9:He sits.#\n")
    with pytest.raises(UserError, match=f"videos of {second} are also in {first}, such as {shared}"):
        _annotations(folder, version="tall")


def _without(name):
    entry = _entry([[0, 9]], ["He sits."])
    del entry[name]
    return {"s9.avi": entry}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"test\.json is empty"),
        (json.dumps(TEST, indent=1).encode()[:200], r"test\.json, line \d+: no valid JSON .* cut short"),
        (b'{"s3-d1.avi":\n {"fps": "caf\xe9"}}', r"test\.json, line 2: not UTF-8"),
        (b'{"s9.avi": {}, "s9.avi": {}}', r'test\.json: the key "s9\.avi" stands twice'),
        (b"[]", r'test\.json: expected \{"VIDEO"'),
        (b"{}", r'The split "test" of tacos has no queries'),
        (_without("fps"), r's9\.avi: no "fps"'),
        (_without("num_frames"), r's9\.avi: no "num_frames"'),
        (_without("timestamps"), r's9\.avi: no "timestamps"'),
        (_without("sentences"), r's9\.avi: no "sentences"'),
        ({"s9.avi": _entry([[0, 9]], ["He sits."], fps=0)}, r's9\.avi: "fps" is 0; expected a positive'),
        ({"s9.avi": _entry([[0, 9]], ["He sits."], num_frames="all")}, r's9\.avi: "num_frames" is \'all\''),
        ({"s9.avi": _entry([[0, 9], [9, 12]], ["He sits."])}, r's9\.avi: 2 "timestamps" and 1 "sentences"'),
        ({"s9.avi": _entry([["zero", 9]], ["He sits."])}, r"s9\.avi, row 0: the moment is \['zero', 9\]"),
        ({"s9.avi": _entry([[0, 9]], [""])}, r"s9\.avi, row 0: the sentence is empty"),
    ],
)
def test_defects_name_file_video_and_row(folder, content, message):
    (folder / "test.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=message):
        _annotations(folder)


# --- TALL's version -------------------------------------------------------------------------------


def test_tall_has_all_sentences_of_a_moment_in_a_line(folder):
    found = _annotations(folder, version="tall")
    assert _queries(found) == {
        "train": [
            ("s1-d1.avi-0", "He takes a pan.", (2.0, 4.0)),
            ("s1-d1.avi-1", "A man: a pan.", (2.0, 4.0)),
            # s1-d1.avi-2 ends before it starts.
            ("s1-d1.avi-3", "He eats.", (36.0, 40.0)),
            ("s1-d1.avi-4", "He bites", (36.0, 40.0)),
            ("s1-d2.avi-0", "She washes a fig.", (0.0, 10.0)),
        ],
        "val": EXPECTED["val"],
        "test": EXPECTED["test"],
    }
    assert found.dropped == ["tacos_train_0_74.txt:2, s1-d1.avi-2"]
    assert found.clipped == 2  # both sentences of the last moment
    assert found.counts == {'queries of the version "tall"': 8}


def test_tall_finds_lengths_without_the_extension(folder):
    expected = _annotations(folder, version="tall")
    (folder / "train.json").write_text(json.dumps({k.removesuffix(".avi"): v for k, v in TRAIN.items()}))
    assert _annotations(folder, version="tall") == expected


@pytest.mark.parametrize(
    "line, message",
    [
        ("s1-d1.avi_50:He sits.#", "is not a line of the form"),
        ("s1-d1.avi 50 100:He sits.#", "is not a line of the form"),
        ("s1-d1.avi_50_100 He sits.#", "is not a line of the form"),
        ("s1-d1.avi_50_end:He sits.#", "is not a line of the form"),
        ("s1-d1.avi_50_inf:He sits.#", "is not a line of the form"),
        ("s1-d1.avi_50_100:", "the sentence is empty"),
        ("s1-d1.avi_50_100:He sits.##He stands.#", "the sentence is empty"),
        ("s1-d3.avi_50_100:He sits.#", r'the video "s1-d3\.avi" is in none of .* Did you mean "s1-d'),
    ],
)
def test_defects_of_a_tall_line_name_file_and_line(folder, line, message):
    (folder / "tacos_train_0_74.txt").write_text(TALL["train"] + line + "\n")  # five lines, the bad one
    with pytest.raises(UserError, match=r"tacos_train_0_74\.txt, line 6: .*" + message):
        _annotations(folder, version="tall")


def test_tall_text_that_is_not_utf8_or_empty(folder):
    path = folder / "tacos_val_100_126.txt"
    path.write_bytes("s2-d1.avi_10_20:He cuts bread.#\ns2-d1.avi_1_2:café#".encode("latin-1"))
    with pytest.raises(UserError, match=r"tacos_val_100_126\.txt, line 2: not UTF-8"):
        _annotations(folder, version="tall")
    path.write_text("\n")
    with pytest.raises(UserError, match='The split "val" of tacos has no queries'):
        _annotations(folder, version="tall")


def test_tall_checks_the_lengths(folder):
    (folder / "val.json").write_text(json.dumps({"s2-d1.avi": _entry([], [], fps=-1)}))
    with pytest.raises(UserError, match=r'val\.json, video s2-d1\.avi: "fps" is -1'):
        _annotations(folder, version="tall")


# --- preparation ----------------------------------------------------------------------------------


def _read(builder, split):
    import tensorflow_datasets as tfds

    return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def test_versions_are_prepared_apart_and_named_in_the_log(folder, tmp_path, caplog):
    builders = {}
    for version in annotations.VERSIONS:
        with caplog.at_level(logging.INFO, logger="vmr_jax"):
            builders[version] = tacos.prepare(_options(folder, tmp_path / "data", version=version))
    assert '6 queries of the version "2d_tan"' in caplog.text
    assert '8 queries of the version "tall"' in caplog.text
    assert len({builder.data_path for builder in builders.values()}) == 2
    first, second = _read(builders["2d_tan"], "train")
    assert (first["video"], first["duration"], second["video"]) == (b"s1-d1.avi", 40.0, b"s1-d2.avi")
    np.testing.assert_array_equal(first["queries"]["span"], [[2, 4], [36, 40]])
    assert first["queries"]["qid"].tolist() == [b"s1-d1.avi-0", b"s1-d1.avi-2"]
    assert len(_read(builders["tall"], "train")[0]["queries"]["qid"]) == 4


@pytest.mark.parametrize("name", ["s3-d1.avi", "s3-d1"])  # 2D-TAN; MS-2D-TAN
def test_features_with_and_without_the_extension(folder, name):
    rows = np.ones((3, 4), np.float32)
    with h5py.File(folder / "features.hdf5", "w") as file:
        file[name] = rows
    reader = tacos.features(_options(folder))
    assert missing(reader, ["s3-d1.avi", "s1-d1.avi"]) == ["s1-d1.avi"]
    np.testing.assert_array_equal(reader.read("s3-d1.avi"), rows)
    assert tacos.word_vectors(_options(folder)) is None


# --- the real files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Both versions of the real files, in one folder as the README says."""
    folder = tmp_path_factory.mktemp("tacos")
    for path in (*SHARED.glob("*.json"), *(SHARED / "tall_txt").glob("*.txt")):
        (folder / path.name).symlink_to(path.resolve())
    return {version: _annotations(folder, version=version) for version in annotations.VERSIONS}


def _facts(found):
    """Split -> videos, queries, distinct moments, mean moment (s), mean video (s), mean words."""
    facts = {}
    for name, videos in found.splits.items():
        queries = [(v.id, q) for v in videos for q in v.queries]
        facts[name] = (
            len(videos),
            len(queries),
            len({(video_id, q.span) for video_id, q in queries}),
            round(np.mean([q.span[1] - q.span[0] for _, q in queries]), 1),
            round(np.mean([v.duration for v in videos])),
            round(np.mean([len(q.text.split()) for _, q in queries]), 1),
        )
    return facts


@needs_shared
def test_official_counts(official):
    found = official["2d_tan"]
    assert _facts(found) == {
        "train": (75, 9790, 3530, 23.3, 224, 8.4),
        "val": (27, 4436, 2001, 34.3, 387, 8.7),
        "test": (25, 4001, 1538, 31.9, 367, 8.5),
    }
    counts = {
        name: {"queries": sum(len(v.queries) for v in videos), "videos": len(videos)}
        for name, videos in found.splits.items()
    }
    assert counts == tacos.PUBLISHED_COUNTS
    assert not found.dropped
    assert found.clipped == 43 + 5  # of train and test


@needs_shared
def test_official_counts_of_tall(official):
    found = official["tall"]
    assert {name: facts[:3] for name, facts in _facts(found).items()} == {
        "train": (75, 10146, 1604),
        "val": (27, 4589, 964),
        "test": (25, 4083, 722),
    }
    assert not found.dropped and found.clipped == 48 + 5
    # The two versions have the same videos in the same splits.
    for name, videos in official["2d_tan"].splits.items():
        assert {v.id: v.duration for v in videos} == {v.id: v.duration for v in found.splits[name]}


@needs_shared
def test_times_of_tall_are_frames(official):
    same = 0
    for name, videos in official["tall"].splits.items():
        other = {(v.id, q.span) for v in official["2d_tan"].splits[name] for q in v.queries}
        same += len({(v.id, q.span) for v in videos for q in v.queries} & other)
    # Of 1604 + 964 + 722 moments so many are also in the other version, whose times are frames, to the frame.
    assert same == 718 + 297 + 275


@needs_shared
def test_ends_beyond_the_video():
    beyond = {}
    for name in annotations.TABLES:
        table = json.loads((SHARED / f"{name}.json").read_text())
        assert {entry["fps"] for entry in table.values()} == {29.4}
        over = [end - entry["num_frames"] for entry in table.values() for _, end in entry["timestamps"]]
        beyond[name] = [frames for frames in over if frames > 0]
    assert {name: len(over) for name, over in beyond.items()} == {"train": 43, "val": 0, "test": 5}
    assert max(max(over, default=0) for over in beyond.values()) == 15
