"""From clip features to the clips of a map. Expected numbers are derived in comments."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import ClipPool, average_clips, clip_bounds, clip_length


def test_average_of_the_real_clips_of_each_window():
    # Windows of two clips: (1 + 3) / 2; 5 alone; nothing.
    video, mask = jnp.float32([[[1], [3], [5], [9], [9], [9]]]), jnp.array([[1, 1, 1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(average_clips(video, mask, 3), [[[2], [5], [0]]])
    assert average_clips(video.astype(jnp.bfloat16), mask, 3).dtype == jnp.bfloat16


def test_clip_pool_projects_before_it_averages():
    # relu(2 x - 4) of 1, 3 is 0, 2, mean 1; of the mean it would be 0.
    params = {"linear": {"kernel": jnp.float32([[2]]), "bias": jnp.float32([-4])}}
    video, mask = jnp.float32([[[1], [3]]]), jnp.ones((1, 2), bool)
    np.testing.assert_array_equal(ClipPool(1, 1).apply({"params": params}, video, mask), [[[1]]])
    linear = ClipPool(1, 1, activation=None).apply({"params": params}, video, mask)
    np.testing.assert_array_equal(linear, [[[0]]])


def test_windows_must_be_equal():
    with pytest.raises(UserError, match="7 clips .*which 3 map clips"):
        average_clips(jnp.zeros((1, 7, 2)), jnp.ones((1, 7), bool), 3)
    with pytest.raises(AssertionError):
        average_clips(jnp.zeros((1, 6, 2)), jnp.ones((1, 5), bool), 3)


def test_clips_share_the_video_equally():
    # 12 s in 3 real clips; a video without any counts as one clip.
    mask = jnp.array([[True, True, True, False], [False] * 4])
    np.testing.assert_array_equal(clip_length(jnp.float32([12, 7]), mask), [4, 7])


def test_clips_are_told_where_they_are():
    mask = np.array([[True] * 4, [True, True, False, False]])
    expected = [
        [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]],
        [[0, 0.5], [0.5, 1], [0, 0], [0, 0]],
    ]
    np.testing.assert_allclose(clip_bounds(jnp.asarray(mask)), expected, atol=1e-6)
