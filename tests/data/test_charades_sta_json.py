"""Charades-STA as MMN and CPL distribute it, and one split of it alone."""

import json

import pytest
from charades_files import charades_annotations, charades_options

from vmr_jax.data import charades_sta
from vmr_jax.errors import UserError
from vmr_jax.input.annotated import AnnotatedSplits

LAYOUTS = ["mmn", "cpl"]
# Of the second the end is cut to the video, of the third nothing is left.
ROWS = {"train": [[[1.0, 6.9], "a person opens a door."], [[20, 31.5], "he sits."], [[9, 9], "he stands."]]}
ROWS["test"] = [[[2, 4], "a person laughs."]]


def write(folder, layout, split, rows, video):
    if layout == "mmn":
        entry = {
            "duration": 30.0,
            "timestamps": [row[0] for row in rows],
            "sentences": [row[1] for row in rows],
        }
        (folder / f"charades_{split}.json").write_text(json.dumps({video: entry}))
    else:
        (folder / f"{split}.json").write_text(json.dumps([[video, 30.0, *row] for row in rows]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_has_the_same_queries(tmp_path, layout):
    write(tmp_path, layout, "train", ROWS["train"], "AAAAA")
    write(tmp_path, layout, "test", ROWS["test"], "BBBBB")
    found = charades_annotations(tmp_path)
    queries = {
        name: [(v.id, v.duration, q.qid, q.span, q.text) for v in videos for q in v.queries]
        for name, videos in found.splits.items()
    }
    assert queries == {
        "train": [
            ("AAAAA", 30.0, "AAAAA-0", (1.0, 6.9), "a person opens a door."),
            ("AAAAA", 30.0, "AAAAA-1", (20, 30), "he sits."),
        ],
        "test": [("BBBBB", 30.0, "BBBBB-0", (2, 4), "a person laughs.")],
    }
    assert len(found.dropped) == 1 and found.clipped == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_test_is_read_without_train(tmp_path, layout):
    write(tmp_path, layout, "test", ROWS["test"], "BBBBB")
    splits = AnnotatedSplits(charades_sta.SOURCE, charades_options(tmp_path, "unused"))
    assert splits.split_names == ("test",)
    assert [query.qid for query in splits.split("test").queries] == ["BBBBB-0"]


def test_official_test_needs_its_own_two_files(tmp_path):
    (tmp_path / "charades_sta_test.txt").write_text("BBBBB 2 4##a person laughs.\n")
    (tmp_path / "Charades_v1_test.csv").write_text("id,length\nBBBBB,30\n")
    splits = AnnotatedSplits(charades_sta.SOURCE, charades_options(tmp_path, "unused"))
    assert splits.split_names == ("test",) and splits.split("test").spans.tolist() == [[2, 4]]


def test_a_video_in_both_files_is_refused(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, "mmn", split, ROWS["test"], "AAAAA")
    with pytest.raises(UserError, match="1 videos of test are also in train, such as AAAAA"):
        charades_annotations(tmp_path)
