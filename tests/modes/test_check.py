"""`--mode=check`: each defect of annotations, features and config is named, alone and with all the others."""

import json
import pathlib
import re

import h5py
import numpy as np
import pytest
from checked import DURATIONS, config_of, features, problems_of, report_of, spoiled, with_row, write
from tiny import tiny_config

from vmr_jax.configs import fvmr, mmn
from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset, Split, Video
from vmr_jax.input.schema import Query
from vmr_jax.modes import check, check_annotations, check_features, check_problems
from vmr_jax.training.advice import advice
from vmr_jax.training.experiment import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"


@pytest.fixture
def folder(tmp_path):
    """A Charades-STA folder of four videos, one feature row of width 3 a second."""
    (tmp_path / "clip").mkdir()
    write(
        tmp_path,
        "charades_sta_train.txt",
        "AAAAA 0.0 5.0##a person opens the door.",
        "BBBBB 2.0 9.0##person sits.",
    )
    write(
        tmp_path, "charades_sta_test.txt", "CCCCC 1.0 4.0##person eats.", "DDDDD 30.0 38.5##person opens door."
    )
    write(tmp_path, "Charades_v1_train.csv", "id,length", "AAAAA,10", "BBBBB,20")
    write(tmp_path, "Charades_v1_test.csv", "id,length", "CCCCC,30", "DDDDD,40")
    for video, seconds in DURATIONS.items():
        features(tmp_path, video, np.full((seconds, 3), 2, np.float32))
    words = ["a", "person", "opens", "the", "door", "sits"]
    np.savez(tmp_path / "vectors.npz", words=np.array(words), vectors=np.eye(6, 5, dtype=np.float32))
    return tmp_path


# --- nothing wrong --------------------------------------------------------------------------------


def test_a_sound_folder_has_no_problem(folder, data_dir):
    count, text = report_of(config_of(folder, data_dir))
    assert count == 0 and "ok: training would start (3 warnings)" in text
    # Lengths: 5 - 0 and 9 - 2 s; "a person opens the door" and "person sits".
    assert "train 2 2 5.0 to 7.0 2 to 5 0" in text
    # 5 + 2 + 2 + 3 words, of which "eats" has no vector; a, person, opens, the, door, sits, eats are different.
    assert "1 of 12 (8.33%), 1 of 7 different ones; most frequent: eats (1)" in text
    assert "0 of 4 annotated videos" in text and "3 (4 videos); config.dataset.feature_dim is 3" in text
    assert "10 to 40, median 25" in text and "1 to 1, median 1; config.dataset.feature_stride is 1" in text
    assert "3.464 (not normalised); config.input.normalize is True" in text  # sqrt(2² + 2² + 2²)
    assert "50 epochs, batches of 32: 1 step an epoch, 50 in all" in text
    assert "moment_retrieval on test; the last is kept" in text


def test_where_token_features_take_the_place_of_word_vectors_none_is_asked_for(folder, data_dir):
    """The line of words without a vector is left out; everything else is as before."""
    (folder / "tokens").mkdir()
    _, text = report_of(config_of(folder, data_dir, text__features=str(folder / "tokens")))
    assert "words without vector" not in text and "train 2 2 5.0 to 7.0 2 to 5 0" in text


def test_what_reading_the_annotations_repaired_is_shown(folder, data_dir):
    rows = (
        "AAAAA 0.0 12.0##a person sits.",
        "BBBBB 9.0 9.0##a person.",
        "BBBBB 1.0 3.0##the person opens the door.",
    )
    write(folder, "charades_sta_train.txt", *rows)
    _, text = report_of(config_of(folder, data_dir, text__max_words=4))
    assert "dropped 1 row, of no length within the video: charades_sta_train.txt:2" in text
    assert "clipped 1 row, cut to the length of the video" in text
    assert "cut to 4 words" in text and "train 2 2 2.0 to 10.0 3 to 5 1" in text


def test_counts_are_compared_with_the_published_ones(folder, data_dir, monkeypatch):
    import vmr_jax.data.charades_sta as module

    monkeypatch.setattr(
        module, "PUBLISHED_COUNTS", {"train": {"queries": 2, "videos": 2}, "test": {"queries": 3, "videos": 2}}
    )
    config = config_of(folder, data_dir, dataset__val_fraction=0.5)
    count, text = report_of(config)
    # One of the two training videos is held out; together they are the published split.
    assert "published counts train + val: 2 videos, 2 queries; the same here" in text
    assert "test: 2 videos, 3 queries; here 2 queries" in text
    assert count == 0 and "not those of the official files: test 2 queries. Unless" in text


def test_counts_are_not_compared_where_the_user_chose(folder, data_dir, monkeypatch):
    import vmr_jax.data.charades_sta as module

    (folder / "mine.json").write_text(json.dumps({"train": ["AAAAA", "CCCCC"], "test": ["DDDDD"]}))
    _, text = report_of(config_of(folder, data_dir, dataset__split_file="mine.json"))
    assert "not compared: mine.json is a split of your own" in text and "not those of the official" not in text
    write(folder, "more.jsonl", json.dumps({"video": "AAAAA", "query": "person sits", "windows": [[1, 2]]}))
    monkeypatch.setattr(module, "PUBLISHED_COUNTS", {"train": {"queries": 2, "videos": 2}})
    _, text = report_of(config_of(folder, data_dir, dataset__extra_queries="more.jsonl"))
    assert "train: 2 videos, 2 queries; the same here; queries of more.jsonl come on top" in text
    assert "extra training queries used 1" in text and text.endswith("ok: training would start (2 warnings)")


def test_features_beyond_the_annotated_are_named_and_left_alone(folder, data_dir):
    (folder / "clip" / "EEEEE.npz").write_bytes(b"damaged, but nobody asks for it")
    count, text = report_of(config_of(folder, data_dir))
    assert count == 0 and "not annotated 1, not read: EEEEE" in text and "read 4 videos" in text


def test_rows_beyond_the_clips_and_the_room_of_the_cache(folder, data_dir):
    _, text = report_of(config_of(folder, data_dir, input__num_clips=25))
    assert "10 to 40, median 25; 2 videos averaged to 25 (config.input.num_clips)" in text
    problems = check_problems.Problems()
    config = config_of(folder, data_dir, input__num_clips=2**17)
    # 2^18 rows, of which 2^17 are kept, of 2^10 float32 are 2^29 bytes for each of four videos.
    measured = [check_features.Measured(v, 1.0, 2**18, 2**10, 0, -1, 0, (1.0,)) for v in "abcd"]
    assert check_features.room(config, measured, problems)[0][1].startswith("2.0 GiB; ")
    assert not problems.warnings
    # 2^17 rows of 2^40 float32 are 2^59 bytes.
    check_features.room(config, [check_features.Measured("a", 1.0, 2**18, 2**40, 0, -1, 0, (1.0,))], problems)
    assert problems.warnings[0].startswith("The cache of the features takes 536,870,912.0 GiB and ")


# --- one defect at a time -------------------------------------------------------------------------


FATAL_FEATURES = {
    "missing": (
        lambda folder: (folder / "clip" / "CCCCC.npz").unlink(),
        r"^1 of 4 annotated videos without features in .*: CCCCC\.$",
    ),
    "nan": (spoiled(features=with_row(7, np.nan)), r"^1 video with NaN or infinity; .* CCCCC \(row 7 of 30\)"),
    "infinity": (spoiled(features=with_row(9, -np.inf)), r"CCCCC \(row 9 of 30\)"),
    "dimension": (
        spoiled(features=np.ones((30, 4), np.float32)),
        r"^1 video of 4 with .*feature_dim, 3: there are 3 \(3 videos\), 4 \(1 video\)\. .* again: CCCCC\.$",
    ),
    "no rows": (spoiled(features=np.ones((0, 3), np.float32)), r"^1 video without a single row: CCCCC\."),
    "damaged": (
        lambda folder: (folder / "clip" / "CCCCC.npz").write_bytes(b"PK\3\4 cut"),
        r"CCCCC\.npz cannot be read",
    ),
    "key": (spoiled(other=np.ones((30, 3))), r"CCCCC\.npz has no array .* it has: other"),
    "integers": (spoiled(features=np.ones((30, 3), np.int64)), r"CCCCC\.npz holds int64 of shape"),
}


@pytest.mark.parametrize("defect", FATAL_FEATURES)
def test_a_defect_of_the_features_is_the_one_problem(folder, data_dir, defect):
    spoil, message = FATAL_FEATURES[defect]
    spoil(folder)
    config = config_of(folder, data_dir)
    fatal, warnings = problems_of(config)
    assert len(fatal) == 1 and re.search(message, fatal[0]), fatal
    assert not warnings
    with pytest.raises(UserError):
        Experiment(config)  # training stops at the same


def test_large_values_are_not_infinite(folder, data_dir):
    # 1e30 squared is beyond float32, so the norm is infinite and the row is not; no extractor gives it.
    features(folder, "CCCCC", with_row(3, 1e30))
    (problem,), _ = problems_of(config_of(folder, data_dir))
    assert problem.startswith("1 video with numbers that no extractor gives, beyond 1e+06: CCCCC (1e+30).")
    with pytest.raises(UserError, match=r"CCCCC\.npz holds 1e\+30, which no extractor gives"):
        Dataset(config_of(folder, data_dir).dataset, config_of(folder, data_dir).input)
    features(folder, "CCCCC", with_row(3, 1e5))
    assert problems_of(config_of(folder, data_dir)) == ([], [])


def test_what_training_refuses_check_refuses_too(folder, data_dir):
    """Rows of one video in a batch are a setting of the model and of the input: they must be the same."""
    config = mmn.get_config("charades_sta,vgg,glove")
    small = config_of(folder, data_dir)
    with config.unlocked():
        config.dataset.update({k: v for k, v in small.dataset.items() if k in config.dataset})
        config.text.vectors, config.text.dim = small.text.vectors, 5
        config.evaluation.select_split = ""
        config.input.queries_per_video = config.model.queries_per_video + 1
    (problem, *_), _ = problems_of(config.lock())
    with pytest.raises(UserError) as error:
        Experiment(config, dataset=Dataset(config.dataset, annotations_only=True))
    assert str(error.value) in problems_of(config)[0]


def test_unlabelled_and_repeated_rows_are_said(tmp_path, data_dir):
    """A test split without moments is read and not evaluated; what is evaluated by name is refused."""
    row = {"duration": 10.0, "query": "a person sits", "windows": [[1, 2]]}
    rows = [{"video": name, **row} for name in ("a", "a", "b")]
    write(tmp_path, "train.jsonl", *map(json.dumps, rows), json.dumps({**rows[0], "windows": None}))
    write(tmp_path, "val.jsonl", json.dumps({**rows[0], "video": "c"}))
    write(tmp_path, "test.jsonl", json.dumps({**rows[0], "video": "d", "windows": []}))
    (tmp_path / "features").mkdir()
    for name in "abcd":
        np.save(tmp_path / "features" / f"{name}.npy", np.ones((10, 3), np.float32))
    config = fvmr.get_config("jsonl")
    config.dataset.update(manual_dir=str(tmp_path), data_dir=str(data_dir), feature_dim=3)
    config.text.vectors, config.text.dim = "none", 5
    count, text = report_of(config)
    assert count == 0 and "moment_retrieval on val; best by" in text
    assert "test 1 1 not known" in text and "without a moment 1 row, left out:" in text
    assert 'said twice 1 row: train.jsonl: "train-2" repeats "train-1"' in text
    config.evaluation.splits = ("test",)
    assert any(
        "The split test has no moments in its annotation file" in text for text in problems_of(config)[0]
    )


def test_the_length_of_a_run_and_the_size_of_its_batches(folder, data_dir):
    """40 videos of one query in batches of 16 are three steps an epoch; 100 epochs are 300 steps."""
    config = config_of(folder, data_dir)
    with config.unlocked():
        config.batch_size, config.train_for = 16, "3 epochs"
    (few,) = advice(config, 40, 9)
    assert few.startswith("Training takes 9 steps in all (3 epochs of 40 queries, batches of 16)")
    assert "smaller config.batch_size" in few and "longer config.train_for" in few
    assert advice(config, 40, 300) == []
    (large,) = advice(config, 15, 300)
    assert "config.batch_size is 16 and the split train has 15 queries" in large
    with config.unlocked():
        config.batch_size = 8192
    (large,) = advice(config, 10**6, 10**5)
    assert "config.batch_size is 8,192; the field trains with 4 to 1,024" in large


def test_rows_of_few_videos_prove_nothing_without_a_stride(folder, data_dir):
    """Eight rows for every video, however long: no frame rate is known, so none is truncated."""
    for video in DURATIONS:
        features(folder, video, np.ones((8, 3), np.float32))
    config = config_of(folder, data_dir, dataset__feature_stride=0.0)
    assert problems_of(config) == ([], [])


def test_transposed_features_are_named(folder, data_dir):
    for video, seconds in DURATIONS.items():
        features(folder, video, np.ones((3, seconds), np.float32))
    fatal, _ = problems_of(config_of(folder, data_dir))
    assert len(fatal) == 1 and "[dimensions,clips], turned around. Save each matrix" in fatal[0]
    with pytest.raises(UserError, match=r"AAAAA\.npz has features of dimension 10; .* turned around\."):
        Dataset(config_of(folder, data_dir).dataset, config_of(folder, data_dir).input)


def test_truncated_features(folder, data_dir):
    # 15 rows for 30 s are 2 s apart, those of the other three videos 1 s. The moment from 1 s is covered.
    features(folder, "CCCCC", np.ones((15, 3), np.float32))
    fatal, warnings = problems_of(config_of(folder, data_dir))
    assert not fatal and len(warnings) == 1
    assert "1 video with more or fewer rows" in warnings[0] and "CCCCC (15 rows, 30.0 s)." in warnings[0]


def test_a_video_of_zeros(folder, data_dir):
    features(folder, "CCCCC", np.zeros((30, 3), np.float32))
    config = config_of(folder, data_dir)
    fatal, warnings = problems_of(config)
    assert not fatal and len(warnings) == 1
    Experiment(config)  # training opens them
    assert warnings[0].startswith("1 video with nothing but zeros: CCCCC.")


def test_a_moment_past_the_last_row_is_named(folder, data_dir):
    # DDDDD has a moment from 30 s; with 30 rows of 1 s its features end there, with 31 they do not.
    features(folder, "DDDDD", np.ones((31, 3), np.float32))
    assert not any("begins after" in warning for warning in problems_of(config_of(folder, data_dir))[1])
    features(folder, "DDDDD", np.ones((30, 3), np.float32))
    _, warnings = problems_of(config_of(folder, data_dir))
    assert any(
        re.search(r"^1 query whose moment begins .* DDDDD-0 \(at 30\.0 s of 30\.0 s\)", w) for w in warnings
    )


def test_one_row_more_is_rounding(folder, data_dir):
    # AAAAA: 9 rows for 10 s are 1.11 s apart, 11% off, but only one row short.
    features(folder, "AAAAA", np.ones((9, 3), np.float32))
    assert problems_of(config_of(folder, data_dir)) == ([], [])


def test_another_stride_than_stated(folder, data_dir):
    _, warnings = problems_of(config_of(folder, data_dir, dataset__feature_stride=0.5))
    assert (
        len(warnings) == 1 and "Rows are 1 s apart, and config.dataset.feature_stride says 0.5 s" in warnings[0]
    )
    assert problems_of(config_of(folder, data_dir, dataset__feature_stride=0.0)) == ([], [])  # none is stated


def test_a_dimension_that_all_share_is_offered(folder, data_dir):
    fatal, _ = problems_of(config_of(folder, data_dir, dataset__feature_dim=512))
    assert len(fatal) == 1 and "there are 3 (4 videos). Set it to 3, or bring" in fatal[0]


def test_missing_features_may_be_dropped_unless_a_split_is_empty_then(folder, data_dir):
    (folder / "clip/CCCCC.npz").unlink()
    config = config_of(folder, data_dir, dataset__on_missing="drop")
    fatal, warnings = problems_of(config)
    assert not fatal and re.match(r"1 of 4 .* will be dropped .*: CCCCC\.$", warnings[0])
    (folder / "clip/DDDDD.npz").unlink()
    fatal, _ = problems_of(config)
    assert len(fatal) == 1 and "The split test is empty" in fatal[0]
    for video in ("AAAAA", "BBBBB"):
        (folder / f"clip/{video}.npz").rename(folder / f"clip/v_{video}.npz")
    fatal, _ = problems_of(config)
    assert len(fatal) == 1 and "the features v_AAAAA, v_BBBBB" in fatal[0]


def test_features_in_one_hdf5_file_with_extensions(folder, data_dir):
    with h5py.File(folder / "all.hdf5", "w") as file:
        for video, seconds in DURATIONS.items():
            file[f"{video}.avi"] = (
                with_row(0, np.nan) if video == "CCCCC" else np.ones((seconds, 3), np.float16)
            )
    fatal, warnings = problems_of(config_of(folder, data_dir, dataset__features="all.hdf5"))
    assert len(fatal) == 1 and "CCCCC (row 0 of 30)" in fatal[0] and not warnings


CONFIG_PROBLEMS = {
    "no vectors": ({"text__vectors": "/nowhere/glove.txt"}, "There are no word vectors at /nowhere/glove.txt"),
    "width of vectors": ({"text__dim": 300}, "have 5 dimensions; config.text.dim says 300"),
    "tokeniser": ({"text__tokenizer": "word"}, 'no tokeniser "word". Did you mean "words"?'),
    "resample": ({"input__resample": "averag"}, 'config.input.resample is "averag"'),
    "architecture": ({"model__name": "fvm"}, 'no architecture "fvm". Did you mean "fvmr"?'),
    "batch": ({"batch_size": 12}, "config.batch_size is 12, which 8 devices cannot share"),
    "evaluation batch": ({"evaluation__batch_size": 12}, "config.evaluation.batch_size is 12"),
    "devices": ({"num_devices": 9}, "config.num_devices is 9"),
    "duration": ({"train_for": "long"}, 'config.train_for is "long"'),
    "optimiser": ({"optimizer__name": "adan"}, 'config.optimizer.name is "adan"'),
    "rules": ({"optimizer__rules": (("frozen.*", 0.0),)}, "No rule in config.optimizer.rules covers"),
    "selection": ({"evaluation__select_by": "R@2,IoU=0.5"}, 'config.evaluation.select_by is "R@2,IoU=0.5"'),
    "selection split": ({"evaluation__select_split": "val"}, 'no split "val"'),
    "evaluation split": ({"evaluation__splits": ("tests",)}, 'no split "tests". Did you mean "test"?'),
    "folder of features": ({"dataset__features": "vgg"}, "There are no features at"),
    "protocol": ({"evaluation__protocol": "highlight"}, 'config.evaluation.protocol is "highlight"'),
}


@pytest.mark.parametrize("name", CONFIG_PROBLEMS)
def test_a_config_that_would_not_train(folder, data_dir, name):
    fields, message = CONFIG_PROBLEMS[name]
    fatal, _ = problems_of(config_of(folder, data_dir, **fields))
    assert len(fatal) == 1 and message in fatal[0], fatal


def test_an_architecture_that_needs_what_the_dataset_lacks(folder, data_dir):
    fatal, _ = problems_of(config_of(folder, data_dir, model__text="sentence"))
    assert len(fatal) == 1
    assert 'needs "sentence", which the dataset charades_sta does not have' in fatal[0]


def test_many_words_without_vector_are_a_warning(folder, data_dir):
    _, warnings = problems_of(config_of(folder, data_dir, text__tokenizer="whitespace"))
    # 'whitespace' leaves the full stop on door. sits. eats. door., which are 4 of 12 words.
    assert len(warnings) == 1 and warnings[0].startswith("33% of the words have no vector")


def test_words_whose_vectors_are_learnt_are_no_warning(folder, data_dir):
    learnt = {"text__vectors": "none", "text__trainable": True, "text__dim": 16}
    assert problems_of(config_of(folder, data_dir, **learnt)) == ([], [])
    _, text = report_of(config_of(folder, data_dir, **learnt))
    # a, person, opens, the, door, sits and eats
    assert "words 7 different ones; the vectors of those of training are learnt" in text
    fixed = problems_of(config_of(folder, data_dir, **learnt | {"text__trainable": False}))[1]
    assert len(fixed) == 1 and fixed[0].startswith("100% of the words have no vector")


# --- annotations that cannot be read --------------------------------------------------------------


def test_features_and_config_are_checked_without_annotations(folder, data_dir):
    write(folder, "charades_sta_test.txt", "CCCCC 1.0 4.0 person eats.")
    features(folder, "CCCCC", with_row(7, np.nan))
    features(folder, "DDDDD", np.ones((40, 4), np.float32))
    count, text = report_of(config_of(folder, data_dir, batch_size=12))
    assert count == 4 and "could not be read; the verdict says why" in text
    assert "charades_sta_test.txt,line1:" in text.replace(" ", "") and "CCCCC (row 7 of 30)" in text
    assert "seconds per row unknown" in text and "extract these again: DDDDD" in text
    assert "config.batch_size is 12" in text


def test_everything_at_once(folder, data_dir):
    write(
        folder, "Charades_v1_test.csv", "id,length", "CCCCC,30", "DDDDD,40", "EEEEE,10", "FFFFF,10", "GGGGG,10"
    )
    write(
        folder,
        "charades_sta_test.txt",
        *(f"{v} 1.0 4.0##person {v}." for v in ("CCCCC", "DDDDD", "EEEEE", "FFFFF", "GGGGG")),
    )
    features(folder, "AAAAA", np.full((10, 3), np.nan, np.float32))
    features(folder, "BBBBB", np.zeros((20, 3), np.float32))
    features(folder, "CCCCC", np.ones((30, 4), np.float32))
    features(folder, "DDDDD", np.ones((80, 3), np.float32))
    features(folder, "EEEEE", np.ones((0, 3), np.float32))
    (folder / "clip/FFFFF.npz").write_bytes(b"damaged")
    fatal, warnings = problems_of(config_of(folder, data_dir, text__vectors="none.txt", batch_size=12))
    expected = ("no word vectors", "1 of 7 annotated videos without features", "FFFFF.npz cannot be read",
                "CCCCC", "EEEEE", "AAAAA (row 0 of 10)", "config.batch_size is 12")  # fmt: skip
    assert len(fatal) == len(expected)
    for message in expected:
        assert sum(message in problem for problem in fatal) == 1, message
    assert ["DDDDD (80 rows, 40.0 s)" in warnings[0] or "BBBBB" in warnings[0], len(warnings)] == [True, 2]


def test_bad_files_are_gathered_and_their_list_ends_at_twenty(folder, data_dir):
    videos = [f"V{i:04}" for i in range(30)]
    write(folder, "Charades_v1_test.csv", "id,length", *(f"{video},10" for video in videos))
    write(folder, "charades_sta_test.txt", *(f"{video} 1.0 4.0##person sits." for video in videos))
    for i, video in enumerate(videos):
        if i < 25:
            features(folder, video, with_row(i, np.nan))
        else:
            np.savez(folder / "clip" / f"{video}.npz", other=np.ones((10, 3), np.float32))
    fatal, _ = problems_of(config_of(folder, data_dir))
    assert len(fatal) == 2
    assert "V0025.npz has no array" in fatal[0]
    assert fatal[0].endswith("The same with 4 other videos: V0026, V0027, V0028, V0029.")
    assert "V0019 (row 19 of 30), ... (25 in all)" in fatal[1] and "V0020" not in fatal[1]


# --- parts ----------------------------------------------------------------------------------------


def test_duplicated_ids_are_named():
    queries = [Query(qid, "person sits", (0.0, 1.0)) for qid in ("a", "b", "a")]
    split = Split("train", [Video("V", 10.0, {})], queries, np.zeros(3, np.int32))
    problems = check_problems.Problems()
    assert check_annotations.duplicates({"train": split}, problems) == "1"
    assert problems.warnings[0].startswith("1 query id not unique") and not problems.fatal


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_measure_equals_the_definition(dtype):
    left, right = (np.random.default_rng(d).normal(size=(50, d)).astype(dtype) for d in (7, 5))
    left[3] = right[3] = right[4] = 0
    left[11, 2], right[20, 4] = np.nan, np.inf
    found = check_features.measure("V", 25.0, [left, right])
    assert (found.rows, found.dim, found.seconds_per_row) == (50, 12, 0.5)
    # Row 4 is zero in one of the two sources alone.
    assert (found.bad_rows, found.first_bad, found.zero_rows) == (2, 11, 1)
    for norm, source in zip(found.norms, (left, right)):
        finite = source[np.isfinite(source).all(1)].astype(np.float64)
        assert norm == pytest.approx(np.linalg.norm(finite, axis=1).mean(), rel=1e-6)


def test_embedded_features_are_checked_too(data_dir):
    assert problems_of(tiny_config(data_dir)) == ([], [])
    count, text = report_of(tiny_config(data_dir, dataset__features="rbg"))
    assert count == 1 and 'config.dataset.features is "rbg"' in text and 'Did you mean "rgb"?' in text
    count, text = report_of(tiny_config(data_dir, dataset__feature_dim=65))
    assert count == 1 and "Set it to 64" in text


def test_status_and_an_untouched_workdir(folder, data_dir, tmp_path, capsys):
    check.check(config_of(folder, data_dir), tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        check.check(config_of(folder, data_dir, batch_size=12), tmp_path / "run")
    assert ended.value.code == 1 and "1 problem would stop training" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_on_storyboard(commands, data_dir):
    done = commands.run(
        "--mode=check",
        "--config=configs/fvmr.py",
        f"--config.dataset.data_dir={data_dir}",
        "--config.dataset.train_videos=20",
    )
    assert done.returncode == 0, done.stderr
    assert "published counts       none" in done.stdout and done.stdout.rstrip().endswith(
        "ok: training would start (1 warning)"
    )


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not here")
def test_the_command_on_real_charades_features(commands, data_dir):
    arguments = (
        "--mode=check",
        "--config=configs/fvmr.py:charades_sta,clip",
        f"--config.dataset.manual_dir={SHARED / 'charades_sta'}",
        f"--config.text.vectors={SHARED / 'word_vectors/glove_6B_300d_charades.npz'}",
        f"--config.dataset.data_dir={data_dir}",
    )
    done = commands.run(*arguments, "--config.dataset.split_file=clip_subset_splits.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("ok: training would start")
    assert "0 of 1,334 annotated videos" in done.stdout and "512 (1,334 videos)" in done.stdout
    done = commands.run(*arguments)
    assert done.returncode == 1
    # 6,670 annotated videos (5,336 of train and 1,334 of test), of which those of test have features.
    assert "5,336 of 6,670 annotated videos without features" in done.stdout
    assert done.stdout.count("the same here") == 2 and "(5,336 in all)" in done.stdout
