"""Submissions: what the servers of the datasets ask for, of moments that were made up."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from made_up import collected_for, options_of, split_for

from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation import submission
from vmr_jax.evaluation.protocols import make_protocol


def written_for(case, name="test"):
    """A split and what its protocol has of it; no annotated moment, the ids whole numbers."""
    rng = np.random.default_rng(0)
    protocol, split = make_protocol(options_of(case)), split_for(case, rng)
    collected = collected_for(case, protocol, split, rng)
    queries = [
        dataclasses.replace(query, qid=str(i), windows=(), saliency=None)
        for i, query in enumerate(split.queries)
    ]
    split = dataclasses.replace(split, name=name, queries=queries)
    return split, protocol.as_written(split, collected)


def test_qvhighlights_has_its_names_its_keys_and_a_flat_zip(tmp_path):
    for name in ("test", "val"):
        split, written = written_for("highlights", name)
        path = submission.write_split(tmp_path, "qvhighlights", split, written)
        assert path.name == f"hl_{name}_submission.jsonl"
        if name == "test":
            assert submission.pack(tmp_path, "qvhighlights") == (None, ["hl_val_submission.jsonl"])
    packed, missing = submission.pack(tmp_path, "qvhighlights")
    assert packed.name == "submission.zip" and missing == []
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["hl_val_submission.jsonl", "hl_test_submission.jsonl"]
        assert archive.read("hl_val_submission.jsonl") == path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["qid"] for row in rows] == list(range(len(split.queries)))  # numbers, as the evaluator compares
    for i, row in enumerate(rows):
        assert list(row) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
        duration = split.durations[i]
        assert len(row["pred_saliency_scores"]) == int(duration // 2)
        scores = [window[2] for window in row["pred_relevant_windows"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == np.isfinite(written["scores"][i, 0]).sum()
        for start, end, _ in row["pred_relevant_windows"]:
            assert 0 <= start <= end <= round(float(duration), 3)


def test_other_datasets_have_moment_detrs_lines(tmp_path):
    split, written = written_for("moment_retrieval", "test_far")
    path = submission.write_split(tmp_path, "charades_sta", split, written)
    assert path.name == "charades_sta_test_far_submission.jsonl"
    for row, query in zip(files.read(path).tasks["SVMR"], split.queries, strict=True):
        assert (row.qid, row.query, row.saliency) == (query.qid, query.text, None)
    assert submission.pack(tmp_path, "charades_sta") == (None, [])


def test_tvr_numbers_its_videos_and_hides_those_of_the_public_test(tmp_path):
    numbers = {f"v{i}": 100 + i for i in range(20)}
    for name, tasks in (("val", ["VCMR", "SVMR", "VR"]), ("test_public", ["VCMR", "VR"])):
        split, written = written_for("corpus", name)
        path = submission.write_split(tmp_path, "tvr", split, written, numbers, own=name == "val")
        assert path.name == f"tvr_{name}_submission.json"
        document = json.loads(path.read_text())
        assert document["video2idx"] == numbers and sorted(document) == sorted(["video2idx", *tasks])
        for task in tasks:
            assert [row["desc_id"] for row in document[task]] == list(range(len(split.queries)))
        moments, ranked = written["extra"]["pred_corpus_windows"][0], written["extra"]["pred_videos"][0]
        assert document["VCMR"][0]["predictions"] == [[numbers[v], *rest] for v, *rest in moments]
        assert document["VR"][0]["predictions"] == [[numbers[v], 0, 0, -k] for k, v in enumerate(ranked)]
    assert submission.pack(tmp_path, "tvr")[0] == tmp_path / "submission.zip"


def test_tvr_needs_moments_of_the_corpus(tmp_path):
    split, written = written_for("moment_retrieval", "val")
    with pytest.raises(UserError, match="protocol='corpus'"):
        submission.write_split(tmp_path, "tvr", split, written, {})
