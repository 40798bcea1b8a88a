"""Labels of a moment as a pair of clips, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.span import highlight_labels, span_labels


def test_labels_are_the_pair_of_highest_iou():
    # Five clips of 2 s; [3, 7] has IoU 4/6 with clips 1..3 = [2, 8], 3/5 with 1..2 and 2..3, 2/4 with 2.
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    # Three real clips of 2 s, two of padding; [0, 1] has IoU 1/2 with clip 0, and less with any other.
    first, last = span_labels(jnp.float32([[3, 7], [0, 1]]), jnp.float32([10, 6]), mask)
    assert (first.tolist(), last.tolist()) == ([1, 0], [3, 0])


def test_a_moment_across_a_boundary_takes_both_clips():
    # Two clips of 2 s, two of padding. [1, 3] has IoU 2/4 with both, 1/3 with either; [1.5, 2.5] has 1/4 with
    # both and .5/2.5 with either.
    mask = np.array([[True, True, False, False]] * 2)
    first, last = span_labels(jnp.float32([[1, 3], [1.5, 2.5]]), jnp.float32([4, 4]), mask)
    assert (first.tolist(), last.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize(
    "first,last,expected",
    [
        (4, 8, (4, 8)),  # 5 clips: round(0.5) = 0, halves to even
        (2, 16, (0, 18)),  # 15 clips: round(1.5) = 2
        (0, 9, (0, 10)),  # 10 clips: 1 on each side, cut at the start
        (14, 19, (13, 19)),  # 6 clips: round(0.6) = 1, cut at the end
    ],
)
def test_highlight_goes_a_tenth_beyond_the_moment(first, last, expected):
    mask = np.ones((1, 20), bool)
    inside = highlight_labels(jnp.array([first]), jnp.array([last]), mask, 0.1)[0]
    assert np.flatnonzero(inside).tolist() == list(range(expected[0], expected[1] + 1))
