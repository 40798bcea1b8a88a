"""Charades-CD and ActivityNet-CD: reading rules, every error, preparation, and the real files."""

import importlib
import json
import logging
import pathlib

import ml_collections
import pytest

from vmr_jax.data import changing_distribution
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.dataset import Dataset

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

# dataset -> (published folder, start of the file names, field of the duration)
LAYOUTS = {
    "charades_cd": ("Charades-CD", "charades", "video_duration"),
    "activitynet_cd": ("ActivityNet-CD", "anet", "duration"),
}
# split -> video -> (duration, [(start, end, sentence), ...])
VIDEOS = {
    "train": {
        "AAAAA": (
            30.0,
            [(0, 6.9, "person opens a door"), (9.0, 5.0, "person sits"), (-1, 30.5, " person runs ")],
        ),
        "BBBBB": (20.0, [(25.0, 26.0, "person stands")]),
        "CCCCC": (10, [(1, 2, "person laughs")]),
    },
    "val": {"DDDDD": (8.5, [(0.5, 8.5, "person eats")])},
    "test_iid": {"EEEEE": (10.25, [(0, 20, "person closes a window"), (3, 3, "person walks")])},
    "test_ood": {"FFFFF": (12.0, [(11, 12.29, "person leaves")])},
}


def _entry(dataset, duration, rows):
    """A video as the files of the dataset have it; Charades-CD has more fields, which are not read."""
    entry = {
        LAYOUTS[dataset][2]: duration,
        "timestamps": [[start, end] for start, end, _ in rows],
        "sentences": [text for _, _, text in rows],
    }
    if dataset == "charades_cd":
        entry |= {"framestamps": [[0, 1]], "encoded_sentences": [[1]], "decode_fps": 16.0, "video_fps": -1.0}
    return entry


def _path(folder, dataset, split):
    return folder / f"{LAYOUTS[dataset][1]}_{split}.json"


def _write(folder, dataset):
    folder.mkdir(parents=True, exist_ok=True)
    for split, videos in VIDEOS.items():
        table = {video: _entry(dataset, *content) for video, content in videos.items()}
        _path(folder, dataset, split).write_text(json.dumps(table), encoding="utf-8")
    return folder


def _options(dataset, manual_dir, data_dir="unused"):
    return ml_collections.ConfigDict(dict(name=dataset, manual_dir=str(manual_dir), data_dir=str(data_dir)))


def _annotations(dataset, manual_dir):
    module = importlib.import_module(f"vmr_jax.data.{dataset}")
    return records.read(module.SOURCE, _options(dataset, manual_dir))


def _queries(found):
    """Split -> [(qid, text, span)] in order."""
    return {
        name: [(q.qid, q.text, q.span) for video in videos for q in video.queries]
        for name, videos in found.splits.items()
    }


@pytest.fixture(params=LAYOUTS)
def dataset(request):
    return request.param


@pytest.fixture
def folder(tmp_path, dataset):
    """A small manual_dir of `VIDEOS`."""
    return _write(tmp_path / "manual", dataset)


# --- rules ----------------------------------------------------------------------------------------


def test_rows_are_clipped_dropped_and_counted(dataset, folder):
    found = _annotations(dataset, folder)
    assert _queries(found) == {
        "train": [
            ("AAAAA-0", "person opens a door", (0.0, 6.9)),
            # AAAAA-1 ends before it starts; the next keeps its own number.
            ("AAAAA-2", "person runs", (0.0, 30.0)),
            ("CCCCC-0", "person laughs", (1.0, 2.0)),
        ],
        "val": [("DDDDD-0", "person eats", (0.5, 8.5))],
        "test_iid": [("EEEEE-0", "person closes a window", (0.0, 10.25))],
        "test_ood": [("FFFFF-0", "person leaves", (11.0, 12.0))],
    }
    start = LAYOUTS[dataset][1]
    # Ends before its start; starts after its video; ends where it starts.
    assert found.dropped == [
        f"{start}_train.json, AAAAA, row 1",
        f"{start}_train.json, BBBBB, row 0",
        f"{start}_test_iid.json, EEEEE, row 1",
    ]
    assert found.clipped == 3  # AAAAA-2, EEEEE-0, FFFFF-0
    assert {v.id: v.duration for v in found.splits["train"]} == {"AAAAA": 30.0, "CCCCC": 10.0}
    assert list(found.splits) == list(changing_distribution.SPLITS)


def test_the_published_folder_is_found_within_manual_dir(dataset, folder, tmp_path):
    _write(tmp_path / "other" / LAYOUTS[dataset][0], dataset)
    assert _annotations(dataset, tmp_path / "other") == _annotations(dataset, folder)


def test_files_that_are_nowhere(dataset, tmp_path):
    with pytest.raises(UserError) as error:
        _annotations(dataset, tmp_path)
    published, start, _ = LAYOUTS[dataset]
    message = str(error.value)
    names = ", ".join(f"{start}_{split}.json" for split in changing_distribution.SPLITS)
    assert f"{dataset} is not complete in {tmp_path}: {names} missing" in message
    assert f"in the folder {published} of their repository" in message and "Yuan et al." in message
    assert f"data/{dataset}/README.md" in message


def test_a_missing_file_is_named_where_it_should_be(dataset, tmp_path):
    published = _write(tmp_path / LAYOUTS[dataset][0], dataset)
    _path(published, dataset, "val").unlink()
    with pytest.raises(
        UserError, match=rf"not complete in {published}: {LAYOUTS[dataset][1]}_val\.json missing"
    ):
        _annotations(dataset, tmp_path)


def test_windows_line_ends_and_byte_order_marks(dataset, folder):
    expected = _annotations(dataset, folder)
    for path in list(folder.iterdir()):
        text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert _annotations(dataset, folder) == expected


# --- errors ---------------------------------------------------------------------------------------


def _without(name, **others):
    return lambda entry: {k: v for k, v in entry.items() if k != name} | others


@pytest.mark.parametrize(
    "change, message",
    [
        (_without("sentences", sentence=["x"]), r'no "sentences"\. Did you mean "sentence"\?'),
        (_without("timestamps", timestamp=[[0, 1]]), r'no "timestamps"\. Did you mean "timestamp"\?'),
        (lambda entry: {}, r'no "(video_)?duration"\. Known: none'),
        (lambda entry: entry | {"sentences": ["a b"] * 2}, r'1 "timestamps" and 2 "sentences"'),
        (lambda entry: entry | {"sentences": "a b"}, r'1 "timestamps" and no "sentences"'),
        (lambda entry: entry | {"sentences": ["."]}, r"row 0: the sentence is empty"),
        (lambda entry: entry | {"sentences": [None]}, r"row 0: the sentence is empty"),
        (lambda entry: entry | {"timestamps": [[0, 1, 2]]}, r"row 0: the moment is \[0, 1, 2\]"),
        (lambda entry: entry | {"timestamps": [[0, None]]}, r"row 0: the moment is \[0, None\]"),
        (lambda entry: entry | {"timestamps": [["a", 1]]}, r"row 0: the moment is \['a', 1\]"),
        (lambda entry: entry | {"timestamps": [[0, float("nan")]]}, r"row 0: the moment is \[0, nan\]"),
        (lambda entry: entry | {"timestamps": {}}, r'"timestamps" is dict; expected \[\[start, end\]'),
    ],
)
def test_defects_of_an_entry_name_file_and_video(dataset, folder, change, message):
    path = _path(folder, dataset, "val")
    path.write_text(json.dumps({"DDDDD": change(_entry(dataset, *VIDEOS["val"]["DDDDD"]))}))
    with pytest.raises(UserError, match=rf"_val\.json, video DDDDD(, |: ){message}"):
        _annotations(dataset, folder)


@pytest.mark.parametrize("duration", [0, -1.5, None, "long", float("inf")])
def test_a_duration_that_is_none(dataset, folder, duration):
    path = _path(folder, dataset, "val")
    path.write_text(json.dumps({"DDDDD": _entry(dataset, duration, VIDEOS["val"]["DDDDD"][1])}))
    with pytest.raises(
        UserError, match=rf'DDDDD: "{LAYOUTS[dataset][2]}" is {duration!r}; expected a positive'
    ):
        _annotations(dataset, folder)


def test_the_field_of_the_other_dataset_is_refused_with_the_right_name(tmp_path):
    folder = _write(tmp_path / "manual", "charades_cd")
    path = _path(folder, "charades_cd", "val")
    path.write_text(path.read_text().replace("video_duration", "duration"))
    with pytest.raises(UserError, match=r'no "video_duration"\. Did you mean "duration"\?'):
        _annotations("charades_cd", folder)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"_val\.json is empty"),
        (b" \n", r"_val\.json is empty"),
        (b'{"DDDDD":\n {"sentences": ["per', r"_val\.json, line 2: no valid JSON .* cut short"),
        (b'{\n"DDDDD": {"sentences": ["caf\xe9"]}}', r"_val\.json, line 2: not UTF-8"),
        (b'{"DDDDD": {}, "DDDDD": {}}', r'_val\.json: the key "DDDDD" stands twice'),
        (b"[]", r'_val\.json: expected \{"VIDEO"'),
        (b'{"DDDDD": []}', r'_val\.json: expected \{"VIDEO"'),
        (b"{}", r'The split "val" of .* has no queries'),
    ],
)
def test_defects_of_a_file(dataset, folder, content, message):
    _path(folder, dataset, "val").write_bytes(content)
    with pytest.raises(UserError, match=message):
        _annotations(dataset, folder)


@pytest.mark.parametrize(
    "first, second",
    [
        ("train", "val"),
        ("train", "test_iid"),
        ("train", "test_ood"),
        ("val", "test_iid"),
        ("val", "test_ood"),
        ("test_iid", "test_ood"),
    ],
)
def test_a_video_in_two_splits_is_refused(dataset, folder, first, second):
    path = _path(folder, dataset, second)
    (video,) = [v for v in VIDEOS[first] if v in ("AAAAA", "DDDDD", "EEEEE")]
    table = json.loads(path.read_text()) | {video: _entry(dataset, 5, [(0, 1, "person sits")])}
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=rf"1 videos of {second} are also in {first}, such as {video}"):
        _annotations(dataset, folder)


# --- preparation ----------------------------------------------------------------------------------


def test_prepared_records(dataset, folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "vmr_jax"):
        prepared = Dataset(_options(dataset, folder, tmp_path / "data"), annotations_only=True)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "vmr_jax"]
    assert f"{dataset}: 3 rows dropped" in line and "_test_iid.json, EEEEE, row 1" in line
    assert "3 clipped" in line
    # TFDS sorts the names.
    assert set(prepared.split_names) == {"train", "val", "test_iid", "test_ood"}
    split = prepared.split("train")
    assert [video.id for video in split.videos] == ["AAAAA", "CCCCC"]
    assert [(q.qid, q.text) for q in split.queries[:2]] == [
        ("AAAAA-0", "person opens a door"),
        ("AAAAA-2", "person runs"),
    ]
    (query,) = prepared.split("test_ood").queries
    assert (query.span, query.windows, query.tags) == ((11.0, 12.0), [(11.0, 12.0)], [])


# --- the real files -------------------------------------------------------------------------------

# Of the cards: pairs and videos of each published file, and ends past the duration.
PUBLISHED = {
    "charades_cd": {
        "train": (11071, 4564, 1652),
        "val": (859, 333, 135),
        "test_iid": (823, 333, 151),
        "test_ood": (3375, 1442, 348),
    },
    "activitynet_cd": {
        "train": (51415, 10984, 407),  # the file is made again, and 407 counted in it
        "val": (3521, 746, 17),
        "test_iid": (3443, 746, 27),
        "test_ood": (13578, 2450, 55),
    },
}
# Pairs of what was divided anew: Charades-STA 12,408 + 3,720, ActivityNet Captions 37,421 + 17,505 + 17,031.
POOL = {"charades_cd": 16128, "activitynet_cd": 71957}
DROPPED = {
    "charades_cd": ["LEOL6, row 0", "AKKWU, row 0", "AKKWU, row 1"],
    "activitynet_cd": [
        "v_0bosp4-pyTM, row 3",
        "v_rhOtqArO-3Y, row 5",
        "v_N7ppHQNikv8, row 2",
        "v_4rKTw99bM8g, row 1",
    ],
}


@needs_shared
def test_real_files(dataset):
    found = _annotations(dataset, SHARED / dataset)
    counts = {
        name: {"queries": sum(len(v.queries) for v in videos), "videos": len(videos)}
        for name, videos in found.splits.items()
    }
    assert counts == importlib.import_module(f"vmr_jax.data.{dataset}").PUBLISHED_COUNTS
    start = LAYOUTS[dataset][1]
    assert found.dropped == [f"{start}_test_ood.json, {place}" for place in DROPPED[dataset]]
    assert sum(c["queries"] for c in counts.values()) + len(found.dropped) == POOL[dataset]
    # The dropped rows of Charades-CD also end past their video; those of ActivityNet-CD do not.
    past = sum(ends for _, _, ends in PUBLISHED[dataset].values())
    assert found.clipped == past - (3 if dataset == "charades_cd" else 0)
    qids = [q.qid for videos in found.splits.values() for v in videos for q in v.queries]
    assert len(set(qids)) == len(qids)


@needs_shared
def test_counts_of_the_cards_in_the_real_files(dataset):
    for split, (pairs, videos, past) in PUBLISHED[dataset].items():
        table = json.loads(_path(SHARED / dataset, dataset, split).read_text())
        assert (sum(len(e["sentences"]) for e in table.values()), len(table)) == (pairs, videos)
        ends = [(end, e[LAYOUTS[dataset][2]]) for e in table.values() for _, end in e["timestamps"]]
        assert sum(end > duration for end, duration in ends) == past
        if dataset == "charades_cd":
            assert not any(text.endswith(".") for e in table.values() for text in e["sentences"])


@needs_shared
def test_charades_cd_holds_every_pair_of_charades_sta():
    found = _annotations("charades_cd", SHARED / "charades_cd")
    videos = {v.id: v for split in found.splits.values() for v in split}
    rows = [
        line.split("##", 1)
        for split in ("train", "test")
        for line in (SHARED / f"charades_sta/charades_sta_{split}.txt").read_text().splitlines()
    ]
    ids = {head.split()[0] for head, _ in rows}
    # All three rows of the two videos that are missing are among the dropped.
    assert ids - set(videos) == {"LEOL6", "AKKWU"} and set(videos) < ids
    words = sum(len(q.text.split()) for v in videos.values() for q in v.queries)
    assert words == sum(len(text.split()) for head, text in rows if head.split()[0] in videos)
