"""Metrics against cases worked out by hand."""

import json
import pathlib
from collections import Counter

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics

SHARED = pathlib.Path(__file__).resolve().parents[2] / "../shared/data"


def test_recall_and_miou_by_hand():
    # Query 1, truth [0,10]: moments [0,5] (IoU 5/10 = .5), [0,9] (.9).
    # Query 2, truth [10,20]: moments [12,20] (8/10 = .8), [0,5] (0).
    # Query 3, truth [0,4]: moments [4,8] (0), [1,4] (3/4 = .75).
    spans = np.array([[[0, 5], [0, 9]], [[12, 20], [0, 5]], [[4, 8], [1, 4]]], float)
    truth = np.array([[0, 10], [10, 20], [0, 4]], float)
    ious = metrics.ranked_iou(spans, np.zeros((3, 2)), truth)
    np.testing.assert_allclose(ious, [[0.5, 0.9], [0.8, 0.0], [0.0, 0.75]])
    got = metrics.retrieval_metrics(ious, (1, 5), (0.5, 0.7), strict=False)
    # R@1,.5: queries 1 and 2 of 3; strict: only query 2. R@1,.7: query 2. R@5: .9, .8, .75 all reach .7.
    assert got == pytest.approx(
        {
            "R@1,IoU=0.5": 200 / 3,
            "R@1,IoU=0.7": 100 / 3,
            "R@5,IoU=0.5": 100.0,
            "R@5,IoU=0.7": 100.0,
            "mIoU": 100 * (0.5 + 0.8 + 0.0) / 3,
        }
    )
    strict = metrics.retrieval_metrics(ious, (1,), (0.5,), strict=True)
    assert strict["R@1,IoU=0.5"] == pytest.approx(100 / 3)


def test_absent_moments_never_count():
    # The second place is empty (-inf); its span would have hit.
    ious = metrics.ranked_iou(
        np.array([[[5.0, 6.0], [0.0, 1.0]]]), np.array([[1.0, -np.inf]]), np.array([[0.0, 1.0]])
    )
    np.testing.assert_array_equal(ious, [[0.0, 0.0]])


def test_empty_group_is_nan_not_zero():
    assert np.isnan(metrics.retrieval_metrics(np.zeros((0, 5)), (1,), (0.5,), False)["mIoU"])


def test_names_are_the_fields():
    assert metrics.recall_name(5, 0.7) == "R@5,IoU=0.7"
    assert metrics.recall_name(1, 0.30) == "R@1,IoU=0.3"


def test_an_iou_is_rounded_as_in_the_official_evaluators():
    # [2.3,6.6] and [2.5,10.5]: 4.1 s of 8.2 s. Over the hull that is .5; over lengths that are added and
    # subtracted it would be .4999999999999999, and CBP's published R@1,IoU=0.5 one query less.
    found = metrics.iou(np.array([2.3, 6.6]), np.array([2.5, 10.5]))
    assert metrics.hit(found, 0.5, strict=False) and not metrics.hit(found, 0.5, strict=True)
    assert metrics.iou(np.zeros(2), np.zeros(2)) == 0


# --- discounted recall ----------------------------------------------------------------------------


def test_discounted_recall_by_hand():
    # Query 1, 10 s, truth [2,6]: [3,6] has IoU 3/4 and counts (1 - 1/10) (1 - 0) = .9.
    # Query 2, 20 s, truth [0,10]: [15,20] misses; [0,8], IoU .8, counts 1 - 2/20 = .9; [0,10] comes later.
    spans = np.array([[[3, 6], [0, 1], [2, 6]], [[15, 20], [0, 8], [0, 10]]], float)
    truth, durations = np.array([[2, 6], [0, 10]], float), np.array([10.0, 20.0])
    ious = metrics.ranked_iou(spans, np.zeros((2, 3)), truth)
    got = metrics.discounted_recall(spans, ious, truth, durations, (1, 5), (0.5, 0.75), strict=False)
    assert got == pytest.approx(
        {"dR@1,IoU=0.5": 45.0, "dR@1,IoU=0.75": 45.0, "dR@5,IoU=0.5": 90.0, "dR@5,IoU=0.75": 90.0}
    )
    strict = metrics.discounted_recall(spans, ious, truth, durations, (1, 5), (0.75,), strict=True)
    # [3,6] no more hits; query 1 takes its third moment, which counts 1: (1 + .9) / 2.
    assert strict == pytest.approx({"dR@1,IoU=0.75": 0.0, "dR@5,IoU=0.75": 95.0})


def test_an_error_longer_than_the_video_counts_nothing():
    # 10 s, truth [0,10], moment [0,25]: IoU .4 hits .3; its end is 15 s off, which counts as 10: 1 - 10/10 = 0.
    spans, truth = np.array([[[0.0, 25.0]]]), np.array([[0.0, 10.0]])
    got = metrics.discounted_recall(
        spans, metrics.ranked_iou(spans, np.zeros((1, 1)), truth), truth, np.array([10.0]), (1,), (0.3,), False
    )
    assert got == {"dR@1,IoU=0.3": 0.0}


# --- DiDeMo, TEMPO --------------------------------------------------------------------------------

RANKING = [(1, 1), (0, 0), (0, 1), (2, 2), (3, 3), (4, 4)]


def test_consensus_of_annotators_by_hand():
    annotated = [
        # Ranks 1, 1, 1, 2: the best three have mean 1. IoUs with (1,1): 1, 1, 1, 0: mean of the best three 1.
        [(1, 1), (1, 1), (1, 1), (0, 0)],
        # Ranks 2, 3, 3 and 21, as (5,5) is not ranked: mean 8/3. IoUs 0, 1/2, 1/2, 0: mean of the best 1/3.
        [(0, 0), (0, 1), (0, 1), (5, 5)],
        # Three annotators, as in TEMPO: ranks 1, 21, 2, mean 8. IoUs 1, 0, 0: mean 1/3.
        [(1, 1), (5, 5), (0, 0), (-1, -1)],
        # Ranks 5, 5, 5, 5: mean 5 is still Rank@5. IoU 0.
        [(3, 3)] * 4,
        # Rank 6, one too many. IoU 0.
        [(4, 4)] * 4,
    ]
    values = metrics.segment_values(np.array([RANKING] * 5), np.array(annotated))
    np.testing.assert_array_equal(values["Rank@1"], [True, False, False, False, False])
    np.testing.assert_array_equal(values["Rank@5"], [True, True, False, True, False])
    np.testing.assert_allclose(values["mIoU"], [1, 1 / 3, 1 / 3, 0, 0])


def test_mean_over_types_does_not_weigh_them():
    values = {"Rank@1": np.array([True, False, False, True])}
    types = ["before", "before", "before", "then"]
    # before 1/3, then 1/1: mean over types 2/3, over queries 1/2.
    over_types = metrics.mean_over_types(values, types)
    assert over_types["mean over types"]["Rank@1"] == pytest.approx(200 / 3)
    assert over_types["before"]["Rank@1"] == pytest.approx(100 / 3) and over_types["then"]["Rank@1"] == 100
    assert metrics.mean_by_type(values, types)["all"]["Rank@1"] == 50
    assert list(metrics.mean_by_type(values, types)) == ["all", "before", "then"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_didemo_frequency_prior():
    # LocalizingMoments prints for moments ranked by their frequency in train: .186842, .686842, .252216. The
    # train file is not here. Ranked by their frequency in val the first and the last are the same, as both
    # depend on the first moment alone; with (5,5) moved before (4,4), so is the second. That this is the order
    # of train is an inference: of the 120 orders of the five moments after (0,0) it alone gives that number.
    queries = json.loads((SHARED / "didemo/val_data.json").read_text())
    count = Counter(tuple(moment) for query in queries for moment in query["times"])
    prior = sorted(count, key=lambda moment: -count[moment])
    assert prior[:6] == [(i, i) for i in range(6)]
    prior[4:6] = [(5, 5), (4, 4)]
    most = max(len(query["times"]) for query in queries)
    annotated = np.array([query["times"] + [[-1, -1]] * (most - len(query["times"])) for query in queries])
    values = metrics.segment_values(np.broadcast_to(np.array(prior), (len(queries), len(prior), 2)), annotated)
    got = metrics.mean_by_type(values)["all"]
    printed = [f"{got[name] / 100:.6f}" for name in ("Rank@1", "Rank@5", "mIoU")]
    assert printed == ["0.186842", "0.686842", "0.252216"]


# --- TVR ------------------------------------------------------------------------------------------


def test_corpus_retrieval_by_hand():
    # Query 1, truth [0,10]: a wrong video first, then the right one with IoU 1.
    # Query 2, truth [0,10]: the right video with IoU .5, then with IoU .9.
    # Query 3: never the right video.
    right = np.array([[False, True, False], [True, True, False], [False, False, False]])
    spans = np.array(
        [[[0, 10], [0, 10], [0, 10]], [[0, 5], [0, 9], [0, 0]], [[0, 10], [0, 10], [0, 10]]], float
    )
    windows = np.array([[[0, 10]]] * 3, float)
    values = {}
    for task in metrics.TASKS:
        values |= metrics.corpus_values(task, right, spans, windows, top_n=(1, 5))
    expected = {
        "VCMR-R@1,IoU=0.5": [0, 1, 0],
        "VCMR-R@5,IoU=0.5": [1, 1, 0],
        "VCMR-R@1,IoU=0.7": [0, 0, 0],
        "VCMR-R@5,IoU=0.7": [1, 1, 0],
        "SVMR-R@1,IoU=0.5": [1, 1, 0],
        "SVMR-R@5,IoU=0.5": [1, 1, 0],
        "SVMR-R@1,IoU=0.7": [1, 0, 0],
        "SVMR-R@5,IoU=0.7": [1, 1, 0],
        "VR-R@1": [0, 1, 0],
        "VR-R@5": [1, 1, 0],
    }
    assert {name: value.astype(int).tolist() for name, value in values.items()} == expected


def test_of_four_annotated_moments_two_must_be_met():
    right, spans = np.array([[True], [True]]), np.array([[[0.0, 10.0]]] * 2)
    # Four annotators: IoU 1 with one of them, then with two. Three annotators (not DiDeMo): one is enough.
    four = np.array([[[0, 10], [20, 25], [20, 25], [20, 25]], [[0, 10], [0, 10], [20, 25], [20, 25]]], float)
    hits = metrics.corpus_values("VCMR", right, spans, four, (1,), (0.5,))["VCMR-R@1,IoU=0.5"]
    np.testing.assert_array_equal(hits, [False, True])
    four[0, 3] = 0  # padding
    hits = metrics.corpus_values("VCMR", right, spans, four, (1,), (0.5,))["VCMR-R@1,IoU=0.5"]
    np.testing.assert_array_equal(hits, [True, True])


def test_corpus_ties_are_decided_in_float32():
    # In decimals both IoUs are .5. In float32 the first is .49999985 and the second .5; in float64 only the
    # first comes out at .5 or above.
    spans = np.array([[[13.67, 16.98]], [[26.74, 27.33]]])
    windows = np.array([[[13.67, 20.29]], [[26.74, 27.92]]])
    hits = metrics.corpus_values("VCMR", np.ones((2, 1), bool), spans, windows, (1,), (0.5,))[
        "VCMR-R@1,IoU=0.5"
    ]
    np.testing.assert_array_equal(hits, [False, True])
    np.testing.assert_array_equal(metrics.iou(spans, windows)[:, 0] >= 0.5, [True, False])


# --- QVHighlights ---------------------------------------------------------------------------------


def test_detection_by_hand():
    # Annotated [0,10] (short: 10 s is still in (0,10]) and [20,40] (middle). Moments in order of score:
    # [20,40] IoU 1 with the second; [0,5] IoU .5 with the first; [0,10] IoU 1 with the first; an absent one.
    windows = np.array([[[0, 10], [20, 40]]], float)
    spans = np.array([[[20, 40], [0, 5], [0, 10], [0, 10]]], float)
    scores = np.array([[0.9, 0.8, 0.7, -np.inf]])
    groups = metrics.detection_metrics(spans, scores, windows)
    full, short, middle = groups["full"], groups["short"], groups["middle"]
    assert full["R@1,IoU=0.95"] == 100 and short["R@1,IoU=0.5"] == 0 and middle["R@1,IoU=0.5"] == 100
    # At .5 the first two moments match: AP 1. From .55 on the second fails and the third matches: precision 1
    # at recall 1/2 and 2/3 at recall 1, AP (1 + 2/3) / 2 = 5/6. Mean over ten: (1 + 9 * 5/6) / 10 = .85.
    assert full["mAP,IoU=0.5"] == pytest.approx(100) and full["mAP,IoU=0.55"] == pytest.approx(500 / 6)
    assert full["mAP"] == pytest.approx(85)
    # Short: the second moment of three is right at .5 (precision 1/2), the third from .55 on (1/3).
    assert short["mAP,IoU=0.5"] == pytest.approx(50) and short["mAP,IoU=0.95"] == pytest.approx(100 / 3)
    assert short["mAP"] == pytest.approx((50 + 9 * 100 / 3) / 10)
    assert middle["mAP"] == pytest.approx(100)
    assert np.isnan(groups["long"]["mAP"]) and np.isnan(groups["long"]["R@1,IoU=0.5"])


def test_detection_takes_the_first_of_the_file_and_sorts_for_ap():
    # The better-scored moment stands second: R@1 looks at the first, AP at the order of scores.
    windows, spans = np.array([[[0, 10]]], float), np.array([[[50, 60], [0, 10]]], float)
    full = metrics.detection_metrics(spans, np.array([[0.1, 0.9]]), windows)["full"]
    assert full["R@1,IoU=0.5"] == 0 and full["mAP"] == pytest.approx(100)
    # Only the first moment of the file counts where keep=1.
    assert metrics.detection_metrics(spans, np.array([[0.1, 0.9]]), windows, keep=1)["full"]["mAP"] == 0


def test_ties_are_rounded_as_in_the_official_evaluator():
    # [1.8,8.1] and [2,14]: 6.1 s of 12.2 s. The official R@1 divides by the hull and gets .5, its mAP by
    # lengths that are added and subtracted and gets .49999999999999994.
    full = metrics.detection_metrics(np.array([[[1.8, 8.1]]]), np.ones((1, 1)), np.array([[[2.0, 14.0]]]))[
        "full"
    ]
    assert full["R@1,IoU=0.5"] == 100 and full["mAP,IoU=0.5"] == 0


def test_of_equally_near_moments_the_last_is_taken():
    # [1,11] meets [0,10] and [2,12] alike, 9/11. It takes the second, so that [0,10] still finds the first at
    # .8: AP 1. Had it taken the first, [0,10] would have met [2,12] at 8/12 and missed.
    spans, windows = np.array([[[1.0, 11.0], [0.0, 10.0]]]), np.array([[[0.0, 10.0], [2.0, 12.0]]])
    full = metrics.detection_metrics(spans, np.array([[0.9, 0.8]]), windows)["full"]
    assert full["mAP,IoU=0.8"] == pytest.approx(100)


def test_the_envelope_lifts_precision_to_what_follows():
    # Two annotated moments; of three predictions the last two are right: precisions 0, 1/2, 2/3. That at recall
    # 1/2 is lifted to 2/3: AP = 2/3.
    windows = np.array([[[0, 10], [20, 30]]], float)
    spans = np.array([[[50, 60], [0, 10], [20, 30]]], float)
    full = metrics.detection_metrics(spans, np.array([[0.9, 0.8, 0.7]]), windows)["full"]
    assert full["mAP"] == pytest.approx(200 / 3)


def test_a_query_without_a_moment_counts_zero():
    windows = np.array([[[0, 10]], [[0, 10]]], float)
    scores = np.array([[1.0], [-np.inf]])
    full = metrics.detection_metrics(np.array([[[0.0, 10.0]]] * 2), scores, windows)["full"]
    assert full["R@1,IoU=0.5"] == 50 and full["mAP"] == pytest.approx(50)


def test_highlights_by_hand():
    # Scores .9, .8, .8, .1. Annotator 1 marks clips 0 and 2: after clip 0 precision 1; clips 1 and 2 are tied,
    # after both 2/3: AP (1 + 2/3) / 2 = 5/6. Annotator 2 marks none: 0. Annotator 3 marks all: 1. Mean 11/18.
    saliency = np.array([[[4, 1, 4], [0, 1, 4], [4, 1, 4], [0, 1, 4]]])
    groups = metrics.highlight_metrics(np.array([[0.9, 0.8, 0.8, 0.1]]), saliency, np.array([4]))
    assert groups["VeryGood"] == pytest.approx({"HL-mAP": 1100 / 18, "HL-Hit@1": 100})
    # With 3 and 2 as the least score the marks are the same; 1 is less than Fair.
    assert groups["Fair"] == groups["Good"] == groups["VeryGood"]


def test_highlight_precision_is_the_best_at_that_recall_or_higher():
    # Marks on the second and third of three: precisions 0, 1/2, 2/3; both recall levels get 2/3.
    saliency = np.repeat(np.array([[0, 4, 4]])[..., None], 3, axis=-1)
    groups = metrics.highlight_metrics(np.array([[3.0, 2.0, 1.0]]), saliency, np.array([3]))
    assert groups["VeryGood"] == pytest.approx({"HL-mAP": 200 / 3, "HL-Hit@1": 0})


def test_scores_are_cut_or_filled_to_the_clips_of_the_video():
    saliency = np.full((3, 3, 3), -1)
    saliency[0, 0], saliency[1, 2], saliency[2, 2] = 4, 4, 4
    clips = np.array([2, 3, 3])
    # Query 1 has 2 clips and 3 scores, the best of them past the end: no hit; cut, clip 0 is best: AP 1.
    # Query 2 has 3 clips and 1 score, -1; the others get 0 and tie: AP 1/2; but Hit@1 looks at what was given.
    # Query 3 has 3 clips and 4 scores, the best of them past the end: no hit; cut, the last clip is best: AP 1.
    none = -np.inf
    predicted = np.array([[0.5, 0.1, 0.9, none], [-1.0, none, none, none], [0.1, 0.2, 0.3, 0.9]])
    groups = metrics.highlight_metrics(predicted, saliency, clips)
    assert groups["VeryGood"] == pytest.approx({"HL-mAP": 250 / 3, "HL-Hit@1": 0})


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alias,name",
    [
        ("Rank1@0.5", "R@1,IoU=0.5"),
        ("Rank@1,mIoU@0.5", "R@1,IoU=0.5"),
        ("R@1,IoU@0.5", "R@1,IoU=0.5"),
        ("R@1,IoU=0.50", "R@1,IoU=0.5"),
        ("Rank@1, IoU=0.3", "R@1,IoU=0.3"),
        ("R1-0.5", "R@1,IoU=0.5"),
        ("R1@0.5", "R@1,IoU=0.5"),
        ("r5@.7", "R@5,IoU=0.7"),
        ("Recall@Top5_IoU=0.7", "R@5,IoU=0.7"),
        ("MR-full-R1@0.5", "R@1,IoU=0.5"),
        ("MR-short-R1@0.55", "R@1,IoU=0.55,short"),
        ("dR@1,IoU@0.7", "dR@1,IoU=0.7"),
        ("Acc@0.5", "R@1,IoU=0.5"),
        ("0.5-r100", "R@100,IoU=0.5"),
        ("vt-0.7-r1", "R@1,IoU=0.7,vt"),
        ("VCMR-0.7-r1", "VCMR-R@1,IoU=0.7"),
        ("VR-r10", "VR-R@10"),
        ("VR-t-r10", "VR-R@10,t"),
        ("Rank@5", "Rank@5"),
        ("Rank1", "Rank@1"),
        ("mean IoU", "mIoU"),
        ("miou", "mIoU"),
        ("MR-full-mAP", "mAP"),
        ("MR-full-mAP@0.75", "mAP,IoU=0.75"),
        ("MR-middle-mAP", "mAP,middle"),
        ("HL-min-VeryGood-mAP", "HL-mAP,VeryGood"),
        ("HL-min-Fair-Hit1", "HL-Hit@1,Fair"),
    ],
)
def test_canonical_names(alias, name):
    assert metrics.canonical_name(alias) == name
    assert metrics.canonical_name(name) == name


@pytest.mark.parametrize("alias", ["R@1", "mAP@half", "MR-tiny-mAP", "IoU", "", "R@1,IoU=5"])
def test_other_names_are_refused(alias):
    with pytest.raises(UserError, match="There is no metric of the field"):
        metrics.canonical_name(alias)


def test_flat_names_are_canonical():
    windows, spans = np.array([[[0.0, 10.0]]]), np.array([[[0.0, 10.0]]])
    groups = metrics.detection_metrics(spans, np.ones((1, 1)), windows)
    groups |= metrics.highlight_metrics(np.ones((1, 1)), np.ones((1, 1, 3)), np.ones(1, int))
    names = list(metrics.flat(groups))
    # Four groups of 10 recalls and 11 mAPs, three of two.
    assert len(set(names)) == 4 * 21 + 3 * 2
    for task in metrics.TASKS:
        names += metrics.corpus_values(task, np.ones((1, 1), bool), spans, windows)
    assert [metrics.canonical_name(name) for name in names] == names
    assert {"mAP", "mAP,short", "HL-mAP,VeryGood", "R@1,IoU=0.5", "VCMR-R@100,IoU=0.7", "VR-R@1"} <= set(names)
