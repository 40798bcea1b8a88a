"""CMIN: the graph convolution, the loss and the reconstruction by hand, and what must not change prediction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import OF_CLIPS, random_batch

from vmr_jax.configs.cmin import get_config
from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.cmin import Outputs, QueryDecoder, SyntacticGraphConv, clips_of_moment
from vmr_jax.training.experiment import make_model
from vmr_jax.types import Batch, fields_of

SMALL = dict(features=8, heads=2, widths=(1, 3))
WORD_FIELDS = [n for n, info in fields_of(Batch).items() if info.optional and set("LSC") & set(info.axes)]
OTHERS = dict.fromkeys(OF_CLIPS)


@pytest.fixture(scope="module")
def pair():
    """Random variables of the right shapes, without compiling the initialisation."""
    model = create("cmin", **SMALL)
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def one_video(clips=4):
    """One example of clips of a second."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=clips, fill=0))
    return batch.replace(video_mask=np.ones((1, clips), bool), duration=np.float32([clips]))


def test_a_word_hears_its_dependents_its_head_and_itself():
    # Words 1, 2, 4 of one feature. Word 1 is a dependent of word 0 by relation 3, word 2 one of word 1 by 2.
    dependencies = jnp.array([[[1, 3, 0], [0, 1, 2], [0, 0, 1]]])
    conv = SyntacticGraphConv(relations=3, dtype=jnp.float32)
    rows = {"self": [[0.0]], "out": [[5.0], [7.0]], "in": [[11.0], [13.0]]}  # of relation 2, of relation 3
    kernels = {"self": 1.0, "out": 10.0, "in": 100.0}
    params = {}
    for name in rows:
        params[f"{name}_kernel"], params[f"{name}_gate_kernel"] = (
            jnp.full((1, 1), kernels[name]),
            jnp.zeros((1, 1)),
        )
        params[f"{name}_bias"] = jnp.float32(rows[name])
        params[f"{name}_gate_bias"] = jnp.zeros_like(params[f"{name}_bias"])
    # The gate of relation 2 from a head to its dependent is 1/4, all others are 1/2.
    params["in_gate_bias"] = params["in_gate_bias"].at[0].set(-np.log(3))
    found = conv.apply({"params": params}, jnp.float32([[[1], [2], [4]]]), dependencies)
    expected = [
        1 / 2 + (20 + 7) / 2,  # itself, its dependent word 1 by relation 3
        2 / 2 + (40 + 5) / 2 + (100 + 13) / 2,  # itself, its dependent word 2 by 2, its head word 0 by 3
        4 / 2 + (200 + 11) / 4,  # itself, its head word 1 by 2
    ]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-6)


def test_the_gate_reads_the_projected_word():
    # y = 2 * 1, g = 3 y = 6: 2 * sigmoid(6), not 2 * sigmoid(3).
    conv = SyntacticGraphConv(relations=2, dtype=jnp.float32)
    zeros = {
        f"{d}_{what}": jnp.zeros((1, 1))
        for d in ("self", "out", "in")
        for what in ("kernel", "gate_kernel", "bias", "gate_bias")
    }
    params = {**zeros, "self_kernel": jnp.full((1, 1), 2.0), "self_gate_kernel": jnp.full((1, 1), 3.0)}
    found = conv.apply({"params": params}, jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1), jnp.int32))
    np.testing.assert_allclose(found, 2 / (1 + np.exp(-6)), rtol=1e-6)


def test_loss_by_hand():
    model = create("cmin", **SMALL)
    batch = one_video().replace(span=np.float32([[1.2, 2.5]]))
    # Anchors (width 1, width 3) of clips 0..3; [-1, 1] and [2, 4] are not legal. The moment is clips 1..2.
    # IoUs of width 1: 0, 1/2, 1/2, 0; of width 3: -, 2/3, 2/3, -. Labels: 0, 3/4, 3/4, 0; 1, 1.
    logits = jnp.zeros((1, 8)).at[0, 2].set(np.log(3)).at[0, 1].set(50.0)
    # Anchor 3, [0, 2], is the first of the best; refined to [.5, .5] it is .5 and 1.5 off.
    offsets = jnp.full((1, 8, 2), 99.0).at[0, 3].set(jnp.float32([0.5, -1.5]))
    terms = model.loss(Outputs(logits, offsets), batch, epoch=jnp.int32(0))
    # Anchor 2 has score 3/4 and label 3/4; five legal ones cost log 2; of eight anchors.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(terms["alignment"].value(), (5 * np.log(2) + entropy) / 8, rtol=1e-6)
    # Smooth L1: .5^2 / 2 and 1.5 - .5, their mean, times 1e-3.
    np.testing.assert_allclose(terms["regression"].value(), 1e-3 * (0.125 + 1.0) / 2, rtol=1e-6)


def test_prediction_is_the_refined_anchor_in_seconds():
    model = create("cmin", **SMALL)
    logits = jnp.zeros((1, 8)).at[0, 4].set(2.0).at[0, 1].set(50.0)
    offsets = jnp.zeros((1, 8, 2)).at[0, 4].set(jnp.float32([-0.5, 0.25]))
    moments = model.predict(Outputs(logits, offsets), one_video())
    # Anchor 4 is clip 2: [2 - .5, 2 + .25 + 1] s. Anchor 1, the best score of all, is not legal.
    np.testing.assert_allclose(moments.spans[0, 0], [1.5, 3.25])
    assert np.isfinite(moments.scores[0]).sum() == 6


def test_anchors_of_even_width_are_refined_from_half_a_clip_earlier():
    """In loss and prediction, as in the official code; labels are of the anchors as they are."""
    model, batch = create("cmin", features=8, heads=2, widths=(2,)), one_video()
    batch = batch.replace(span=np.float32([[1.2, 2.5]]))  # clips 1..2
    # Anchors [-.5, .5], [.5, 1.5], [1.5, 2.5], [2.5, 3.5]; the first is not legal. IoUs 1.5 / 2.5 twice (the
    # second and third share 1.5 clips with the moment), so that the second is learned, from [0, 1].
    offsets = jnp.full((1, 4, 2), 99.0).at[0, 1].set(jnp.float32([0.5, 0.75]))
    outputs = Outputs(jnp.zeros((1, 4)).at[0, 1].set(1.0), offsets)
    regression = model.loss(outputs, batch, epoch=jnp.int32(0))["regression"].value()
    # [.5, 1.75] is .5 and .25 off: smooth L1 .125 and .03125.
    np.testing.assert_allclose(regression, 1e-3 * (0.125 + 0.03125) / 2, rtol=1e-6)
    np.testing.assert_allclose(model.predict(outputs, batch).spans[0, 0], [0.5, 2.75])


def test_a_video_without_a_legal_anchor_costs_nothing():
    model = create("cmin", features=8, heads=2, widths=(9,))
    terms = model.loss(Outputs(jnp.zeros((1, 4)), jnp.ones((1, 4, 2))), one_video(), epoch=jnp.int32(0))
    assert [float(term.value()) for term in terms.values()] == [0.0, 0.0]


def test_padded_clips_change_nothing(pair):
    model, variables = pair
    batch = random_batch().replace(**OTHERS)

    def padded(x, fill=0):
        return np.concatenate([x, np.full_like(x[:, :5], fill)], axis=1)

    longer = batch.replace(video=padded(batch.video, 7.0), video_mask=padded(batch.video_mask))
    found, expected = (outputs_of(model, variables, b) for b in (longer, batch))
    counted = np.repeat(batch.video_mask, 2, axis=1)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a[:, : counted.shape[1]][counted], b[counted], atol=2e-5)
    terms = [model.loss(o, b, epoch=jnp.int32(0)) for o, b in ((found, longer), (expected, batch))]
    for name in terms[0]:
        np.testing.assert_allclose(terms[0][name].value(), terms[1][name].value(), rtol=1e-5)
    moments = [model.predict(o, b) for o, b in ((found, longer), (expected, batch))]
    real = np.isfinite(moments[1].scores)
    best = moments[0].scores[:, : real.shape[1]]
    np.testing.assert_allclose(best[real], moments[1].scores[real], atol=2e-5)
    assert not np.isfinite(moments[0].scores[:, real.shape[1] :]).any()


def test_syntax_matters_and_its_direction(pair):
    model, variables = pair
    batch = random_batch()
    expected = outputs_of(model, variables, batch).logits
    turned = batch.replace(dependencies=batch.dependencies.swapaxes(1, 2))
    assert np.abs(outputs_of(model, variables, turned).logits - expected).max() > 1e-4


def spoken(words, vectors):
    """One video of four clips, whose sentence has these ids and vectors; the moment is clips 1 and 2."""
    length = len(words)
    return one_video().replace(
        span=np.float32([[1.2, 2.5]]),
        query=np.int32([words]),
        query_vectors=np.float32([vectors]),
        query_mask=np.ones((1, length), bool),
        **dict.fromkeys(WORD_FIELDS),
    )


def test_reconstruction_loss_by_hand():
    model = create("cmin", **SMALL, reconstruction_weight=0.1, vocab_size=4)
    # The unknown word (1) and one that the vocabulary lacks (9) are left out: words 2 and 3, and the end (0).
    batch = spoken([2, 1, 9, 3], np.ones((4, 5)))
    logits = jnp.zeros((1, 5, 4)).at[0, 0, 2].set(np.log(2)).at[0, :, 1].set(50.0)
    outputs = Outputs(jnp.zeros((1, 8)), jnp.zeros((1, 8, 2)), logits)
    terms = model.loss(outputs, batch, epoch=jnp.int32(0))
    # Of the classes 0, 2 and 3: probability 2/4 of word 2 at place 0, 1/3 of word 3 and of the end.
    expected = (np.log(2) + 2 * np.log(3)) / 3
    np.testing.assert_allclose(terms["reconstruction"].value(), 0.1 * expected, rtol=1e-6)
    assert terms["reconstruction"].count == 1
    assert set(terms) == {"alignment", "regression", "reconstruction"}


def test_the_decoder_reads_the_clips_of_the_moment_and_the_words_before():
    batch = spoken([2, 3, 4], np.eye(3))
    np.testing.assert_array_equal(clips_of_moment(batch), [[False, True, True, False]])
    module = QueryDecoder(5, 1, 0.0, jnp.float32)
    fused = jnp.float32([[[9], [2], [6], [-7]]])
    decode = jax.jit(lambda params, batch, fused: module.apply({"params": params}, batch, fused, False))
    params = jax.jit(module.init, static_argnums=3)(jax.random.key(0), batch, fused, False)
    params = jax.tree.map(jnp.zeros_like, params)
    # Without weights the GRU's states are 0 and all clips weigh alike: the mean of clips 1 and 2 is 4. The word
    # layer reads the state, which is 0, and that mean.
    params["params"]["word"]["kernel"] = jnp.float32([[1, 1, 1, 1, 1], [0, 1, 2, 3, 4]])
    found = decode(params["params"], batch, fused)
    np.testing.assert_allclose(found, np.tile(4 * np.float32([0, 1, 2, 3, 4]), (1, 4, 1)))
    # With weights: word 2 of the sentence is read from place 2 + 1 on, clips outside of the moment never.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 1, x.shape).astype(np.float32), params)["params"]
    expected = decode(params, batch, fused)
    other = batch.replace(query_vectors=batch.query_vectors * np.float32([1, 1, 5])[None, :, None])
    found = decode(params, other, fused.at[:, 0].set(50.0).at[:, 3].set(50.0))
    np.testing.assert_array_equal(found[:, :3], expected[:, :3])
    assert np.abs(found[:, 3] - expected[:, 3]).max() > 1e-4
    assert np.abs(decode(params, batch, fused.at[:, 1].set(3.0)) - expected).min() > 1e-6


def test_the_reconstruction_trains_the_encoders_and_is_gone_at_test(pair):
    plain, _ = pair
    model, batch = create("cmin", **SMALL, dropout=0.0, reconstruction_weight=0.1, vocab_size=9), random_batch()
    variables = random_variables(model, batch)

    def objective(params):
        outputs = model.apply({"params": params}, batch, train=True)
        return model.loss(outputs, batch, epoch=jnp.int32(0))["reconstruction"].value()

    gradient = jax.jit(jax.grad(objective))(variables["params"])
    still = {name for name, part in gradient.items() if all((x == 0).all() for x in jax.tree.leaves(part))}
    assert still == {"head"}
    found = outputs_of(model, variables, batch)
    assert found.word_logits is None
    own = {name: x for name, x in variables["params"].items() if name != "decoder"}
    expected = outputs_of(plain, {"params": own}, batch)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("option,size", [("", 0), (",reconstruction", 30)])
def test_it_needs_the_vocabulary_with_the_reconstruction_alone(option, size):
    model = make_model(get_config(f"storyboard{option}"), vocab_size=30)
    assert model.needs_vocabulary == bool(option)
    assert model.vocab_size == size


@pytest.mark.parametrize(
    "fields,change,message",
    [
        ({}, dict(dependencies=None), "reads the syntax of the query"),
        (dict(heads=4), {}, "4 heads cannot share 6 features equally"),
    ],
)
def test_wrong_settings_are_told(fields, change, message):
    model = create("cmin", **{**SMALL, **fields})
    batch = dataclasses.replace(random_batch(), **change)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)


def test_wrong_shapes_are_refused():
    batch = random_batch()
    with pytest.raises(AssertionError):
        wrong = batch.replace(dependencies=batch.dependencies[:, :-1])
        jax.eval_shape(lambda b: create("cmin", **SMALL).init(jax.random.key(0), b, train=False), wrong)
