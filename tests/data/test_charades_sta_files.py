"""Charades-STA: the files that the community distributes."""

import json

import pytest
from charades_files import SHARED, charades_annotations, charades_options, needs_shared, read_records

from vmr_jax.data import charades_sta
from vmr_jax.input.cache import build_feature_store
from vmr_jax.input.features import missing

# --- the real files -------------------------------------------------------------------------------


def _counts(found):
    return {name: (len(v), sum(len(x.queries) for x in v)) for name, v in found.splits.items()}


@needs_shared
def test_official_counts():
    found = charades_annotations(SHARED)
    expected = charades_sta.PUBLISHED_COUNTS
    assert _counts(found) == {name: (c["videos"], c["queries"]) for name, c in expected.items()}
    assert len(found.dropped) == 12408 - expected["train"]["queries"] == 4
    assert all(place.startswith("charades_sta_train.txt:") for place in found.dropped)
    # 1,805 + 562 ends lie after the video's end (README of the data); 3 of those rows are among the dropped.
    assert found.clipped == 1805 + 562 - 3


@needs_shared
def test_validation_takes_training_queries_only():
    whole, split = charades_annotations(SHARED), charades_annotations(SHARED, val_fraction=0.05)
    ids = {name: {v.id for v in videos} for name, videos in split.splits.items()}
    assert not ids["train"] & ids["val"]
    assert ids["train"] | ids["val"] == {v.id for v in whole.splits["train"]}
    assert split.splits["test"] == whole.splits["test"]
    assert len(ids["val"]) == 267  # round(0.05 * 5,338)


@needs_shared
def test_query_names_are_those_of_published_predictions():
    path = SHARED / "../predictions/cbp_charades_predict_proposals_test_nms_0.55.json"
    published = json.loads(path.read_text())["results"]
    found = charades_annotations(SHARED)
    assert {q.qid for video in found.splits["test"] for q in video.queries} == set(published)


@needs_shared
def test_clip_split_and_its_extra_queries():
    found = charades_annotations(
        SHARED, split_file="clip_subset_splits.json", extra_queries="action_queries.jsonl"
    )
    official = [q for videos in found.splits.values() for v in videos for q in v.queries if "-x" not in q.qid]
    assert len(official) == 2412 + 357 + 951
    counts = _counts(found)
    assert (counts["val"], counts["test"]) == ((126, 357), (350, 951))
    assert counts["train"] == (858, 2412 + found.counts["extra training queries used"])
    # All rows of the jsonl have one window.
    assert sum(found.counts.values()) == 13308
    reader = charades_sta.features(charades_options(SHARED, "unused", features="clip_vit_b32_1fps"))
    assert not missing(reader, [v.id for videos in found.splits.values() for v in videos])
    assert len(reader.ids) == 1334


@needs_shared
@pytest.mark.slow
def test_official_records_and_features(tmp_path):
    options = charades_options(
        SHARED, tmp_path, val_fraction=0.05, features="clip_vit_b32_1fps", feature_dim=512
    )
    builder = charades_sta.prepare(options)
    records = {split: read_records(builder, split) for split in builder.info.splits}
    counts = {split: sum(len(r["queries"]["qid"]) for r in rows) for split, rows in records.items()}
    assert counts["train"] + counts["val"] == 12404 and counts["test"] == 3720
    qids = [q for rows in records.values() for r in rows for q in r["queries"]["qid"]]
    assert len(set(qids)) == len(qids)
    store = build_feature_store(
        charades_sta.features(options),
        [r["video"].decode() for r in records["test"]],
        512,
        tmp_path / "features",
        num_clips=256,
        normalize=True,
    )
    lengths = [len(store[video_id]) for video_id in store]
    assert (len(lengths), min(lengths), max(lengths)) == (1334, 8, 73)  # README of the data
