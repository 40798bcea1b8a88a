"""SCDM's own parts against numpy: the recurrent unit, the modulation, anchors, labels and loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases import scdm as case

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.scdm import BidirectionalSRU, ModulatedConv, Outputs, _standardised
from vmr_jax.training.experiment import abstract_variables

SMALL = {**case.SMALL, "layers": 2}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def applied():
    model, batch = create("scdm", **SMALL), random_batch()
    batch = batch.replace(video_mask=batch.video_mask | (np.arange(8) == 0)[:, None])  # one without padding
    variables = random_variables(model, batch)
    return model, variables, batch, outputs_of(model, variables, batch)


def test_shapes(applied):
    model, _, batch, outputs = applied
    # 16 slots, two layers: 4 and 2 cells, four anchors each.
    chex.assert_shape(outputs.logits, [(8, 16), (8, 8)])
    chex.assert_shape(outputs.offsets, [(8, 16, 2), (8, 8, 2)])
    moments = model.predict(outputs, batch)
    moments.check()
    real = np.isfinite(moments.scores)
    assert (np.asarray(moments.spans)[real] <= batch.duration.max() + 1e-4).all()
    assert (np.diff(np.where(real, moments.scores, -9), axis=1) <= 0).all()


def test_recurrent_unit_against_a_loop():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2, 5, 3)).astype(np.float32), np.array([[1] * 5, [1, 1, 1, 0, 0]], bool)
    layer = BidirectionalSRU(4)
    variables = layer.init(jax.random.key(1), x, mask)
    found = layer.apply(variables, x, mask)
    params = jax.tree.map(np.asarray, variables["params"])
    for b, length in ((0, 5), (1, 3)):
        for name, order, columns in (
            ("forward", range(length), slice(0, 2)),
            ("backward", range(length)[::-1], slice(2, 4)),
        ):
            state = np.zeros(2)
            for t in order:
                value = x[b, t] @ params[f"{name}_inputs"]["kernel"]
                f, r = np.split(
                    sigmoid(x[b, t] @ params[f"{name}_gates"]["kernel"] + params[f"{name}_gates"]["bias"]), 2
                )
                state = np.tanh(f * state + (1 - f) * value)
                np.testing.assert_allclose(found[b, t, columns], r * state + (1 - r) * value, atol=1e-6)
    assert not np.any(found[1, 3:])


def test_statistics_are_over_the_real_positions():
    # Channel 0 of the real positions is 1 and 3: mean 2, deviation 1. The padded 100 does not count.
    x = jnp.asarray([[[1.0], [3.0], [100.0]]])
    found = _standardised(x, jnp.asarray([[True, True, False]]))
    np.testing.assert_allclose(found[0, :2, 0], [-1, 1], atol=1e-5)


@pytest.mark.parametrize("attend", [True, False])
def test_modulation_against_numpy(attend):
    rng = np.random.default_rng(0)
    x, words = rng.normal(size=(1, 6, 4)), rng.normal(size=(1, 3, 4))
    sentence, query_mask = words.mean(1), np.ones((1, 3), bool)
    layer = ModulatedConv(4, kernel=3, stride=2, attend=attend)
    inputs = [jnp.asarray(y, jnp.float32) for y in (x, np.ones((1, 6)), words, query_mask, sentence)]
    inputs[1], inputs[3] = jnp.ones((1, 6), bool), jnp.asarray(query_mask)
    variables = layer.init(jax.random.key(2), *inputs)
    p = jax.tree.map(np.asarray, variables["params"])
    condition = np.repeat(sentence[0][None], 6, 0)
    if attend:
        a = p["attention"]
        hidden = np.tanh(
            (x[0] @ a["query"]["kernel"] + a["query"]["bias"])[:, None] + (words[0] @ a["key"]["kernel"])[None]
        )
        weights = np.exp((hidden @ a["score"]["kernel"])[..., 0])
        condition = weights / weights.sum(1, keepdims=True) @ words[0]
    gamma = np.tanh(condition @ p["scale"]["kernel"] + p["scale"]["bias"])
    beta = np.tanh(condition @ p["shift"]["kernel"] + p["shift"]["bias"])
    y = np.maximum(gamma * (x[0] - x[0].mean(0)) / np.sqrt(x[0].var(0) + 1e-6) + beta, 0)
    # Six positions, stride 2, kernel 3: TensorFlow's SAME pads one zero at the end; windows start at 0, 2, 4.
    padded = np.concatenate([y, np.zeros((1, 4))])
    expected = [
        np.einsum("kd,kdf->f", padded[s : s + 3], p["conv"]["kernel"]) + p["conv"]["bias"] for s in (0, 2, 4)
    ]
    np.testing.assert_allclose(layer.apply(variables, *inputs)[0], expected, atol=1e-5)


def test_anchors_and_decoding_by_hand():
    model = create("scdm", layers=2, ratios=(0.5, 1.0))
    # 16 slots: the first layer has 4 cells of 4 slots, centres 2, 6, 10, 14; widths 2 and 4.
    anchors = np.asarray(model._anchors(16, 0))
    np.testing.assert_array_equal(anchors, [[c, w] for c in (2, 6, 10, 14) for w in (2, 4)])
    # Offsets (1, -1) on width 4: centre + .1 * 4, width * exp(-.1).
    moved = model._decoded(jnp.asarray([[2.0, 4.0]]), jnp.asarray([[[1.0, -1.0]]]))
    np.testing.assert_allclose(moved, [[[2.4, 4 * np.exp(-0.1)]]], rtol=1e-6)


def test_loss_by_hand():
    # 8 slots of 1 s, one layer of two cells: anchors [0,4], [1,3], [4,8], [5,7] (ratios 1 and .5).
    model = create(
        "scdm",
        layers=1,
        ratios=(1.0, 0.5),
        overlap_weights=(2.0, 3.0, 5.0),
        centre_weight=7.0,
        width_weight=11.0,
    )
    batch = random_batch(size=1, clips=8, fill=0)
    batch = batch.replace(
        video_mask=np.ones((1, 8), bool),
        duration=np.float32([8]),
        span=np.float32([[0, 3]]),
        example_mask=np.ones(1, bool),
    )
    # IoU with [0,3]: 3/4, 2/3, 0, 0. Logit 3 of the third is above 2: a hard negative, the fourth an easy one.
    logits = np.float32([[0.0, 1.0, 3.0, -1.0]])
    outputs = Outputs((jnp.asarray(logits),), (jnp.zeros((1, 4, 2)),), (jnp.ones((1, 4), bool),))
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=0).items()}

    def entropy(x, t):
        return -t * np.log(sigmoid(x)) - (1 - t) * np.log(1 - sigmoid(x))

    assert terms["positive_0"] == pytest.approx(2 * (entropy(0, 0.75) + entropy(1, 2 / 3)) / 2, rel=1e-5)
    assert terms["hard_negative_0"] == pytest.approx(3 * entropy(3, 0), rel=1e-5)
    assert terms["easy_negative_0"] == pytest.approx(5 * entropy(-1, 0), rel=1e-5)
    # Centre 1.5 and width 3, of centre 2 and widths 4 and 2: errors .5, then 1 (smooth L1: .125 and .5).
    assert terms["centre_0"] == pytest.approx(7 * 0.125, rel=1e-5)
    assert terms["width_0"] == pytest.approx(11 * 0.5, rel=1e-5)


def eight_slots(real, span=(0, 3)):
    """One row of eight slots, of which `real` are real, a second each."""
    batch = random_batch(size=1, clips=8, fill=0)
    return batch.replace(
        video_mask=np.arange(8)[None] < real, duration=np.float32([real]), span=np.float32([span])
    )


def untouched(anchors, real=None):
    """Outputs of one layer that leave its anchors as they are, the first one best."""
    logits = jnp.arange(anchors, 0, -1, dtype=jnp.float32)[None]
    mask = jnp.ones((1, anchors), bool) if real is None else jnp.asarray([real])
    return Outputs((logits,), (jnp.zeros((1, anchors, 2)),), (mask,))


def predicted(model, outputs, batch):
    moments = model.predict(outputs, batch)
    return np.asarray(moments.spans)[np.isfinite(np.asarray(moments.scores))]


def test_width_limits_take_labels_away_and_predictions():
    model = create("scdm", layers=1, ratios=(0.25, 0.5, 1.0), least_width=1.0, most_width=4.0)
    # Widths 1, 2 and 4 of cells of 4 slots: only those strictly between 1 and 4 have a label.
    np.testing.assert_array_equal(model._labelled(model._anchors(8, 0)), [False, True, False] * 2)
    # They lie around 2 and 6; the others are never trained, so that their scores say nothing.
    np.testing.assert_allclose(predicted(model, untouched(6), eight_slots(8)), [[1, 3], [5, 7]])


@pytest.mark.parametrize("mask_padding,expected", [(True, [[0, 3], [1, 3]]), (False, [[1, 3], [5, 7]])])
def test_moments_and_the_end_of_the_video(mask_padding, expected):
    # Anchors [0,4], [1,3], [4,8], [5,7], the second cell of padding alone, as slots 3 to 7 are padding. Cut to
    # the video they are [0,3] and [1,3]. The official program cuts to the slots and drops what is wider than 3.
    model = create("scdm", layers=1, ratios=(1.0, 0.5), mask_padding=mask_padding)
    real = [True, True, not mask_padding, not mask_padding]
    np.testing.assert_allclose(predicted(model, untouched(4, real), eight_slots(3)), expected)


@pytest.mark.parametrize("mask_padding,expected", [(True, [[1, 3], [5, 7]]), (False, [[5, 7], [1, 3]])])
def test_order_of_equal_scores(mask_padding, expected):
    model = create("scdm", layers=1, ratios=(0.5,), mask_padding=mask_padding)
    outputs = untouched(2).replace(logits=(jnp.zeros((1, 2)),))
    np.testing.assert_allclose(predicted(model, outputs, eight_slots(8)), expected)


def test_moments_are_learned_in_whole_slots():
    # [0.9,3.9] becomes [0,3], in the official code int(frame / 29.4).
    model, whole = (create("scdm", layers=1, ratios=(1.0, 0.5), whole_slots=w) for w in (False, True))
    expected = model.loss(untouched(4), eight_slots(8), epoch=0)
    found = whole.loss(untouched(4), eight_slots(8, (0.9, 3.9)), epoch=0)
    chex.assert_trees_all_equal(found, expected)
    # [2.2,2.9] becomes empty: no anchor is positive, all four are negative.
    empty = whole.loss(untouched(4), eight_slots(8, (2.2, 2.9)), epoch=0)
    assert [float(empty[f"{kind}_0"].count) for kind in ("positive", "hard_negative", "easy_negative")] == [
        0,
        2,
        2,
    ]


def test_padded_slots_count_where_the_official_code_counts_them(applied):
    model, variables, batch, outputs = applied
    official = outputs_of(create("scdm", **SMALL, mask_padding=False), variables, batch)
    full = np.asarray(batch.video_mask).all(1)
    assert full.any() and not full.all()
    np.testing.assert_allclose(official.logits[0][full], outputs.logits[0][full], atol=1e-5)
    assert np.abs(official.logits[0] - outputs.logits[0])[~full].max() > 1e-3
    assert all(mask.all() for mask in official.real)


def test_padded_slots_change_nothing(applied):
    model, variables, batch, outputs = applied
    longer = outputs_of(model, variables, pad_clips(batch, 16))
    for expected, found in zip(outputs.logits, longer.logits):
        real = np.asarray(outputs.real[0] if expected.shape[1] == 16 else outputs.real[1])
        np.testing.assert_allclose(found[:, : expected.shape[1]][real], expected[real], atol=1e-5)


def test_slots_that_cannot_be_halved():
    with pytest.raises(UserError, match=r"has 16 slots. Set config.input.num_clips to a multiple of 32"):
        abstract_variables(create("scdm", layers=4), random_batch())
