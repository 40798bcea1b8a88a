"""Evaluation: what is counted, the sanity and trivial rows, intervals, breakdown and stamp."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from counted import OPTIONS, PROTOCOL, Sum, split_of
from ml_collections import ConfigDict
from tiny import tiny_config

from vmr_jax.data import charades_sta
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import MomentRetrieval, Predictions, means
from vmr_jax.evaluation.results import breakdown, intervals, protocol_stamp, selected_on_test, split_results
from vmr_jax.evaluation.trivial import trivial_rows
from vmr_jax.input import records
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.loader import show_rows
from vmr_jax.training.experiment import Experiment

CHARADES = Path(__file__).resolve().parents[2] / "../shared/data/charades_sta"


# --- trivial rows, intervals, breakdown -----------------------------------------------------------


def test_prior_is_of_the_datasets_own_moments():
    # Two moments of the dataset in the first quarter, three added ones in the last: the best span is [0,25].
    moments = [(0, 25)] * 2 + [(75, 100)] * 3
    split = split_of([(0, 25)])
    tagged = split_of(moments, name="train", tags=[[], [], ["extra"], ["extra", "x"], ["extra"]])
    assert trivial_rows(PROTOCOL, tagged, split, 0)["best span of the training prior"]["mIoU"] == 100
    untagged = split_of(moments, name="train")
    assert trivial_rows(PROTOCOL, untagged, split, 0)["best span of the training prior"]["R@1,IoU=0.5"] == 0


@pytest.mark.skipif(not CHARADES.is_dir(), reason="the shared data are not here")
def test_trivial_rows_of_charades_sta():
    # Computed apart from this code, with IoU > m: the whole video, and [0, 5/16] of it, the best single cell of
    # a 16 x 16 map by the official training moments.
    options = ConfigDict(
        {"manual_dir": str(CHARADES), "split_file": "", "val_fraction": 0.0, "extra_queries": ""}
    )
    found = records.read(charades_sta.SOURCE, options).splits
    train, test = (
        Split(
            name,
            [Video(video.id, video.duration, {}) for video in found[name]],
            [query for video in found[name] for query in video.queries],
            np.repeat(np.arange(len(found[name])), [len(video.queries) for video in found[name]]),
        )
        for name in ("train", "test")
    )
    options = ConfigDict({**OPTIONS.to_dict(), "thresholds": (0.3, 0.5, 0.7), "strict": True})
    rows = trivial_rows(MomentRetrieval(options), train, test, 0)
    names = ("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "mIoU")
    whole, prior = rows["whole video"], rows["best span of the training prior"]
    assert [whole[name] for name in names] == pytest.approx([35.00, 0.43, 0.00, 27.13], abs=0.01)
    assert [prior[name] for name in names] == pytest.approx([41.26, 30.70, 16.18, 28.53], abs=0.01)


def test_intervals_are_of_videos():
    # Two videos of four queries, all hit or all missed: a resample is 0, 50 or 100 %, one quarter each at the
    # ends. One query a video: eight independent ones cannot be all equal in one of forty resamples.
    split = split_of([(0, 10)] * 8)
    ious = np.repeat([[1.0], [0.0]], 4, axis=0)
    assert intervals(split, PROTOCOL.per_query(ious), 0)["R@1,IoU=0.5"] != [0.0, 100.0]
    split.owner = np.repeat([0, 1], 4)
    assert intervals(split, PROTOCOL.per_query(ious), 0)["R@1,IoU=0.5"] == [0.0, 100.0]
    assert set(intervals(split, PROTOCOL.per_query(ious), 0)) == set(PROTOCOL.per_query(ious))


def test_breakdown_by_tag_counts_and_orders():
    split = split_of([(0, 10)] * 4, tags=[["v"], ["vt", "v"], ["t"], ["v", "v"]])
    rows = breakdown(split, PROTOCOL.per_query(np.asarray([[1.0], [0.0], [1.0], [0.0]])))["by_tag"]
    # The most frequent first, then by name; a tag that stands twice counts once.
    assert [(row["label"], row["count"]) for row in rows] == [("v", 3), ("t", 1), ("vt", 1)]
    assert [row["metrics"]["R@1,IoU=0.5"] for row in rows] == pytest.approx([100 / 3, 100, 0])


def test_breakdown_shows_twenty_tags_and_says_so(caplog):
    tags = [[f"t{i:02d}"] for i in range(25)] + [["t24"]]
    split = split_of([(0, 10)] * 26, tags=tags)
    with caplog.at_level("INFO", logger="vmr_jax"):
        rows = breakdown(split, PROTOCOL.per_query(np.ones((26, 1))))["by_tag"]
    assert [row["label"] for row in rows] == ["t24", *(f"t{i:02d}" for i in range(19))]
    assert "the 20 most frequent of 25 tags" in caplog.text
    assert breakdown(split_of([(0, 10)]), PROTOCOL.per_query(np.ones((1, 1))))["by_tag"] == []


# --- stamp ----------------------------------------------------------------------------------------


def test_stamp_says_what_the_numbers_mean(data_dir):
    config = tiny_config(data_dir)
    stamp = protocol_stamp(config, MomentRetrieval(config.evaluation), {"val": 3, "test": 4})
    assert stamp["splits"] == {"val": 3, "test": 4}
    assert (stamp["selection"], stamp["selected_on_test"]) == ("val R@1,IoU=0.5", False)
    assert (stamp["features"], stamp["feature_dim"], stamp["tokenizer"]) == ("rgb", 64, "words")
    assert stamp["vectors"] == "of the dataset" and "convention" not in stamp
    with config.unlocked():
        config.dataset.convention, config.dataset.version = "lgi", "tall"
        config.evaluation.select_split = ""
    stamp = protocol_stamp(config, MomentRetrieval(config.evaluation), {"val": 3})
    assert (stamp["convention"], stamp["dataset_version"]) == ("lgi", "tall")
    assert stamp["selection"] == "none, the last step"


def test_stamp_says_what_the_training_began_with_and_what_an_evaluation_set_anew(data_dir):
    def stamp(name, **fields):
        config = tiny_config(data_dir, name, **fields)
        return protocol_stamp(config, MomentRetrieval(config.evaluation), {"test": 4})

    assert not {"model", "init_from"} & stamp("vslnet").keys()
    # A run is known by its name and not by its place, so that a run that has moved says the same.
    assert stamp("vslnet", init_from="/elsewhere/runs/first")["init_from"] == "first"
    config = tiny_config(data_dir, "vslnet", init_from="/elsewhere/runs/first")
    began = {"step": 20, "weights": "9b1c40a2e7d3"}
    told = protocol_stamp(config, MomentRetrieval(config.evaluation), {"test": 4}, began)
    assert told["init_from"] == "first, step 20, weights 9b1c40a2e7d3"
    assert stamp("vslnet", model__longest_share=0.5)["model"] == "longest_share=0.5"
    assert stamp("excl", model__shortest=2, model__longest=16)["model"] == "shortest=2, longest=16"
    assert "model" not in stamp(
        "vslnet", model__keep=7
    )  # which an evaluation cannot change: config.json says it


@pytest.mark.parametrize(
    ("select", "splits", "found"),
    [
        ("val", ["val", "test"], False),
        ("test", ["val", "test"], True),
        ("test_iid", ["test_iid", "test_ood"], True),
        ("val", ["val"], True),  # nothing else is reported
        ("", ["test"], False),
    ],
)
def test_selection_on_what_is_reported(data_dir, select, splits, found):
    assert selected_on_test(tiny_config(data_dir, evaluation__select_split=select), splits) is found


# --- sanity checks --------------------------------------------------------------------------------


def test_shown_rows():
    rows = np.arange(24.0).reshape(12, 2)
    assert show_rows(rows, "real", 0, "a") is rows
    assert np.array_equal(show_rows(rows, "blind", 0, "a"), np.zeros((12, 2)))
    shuffled = show_rows(rows, "shuffled", 0, "a")
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, rows)) and not np.array_equal(shuffled, rows)
    # The order comes from the run's seed and the video alone, the same in every process.
    seed = int(hashlib.sha256(b"0 a").hexdigest()[:16], 16)
    assert np.array_equal(shuffled, rows[np.random.default_rng(seed).permutation(12)])
    for other in (show_rows(rows, "shuffled", 1, "a"), show_rows(rows, "shuffled", 0, "b")):
        assert not np.array_equal(shuffled, other)
    # Another stream of as many rows keeps beside its clips.
    assert np.array_equal(show_rows(rows[:, :1] * 7, "shuffled", 0, "a"), shuffled[:, :1] * 7)


@pytest.fixture(scope="module")
def experiment(data_dir):
    return Experiment(tiny_config(data_dir))


def test_sanity_rows_of_a_model_that_sees_but_knows_no_order(experiment):
    evaluator, loader = Evaluator(experiment.config, Sum(), experiment.parallel), experiment.loader("test")
    real = evaluator.metrics({}, loader)
    rows = {name: found.metrics() for name, found in evaluator.sanity({}, loader).items()}
    assert list(rows) == ["blind (no video)", "shuffled video"]
    assert rows["shuffled video"] == real
    trivial = trivial_rows(evaluator.protocol, experiment.dataset.split("train"), loader.split, 0)
    assert real == trivial["whole video"]
    ends = np.stack([np.zeros(len(loader)), loader.split.durations / 2], axis=1)[:, None]
    half = evaluator.protocol.finish(loader.split, evaluator.protocol.ranked(ends, np.zeros((len(loader), 1))))
    assert rows["blind (no video)"] == means(half.values) != real


def test_every_stream_of_a_video_is_hidden_or_shuffled_alike(experiment):
    streams = ("flow", "audio", "objects", "persons", "grid", "subtitles", "translated_subtitles")
    streams += ("captions", "object_scores", "activity_scores")
    base = experiment.loader("test")
    loader = type(base)(
        experiment.config, experiment.dataset, base.split, experiment.vocabulary, experiment.vectors, streams
    )
    rows = np.arange(4)
    real, blind, shuffled = (loader.showing(shown).batch(rows) for shown in ("real", "blind", "shuffled"))
    for name in ("video", *streams):
        assert np.abs(getattr(real, name)).max() > 0 and np.abs(getattr(blind, name)).max() == 0, name
    for batch in (blind, shuffled):
        for name in ("video_mask", "duration", "query", "query_vectors", "span"):
            assert np.array_equal(getattr(batch, name), getattr(real, name)), name
    # A stored video has as many rows as there are clips (32), so that shuffling permutes the clips.
    for row in rows:
        video = base.split.videos[base.split.owner[row]]
        order = show_rows(np.arange(32), "shuffled", experiment.config.seed, video.id)
        for name in ("video", *streams, "object_mask", "subtitle_mask"):
            np.testing.assert_array_equal(getattr(shuffled, name)[row], getattr(real, name)[row][order], name)


def test_unknown_sanity_check(experiment, data_dir):
    config = tiny_config(data_dir, evaluation__sanity=("blnd",))
    with pytest.raises(UserError, match=r'sanity names "blnd". Did you mean "blind"\?'):
        Evaluator(config, Sum(), experiment.parallel)


def test_no_sanity_rows_where_they_are_off(experiment, data_dir, monkeypatch):
    evaluator = Evaluator(tiny_config(data_dir, evaluation__sanity=()), Sum(), experiment.parallel)
    monkeypatch.setattr(evaluator, "run", None)  # no pass over the data
    assert evaluator.sanity({}, experiment.loader("test")) == {}


def test_entry_of_results_in_order(experiment):
    config, split = experiment.config, experiment.dataset.split("val")
    protocol, train = MomentRetrieval(config.evaluation), experiment.dataset.split("train")
    ious = np.full((len(split.queries), 5), 0.6)
    found = Predictions(np.zeros((*ious.shape, 2)), np.zeros(ious.shape), ious, protocol.per_query(ious))
    less = ious - 0.25 * (np.arange(len(ious)) % 2)[:, None]  # IoU 0.6 and 0.35 in turn
    blind = Predictions(found.spans, found.scores, less, protocol.per_query(less))
    entry = split_results(config, protocol, train, split, found, {"blind (no video)": blind})
    assert [row["name"] for row in entry["rows"]] == [
        "fvmr (this run)",
        "blind (no video)",
        "whole video",
        "best span of the training prior",
        "random span",
    ]
    assert [row["kind"] for row in entry["rows"]] == ["run", "sanity", "trivial", "trivial", "trivial"]
    assert entry["rows"][0]["intervals"]["mIoU"] == pytest.approx([60, 60])
    lost = entry["rows"][1]["lost"]
    assert 0 < lost["mIoU"][0] < 100 * (0.6 - less[:, 0].mean()) < lost["mIoU"][1] < 25
    # R@1,IoU=0.3 is 100 for both, so that nothing is lost that one could tell from nought.
    assert lost["R@1,IoU=0.3"][0] < 0 < lost["R@1,IoU=0.3"][1]
    assert set(entry["rows"][0]["intervals"]) == set(entry["rows"][0]["metrics"])
