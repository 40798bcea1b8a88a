"""CSMGAN: phrases, messages, gates and the loss by hand, and what padding does to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.csmgan import CrossMessages, GatedUpdate, Outputs, Phrases, WithinMessages

SMALL = dict(features=8, heads=2, widths=(1, 3), attention_layers=1, lstm_layers=1)
EPOCH = jnp.int32(0)


def test_phrases_are_the_maximum_over_one_two_and_three_words():
    layers = {f"words_{n}": {"kernel": jnp.ones((n, 1, 1)), "bias": jnp.zeros(1)} for n in (1, 2, 3)}
    words = jnp.float32([1, 2, 4, 8])[None, :, None]
    # Of one word: 1 2 4 8. Before and after it: 2 5 10 4. Two before, itself, two after: 5 10 5 10.
    found = jax.jit(lambda p: Phrases(jnp.float32).apply({"params": p}, words))(layers)
    np.testing.assert_allclose(found[0, :, 0], [5, 10, 10, 10])


def test_messages_are_normalised_over_their_receivers():
    """Clips log 3 and 0, a word 1 and a padded one: the word gives the clips 3/4 and 1/4 of itself."""
    clips, words = jnp.float32([np.log(3), 0])[None, :, None], jnp.float32([1, 0])[None, :, None]
    masks = jnp.ones((1, 2), bool), jnp.array([[True, False]])
    params = {"clips": {"kernel": jnp.ones((1, 1))}}
    messages = CrossMessages(1, jnp.float32)
    to_clips, to_words = jax.jit(lambda p: messages.apply({"params": p}, clips, words, *masks))(params)
    np.testing.assert_allclose(to_clips[0, :, 0], [3 / 4, 1 / 4], rtol=1e-6)
    # Each clip gives all of itself to the one word.
    np.testing.assert_allclose(to_words[0, :, 0], [np.log(3), 0], rtol=1e-6)


def test_messages_within_a_modality_give_away_every_node_once():
    nodes = jax.random.normal(jax.random.key(0), (2, 6, 4))
    mask = jnp.array([[True] * 6, [True] * 4 + [False] * 2])
    messages = WithinMessages(0.5, jnp.float32)
    found = jax.jit(lambda n: messages.apply({}, n, mask, jnp.arange(2), False))(nodes)
    sent = jnp.where(mask[..., None], nodes, 0).sum(1)
    np.testing.assert_allclose(found.sum(1), sent, rtol=1e-5)
    assert not found[1, 4:].any()
    # Of two equal nodes the places alone tell which hears more: sine 0 and 1, cosine 1 and cos 1, at F = 2.
    found = jax.jit(lambda n: messages.apply({}, n, jnp.ones((1, 2), bool), jnp.arange(1), False))(
        jnp.ones((1, 2, 2))
    )
    placed = np.array([[1, 2], [1 + np.sin(1), 1 + np.cos(1)]])
    weights = np.exp(placed @ placed.T)
    np.testing.assert_allclose(found[0, :, 0], (weights / weights.sum(0)).sum(1), rtol=1e-5)


def test_gates_by_hand():
    """Update 3/4, reset 1/2 and a candidate that reads the state alone: 2 / 4 + 3/4 tanh(2 / 2)."""
    params = {name: {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)} for name in ("reset", "update")}
    params["update"]["bias"] = jnp.full(1, np.log(3))
    params["candidate"] = {"kernel": jnp.float32([[0], [1]]), "bias": jnp.zeros(1)}
    message, state = jnp.full((1, 1, 1), 5.0), jnp.full((1, 1, 1), 2.0)
    found = jax.jit(lambda p: GatedUpdate(jnp.float32).apply({"params": p}, message, state))(params)
    np.testing.assert_allclose(found, 0.5 + 0.75 * np.tanh(1), rtol=1e-6)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, 0.5625 / 2),
        (dict(refine_low=0.5, refine_relative=False), (0.5625 + 0.25 + 0.25) / 4),
        (dict(refine_low=0.9, refine_relative=False), 0.0),
        (dict(refine_low=0.75), (0.5625 + 0.25 + 0.25) / 4),  # 1/2 is exactly 0.75 of 2/3
    ],
)
def test_loss_by_hand(fields, expected):
    """Clips of a second, moment in clips 1..2.

    IoUs of width 1: 0, 1/2, 1/2, 0; of width 3, where [-1, 1] and [2, 4] are not legal: -, 2/3, 2/3, -. Labels:
    0, 3/4, 3/4, 0; 1, 1. Above 0.8 * 2/3 are the two of width 3, [0, 2] and [1, 3]; from 0.5 on those of width
    1 too.
    """
    model = create("csmgan", **SMALL, **fields)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0)).replace(
        video_mask=np.ones((1, 4), bool), duration=np.float32([4]), span=np.float32([[1.2, 2.5]])
    )
    logits = jnp.zeros((1, 8)).at[0, 2].set(np.log(3)).at[0, 1].set(50.0)
    # [0, 2] becomes [.5, .5]: smooth L1 .125 and 1, in the mean .5625. [1, 3] becomes [1, 2]. [1, 1] and [2, 2]
    # stay, and are 1 off at one end: .25.
    offsets = jnp.zeros((1, 8, 2)).at[0, 3].set(jnp.float32([0.5, -1.5])).at[0, 5].set(jnp.float32([0, -1]))
    terms = model.loss(Outputs(logits, offsets), batch, epoch=EPOCH)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))  # anchor 2, of score and label 3/4
    np.testing.assert_allclose(terms["alignment"].value(), (5 * np.log(2) + entropy) / 8, rtol=1e-6)
    np.testing.assert_allclose(terms["regression"].value(), 1e-3 * expected, rtol=1e-6)


@pytest.fixture(scope="module")
def pair():
    model = create("csmgan", **SMALL)
    return model, random_variables(model, random_batch())


def test_padded_clips_and_words_change_nothing(pair):
    model, variables = pair
    batch = random_batch()
    expected = outputs_of(model, variables, batch)
    found = outputs_of(model, variables, pad_clips(batch.pad(L=3), 4))
    real = np.repeat(batch.video_mask, 2, axis=1)
    np.testing.assert_allclose(found.logits[:, : real.shape[1]][real], expected.logits[real], atol=1e-5)
    np.testing.assert_allclose(found.offsets[:, : real.shape[1]][real], expected.offsets[real], atol=1e-5)


def test_with_official_padding_they_do(pair):
    model, variables = pair
    official, batch = model.clone(official_padding=True), random_batch()
    full = batch.query_mask.all(1)
    assert full.any() and not full.all()
    expected, found = (outputs_of(m, variables, batch).logits for m in (model, official))
    changed = np.abs(found - expected).max(1)
    np.testing.assert_allclose(changed[full], 0, atol=1e-5)
    assert (changed[~full] > 1e-4).all()


@pytest.mark.parametrize(
    "fields, message",
    [(dict(heads=4), "4 heads cannot share 6 features equally"), (dict(features=7), "must be even")],
)
def test_wrong_settings_are_told(fields, message):
    model = create("csmgan", **{**SMALL, **fields})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
