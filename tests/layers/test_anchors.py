"""Anchors around every clip: table, legality, labels and ranking by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables
from batches import random_batch

from vmr_jax.input.features import first_rows
from vmr_jax.layers.anchors import (
    AnchorHead,
    frame_anchors,
    inclusive_iou,
    legal_anchors,
    moment_in_clips,
    rank_anchors,
    soft_labels,
)


def test_anchors_clip_by_clip_around_their_clip():
    # Width 1 is the clip, width 4 reaches 1.5 to both sides.
    expected = [[0, 0], [-1.5, 1.5], [1, 1], [-0.5, 2.5], [2, 2], [0.5, 3.5]]
    np.testing.assert_array_equal(frame_anchors(3, (1, 4)), expected)


def test_anchors_that_end_with_their_clip():
    expected = [[0, 0], [-2, 0], [1, 1], [-1, 1], [2, 2], [0, 2]]
    np.testing.assert_array_equal(frame_anchors(3, (1, 3), "end"), expected)


def test_an_anchor_is_legal_within_the_real_clips():
    anchors = frame_anchors(4, (2, 3))
    # Width 2: [-.5, .5] starts too early; [2.5, 3.5] ends before clip 4, and [1.5, 2.5] before clip 3.
    # Width 3: [-1, 1] starts too early, [2, 4] and of three clips [1, 3] end too late.
    four = [[False, False], [True, True], [True, True], [True, False]]
    three = [[False, False], [True, True], [True, False], [False, False]]
    legal = legal_anchors(anchors, jnp.array([[True] * 4, [True] * 3 + [False]]))
    np.testing.assert_array_equal(legal.reshape(2, 4, 2), [four, three])


def test_iou_counts_the_last_clip():
    moment = jnp.float32([2, 5])
    # Clips 0..3 share 2 of 6 clips with 2..5; clip 5 is one of four; 6..7 shares none; half clips count in
    # part: [1.5, 4.5] is 4 long, shares [2, 5.5) = 3.5 of 4 + 4 - 3.5.
    others = jnp.float32([[0, 3], [5, 5], [6, 7], [1.5, 4.5]])
    np.testing.assert_allclose(inclusive_iou(others, moment[None]), [1 / 3, 1 / 4, 0, 3.5 / 4.5], rtol=1e-6)


def test_labels_are_relative_to_the_best_legal_anchor():
    overlap = jnp.float32([[0.6, 0.3, 0.15, 0.9], [0.5, 0.2, 0.1, 0.0]])
    legal = jnp.array([[True, True, True, False], [False] * 4])
    # .15 is below .3 * .6; nothing is legal in the second row.
    np.testing.assert_allclose(soft_labels(overlap, legal, 0.3), [[1, 0.5, 0, 0], [0] * 4], rtol=1e-6)


def test_ranked_moments_are_seconds_within_the_video():
    mask = jnp.array([[True] * 4 + [False] * 2])
    clips = jnp.float32([[[1, 2], [-1, 5], [2, 0.5], [0, 0]]])
    logits = jnp.float32([[0.0, jnp.log(3.0), -1.0, 9.0]])
    legal = jnp.array([[True, True, True, False]])
    moments = rank_anchors(logits, clips, legal, jnp.float32([8]), mask, 4)
    # Clips of 2 s: 1..2 is [2, 6]; -1..5 is cut to the video; an end (3 s) before its start (4 s) is the start.
    np.testing.assert_allclose(moments.spans[0, :3], [[0, 8], [2, 6], [4, 4]])
    np.testing.assert_allclose(moments.scores[0, :2], [0.75, 0.5], rtol=1e-6)
    assert moments.scores[0, 3] == -jnp.inf


@pytest.mark.parametrize("regress", [True, False])
def test_head_is_two_linear_layers_in_the_order_of_the_anchors(regress):
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(2, 3, 5)).astype(np.float32)
    head = AnchorHead(2, regress=regress)
    params = initial_variables(head, 0, clips)["params"]
    scored = head.apply({"params": params}, clips)
    # Anchor n is width n % 2 of clip n // 2.
    for n in range(6):
        score = params["score"]["kernel"][:, n % 2] @ clips[1, n // 2] + params["score"]["bias"][n % 2]
        np.testing.assert_allclose(scored.logits[1, n], score, rtol=1e-5)
        if regress:
            end = params["offset"]["kernel"][:, 2 * (n % 2) + 1] @ clips[1, n // 2]
            end = end + params["offset"]["bias"][2 * (n % 2) + 1]
            np.testing.assert_allclose(scored.offsets[1, n, 1], end, rtol=1e-5)
    assert regress or scored.offsets is None


# (rows of the features, seconds of the video, moment) -> its first and last of 8 clips, from a run of the
# official code (ikuinen/CMIN@4f965604d09f, `ClipDataset2` with max_num_frames=8).
OFFICIAL_MOMENTS = {
    (5, 10.0, (0.0, 10.0)): [0, 7],
    (5, 10.0, (3.99, 6.0)): [2, 6],
    (23, 31.3, (4.2, 4.3)): [1, 1],
    (23, 31.3, (30.9, 31.3)): [7, 7],
    (40, 55.0, (10.1, 33.3)): [2, 4],
    (97, 120.7, (0.7, 1.9)): [0, 0],
    (97, 120.7, (50.0, 119.9)): [3, 7],
    (300, 180.5, (60.6, 61.0)): [2, 2],
    (300, 180.5, (17.3, 99.5)): [1, 3],
    (41, 77.7, (12.34, 76.9)): [2, 7],
}


def test_moments_are_in_the_clips_of_the_official_code():
    rows, duration, span = zip(*OFFICIAL_MOMENTS)
    batch = jax.tree.map(lambda x: x[:1].repeat(len(rows), 0), random_batch(clips=8)).replace(
        video_mask=np.ones((len(rows), 8), bool),
        duration=np.float32(duration),
        span=np.float32(span),
        clip_rows=np.stack([first_rows(n, 8, "spread") for n in rows]),
    )
    np.testing.assert_array_equal(moment_in_clips(batch), list(OFFICIAL_MOMENTS.values()))


def test_where_every_row_is_a_clip_a_moment_is_the_clips_that_hold_its_ends():
    batch = jax.tree.map(lambda x: x[:1].repeat(4, 0), random_batch(clips=8)).replace(
        video_mask=np.arange(8) < np.full((4, 1), 4), duration=np.full(4, 8, np.float32)
    )
    # Four real clips of 2 s: second 3 is in clip 1, 5 in clip 2; the end of the video is in the last clip.
    batch = batch.replace(span=np.float32([[3, 5], [3, 8], [0, 0.5], [7.9, 8]]))
    for rows in (None, np.arange(8) * batch.video_mask):
        found = moment_in_clips(batch.replace(clip_rows=rows))
        np.testing.assert_array_equal(found, [[1, 2], [1, 3], [0, 0], [3, 3]])
