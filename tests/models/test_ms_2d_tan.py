"""MS-2D-TAN: its grid, its maps and its labels by hand, and the merging of scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.ms_2d_tan import Outputs, grid, multi_scale_maps
from vmr_jax.types import Batch

SMALL = dict(num_clips=4, scale_layers=(2, 1), features=4, map_kernel=1, map_layers=1, lstm_layers=1)


def test_cells_of_the_grid():
    (start, length), (coarse_start, coarse_length) = grid(4, (2, 1))
    assert start.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]] and length.tolist() == [[1, 2]] * 4
    assert coarse_start.tolist() == [[0, 0], [2, 2]] and coarse_length.tolist() == [[2, 4]] * 2


def test_the_shorter_half_of_a_scale_is_the_scale_before():
    # Features are 10 start + length in clips.
    lengths = ((1, range(4)), (2, range(3)), (4, [0]))
    one, two, four = (jnp.float32([[[10 * i + n] for i in starts]]) for n, starts in lengths)
    fine, coarse = multi_scale_maps([[one, two], [four]], (2, 1), 4)
    assert fine[0, ..., 0].tolist() == [[1, 2], [11, 12], [21, 22], [31, 0]]
    # Lengths 2, of starts 0 and 2, are those of the fine scale; 4 is its own.
    assert coarse[0, ..., 0].tolist() == [[2, 4], [22, 0]]


def batch_of(**fields):
    return Batch.of(video=np.ones((1, 8, 3), np.float32), query_vectors=np.ones((1, 2, 3)), **fields)


def outputs_of(fine, coarse):
    return Outputs((jnp.float32([fine]), jnp.float32([coarse])))


FINE, COARSE = [[0, 1], [2, -1], [0, 0], [-3, 0]], [[3, -2], [0, 0]]


@jax.jit
def terms_of(outputs, batch):
    model = create("ms_2d_tan", **SMALL)
    return {name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}


def test_loss_by_hand():
    # Four clips of 2 s, the moment [0, 4]. At scale 0 the cell (0, 2 clips) has IoU 1, single clips 0 and 1
    # have 1/2, (1, 2 clips) 1/3, others 0: labels (IoU - 1/2) / (1/2) are 1 and else 0. The cell (3, 2 clips)
    # ends after the video. At scale 1 (0, 2 clips) has 1, (0, 4) 1/2, (2, 2) 0, and (2, 4) ends after it.
    found = terms_of(outputs_of(FINE, COARSE), batch_of(duration=np.float32([8]), span=np.float32([[0, 4]])))
    down, up = (lambda x: np.log1p(np.exp(x))), (lambda x: np.log1p(np.exp(-x)))
    fine = (down(0) + up(1) + down(2) + down(-1) + 2 * down(0) + down(-3)) / 7
    coarse = (up(3) + down(-2) + down(0)) / 3
    assert {n: float(x) for n, x in found.items()} == pytest.approx({"iou_0": fine, "iou_1": coarse}, rel=1e-5)


def test_a_shorter_video_has_fewer_candidates():
    # Five of eight rows are real: two whole clips of two rows, of 2 s each, as rows are 1 s. Left are the cells
    # (0, 1), (0, 2), (1, 1) and, at scale 1, (0, 2 clips); the moment [0, 4] as above.
    mask = np.arange(8)[None] < 5
    batch = batch_of(video_mask=mask, duration=np.float32([5]), span=np.float32([[0, 4]]))
    found = terms_of(outputs_of(FINE, COARSE), batch)
    fine = (np.log(2) + np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 3
    expected = {"iou_0": fine, "iou_1": np.log1p(np.exp(-3))}
    assert {n: float(x) for n, x in found.items()} == pytest.approx(expected, rel=1e-5)
    moments = create("ms_2d_tan", **SMALL).predict(outputs_of(FINE, COARSE), batch)
    assert np.isfinite(moments.scores).sum() == 3


def test_a_moment_of_two_scales_has_the_better_score():
    model = create("ms_2d_tan", **SMALL)
    batch = batch_of(duration=np.float32([8]))
    moments = jax.jit(model.predict)(outputs_of(FINE, COARSE), batch)
    # [0, 4] has 1 at scale 0 and 3 at scale 1; [2, 4] has 2. Of equal scores the earlier comes first.
    assert moments.spans[0, :3].tolist() == [[0, 4], [2, 4], [0, 2]]
    np.testing.assert_allclose(moments.scores[0, :3], jax.nn.sigmoid(jnp.float32([3, 2, 0])), rtol=1e-6)
    # Four, three of two clips, and the whole video.
    assert moments.scores.shape == (1, 8) and np.isfinite(moments.scores).all()
    picture = model.explain(outputs_of(FINE, COARSE), batch)["map"][0]
    assert np.isnan(picture[1, 3]) and picture[0, 1] == moments.scores[0, 0]


def test_rows_of_a_known_length():
    batch = batch_of(duration=np.float32([7.5]))
    seconds = [create("ms_2d_tan", row_seconds=x, **SMALL)._seconds(batch)[0] for x in (0.0, 1.0, 0.5)]
    # Eight rows, two a clip. They cover 7.5 s; or have 1 s each; at 0.5 s they would end before the video does,
    # so they were averaged, and cover it.
    np.testing.assert_allclose(seconds, [1.875, 2.0, 1.875])


def test_scales_that_do_not_fit_are_told():
    for fields in (dict(scale_layers=(4, 3)), dict(scale_layers=(3,)), dict(features=5)):
        model = create("ms_2d_tan", **{**SMALL, "num_clips": 16, **fields})
        with pytest.raises(UserError, match="must be even"):
            jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())  # noqa: B023
