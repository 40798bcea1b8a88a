"""Scoring prediction files: official numbers of the field, every protocol, and the command itself."""

import json
import pathlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scored import counted, file_of, moments_of, query, split_of

from tests.tiny import tiny_config
from vmr_jax.config import config_as_dict, load_config
from vmr_jax.configs import fvmr, two_d_tan
from vmr_jax.data import didemo
from vmr_jax.data.charades_sta import annotations as charades
from vmr_jax.data.qvhighlights import annotations as qvhighlights
from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as predictions
from vmr_jax.evaluation.prediction_files import Prediction, PredictionFile
from vmr_jax.input import schema
from vmr_jax.input.annotated import annotated_splits
from vmr_jax.input.annotations import Annotations
from vmr_jax.input.dataset import Dataset
from vmr_jax.modes import score

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
CBP = SHARED / "predictions/cbp_charades_predict_proposals_test_nms_0.55.json"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


# --- official numbers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qvhighlights_groups():
    """Ours of Moment-DETR's sample predictions on QVHighlights val."""
    found = Annotations({})
    videos = qvhighlights.read_file(SHARED / "qvhighlights/highlight_val_release.jsonl", {}, found)
    assert not found.dropped and not found.clipped
    queries = [
        (video.id, query(q.qid, *q.windows, saliency=q.saliency)) for video in videos for q in video.queries
    ]
    split = split_of(queries, {video.id: video.duration for video in videos}, "val")
    return counted("qvhighlights", predictions.read(SHARED / "predictions/sample_val_preds.jsonl"), split)


@needs_shared
def test_qvhighlights_is_the_official_evaluation_to_the_last_digit(qvhighlights_groups):
    official = json.loads((SHARED / "predictions/sample_val_preds_metrics_raw.json").read_text())
    expected = {metrics.canonical_name(name): value for name, value in official.pop("brief").items()}
    for group, metric in official.items():
        if group in metrics.LENGTHS:
            for kind, name in (("MR-R1", "R1"), ("MR-mAP", "mAP")):
                for m, value in metric[kind].items():
                    alias = f"MR-{group}-{name}" + (f"@{m}" if m != "average" else "")
                    expected[metrics.canonical_name(alias)] = value
        else:
            for name, value in metric.items():
                expected[metrics.canonical_name(f"{group}-{name.removeprefix('HL-')}")] = value
    ours = metrics.flat(qvhighlights_groups)
    # Four ranges of 10 recalls, 10 mAPs and their mean; three least scores of two. Of ours those are left that
    # moment retrieval counts besides.
    assert len(expected) == 4 * 21 + 3 * 2
    left = {"R@1,IoU=0.3", "R@5,IoU=0.3", "R@5,IoU=0.5", "R@5,IoU=0.7", "mIoU"}
    assert set(ours) == set(expected) | left and not set(expected) & left
    assert {name: f"{ours[name]:.2f}" for name in expected} == {
        name: f"{v:.2f}" for name, v in expected.items()
    }


@pytest.fixture(scope="module")
def charades_rows():
    """(qid, video, start, end) of the official test rows as annotated, and the durations."""
    position, rows = Counter(), []
    for line in (SHARED / "charades_sta/charades_sta_test.txt").read_text(encoding="utf-8").splitlines():
        video, start, end = line.split("##")[0].split()
        rows.append((f"{video}-{position[video]}", video, float(start), float(end)))
        position[video] += 1
    return rows, charades._durations([SHARED / "charades_sta/Charades_v1_test.csv"], Annotations({}))


def charades_metrics(charades_rows, strict, clipped):
    rows, durations = charades_rows
    queries = [
        (video, schema.Query(qid, "a", (start, min(end, durations[video]) if clipped else end)))
        for qid, video, start, end in rows
    ]
    return moments_of(
        predictions.read(CBP),
        split_of(queries, durations),
        top_n=(1,),
        thresholds=(0.3, 0.5, 0.7),
        strict=strict,
    )


@needs_shared
@pytest.mark.parametrize("strict,recalls", [(False, (53.52, 36.45, 18.06)), (True, (53.44, 36.24, 18.01))])
def test_cbp_on_charades(charades_rows, strict, recalls):
    got = charades_metrics(charades_rows, strict, clipped=False)
    assert f"{got['mIoU'] / 100:.8f}" == "0.35697964"
    assert [round(got[f"R@1,IoU={m}"], 2) for m in (0.3, 0.5, 0.7)] == list(recalls)


# --- protocols ------------------------------------------------------------------------------------


def test_moment_retrieval_by_hand():
    split = split_of([("v", query("1", (2.0, 6.0))), ("w", query("2", (0.0, 10.0)))], {"v": 10.0, "w": 20.0})
    found = file_of({"2": [[15, 20, 0.9], [0, 8, 0.1]], "1": [[3, 6, 0.5]]})  # in another order
    # IoUs .75 and 0, then .8 for query 2; discounts .9 and .9 (as in test_metrics).
    assert moments_of(found, split) == pytest.approx(
        {"R@1,IoU=0.5": 50, "R@5,IoU=0.5": 100, "mIoU": 37.5, "dR@1,IoU=0.5": 45, "dR@5,IoU=0.5": 90}
    )


def test_times_are_those_that_were_annotated():
    # Records hold 4.3 as float32, 4.300000191: [0, 4.3] and [0, 8.6] then miss the IoU of .5 by rounding.
    end = float(np.float32(8.6))
    assert end > 8.6
    split = split_of([("v", query("1", (0.0, end)))])
    got = moments_of(file_of({"1": [[0, 4.3, 1]]}), split)
    assert got["R@1,IoU=0.5"] == 100
    assert metrics.iou(np.array([0, 4.3]), np.array([0, end])) < 0.5


def test_predictions_are_not_cut_to_the_video():
    split = split_of([("v", query("1", (0.0, 10.0)))], {"v": 10.0})
    got = moments_of(file_of({"1": [[0, 20, 1]]}), split)
    assert got["mIoU"] == pytest.approx(50)


def didemo_split(*annotated, **fields):
    """Queries 0, 1, ... with annotators' moments in seconds, on a video of 25 s each."""
    queries = [(f"v{i}", query(str(i), *windows, **fields)) for i, windows in enumerate(annotated)]
    return split_of(queries, {f"v{i}": 25.0 for i in range(len(queries))})


SEGMENTS = [[5.0 * i, 5.0 * (j + 1), -i - j / 10] for i in range(6) for j in range(i, 6)]


def test_didemo_by_hand():
    # Ranked (0,0), (0,1), ... (0,5), (1,1), ...: (0,0) is first, (0,4) fifth, (1,1) seventh.
    split = didemo_split(
        [(0, 5), (0, 5), (0, 5), (5, 10)],  # ranks 1, 1, 1: Rank@1; IoU 1
        [(0, 25), (0, 25), (0, 25), (0, 5)],  # ranks 1, 5, 5: mean 11/3, Rank@5; IoU (1 + 1/5 + 1/5) / 3 = 7/15
        [(5, 10), (5, 10), (5, 10), (5, 10)],  # rank 7; IoU 0
    )
    got = counted("didemo", file_of({str(i): SEGMENTS for i in range(3)}), split)["all"]
    expected = {"Rank@1": 100 / 3, "Rank@5": 200 / 3, "mIoU": 100 * (1 + 7 / 15) / 3}
    assert got == pytest.approx(expected)


def test_didemo_needs_every_annotated_segment():
    split = didemo_split([(0, 5)] * 4, [(0, 5)] * 3 + [(5, 10)])
    with pytest.raises(UserError, match="for 1 of 2 queries, such as 1, a segment"):
        counted("didemo", file_of({"0": SEGMENTS[:5], "1": SEGMENTS[:5]}), split)


@pytest.mark.parametrize("moment", [[0, 7, 1], [-5, 5, 1], [5, 5, 1], [25, 35, 1]])
def test_didemo_needs_segments(moment):
    with pytest.raises(UserError, match="query 0 has the moment .* none of the 21 segments"):
        counted("didemo", file_of({"0": [moment]}), didemo_split([(0, 5)] * 4))


def test_tempo_is_the_mean_over_types():
    queries = [
        ("v", query("0", (0.0, 5.0), (0.0, 5.0), (0.0, 5.0), tags=("didemo",))),  # rank 1, IoU 1
        ("v", query("1", (0.0, 5.0), (0.0, 5.0), (0.0, 5.0), tags=("didemo",))),  # rank 1, IoU 1
        ("v", query("2", (25.0, 30.0), (0.0, 5.0), (0.0, 10.0), tags=("then",))),  # ranks 21, 1, 2: mean 8
        ("v", query("3", (0.0, 15.0), (0.0, 15.0), (0.0, 15.0), tags=("then",))),  # rank 3; IoU 1/3
    ]
    found = file_of({str(i): SEGMENTS[:4] for i in range(4)})
    groups = counted("tempo", found, split_of(queries))
    # Query 2: (25,30) is not ranked, 21; IoUs 0, 1, 1/2: mean 1/2.
    then = {"Rank@1": 0, "Rank@3": 50, "Rank@5": 50, "mIoU": 100 * (1 / 2 + 1 / 3) / 2}
    assert groups["didemo"] == dict.fromkeys(then, 100) and groups["then"] == pytest.approx(then)
    assert groups["mean over types"] == pytest.approx({name: (100 + v) / 2 for name, v in then.items()})
    assert list(groups) == ["mean over types", "didemo", "then"]


def tvr_split():
    return split_of(
        [("v", query("1", (0.0, 10.0), tags=("v",))), ("w", query("2", (0.0, 10.0), tags=("vt",)))], name="val"
    )


def tvr_file(**fields):
    """Query 1 finds its moment second, behind another video; query 2 never its video."""
    rows = [
        Prediction("1", np.array([[0.0, 10.0, 0.9], [0.0, 10.0, 0.8]]), np.array([5, 3])),
        Prediction("2", np.array([[0.0, 10.0, 0.9]]), np.array([3])),
    ]
    index = fields.pop("video_index", {"v": 3, "w": 5})
    return PredictionFile(pathlib.Path("FILE"), {"VCMR": rows, "SVMR": rows, "VR": rows}, index)


def test_tvr_by_task_and_type():
    groups = counted("tvr", tvr_file(), tvr_split())
    assert list(groups) == ["all", "v", "vt"]
    for task, first in (("VCMR", 0), ("SVMR", 100)):  # SVMR drops the moment of the other video
        assert groups["v"][f"{task}-R@1,IoU=0.7"] == first and groups["v"][f"{task}-R@5,IoU=0.7"] == 100
        assert groups["all"][f"{task}-R@5,IoU=0.7"] == 50 and groups["vt"][f"{task}-R@100,IoU=0.5"] == 0
    assert groups["v"]["VR-R@1"] == 0 and groups["v"]["VR-R@5"] == 100 and groups["vt"]["VR-R@100"] == 0


def test_moments_in_a_given_video_are_read_from_a_tvr_file():
    got = moments_of(tvr_file(), tvr_split())
    assert got["R@1,IoU=0.5"] == 50 and got["mIoU"] == 50


def test_only_a_hundred_moments_count():
    rows = [[20, 30, 1.0]] * 100 + [[0, 10, 0.5]]
    found = file_of({"1": rows, "2": rows}, task="VCMR", video_index={"v": 3, "w": 5})
    for row, video in zip(found.tasks["VCMR"], (3, 5)):
        row.videos = np.full(101, video)
    assert counted("tvr", found, tvr_split())["all"]["VCMR-R@100,IoU=0.5"] == 0


def test_tvr_needs_its_videos_and_its_task():
    with pytest.raises(UserError, match="video2idx lacks 1 videos of the split val, such as w"):
        counted("tvr", tvr_file(video_index={"v": 3}), tvr_split())
    with pytest.raises(UserError, match="has predictions for VCMR, not for SVMR"):
        moments_of(file_of({"1": [], "2": []}, task="VCMR"), tvr_split())
    with pytest.raises(UserError, match="1 of 2 queries of val have no type, such as 1"):
        typed = query("2", (0.0, 1.0), tags=("v",))
        split = split_of([("v", query("1", (0.0, 1.0))), ("w", typed)], name="val")
        counted("tvr", tvr_file(), split)


def test_highlights_are_scored_for_all_queries_or_none(caplog):
    caplog.set_level("INFO", "vmr_jax")
    saliency = np.full((2, 3), 4)
    split = split_of([("v", query(qid, (0.0, 4.0), saliency=saliency)) for qid in "12"], {"v": 4.0})
    found = file_of({"1": [[0, 4, 1]], "2": [[0, 4, 1]]})
    assert list(counted("qvhighlights", found, split)) == list(metrics.LENGTHS)
    assert "no pred_saliency_scores" in caplog.text
    found.tasks["SVMR"][0].saliency = np.array([0.5, 0.2])
    with pytest.raises(UserError, match="1 of 2 queries have no pred_saliency_scores, such as 2"):
        counted("qvhighlights", found, split)
    found.tasks["SVMR"][1].saliency = np.array([0.1])
    assert counted("qvhighlights", found, split)["Fair"] == {"HL-mAP": 100, "HL-Hit@1": 100}
    bare = split_of([("v", query(qid, (0.0, 4.0))) for qid in "12"])
    with pytest.raises(UserError, match="test has no annotated saliency"):
        counted("qvhighlights", found, bare)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storyboard(data_dir):
    """The tiny storyboard's config, its splits, and a file whose second moment is always right."""
    config = tiny_config(data_dir, evaluation__splits=(), evaluation__strict=False)
    dataset = Dataset(config.dataset, annotations_only=True)

    def rows(name, named):
        split = dataset.split(name)
        return [
            Prediction(
                q.qid,
                np.array([[*q.span, 0.5], [0.0, split.videos[v].duration, 0.4]], np.float64)[::-1],
                split=name if named else "",
            )
            for q, v in zip(split.queries, split.owner)
        ]

    return config, dataset, rows


def test_score_prints_the_table_of_the_split_that_the_file_is_for(storyboard, tmp_path, capsys):
    config, dataset, rows = storyboard
    predictions.write_moment_detr(tmp_path / "p.jsonl", rows("test", named=False))
    score.score(config, tmp_path, str(tmp_path / "p.jsonl"))
    printed = capsys.readouterr().out
    split = dataset.split("test")
    assert f"p.jsonl on test, {len(split.queries)} queries, %" in printed
    figures = {
        line.split()[0]: line.split()[1] for line in printed.splitlines() if line.startswith((" R@", " mI"))
    }
    # The second moment is the annotated one; the first is the whole video, whose IoU is length / duration.
    whole = (split.spans[:, 1] - split.spans[:, 0]) / split.durations
    assert figures["R@5,IoU=0.7"] == "100.00"
    assert figures["mIoU"] == f"{100 * whole.mean():.2f}"
    assert figures["R@1,IoU=0.3"] == f"{100 * (whole >= 0.3).mean():.2f}"
    assert "protocol: moment_retrieval; a hit is IoU >= m" in printed and "NMS: none" in printed


def test_score_takes_the_splits_that_the_rows_name(storyboard, tmp_path, capsys):
    config, _, rows = storyboard
    predictions.write_moment_detr(tmp_path / "p.jsonl", rows("val", True) + rows("test", True))
    score.score(config, tmp_path, str(tmp_path / "p.jsonl"))
    printed = capsys.readouterr().out
    assert "p.jsonl on val," in printed and "p.jsonl on test," in printed
    with config.unlocked():
        config.evaluation.splits = ("test",)
    try:
        score.score(config, tmp_path, str(tmp_path / "p.jsonl"))
        printed = capsys.readouterr().out
        assert "p.jsonl on test," in printed and "on val," not in printed
        predictions.write_moment_detr(tmp_path / "p.jsonl", rows("val", True))
        with pytest.raises(UserError, match=r"has predictions for val; config.evaluation.splits asks for test"):
            score.score(config, tmp_path, str(tmp_path / "p.jsonl"))
    finally:
        with config.unlocked():
            config.evaluation.splits = ()


def test_nothing_is_prepared_to_score_a_file(tmp_path, capsys):
    rows = [
        {
            "annotation_id": i,
            "description": "a dog",
            "video": f"{split}.mov",
            "times": [[0, i]] * 4,
            "num_segments": 6,
        }
        for i, split in enumerate(("train", "val", "test"))
    ]
    for row, name in zip(rows, didemo.annotations.QUERY_FILES.values()):
        (tmp_path / name).write_text(json.dumps([row]))
    predictions.write_moment_detr(tmp_path / "p.jsonl", [Prediction("2", np.array(SEGMENTS))])
    config = fvmr.get_config("didemo")
    config.dataset.manual_dir, config.dataset.data_dir = str(tmp_path), str(tmp_path / "data")
    score.score(config, tmp_path, str(tmp_path / "p.jsonl"), of_run=False)
    # The annotators' [0,15] is third: Rank@5, and IoU 1/3 of [0,5].
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in (["Rank@1", "0.00"], ["Rank@5", "100.00"], ["mIoU", "33.33"]):
        assert line in printed
    assert not (tmp_path / "data").exists()
    with pytest.raises(UserError, match='didemo has no split "tests". Did you mean "test"'):
        annotated_splits(config.dataset).split("tests")


def test_an_annotated_split_is_the_prepared_one(tmp_path):
    windows = [[0.1, 24.3], [30.0, 60.7]]
    rows = [{"video": "v", "query": f"a dog {i}", "duration": 61.23, "windows": windows[i:]} for i in (0, 1)]
    for name in ("train", "test"):
        text = "".join(json.dumps({**row, "video": name}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    config = fvmr.get_config("jsonl")
    config.dataset.manual_dir, config.dataset.data_dir = str(tmp_path), str(tmp_path / "data")
    config.dataset.val_fraction = 0.0
    annotated, prepared = annotated_splits(config.dataset), Dataset(config.dataset, annotations_only=True)
    assert sorted(annotated.split_names) == sorted(prepared.split_names) == ["test", "train"]
    for name in annotated.split_names:
        ours, theirs = annotated.split(name), prepared.split(name)
        assert [(v.id, v.duration) for v in ours.videos] == [(v.id, v.duration) for v in theirs.videos]
        np.testing.assert_array_equal(ours.owner, theirs.owner)
        for a, b in zip(ours.queries, theirs.queries, strict=True):
            assert (a.qid, a.text, a.span, list(a.windows)) == (b.qid, b.text, b.span, list(b.windows))


def test_a_file_with_a_query_missing_is_refused(storyboard, tmp_path):
    config, dataset, rows = storyboard
    predictions.write_moment_detr(tmp_path / "p.jsonl", rows("test", named=False)[1:])
    missing = dataset.split("test").queries[0].qid
    with pytest.raises(UserError, match=rf"split test: 1 of \d+ queries have no prediction: {missing}\."):
        score.score(config, tmp_path, str(tmp_path / "p.jsonl"))


def test_score_needs_a_file_and_a_protocol(storyboard, tmp_path):
    config, _, _ = storyboard
    with pytest.raises(UserError, match="needs --predictions=FILE"):
        score.score(config, tmp_path, None)
    for protocol, near in (("highlight", "highlights"), ("qvhighlights", "highlights"), ("tempo", "consensus")):
        with pytest.raises(UserError, match=f'protocol is "{protocol}". Did you mean "{near}"'):
            score.protocol_of(_config("charades_sta", protocol=protocol), ["evaluation.protocol"])


def _config(dataset, **fields):
    config = fvmr.get_config(dataset)
    config.evaluation.update(fields)
    return config.lock()


@pytest.mark.parametrize(
    "protocol,given,dataset,name",
    [
        ("moment_retrieval", (), "storyboard", "moment_retrieval"),
        ("moment_retrieval", (), "qvhighlights", "highlights"),
        ("moment_retrieval", (), "tvr", "corpus"),
        ("consensus", (), "tempo", "consensus"),
        ("moment_retrieval", ("evaluation.protocol",), "tvr", "moment_retrieval"),  # the command names it
        ("consensus", ("evaluation.protocol",), "charades_sta", "consensus"),
    ],
)
def test_a_dataset_brings_its_protocol(protocol, given, dataset, name):
    assert score.protocol_of(_config(dataset, protocol=protocol), given).name == name


def test_a_run_is_scored_as_it_was_evaluated():
    config = _config("tvr", protocol="moment_retrieval", keep=7, strict=True)
    options = score.protocol_of(config, (), of_run=True).options
    assert (options.protocol, options.keep, options.strict) == ("moment_retrieval", 7, True)
    with pytest.raises(UserError, match=r"config\.evaluation\.nms_threshold cannot be honoured"):
        score.protocol_of(config, ["evaluation.nms_threshold", "evaluation.keep"], of_run=True)


def test_a_setting_that_scoring_does_not_read_is_refused_by_name():
    with pytest.raises(UserError, match=r"^config\.batch_size and config\.model\.hidden cannot be honoured"):
        score.protocol_of(_config("tvr"), ["batch_size", "dataset.manual_dir", "model.hidden"])


def test_a_run_whose_architecture_is_not_at_hand_is_scored(storyboard, tmp_path, capsys):
    config, dataset, rows = storyboard
    stored = {**config_as_dict(config), "model": {"name": "no_such_project.models:Mine", "hidden": 4}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    predictions.write_moment_detr(tmp_path / "p.jsonl", rows("test", named=True))
    with pytest.raises(UserError, match="no_such_project"):
        load_config(tmp_path)
    score.score(load_config(tmp_path, model=False), tmp_path, str(tmp_path / "p.jsonl"))
    assert "p.jsonl on test," in capsys.readouterr().out


@pytest.mark.parametrize(
    "dataset,fields,named",
    [
        ("charades_sta", {"nms_threshold": 0.4, "sanity": ()}, ["nms_threshold", "sanity"]),
        ("charades_sta", {"corpus_top_n": (1,)}, ["corpus_top_n"]),
        ("charades_sta", {"nms_margin": 0.1}, ["nms_margin"]),
        ("didemo", {"thresholds": (0.5,)}, ["thresholds"]),
        ("didemo", {"discounted": True}, ["discounted"]),
        ("qvhighlights", {"strict": True}, ["strict"]),
        ("tvr", {"corpus_videos": 3, "select_by": "VR-R@1"}, ["corpus_videos", "select_by"]),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(dataset, fields, named):
    with pytest.raises(UserError) as error:
        score.protocol_of(_config(dataset, **fields), [f"evaluation.{name}" for name in fields])
    names = " and ".join(f"config.evaluation.{name}" for name in named)
    assert str(error.value).startswith(f"{names} cannot be honoured")


def test_options_are_honoured():
    split = split_of([("v", query("1", (0.0, 10.0)))])
    found = file_of({"1": [[0, 5, 0.9], [0, 10, 0.5]]})  # IoU .5, then 1
    assert moments_of(found, split, top_n=(2,))["R@2,IoU=0.5"] == 100
    assert moments_of(found, split, top_n=(2,), thresholds=(0.6,), keep=1)["R@2,IoU=0.6"] == 0
    assert moments_of(found, split, strict=True)["R@1,IoU=0.5"] == 0
    assert not any(name.startswith("dR@") for name in moments_of(found, split, discounted=False))
    groups = counted("tvr", tvr_file(), tvr_split(), corpus_top_n=(2,), thresholds=(0.3,), strict=True)
    assert {"VR-R@2", "VCMR-R@2,IoU=0.3", "SVMR-R@2,IoU=0.3"} <= set(groups["all"])
    groups = counted(
        "tempo", file_of({"1": SEGMENTS}), split_of([("v", query("1", (0.0, 5.0), tags="t"))]), top_n=(7,)
    )
    assert list(groups["t"]) == ["Rank@7", "mIoU"]
    # The architecture's paper counts IoU > m; the authors of TVR do not.
    config = two_d_tan.get_config("tvr")
    assert config.evaluation.strict and not score.protocol_of(config, ()).options.strict


@needs_shared
@pytest.mark.slow
def test_the_command_scores_cbp_on_charades(charades_rows, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "launch.py", "--mode=score", f"--predictions={CBP}",
            "--config=configs/fvmr.py:charades_sta", f"--config.dataset.manual_dir={SHARED / 'charades_sta'}",
            f"--config.dataset.data_dir={tmp_path}", "--config.evaluation.strict=True",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{CBP.name} on test, 3720 queries, %" in done.stdout and "a hit is IoU > m" in done.stdout
    figures = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith(" R@1")}
    # The records hold moments that are cut to the video, as these are.
    expected = charades_metrics(charades_rows, strict=True, clipped=True)
    assert figures == {name: f"{v:.2f}" for name, v in expected.items() if name.startswith("R@1")}
