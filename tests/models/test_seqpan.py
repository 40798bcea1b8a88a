"""SeqPAN: labels and losses by hand, parallel attention against numpy, and what must not change either."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables, outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.seqpan import SMALL

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.seqpan import Outputs, ParallelAttention, matching_labels, soft_cross_entropy, soft_labels


@pytest.mark.parametrize(
    "position,clips,expected",
    [
        (2, 5, [0, 0.25, 0.5, 0.25, 0]),
        (0, 5, [0.75, 0.25, 0, 0, 0]),  # there is no clip before it
        (3, 4, [0, 0, 0.25, 0.75, 0]),  # the clip behind it is padding
        (0, 1, [1, 0, 0, 0, 0]),
    ],
)
def test_a_clip_shares_its_label_with_its_neighbours(position, clips, expected):
    labels = soft_labels(jnp.array([position]), np.arange(5)[None] < clips)
    np.testing.assert_allclose(labels[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    "first,last,expected",
    [
        (2, 6, [0, 1, 1, 1, 2, 3, 3, 3, 0]),  # begin 1-3, end 5-7, one clip between them
        (2, 4, [0, 1, 1, 3, 3, 3, 0, 0, 0]),  # 3 is in both: the begin ends at max(2, 3 - 1)
        (2, 2, [0, 3, 3, 3, 0, 0, 0, 0, 0]),  # the begin ends at 2, and the end, from 1 on, is written over it
        (0, 1, [3, 3, 3, 0, 0, 0, 0, 0, 0]),
        (0, 8, [1, 1, 2, 2, 2, 2, 2, 3, 3]),
    ],
)
def test_clips_begin_are_inside_or_end_the_moment(first, last, expected):
    labels = matching_labels(jnp.array([first]), jnp.array([last]), np.ones((1, 9), bool))
    assert labels[0].tolist() == expected


def test_padding_neither_begins_nor_ends_a_moment():
    mask = np.arange(4)[None] < 3
    assert (matching_labels(jnp.array([0]), jnp.array([2]), mask) * mask)[0].tolist() == [1, 3, 3, 0]


def test_soft_cross_entropy_by_hand():
    # -(1/2 log 1/2 + 1/4 log 1/4 + 1/4 log 1/8), and a label of padding does not count.
    logits = jnp.log(jnp.float32([[1 / 4, 1 / 2, 1 / 8, 1 / 8]]))
    labels = jnp.float32([[1 / 4, 1 / 2, 1 / 4, 0]])
    expected = (0.5 + 0.25 * 2 + 0.25 * 3) * np.log(2)
    np.testing.assert_allclose(soft_cross_entropy(logits, labels), [expected], rtol=1e-6)


def test_loss_by_hand():
    model = create("seqpan", **SMALL, matching_weight=2.0)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0))
    batch = dataclasses.replace(
        batch, video_mask=np.ones((1, 4), bool), duration=np.float32([4]), span=np.float32([[0, 4]])
    )
    labels = jnp.zeros((4, 8)).at[jnp.arange(4), jnp.array([0, 0, 2, 3])].set(1.0)
    outputs = Outputs(start=jnp.zeros((1, 4)), end=jnp.zeros((1, 4)), match=jnp.zeros((1, 4, 4)), labels=labels)
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
    # Everything is one of four; vectors 0 and 1 are equal, so two of the twelve products are 1.
    expected = {"start": np.log(4), "end": np.log(4), "matching": 2 * np.log(4), "apart": 2 * np.sqrt(2)}
    assert terms == pytest.approx(expected, rel=1e-6)


def test_vectors_that_are_orthogonal_have_a_finite_gradient():
    model = create("seqpan", **SMALL)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0))

    def apart(labels):
        none = jnp.zeros((1, 4))
        outputs = Outputs(start=none, end=none, match=jnp.zeros((1, 4, 4)), labels=labels)
        return model.loss(outputs, batch, epoch=jnp.int32(0))["apart"].value()

    np.testing.assert_array_equal(jax.jit(jax.grad(apart))(jnp.eye(4, 8)), 0)


def test_parallel_attention_equals_numpy():
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(1, 3, 4)).astype("f"), rng.normal(size=(1, 2, 4)).astype("f")
    mask, other_mask = np.array([[True, True, False]]), np.array([[True, True]])
    module, row = ParallelAttention(4, 2, 0.0, jnp.float32), np.arange(1)
    given = (x, other, mask, other_mask, row, False)
    variables = initial_variables(module, 0, *given)
    found = jax.jit(lambda v: module.apply(v, *given))(variables)
    p = jax.tree.map(np.asarray, variables["params"])

    def linear(name, y):
        return y @ p[name]["kernel"] + p[name].get("bias", 0)

    def norm(y):
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    def attended(name, keys):
        q, k, v = linear("query", own), linear(f"{name}_key", keys), linear(f"{name}_value", keys)
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(2))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
        return linear(f"{name}_output", np.concatenate(heads, 1))

    own, others = norm(x[0, :2]), norm(other[0])
    of_self, of_other = attended("self", own), attended("other", others)
    gated = linear(
        "guided",
        sigmoid(linear("self_gate", of_self)) * of_other + sigmoid(linear("other_gate", of_other)) * of_self,
    )
    score = linear("score_own", own) + linear("score_guided", gated)
    value = linear("value_own", own) + linear("value_guided", gated)
    expected = x[0, :2] + linear("hidden", sigmoid(score) * value)
    expected = expected + linear("output", norm(expected))
    np.testing.assert_allclose(found[0, :2], expected, atol=1e-5)


def test_noise_is_drawn_in_training_alone():
    model = create("seqpan", **SMALL, dropout=0.0)
    batch = random_batch()
    variables = random_variables(model, batch)
    plain = outputs_of(model, variables, batch)
    first, second = (outputs_of(model, variables, batch, train=True, key=key) for key in (0, 1))
    real = batch.video_mask
    # The differences are noise over the temperature: Gumbel has the mean .577 and the deviation pi / sqrt(6).
    noise = (first.match - plain.match)[real] * model.temperature
    assert noise.mean() == pytest.approx(0.577, abs=0.3) and noise.std() == pytest.approx(1.28, abs=0.3)
    assert np.abs(first.match - second.match)[real].max() > 1


def test_padded_clips_and_words_change_nothing():
    model = create("seqpan", **SMALL, dropout=0.0)
    batch = random_batch()
    variables = random_variables(model, batch)
    expected, found = (outputs_of(model, variables, b) for b in (batch, pad_clips(batch, 5).pad(L=3, C=2)))
    real = batch.video_mask
    for name in ("start", "end", "match"):
        np.testing.assert_allclose(
            getattr(found, name)[:, :16][real], getattr(expected, name)[real], atol=5e-5, err_msg=name
        )


@pytest.mark.parametrize(
    "fields,change,message",
    [
        (dict(max_positions=4), {}, "positions for 4 clips and words, and the batch has 16"),
        ({}, dict(query_chars=None), "reads the characters of the query"),
    ],
)
def test_wrong_settings_are_told(fields, change, message):
    model = create("seqpan", **{**SMALL, **fields})
    batch = dataclasses.replace(random_batch(), **change)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
