"""DRN: rows of the segments, labels, losses and candidates by hand, and what each stage trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch
from cases.drn import SMALL

from vmr_jax.configs.drn import get_config
from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.drn import (
    Outputs,
    distance_loss,
    focal_loss,
    hull_iou,
    level_locations,
    pool_segments,
    segment_rows,
)
from vmr_jax.training.optimizer import make_optimizer

RANGES = dict(segments=4, level_from=(-1.0, 1.4, 2.5), level_to=(1.6, 2.5, 1e8))


def model_of(**fields):
    return create("drn", **{**SMALL, **RANGES, **fields})


def bare_batch(**fields):
    """Videos of 8 s; the first row is real where there are several."""
    size = len(fields["span"])
    batch = jax.tree.map(lambda x: x[:size], random_batch(size=2, fill=0))
    return batch.replace(duration=np.full(size, 8, np.float32), **fields)


def test_rows_of_segments():
    # 45 frames, rows every 8. Borders 1 + 44 i / 4 = 1, 12, 23, 34, and the end: 11 frames each. With windows
    # of 11 frames or more a segment is one row, that of its start, 1/8, 12/8, 23/8, 34/8; with shorter ones it
    # goes on to the row of its last frame, 11/8, 22/8, 33/8, 44/8.
    first, last, bounds = segment_rows(jnp.array([45]), 4, 8, 11)
    assert first[0].tolist() == last[0].tolist() == [0, 1, 2, 4]
    assert bounds[0].tolist() == [[1, 12], [12, 23], [23, 34], [34, 45]]
    first, last, _ = segment_rows(jnp.array([45]), 4, 8, 10)
    assert (first[0].tolist(), last[0].tolist()) == ([0, 1, 2, 4], [1, 2, 4, 5])


def test_segments_are_maxima_of_the_real_rows():
    rows = np.float32([[[1, 9], [5, 2], [3, 3], [4, 4], [2, 8], [7, 7]]])
    # Five rows of 8 frames: 40 of them. Borders 1, 10, 20, 30, 40: rows 0 to 1, 1 to 2, 2 to 3, 3 to 4.
    mask = np.arange(6)[None] < 5
    found, bounds = pool_segments(rows, mask, 4, 8, 8)
    np.testing.assert_array_equal(found[0], [[5, 9], [5, 3], [4, 4], [4, 8]])
    np.testing.assert_allclose(bounds[0, 1], [10 / 40, 20 / 40])
    # As many segments as rows are the rows.
    eight = np.arange(16, dtype=np.float32).reshape(1, 8, 2)
    found, _ = pool_segments(eight, np.ones((1, 8), bool), 8, 8, 8)
    np.testing.assert_array_equal(found, eight)


def test_one_row_and_none():
    found, bounds = pool_segments(
        np.ones((2, 3, 1), np.float32), np.array([[True, False, False], [False] * 3]), 4, 8, 8
    )
    assert np.isfinite(found).all() and np.isfinite(bounds).all()
    np.testing.assert_array_equal(found[0], np.ones((4, 1)))


def test_locations_are_the_middles_of_steps():
    places, levels = level_locations(4)
    assert places.tolist() == [0.5, 1.5, 2.5, 3.5, 1, 3, 2]
    assert levels.tolist() == [0, 0, 0, 0, 1, 1, 2]


def test_positive_locations():
    # In segments the moment is [.5, 3]: distances (t - .5, 3 - t). At .5 nothing, as it is the start. The first
    # level takes a larger distance up to 1.6: 1.5 (1.5) and not 2.5 (2); the second from 1.4 to 2.5: 1 (2), and
    # 3 is the end; the third from 2.5 on: not 2 (1.5).
    positive, targets = model_of()._targets(jnp.float32([[1 / 8, 3 / 4]]))
    assert positive[0].tolist() == [False, True, False, False, True, False, False]
    np.testing.assert_allclose(targets[0, 4], [0.5, 2])


def test_losses_by_hand():
    # Focal: a positive of probability 3/4, alpha 1/4: 1/4 (1/4)^2 log(4/3); a negative: 3/4 (3/4)^2 log 4.
    logit = jnp.log(jnp.float32([3.0, 3.0]))
    expected = [np.log(4 / 3) / 64, 27 / 64 * np.log(4)]
    np.testing.assert_allclose(focal_loss(logit, jnp.array([True, False]), 0.25, 2.0), expected, rtol=1e-6)
    # Distances (1, 3) and (2, 1) share 1 + 1 of 4 + 3 - 2.
    loss = distance_loss(jnp.float32([1, 3]), jnp.float32([2, 1]))
    np.testing.assert_allclose(loss, np.log(5 / 2), rtol=1e-6)
    # [0, 2] and [1, 4] share 1 of the 4 that hold both; [0, 1] and [2, 4] share nothing.
    found = hull_iou(jnp.float32([[0, 2], [0, 1]]), jnp.float32([[1, 4], [2, 4]]))
    np.testing.assert_allclose(found, [1 / 4, 0], rtol=1e-6)


@pytest.fixture(scope="module")
def two_videos():
    """Seven locations; the second row only fills the batch, its moment ends after the video."""
    batch = bare_batch(span=np.float32([[1, 6], [0, 16]]), example_mask=np.array([True, False]))
    # Every location predicts one segment to both sides; the one of the second level at 1 the moment, [.5, 3].
    distances = jnp.ones((2, 7, 2)).at[0, 4].set(jnp.array([0.5, 2.0]))
    outputs = Outputs(logits=jnp.zeros((2, 7)), distances=distances, iou=jnp.zeros((2, 7)))
    return batch, outputs


@pytest.mark.parametrize("epoch,parts", [(0, (1, 1, 0)), (1, (0, 0, 1)), (2, (1, 1, 1))])
def test_each_stage_has_its_losses(two_videos, epoch, parts):
    batch, outputs = two_videos
    model = model_of(second_stage=1, third_stage=2, least_iou=0.9)
    terms = {k: float(x.value()) for k, x in model.loss(outputs, batch, epoch=jnp.int32(epoch)).items()}
    # Positive are two locations, see above: focal (1/2)^2 log 2 (2 / 4 + 5 * 3 / 4), over 2 and 1 row.
    # Regression: at 1.5 the distances are (1, 1) of (1, 1.5), log(2.5 / 2); at 1 they are right. The mean.
    # IoU: only the right one has one above .9, namely 1 (up to 1e-6), and .5 is predicted: .5^2 / 2.
    expected = np.log(2) / 4 * 4.25 / 3, np.log(1.25) / 2, 0.125
    found = [terms[name] for name in ("classification", "regression", "iou")]
    np.testing.assert_allclose(found, np.multiply(expected, parts), rtol=1e-5)


def test_a_moment_ends_with_the_video():
    batch = bare_batch(span=np.float32([[4, 8], [4, 9]]))
    outputs = Outputs(logits=jnp.zeros((2, 7)), distances=jnp.ones((2, 7, 2)), iou=jnp.zeros((2, 7)))
    cut = jax.tree.map(lambda x: x[[1, 1]], batch)
    whole = jax.tree.map(lambda x: x[[0, 0]], batch)
    a, b = (model_of().loss(outputs, each, epoch=jnp.int32(0)) for each in (cut, whole))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_candidates_are_ranked():
    batch = bare_batch(span=np.float32([[1, 6], [0, 8]]))
    # Probabilities of the first video: .8 at 1.5 and 2.5, .5 at 1 (second level), others below .05. IoU: .5,
    # but 1/5 at 2.5. Distances of one segment, of two seconds; at 1 of 2 segments, cut at the start.
    logits = jnp.full((2, 7), -5.0).at[0, 1:3].set(jnp.log(4.0)).at[0, 4].set(0.0)
    iou = jnp.zeros((2, 7)).at[0, 2].set(jnp.log(0.25))
    outputs = Outputs(logits=logits, distances=jnp.ones((2, 7, 2)).at[0, 4].set(2.0), iou=iou)
    moments = model_of().predict(outputs, batch)
    moments.check()
    np.testing.assert_allclose(moments.scores[0, :3], np.sqrt([0.4, 0.25, 0.16]), rtol=1e-5)
    np.testing.assert_allclose(moments.spans[0, :3], [[1, 5], [0, 6], [3, 7]], rtol=1e-5)
    assert not np.isfinite(moments.scores[0, 3:]).any()
    # The second video has no candidate: the whole of it.
    assert moments.spans[1, 0].tolist() == [0, 8] and moments.scores[1].tolist()[:2] == [1, -np.inf]
    # By probability alone two are equal, and the later one comes first.
    moments = model_of(rank_by_iou=False).predict(outputs, batch)
    np.testing.assert_allclose(moments.spans[0, :3], [[3, 7], [1, 5], [0, 6]], rtol=1e-5)


def test_the_picture_has_the_best_level_at_each_row():
    # Six rows, the last two padding, of four segments; a probability of .2, but .8 at the second segment and .5
    # at the second location of the middle level, segments 2 and 3.
    logits = jnp.full((1, 7), -jnp.log(4.0)).at[0, 1].set(jnp.log(4.0)).at[0, 5].set(0.0)
    outputs = Outputs(logits=logits, distances=jnp.ones((1, 7, 2)), iou=jnp.zeros((1, 7)))
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=6, fill=0))
    batch = batch.replace(video_mask=np.arange(6)[None] < 4)
    clips = model_of().explain(outputs, batch)["clips"]
    np.testing.assert_allclose(clips, [[0.2, 0.8, 0.5, 0.5, np.nan, np.nan]], rtol=1e-6)


def test_padding_and_filling_rows_leave_statistics_alone():
    model, batch = create("drn", **SMALL), random_batch()
    variables = random_variables(model, batch)
    noisy = jax.tree.map(np.copy, batch)
    noisy.video[~batch.example_mask] = 50.0
    noisy.video[~batch.video_mask] = 50.0

    @jax.jit
    def statistics(batch):
        return model.apply(variables, batch, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    jax.tree.map(np.testing.assert_array_equal, statistics(batch), statistics(noisy))
    # The shared head sees each level by itself: statistics move three times.
    moved = statistics(batch)["head"]["iou_mix"]["norm"]["mean"]
    assert np.abs(moved - variables["batch_stats"]["head"]["iou_mix"]["norm"]["mean"]).max() > 1e-3


def test_the_first_stage_ranks_by_probability():
    """The IoU head is at rest, and the same everywhere."""
    model, batch = create("drn", **SMALL), random_batch()
    variables = jax.jit(lambda: model.init(jax.random.key(0), batch, train=False))()
    np.testing.assert_array_equal(outputs_of(model, variables, batch).iou, 0)
    assert abs(jax.nn.sigmoid(variables["params"]["head"]["inside"]["bias"][0]) - 0.01) < 1e-6


def test_stages_of_the_config_train_their_parts():
    config = get_config("charades_sta,c3d")
    assert (config.model.second_stage, config.model.third_stage) == (10, 20)
    params = {"head": {"iou": {"kernel": jnp.ones(1)}, "inside": {"kernel": jnp.ones(1)}}}
    optimizer = make_optimizer(config.optimizer, lambda step: 1.0, params, steps_per_epoch=1)
    state, gradients, moved = optimizer.init(params), jax.tree.map(jnp.ones_like, params), []
    update = jax.jit(optimizer.update)
    for _ in range(30):
        updates, state = update(gradients, state, params)
        moved.append([bool(updates["head"][name]["kernel"] != 0) for name in ("iou", "inside")])
    assert moved == [[False, True]] * 10 + [[True, False]] * 10 + [[True, True]] * 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(segments=6), "segments is 6; the pyramid of DRN halves it twice"),
        (dict(level_from=(-1.0, 5.6)), r"level_from of DRN is \(-1.0, 5.6\); give a number for each of 3"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        batch = random_batch()
        jax.eval_shape(lambda b: model_of(**fields).init(jax.random.key(0), b, train=False), batch)
