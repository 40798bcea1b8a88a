"""Charades-CG and ActivityNet-CG: reading rules, tags, every error, preparation, and the real files."""

import collections
import importlib
import json
import logging
import pathlib
import re

import ml_collections
import pytest

from vmr_jax.data import compositional
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.dataset import Dataset

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

FOLDERS = {"charades_cg": "Charades-CG", "activitynet_cg": "ActivityNet_CG"}  # as published
# file -> video -> entry; EEEEE is in all three test files.
TABLES = {
    "train.json": {
        "AAAAA": {
            "timestamps": [[0, 6.9], [9.0, 5.0], [-1, 30.5]],
            "sentences": ["person opens a door.", "person sits.", " person runs. "],
            "duration": 30.0,
        },
        "BBBBB": {"timestamps": [[1, 2]], "sentences": ["person stands."], "duration": 20},
        "CCCCC": {"timestamps": [[1, 2]], "sentences": ["person laughs."], "duration": 10},
        "DDDDD": {"timestamps": [[1, 2]], "sentences": ["person eats."], "duration": 10},
    },
    "test_trivial.json": {"EEEEE": {"timestamps": [[0, 20]], "sentences": ["person sits."], "duration": 10.25}},
    "novel_composition.json": {
        "EEEEE": {
            "timestamps": [[3, 3], [1, 4]],
            "sentences": ["person opens a bag.", "person opens a big bag."],
            "duration": 10.25,
            "novels": [
                {"v-n": [["open", "bag"]]},
                {"v-n": [["open", "bag"]], "a-n": [["big", "bag"], ["big", "person"]]},
            ],
        }
    },
    "novel_word.json": {
        "EEEEE": {
            "timestamps": [[3, 5]],
            "sentences": ["person undresses."],
            "duration": 10.25,
            "news": [{"VERB": ["undresses"]}],
        },
        "FFFFF": {
            "timestamps": [[3, 5]],
            "sentences": ["person quickly vacuums a rug."],
            "duration": 9,
            "news": [{"NOUN": ["rug"], "ADV": ["quickly"]}],
        },
    },
}


def _write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in TABLES.items():
        (folder / name).write_text(json.dumps(table), encoding="utf-8")
    return folder


def _options(manual_dir, dataset="charades_cg", data_dir="unused", val_fraction=0.0):
    return ml_collections.ConfigDict(
        dict(name=dataset, manual_dir=str(manual_dir), data_dir=str(data_dir), val_fraction=val_fraction)
    )


def _annotations(manual_dir, dataset="charades_cg", val_fraction=0.0):
    source = importlib.import_module(f"vmr_jax.data.{dataset}").SOURCE
    return records.read(source, _options(manual_dir, dataset, val_fraction=val_fraction))


def _ids(found):
    return {name: [video.id for video in videos] for name, videos in found.splits.items()}


@pytest.fixture
def folder(tmp_path):
    """A small manual_dir of `TABLES`."""
    return _write(tmp_path / "manual")


@pytest.fixture(params=FOLDERS)
def dataset(request):
    return request.param


# --- rules ----------------------------------------------------------------------------------------


def test_rows_tags_and_qids(folder):
    found = _annotations(folder)
    queries = {
        name: [(q.qid, q.text, q.span, q.tags) for video in videos for q in video.queries]
        for name, videos in found.splits.items()
    }
    assert queries == {
        "train": [
            ("train/AAAAA-0", "person opens a door.", (0.0, 6.9), ()),
            # AAAAA-1 ends before it starts; the next keeps its own number.
            ("train/AAAAA-2", "person runs.", (0.0, 30.0), ()),
            ("train/BBBBB-0", "person stands.", (1.0, 2.0), ()),
            ("train/CCCCC-0", "person laughs.", (1.0, 2.0), ()),
            ("train/DDDDD-0", "person eats.", (1.0, 2.0), ()),
        ],
        "test_trivial": [("test_trivial/EEEEE-0", "person sits.", (0.0, 10.25), ())],
        "test_novel_composition": [
            # EEEEE-0 ends where it starts. One tag for each type, not for each pair of words.
            (
                "novel_composition/EEEEE-1",
                "person opens a big bag.",
                (1.0, 4.0),
                ("composition:a-n", "composition:v-n"),
            ),
        ],
        "test_novel_word": [
            ("novel_word/EEEEE-0", "person undresses.", (3.0, 5.0), ("word:VERB",)),
            ("novel_word/FFFFF-0", "person quickly vacuums a rug.", (3.0, 5.0), ("word:ADV", "word:NOUN")),
        ],
    }
    assert found.dropped == ["train.json, AAAAA, row 1", "novel_composition.json, EEEEE, row 0"]
    assert found.clipped == 2  # AAAAA-2, EEEEE-0 of test_trivial


def test_validation_videos_come_from_training_and_depend_on_ids_alone(folder):
    # sha256sum of AAAAA, BBBBB, CCCCC, DDDDD begins with 1177, 0fad, 17b8, 0efd: half of them is DDDDD, BBBBB.
    found = _annotations(folder, val_fraction=0.5)
    assert list(found.splits) == ["train", "val", "test_trivial", "test_novel_composition", "test_novel_word"]
    assert (_ids(found)["train"], _ids(found)["val"]) == (["AAAAA", "CCCCC"], ["BBBBB", "DDDDD"])
    # A query keeps its name whether its video is held out or not.
    assert [q.qid for v in found.splits["val"] for q in v.queries] == ["train/BBBBB-0", "train/DDDDD-0"]
    (folder / "train.json").write_text(json.dumps(dict(reversed(TABLES["train.json"].items()))))
    assert _ids(_annotations(folder, val_fraction=0.25))["val"] == ["DDDDD"]


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_val_fraction_out_of_range(folder, fraction):
    with pytest.raises(UserError, match=r"config\.dataset\.val_fraction"):
        _annotations(folder, val_fraction=fraction)


def test_the_published_folder_is_found_within_manual_dir(folder, dataset, tmp_path):
    _write(tmp_path / "other" / FOLDERS[dataset])
    assert _annotations(tmp_path / "other", dataset) == _annotations(folder, dataset)


def test_files_that_are_nowhere(dataset, tmp_path):
    with pytest.raises(UserError) as error:
        _annotations(tmp_path, dataset)
    message = str(error.value)
    names = "train.json, test_trivial.json, novel_composition.json, novel_word.json"
    assert f"{dataset} is not complete in {tmp_path}: {names} missing" in message
    assert f"in the folder {FOLDERS[dataset]} of their repository" in message and "Li et al." in message
    assert f"data/{dataset}/README.md" in message


def test_a_missing_file_is_named_where_it_should_be(tmp_path):
    published = _write(tmp_path / "Charades-CG")
    (published / "novel_word.json").unlink()
    with pytest.raises(UserError, match=rf"not complete in {published}: novel_word\.json missing"):
        _annotations(tmp_path)


def test_windows_line_ends_and_byte_order_marks(folder):
    expected = _annotations(folder)
    for path in list(folder.iterdir()):
        text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert _annotations(folder) == expected


# --- errors ---------------------------------------------------------------------------------------


def _change(folder, name, video, remove=(), **fields):
    """Changes an entry of a file."""
    path = folder / name
    table = json.loads(path.read_text())
    table[video] = {k: v for k, v in table[video].items() if k not in remove} | fields
    path.write_text(json.dumps(table))


NOVEL = [
    ([{}], r'EEEEE: 2 "sentences" and 1 "novels"; expected one for each sentence'),
    ({"v-n": []}, r'EEEEE: 2 "sentences" and no list of "novels"; expected one for each sentence'),
    ([{"v-n": []}, {}], r'EEEEE, row 1: "novels" is \{\}; expected'),
    ([{"v-n": []}, [["open", "bag"]]], r'EEEEE, row 1: "novels" is \[\[.*\]\]; expected'),
    ([{"v-n": []}, {"v n": []}], r'EEEEE, row 1: "novels" is \{.v n.: \[\]\}; expected .* without blanks'),
    ([{"v-n": []}, {"": []}], r'EEEEE, row 1: "novels" is \{..: \[\]\}; expected'),
]


@pytest.mark.parametrize("novels, message", NOVEL)
def test_defects_of_what_is_novel(folder, novels, message):
    _change(folder, "novel_composition.json", "EEEEE", novels=novels)
    with pytest.raises(UserError, match=r"novel_composition\.json, video " + message):
        _annotations(folder)


@pytest.mark.parametrize(
    "name, remove, fields, message",
    [
        ("novel_composition.json", ["novels"], {"novel": []}, r'no "novels"\. Did you mean "novel"\?'),
        ("novel_word.json", ["news"], {"new": []}, r'no "news"\. Did you mean "new"\?'),
        ("test_trivial.json", ["sentences"], {"sentence": []}, r'no "sentences"\. Did you mean "sentence"\?'),
        ("test_trivial.json", ["timestamps"], {"timestamp": []}, r'no "timestamps"\. Did you mean "timestamp"'),
        ("test_trivial.json", ["duration"], {"durations": 1}, r'no "duration"\. Did you mean "durations"\?'),
        ("test_trivial.json", [], {"sentences": ["a", "b"]}, r'1 "timestamps" and 2 "sentences"'),
        ("novel_word.json", [], {"sentences": [" ."]}, r"row 0: the sentence is empty"),
        ("novel_word.json", [], {"timestamps": [[1]]}, r"row 0: the moment is \[1\]"),
        ("novel_word.json", [], {"duration": "1:20"}, r"\"duration\" is '1:20'; expected a positive number"),
    ],
)
def test_defects_of_an_entry_name_file_and_video(folder, name, remove, fields, message):
    _change(folder, name, "EEEEE", remove, **fields)
    with pytest.raises(UserError, match=rf"{re.escape(name)}, video EEEEE(, |: ){message}"):
        _annotations(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"novel_word\.json is empty"),
        (b'{"EEEEE":\n {"sentences": ["per', r"novel_word\.json, line 2: no valid JSON .* cut short"),
        (b'{\n"EEEEE": {"sentences": ["caf\xe9"]}}', r"novel_word\.json, line 2: not UTF-8"),
        (b'{"EEEEE": {}, "EEEEE": {}}', r'novel_word\.json: the key "EEEEE" stands twice'),
        (b"[]", r'novel_word\.json: expected \{"VIDEO"'),
        (b"{}", r'The split "test_novel_word" of charades_cg has no queries'),
    ],
)
def test_defects_of_a_file(folder, content, message):
    (folder / "novel_word.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        _annotations(folder)


@pytest.mark.parametrize("split, name", list(compositional.FILES.items())[1:])
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])  # with 0.5, DDDDD is a validation video
def test_a_training_video_in_a_test_file_is_refused(folder, split, name, val_fraction):
    table = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(table | {"DDDDD": table["EEEEE"]}))
    with pytest.raises(UserError, match=rf"1 videos of {split} are also in train, such as DDDDD"):
        _annotations(folder, val_fraction=val_fraction)


# --- preparation ----------------------------------------------------------------------------------


def test_prepared_records(folder, dataset, tmp_path, caplog):
    options = _options(folder, dataset, tmp_path / "data", val_fraction=0.5)
    with caplog.at_level(logging.INFO, "vmr_jax"):
        prepared = Dataset(options, annotations_only=True)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "vmr_jax"]
    assert f"{dataset}: 2 rows dropped" in line and "novel_composition.json, EEEEE, row 0" in line
    assert "2 clipped" in line
    assert set(prepared.split_names) == {"train", "val", *list(compositional.FILES)[1:]}
    (query,) = prepared.split("test_novel_composition").queries
    assert (query.qid, query.span) == ("novel_composition/EEEEE-1", (1.0, 4.0))
    assert query.tags == ["composition:a-n", "composition:v-n"]
    assert [q.tags for q in prepared.split("test_novel_word").queries] == [
        ["word:VERB"],
        ["word:ADV", "word:NOUN"],
    ]
    assert [v.id for v in prepared.split("val").videos] == ["BBBBB", "DDDDD"]


def test_another_val_fraction_prepares_anew(folder, tmp_path):
    module = importlib.import_module("vmr_jax.data.charades_cg")
    paths = {
        module.prepare(_options(folder, data_dir=tmp_path / "data", val_fraction=fraction)).data_path
        for fraction in (0.0, 0.25, 0.25)
    }
    assert len(paths) == 2


# --- the real files -------------------------------------------------------------------------------

# Of the cards: pairs and videos of each published file, and ends past the duration (the cards have no number of
# those of ActivityNet-CG; they were counted in the files).
PUBLISHED = {
    "charades_cg": {
        "train": (8281, 3555, 1255),
        "test_trivial": (3096, 1689, 412),
        "test_novel_composition": (3442, 2480, 452),
        "test_novel_word": (695, 580, 109),
    },
    "activitynet_cg": {
        "train": (36724, 9659, 248),
        "test_trivial": (15712, 4775, 123),
        "test_novel_composition": (12028, 4202, 66),
        "test_novel_word": (3920, 1991, 34),
    },
}
DROPPED = {
    "charades_cg": [],
    "activitynet_cg": [
        "train.json, v_N7ppHQNikv8, row 2",
        "train.json, v_4rKTw99bM8g, row 1",
        "train.json, v_0bosp4-pyTM, row 3",
        "train.json, v_rhOtqArO-3Y, row 5",
    ],
}
COMPOSITIONS = {
    "charades_cg": {"v-adv": 2072, "v-n": 1936, "p-n": 1170, "n-n": 76, "a-n": 23},
    "activitynet_cg": {"v-n": 8704, "p-n": 2598, "v-adv": 2456, "n-n": 2399, "a-n": 2257},
}
WORDS = {
    "charades_cg": {"NOUN": 475, "VERB": 120, "ADV": 50, "ADJ": 50, "SCONJ": 10, "DET": 7, "ADP": 7}
    | {"CCONJ": 1, "PROPN": 1, "INTJ": 1, "PRON": 1},
    "activitynet_cg": {"NOUN": 3255, "VERB": 398, "ADJ": 294, "ADV": 66, "ADP": 15},
}
# Novel words, those that no training sentence has as they are written, and videos that are in both test_trivial
# and novel_composition.
REBUILT = {"charades_cg": (741, 720, 1337), "activitynet_cg": (4163, 3601, 4000)}


def _table(dataset, split):
    return json.loads((SHARED / dataset / compositional.FILES[split]).read_text())


@needs_shared
def test_real_files(dataset):
    found = _annotations(SHARED / dataset, dataset)
    counts = {
        name: {"queries": sum(len(v.queries) for v in videos), "videos": len(videos)}
        for name, videos in found.splits.items()
    }
    assert counts == importlib.import_module(f"vmr_jax.data.{dataset}").PUBLISHED_COUNTS
    assert found.dropped == DROPPED[dataset]
    # The dropped rows do not end past their video.
    assert found.clipped == sum(past for _, _, past in PUBLISHED[dataset].values())
    queries = {name: [q for v in videos for q in v.queries] for name, videos in found.splits.items()}
    qids = [q.qid for split in queries.values() for q in split]
    assert len(set(qids)) == len(qids)
    for split, kind, expected in (
        ("test_novel_composition", "composition", COMPOSITIONS[dataset]),
        ("test_novel_word", "word", WORDS[dataset]),
    ):
        tags = collections.Counter(tag for q in queries[split] for tag in q.tags)
        assert tags == {f"{kind}:{label}": count for label, count in expected.items()}
        assert all(q.tags for q in queries[split])
    assert not any(q.tags for name in ("train", "test_trivial") for q in queries[name])


@needs_shared
def test_validation_of_the_real_files(dataset):
    whole, split = _annotations(SHARED / dataset, dataset), _annotations(SHARED / dataset, dataset, 0.1)
    train, val = set(_ids(split)["train"]), set(_ids(split)["val"])
    assert not train & val and train | val == set(_ids(whole)["train"])
    # round(355.5), halves to even, and round(965.9)
    assert len(val) == {"charades_cg": 356, "activitynet_cg": 966}[dataset]
    # As the README says.
    assert (
        sum(len(v.queries) for v in split.splits["val"])
        == {"charades_cg": 812, "activitynet_cg": 3758}[dataset]
    )


@needs_shared
def test_counts_of_the_cards_in_the_real_files(dataset):
    videos = {}
    for split, (pairs, size, past) in PUBLISHED[dataset].items():
        table = _table(dataset, split)
        videos[split] = set(table)
        assert (sum(len(e["sentences"]) for e in table.values()), len(table)) == (pairs, size)
        ends = [(end, e["duration"]) for e in table.values() for _, end in e["timestamps"]]
        assert sum(end > duration for end, duration in ends) == past
    train = videos.pop("train")
    assert not any(train & others for others in videos.values())
    assert len(videos["test_trivial"] & videos["test_novel_composition"]) == REBUILT[dataset][2]


@needs_shared
def test_most_novel_words_are_in_no_training_sentence(dataset):
    """The rest are new only as a lemma or part of speech."""
    found = _annotations(SHARED / dataset, dataset)
    known = {
        word for v in found.splits["train"] for q in v.queries for word in re.findall("[a-z]+", q.text.lower())
    }
    novel = [
        word.lower()
        for entry in _table(dataset, "test_novel_word").values()
        for words in entry["news"]
        for same_part in words.values()
        for word in same_part
    ]
    assert (len(novel), sum(word not in known for word in novel)) == REBUILT[dataset][:2]
