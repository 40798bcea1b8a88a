"""Protocols: what is counted of moments, of several moments and highlights, and of a corpus."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from counted import OPTIONS, PROTOCOL, Finder, Sum, split_of
from ml_collections import ConfigDict
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.evaluation import protocols
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import (
    Corpus,
    Highlights,
    MomentRetrieval,
    annotated_windows,
    means,
    nearest_iou,
)
from vmr_jax.evaluation.results import prediction_rows
from vmr_jax.evaluation.trivial import trivial_rows
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.schema import Query
from vmr_jax.training.experiment import Experiment
from vmr_jax.types import Moments


def protocol_with(kind=MomentRetrieval, **fields):
    return kind(ConfigDict({**OPTIONS.to_dict(), **fields}))


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_counted_per_query(strict):
    protocol = protocol_with(thresholds=(0.3, 0.5), strict=strict)
    # Quarters, so that IoU 0.5 itself occurs.
    ious = np.random.default_rng(0).integers(0, 5, (40, 2)) / 4
    found = means(protocol.per_query(ious))
    assert list(found) == protocol.metric_names()
    reached = ious.max(1) > 0.5 if strict else ious.max(1) >= 0.5
    assert found["R@2,IoU=0.5"] == pytest.approx(100 * reached.mean())


def test_of_several_annotated_moments_the_nearest_counts():
    split = split_of([(0, 10), (0, 10)], windows=[[(0, 10), (20, 30)], []])
    assert annotated_windows(split).tolist() == [[[0, 10], [20, 30]], [[0, 10], [0, 0]]]
    spans = np.asarray([[[20.0, 40.0]], [[20.0, 40.0]]])
    # 10 of 20 s with the second window; nothing with [0,10].
    assert PROTOCOL.finish(split, PROTOCOL.ranked(spans, np.zeros((2, 1)))).ious.tolist() == [[0.5], [0.0]]


def test_a_window_that_only_fills_hits_nothing():
    ious = nearest_iou(np.asarray([[[0.0, 4.0]]]), np.zeros((1, 1)), np.asarray([[[2.0, 4.0], [0.0, 0.0]]]))
    assert ious.tolist() == [[0.5]]


def test_predictions_file_scores_as_the_run_did():
    # Times with many digits, and some that make an IoU of exactly one half once they are written.
    rng = np.random.default_rng(0)
    truth = np.sort(rng.random((50, 2)).astype(np.float32) * 30, axis=1)
    spans = np.sort(rng.random((50, 2, 2)).astype(np.float32) * 33, axis=2)
    truth[0], spans[0, 0] = (0.00004, 10.00004), (0, 5)
    split = split_of(truth.tolist(), durations=[30.0] * 50)
    found = PROTOCOL.finish(split, PROTOCOL.ranked(spans, np.tile([[0.9, 0.1]], (50, 1))))
    assert found.ious[0, 0] == 0.5
    lines = [json.loads(json.dumps(row)) for row in prediction_rows(split, found)]
    for ious, line in zip(found.ious, lines):
        (a, b), moments = line["relevant_windows"][0], line["pred_relevant_windows"]
        for iou, (start, end, _) in zip(ious, moments, strict=True):
            assert 0 <= start <= end <= 30 and round(start, 3) == start
            overlap = max(0.0, min(b, end) - max(a, start))
            union = (b - a) + (end - start) - overlap
            assert iou == pytest.approx(overlap / union, abs=1e-12)


def test_predictions_list_every_annotated_moment_and_no_missing_one():
    split = split_of([(1, 2)], windows=[[(1, 2), (3.00049, 4)]])
    found = PROTOCOL.finish(
        split, PROTOCOL.ranked(np.asarray([[[1.0, 2.0], [0.0, 0.0]]]), np.asarray([[1.0, -np.inf]]))
    )
    (row,) = prediction_rows(split, found)
    assert row["relevant_windows"] == [[1.0, 2.0], [3.0, 4.0]]
    assert row["pred_relevant_windows"] == [[1.0, 2.0, 1.0]]


def test_discounted_recall_where_asked_for():
    protocol = protocol_with(discounted=True)
    split = split_of([(0, 10), (0, 10)], durations=[20.0, 20.0])
    spans = np.asarray([[[0.0, 15.0], [0.0, 10.0]], [[12.0, 20.0], [0.0, 10.0]]])
    found = protocol.finish(split, PROTOCOL.ranked(spans, np.zeros((2, 2))))
    # First: IoU 10/15, a hit, its end off by 5 of 20 s: 0.75. Second: a miss, then the annotated moment itself.
    values = found.metrics()
    assert values["dR@1,IoU=0.5"] == pytest.approx(37.5)
    assert values["dR@2,IoU=0.5"] == pytest.approx(87.5)
    plain = PROTOCOL.finish(split, PROTOCOL.ranked(spans, np.zeros((2, 2)))).metrics()
    assert plain == {name: value for name, value in values.items() if not name.startswith("dR@")}
    assert protocol.metric_names() == list(values)
    assert "dR@1,IoU=0.5" in trivial_rows(protocol, split, split, 0)["whole video"]


# --- NMS that follows m ---------------------------------------------------------------------------


def test_nms_below_each_threshold():
    # IoU of the first two moments is 0.5: NMS at 0.25 (m = .3) drops the second, NMS at 0.65 (m = .7) keeps it.
    protocol = protocol_with(thresholds=(0.3, 0.7), nms_margin=0.05, keep=2)
    moments = Moments(
        spans=jnp.asarray([[[0.0, 10.0], [0.0, 5.0], [20.0, 30.0]]]), scores=jnp.asarray([[3.0, 2.0, 1.0]])
    )
    kept = protocol.kept(moments)
    np.testing.assert_array_equal(kept["spans"][0], [[[0, 10], [20, 30]], [[0, 10], [0, 5]]])
    # [0,5] is the annotated moment: its IoU with [0,10] is 0.5, so at m = .3 the first hits, at .7 the second.
    found = protocol.finish(split_of([(0, 5)]), {name: np.asarray(x) for name, x in kept.items()})
    assert {name: bool(v[0]) for name, v in found.values.items() if name != "mIoU"} == {
        "R@1,IoU=0.3": True, "R@1,IoU=0.7": False, "R@2,IoU=0.3": True, "R@2,IoU=0.7": True,
    }  # fmt: skip
    assert protocol.stamp()["nms_threshold"] == "m - 0.05"


# --- highlights -----------------------------------------------------------------------------------


def test_highlights_by_hand():
    # A video of 8 s has four clips; the third is the one that all annotators call very good.
    saliency = np.full((5, 3), -1)
    saliency[2] = 4
    query = Query("q", "a dog", (4.0, 6.0), windows=[(4.0, 6.0)], saliency=saliency)
    split = Split("val", [Video("v", 8.0, {})], [query], np.zeros(1, np.int32))
    protocol = protocol_with(Highlights, keep=10)
    spans, scores = np.asarray([[[4.0, 6.0], [0.0, 2.0]]]), np.asarray([[0.9, 0.1]])
    collected = {
        **protocol.ranked(spans, scores),
        # Eight rows of clips: the centres of the annotated clips 1, 3, 5, 7 s fall into the rows 1, 3, 5, 7.
        "saliency": np.asarray([[9, 0.5, 9, 0.1, 9, 0.7, 9, 0.2]]),
        "clips": np.asarray([8]),
    }
    found = protocol.finish(split, collected)
    values = means(found.values)
    assert values["mAP"] == values["HL-mAP,VeryGood"] == values["HL-Hit@1,VeryGood"] == 100
    assert list(values) == protocol.metric_names()
    (row,) = prediction_rows(split, found)
    assert row["pred_saliency_scores"] == [0.5, 0.1, 0.7, 0.2]
    collected["saliency"] = collected["saliency"] * [[1, 1, 1, 1, 1, 0, 1, 1]]  # now the third clip is last
    worse = means(protocol.finish(split, collected).values)
    assert worse["HL-Hit@1,VeryGood"] == 0 and worse["HL-mAP,VeryGood"] == pytest.approx(25)
    assert worse["mAP"] == 100


def test_highlights_need_saliency_of_both(data_dir):
    experiment = Experiment(tiny_config(data_dir))
    split = experiment.dataset.split("val")
    with pytest.raises(UserError, match="gives clips no saliency"):
        protocol_with(Highlights).prepare(experiment.model, split)
    with pytest.raises(UserError, match="val has no annotated saliency"):
        protocol_with(Highlights).prepare(Finder(), split)


# --- corpus ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 8])
def test_corpus_by_hand(data_dir, devices):
    config = tiny_config(
        data_dir, evaluation__protocol="corpus", evaluation__corpus_videos=3, evaluation__corpus_top_n=(1, 2),
        evaluation__batch_size=16, evaluation__select_by="VR-R@1", num_devices=devices,
    )  # fmt: skip
    experiment = Experiment(config)
    loader = experiment.loader("val")
    found = Evaluator(config, Finder(), experiment.parallel).run({}, loader)
    values, split = means(found.values), loader.split
    # Only the last video has no next one, so its queries alone find their video first.
    last = np.asarray(split.owner) == len(split.videos) - 1
    assert values["VR-R@1"] == pytest.approx(100 * last.mean()) and values["VR-R@2"] == 100
    np.testing.assert_array_equal(found.values["VCMR-R@2,IoU=0.5"], found.ious[:, 0] >= 0.5)
    np.testing.assert_array_equal(found.values["VCMR-R@1,IoU=0.5"], last & (found.ious[:, 0] >= 0.5))
    assert 0 < values["VCMR-R@2,IoU=0.5"] < 100
    row = prediction_rows(split, found)[0]
    assert [video for video, *_ in row["pred_corpus_windows"][:2]] == [split.videos[1].id, split.videos[0].id]
    assert list(values) == protocols.make_protocol(config.evaluation).metric_names()


def test_corpus_by_chance(data_dir):
    experiment = Experiment(tiny_config(data_dir))
    options = tiny_config(data_dir, evaluation__corpus_top_n=(1, 10)).evaluation
    protocol, split = Corpus(options), experiment.dataset.split("val")
    rows = trivial_rows(protocol, experiment.dataset.split("train"), split, 0)
    # A random order has the right video among the first ten with probability 10 / videos.
    chance, count = 10 / len(split.videos), len(split.queries)
    spread = 100 * np.sqrt(chance * (1 - chance) / count)
    assert abs(rows["whole video"]["VR-R@10"] - 100 * chance) < 4 * spread
    assert rows["whole video"]["VCMR-R@10,IoU=0.5"] <= rows["whole video"]["VR-R@10"]


def test_an_architecture_without_videos_is_refused(data_dir):
    experiment = Experiment(tiny_config(data_dir))
    with pytest.raises(UserError, match="finds moments in a given video only"):
        protocol_with(Corpus).prepare(Sum(), experiment.dataset.split("val"))


def test_unknown_metric_names_the_nearest():
    options = ConfigDict({**OPTIONS.to_dict(), "select_by": "R@1,IoU=.55"})
    with pytest.raises(
        UserError,
        match='protocol moment_retrieval config.evaluation.select_by is .* Did you mean "R@1,IoU=0.5"',
    ):
        protocols.check_selection(options, MomentRetrieval(options))


@pytest.mark.parametrize(
    "asked,name",
    [
        ("R1@0.5", "R@1,IoU=0.5"),
        ("Rank1@0.5", "R@1,IoU=0.5"),
        ("R@1,IoU=.5", "R@1,IoU=0.5"),
        ("MR-full-R1@0.7", "R@1,IoU=0.7"),
        ("Rank@5, mIoU@0.7", "R@5,IoU=0.7"),
        ("miou", "mIoU"),
        ("MR-full-mAP", "mAP"),
        ("mAP@0.75", "mAP,IoU=0.75"),
        ("HL-min-VeryGood-Hit1", "HL-Hit@1,VeryGood"),
        ("mAP", "mAP"),
    ],
)
def test_a_checkpoint_is_selected_by_what_the_field_calls_the_metric(asked, name):
    options = ConfigDict({**OPTIONS.to_dict(), "select_by": asked, "top_n": (1, 5), "thresholds": (0.5, 0.7)})
    assert protocols.check_selection(options, Highlights(options)) == name
