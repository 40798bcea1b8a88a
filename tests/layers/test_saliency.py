"""Which clips are relevant, and which pairs of clips are compared."""

import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.saliency import annotated_pairs, random_pairs, relevant_clips


def test_a_clip_is_relevant_if_its_middle_is_in_a_moment():
    # Five clips of 2 s: middles at 1, 3, 5, 7, 9.
    windows = jnp.float32([[[2, 6], [0, 0]], [[3, 7], [8.5, 10]], [[4.1, 4.3], [9, 9.5]]])
    window_mask = np.array([[True, False], [True, True], [True, False]])
    mask = np.array([[True] * 5] * 3)
    found = relevant_clips(windows, window_mask, jnp.full(3, 10.0), mask)
    # [2,6]: 3 and 5. [3,7] and [8.5,10]: 3 and 5, as the end does not count, and 9. [4.1,4.3] has no middle:
    # the clip that holds it, [4,6].
    assert [np.flatnonzero(row).tolist() for row in found] == [[1, 2], [1, 2, 4], [2]]


def test_padded_clips_are_not_relevant():
    # Two real clips of 5 s, two of padding.
    mask = np.array([[True, True, False, False]])
    found = relevant_clips(jnp.float32([[[0, 10]]]), np.ones((1, 1), bool), jnp.full(1, 10.0), mask)
    assert found.tolist() == [[True, True, False, False]]


def test_annotated_pairs_are_a_hard_and_an_easy_one():
    relevant = np.array([[False, True, True, True, False], [True, True, False, False, False], [False] * 5])
    mask = np.array([[True] * 5, [True, True, False, False, False], [True] * 5])
    scores = jnp.float32([[0, 5, 9, 3, 0], [4, 6, 0, 0, 0], [0] * 5])
    draws = jnp.float32([[0.9, 0.2, 0.1, 0.7, 0.3], [0.1, 0.9, 0.5, 0.9, 0.9], [0.5] * 5])
    high, low, real = annotated_pairs(relevant, scores, mask, draws)
    # First query: best clip 2 over worst 3; of the relevant ones 3 has the highest draw, of the others 0.
    # Second: all real clips are relevant, so the hard pair 1 over 0 comes twice. Third: nothing is relevant.
    assert high[:2].tolist() == [[2, 3], [1, 1]] and low[:2].tolist() == [[3, 0], [0, 0]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]


def test_of_equally_salient_clips_the_last_is_the_best_and_the_first_the_worst():
    """As `get_saliency_labels` of jayleicn/moment_detr@b7e553ac3b0c answers, run with these scores."""
    relevant = np.array([[False, True, True, True, True, True, False, False]])
    for scores, best, worst in (
        ([0, 4, 9, 9, 4, 9, 0, 0], 5, 1),
        ([0, 6, 6, 6, 6, 6, 0, 0], 5, 1),
        ([0, 7, 3, 7, 3, 5, 0, 0], 3, 2),
    ):
        everywhere, draws = np.ones((1, 8), bool), np.zeros((1, 8))
        high, low, _ = annotated_pairs(relevant, np.float32([scores]), everywhere, draws)
        assert (high[0, 0], low[0, 0]) == (best, worst)


def test_random_pairs_are_of_a_relevant_and_another_clip():
    relevant = np.array([[False, True, True, True, False], [False, True, False, False, False], [True] * 5])
    mask = np.array([[True] * 5, [True, True, True, False, False], [True] * 5])
    draws = jnp.float32([[0.1, 0.2, 0.9, 0.3, 0.4], [0.3, 0.1, 0.2, 0.9, 0.9], [0.5] * 5])
    high, low, real = random_pairs(relevant, mask, draws)
    # First: the two highest draws of each side. Second: one relevant clip, twice; others are 0 and 2, as 3 and
    # 4 are padding. Third: there is no other clip.
    assert high[:2].tolist() == [[2, 3], [1, 1]] and low[:2].tolist() == [[4, 0], [0, 2]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]
