"""METEOR of ids, by hand."""

import jax
import numpy as np

from vmr_jax.layers.sentence_similarity import meteor


def test_meteor():
    found = np.array([[2, 3, 4, 9], [2, 2, 5, 0], [7, 8, 0, 0], [4, 3, 2, 5]])
    wanted = np.array([[2, 3, 4, 5], [2, 6, 0, 0], [2, 3, 0, 0], [2, 3, 4, 5]])
    masks = (np.arange(4) < np.array([4, 3, 2, 4])[:, None], np.arange(4) < np.array([4, 2, 2, 4])[:, None])
    value = jax.jit(meteor)(found, masks[0], wanted, masks[1])

    def expected(matches, p, r, chunks):
        return p * r / (0.85 * p + 0.15 * r) * (1 - 0.6 * (chunks / matches) ** 0.2)

    np.testing.assert_allclose(
        value,
        [
            expected(3, 3 / 4, 3 / 4, 1),  # 2 3 4 stand together in both
            expected(1, 1 / 3, 1 / 2, 1),  # 2 counts once, as the other has it once
            0,
            expected(4, 1, 1, 4),  # no two are neighbours in the same order
        ],
        rtol=1e-5,
    )
