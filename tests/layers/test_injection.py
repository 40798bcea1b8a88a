"""The two injections by hand, and an architecture that carries them: 2D-TAN."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch
from cases.two_d_tan import OPTIONS, SMALL

from vmr_jax.configs.two_d_tan import get_config
from vmr_jax.errors import UserError
from vmr_jax.layers.injection import SpatialDynamics, VisualContext, close_up, consistency
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.transformer import DecoderLayer, sine_positions
from vmr_jax.models import create


def test_close_up_keeps_the_order():
    tokens, kept = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    found, mask = close_up(tokens, kept)
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found[0, :2], [2, 4])
    vectors, same = close_up(tokens[..., None] * np.array([1, 10]), kept)
    np.testing.assert_array_equal(vectors[0, :2], [[2, 20], [4, 40]])
    np.testing.assert_array_equal(same, mask)


def test_consistency_by_hand():
    # Cosines of the movements: 1, 0; 0, 1. Of the queries: 1, .6; .6, 1.
    movement, dynamic = jnp.eye(2), jnp.float32([[1, 0], [0.6, 0.8]])
    np.testing.assert_allclose(consistency(movement, dynamic), [[0, 0.36], [0.36, 0]], atol=1e-6)


def dense(params, x):
    return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_movement_by_its_equations():
    """Eqs. 3 and 4 frame by frame in numpy, with an LSTM behind them; every third patch is masked."""
    batch = random_batch()
    mask = batch.object_mask & (np.arange(8 * 16 * 2).reshape(8, 16, 2) % 3 > 0)
    batch = dataclasses.replace(batch, object_mask=mask)
    dynamic = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    module = SpatialDynamics("lstm", 6, 2, 8, 0.0, jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), dynamic, batch)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1, params)  # biases are zero at first
    movement, words = jax.jit(module.apply)({"params": params}, dynamic, batch)

    rows = np.zeros((8, 16, 6), np.float32)
    for b in range(8):
        for t in range(16):
            heat = np.zeros(2, np.float32)
            for o in range(2):
                if mask[b, t, o]:
                    patch = dense(params["patch"], batch.objects[b, t, o])
                    heat[o] = dense(params["frame"], batch.video[b, t]) @ patch / np.sqrt(6)
            rows[b, t] = dense(params["heat"], heat)
    states = LSTM(6).apply({"params": params["lstm"]}, rows, batch.video_mask)
    for b in range(8):
        mean = np.mean([states[b, t] for t in range(16) if batch.video_mask[b, t]], axis=0)
        np.testing.assert_allclose(movement[b], mean / np.linalg.norm(mean), atol=1e-5)
    words_by_hand = dense(params["dynamic"], dynamic)
    words_by_hand /= np.linalg.norm(words_by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(words, words_by_hand, atol=1e-5)


def test_context_is_what_the_probe_finds_in_the_frames():
    """Eqs. 1 and 2, with the decoder layer taken apart."""
    batch, rng = random_batch(), np.random.default_rng(0)
    dynamic, probe = rng.normal(size=(2, 8, 6)).astype(np.float32)
    module = VisualContext(6, 2, 8, 0.0, jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), dynamic, probe, batch)["params"]
    found = jax.jit(module.apply)({"params": params}, dynamic, probe, batch)
    context = DecoderLayer(6, 2, 8, 0.0).apply(
        {"params": params["decoder"]}, probe[:, None], batch.video, np.ones((8, 1), bool), batch.video_mask,
        batch.example_index, train=False, memory_positions=sine_positions(batch.video_mask, 6),
    )  # fmt: skip
    expected = ((dense(params["dynamic"], dynamic) - context[:, 0]) ** 2).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # A sum: what a query of zeros lacks is all of the decoder's normalised output, which is F = 6 at first.
    nothing = jax.jit(module.apply)({"params": params}, jnp.zeros_like(dynamic), probe, batch)
    np.testing.assert_allclose(nothing, 6, rtol=1e-3)
    noise = np.where(batch.video_mask[..., None], batch.video, 7)
    other = jax.jit(module.apply)({"params": params}, dynamic, probe, batch.replace(video=noise))
    np.testing.assert_allclose(other, found, rtol=1e-5)
    still = jax.jit(module.apply)({"params": params}, dynamic, probe, batch.replace(video=batch.video[:, ::-1]))
    assert np.abs(still - found).max() > 1e-3


def encoded(params, batch, kept):
    """The sentences [B,F] of 2D-TAN of the words [B,L] that are kept, put side by side one by one."""
    vectors, mask = np.zeros_like(batch.query_vectors), np.zeros_like(batch.query_mask)
    for b in range(batch.size):
        rest = batch.query_vectors[b][kept[b]]
        vectors[b, : len(rest)], mask[b, : len(rest)] = rest, True
    return last_state(LSTM(8).apply({"params": params}, vectors, mask), mask)


@pytest.fixture(scope="module")
def carrier():
    model = create("two_d_tan", **SMALL, **OPTIONS["injections"], plugin_dropout=0.0)
    return model, random_variables(model, random_batch(), seed=3)


def test_a_carrier_compares_its_own_sentences(carrier):
    """Those of its LSTM; with the parts taken apart, and the map is that of the architecture alone."""
    model, variables = carrier
    batch, params = random_batch(), variables["params"]
    found = outputs_of(model, variables, batch, train=True)
    static, dynamic = (
        encoded(params["lstm"], batch, kept) for kept in (batch.static_words, batch.dynamic_words)
    )
    context = VisualContext(8, 2, 8, 0.0, jnp.float32)
    gap = jax.jit(context.apply)({"params": params["visual_context"]}, dynamic, static, batch)
    np.testing.assert_allclose(found.injected.context_gap, gap, rtol=1e-4)
    dynamics = SpatialDynamics("transformer", 8, 2, 8, 0.0, jnp.float32)
    moving = jax.jit(dynamics.apply)({"params": params["spatial_dynamics"]}, dynamic, batch)
    for name, expected in zip(("movement", "dynamic"), moving):
        np.testing.assert_allclose(getattr(found.injected, name), expected, atol=1e-5)
    alone = create("two_d_tan", **SMALL)
    own = {name: x for name, x in params.items() if name not in ("visual_context", "spatial_dynamics")}
    expected = outputs_of(alone, {"params": own}, batch, train=True)
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, random_variables(alone, batch)["params"])
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
    assert expected.injected is None


def test_injections_train_the_text_encoder_of_a_carrier_alone(carrier):
    model, variables = carrier
    batch = random_batch()

    def injections(params):
        outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(0)})
        terms = model.loss(outputs, batch, epoch=jnp.int32(0))
        return terms["context"].value() + terms["dynamics"].value()

    gradient = jax.jit(jax.grad(injections))(variables["params"])
    moved = {name for name, part in gradient.items() if any(np.abs(x).max() > 0 for x in jax.tree.leaves(part))}
    assert moved == {"lstm", "visual_context", "spatial_dynamics"}


def test_a_carrier_reads_nothing_of_them_at_test(carrier):
    model, variables = carrier
    batch = random_batch()
    bare = dataclasses.replace(batch, objects=None, object_mask=None, static_words=None, dynamic_words=None)
    expected = outputs_of(model, variables, bare)
    assert expected.injected is None
    np.testing.assert_array_equal(outputs_of(model, variables, batch).logits, expected.logits)
    # Retrieved with the static query: the whole query of a batch that has no other words.
    static = outputs_of(model.clone(test_query="static"), variables, batch)
    query_mask = np.arange(7) < batch.static_words.sum(1)[:, None]
    vectors = np.zeros_like(batch.query_vectors)
    vectors[query_mask] = batch.query_vectors[batch.static_words]
    only = batch.replace(query_vectors=vectors, query_mask=query_mask)
    np.testing.assert_allclose(static.logits, outputs_of(model, variables, only).logits, atol=1e-6)


def test_what_a_carrier_requires():
    assert create("two_d_tan").requires() == create("mmn", text="glove").requires() == ()
    assert create("mmn").requires() == ("subwords",)
    both = dict(context="static", dynamics="transformer")
    assert create("two_d_tan", **both).requires() == ("static_words", "dynamic_words", "objects")
    assert create("mmn", **both).requires() == ("subwords", "subword_static", "subword_dynamic", "objects")
    assert create("two_d_tan", context="video").requires() == ("dynamic_words",)
    assert create("two_d_tan", test_query="static").requires() == ("static_words",)


@pytest.mark.parametrize("arg", ["charades_sta,clip,vdi", "charades_sta,clip"])
def test_option_of_a_config(arg):
    config = get_config(arg)
    on = arg.endswith("vdi")
    assert (config.model.context, config.model.dynamics) == (
        ("static", "transformer") if on else ("off", "off")
    )
    assert ("objects" in config.dataset.streams) == on


def test_mistakes_are_named():
    batch = random_batch()
    for fields, message in (
        (dict(context="statics"), 'context of two_d_tan is "statics". Did you mean "static"?'),
        (dict(dynamics="lstm", plugin_heads=3), "plugin_heads is 3, and a sentence is 8 wide"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            model = create("two_d_tan", **{**SMALL, **fields})
            jax.eval_shape(lambda m=model: m.init(jax.random.key(0), batch, train=True))
    odd = create("two_d_tan", **{**SMALL, "features": 6})  # without the injections any width will do
    jax.eval_shape(lambda: odd.init(jax.random.key(0), batch, train=True))
