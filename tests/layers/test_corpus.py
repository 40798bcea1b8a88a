"""The blocks of corpus retrieval: scores and negatives by hand, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.corpus import LearnedPositions, ranked_negative, video_scores

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
