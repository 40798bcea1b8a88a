"""MMN's mutual matching, shared with VDI. Expected numbers are derived in comments."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers import map2d
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.models import mmn

E1, E2 = np.float32([1, 0]), np.float32([0, 1])
CANDIDATES = np.array([[True, True], [False, True]])  # cells (0,0), (0,1), (1,1)
SETTINGS = dict(positives=1, margin=0.5, temperature=0.5, negative_iou=0.5, same_iou=0.5, weight=1.0)


def two_clip_batch(spans, videos, real=None):
    """Sentences of videos of two clips of 2 s."""
    rows = len(spans)
    batch = jax.tree.map(lambda x: x[:rows], random_batch(fill=0))
    return dataclasses.replace(
        batch,
        duration=np.full(rows, 4, np.float32),
        span=np.float32(spans),
        video_index=np.int32(videos),
        example_mask=np.ones(rows, bool) if real is None else np.array(real),
    )


def compared(moments, sentences):
    """Outputs whose two spaces are the same."""
    moments, sentences = jnp.float32(moments), jnp.float32(sentences)
    return mmn.match((moments, moments), (sentences, sentences), 10.0)


def losses(matching, batch, **settings):
    overlap = mmn.overlaps(CANDIDATES, batch)
    terms = mmn.contrast_losses(matching, overlap, batch, **{**SETTINGS, **settings})
    return [float(term.value()) for term in terms]


def test_overlaps_and_overlap_loss_by_hand():
    # [0, 3] of 4 s: IoU 2/3 with [0, 2], 3/4 with [0, 4], 1/4 with [2, 4].
    batch = two_clip_batch([[0, 3], [0, 3]], [0, 1], real=[True, False])
    overlap = mmn.overlaps(CANDIDATES, batch)
    np.testing.assert_allclose(overlap[0], [2 / 3, 3 / 4, 1 / 4], rtol=1e-6)
    matching = mmn.Outputs(jnp.float32([[0, 1, -2], [9, 9, 9]]), None, None, None)
    term = mmn.overlap_loss(matching, overlap, batch, 0.5, 1.0)
    # Targets (IoU - 0.5) / 0.5: 1/3, 1/2, 0. Losses: log 2; log(1 + e) - 1/2; log(1 + 1/e^2).
    expected = np.log(2) + np.log(1 + np.e) - 0.5 + np.log(1 + np.exp(-2))
    np.testing.assert_allclose(term.sum, expected, rtol=1e-6)
    assert term.count == 3


def test_contrast_by_hand():
    # Sentence 0 describes cell (0,0), of IoU 1, .5, 0 with the cells; sentence 1 cell (0,1), of IoU .5, 1, .5.
    batch = two_clip_batch([[0, 2], [0, 4]], [0, 1])
    matching = compared([[E1, E2, -E1], [E2, E1, E1]], [E1, E2])
    np.testing.assert_array_equal(matching.contrast, [[1, 0, -1], [1, 0, 0]])
    np.testing.assert_array_equal(matching.iou_logits, [[10, 0, -10], [10, 0, 0]])
    e = np.e
    # Positive pairs: (1 - .5) / .5 = 1 and (0 - .5) / .5 = -1.
    # Moment 0 (E1) with the sentences: 1 and 0 / .5. Moment 1 (E1): 1 / .5 = 2 and -1.
    moment = (np.log(e + 1) - 1 + np.log(e**2 + 1 / e) + 1) / 2
    # Sentence 0 (E1), own video: -1 / .5 for cell (1,1), exp(0) for two cells of IoU >= .5; the other: 0, 2, 2.
    first = np.log(e + e**-2 + 2 + 1 + 2 * e**2) - 1
    # Sentence 1 (E2), own video: exp(0) for three cells; the other: 0, 2, 0.
    second = np.log(1 / e + 3 + 2 + e**2) + 1
    np.testing.assert_allclose(losses(matching, batch), [moment, (first + second) / 2], rtol=1e-5)


def test_k_positives_are_the_best_cells():
    # IoU 1, .5, 0 with cosines 1, 0, -1: the two positives are (1 - .5) / .5 = 1 and (0 - .5) / .5 = -1, and
    # there is no other sentence. Negatives: 2 exp(0) and exp(-2), and the positive itself.
    batch = two_clip_batch([[0, 2]], [0])
    found = losses(compared([[E1, E2, -E1]], [E1]), batch, positives=2)
    negatives = 2 + np.exp(-2)
    sentence = (np.log(np.e + negatives) - 1 + np.log(np.exp(-1) + negatives) + 1) / 2
    np.testing.assert_allclose(found, [0, sentence], rtol=1e-5, atol=1e-6)


def test_sentences_of_one_moment_are_no_negatives():
    # Both describe [0, 2] of one video, so each is left out for the other, and the loss is log(e / e) = 0. With
    # [2, 4] for the second, the first moment (E1) sees the second sentence (E2): log(e + 1) - 1.
    # Likewise the second one: its best cell (1,1) is -E1, so (0 - .5) / .5 = -1 with E2, and E1 gives -2.
    matching = compared([[E1, E2, -E1]], [E1, E2])
    assert losses(matching, two_clip_batch([[0, 2], [0, 2]], [7, 7]))[0] == pytest.approx(0, abs=1e-6)
    apart = losses(matching, two_clip_batch([[0, 2], [2, 4]], [7, 7]))[0]
    expected = (np.log(np.e + 1) - 1 + np.log(np.exp(-1) + np.exp(-2)) + 1) / 2
    np.testing.assert_allclose(apart, expected, rtol=1e-5)


def test_a_video_in_two_groups_counts_once_and_fillers_never():
    spans, cells = [[0, 2], [0, 4], [2, 4]], [[E1, E2, -E1], [E2, E1, E1]]
    sentences = [E1, E2, -E2]
    # Sentences 1 and 2 are of video 1: in one group of rows, or in two.
    twice = compared([cells[0], cells[1], cells[1]], sentences)
    pairs = compared([cells[0], cells[1]], [sentences[0], sentences[0], sentences[1], sentences[2]])
    expected = losses(twice, two_clip_batch(spans, [0, 1, 1]))
    filled = two_clip_batch([spans[0], spans[0], *spans[1:]], [0, 0, 1, 1], real=[True, False, True, True])
    filled = filled.replace(example_index=np.int32([0, -1, 1, 2]))
    np.testing.assert_allclose(losses(pairs, filled), expected, rtol=1e-6)
    # Were video 1 counted twice for sentence 0, its three cells of cosines 0, 1, 1 would come again.
    counted = two_clip_batch(spans, [0, 1, 2])
    assert losses(twice, counted)[1] > expected[1] + 0.1


def test_contrast_of_fillers_alone_is_finite():
    batch = two_clip_batch([[0, 2], [0, 4]], [0, 1], real=[False, False])
    matching = compared([[E1, E2, -E1], [E2, E1, E1]], [E1, E2])

    def total(matching):
        terms = mmn.contrast_losses(matching, mmn.overlaps(CANDIDATES, batch), batch, **SETTINGS)
        return sum(term.sum for term in terms)

    value, gradient = jax.value_and_grad(total)(matching)
    assert value == 0
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


def test_score_ranking_and_map():
    # Halves of 1 + cosine: .25, 1, 0 (a cosine of -1 that rounding has left below); sigmoid(0) = .5,
    # sigmoid(log 3) = .75. Score: .25^.5 * .5 = .25; .75; 0.
    matching = mmn.Outputs(jnp.float32([[0, np.log(3), 5]]), jnp.float32([[-0.5, 1, -1.0000001]]), None, None)
    scores = mmn.product_score(matching, 0.5)
    np.testing.assert_allclose(scores, [[0.25, 0.75, 0]], rtol=1e-6)
    moments = map2d.rank_candidates(scores, CANDIDATES, jnp.float32([4]), 2)
    np.testing.assert_allclose(moments.spans, [[[0, 4], [0, 2]]])
    np.testing.assert_allclose(moments.scores, [[0.75, 0.25]], rtol=1e-6)
    chex.assert_shape(map2d.rank_candidates(scores, CANDIDATES, jnp.float32([4]), 0).spans, (1, 3, 2))
    np.testing.assert_allclose(map2d.score_map(scores, CANDIDATES), [[[0.25, 0.75], [np.nan, 0]]], rtol=1e-6)


def test_joined_vectors_are_the_linear_part_of_the_log_score():
    """At cosines of 0, the derivatives of log score are the factors of the dot product."""

    def log_score(contrast, overlap):
        matching = mmn.Outputs(10 * overlap[None, None], contrast[None, None], None, None)
        return jnp.log(mmn.product_score(matching, 0.3))[0, 0]

    by_contrast, by_overlap = jax.grad(log_score, argnums=(0, 1))(jnp.float32(0), jnp.float32(0))
    rng = np.random.default_rng(0)
    moments, sentences = (rng.normal(size=(2, 4, 3)).astype(np.float32) for _ in range(2))
    joined = mmn.joined_sentence(tuple(sentences), 0.3, 10.0)
    dot = np.einsum("bd,bd->b", joined, np.concatenate(moments, axis=-1))
    overlap, contrast = np.einsum("kbc,kbc->kb", moments, sentences)
    np.testing.assert_allclose(dot, by_overlap * overlap + by_contrast * contrast, rtol=1e-5)


def test_moment_map_is_of_unit_vectors():
    clips = jax.random.normal(jax.random.key(0), (2, 6, 5))
    module = mmn.MomentMap(6, (4, 1), 8, 3, 2, 7)
    real = jnp.array([True, True])
    variables = module.init(jax.random.key(1), clips, real, train=False)
    found = module.apply(variables, clips, real, train=False)
    chex.assert_shape(found, (2, candidate_mask(6, (4, 1)).sum(), 7))
    for vectors in found:
        np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_mistakes_are_named():
    with pytest.raises(UserError, match="7 rows of the batch, which videos with 2 queries"):
        mmn.first_of_video(jnp.zeros((7, 3)), 2)
