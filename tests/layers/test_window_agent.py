"""Windows of agents over the units of a video, and their IoU."""

import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.window_agent import annotated_window, first_window, signed_iou, valid


def test_first_window_is_the_middle_half():
    # 40 // 4 = 10: 9 and 40 - 11; 10 // 4 = 2: 1 and 7; 3 // 4 = 0: -1, cut to 0, and 2.
    windows = first_window(jnp.array([40, 10, 3, 1]))
    np.testing.assert_array_equal(windows, [[9, 29], [1, 7], [0, 2], [0, 0]])


def test_a_window_ends_behind_its_start():
    np.testing.assert_array_equal(valid(jnp.array([[3, 4], [4, 4], [5, 4]])), [True, False, False])


def test_annotated_window():
    # 20 units of 2 s: [5, 13] is 2.5 to 6.5, rounded to even 2 and 6; [37, 40] 18.5 to 20; [0, 0.5] 0 to .25.
    span, duration, units = jnp.float32([[5, 13], [37, 40], [0, 0.5]]), jnp.full(3, 40.0), jnp.full(3, 20)
    np.testing.assert_allclose(
        annotated_window(span, duration, units, True), [[2.5, 5.5], [18.5, 19], [0, -0.75]]
    )
    np.testing.assert_array_equal(annotated_window(span, duration, units, False), [[2, 5], [18, 19], [0, 0]])


def test_signed_iou():
    windows, truth = jnp.array([[2, 6], [0, 2], [4, 8], [6, 2]]), jnp.float32([[4, 8]])
    # Shared over joint: 2 of 6; a gap of 2 in 8; all; a window that is not valid, 4 short of nothing in 4.
    np.testing.assert_allclose(signed_iou(windows, truth, 0), [2 / 6, -2 / 8, 1, -4 / 4])
    # With the last unit both are one longer: 3 of 7, a gap of 1 in 9, all, 3 short in 5.
    np.testing.assert_allclose(signed_iou(windows, truth, 1), [3 / 7, -1 / 9, 1, -3 / 5])
