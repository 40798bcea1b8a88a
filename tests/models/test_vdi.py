"""VDI: masked queries, every ablation, that MMN becomes it, and that nothing of it is left at test."""

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
from vmr_jax.layers.clips import average_clips
from vmr_jax.layers.injection import Injected
from vmr_jax.models import create, mmn
from vmr_jax.models.mmn import Outputs

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


@pytest.fixture(scope="module")
def full():
    model = create("vdi", **SMALL, **NO_DRAWS)
    return model, random_variables(model, random_batch())


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


def test_losses_by_hand():
    model = create("vdi", **{**SMALL, "context_weight": 0.5, "dynamics_weight": 0.01})
    batch = dataclasses.replace(random_batch(), example_mask=np.arange(8) < 2)
    matching = [np.zeros((8, 10)), np.zeros((8, 10)), np.zeros((8, 10, 6)), np.zeros((8, 6))]
    injected = Injected(
        context_gap=jnp.arange(1.0, 9),
        movement=jnp.tile(jnp.eye(2), (4, 1)),
        dynamic=jnp.tile(jnp.float32([[1, 0], [0.6, 0.8]]), (4, 1)),
    )
    outputs = Outputs(*map(jnp.float32, matching), injected)
    terms = model.loss(outputs, batch, epoch=jnp.int32(0))
    assert set(terms) == TERMS | {"context", "dynamics"}
    # Of two real rows: (1 + 2) / 2 and, over the four pairs, 2 * .36 / 4.
    assert float(terms["context"].value()) == pytest.approx(0.5 * 1.5)
    assert float(terms["dynamics"].value()) == pytest.approx(0.01 * 0.18, rel=1e-5)
    assert float(terms["iou"].value()) == pytest.approx(np.log(2), rel=1e-6)
    assert terms["dynamics"].count == 4 and terms["context"].count == 2
    later = model.loss(outputs, batch, epoch=jnp.int32(99))  # no term depends on the epoch
    chex.assert_trees_all_equal(terms, later)


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
    expected = apply(model, variables, batch, train=True).injected.context_gap
    # Of the whole query only words that are not in the dynamic query change.
    other = np.where(batch.dynamic_words[..., None], batch.query_vectors, 1 + batch.query_vectors)
    changes = {
        "static_words": batch.replace(static_words=batch.dynamic_words),
        "query_vectors": batch.replace(query_vectors=other, static_words=batch.dynamic_words),
    }
    for name, changed in changes.items():
        if probe == "static" and name == "query_vectors":
            continue
        found = apply(model, variables, changed, train=True).injected.context_gap
        assert (np.abs(found - expected).max() > 1e-4) == (name == read)
    for changed in (
        batch.replace(dynamic_words=batch.query_mask),
        batch.replace(video=batch.video[:, ::-1]),
    ):
        assert np.abs(apply(model, variables, changed, train=True).injected.context_gap - expected).max() > 1e-4


def test_at_test_nothing_of_the_injections_is_left(full):
    model, variables = full
    batch = random_batch()
    bare = dataclasses.replace(batch, objects=None, object_mask=None, static_words=None, dynamic_words=None)
    expected = apply(model, variables, bare)
    chex.assert_shape(expected.contrast, (8, 10))
    assert expected.injected is None
    params = {name: value for name, value in variables["params"].items() if name in MAP}
    baseline = create("vdi", **{**SMALL, "context": "off", "dynamics": "off"})
    found = apply(baseline, {**variables, "params": params}, batch)
    chex.assert_trees_all_equal(found, expected)
    trained = apply(model, variables, batch, train=True).injected
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
    same = dataclasses.replace(found, moments=expected.moments)
    chex.assert_trees_all_close(same, expected, atol=1e-4)


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


class WithoutItsLayers(mmn.Model):
    """MMN without the two layers that VDI leaves out: that of the clips, and the norm of the sentence."""

    def setup(self):
        super().setup()
        self.clips = lambda video, mask: average_clips(video, mask, self.num_clips)
        self.sentence_norm = lambda sentence: sentence


def test_mmn_with_the_injections_is_vdi(full):
    """Outputs, every term of the loss and all gradients, with the same weights."""
    model, variables = full
    batch = random_batch()
    fields = {**SMALL, **NO_DRAWS, "context": "static", "dynamics": "transformer"}

    def everything(model, variables):
        def objective(params):
            outputs = model.apply({**variables, "params": params}, batch, train=True, mutable=["batch_stats"])
            terms = {name: x.value() for name, x in model.loss(outputs[0], batch, epoch=jnp.int32(0)).items()}
            return sum(terms.values()), (outputs, terms)

        return jax.value_and_grad(objective, has_aux=True)(variables["params"])

    found = jax.jit(everything, static_argnums=0)(WithoutItsLayers(**fields), variables)
    expected = jax.jit(everything, static_argnums=0)(model, variables)
    assert set(expected[0][1][1]) == TERMS | {"context", "dynamics"}
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


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
            create("vdi", **{**SMALL, field: value})
    with pytest.raises(AssertionError):
        wrong = batch.replace(objects=batch.objects[:, :-1])
        jax.eval_shape(lambda: create("vdi", **SMALL).init(jax.random.key(0), wrong, train=True))
