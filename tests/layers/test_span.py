"""Labels of a moment as a pair of clips, by hand."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.span import explain_pairs, highlight_labels, rank_pairs, soft_cross_entropy, span_labels
from vmr_jax.models import create
from vmr_jax.types import Batch


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


def test_neighbours_have_a_share_of_a_soft_label():
    # Of logits log 1, log 2, log 5 the errors are log 8, log 4 and log 8/5. The clip has what the neighbours
    # leave it: of the middle a half, at the border three quarters, and where the third clip is padding too
    # (errors log 3 and log 3/2 then).
    logits = jnp.log(jnp.float32([[1.0, 2.0, 5.0]] * 3)).at[2, 2].set(MASKED)
    mask = jnp.asarray([[True, True, True], [True, True, True], [True, True, False]])
    errors = jax.jit(soft_cross_entropy, static_argnums=3)(logits, jnp.asarray([1, 0, 1]), mask, 0.25)
    log = np.log
    expected = [
        0.5 * log(4) + 0.25 * log(8) + 0.25 * log(8 / 5),
        0.75 * log(8) + 0.25 * log(4),
        0.75 * log(3 / 2) + 0.25 * log(3),
    ]
    np.testing.assert_allclose(errors, expected, rtol=1e-6)
    hard = jax.jit(soft_cross_entropy, static_argnums=3)(logits, jnp.asarray([1, 0, 1]), mask, 0.0)
    np.testing.assert_allclose(hard, [log(4), log(8), log(3 / 2)], rtol=1e-6)


def test_the_whole_video_is_the_best_pair_of_independent_ends_unless_moments_are_shorter():
    # Start .4 .35 .25, end .2 .3 .5: the whole video has .4 * .5 = .2, more than any other pair. Of at most two
    # clips, (1,2) has .175, (2,2) .125, (0,1) .12, (1,1) .105 and (0,0) .08.
    start, end = jnp.log(jnp.float32([[0.4, 0.35, 0.25]])), jnp.log(jnp.float32([[0.2, 0.3, 0.5]]))
    mask, duration = jnp.ones((1, 3), bool), jnp.float32([6.0])
    any_length = rank_pairs(start, end, duration, mask, 1)
    assert any_length.spans[0, 0].tolist() == [0, 6] and float(any_length.scores[0, 0]) == pytest.approx(0.2)
    short = rank_pairs(start, end, duration, mask, 0, 2 / 3)
    np.testing.assert_allclose(short.scores[0, :5], [0.175, 0.125, 0.12, 0.105, 0.08], rtol=1e-6)
    np.testing.assert_allclose(short.spans[0, :5], [[2, 6], [4, 6], [0, 4], [2, 4], [0, 2]])
    assert not np.isfinite(short.scores[0, 5:]).any()
    shown = explain_pairs(start, end, mask, 2 / 3)[0]
    np.testing.assert_allclose(shown[0], [0.08 / 0.175, 0.12 / 0.175, np.nan], rtol=1e-6)


@pytest.mark.parametrize("share,longest", [(1.0, 5), (0.6, 3), (0.59, 2), (0.1, 1)])  # of five clips
def test_the_share_is_of_real_clips_and_leaves_one(share, longest):
    mask = jnp.asarray([[True] * 5 + [False]])
    found = rank_pairs(jnp.zeros((1, 6)), jnp.zeros((1, 6)), jnp.float32([5.0]), mask, 0, share)
    real = np.asarray(found.spans[0])[np.isfinite(found.scores[0])]
    expected = {(i, j) for i in range(5) for j in range(i + 1, 6) if j - i <= longest and j <= 5}
    assert {(round(float(a)), round(float(b))) for a, b in real} == expected


@pytest.mark.parametrize("name", ["acrm", "dori", "emb", "l_net", "seqpan", "tmlga", "vslnet", "vslnet_l"])
def test_every_span_predictor_has_a_longest_share(name):
    outputs = importlib.import_module(f"vmr_jax.models.{name}").Outputs
    shape = (1, 3, 4) if name == "vslnet_l" else (1, 4)  # which has three scales
    fields = {field.name: None for field in dataclasses.fields(outputs)} | dict.fromkeys(
        ("start", "end"), jnp.zeros(shape)
    )
    batch = Batch.of(duration=[8.0], video=np.ones((1, 4, 1)))
    for share, longest in ((1.0, 8.0), (0.5, 4.0)):  # seconds
        moments = create(name, longest_share=share, keep=0).predict(outputs(**fields), batch)
        spans = moments.spans[0][np.isfinite(moments.scores[0])]
        np.testing.assert_allclose((spans[:, 1] - spans[:, 0]).max(), longest)
