"""LGI: labels, losses and prediction by hand, attention against numpy, the ablations."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import assert_fast_forms_equal_the_plain_ones, random_variables
from batches import random_batch
from cases.lgi import SMALL

from vmr_jax import published
from vmr_jax.configs.lgi import get_config
from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.lgi import (
    LocalContext,
    Outputs,
    SequentialQueryAttention,
    diversity_loss,
    guidance_loss,
    inside_labels,
)
from vmr_jax.training.experiment import initial_variables
from vmr_jax.types import Batch

NO_PHRASES = {**SMALL, "num_phrases": 1, "global_layers": 0}  # compiles faster


def bare_batch():
    """A random batch without the optional fields."""
    optional = {field.name: None for field in dataclasses.fields(Batch) if field.default is None}
    return dataclasses.replace(random_batch(), **optional)


def shapes(**fields):
    model = create("lgi", **{**SMALL, **fields})
    return jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())["params"]


@functools.lru_cache
def runner(model):
    """The outputs of a training step, compiled once."""

    def run(variables, batch, key):
        rngs = {"dropout": key}
        return model.apply(variables, batch, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    return jax.jit(run)


def outputs_of(model, variables, batch, key=0):
    return runner(model)(variables, batch, jax.random.key(key))


@pytest.fixture(scope="module")
def pair():
    model = create("lgi", **SMALL)
    return model, random_variables(model, random_batch())


@pytest.mark.parametrize(
    "span,clips,expected",
    [
        ((2.0, 6.0), 10, [2, 3, 4, 5, 6]),  # ends are rounded and included: 2..6 of clips of 1 s
        ((2.5, 5.5), 10, [2, 3, 4, 5, 6]),  # round(2.5) = 2, round(5.5) = 6, halves to even
        ((3.1, 3.2), 10, [3, 4]),  # at least one clip after the first
        ((9.8, 10.0), 10, [9]),  # round(9.8) = 10 is cut to 9; the end, 10, is no clip
        ((5.0, 10.0), 4, [2, 3]),  # four clips of 2.5 s: round(2), round(4) = 4, which is padding
    ],
)
def test_labels_are_from_start_to_end_inclusive(span, clips, expected):
    mask = np.arange(12)[None] < clips
    inside = inside_labels(jnp.float32([span]), jnp.float32([10]), mask)
    chex.assert_shape(inside, (1, 12))
    assert np.flatnonzero(inside[0]).tolist() == expected


def test_an_official_label_can_reach_into_padding():
    # As the last case above, with the clip that is padding.
    mask = np.arange(12)[None] < 4
    inside = inside_labels(jnp.float32([[5, 10]]), jnp.float32([10]), mask, official_padding=True)
    assert np.flatnonzero(inside[0]).tolist() == [2, 3, 4]


def test_guidance_by_hand():
    attention = jnp.float32([[0.5, 0.25, 0.25, 0], [1, 0, 0, 0]])
    inside = np.array([[True, True, False, False], [False, True, False, False]])
    # (log 2 + log 4) / 2 = 1.5 log 2; -log(1e-8) = 8 log 10.
    np.testing.assert_allclose(guidance_loss(attention, inside), [1.5 * np.log(2), 8 * np.log(10)], rtol=1e-6)


def test_diversity_by_hand():
    # A A^T of two phrases at different words is I; at the same word, all ones; each on both halves of (.5, .5):
    # all .5. Minus .3 I, squared and added up: 2 * .7^2; 2 * .7^2 + 2 * 1; 2 * .2^2 + 2 * .5^2.
    words = jnp.float32([[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]])
    np.testing.assert_allclose(diversity_loss(words, 0.3), [0.98, 2.98, 0.58], rtol=1e-6)


def one_pair():
    """A video of 20 s in four clips, a moment of 5 to 10 s."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0))
    return dataclasses.replace(
        batch, video_mask=np.ones((1, 4), bool), duration=np.float32([20]), span=np.float32([[5, 10]])
    )


def test_loss_by_hand():
    outputs = Outputs(
        span=jnp.float32([[0.45, 2.0]]),
        attention=jnp.full((1, 4), 0.25),
        words=jnp.float32([[[1, 0], [1, 0]]]),
    )

    def terms(**fields):
        found = create("lgi", **{**SMALL, **fields}).loss(outputs, one_pair(), epoch=jnp.int32(0))
        return {name: float(term.value()) for name, term in found.items()}

    # The moment is .25 to .5: errors .2 and 1.5, smooth L1 .2^2 / 2 + (1.5 - .5) = 1.02. All clips cost log 4.
    # Diversity as in the test above, 2 * .7^2 + 2 = 2.98.
    expected = {"regression": 1.02, "attention_guidance": np.log(4), "distinct_query_attention": 2.98}
    assert terms() == pytest.approx(expected, rel=1e-6)
    weighted = terms(guidance_weight=0.5, diversity_weight=2.0)
    assert weighted == pytest.approx(
        {"regression": 1.02, "attention_guidance": np.log(4) / 2, "distinct_query_attention": 5.96}, rel=1e-6
    )
    assert set(terms(guidance_weight=0.0, diversity_weight=0.0)) == {"regression"}


def test_prediction_is_one_moment_in_seconds():
    batch = jax.tree.map(lambda x: x[:3], random_batch())
    batch = dataclasses.replace(batch, duration=np.float32([20, 10, 30]))
    span = jnp.float32([[0.25, 0.5], [0.8, 1.3], [0.6, 0.4]])
    outputs = Outputs(span=span, attention=jnp.ones((3, 16)) / 16, words=None)
    moments = create("lgi", **SMALL).predict(outputs, batch)
    moments.check()
    # The second goes beyond its video; the third, 18 to 12 s, ends before it starts and is empty.
    np.testing.assert_allclose(moments.spans[:, 0], [[5, 10], [8, 13], [18, 18]], rtol=1e-6)
    np.testing.assert_array_equal(moments.scores, np.ones((3, 1)))


def test_phrases_equal_numpy():
    rng = np.random.default_rng(0)
    words, sentence = rng.normal(size=(2, 4, 6)).astype("f"), rng.normal(size=(2, 6)).astype("f")
    mask = np.array([[True] * 4, [True, True, False, False]])
    module = SequentialQueryAttention(6, 5, 3, jnp.float32)
    variables = module.init(jax.random.key(0), words, sentence, mask)
    phrases, attention = module.apply(variables, words, sentence, mask)
    chex.assert_shape(phrases, (2, 3, 6))
    chex.assert_shape(attention, (2, 3, 4))
    p = jax.tree.map(np.asarray, variables["params"])

    def linear(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    for b, length in enumerate((4, 2)):
        phrase = np.zeros(6)
        for n in range(3):
            guide = np.maximum(0, linear("guide", np.r_[linear(f"query_{n}", sentence[b]), phrase]))
            real = words[b, :length]
            logits = linear("score", np.tanh(linear("key", guide) + linear("word", real)))[:, 0]
            weights = np.exp(logits) / np.exp(logits).sum()
            phrase = weights @ real
            np.testing.assert_allclose(attention[b, n], np.r_[weights, np.zeros(4 - length)], atol=1e-6)
            np.testing.assert_allclose(phrases[b, n], phrase, atol=1e-5)


def test_local_context_equals_numpy():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2, 5, 2)), np.arange(5)[None] < np.array([5, 3])[:, None]
    module = LocalContext(2, 3, jnp.float32)
    variables = module.init(jax.random.key(0), jnp.float32(x), mask, False)
    found, _ = module.apply(variables, jnp.float32(x), mask, True, mutable=["batch_stats"])

    def normed_conv(y, layer):
        kernel = np.asarray(variables["params"][f"conv_{layer}"]["kernel"])  # [3,2,2]
        padded = np.pad(y, ((0, 0), (1, 1), (0, 0)))
        y = sum(padded[:, k : k + 5] @ kernel[k] for k in range(3))
        real = y[mask]  # scale 1 and bias 0 at first
        return np.where(mask[..., None], (y - real.mean(0)) / np.sqrt(real.var(0) + 1e-5), 0)

    x = np.where(mask[..., None], x, 0)
    expected = np.maximum(0, x + normed_conv(np.maximum(0, normed_conv(x, 0)), 1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padded_clips_and_fillers_change_nothing(pair):
    model, variables = pair
    model = model.copy(dropout=0.0)  # draws of clips depend on their number
    batch = bare_batch()

    def padded(x, fill=0):
        return np.concatenate([x, np.full_like(x, fill)], axis=1)

    longer = dataclasses.replace(batch, video=padded(batch.video, 7.0), video_mask=padded(batch.video_mask))
    longer.video[~longer.example_mask] = 5.0
    expected = outputs_of(model, variables, batch)
    found = outputs_of(model, variables, longer)
    real = batch.example_mask
    np.testing.assert_allclose(found.span[real], expected.span[real], atol=1e-5)
    np.testing.assert_allclose(found.attention[real, :16], expected.attention[real], atol=1e-5)
    np.testing.assert_array_equal(found.attention[:, 16:], 0)
    np.testing.assert_allclose(found.words[real], expected.words[real], atol=1e-5)
    chex.assert_shape(found.span, (8, 2))


def test_one_phrase_is_the_sentence():
    model, found = create("lgi", **NO_PHRASES), shapes(num_phrases=1)
    assert {"fusion_0", "local_0"} <= set(found)
    assert not {"phrases", "aggregate", "fusion_1"} & set(found)
    outputs = Outputs(span=jnp.zeros((8, 2)), attention=jnp.ones((8, 16)) / 16, words=None)
    assert set(model.loss(outputs, random_batch(), epoch=jnp.int32(0))) == {"regression", "attention_guidance"}


def test_words_are_learned_from_random_ones_or_taken_from_the_batch():
    batch = random_batch()  # ids 2 to 9, vectors of 5 numbers
    model = create("lgi", vocab_size=10, **NO_PHRASES)
    variables = initial_variables(model, batch, 0)
    table = np.array(variables["params"]["words"])
    chex.assert_shape(table, (10, 5))
    assert 0.7 < table.std() < 1.3  # N(0,1), 50 draws
    run = jax.jit(lambda v, b: model.apply(v, b, train=False).span)
    expected = run(variables, batch)
    without = dataclasses.replace(batch, query_vectors=np.zeros_like(batch.query_vectors))
    np.testing.assert_array_equal(run(variables, without), expected)
    changed = run({**variables, "params": {**variables["params"], "words": -table}}, batch)
    assert np.abs(changed - expected).max() > 1e-6
    assert {k: v.shape for k, v in shapes()["words"].items()} == {"unknown": (1, 5)}


def test_a_word_without_a_vector_has_the_learned_one():
    model, batch = create("lgi", **NO_PHRASES), random_batch()
    variables = random_variables(model, batch)
    run = jax.jit(lambda v, b: model.apply(v, b, train=False).span)
    vectors = batch.query_vectors.copy()
    vectors[:, 1] = 0
    absent = dataclasses.replace(batch, query_vectors=vectors)
    vectors = vectors.copy()
    vectors[:, 1] = variables["params"]["words"]["unknown"]
    given = dataclasses.replace(batch, query_vectors=vectors)
    np.testing.assert_allclose(run(variables, absent), run(variables, given), atol=1e-6)
    assert np.abs(run(variables, absent) - run(variables, batch)).max() > 1e-6


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(activation="tanh"), 'activation of lgi is "tanh"[.] Known: relu, sigmoid'),
        (dict(max_clips=4), "positions for 4 clips, and the batch has 16"),
        (dict(local_kernel=4), "local_kernel is 4; it must be odd"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        shapes(**fields)


def test_options_of_the_config_are_the_ablations():
    full = get_config("charades_sta").model
    assert (full.num_phrases, full.global_layers, full.guidance_weight, full.diversity_weight) == (3, 2, 1, 1)
    sentence = get_config("charades_sta,no_sqan").model
    assert (sentence.num_phrases, sentence.global_layers, sentence.heads) == (1, 1, 1)
    both = get_config("charades_sta,no_dqa,no_tag")
    assert (both.model.guidance_weight, both.model.diversity_weight) == (0, 0)
    assert published.rows(both, "test") == []


def test_fast_forms_equal_the_plain_ones():
    """Outputs and gradients of a ragged batch, without dropout."""
    model, batch = create("lgi", **{**SMALL, "dropout": 0.0}), random_batch()
    variables = random_variables(model, batch)

    def run():
        def total(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
            )
            return sum(x.value() for x in model.loss(outputs, batch, epoch=jnp.int32(0)).values()), outputs

        return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])

    assert_fast_forms_equal_the_plain_ones(run)
