"""TSP-PRL: the environment move by move, rewards and loss by hand, and the two phases."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from applied import random_variables
from batches import random_batch

from vmr_jax.configs.tsp_prl import get_config
from vmr_jax.layers.actor_critic import Decision
from vmr_jax.layers.window_agent import first_window, signed_iou
from vmr_jax.models import create
from vmr_jax.models.tsp_prl import (
    BRANCHES,
    Outputs,
    leaf_reward,
    next_windows,
    root_reward,
    ten_units,
)
from vmr_jax.training.optimizer import make_optimizer
from vmr_jax.training.step import initial_state, make_step

SMALL = dict(features=8, critic_features=(6, 5), horizon=5)
B, H = 8, 5

# The environment.


def moves_of(window, units):
    """{branch: its windows} for one window."""
    after = next_windows(jnp.array([window]), jnp.array([units]))[0].tolist()
    return {name: moves[:count] for (name, count), moves in zip(BRANCHES.items(), after)}


def test_every_move():
    # 40 units, so u = 4. The middle of [10, 20] is 15, its length 10: halves of the new are 6, 7.5, 4.17, 3.33.
    assert moves_of([10, 20], 40) == {
        "scale": [[9, 21], [8, 22], [11, 19], [12, 18]],
        "left_move": [[6, 16], [6, 20], [10, 16]],
        "right_move": [[14, 24], [14, 20], [10, 24]],
        "left_offset": [[9, 19], [9, 20], [10, 19]],
        "right_offset": [[11, 21], [11, 20], [10, 21]],
    }


def test_scaling_cuts_decimals():
    # [3, 12]: the middle is 7.5, cut to 7; half of the new length is 5.4, 6.75, 3.753, 2.997.
    assert moves_of([3, 12], 40)["scale"] == [[2, 12], [1, 13], [4, 10], [5, 9]]
    # The decimals are those of floating point numbers in the official code, whose int() cuts the same.
    for length in range(1, 400):
        halves = [int(factor * length) for factor in (0.6, 0.75, 0.417, 0.333)]
        middle = 500 + length // 2
        found = moves_of([500, 500 + length], 10_000)["scale"]
        assert found == [[middle - half, middle + half] for half in halves]


def test_windows_are_cut_to_the_video():
    moves = moves_of([1, 18], 20)  # u = 2, the last unit is 19
    assert moves["left_move"] == [[0, 16], [0, 18], [1, 16]]
    assert moves["right_move"] == [[3, 19], [3, 18], [1, 19]]
    # The middle is 9, the length 17: half of the new one is 10.2 and 12.75.
    assert moves["scale"][:2] == [[0, 19], [0, 19]]


def test_an_invalid_window_stays():
    assert moves_of([1, 2], 20)["left_move"][2] == [1, 0]
    assert moves_of([0, 1], 20)["left_move"][0] == [0, -1]  # beyond the start
    assert moves_of([18, 19], 20)["right_move"][0] == [20, 19]  # beyond the end
    for window in ([1, 0], [0, -1], [20, 19], [5, 5]):
        assert all(after == window for moves in moves_of(window, 20).values() for after in moves)


def test_a_missing_fourth_move_stays():
    after = next_windows(jnp.array([[10, 20]]), jnp.array([40]))
    np.testing.assert_array_equal(after[0, 1:, 3], [[10, 20]] * 4)


def test_ten_units():
    found = ten_units(jnp.array([[5, 5], [5, 6], [3, 7], [0, 9], [10, 31], [0, 8]]))
    np.testing.assert_array_equal(
        found,
        [
            [5] * 10,
            [5] * 5 + [6] * 5,
            [3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
            range(10),  # floor((i + 1) 10 / 11)
            range(12, 31, 2),  # 10 + floor((i + 1) 22 / 11)
            [0, 1, 2, 3, 4, 4, 5, 6, 7, 8],
        ],
    )


@pytest.mark.parametrize("count", range(1, 30))
def test_ten_units_are_ordered_and_inside(count):
    found = np.asarray(ten_units(jnp.array([[7, 7 + count - 1]]))[0])
    assert found[0] >= 7 and found[-1] < 7 + count and (np.diff(found) >= 0).all()
    assert len(set(found)) == min(count, 10)


# Rewards.


def test_leaf_reward():
    before = jnp.float32([0.2, 0.2, 0.0, 0.6, 0.6, -0.2, -0.2, 0.2, -0.2])
    after = jnp.float32([0.4, 0.7, 0.1, 0.6, 0.1, -0.1, 0.3, -0.1, -0.3])
    # Better; better and above a half; from touching; the same; worse; and apart before or after.
    expected = [1, 1.7, 1, -0.1, -0.1, -1, -1, -1, -1]
    np.testing.assert_allclose(leaf_reward(before, after), expected, atol=1e-6)


def test_root_reward():
    before, reachable = jnp.float32([[0.2, 0.2]]), jnp.float32([[[0.1, 0.3, 0.5, 0.5, -0.4]] * 2])
    # The best of five: 1 + (.5 - .2). Not the best: (.1 - .5) + (.1 - .2).
    got = root_reward(before, jnp.float32([[0.5, 0.1]]), reachable)
    np.testing.assert_allclose(got, [[1.3, -0.5]], atol=1e-6)


def test_an_equal_iou_is_no_improvement():
    # Of 53 units [5, 45] and three that it leads to hold [6, 9]: 3 of 40. In parts of the video, 6 / 52 and
    # so on, float32 has 0.07500001 for one and 0.075 for another, which decides in the official code.
    truth = jnp.float32([[6, 9]])
    before = signed_iou(jnp.array([[5, 45]]), truth, 0)
    reachable = signed_iou(jnp.array([[0, 40], [4, 44], [6, 46]]), truth, 0)[None]
    np.testing.assert_array_equal(reachable, np.full((1, 3), np.float32(3 / 40)))
    for after in reachable[0]:
        np.testing.assert_array_equal(root_reward(before, after[None], reachable), [1.0])
        np.testing.assert_array_equal(leaf_reward(before, after[None]), np.float32([-0.1]))


@pytest.mark.parametrize("options,kept", [("two_stream", 300), ("c3d", 300), ("i3d", 64)])
def test_every_unit_of_the_papers_features_is_kept(options, kept):
    # The official loader has room for 300 units of 16 frames; the longest video, 194.4 s at 24 frames, has 291.
    assert get_config(f"charades_sta,{options}").input.num_clips == kept


# Loss and prediction.


def decision(action, log_prob, entropy, value):
    return Decision(jnp.array([action]), *(jnp.float32([x]) for x in (log_prob, entropy, value)))


def by_hand(root_learns, windows, moved):
    """One video of 20 units of a second, the moment [5, 11], so units 5..10; two steps."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=20, fill=0))
    batch = dataclasses.replace(
        batch,
        video_mask=np.ones((1, 20), bool),
        duration=np.float32([20]),
        span=np.float32([[5, 11]]),
    )
    first = [[4, 16], [5, 12], [6, 14], [3, 14], [5, 14]]
    second = [[5, 11], [6, 12], [8, 12], [4, 11], [5, 13]]
    outputs = Outputs(
        windows=jnp.array([windows]),
        branches=jnp.array([[first, second]]),
        moved=jnp.array([moved]),
        iou=jnp.zeros((1, 2)),
        root=decision([1, 2], [-1, -2], [0.3, 0.2], [0.5, 0.25]),
        leaf=decision([0, 0], [-1, -2], [0.3, 0.2], [0.5, 0.25]),
        root_learns=jnp.bool_(root_learns),
    )
    return outputs, batch


def terms_of(outputs, batch):
    terms = jax.jit(create("tsp_prl", **SMALL).loss)(outputs, batch, epoch=jnp.int32(0))
    return {name: (float(term.sum), float(term.count)) for name, term in terms.items()}


def expected_terms(rewards):
    """Of log pi -1, -2, entropies .3, .2 and values .5, .25: R_1 = r_1 + .4 * .25, R_0 = r_0 + .4 R_1."""
    second = rewards[1] + 0.4 * 0.25
    advantages = rewards[0] + 0.4 * second - 0.5, second - 0.25
    policy = advantages[0] + 2 * advantages[1] - 0.1 * (0.3 + 0.2)
    return policy, advantages[0] ** 2 + advantages[1] ** 2


@pytest.mark.parametrize("root_learns", [False, True])
def test_loss_by_hand(root_learns):
    outputs, batch = by_hand(root_learns, [[4, 14], [5, 12]], [[5, 12], [12, 5]])
    terms = terms_of(outputs, batch)
    # IoU before: 5 / 10 and 5 / 7. After: 5 / 7; the second action ends the episode, at -7 / 5. For the root,
    # the first action was the best of five; the second led to [8, 12], 2 / 7, and [5, 11] would have had 5 / 6.
    leaf = (1 + 5 / 7, -1)
    root = (1 + (5 / 7 - 0.5), (2 / 7 - 5 / 6) + (2 / 7 - 5 / 7))
    policy, value = expected_terms(root if root_learns else leaf)
    assert terms["policy"] == pytest.approx((policy, 2), rel=1e-5)
    assert terms["value"] == pytest.approx((value, 2), rel=1e-5)
    # Logit 0 costs log 2 whatever the target.
    assert terms["iou"] == pytest.approx((2 * np.log(2), 2), rel=1e-5)


@pytest.mark.parametrize(
    "detach, policy, value", [(True, (0, 0), (-2, 0, -2)), (False, (-1, -1.04), (-2, 0.32, -1.2))]
)
def test_what_moves_the_values(detach, policy, value):
    outputs, batch = by_hand(False, [[4, 14], [5, 12]], [[5, 12], [12, 5]])
    model = create("tsp_prl", detach_advantage=detach, **SMALL)

    def term(values, name):
        changed = outputs.replace(leaf=outputs.leaf.replace(value=values))
        return model.loss(changed, batch, epoch=jnp.int32(0))[name].sum

    gradient = jax.jit(jax.grad(term), static_argnums=1)
    # R_1 = r_1 + .4 V_1 and R_0 = r_0 + .4 R_1. The policies' A_0 + 2 A_1, with A = R - V: -1 of V_0, and
    # .4 .4 + 2 (.4 - 1) of V_1. The values' A_0^2 + A_1^2: -2 A_0 of V_0, 2 (.16 A_0 - .6 A_1) of V_1.
    np.testing.assert_allclose(gradient(outputs.leaf.value, "policy")[0], policy, rtol=1e-5)
    second = -1 + 0.4 * 0.25
    a, b = 1 + 5 / 7 + 0.4 * second - 0.5, second - 0.25
    expected = (value[0] * a, value[1] * a + value[2] * b)
    np.testing.assert_allclose(gradient(outputs.leaf.value, "value")[0], expected, rtol=1e-5)


def test_steps_after_the_end_do_not_count():
    outputs, batch = by_hand(False, [[4, 14], [12, 5]], [[12, 5], [12, 5]])
    terms = terms_of(outputs, batch)
    # The first action ends the episode: reward -1, R = -1 + .4 * .5, A = R - .5 = -1.3.
    assert terms["policy"] == pytest.approx((-1.3 - 0.1 * 0.3, 1), rel=1e-5)
    assert terms["value"] == pytest.approx((1.3**2, 1), rel=1e-5)
    assert terms["iou"][1] == 1


def test_windows_apart_teach_the_iou_nothing():
    outputs, batch = by_hand(False, [[12, 14], [11, 14]], [[11, 14], [10, 14]])
    assert terms_of(outputs, batch)["iou"] == (0, 0)


@pytest.mark.parametrize("whole_units, last", [(False, 0), (True, 1)])
def test_prediction_is_the_seen_window_of_highest_logit(whole_units, last):
    outputs, batch = by_hand(False, [[4, 14], [5, 12]], [[5, 12], [12, 5]])
    model = create("tsp_prl", whole_units=whole_units, **SMALL)
    ranked = model.predict(outputs.replace(iou=jnp.float32([[0, 1]])), batch)
    np.testing.assert_array_equal(ranked.spans[0], [[5, 12 + last], [4, 14 + last]])
    np.testing.assert_allclose(ranked.scores[0], [1 / (1 + np.exp(-1)), 0.5], rtol=1e-6)
    # A window that is not valid is no answer, however high its logit; but the first one always is.
    gone = outputs.replace(windows=jnp.array([[[4, 14], [12, 5]]]), iou=jnp.float32([[0, 9]]))
    ranked = model.predict(gone, batch)
    np.testing.assert_array_equal(ranked.spans[0, 0], [4, 14 + last])
    assert ranked.scores[0, 1] == -np.inf


# The network.


@pytest.fixture(scope="module")
def played():
    """Model, batch, variables and a function (variables, batch, key, train) -> outputs, changed collections."""
    model, batch = create("tsp_prl", phase_steps=1, **SMALL), random_batch()
    variables = random_variables(model, batch)

    def play(train):
        def apply(variables, batch, key):
            return model.apply(variables, batch, train=train, mutable=["schedule"], rngs={"dropout": key})

        return jax.jit(apply)

    return model, batch, variables, {train: play(train) for train in (False, True)}


def at(variables, step):
    return {**variables, "schedule": {"step": jnp.int32(step)}}


@pytest.mark.parametrize("train", [False, True])
def test_shapes_and_the_chain_of_windows(played, train):
    _, batch, variables, play = played
    outputs, _ = play[train](variables, batch, jax.random.key(0))
    chex.assert_shape([outputs.windows, outputs.moved], (B, H, 2))
    chex.assert_shape(outputs.branches, (B, H, 5, 2))
    chex.assert_shape([outputs.iou, *jax.tree.leaves((outputs.root, outputs.leaf))], (B, H))
    units = batch.video_mask.sum(1)
    np.testing.assert_array_equal(outputs.windows[:, 0], first_window(jnp.array(units)))
    np.testing.assert_array_equal(outputs.windows[:, 1:], outputs.moved[:, :-1])
    for t in range(H):
        reachable = next_windows(outputs.windows[:, t], jnp.array(units))
        taken = reachable[np.arange(B), outputs.root.action[:, t], outputs.leaf.action[:, t]]
        np.testing.assert_array_equal(outputs.moved[:, t], taken)
        assert (np.asarray(outputs.branches)[:, t, :, None] == reachable).all(-1).any(-1).all()
    moves = np.array(list(BRANCHES.values()))
    assert (outputs.leaf.action < moves[np.asarray(outputs.root.action)]).all()


def test_only_the_level_that_learns_is_drawn(played):
    _, batch, variables, play = played
    keys = jax.random.split(jax.random.key(0), 20)
    for step, drawn, greedy in ((0, "leaf", "root"), (1, "root", "leaf")):
        runs = [play[True](at(variables, step), batch, key)[0] for key in keys]
        first = {name: np.stack([getattr(r, name).action[:, 0] for r in runs]) for name in (drawn, greedy)}
        assert all(len(set(column)) > 1 for column in first[drawn].T)
        if greedy == "root":
            assert (first[greedy] == first[greedy][:1]).all()
        else:  # greedy for its branch
            assert all((np.asarray(r.moved) == _greedy(r)).all() for r in runs)
    tests = [play[False](variables, batch, key)[0] for key in keys[:2]]
    chex.assert_trees_all_equal(*tests)
    np.testing.assert_array_equal(tests[0].moved, _greedy(tests[0]))


def _greedy(outputs):
    branches, action = np.asarray(outputs.branches), np.asarray(outputs.root.action)
    return np.take_along_axis(branches, action[..., None, None], axis=2)[:, :, 0]


def test_the_counter_counts_updates(played):
    _, batch, variables, play = played
    assert variables["schedule"] == {"step": 0}
    key = jax.random.key(0)
    for train, after in ((True, 8), (False, 7)):
        _, changed = play[train](at(variables, 7), batch, key)
        assert changed["schedule"]["step"] == after


def test_outputs_do_not_read_the_annotation(played):
    _, batch, variables, play = played
    other = dataclasses.replace(batch, span=np.zeros_like(batch.span))
    results = [play[True](variables, b, jax.random.key(0))[0] for b in (batch, other)]
    chex.assert_trees_all_equal(*results)


def test_the_level_that_rests_does_not_move(played):
    # The rules of the config, with phases of one update; Adam, whose momentum would move it on.
    config = get_config().unlock()
    patterns = [rule[0] for rule in config.optimizer.rules]
    assert [rule[2:] for rule in config.optimizer.rules] == [
        ("phase 0 of 2, 200 steps",),
        ("phase 1 of 2, 200 steps",),
        (),
    ]
    assert config.model.phase_steps == 200
    config.optimizer.rules = tuple(
        (pattern, 1.0, *when)
        for pattern, when in zip(patterns, (("phase 0 of 2, 1 steps",), ("phase 1 of 2, 1 steps",), ()))
    )
    model, batch, variables, _ = played
    schedule = optax.constant_schedule(1e-3)
    optimizer = make_optimizer(config.optimizer, schedule, variables["params"], 10)
    step = jax.jit(make_step(model, optimizer, schedule, 10, 0))
    states = [initial_state(variables, optimizer)]
    for _ in range(4):
        states.append(step(states[-1], batch)[0])
    for number, (before, after) in enumerate(zip(states, states[1:])):
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params["agent"], after.params["agent"])
        levels = {
            level: [any(x.values()) for name, x in changed.items() if name.startswith(level)]
            for level in ("leaf", "root")
        }
        learns, rests = ("leaf", "root") if number % 2 == 0 else ("root", "leaf")
        assert any(levels[learns]) and not any(levels[rests])
        assert any(changed["state"].values()) and any(changed["gru"].values())


def test_the_query_reaches_every_state(played):
    _, batch, variables, play = played
    other = dataclasses.replace(batch, sentence=batch.sentence + 1)
    states = [play[False](variables, b, jax.random.key(0))[0].iou for b in (batch, other)]
    assert (states[0] != states[1]).all()


def test_requires_the_sentence_or_makes_one():
    assert create("tsp_prl").requires() == ("sentence",)
    model = create("tsp_prl", text="lstm", **SMALL)
    assert model.requires() == ()
    batch = dataclasses.replace(random_batch(), sentence=None)
    params = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)["params"]
    # Eight features of an LSTM over 5-d words, which the layer of the gate reads.
    assert params["sentence"]["lstm"]["layer_0"]["input_kernel"].shape == (5, 32)
    assert params["query"]["kernel"].shape == (8, 8)
