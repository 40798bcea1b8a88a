"""A user's own data: rows of both spellings, splits by file name, every defect with its file and line."""

import json
import logging
import pathlib
import re

import ml_collections
import numpy as np
import pytest

from vmr_jax.configs import two_d_tan
from vmr_jax.data import jsonl
from vmr_jax.data.jsonl import annotations
from vmr_jax.errors import UserError
from vmr_jax.input import records
from vmr_jax.input.annotated import AnnotatedSplits
from vmr_jax.input.annotations import hold_out
from vmr_jax.training.experiment import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data/qvhighlights"


def row(video="v1", duration=20.0, query="a man opens the door", windows=((2, 5),), **more):
    """One line, with None for a field to leave out."""
    fields = {"video": video, "duration": duration, "query": query, "windows": windows, **more}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    write(path, "train", row("a"), row("b", windows=[[1, 2], [8, 12]], qid=7), row("a", query="he leaves"))
    write(path, "val", row("c", qid="c-first"))
    write(path, "test", row("d"), row("e"))
    return path


def write(folder, split, *lines, end="\n", encoding="utf-8"):
    (folder / f"{split}.jsonl").write_bytes("".join(line + end for line in lines).encode(encoding))


def options(folder, **fields):
    config = ml_collections.ConfigDict()
    config.manual_dir, config.data_dir, config.val_fraction = str(folder), str(folder / "prepared"), 0.1
    config.features, config.feature_key = "features", ""
    config.update(fields)
    return config


def read(folder, **fields):
    return annotations.read(options(folder, **fields))


def test_rows_become_queries(folder):
    found = read(folder)
    assert list(found.splits) == ["train", "val", "test"]
    train = found.splits["train"]
    assert [(video.id, video.duration, video.source) for video in train] == [
        ("a", 20.0, "train.jsonl"),
        ("b", 20.0, "train.jsonl"),
    ]
    # Without a qid a query is named by file and line.
    assert [q.qid for video in train for q in video.queries] == ["train-1", "train-3", "7"]
    assert [q.text for q in train[0].queries] == ["a man opens the door", "he leaves"]
    assert found.splits["val"][0].queries[0].qid == "c-first"
    # The first window is the one to learn, the metrics have all.
    assert train[1].queries[0].span == (1.0, 2.0)
    assert train[1].queries[0].windows == [(1.0, 2.0), (8.0, 12.0)]
    assert (found.dropped, found.clipped, found.counts) == ([], 0, {})


def test_names_of_moment_detr_are_the_same(folder):
    expected = read(folder).splits
    for split in ("train", "val", "test"):
        path = folder / f"{split}.jsonl"
        text = path.read_text().replace('"video"', '"vid"').replace('"windows"', '"relevant_windows"')
        assert text != path.read_text()
        path.write_text(text)
    assert read(folder).splits == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n \r\n"])
def test_line_ends_blank_lines_and_byte_order_marks(folder, end, encoding):
    write(folder, "train", row("a"), row("b", query="é"), end=end, encoding=encoding)
    queries = [q for video in read(folder).splits["train"] for q in video.queries]
    assert [q.text for q in queries] == ["a man opens the door", "é"]
    assert queries[1].qid == f"train-{1 + end.count(chr(10))}"


def test_every_test_file_is_a_split(folder):
    write(folder, "test_new_scenes", row("f"))
    write(folder, "test_2", row("d"))  # test splits may share videos with each other
    write(folder, "extra", row("z"))
    (folder / "test_notes.txt").write_text("not read")
    found = read(folder)
    assert list(found.splits) == ["train", "val", "test", "test_2", "test_new_scenes"]
    assert found.counts == {"jsonl files that are no split and not read (extra.jsonl)": 1}
    assert [path.name for path in annotations.files(options(folder))] == [
        f"{split}.jsonl" for split in found.splits
    ]


def test_val_is_held_out_where_there_is_no_file(folder):
    (folder / "val.jsonl").unlink()
    (folder / "test.jsonl").unlink()
    ids = [f"v{i}" for i in range(20)]
    write(folder, "train", *(row(video) for video in ids))
    splits = {name: [v.id for v in videos] for name, videos in read(folder, val_fraction=0.2).splits.items()}
    assert list(splits) == ["train", "val"] and len(splits["val"]) == 4  # 0.2 * 20
    assert set(splits["val"]) == hold_out(ids, 0.2)
    assert sorted(splits["train"] + splits["val"]) == sorted(ids)
    assert list(read(folder, val_fraction=0.0).splits) == ["train"]
    write(folder, "val", row("mine"))
    assert [len(v) for v in read(folder, val_fraction=0.2).splits.values()] == [20, 1]


def test_one_video_cannot_be_divided(folder):
    (folder / "val.jsonl").unlink()
    write(folder, "train", row("a"), row("a"))
    with pytest.raises(UserError, match=r"train\.jsonl has 1 videos, and .*val_fraction=0\.1 would leave none"):
        read(folder)


def test_moments_are_cut_to_the_video_and_counted(folder):
    write(
        folder,
        "train",
        row("a", windows=[[-1, 5], [15, 25], [3, 4]]),
        row("b", windows=[[20, 30], [1, 2]]),  # the first starts at the end
        row("c", windows=[[5, 5]]),
        row("a", windows=[[0, 20]]),
    )
    write(folder, "val", row("d", windows=[[0, 99]]))
    found = read(folder)
    queries = {q.qid: q for videos in found.splits.values() for video in videos for q in video.queries}
    assert queries["train-1"].windows == [(0, 5), (15, 20), (3, 4)]
    assert queries["train-2"].span == (1, 2)
    assert "train-3" not in queries
    assert found.dropped == ["train.jsonl:2, window 0", "train.jsonl:3, window 0"]
    assert found.clipped == 2  # train-1 and val-1


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("empty", [[25, 30], [7.25, 7.25], [9, 8], [-3, 0], [5, 5 + 1e-9]])
def test_a_moment_of_which_nothing_is_left_is_dropped_in_every_split(folder, split, empty):
    """Beyond its video, of no length (5 + 1e-9 is 5 in float32), inverted: the other moments stay."""
    video = {"train": "a", "val": "c", "test": "d"}[split]
    write(folder, split, row(video, windows=[empty, [1, 2]]), row(video, query="gone", windows=[empty]))
    found = read(folder)
    assert [(query.text, query.windows) for v in found.splits[split] for query in v.queries] == [
        ("a man opens the door", [(1, 2)])
    ]
    assert found.dropped == [f"{split}.jsonl:1, window 0", f"{split}.jsonl:2, window 0"]


def test_all_wrong_rows_are_named_at_once(folder):
    write(folder, "train", row("a"), "{", row("b", duration=8e8), row("b", query=""))
    write(folder, "test", row("d", windows=[[1]]), row("d", query="half \ud83d"), row("d", query="x" * 10_001))
    with pytest.raises(UserError) as error:
        read(folder)
    message = str(error.value)
    assert message.startswith("6 rows cannot be read: (1) ")
    for place, what in (
        ("train.jsonl, line 2", "no valid JSON"),
        ("train.jsonl, line 3", "more than a week"),
        ("train.jsonl, line 4", "the sentence is empty"),
        ("test.jsonl, line 1", "the moment is [1]"),
        ("test.jsonl, line 2", "U+D83D, one half of a character"),
        ("test.jsonl, line 3", "has 10,001 characters; at most 10,000"),
    ):
        assert re.search(rf"{re.escape(place)}[:,][^(]*{re.escape(what)}", message)
    write(folder, "train", *["{"] * 25)
    write(folder, "test", row("d"))
    with pytest.raises(UserError, match=r"^25 rows .*\(10\) .*line 10: .* And 15 more") as error:
        read(folder)
    assert "line 11:" not in str(error.value)


@pytest.mark.parametrize("none", [None, [], "absent"])
def test_rows_without_a_moment(folder, none):
    """Left out and named among others; where a split other than train has no moment at all it is unlabelled."""

    def unlabelled(video):
        fields = json.loads(row(video))
        del fields["windows"]
        return json.dumps(fields if none == "absent" else {**fields, "windows": none})

    write(folder, "val", row("c"), unlabelled("x"))
    write(folder, "test", unlabelled("d"), unlabelled("e"))
    if none != "absent":
        write(folder, "train", row("a"), unlabelled("b"))
    found = read(folder)
    assert [place.rpartition("/")[2] for place in found.unlabelled] == [
        *(["train.jsonl, line 2"] if none != "absent" else []),
        "val.jsonl, line 2",
    ]
    assert [[video.id for video in found.splits[split]] for split in ("val", "test")] == [["c"], ["d", "e"]]
    queries = [query for video in found.splits["test"] for query in video.queries]
    assert [(query.labelled, query.span, query.windows) for query in queries] == [(False, (0, 20), ())] * 2


def test_rows_that_repeat_another_are_named_and_kept(folder):
    write(folder, "val", row("c", qid="x"), row("c", qid="y"), row("c", qid="z", windows=[[2, 6]]))
    found = read(folder)
    assert found.repeated == ['val.jsonl: "y" repeats "x"']
    assert len(found.splits["val"][0].queries) == 3


def test_one_split_is_read_from_its_own_file(folder):
    (folder / "train.jsonl").write_text("{")
    splits = AnnotatedSplits(jsonl.SOURCE, options(folder))
    assert splits.split_names == ("train", "val", "test")
    assert [query.qid for query in splits.split("test").queries] == ["test-1", "test-2"]
    (folder / "val.jsonl").unlink()  # val is held out of train then
    with pytest.raises(UserError, match=r"train\.jsonl, line 1"):
        AnnotatedSplits(jsonl.SOURCE, options(folder)).split("val")


def test_a_pointer_of_git_lfs_and_a_web_page_are_named(folder):
    (folder / "val.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(UserError, match=r"val\.jsonl is a pointer of Git LFS"):
        read(folder)
    (folder / "val.jsonl").write_text("<!DOCTYPE html><html><title>Virus scan warning</title></html>")
    with pytest.raises(UserError, match=r"val\.jsonl is a web page that was saved in place"):
        read(folder)


@pytest.mark.parametrize(
    "line, message",
    [
        (row(video=None, vidoe="v"), r'no "video"\. Did you mean "vidoe"\?'),
        (row(duration=None), r'no "duration"\.'),
        (row(query=None, qurey="x"), r'no "query"\. Did you mean "qurey"\?'),
        (row(windows=None, window=[[1, 2]]), r'no "windows"\. Did you mean "window"\?'),
        (row(windows=None), r'no "windows"\.'),
        (row(video=""), r'"video" is \'\'; expected the name of a video'),
        (row(video=3), r'"video" is 3; expected the name of a video'),
        (row(duration="long"), r"\"duration\" is 'long'; expected a positive number"),
        (row(duration=0), r'"duration" is 0; expected a positive number'),
        (row(duration=float("nan")), r'"duration" is nan; expected a positive number'),
        (row(query=" ... "), r"the sentence is empty"),
        (row(query=5), r"the sentence is empty"),
        (row(windows=[1, 2]), r"row 0: the moment is 1; expected \[start, end\]"),
        (row(windows=[[1, 2], [3]]), r"row 1: the moment is \[3\]; expected \[start, end\]"),
        (row(windows=[[1, None]]), r"row 0: the moment is \[1, None\]"),
        (row(windows="1-2"), r'"windows" is str; expected \[\[start, end\], \.\.\.\]'),
        (row(qid=None).replace("{", '{"qid": null, '), r"the id is None; expected a whole number or a text"),
        (row(qid=1.5), r"the id is 1\.5; expected a whole number or a text"),
        (row("a", duration=21.0), r'the video "a" lasts 21 s here and 20 s in .*train\.jsonl, line 1\.'),
        ('{"video": "v"', r"no valid JSON"),
        ("[1, 2]", r"expected an object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(folder, line, message):
    write(folder, "train", row("a"), row("b"), line)
    with pytest.raises(UserError, match=r"mine/train\.jsonl, line 3.*" + message):
        read(folder)


def test_a_split_whose_moments_are_all_outside_their_videos_says_so(folder):
    write(folder, "train", row("a", windows=[[2000, 3000]]), row("b", windows=[[9, 3]]))  # milliseconds, turned
    with pytest.raises(
        UserError,
        match=r'"train" of jsonl has no queries\. Moments .* dropped \(train\.jsonl:1, window 0, '
        r"train\.jsonl:2, window 0\): write moments and durations in seconds, the start first",
    ):
        records.read(jsonl.SOURCE, options(folder))


def test_defects_between_files(folder):
    write(folder, "test", row("d"), row("e", qid="7"))
    with pytest.raises(
        UserError, match=r'test\.jsonl, line 2: the id "7" is also that of .*train\.jsonl, line 2'
    ):
        read(folder)
    write(folder, "test", row("d"), row("c", duration=30))
    with pytest.raises(UserError, match=r'"c" lasts 30 s here and 20 s in .*val\.jsonl, line 1'):
        read(folder)
    write(folder, "test", row("d"), row("b"))
    with pytest.raises(UserError, match=r"1 videos of test are also in train, such as b"):
        read(folder)
    write(folder, "test", row("d"))
    write(folder, "val", row("a"))
    with pytest.raises(UserError, match=r"1 videos of val are also in train, such as a"):
        read(folder)


def test_files_that_cannot_be_read(folder):
    (folder / "test.jsonl").write_bytes(row("d").encode() + b"\n" + '{"query": "café"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: not UTF-8"):
        read(folder)
    for empty in (b"", b"\n \r\n", b"\xef\xbb\xbf"):
        (folder / "test.jsonl").write_bytes(empty)
        with pytest.raises(UserError, match=r"test\.jsonl is empty"):
            read(folder)
    (folder / "test.jsonl").unlink()
    write(folder, "test_a b", row("d"))
    with pytest.raises(
        UserError, match=r"test_a b\.jsonl: a split is named by letters, digits and underscores"
    ):
        read(folder)


def test_folder_without_training_rows(tmp_path):
    with pytest.raises(UserError, match=r"train\.jsonl missing.*The folder has no jsonl file"):
        read(tmp_path)
    write(tmp_path, "Train", row("a"))
    with pytest.raises(
        UserError, match=r"train\.jsonl missing.*The folder has Train\.jsonl.*data/jsonl/README"
    ):
        read(tmp_path)


# --- records --------------------------------------------------------------------------------------


def _qids(builder):
    import tensorflow_datasets as tfds

    return {
        name: [
            qid.decode()
            for record in tfds.as_numpy(builder.as_dataset(split=name))
            for qid in record["queries"]["qid"]
        ]
        for name in builder.info.splits
    }


def test_records_follow_files_and_their_names(folder, caplog):
    with caplog.at_level(logging.INFO, "vmr_jax"):
        first = jsonl.prepare(options(folder))
    assert _qids(first) == {
        "train": ["train-1", "train-3", "7"],
        "val": ["c-first"],
        "test": ["test-1", "test-2"],
    }
    assert "jsonl: 0 rows dropped, of no length within the video; 0 clipped" in caplog.text
    # The same content under another name is another split.
    (folder / "test.jsonl").rename(folder / "test_b.jsonl")
    assert list(_qids(jsonl.prepare(options(folder)))) == ["train", "val", "test_b"]
    (folder / "val.jsonl").unlink()
    assert _qids(jsonl.prepare(options(folder, val_fraction=0.5)))["val"]
    assert "val" not in _qids(jsonl.prepare(options(folder, val_fraction=0.0)))
    assert jsonl.word_vectors(options(folder)) is None


def test_training_can_start_from_ones_own_data(folder, tmp_path):
    rng = np.random.default_rng(0)
    (folder / "features").mkdir()
    for i, video in enumerate("abcde"):
        np.save(folder / "features" / f"{video}.npy", rng.normal(size=(10 + 9 * i, 6)).astype(np.float32))
    words = ["a", "man", "opens", "the", "door"]
    np.savez(tmp_path / "vectors.npz", words=np.array(words), vectors=np.eye(5, dtype=np.float32))
    config = two_d_tan.get_config("jsonl")
    with config.unlocked():
        config.dataset.update(manual_dir=str(folder), data_dir=str(tmp_path / "data"), feature_dim=6)
        config.text.vectors, config.text.dim = str(tmp_path / "vectors.npz"), 5
    experiment = Experiment(config.lock())
    assert experiment.dataset.split_names == ("train", "val", "test")
    batch = experiment.loader("train").batch(np.arange(3))
    np.testing.assert_array_equal(batch.span, [[2, 5], [2, 5], [1, 2]])
    assert batch.video.shape == (3, config.input.num_clips, 6) and batch.video_mask.all()
    features = list((folder / "features").iterdir())
    for path in features:
        path.rename(path.with_stem(path.stem.upper()))
    with pytest.raises(
        UserError, match=r'5 of 5 videos have no features in .*: a, b, c, d, e\. Did you mean "A"'
    ):
        Experiment(config)


def test_the_config_has_the_options():
    assert set(jsonl.SOURCE.fields) <= set(two_d_tan.get_config("jsonl").dataset)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_a_file_of_moment_detr_is_read_as_it_is(tmp_path):
    (tmp_path / "train.jsonl").write_bytes((SHARED / "highlight_train_release.jsonl").read_bytes())
    (tmp_path / "val.jsonl").write_bytes((SHARED / "highlight_val_release.jsonl").read_bytes())
    found = read(tmp_path)
    assert {name: sum(len(v.queries) for v in videos) for name, videos in found.splits.items()} == {
        "train": 7218,
        "val": 1550,
    }
    lines = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    queries = {q.qid: q for video in found.splits["val"] for q in video.queries}
    assert all(queries[str(r["qid"])].span == tuple(r["relevant_windows"][0]) for r in lines)
    assert not found.dropped
