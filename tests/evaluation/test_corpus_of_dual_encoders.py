"""The protocol 'corpus' ranks the moments of all videos by the dot products of every dual encoder."""

import cases
import jax
import numpy as np
import pytest
from batches import random_batch
from ml_collections import ConfigDict
from test_evaluate import OPTIONS

from vmr_jax import models
from vmr_jax.evaluation.protocols import Corpus
from vmr_jax.models.base import CorpusRetriever, DualEncoder
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import MomentIndex, query_encoder
from vmr_jax.training.experiment import initial_variables

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
    vectors, spans, mask = (np.asarray(x)[:VIDEOS] for x in corpus["videos"].values())
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
