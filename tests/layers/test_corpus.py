"""The blocks of corpus retrieval: scores and negatives by hand, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.corpus import (
    ConvSE,
    CrossAttention,
    LearnedPositions,
    ModularPool,
    clip_seconds,
    ranked_negative,
    span_labels,
    video_scores,
)

INDEX = jnp.arange(2)


def test_video_score_is_the_mean_of_the_best_cosines():
    queries = np.float32([[[2, 0], [0, 1]]])  # one query, two streams
    videos = np.float32(
        [
            # Stream 0: cosines 0, 0.6, and 1 at a padded clip; stream 1: cosines -1, 0.8, and 1 at padding.
            [[[0, 3], [3, 4], [1, 0]], [[0, -2], [3, 4], [0, 5]]],
            # Nothing is padded: the best are 1 and 1.
            [[[0, 3], [3, 4], [1, 0]], [[0, -2], [3, 4], [0, 5]]],
        ]
    )
    mask = np.array([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(video_scores(queries, videos, mask), [[(0.6 + 0.8) / 2, 1.0]], rtol=1e-6)


def test_ranked_negative_by_hand():
    scores = np.tile(np.float32([0.9, 0.1, 0.5, 0.7, 0.3]), (6, 1))
    mask = np.tile([False, True, True, True, True], (6, 1))  # the first is the positive
    # Best first: 0.7, 0.5, 0.3, 0.1. Of four the draws 0, 0.3, 0.99 are the places 0, 1, 3; of the best two
    # 0.49 and 0.5 are 0 and 1.
    draws = np.float32([0.0, 0.3, 0.99, 0.49, 0.5, 0.999])
    every = ranked_negative(scores, mask, draws, jnp.int32(5))
    np.testing.assert_allclose(every, [0.7, 0.5, 0.1, 0.5, 0.3, 0.1], rtol=1e-6)
    hardest = ranked_negative(scores, mask, draws, jnp.int32(2))
    np.testing.assert_allclose(hardest, [0.7, 0.7, 0.5, 0.7, 0.5, 0.5], rtol=1e-6)
    nothing = ranked_negative(scores, np.zeros_like(mask), draws, jnp.int32(5))
    np.testing.assert_array_equal(nothing, np.float32(MASKED))


def test_the_gradient_is_the_drawn_negatives():
    scores = jnp.float32([[0.9, 0.1, 0.5]])
    mask = jnp.array([[False, True, True]])
    gradient = jax.grad(lambda s: ranked_negative(s, mask, jnp.float32([0.6]), jnp.int32(3))[0])(scores)
    np.testing.assert_array_equal(gradient, [[0, 1, 0]])  # place 1 of (0.5, 0.1)


def test_too_long_an_input_is_named():
    model = LearnedPositions(3, "clips")
    with pytest.raises(UserError, match="positions for 3 clips, and the batch has 4"):
        model.init(jax.random.key(0), jnp.zeros((2, 4, 8)), INDEX, False)


def test_conv_se_by_hand():
    start, end = np.float32([1, 2, 3, 4, 5]), np.float32([0, 0, 1, 0, -1])
    params = {name: {"kernel": kernel[:, None, None]} for name, kernel in (("start", start), ("end", end))}
    similarity = np.float32([[1, 10, 100, 7]])
    mask = np.array([[True, True, True, False]])
    # Logit t is the sum of kernel[k] similarity[t + k - 2]: 3*1 + 4*10 + 5*100, 2*1 + 3*10 + 4*100 + 5*s and
    # 1*1 + 2*10 + 3*100 + 4*s, where s, of the padded clip, is 0 or, as in the official code, 7.
    for padded, model in ((0, ConvSE()), (7, ConvSE(mask_similarity=False))):
        found = model.apply({"params": params}, similarity, mask)
        np.testing.assert_allclose(found[0][0, :3], [543, 432 + 5 * padded, 321 + 4 * padded])
        np.testing.assert_allclose(found[1][0, :3], [1 - 100, 10 - padded, 100])
        assert found[0][0, 3] == found[1][0, 3] == np.float32(MASKED)


def test_modular_pooling_by_hand():
    # Stream 0 has logits log 3 and 0, so weights 3/4 and 1/4; stream 1 equal ones. The padded word is not seen.
    words = np.float32([[[np.log(3), 1], [0, 5], [9, 9]]])
    params = {"logits": {"kernel": np.float32([[1, 0], [0, 0]])}}
    found = ModularPool(2).apply({"params": params}, words, np.array([[True, True, False]]))
    log3 = np.log(3)
    np.testing.assert_allclose(found, [[[0.75 * log3, 2.0], [0.5 * log3, 3.0]]], rtol=1e-6)


@pytest.mark.parametrize("sees_all", [False, True])
def test_cross_attention_of_padded_clips(sees_all):
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, 2, 4, 8)).astype(np.float32)
    mask = np.tile([True, True, False, False], (2, 1))
    model = CrossAttention(8, 2, padding_sees_all=sees_all)
    variables = model.init(jax.random.key(0), x, other, mask, jnp.arange(2), False)
    variables = jax.tree.map(lambda p: p * 10 if p.ndim > 1 else p, variables)
    run = jax.jit(lambda o: model.apply(variables, x, o, mask, jnp.arange(2), False))
    changed = other.copy()
    changed[:, 2:] += 5
    found, moved = run(other), run(changed)
    np.testing.assert_array_equal(found[:, :2], moved[:, :2])  # real clips never see padding
    assert (np.abs(found - moved)[:, 2:].max() > 1e-2) == sees_all


# Labels.


@pytest.mark.parametrize(
    "span,late,first,last",
    [
        # Clips of 1.5 s, ten of them. 3.2 to 7.6 s is 2.13 to 5.07 clips: clips 2 to 5, and 6 is the one after.
        ((3.2, 7.6), False, 2, 5),
        ((3.2, 7.6), True, 2, 6),
        # On the grid, 3 to 6 s are the clips 2 and 3.
        ((3.0, 6.0), False, 2, 3),
        ((3.0, 6.0), True, 2, 4),
        # The end of the video is its last clip, 9, either way.
        ((12.0, 15.0), False, 8, 9),
        ((12.0, 15.0), True, 8, 9),
        # Beyond the features: the last clip.
        ((15.2, 15.9), False, 9, 9),
    ],
)
def test_labels(span, late, first, last):
    found = span_labels(jnp.float32([span]) / 1.5, jnp.int32([10]), late)
    assert [int(x[0]) for x in found] == [first, last]


def test_length_of_a_clip():
    mask = np.arange(12) < np.array([[10], [10], [12]])
    duration = np.float32([14.2, 15.9, 36.0])
    # Ten clips of 1.5 s cover 15 s, and a rest below a clip changes nothing; twelve stand for 36 s.
    np.testing.assert_allclose(clip_seconds(duration, mask, 1.5), [1.5, 1.5, 3.0])
    np.testing.assert_allclose(clip_seconds(duration, mask, 0.0), [1.42, 1.59, 3.0], rtol=1e-6)
