"""The protocol 'corpus' ranks the moments of all videos by the dot products of every dual encoder."""

import cases
import jax
import numpy as np
import pytest
from batches import random_batch
from counted import OPTIONS
from ml_collections import ConfigDict
from tiny import tiny_config

from vmr_jax import models
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import Corpus
from vmr_jax.models.base import CorpusRetriever, DualEncoder
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import MomentIndex, query_encoder
from vmr_jax.training.experiment import Experiment, initial_variables

NAMES = [
    name
    for name in models.architectures()
    if issubclass(models.model_class(name), DualEncoder)
    and not issubclass(models.model_class(name), CorpusRetriever)
]
VIDEOS = 6  # rows 6 and 7 of the batch only fill it
BEST = 12  # moments that are asked for


def test_all_dual_encoders_are_tested():
    assert {"fvmr", "mcn", "mmn", "vdi"} <= set(NAMES)


def greedy(videos, spans, scores, threshold):
    """Rows that are kept, best first, where none may overlap a better one of its video by more."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        same = [j for j in kept if videos[j] == videos[i]]
        overlaps = []
        for j in same:
            shared = max(0.0, min(spans[i, 1], spans[j, 1]) - max(spans[i, 0], spans[j, 0]))
            union = (spans[i, 1] - spans[i, 0]) + (spans[j, 1] - spans[j, 0]) - shared
            overlaps.append(shared / union)
        if max(overlaps, default=0.0) <= threshold + 1e-5:
            kept.append(i)
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_it_is_brute_force_and_the_index(name, tmp_path):
    """Video i comes in row i, and the sentence "i" is query i."""
    model = models.create(name, **cases.ALL[name].SMALL)
    batch = random_batch()
    variables = jax.tree.map(lambda p: 4 * p, initial_variables(model, batch, 0))  # scores far apart
    threshold = 0.5
    options = {**OPTIONS.to_dict(), "corpus_videos": 1, "corpus_top_n": (1, BEST), "nms_threshold": threshold}
    protocol = Corpus(ConfigDict(options))
    encoded = jax.jit(lambda v, b: protocol.encode_batch(model, v, b))(variables, batch)
    corpus = jax.tree.map(lambda x: x[:VIDEOS], encoded)
    found = jax.jit(lambda s, b: protocol.search_batch(model, s, b))((variables, corpus), batch)
    found = jax.tree.map(np.asarray, found)

    # All dot products, one by one.
    vectors, spans, mask = (np.asarray(corpus["videos"][name]) for name in ("vectors", "spans", "mask"))
    queries = np.asarray(jax.jit(lambda v, b: model.apply(v, b, method="encode_query"))(variables, batch))
    of_video = np.repeat(np.arange(VIDEOS), mask.sum(1))
    spans = spans[mask]
    for q in range(VIDEOS):
        scores = vectors[mask].astype(np.float64) @ queries[q].astype(np.float64)
        kept = greedy(of_video, spans, scores, threshold)[:BEST]
        scale = np.abs(scores).max()
        np.testing.assert_allclose(found["corpus_scores"][q], scores[kept], rtol=1e-4, atol=1e-5 * scale)
        gaps = np.abs(np.diff(scores[kept], prepend=np.inf, append=-np.inf))
        clear = np.minimum(gaps[:-1], gaps[1:])[: len(kept)] > 1e-4 * scale  # no tie with a neighbour
        assert clear.sum() > 3
        np.testing.assert_array_equal(found["corpus_videos"][q][clear], of_video[kept][clear])
        np.testing.assert_array_equal(found["corpus_spans"][q][clear], spans[kept][clear])
        # A video is as good as its best moment.
        best = np.asarray([scores[of_video == v].max() for v in range(VIDEOS)])
        np.testing.assert_allclose(best[found["ranked_videos"][q]], -np.sort(-best), atol=1e-5 * scale)

    ids = [f"v{i}" for i in range(VIDEOS)]
    parallel = Parallel("pmap", 1)
    encode = query_encoder(
        model, variables, lambda texts: jax.tree.map(lambda x: x[[int(t) for t in texts]], batch), parallel, 2
    )
    index = MomentIndex.build(
        model, variables, [(ids, batch)], path=tmp_path / "index", encode=encode, parallel=parallel,
        nms_threshold=threshold,
    )  # fmt: skip
    for q, answer in enumerate(index.search([str(q) for q in range(VIDEOS)], k=BEST)):
        scores = np.asarray([moment.score for moment in answer])
        scale = np.abs(scores).max()
        np.testing.assert_allclose(found["corpus_scores"][q], scores, rtol=1e-4, atol=1e-4 * scale)
        gaps = np.abs(np.diff(scores, prepend=np.inf, append=-np.inf))
        clear = np.minimum(gaps[:-1], gaps[1:]) > 1e-3 * scale
        ours = [
            (ids[v], *span) for v, span in zip(found["corpus_videos"][q], found["corpus_spans"][q].tolist())
        ]
        theirs = [(moment.video, moment.start, moment.end) for moment in answer]
        assert [m for m, is_clear in zip(ours, clear) if is_clear] == [
            m for m, is_clear in zip(theirs, clear) if is_clear
        ]


def test_a_run_in_the_corpus_is_the_same_on_one_device_and_on_eight(data_dir):
    config = tiny_config(
        data_dir, evaluation__protocol="corpus", evaluation__corpus_top_n=(1, 4), evaluation__batch_size=16,
        evaluation__select_by="VCMR-R@1,IoU=0.5",
    )  # fmt: skip
    found = []
    for devices in (1, 8):
        with config.unlocked():
            config.num_devices = devices
        experiment = Experiment(config)
        variables, loader = experiment.initial_variables(), experiment.loader("val")
        evaluator = Evaluator(config, experiment.model, experiment.parallel)
        found.append(evaluator.run(experiment.parallel.replicate(variables), loader))
    for name, column in found[0].values.items():
        np.testing.assert_array_equal(column, found[1].values[name], err_msg=name)
    assert list(found[0].values) == evaluator.protocol.metric_names()
    # The videos of every query, by the largest dot product with a moment of theirs.
    first = np.unique(loader.split.owner, return_index=True)[1]
    apply = jax.jit(experiment.model.apply, static_argnames="method")
    vectors, _, mask = apply(variables, loader.batch(first), method="encode_moments")
    queries = apply(variables, loader.batch(np.arange(len(loader))), method="encode_query")
    scores = np.where(mask[None], np.einsum("qd,und->qun", queries, vectors), -np.inf).max(-1)
    rank = (scores > scores[np.arange(len(loader)), loader.split.owner][:, None]).sum(1)
    np.testing.assert_array_equal(found[0].values["VR-R@4"], rank < 4)
    assert 0 < (rank < 4).sum() < len(loader)
