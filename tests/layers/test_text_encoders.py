"""DistilBERT and CLIP's text tower: sizes, padding, who sees whom; their values are in the import's tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.distilbert import DistilBert
from vmr_jax.layers.text import SubwordEmbedding

LENGTHS = np.array([5, 3, 1, 0])  # the last row is a filler


def sentences(length=5):
    """Ids and mask [4,length]; what padding holds depends on `length`."""
    ids = np.random.default_rng(0).integers(0, 20, (4, 5)).astype(np.int32)
    mask = np.arange(length)[None] < LENGTHS[:, None]
    return np.where(mask, np.pad(ids, ((0, 0), (0, length - 5))), length), mask


def distilbert(dropout=0.0, dtype=jnp.float32):
    model = DistilBert(20, 8, 1, 2, 12, 7, dropout, dtype)
    return model, lambda ids, mask: (ids, mask, jnp.arange(len(ids)), False)


def clip(dtype=jnp.float32):
    return ClipText(20, 8, 1, 2, 7, 6, dtype), lambda ids, mask: (ids, mask)


def initial(model, arguments):
    return jax.jit(lambda: model.init(jax.random.key(0), *arguments(*sentences())))()


@pytest.fixture(scope="module", params=[distilbert, clip])
def encoder(request):
    """(parameters, ids, mask -> [states, and what else the encoder returns]), and parameters."""
    model, arguments = request.param()
    params = initial(model, arguments)
    # Far from the small initial values, with which the attention would be nearly uniform.
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    apply = jax.jit(lambda params, ids, mask: jax.tree.leaves(model.apply(params, *arguments(ids, mask))))
    return apply, params


@pytest.mark.parametrize(
    "model, count",
    [
        # Embeddings (30522 + 512) * 768 and a norm 2 * 768; 6 layers of 4 * (768^2 + 768) for the attention,
        # 768 * 3072 + 3072 and 3072 * 768 + 768 for the feed-forward network, 2 norms. As transformers counts.
        (DistilBert(), 23_835_648 + 6 * (2_362_368 + 2_362_368 + 2_360_064 + 3_072)),
        # Embeddings (49408 + 77) * 512; 12 layers of 4 * (512^2 + 512), 512 * 2048 + 2048, 2048 * 512 + 512, 2
        # norms; the last norm 2 * 512 and the projection 512^2.
        (ClipText(), 25_336_320 + 12 * (1_050_624 + 1_050_624 + 1_049_088 + 2_048) + 1_024 + 262_144),
    ],
)
def test_the_defaults_have_the_published_number_of_parameters(model, count):
    ids, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    rest = (jnp.arange(1), False) if isinstance(model, DistilBert) else ()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, mask, *rest))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_padding_changes_nothing(encoder):
    apply, params = encoder
    short, long = (apply(params, *sentences(length)) for length in (5, 7))
    np.testing.assert_allclose(long[0][:, :5], short[0], atol=1e-5)
    np.testing.assert_array_equal(long[0][:, 5:], 0)
    assert np.abs(short[0][0, 4]).max() > 0.1 and not np.any(short[0][1, 3:])
    for x, y in zip(short[1:], long[1:]):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_padding_changes_no_gradient(encoder):
    apply, params = encoder

    def loss(params, ids, mask):
        return sum(jnp.sum(jnp.sin(x)) for x in apply(params, ids, mask))

    short, long = (jax.jit(jax.grad(loss))(params, *sentences(length)) for length in (5, 7))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), short, long)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(short))


@pytest.mark.parametrize("build, backwards", [(distilbert, True), (clip, False)])
def test_who_sees_whom(build, backwards):
    model, arguments = build()
    ids, mask = sentences()
    params = initial(model, arguments)
    other = ids.copy()
    other[0, 2] = (ids[0, 2] + 1) % 20
    apply = jax.jit(lambda x: jax.tree.leaves(model.apply(params, *arguments(x, mask)))[0])
    before, after = apply(ids), apply(other)
    changed = np.abs(after - before).max(-1) > 1e-6
    # CLIP is causal: the third subword changes itself and what follows; DistilBERT reads both ways.
    assert changed[0].tolist() == [backwards, backwards, True, True, True]
    assert not changed[1:].any()


def test_the_sentence_of_clip_is_its_last_real_subword_projected():
    model, arguments = clip()
    ids, mask = sentences()
    params = initial(model, arguments)
    states, sentence = model.apply(params, ids, mask)
    last = np.stack([states[0, 4], states[1, 2], states[2, 0], np.zeros(8)])
    expected = last @ np.asarray(params["params"]["projection"]["kernel"])
    np.testing.assert_allclose(sentence, expected, atol=1e-5)


def test_the_embedding_adds_subword_and_place():
    words, positions = jnp.array([[1.0, 2], [10, 20], [100, 200]]), jnp.array([[0.5, 0], [0.25, 0]])
    embedding = SubwordEmbedding(vocab_size=3, features=2, max_positions=2)
    variables = {"params": {"words": words, "positions": positions}}
    found = embedding.apply(variables, jnp.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(found, [[[100.5, 200], [1.25, 2]], [[10.5, 20], [10.25, 20]]])


def test_a_sentence_longer_than_the_positions_is_refused():
    model, arguments = clip()
    with pytest.raises(UserError, match="8 subwords, .* only 7 .*config.text.max_subwords to 7"):
        model.init(jax.random.key(0), *arguments(*sentences(8)))


def test_dropout_belongs_to_the_example():
    model, arguments = distilbert(dropout=0.5)
    ids, mask = sentences()
    params = initial(model, arguments)
    ids, mask = ids[[0, 0, 0]], mask[[0, 0, 0]]  # one sentence three times, as the examples 4, 7 and 4

    @jax.jit
    def train(index):
        return model.apply(params, ids, mask, index, True, rngs={"dropout": jax.random.key(2)})

    states = train(jnp.array([4, 7, 4]))
    np.testing.assert_array_equal(states[0], states[2])
    assert np.abs(states[0] - states[1]).max() > 0.1
    np.testing.assert_allclose(states[1], train(jnp.array([7, 0, 0]))[0], atol=1e-6)


@pytest.mark.parametrize("build", [distilbert, clip])
def test_half_precision_is_near(build):
    ids, mask = sentences()
    full, arguments = build()
    half, _ = build(dtype=jnp.bfloat16)
    params = initial(full, arguments)
    for x, y in zip(*(jax.tree.leaves(m.apply(params, *arguments(ids, mask))) for m in (full, half))):
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(x, y.astype(jnp.float32), atol=0.1)
