"""Words without a pretrained vector."""

import dataclasses

import jax
import numpy as np
from batches import random_batch
from flax import linen as nn

from vmr_jax.layers.text import WordEmbedding


def test_words_without_a_vector_get_the_learned_one():
    batch = random_batch(size=2, fill=0)
    vectors = np.array(batch.query_vectors)
    vectors[0, 1] = 0  # every query has two words or more
    batch = dataclasses.replace(batch, query_vectors=vectors)
    module = WordEmbedding(unknown=nn.initializers.normal(1.0))
    variables = module.init(jax.random.key(0), batch)
    unknown = variables["params"]["unknown"]
    assert unknown.shape == (1, 5) and np.abs(unknown).max() > 0
    expected = vectors.copy()
    expected[0, 1] = unknown[0]  # padding stays zero
    np.testing.assert_array_equal(module.apply(variables, batch), expected)
    assert not WordEmbedding().init(jax.random.key(0), batch)


def test_fine_tuned_offsets_stand_beside_it():
    batch = random_batch(size=2, fill=0)
    module = WordEmbedding(vocab_size=10, unknown=nn.initializers.ones)
    variables = module.init(jax.random.key(0), batch)
    assert jax.tree.map(np.shape, variables["params"]) == {"unknown": (1, 5), "offset": (10, 5)}
    np.testing.assert_array_equal(module.apply(variables, batch), batch.query_vectors)
