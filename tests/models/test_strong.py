"""STRONG: boxes, crops, rewards and the answer by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec
from vmr_jax.layers.ddpg import Values
from vmr_jax.models import create
from vmr_jax.models.strong import Looks, Outputs, corners, next_box, pyramid

SMALL = dict(
    actor_hidden=(5,), critic_hidden=(6, 4), crop_hidden=5, crop_features=4, horizon=4, look_every=2, looks=2,
    box_step=0.1,
)  # fmt: skip


def after(box):
    """The box after each of the eight actions, by steps of .1."""
    moved = next_box(jnp.tile(jnp.float32([box]), (8, 1)), jnp.eye(8), 0.1)
    return np.round(np.asarray(moved, float), 4).tolist()


def test_every_move_of_the_box():
    x, y, w, h = 0.2, 0.3, 0.4, 0.5
    assert after([x, y, w, h]) == [
        [0.3, y, w, h],
        [0.1, y, w, h],
        [x, 0.4, w, h],
        [x, 0.2, w, h],
        [x, y, 0.5, 0.6],
        [x, y, 0.3, 0.4],
        [x, y, w, 0.6],
        [x, y, 0.5, h],
    ]


def test_a_box_that_would_leave_the_frame_stays():
    box = [0.05, 0.55, 0.8, 0.4]
    # To the left of the frame; below it; larger, taller below it.
    assert [moved == box for moved in after(box)] == [False, True, True, False, True, False, True, False]
    # By its middle the first box reaches 1.3 by x + w, which no move can mend.
    assert after([0.5, 0.5, 0.8, 0.8]) == [[0.5, 0.5, 0.8, 0.8]] * 8
    np.testing.assert_allclose(corners(jnp.float32([[0.5, 0.5, 0.8, 0.6]]), True), [[0.1, 0.2, 0.8, 0.6]], 1e-6)


def test_pyramid():
    # Cells 0 to 15 in rows of four. The box holds the two columns in the middle of the two lower rows.
    cells = jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = pyramid(cells, jnp.float32([[0.25, 0.5, 0.5, 0.5]]))[0]
    np.testing.assert_allclose(found[0], (9 + 10 + 13 + 14) / 4, rtol=1e-6)
    np.testing.assert_allclose(found[1:5], [9, 10, 13, 14], rtol=1e-6)
    np.testing.assert_allclose(found[5:].reshape(4, 4)[:, 0], [9, 9, 13, 13], rtol=1e-6)
    # A box over a quarter of cell 0 and a quarter, half as high, of cell 4: 2 to 1.
    found = pyramid(cells, jnp.float32([[0.0, 0.0, 0.125, 0.375]]))[0]
    np.testing.assert_allclose(found[0], 4 / 3, rtol=1e-6)


def values(*rows):
    return Values(*(jnp.float32([row]) for row in rows))


def by_hand():
    """One video of 20 s, the moment [5, 11]: from .25 to .55; three moves."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(fill=0))
    batch = dataclasses.replace(batch, duration=np.float32([20]), span=np.float32([[5, 11]]))
    outputs = Outputs(
        before=jnp.float32([[[0.25, 0.75], [0.25, 0.65], [0.25, 0.65]]]),
        after=jnp.float32([[[0.25, 0.65], [0.25, 0.65], [0.25, 0.7]]]),
        can=jnp.array([[True, False, True]]),
        values=values([0.1, 0.2, 9], [0.3, 0.4, 9], [0.5, 0.6, 9]),
        boxes=jnp.zeros((1, 3, 4)),
        looks=Looks(
            values=values([0.1, 0.2, 0.3], [9, 9, 9], [0.5, 0.6, 0.7]),
            rewards=jnp.float32([[1, -1, 1]]),
            made=jnp.array([[True, True, False]]),
        ),
    )
    return outputs, batch


@pytest.mark.parametrize("epoch", [1, 2])
def test_loss_by_hand(epoch):
    outputs, batch = by_hand()
    loss = jax.jit(create("strong", **{**SMALL, "horizon": 3}).loss)
    terms = {name: (float(x.sum), float(x.count)) for name, x in loss(outputs, batch, epoch=epoch).items()}
    # The IoU rises from 3 / 5 to 3 / 4: 1. The second move could not be made: -1. The last one is not learned.
    errors = 0.1 - (0.3 * 0.3 + 0.01), 0.2 - (0.3 * 0.4 - 0.01)
    assert terms["critic"] == pytest.approx((errors[0] ** 2 + errors[1] ** 2, 2), abs=1e-6)
    assert terms["actor"] == pytest.approx((-1.1, 2), rel=1e-5)
    # The spatial agent learns from the third epoch on, where it looked, and counts on nothing that follows.
    errors = 0.1 - 0.01, 0.2 + 0.01
    expected = (errors[0] ** 2 + errors[1] ** 2, 2) if epoch == 2 else (0, 0)
    assert terms["spatial_critic"] == pytest.approx(expected, abs=1e-6)
    assert terms["spatial_actor"] == pytest.approx((-1.1, 2) if epoch == 2 else (0, 0), rel=1e-5)


def test_later_steps_lose_a_part_of_the_reward():
    outputs, batch = by_hand()
    model = create("strong", **{**SMALL, "horizon": 3, "reward_scale": 1.0})
    outputs = outputs.replace(can=jnp.ones((1, 3), bool))
    critic = model.loss(outputs, batch, epoch=0)["critic"]
    # The second segment is the first one's: 0 - .01.
    expected = (0.1 - (0.09 + 1)) ** 2 + (0.2 - (0.12 - 0.01)) ** 2
    assert float(critic.sum) == pytest.approx(expected, rel=1e-5)


def test_the_answer_is_the_last_segment():
    outputs, batch = by_hand()
    ranked = create("strong", **{**SMALL, "horizon": 3}).predict(outputs, batch)
    np.testing.assert_allclose(ranked.spans[0], [[5, 14], [5, 13], [5, 13]], rtol=1e-6)
    np.testing.assert_allclose(ranked.scores[0], [1, 2 / 3, 1 / 3], rtol=1e-6)


@pytest.fixture(scope="module")
def small():
    model, batch = create("strong", **SMALL), random_batch()
    return model, batch, random_variables(model, batch)


def test_the_box_moves_when_it_is_time(small):
    model, batch, variables = small
    outputs = outputs_of(model, variables, batch, train=True)
    assert (
        outputs.looks.made.reshape(batch.size, 2, 4)[:, :, [1, 3]].all()
        and outputs.looks.made.sum() == 4 * batch.size
    )
    boxes = np.asarray(outputs.boxes)
    np.testing.assert_allclose(boxes[:, 0], np.tile([0.1, 0.1, 0.8, 0.8], (batch.size, 1)), rtol=1e-6)
    np.testing.assert_array_equal(boxes[:, 2], boxes[:, 1])
    assert (boxes[:, 1] != boxes[:, 0]).any() and (boxes[:, 3] != boxes[:, 2]).any()
    assert set(np.unique(outputs.looks.rewards)) <= {-1, 0, 1}
    held = outputs_of(model.clone(centred=True), variables, batch, train=True)
    np.testing.assert_allclose(held.boxes[:, -1], np.tile([0.5, 0.5, 0.8, 0.8], (batch.size, 1)), rtol=1e-6)


def test_cells_reach_the_temporal_agent_by_their_share_of_the_box(small):
    model, batch, variables = small
    found = []
    # Of three by three cells the upper left one lies in the box, from .1 to .9, in part, the middle one whole.
    for corner in (slice(0, 1), slice(1, 2)):
        grid = np.array(batch.grid)
        grid[:, :, corner, corner] += 1
        found.append(outputs_of(model, variables, dataclasses.replace(batch, grid=grid)).values.taken)
    base = outputs_of(model, variables, batch).values.taken
    changes = [np.abs(x - base)[:, 0].mean() for x in found]
    assert 0 < changes[0] < changes[1]


def test_without_a_spatial_agent_no_grid_is_needed(small):
    _, batch, _ = small
    model = create("strong", spatial=False, **SMALL)
    assert model.requires() == ("sentence",) and create("strong").requires() == ("grid", "sentence")
    bare = dataclasses.replace(batch, grid=None)
    outputs = outputs_of(model, random_variables(model, bare), bare, train=True)
    assert outputs.looks is None
    with pytest.raises(UserError, match="reads the cells of the frames, and this batch has none"):
        jax.eval_shape(lambda b: create("strong", **SMALL).init(jax.random.key(0), b, train=True), bare)
    assert set(model.loss(outputs, bare, epoch=jnp.int32(5))) == {"critic", "actor"}


def test_a_dataset_without_grids_is_refused_before_training():
    from vmr_jax.configs.strong import get_config

    config = get_config("charades_sta,i3d").unlock()
    with pytest.raises(UserError, match='strong needs "grid", which the dataset charades_sta does not have'):
        batch_spec(config, 2, create("strong", text="lstm").requires())
    spec = batch_spec(get_config("charades_sta,i3d,spatial"), 2, ("grid",))
    assert spec.grid.shape == (2, 128, 7, 7, 512)
