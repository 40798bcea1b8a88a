"""Completion of sentences: words, frames, losses and weights of frames by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from batches import random_batch

from vmr_jax.layers.attention import MultiHeadAttention
from vmr_jax.layers.completion import completion_loss, hide, known_words, sample, sinusoids


def test_clips_of_a_proposal_are_evenly_spaced():
    clips = jnp.arange(9.0)[None, :, None]
    # linspace(0, 2, 5) = 0, .5, 1, 1.5, 2 and linspace(0, 6, 5) = 0, 1.5, 3, 4.5, 6, cut to whole clips.
    found = sample(clips, jnp.array([[[2, 5], [1, 8], [8, 9]]]), 5)[0, :, :, 0]
    assert found.tolist() == [[2, 2, 3, 3, 4], [1, 2, 4, 5, 7], [8] * 5]


def test_a_third_of_the_words_is_hidden():
    # 3, 5 and 2 words: 1, 1 and 0 are hidden.
    mask = np.arange(5) < np.array([3, 5, 2])[:, None]
    keys = jnp.array([[0.0, 3.0, 1.0, 9.0, 9.0], [5.0, 4.0, 3.0, 2.0, 6.0], [1.0, 2.0, 9.0, 9.0, 9.0]])
    assert np.argwhere(hide(keys, mask, 3)).tolist() == [[0, 1], [1, 4]]
    # One at least, of those that are there.
    mask[2] = False
    mask[0, 1:] = False
    assert np.argwhere(hide(keys, mask, 3, at_least=1)).tolist() == [[0, 0], [1, 4]]


def test_completion_loss_by_hand():
    # One word of two; three classes, and at 1 the unknown word, which is none. The word has id 2, then the end,
    # id 0. Position 2 is padding.
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [1 / 3, 1 / 3, 1 / 3]])
    logits = jnp.insert(jnp.log(jnp.float32(p)), 1, 5.0, axis=1)[None, None] + 7
    query, mask = jnp.array([[2, 0]]), jnp.array([[True, False]])
    nll = [-np.log([0.5, 0.6][j]) for j in range(2)]
    uniform = [-np.log(p[j]).mean() for j in range(2)]
    smoothed = [0.9 * nll[j] + 0.1 * uniform[j] for j in range(2)]
    found = completion_loss(logits, query, mask, 0.1, True)
    np.testing.assert_allclose(found, [[np.mean(smoothed)]], rtol=1e-5)
    np.testing.assert_allclose(completion_loss(logits, query, mask, 0.1, False), [[smoothed[0]]], rtol=1e-5)


def test_words_that_the_vocabulary_lacks_are_left_out():
    """Whether it has no id for them (1) or the model has fewer classes than it has words (8)."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(words=5)).replace(
        query=np.array([[1, 4, 8, 2, 3]]),
        query_mask=np.array([[True, True, True, True, False]]),
        query_vectors=np.arange(5.0, dtype=np.float32)[None, :, None],
        content_words=np.array([[True, False, True, True, True]]),
    )
    found = known_words(batch, 5)
    np.testing.assert_array_equal(found.query, [[4, 2, 0, 0, 0]])
    np.testing.assert_array_equal(found.query_mask, [[True, True, False, False, False]])
    np.testing.assert_array_equal(found.query_vectors[..., 0], [[1, 3, 0, 0, 0]])
    np.testing.assert_array_equal(found.content_words, [[False, True, False, False, False]])


def test_positions_by_hand():
    # F = 4: frequencies 1 and 10^-4; sines before cosines; the start has none.
    found = sinusoids(3, 4)
    rows = [[np.sin(p), np.sin(p * 1e-4), np.cos(p), np.cos(p * 1e-4)] for p in (1, 2)]
    np.testing.assert_allclose(found, [[0] * 4, *rows], atol=1e-7)


def test_weights_of_keys_multiply_the_attention():
    # One head of width 1; queries and keys are zero, so that attention is uniform before the weights. Values
    # are the steps' own: 1, 2, 4; weights 1, .5, 0 of two real steps and .5 of padding.
    attention = MultiHeadAttention(1, 1)
    params = {name: {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)} for name in ("query", "key", "value")}
    params["value"]["kernel"] = jnp.ones((1, 1))
    x, mask = jnp.array([[[1.0], [2.0], [4.0]]]), jnp.array([[True, True, False]])
    weights, index = jnp.array([[1.0, 0.5, 0.5]]), jnp.zeros(1, jnp.int32)

    @jax.jit
    def attend(weights):
        return attention.apply({"params": params}, x, x, mask, index, False, key_weights=weights)

    np.testing.assert_allclose(attend(weights), np.full((1, 3, 1), (1 * 1 + 0.5 * 2) / 1.5), rtol=1e-6)
    # All in proportion to 1e-10, where no key has a weight.
    np.testing.assert_allclose(attend(0 * weights), np.full((1, 3, 1), 1.5), rtol=1e-6)
