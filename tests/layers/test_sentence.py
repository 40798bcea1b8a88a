"""The vector of a query, of each kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.sentence import MeanState, SentenceVector

BATCH = random_batch()


def test_the_datas_own():
    np.testing.assert_array_equal(SentenceVector("sentence", 3).apply({}, BATCH), BATCH.sentence)


def test_mean_of_real_words():
    noise = np.where(BATCH.query_mask[..., None], BATCH.query_vectors, 9.0)
    got = SentenceVector("mean", 3).apply({}, dataclasses.replace(BATCH, query_vectors=noise))
    lengths = BATCH.query_mask.sum(1)
    for row, vectors, length in zip(got, BATCH.query_vectors, lengths):
        np.testing.assert_allclose(row, vectors[:length].mean(0), atol=1e-6)


def test_lstm_at_the_last_real_word():
    module = SentenceVector("lstm", 3)
    variables = initial_variables(module, 0, BATCH)
    states = LSTM(3).apply(
        {"params": variables["params"]["lstm"]}, BATCH.query_vectors, np.ones_like(BATCH.query_mask)
    )
    expected = states[np.arange(BATCH.size), BATCH.query_mask.sum(1) - 1]
    np.testing.assert_allclose(module.apply(variables, BATCH), expected, atol=1e-6)


def test_fine_tuned_words():
    variables = jax.eval_shape(SentenceVector("mean", 3, vocab_size=11).init, jax.random.key(0), BATCH)
    assert variables["params"]["words"]["offset"].shape == (11, 5)


def test_errors():
    with pytest.raises(UserError, match="this batch has none"):
        SentenceVector("sentence", 3).init(jax.random.key(0), dataclasses.replace(BATCH, sentence=None))


def test_a_bidirectional_lstm_has_an_even_width():
    with pytest.raises(UserError, match="5 wide; it must be even"):
        MeanState(5).init(jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.ones((1, 2), bool))
