"""QD-DETR: the query of another row, its losses by hand, and the words that the official code hides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.qd_detr import Outputs, other_words, rank_contrast

SMALL = dict(features=8, heads=2, hidden=12, encoder_layers=1, decoder_layers=1, num_queries=2)


def created(**fields):
    return create("qd_detr", **{**SMALL, **fields})


@functools.partial(jax.jit, static_argnames="model")
def terms_of(model, outputs, batch):
    return {name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}


# The query of another row.


def test_the_other_query_is_that_of_the_next_real_row_with_another_example():
    # Row 1 only fills the batch; rows 3 and 4 are one example, drawn twice.
    batch = dataclasses.replace(
        random_batch(size=5),
        example_index=np.int32([7, 7, 3, 9, 9]),
        example_mask=np.array([True, False, True, True, True]),
    )
    words = jnp.arange(5.0)[:, None, None] * jnp.ones((5, 7, 1))
    other, mask, found = jax.jit(other_words)(words, batch)
    # 0 -> 2, as 1 is not real; 2 -> 3; 3 and 4, which are the same example, -> 0.
    real = batch.example_mask
    assert other[real, 0, 0].tolist() == [2, 3, 0, 0]
    np.testing.assert_array_equal(mask[real], batch.query_mask[[2, 3, 0, 0]])
    assert found[real].all()


def test_a_row_alone_has_no_other_query():
    batch = dataclasses.replace(random_batch(size=3), example_mask=np.array([False, True, False]))
    assert not jax.jit(other_words)(jnp.zeros((3, 7, 2)), batch)[2][1]


def test_there_is_no_other_query_at_evaluation():
    model, batch = created(), random_batch(size=3, fill=0)
    variables = random_variables(model, batch)
    trained, evaluated = (outputs_of(model, variables, batch, train=train) for train in (True, False))
    assert trained.has_other.all() and not evaluated.has_other.any()
    real = batch.video_mask
    assert (trained.other_saliency[real] > MASKED).all() and (trained.other_saliency[~real] == MASKED).all()
    assert (evaluated.other_saliency == MASKED).all()


# Losses.


def outputs_by_hand(saliency, other):
    """One layer and two slots, [2, 6] of 10 s exactly and [8, 10], as likely as each other."""
    saliency, other = (0.5 * jnp.log(jnp.float32([x])) for x in (saliency, other))
    return Outputs(
        logits=jnp.zeros((1, 1, 2, 2)),
        spans=jnp.float32([[[[0.4, 0.4], [0.9, 0.2]]]]),
        saliency=saliency,
        other_saliency=other,
        has_other=jnp.ones(1, bool),
        window_draws=jnp.zeros((1, 1)),
        clip_draws=jnp.zeros((1, saliency.shape[1])),
    )


def batch_by_hand(**fields):
    """Two clips of 5 s and the moment [2, 6], which holds the middle of the first, 2.5 s."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=2, fill=0))
    return dataclasses.replace(
        batch,
        video_mask=np.ones((1, 2), bool),
        duration=np.float32([10]),
        span=np.float32([[2, 6]]),
        windows=np.float32([[[2, 6]]]),
        window_mask=np.ones((1, 1), bool),
        saliency=np.float32([[3, 1]]),
        **fields,
    )


def test_ranks_by_hand():
    # At temperature 1/2 the shares are 4/8 and 1/8, of the other query 1/8 and 2/8. At level 1 both clips are
    # positive: (log 2 + log 8) / 2 = 2 log 2; at levels 2 and 3 the first: log 2 each; higher ones have none.
    outputs, mask = outputs_by_hand([4, 1], [1, 2]), jnp.ones((1, 2), bool)
    found = rank_contrast(outputs, jnp.float32([[3, 1]]), mask, 12, 0.5)
    np.testing.assert_allclose(found, [4 * np.log(2) / 12], rtol=1e-5)
    # Without the second clip, which is padding: 4/7, of three levels.
    outputs = dataclasses.replace(outputs, saliency=outputs.saliency.at[0, 1].set(MASKED))
    found = rank_contrast(outputs, jnp.float32([[3, 1]]), mask.at[0, 1].set(False), 12, 0.5)
    np.testing.assert_allclose(found, [3 * np.log(7 / 4) / 12], rtol=1e-5)


def test_loss_by_hand():
    terms = terms_of(created(), outputs_by_hand([4, 1], [1, 2]), batch_by_hand())
    # The moment is the first slot: no distance, no gap. Classes: (1 + .1) * log 2 / 2, times 4. The hard pair
    # is clip 0 (3) over 1 (1), log 4 / 2 = .69 ahead, more than .2; both are relevant, so it comes twice.
    # Of the other query: sigmoid(log(x) / 2) = r / (1 + r) with r = sqrt(x), -log(1 - ...) = log(1 + r).
    expected = {
        "span": 0.0,
        "giou": 0.0,
        "label": 2.2 * np.log(2),
        "saliency": 0.0,
        "rank": 4 * np.log(2) / 12,
        "negative": np.log(1 + 1) + np.log(1 + np.sqrt(2)),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, abs=1e-5)


def test_without_annotators_relevant_clips_have_level_1_and_a_row_alone_no_negatives():
    model = created(annotated_saliency=False)
    outputs = dataclasses.replace(
        outputs_by_hand([4, 1], [1, 1]),
        other_saliency=jnp.full((1, 2), MASKED),
        has_other=jnp.zeros(1, bool),
    )
    terms = terms_of(model, outputs, batch_by_hand())
    # The first clip is relevant: share 4/5, level 1 alone. It is .69 ahead.
    expected = {"saliency": 0.0, "rank": np.log(5 / 4) / 12, "negative": 0.0}
    assert {name: float(terms[name]) for name in expected} == pytest.approx(expected, abs=1e-5)


# What is read.


def test_the_official_code_hides_words_by_the_masks_of_other_rows():
    batch = random_batch(size=3, clips=3, words=2, fill=1)
    batch = dataclasses.replace(
        batch,
        video_mask=np.array([[True, True, False], [True] * 3, [True, False, False]]),
        query_mask=np.array([[True, False], [True, True], [True, False]]),
    )
    plain, official = (
        created(official_padding=x)._seen(batch, jnp.asarray(batch.query_mask)) for x in (False, True)
    )
    np.testing.assert_array_equal(plain, batch.query_mask)
    # Two real rows, two heads: head h of row b has the mask of row (2 b + h) mod 2 = h. That of row 0 hides
    # word 1 from clip 2, that of row 1 nothing; word 1 of row 0 is padding.
    assert official.shape == (3, 2, 3, 2)
    expected = np.ones((2, 2, 3, 2), bool)
    expected[0, :, :, 1] = False
    expected[1, 0, 2, 1] = False
    np.testing.assert_array_equal(official[:2], expected)


def test_sound_is_read_beside_the_clips_with_their_bounds():
    model, batch = created(audio=True), random_batch(size=2, fill=0)
    rows = model._rows(batch)
    ends = np.stack([np.arange(16) / 16, np.arange(1, 17) / 16], -1)
    full = dataclasses.replace(batch, video_mask=np.ones((2, 16), bool))
    np.testing.assert_allclose(model._rows(full)[0, :, 6:8], ends, rtol=1e-6)
    np.testing.assert_array_equal(rows[..., 8:12], batch.audio)
    np.testing.assert_array_equal(rows[..., 12:], rows[..., 6:8])
    assert model.requires() == ("audio", "windows", "saliency")


def test_missing_fields_and_an_odd_width_are_told():
    batch = dataclasses.replace(random_batch(size=2), windows=None, window_mask=None, saliency=None)
    with pytest.raises(UserError, match="reads windows and saliency, and this batch has none"):
        jax.eval_shape(lambda b: created().init(jax.random.key(0), b, train=False), batch)
    model = created(features=6, annotated_saliency=False, all_windows=False)
    with pytest.raises(UserError, match="it must be a multiple of 4"):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
