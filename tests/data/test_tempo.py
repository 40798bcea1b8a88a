"""TEMPO: types and votes, every error, preparation; the real files are not here."""

import json
import pathlib
import re

import ml_collections
import numpy as np
import pytest

from vmr_jax.data import tempo
from vmr_jax.data.tempo import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records


def _didemo_row(annotation_id, video, times, train_times, **more):
    return {
        "annotation_id": annotation_id,
        "context": [],
        "description": "a dog runs",
        "reference_description": "",
        "times": times,
        "train_times": train_times,
        "video": video,
        **more,
    }


def _row(annotation_id, video, times, description="a dog runs before it sits", **more):
    return {
        "annotation_id": annotation_id,
        "context": [1, 1],
        "description": description,
        "reference_description": "it sits",
        "times": times,
        "train_times": times[:1],
        "video": video,
        **more,
    }


TRAIN = [
    _didemo_row("12", "a.mov", [[0, 0], [3, 3], [0, 0], [3, 3]], [[3, 3]], num_segments=6),
    _row("before_12_0", "a.mov", [[0, 0], [0, 1], [0, 0]]),
    _row("after_12_1", "b.mp4", [[2, 2]] * 3, num_segments=5),
    _row("then_12", "b.mp4", [[2, 4], [1, 1], [1, 1]]),
]
VAL = [_row("before_30_0", "c.mov", [[5, 5]] * 3), _didemo_row(31, "c.mov", [[1, 2]] * 4, [[1, 2]])]
TEST = [_row("after_40_0", "d.mov", [[0, 2]] * 3, num_segments=5)]
WHILE = _row("while_41", "d.mov", [[0, 1]] * 3, description="a dog runs while it rains")


def _write(path, rows):
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows, indent=1), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "manual"
    path.mkdir()
    for split, rows in zip(annotations.SPLITS, (TRAIN, VAL, TEST)):
        _write(path / f"tempoTL+didemo_{split}.json", rows)
        _write(path / f"tempoHL+didemo_{split}.json", [*rows, WHILE] if split == "test" else rows)
    return path


def _options(manual_dir, version="tl", data_dir="unused"):
    return ml_collections.ConfigDict(
        dict(
            name="tempo",
            data_dir=str(data_dir),
            manual_dir=str(manual_dir),
            version=version,
            features="average_rgb_feats.h5",
            feature_key="",
            feature_dim=4,
            feature_stride=5.0,
            on_missing="error",
        )
    )


def _read(folder, version="tl"):
    return records.read(tempo.SOURCE, _options(folder, version))


def test_types_and_moments(folder):
    found = _read(folder)
    queries = {query.qid: query for videos in found.splits.values() for v in videos for query in v.queries}
    assert {qid: query.tags for qid, query in queries.items()} == {
        "12": ("didemo",),
        "before_12_0": ("before",),
        "after_12_1": ("after",),
        "then_12": ("then",),
        "before_30_0": ("before",),
        "31": ("didemo",),
        "after_40_0": ("after",),
    }
    # train_times are learnt; by times alone, (0, 5) would be.
    assert queries["12"].windows == [(0.0, 5.0), (15.0, 20.0), (0.0, 5.0), (15.0, 20.0)]
    assert queries["12"].span == (15.0, 20.0)
    # The evaluation has all three annotators, repeats too; train_times is the first of them here.
    assert queries["then_12"].windows == [(10.0, 25.0), (5.0, 10.0), (5.0, 10.0)]
    assert queries["then_12"].span == (10.0, 25.0)
    # The second chunk, and of DiDeMo's sentences none.
    assert queries["then_12"].context == (5.0, 10.0) and queries["12"].context == (0.0, 0.0)


def test_without_train_times_the_majority_of_times_is_learnt(folder):
    _write(
        folder / "tempoTL+didemo_test.json",
        [{**_row("then_40", "d.mov", [[0, 0], [1, 1], [1, 1]]), "train_times": []}],
    )
    assert _read(folder).splits["test"][0].queries[0].span == (5.0, 10.0)


def test_every_video_counts_as_thirty_seconds(folder):
    found = _read(folder)
    durations = {video.id: video.duration for videos in found.splits.values() for video in videos}
    # b.mp4: one of two rows says five chunks; c.mov: none says a number.
    assert durations == {"a.mov": 30.0, "b.mp4": 30.0, "c.mov": 30.0, "d.mov": 30.0}
    assert found.counts == {
        "videos whose rows differ in num_segments, taken as the longer": 0,
        "videos without num_segments, taken as six chunks": 1,
    }


def test_versions_read_their_own_files(folder):
    assert [p.name for p in annotations.files(_options(folder, "hl"))] == [
        "tempoHL+didemo_train.json",
        "tempoHL+didemo_val.json",
        "tempoHL+didemo_test.json",
    ]
    (video,) = _read(folder, "hl").splits["test"]
    assert [query.tags for query in video.queries] == [("after",), ("while",)]


@pytest.mark.parametrize("version", ["TL", "h", "", None])
def test_unknown_version(folder, version):
    with pytest.raises(UserError, match=r"config\.dataset\.version is .* Known: tl, hl"):
        _read(folder, version)


@pytest.mark.parametrize(
    "version, annotation_id, message",
    [
        ("tl", "befor_12_0", r'the type "befor"\. Did you mean "before"\?'),
        ("tl", "Before_12_0", r'the type "Before"\. Did you mean "before"\?'),
        (
            "tl",
            "while_41",
            r'the type "while"\. Known: before, after, then\. The type stands before',
        ),
        ("hl", "whilst_41", r'the type "whilst"\. Did you mean "while"\?'),
        ("hl", "a12", r'the type "a12"\.'),
        ("hl", "12_after", r'the type "12"\.'),
    ],
)
def test_unknown_type_names_the_nearest(folder, version, annotation_id, message):
    name = f"tempo{version.upper()}+didemo_test.json"
    _write(folder / name, [*TEST, _row(annotation_id, "d.mov", [[0, 0]] * 3)])
    with pytest.raises(UserError, match=rf"{re.escape(name)}, row 1: .*{message}"):
        _read(folder, version)


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = _read(folder)
    for path in list(folder.iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert _read(folder) == expected


def test_missing_files_are_listed_at_once(folder):
    (folder / "tempoHL+didemo_train.json").unlink()
    (folder / "tempoHL+didemo_val.json").unlink()
    _read(folder)  # the other version is complete
    with pytest.raises(UserError) as error:
        _read(folder, "hl")
    message = str(error.value)
    assert "tempoHL+didemo_train.json, tempoHL+didemo_val.json missing" in message
    assert "TemporalLanguageRelease" in message and "data/tempo/README.md" in message


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"{}", r"expected \["),
        (json.dumps(VAL)[:-5].encode(), "no valid JSON .*cut short"),
        (json.dumps(VAL).replace("a dog", "un ch#t").encode().replace(b"#", b"\xe2"), "line 1: not UTF-8"),
    ],
)
def test_damaged_files(folder, content, message):
    (folder / "tempoTL+didemo_val.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"tempoTL\+didemo_val\.json.*{message}"):
        _read(folder)


@pytest.mark.parametrize("field", ["annotation_id", "description", "video", "times", "train_times"])
def test_missing_field_names_the_nearest(folder, field):
    row = _row("after_31_0", "e.mov", [[0, 0]] * 3)
    row[field.upper()] = row.pop(field)
    row[field[:-1]] = 0
    _write(folder / "tempoTL+didemo_val.json", [*VAL, row])
    # A name that differs in case alone is nearer than one that lacks a letter.
    with pytest.raises(UserError, match=rf'row 2: no "{field}"\. Did you mean "{field.upper()}"\?'):
        _read(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"times": []}, '"times" is empty'),
        ({"times": [[0, 5]]}, r'"times" has \[0, 5\].*the video has 5 chunks'),
        ({"train_times": [[0, 5]]}, r'"train_times" has \[0, 5\]'),
        ({"train_times": [0, 4]}, r'"train_times" has 0'),
        ({"num_segments": 0}, r'"num_segments" is 0'),
        ({"description": ""}, "the sentence is empty"),
        ({"context": [4, 6]}, r'"context" has \[4, 6\].*the video has 6 chunks'),
        ({"context": 3}, r'"context" has 3'),
    ],
)
def test_defects_name_file_and_row(folder, change, message):
    row = {**_row("after_31_0", "e.mov", [[0, 0]] * 3, num_segments=5), **change}
    _write(folder / "tempoTL+didemo_val.json", [*VAL, row])
    with pytest.raises(UserError, match=rf"didemo_val\.json, row 2: {message}"):
        _read(folder)


@pytest.mark.parametrize("again", [12, "12", "before_12_0"])
def test_ids_are_unique_over_all_files(folder, again):
    _write(folder / "tempoTL+didemo_val.json", [*VAL, _row(again, "e.mov", [[0, 0]] * 3)])
    with pytest.raises(
        UserError, match=rf'val\.json, row 2: the id "{again}" is also that of .*train\.json, row'
    ):
        _read(folder)


def test_training_video_in_another_split(folder):
    _write(folder / "tempoTL+didemo_val.json", [_row("then_1", "b.mp4", [[0, 0]] * 3)])
    with pytest.raises(UserError, match=r"1 videos of val are also in train, such as b\.mp4"):
        _read(folder)


def test_prepared_records_of_both_versions(folder, tmp_path):
    import tensorflow_datasets as tfds

    builders = [tempo.prepare(_options(folder, version, tmp_path / "data")) for version in ("tl", "hl")]
    assert builders[0].data_path != builders[1].data_path
    (row,) = tfds.as_numpy(builders[1].as_dataset(split="test", shuffle_files=False))
    assert list(row["queries"]["tags"]) == [b"after", b"while"]
    np.testing.assert_array_equal(row["queries"]["span"], [[0, 15], [0, 10]])
    np.testing.assert_array_equal(row["queries"]["windows"][0, :4], [[0, 15]] * 3 + [[-1, -1]])
    np.testing.assert_array_equal(row["queries"]["context"], [[5, 10], [5, 10]])
    assert pathlib.Path(builders[0].data_path).parts[-3] == "tempo"
    assert tempo.word_vectors(_options(folder)) is None
