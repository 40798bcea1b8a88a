"""VDI: masked queries, both injections, every ablation, and that nothing of them is left at test."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch
from cases.vdi import SMALL

from vmr_jax import published
from vmr_jax.configs.vdi import get_config
from vmr_jax.errors import UserError
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.transformer import DecoderLayer, sine_positions
from vmr_jax.models import create
from vmr_jax.models.vdi import Outputs, SpatialDynamics, VisualContext, close_up, consistency

CLIP = dict(text="clip", text_vocab=20, text_layers=1, text_heads=2, text_positions=7)
NO_DRAWS = dict(plugin_dropout=0.0)
MAP = {"map", "sentence_spaces", "text_encoder"}
TERMS = {"iou", "moment", "sentence"}
# Row of table 3 -> fields, terms of the loss beyond MMN's, the queries that are read, parts beyond MMN's.
BOTH = ("static", "dynamic")
ABLATIONS = {
    "baseline": (dict(context="off", dynamics="off"), set(), (), set()),
    "L_vc w/o Q": (dict(context="video", dynamics="off"), {"context"}, ("dynamic",), {"visual_context"}),
    "L_vc w/ Q": (dict(context="query", dynamics="off"), {"context"}, ("dynamic",), {"visual_context"}),
    "L_vc w/ Q^s": (dict(context="static", dynamics="off"), {"context"}, BOTH, {"visual_context"}),
    "L_sd w/ LSTM": (dict(context="off", dynamics="lstm"), {"dynamics"}, ("dynamic",), {"spatial_dynamics"}),
    "L_sd w/ Trans": (
        dict(context="off", dynamics="transformer"),
        {"dynamics"},
        ("dynamic",),
        {"spatial_dynamics"},
    ),
    "L_vc + L_sd": ({}, {"context", "dynamics"}, BOTH, {"visual_context", "spatial_dynamics"}),
}


@functools.cache
def compiled(model, train):
    """(variables, batch) -> outputs; the state after a training step is dropped."""

    def run(variables, batch):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, batch, train=train, mutable=["batch_stats"], rngs=rngs)[0]

    return jax.jit(run)


def apply(model, variables, batch, train=False):
    return compiled(model, train)(variables, batch)


def random_variables(model, batch):
    """Like those at first, but drawn without compiling."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=True))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes["params"])
    stats = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes["batch_stats"])
    return {"params": params, "batch_stats": stats}


def fields_of(outputs):
    return {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}


@pytest.fixture(scope="module")
def full():
    model = create("vdi", **SMALL, **NO_DRAWS)
    return model, random_variables(model, random_batch())


def test_close_up_keeps_the_order():
    tokens, kept = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    found, mask = close_up(tokens, kept)
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found[0, :2], [2, 4])
    vectors, same = close_up(tokens[..., None] * np.array([1, 10]), kept)
    np.testing.assert_array_equal(vectors[0, :2], [[2, 20], [4, 40]])
    np.testing.assert_array_equal(same, mask)


def query_of(batch, kind, text, masked, vector):
    """The batch whose whole query is the static or dynamic one, made word by word."""
    names = ("subwords", "subword_mask") if text == "clip" else ("query_vectors", "query_mask")
    tokens, mask = (np.array(getattr(batch, name)) for name in names)
    kept = getattr(batch, f"subword_{kind}" if text == "clip" else f"{kind}_words")
    placeholder = 3 if text == "clip" else vector
    for b in range(len(tokens)):
        if masked == "remove":
            rest = tokens[b][kept[b]]
            tokens[b], mask[b] = 0, False
            tokens[b, : len(rest)], mask[b, : len(rest)] = rest, True
        else:
            tokens[b][~kept[b]] = placeholder
    return dataclasses.replace(batch, **dict(zip(names, (tokens, mask))))


@pytest.mark.parametrize("text", ["clip", "glove"])
@pytest.mark.parametrize("masked", ["remove", "placeholder"])
def test_masked_queries(text, masked):
    fields = {**SMALL, **(CLIP if text == "clip" else {}), "masked": masked, "placeholder": 3}
    model, batch = create("vdi", **fields), random_batch()
    variables = random_variables(model, batch)
    vector = variables["params"].get("placeholder_word", {}).get("vector")
    assert (vector is not None) == ((text, masked) == ("glove", "placeholder"))

    def encode(kind, batch):
        chosen = model.clone(test_query=kind)
        return jax.jit(lambda v, b: chosen.apply(v, b, method="encode_query"))(variables, batch)

    for kind in ("static", "dynamic"):
        found = encode(kind, batch)
        expected = encode("query", query_of(batch, kind, text, masked, vector))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found - encode("query", batch)).max() > 1e-2


def test_consistency_by_hand():
    # Cosines of the movements: 1, 0; 0, 1. Of the queries: 1, .6; .6, 1.
    movement, dynamic = jnp.eye(2), jnp.float32([[1, 0], [0.6, 0.8]])
    np.testing.assert_allclose(consistency(movement, dynamic), [[0, 0.36], [0.36, 0]], atol=1e-6)


def test_losses_by_hand():
    model = create("vdi", **{**SMALL, "context_weight": 0.5, "dynamics_weight": 0.01})
    batch = dataclasses.replace(random_batch(), example_mask=np.arange(8) < 2)
    matching = [np.zeros((8, 10)), np.zeros((8, 10)), np.zeros((8, 10, 6)), np.zeros((8, 6))]
    outputs = Outputs(
        *map(jnp.float32, matching),
        context_gap=jnp.arange(1.0, 9),
        movement=jnp.tile(jnp.eye(2), (4, 1)),
        dynamic=jnp.tile(jnp.float32([[1, 0], [0.6, 0.8]]), (4, 1)),
    )
    terms = model.loss(outputs, batch, epoch=jnp.int32(0))
    assert set(terms) == TERMS | {"context", "dynamics"}
    # Of two real rows: (1 + 2) / 2 and, over the four pairs, 2 * .36 / 4.
    assert float(terms["context"].value()) == pytest.approx(0.5 * 1.5)
    assert float(terms["dynamics"].value()) == pytest.approx(0.01 * 0.18, rel=1e-5)
    assert float(terms["iou"].value()) == pytest.approx(np.log(2), rel=1e-6)
    assert terms["dynamics"].count == 4 and terms["context"].count == 2
    later = model.loss(outputs, batch, epoch=jnp.int32(99))  # no term depends on the epoch
    chex.assert_trees_all_equal(terms, later)


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


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_row_of_table_3(row):
    fields, terms, queries, parts = ABLATIONS[row]
    model, batch = create("vdi", **{**SMALL, **NO_DRAWS, **fields}), random_batch()
    patches = ("objects",) if "spatial_dynamics" in parts else ()
    assert model.requires() == tuple(f"{query}_words" for query in queries) + patches
    clip = model.clone(text="clip").requires()
    assert clip == ("subwords", *(f"subword_{query}" for query in queries), *patches)
    # What it does not require, it does not read.
    absent = {"static_words", "dynamic_words", "objects", "object_mask"} - set(model.requires())
    absent -= {"object_mask"} if patches else set()
    batch = dataclasses.replace(batch, **dict.fromkeys(absent))
    variables = random_variables(model, batch)
    assert set(variables["params"]) == MAP | parts

    def objective(params):
        outputs, _ = model.apply({**variables, "params": params}, batch, train=True, mutable=["batch_stats"])
        found = model.loss(outputs, batch, epoch=jnp.int32(0))
        return sum((found[name].value() for name in terms), jnp.float32(0)), found

    gradient, found = jax.jit(jax.grad(objective, has_aux=True))(variables["params"])
    assert set(found) == TERMS | terms
    # The injections train the text encoder and themselves, nothing else.
    size = {name: sum(np.abs(x).sum() for x in jax.tree.leaves(g)) for name, g in gradient.items()}
    moved = {name for name, total in size.items() if total > 0}
    assert moved == (parts | {"text_encoder"} if parts else set())
    assert np.isfinite(list(size.values())).all()


@pytest.mark.parametrize(
    "probe,read", [("static", "static_words"), ("query", "query_vectors"), ("video", None)]
)
def test_what_probes_the_frames(probe, read):
    """The distance depends on the dynamic query, the frames, and on no more than the probe."""
    model = create("vdi", **{**SMALL, **NO_DRAWS, "context": probe, "dynamics": "off"})
    batch = random_batch()
    variables = random_variables(model, batch)
    expected = apply(model, variables, batch, train=True).context_gap
    # Of the whole query only words that are not in the dynamic query change.
    other = np.where(batch.dynamic_words[..., None], batch.query_vectors, 1 + batch.query_vectors)
    changes = {
        "static_words": batch.replace(static_words=batch.dynamic_words),
        "query_vectors": batch.replace(query_vectors=other, static_words=batch.dynamic_words),
    }
    for name, changed in changes.items():
        if probe == "static" and name == "query_vectors":
            continue
        found = apply(model, variables, changed, train=True).context_gap
        assert (np.abs(found - expected).max() > 1e-4) == (name == read)
    for changed in (
        batch.replace(dynamic_words=batch.query_mask),
        batch.replace(video=batch.video[:, ::-1]),
    ):
        assert np.abs(apply(model, variables, changed, train=True).context_gap - expected).max() > 1e-4


def test_at_test_nothing_of_the_injections_is_left(full):
    model, variables = full
    batch = random_batch()
    bare = dataclasses.replace(batch, objects=None, object_mask=None, static_words=None, dynamic_words=None)
    expected = apply(model, variables, bare)
    chex.assert_shape(expected.contrast, (8, 10))
    assert expected.context_gap is expected.movement is expected.dynamic is None
    params = {name: value for name, value in variables["params"].items() if name in MAP}
    baseline = create("vdi", **{**SMALL, "context": "off", "dynamics": "off"})
    found = apply(baseline, {**variables, "params": params}, batch)
    chex.assert_trees_all_equal(found, expected)
    trained = apply(model, variables, batch, train=True)
    assert trained.context_gap.shape == (8,) and trained.movement.shape == trained.dynamic.shape == (8, 8)


def test_rows_of_one_video_can_share_its_map(full):
    """Four videos with two rows each: statistics of batch norm, and so the scores, are the same."""
    model, variables = full
    batch = random_batch(fill=0)
    of_video = ("video", "video_mask", "duration", "video_index")
    batch = dataclasses.replace(batch, **{name: np.repeat(getattr(batch, name)[:4], 2, 0) for name in of_video})
    expected = apply(model, variables, batch, train=True)
    found = apply(model.clone(queries_per_video=2), variables, batch, train=True)
    chex.assert_shape([expected.moments, found.moments], [(8, 10, 6), (4, 10, 6)])
    np.testing.assert_allclose(found.moments, expected.moments[::2], atol=1e-5)
    same = {name: value for name, value in fields_of(found).items() if name != "moments"}
    chex.assert_trees_all_close(same, {name: fields_of(expected)[name] for name in same}, atol=1e-4)


def test_prediction_and_dual_encoder(full):
    model, variables = full
    batch = random_batch()
    outputs = apply(model, variables, batch)
    vectors, spans, mask = jax.jit(lambda v, b: model.apply(v, b, method="encode_moments"))(variables, batch)
    query = jax.jit(lambda v, b: model.apply(v, b, method="encode_query"))(variables, batch)
    expected = 0.5 * outputs.contrast + outputs.iou_logits / 2  # power .5, half the scale of the logits
    np.testing.assert_allclose(np.einsum("bnd,bd->bn", vectors, query)[:6], expected[:6], atol=1e-5)
    np.testing.assert_array_equal(mask.all(1), batch.example_mask)
    moments = model.predict(outputs, batch)
    moments.check()
    score = np.sqrt(0.5 + 0.5 * outputs.contrast) / (1 + np.exp(-outputs.iou_logits))
    np.testing.assert_allclose(moments.scores, -np.sort(-score, axis=1), atol=1e-6)
    np.testing.assert_allclose(moments.spans[:, 0], spans[np.arange(8), score.argmax(1)])
    np.testing.assert_allclose(np.nanmax(model.explain(outputs, batch)["map"], (1, 2)), moments.scores[:, 0])


def test_text_encoder_learns_at_a_tenth_of_the_rate():
    (pattern, multiplier), rest = get_config("charades_sta,clip").optimizer.rules
    assert (multiplier, rest) == (0.1, (".*", 1.0))
    model = create("vdi", **{**SMALL, **CLIP})
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), random_batch(), train=True))
    leaves = jax.tree.leaves_with_path(variables["params"])
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    slow = {path for path in paths if re.fullmatch(pattern, path)}
    assert {path.split("/")[0] for path in slow} == {"text_encoder"}
    assert not any(path.startswith("text_encoder") for path in paths - slow)
    assert get_config("charades_sta,clip,glove").optimizer.rules == ((".*", 1.0),)


@pytest.mark.parametrize(
    "option,fields",
    [("baseline", ("off", "off")), ("context", ("static", "off")), ("dynamics", ("off", "transformer"))],
)
def test_options_of_the_config(option, fields):
    config = get_config(f"charades_cg,{option}")
    assert (config.model.context, config.model.dynamics) == fields
    assert config.dataset.feature_dim == 512  # CLIP unless another is named
    assert ("objects" in config.dataset.streams) == (option == "dynamics")
    (row,) = published.rows(config, "test_novel_word")
    expected = {"baseline": 43.85, "context": 45.47, "dynamics": 44.60}[option]
    assert row["metrics"]["R@1,IoU=0.5"] == expected


def test_mistakes_are_named():
    batch = random_batch()
    for field, value, message in (
        ("text", "bert", "Known: clip, glove"),
        ("masked", "drop", "Known: remove, placeholder"),
        ("context", "statics", 'Did you mean "static"?'),
        ("dynamics", "gru", "Known: transformer, lstm, off"),
        ("test_query", "noun", "Known: query, static, dynamic"),
    ):
        with pytest.raises(UserError, match=message):
            create("vdi", **{**SMALL, field: value}).init(jax.random.key(0), batch, train=True)
    with pytest.raises(AssertionError):
        wrong = batch.replace(objects=batch.objects[:, :-1])
        jax.eval_shape(lambda: create("vdi", **SMALL).init(jax.random.key(0), wrong, train=True))
