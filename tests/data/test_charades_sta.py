"""Charades-STA: reading rules, every error, splits, extra queries, preparation, and the real files."""

import json
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from charades_files import ROOT, charades_annotations, charades_options, read_records

from vmr_jax.data import charades_sta
from vmr_jax.data.charades_sta import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records, schema
from vmr_jax.input.features import missing
from vmr_jax.text.parse import parse, parser_name

TRAIN = """\
AAAAA 0.0 6.9##a person is putting a book on a shelf.
BBBBB 2.0 40.0##person opens a door.
AAAAA 9.0 5.0##person sits.
AAAAA -1.0 30.5##person opens a door.
CCCCC 25.0 30.0##person stands.
DDDDD 1.5 2.5## person they laugh.\t
"""


TEST = "EEEEE 0.0 20.0##person closes the window.\nEEEEE 3.0 4.0##person walks.\n"


CSV_TRAIN = 'id,script,length\nAAAAA,"a, b",30.00\nBBBBB,"two\nlines",31.5\nCCCCC,,20\nDDDDD,,10\n'


CSV_TEST = "id,script,length\nEEEEE,,10.25\nFFFFF,,9\n"


@pytest.fixture
def folder(tmp_path):
    """A small manual_dir: four training videos (CCCCC has no valid row) and one test video."""
    path = tmp_path / "manual"
    path.mkdir()
    contents = dict(
        zip(
            (*annotations.QUERY_FILES.values(), *annotations.DURATION_FILES), (TRAIN, TEST, CSV_TRAIN, CSV_TEST)
        )
    )
    for name, text in contents.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def _queries(found):
    """Split -> [(qid, text, span)] in order."""
    return {
        name: [(q.qid, q.text, q.span) for video in videos for q in video.queries]
        for name, videos in found.splits.items()
    }


def test_rows_are_clipped_dropped_and_named_by_their_place_in_the_file(folder):
    found = charades_annotations(folder)
    assert _queries(found) == {
        "train": [
            ("AAAAA-0", "a person is putting a book on a shelf.", (0.0, 6.9)),
            # AAAAA-1 ends before it starts; the next keeps its own number.
            ("AAAAA-2", "person opens a door.", (0.0, 30.0)),
            ("BBBBB-0", "person opens a door.", (2.0, 31.5)),
            ("DDDDD-0", "person they laugh.", (1.5, 2.5)),
        ],
        "test": [
            ("EEEEE-0", "person closes the window.", (0.0, 10.25)),
            ("EEEEE-1", "person walks.", (3.0, 4.0)),
        ],
    }
    # AAAAA 9 to 5, and CCCCC 25 to 30 in a video of 20 s.
    assert found.dropped == ["charades_sta_train.txt:3", "charades_sta_train.txt:5"]
    assert found.clipped == 3  # BBBBB's end, AAAAA's both, EEEEE's end
    assert {v.id: v.duration for v in found.splits["train"]} == {"AAAAA": 30.0, "BBBBB": 31.5, "DDDDD": 10.0}


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = charades_annotations(folder)
    for path in list(folder.iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = charades_annotations(folder)
    assert found == expected


def test_missing_files_are_listed_at_once(folder):
    (folder / "charades_sta_test.txt").unlink()
    (folder / "Charades_v1_train.csv").unlink()
    with pytest.raises(UserError) as error:
        charades_annotations(folder)
    message = str(error.value)
    assert "charades_sta_test.txt, Charades_v1_train.csv missing" in message
    assert "Gao et al." in message and "Allen Institute for AI" in message and "README.md" in message


@pytest.mark.parametrize("field", ["split_file", "extra_queries"])
def test_named_file_that_is_absent(folder, field):
    with pytest.raises(UserError, match=rf"config\.dataset\.{field} names .*nowhere"):
        charades_annotations(folder, **{field: "nowhere"})


@pytest.mark.parametrize(
    "row, message",
    [
        ("AAAAA 0.0##person sits.", r"is not a row of the form"),
        ("AAAAA 0.0 1.0#person sits.", r"is not a row of the form"),
        ("AAAAA zero 1.0##person sits.", r"is not a row of the form"),
        ("AAAAA 0.0 nan##person sits.", r"is not a row of the form"),
        ("AAAAA 0.0 1.0##", r"the sentence is empty"),
        ("AAAAA 0.0 1.0##  .", r"the sentence is empty"),
        ("AAAAB 0.0 1.0##person sits.", r'the video "AAAAB" is in neither .* Did you mean "AAAAA"'),
        ("EEEEE 0.0 1.0##person sits.", r'the video "EEEEE" is also in charades_sta_train\.txt'),
    ],
)
def test_defects_of_a_row_name_file_and_line(folder, row, message):
    path = folder / "charades_sta_train.txt"
    path.write_text(TRAIN + "\n" + row + "\n")  # six rows, a blank line, the bad one
    at = (
        r"charades_sta_test\.txt, line 1: " if row.startswith("EEEEE") else r"charades_sta_train\.txt, line 8: "
    )
    with pytest.raises(UserError, match=at + ".*" + message):
        charades_annotations(folder)


def test_text_that_is_not_utf8_names_the_line(folder):
    (folder / "charades_sta_train.txt").write_bytes(TRAIN.encode() + "AAAAA 0 1##café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"charades_sta_train\.txt, line 7: not UTF-8"):
        charades_annotations(folder)


@pytest.mark.parametrize(
    "text, message",
    [
        ("video,length\nAAAAA,30\n", r"has the columns video, length; expected id and length"),
        ("", r"has the columns \(none\)"),
        ("id,length\nAAAAA,long\n", r'line 2: the video "AAAAA" has the length "long"'),
        ("id,length\nAAAAA,30\nBBBBB,0\n", r'line 3: the video "BBBBB" has the length "0"'),
        ("id,length\nAAAAA\n", r'line 2: the video "AAAAA" has the length "None"'),
        ("id,length\nAAAAA,inf\n", r'line 2: the video "AAAAA" has the length "inf"'),
    ],
)
def test_defects_of_the_csv(folder, text, message):
    (folder / "Charades_v1_train.csv").write_text(text)
    with pytest.raises(UserError, match=r"Charades_v1_train\.csv.*" + message):
        charades_annotations(folder)


# --- splits ---------------------------------------------------------------------------------------


def test_validation_videos_come_from_training_and_depend_on_ids_alone(folder):
    # sha256sum of AAAAA, BBBBB, CCCCC, DDDDD begins with 1177, 0fad, 17b8, 0efd: a quarter of the four training
    # videos is DDDDD.
    found = charades_annotations(folder, val_fraction=0.25)
    assert {name: [v.id for v in videos] for name, videos in found.splits.items()} == {
        "train": ["AAAAA", "BBBBB"],
        "val": ["DDDDD"],
        "test": ["EEEEE"],
    }
    rows = TRAIN.splitlines(keepends=True)
    (folder / "charades_sta_train.txt").write_text("".join(reversed(rows)))
    assert [v.id for v in charades_annotations(folder, val_fraction=0.25).splits["val"]] == ["DDDDD"]
    # Half of them: DDDDD and BBBBB, in file order.
    assert [v.id for v in charades_annotations(folder, val_fraction=0.5).splits["val"]] == ["DDDDD", "BBBBB"]


def test_any_fraction_takes_at_least_one_video(folder):
    assert [v.id for v in charades_annotations(folder, val_fraction=0.001).splits["val"]] == ["DDDDD"]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_val_fraction_out_of_range(folder, fraction):
    with pytest.raises(UserError, match="config.dataset.val_fraction"):
        charades_annotations(folder, val_fraction=fraction)


def _split(folder, splits):
    (folder / "split.json").write_text(splits if isinstance(splits, str) else json.dumps(splits))
    return charades_annotations(folder, split_file="split.json", val_fraction=0.5)


def test_split_file_goes_over_both_official_files_and_ignores_val_fraction(folder):
    found = _split(folder, {"test": ["BBBBB"], "train": ["EEEEE", "AAAAA", "EEEEE"]})
    assert {name: [v.id for v in videos] for name, videos in found.splits.items()} == {
        "train": ["EEEEE", "AAAAA"],
        "test": ["BBBBB"],
    }


def test_official_validation_can_be_named(folder):
    found = _split(folder, {"train": ["AAAAA"], "val": ["BBBBB"], "test": ["EEEEE"]})
    assert list(found.splits) == ["train", "val", "test"]


@pytest.mark.parametrize(
    "splits, message",
    [
        ("{", r"split\.json, line 1: no valid JSON"),
        ([], r"expected \{\"train\": \[video ids\]"),
        ({"train": "AAAAA", "test": []}, r"expected \{\"train\": \[video ids\]"),
        ({"train": [1], "test": []}, r"expected \{\"train\": \[video ids\]"),
        ({"train": ["AAAAA"], "test": ["EEEEE"], "vall": []}, r'a split "vall"\. Did you mean "val"'),
        ({"train": ["AAAAA"]}, r'no split "test"'),
        (
            {"train": ["AAAAA", "AAAAX"], "test": ["EEEEE"]},
            r"1 videos of train have no annotations: AAAAX\. Did you",
        ),
        ({"train": ["AAAAA", "FFFFF"], "test": ["EEEEE"]}, r"no annotations: FFFFF"),
        ({"train": ["AAAAA"], "test": ["EEEEE", "AAAAA"]}, r'"AAAAA" is in train and in test'),
        ({"train": ["AAAAA"], "test": []}, r'The split "test" .* has no queries'),
        ({"train": ["CCCCC"], "test": ["EEEEE"]}, r'The split "train" .* has no queries'),
    ],
)
def test_defects_of_a_split_file(folder, splits, message):
    with pytest.raises(UserError, match=message):
        _split(folder, splits)


# --- extra queries --------------------------------------------------------------------------------


def _extra(folder, *rows, **options):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "extra.jsonl").write_text("\n".join(lines) + "\n")
    return charades_annotations(folder, extra_queries="extra.jsonl", **options)


def test_extra_queries_reach_training_videos_only(folder):
    found = _extra(
        folder,
        {
            "video": "BBBBB",
            "duration": 99,
            "query": "person is smiling",
            "windows": [[30.0, 40.0], [5, 5], [1, 2]],
        },
        {"video": "EEEEE", "query": "person is closing a window", "windows": [[0.0, 9.0]]},
        {"video": "DDDDD", "query": "person is sitting", "windows": [[0.0, 9.0]]},
        {"video": "ZZZZZ", "query": "person is sitting", "windows": [[0, 1], [1, 2]]},
        val_fraction=0.25,  # DDDDD
    )
    by_split = _queries(found)
    assert by_split["train"] == [
        ("AAAAA-0", "a person is putting a book on a shelf.", (0.0, 6.9)),
        ("AAAAA-2", "person opens a door.", (0.0, 30.0)),
        ("BBBBB-0", "person opens a door.", (2.0, 31.5)),
        ("BBBBB-x0", "person is smiling", (30.0, 31.5)),
        ("BBBBB-x2", "person is smiling", (1.0, 2.0)),
    ]
    assert [qid for name in ("val", "test") for qid, _, _ in by_split[name]] == [
        "DDDDD-0",
        "EEEEE-0",
        "EEEEE-1",
    ]
    assert list(found.counts.values()) == [2, 4, 1]  # used, of other videos, empty after clipping
    tags = {q.qid: q.tags for q in found.splits["train"][1].queries}
    assert tags == {"BBBBB-0": (), "BBBBB-x0": ("extra",), "BBBBB-x2": ("extra",)}


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "expected"),
        ("[]", "expected"),
        ({"video": "AAAAA", "windows": [[0, 1]]}, "expected"),
        ({"video": "AAAAA", "query": "x", "windows": [[0]]}, "expected"),
        ({"video": "AAAAA", "query": "x", "windows": [["a", 1]]}, "expected"),
        ({"video": 5, "query": "x", "windows": [[0, 1]]}, "expected"),
        ('{"video": "AAAAA", "query": "x", "windows": [[0, NaN]]}', "expected"),
        ({"video": "AAAAA", "query": " ", "windows": [[0, 1]]}, "the sentence is empty"),
        ({"video": "AAAAA", "query": None, "windows": [[0, 1]]}, "the sentence is empty"),
    ],
)
def test_defects_of_extra_queries_name_the_line(folder, row, message):
    with pytest.raises(UserError, match=r"extra\.jsonl, line 2: " + message):
        _extra(folder, {"video": "AAAAA", "query": "x", "windows": [[0, 1]]}, row)


def test_prepared_records(folder, tmp_path, caplog, capfd):
    options = charades_options(folder, tmp_path / "data", val_fraction=0.25)
    with caplog.at_level(logging.INFO, "vmr_jax"):
        builder = charades_sta.prepare(options)
    assert set(builder.info.splits) == {"train", "val", "test"}
    (line,) = [r.getMessage() for r in caplog.records if r.name == "vmr_jax"]
    assert "2 rows dropped" in line and "charades_sta_train.txt:3" in line and parser_name() in line
    assert capfd.readouterr().out == ""
    metadata = builder.info.metadata
    assert metadata["dropped"] == ["charades_sta_train.txt:3", "charades_sta_train.txt:5"]
    assert (metadata["clipped"], metadata["parser"]) == (3, parser_name())

    video, other = read_records(builder, "train")
    assert (video["video"], video["duration"]) == (b"AAAAA", 30.0)
    queries = video["queries"]
    assert list(queries["qid"]) == [b"AAAAA-0", b"AAAAA-2"]
    np.testing.assert_allclose(queries["span"], np.array([[0, 6.9], [0, 30]], np.float32))
    text = "person opens a door."
    assert queries["text"][1].decode() == text
    roles = parse(text)
    assert [text[slice(*span)] for span in queries["verbs"][1] if span[0] >= 0] == ["opens"]
    for field, spans in (("verbs", roles.verbs), ("nouns", roles.nouns), ("static", roles.chunks)):
        stored = [tuple(span) for span in queries[field][1].tolist() if span[0] >= 0]
        assert stored == list(spans) and stored
    assert queries["edges"][1].shape == (schema.MAX_VERBS, schema.MAX_NOUNS)
    assert sorted(map(tuple, np.argwhere(queries["edges"][1]).tolist())) == sorted(roles.edges)
    assert other["video"] == b"BBBBB"
    assert [row["video"] for row in read_records(builder, "val")] == [b"DDDDD"]


def test_prepared_once_and_anew_after_a_change(folder, tmp_path):
    (folder / "split.json").write_text(json.dumps({"train": ["AAAAA"], "test": ["EEEEE"]}))
    options = charades_options(folder, tmp_path / "data")
    first = charades_sta.prepare(options)
    (record,) = pathlib.Path(first.data_path).glob("*train*")
    written = record.stat().st_mtime_ns
    assert charades_sta.prepare(options).data_path == first.data_path
    assert record.stat().st_mtime_ns == written
    # What the records do not depend on changes nothing.
    same = charades_options(folder, tmp_path / "data", features="other", feature_dim=9)
    assert charades_sta.prepare(same).data_path == first.data_path

    other = charades_sta.prepare(charades_options(folder, tmp_path / "data", split_file="split.json"))
    assert other.data_path != first.data_path and len(read_records(other, "train")) == 1
    path = folder / "charades_sta_train.txt"
    path.write_text(TRAIN.replace("person stands", "person waits").replace("25.0", "15.0"))
    changed = charades_sta.prepare(options)
    assert changed.data_path not in (first.data_path, other.data_path)
    assert [row["video"] for row in read_records(changed, "train")] == [b"AAAAA", b"BBBBB", b"CCCCC", b"DDDDD"]


def test_another_parser_prepares_anew(folder, tmp_path, monkeypatch):
    options = charades_options(folder, tmp_path / "data")
    first = charades_sta.prepare(options)
    monkeypatch.setattr(records, "parser_name", lambda: "another")
    assert charades_sta.prepare(options).data_path != first.data_path


def test_errors_of_the_annotations_come_through_and_leave_nothing(folder, tmp_path):
    (folder / "charades_sta_test.txt").write_text("EEEEE 0 1##\n")
    with pytest.raises(UserError, match=r"charades_sta_test\.txt, line 1: the sentence is empty"):
        charades_sta.prepare(charades_options(folder, tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="charades_sta_train.txt, .* missing"):
        charades_sta.prepare(charades_options(tmp_path / "nowhere", tmp_path / "data"))


def test_data_dir_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*config\.dataset\.data_dir"):
        charades_sta.prepare(charades_options(folder, tmp_path / "file" / "data"))


_KILLED = """
import os, sys, ml_collections
from vmr_jax.data import charades_sta
from vmr_jax.input import records
original = records.query_of
def dies(sentence):
    if sentence.qid == "EEEEE-1":
        os._exit(9)
    return original(sentence)
records.query_of = dies
charades_sta.prepare(ml_collections.ConfigDict(eval(sys.argv[1])))
"""


def test_a_killed_preparation_is_not_trusted(folder, tmp_path):
    options = charades_options(folder, tmp_path / "data")
    command = [sys.executable, "-c", _KILLED, repr(options.to_dict())]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 9
    assert list((tmp_path / "data").rglob("*incomplete*"))  # it was killed in the middle
    builder = charades_sta.prepare(options)
    assert [len(read_records(builder, split)) for split in ("train", "test")] == [3, 1]
    assert not list((tmp_path / "data").rglob("*incomplete*"))


def test_features_are_found_relative_to_manual_dir(folder, tmp_path):
    for video_id in ("AAAAA", "EEEEE"):
        (folder / "features").mkdir(exist_ok=True)
        np.savez(folder / "features" / f"{video_id}.npz", mine=np.ones((3, 4), np.float32))
    options = charades_options(folder, tmp_path, feature_key="mine")
    reader = charades_sta.features(options)
    assert missing(reader, ["AAAAA", "BBBBB"]) == ["BBBBB"]
    assert reader.read("EEEEE").shape == (3, 4)
    absolute = charades_options("elsewhere", tmp_path, features=str(folder / "features"), feature_key="mine")
    assert charades_sta.features(absolute).ids == ("AAAAA", "EEEEE")
    assert charades_sta.word_vectors(options) is None


def test_modalities_need_no_tensorflow():
    code = (
        "import sys, vmr_jax.data.charades_sta as d; "
        "print(sorted(d.MODALITIES), 'tensorflow_datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['dynamic_words', 'static_words', 'tree'] False"
