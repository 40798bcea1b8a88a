"""VSLNet: loss and prediction by hand, and what must not change either."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import assert_fast_forms_equal_the_plain_ones, outputs_of, random_variables
from batches import pad_clips, random_batch

from vmr_jax.configs.vslnet import get_config
from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.vslnet import Outputs

SMALL = dict(features=8, heads=2, conv_layers=2, conv_kernel=3, max_positions=40, char_features=5)


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def pair(request):
    model = create("vslnet", predictor=request.param, **SMALL)
    return model, random_variables(model, random_batch())


def test_loss_by_hand():
    model = create("vslnet", **SMALL)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=2, fill=0))
    batch = dataclasses.replace(
        batch, video_mask=np.ones((1, 2), bool), duration=np.float32([4]), span=np.float32([[2, 4]])
    )
    outputs = Outputs(
        start=jnp.float32([[0.0, 0.0]]), end=jnp.float32([[0.0, np.log(3)]]), highlight=jnp.zeros((1, 2))
    )
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
    # The moment is clip 1. Start: log 2; end: -log(3 / 4). Highlight: round(0.1) = 0, so clip 1 alone is
    # inside, with weight 2; each clip costs log 2: 5 * (1 + 2) * log 2 / 2.
    expected = {"start": np.log(2), "end": np.log(4 / 3), "highlight": 7.5 * np.log(2)}
    assert terms == pytest.approx(expected, rel=1e-6)


def test_centered_clips_do_not_depend_on_what_all_of_a_video_share(pair):
    model, variables = pair
    batch, centering = random_batch(), model.clone(center_video=True)
    other = dataclasses.replace(batch, video=3.0 * batch.video + np.float32([[[0.5]]]))
    expected, found = (jax.tree.leaves(outputs_of(centering, variables, b)) for b in (batch, other))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_prediction_is_the_product_of_start_and_end():
    model = create("vslnet", **SMALL)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=3, fill=0))
    batch = dataclasses.replace(batch, video_mask=np.array([[True, True, False]]), duration=np.float32([10]))
    # Softmax over two real clips: start .75, .25; end .4, .6. Pairs: (0,0) .3, (0,1) .45, (1,1) .15.
    outputs = Outputs(
        start=jnp.log(jnp.float32([[0.75, 0.25, 1.0]])).at[:, 2].set(MASKED),
        end=jnp.log(jnp.float32([[0.4, 0.6, 1.0]])).at[:, 2].set(MASKED),
        highlight=None,
    )
    moments = model.predict(outputs, batch)
    np.testing.assert_allclose(moments.scores[0, :3], [0.45, 0.3, 0.15], rtol=1e-6)
    np.testing.assert_allclose(moments.spans[0, :3], [[0, 10], [0, 5], [5, 10]])
    assert not np.isfinite(moments.scores[0, 3:]).any()


def test_tables_start_as_in_either_official_code():
    def start(kind):
        model, batch = create("vslnet", table_init=kind, **SMALL), random_batch()
        params = jax.jit(lambda b: model.init(jax.random.key(0), b, train=False))(batch)["params"]
        tables = params["encoder"].pop("positions"), params["words"].pop("characters")
        assert [table.shape for table in tables] == [(40, 8), (40, 5)]
        return params, *tables

    glorot, normal = start("glorot"), start("normal")
    for a, b in zip(*map(jax.tree.leaves, (glorot[0], normal[0])), strict=True):  # all others are the same
        np.testing.assert_array_equal(a, b)
    for table, width in zip(glorot[1:], (8, 5)):
        bound = np.sqrt(6 / (40 + width))
        assert 0.9 * bound < np.abs(table).max() <= bound
    for table in normal[1:]:  # the deviation of 200 draws is 0.05 off, typically
        assert abs(table.mean()) < 0.25 and abs(table.std() - 1) < 0.2


def test_optimizer_of_the_papers_setting_is_the_official_one():
    found = get_config("charades_sta,i3d").optimizer
    # `build_optimizer_and_scheduler` of the official PyTorch port; transformers.AdamW adds 1e-6.
    assert (found.name, found.learning_rate, found.weight_decay, found.eps) == ("adamw", 1e-4, 0.01, 1e-6)
    assert (found.schedule, found.warmup, found.clip_norm) == ("linear", "0 steps", 1.0)


def test_padded_clips_and_characters_change_nothing(pair):
    model, variables = pair
    batch = random_batch()

    chars = np.concatenate([batch.query_chars, np.zeros_like(batch.query_chars)], axis=2)
    longer = dataclasses.replace(pad_clips(batch, batch.video.shape[1]), query_chars=chars)
    expected, found = outputs_of(model, variables, batch), outputs_of(model, variables, longer)
    clips = batch.video.shape[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, :clips], atol=2e-5), expected, found)


@pytest.mark.parametrize("pair", ["transformer"], indirect=True)  # the contract has the other
def test_dropout_depends_on_the_example_and_not_on_its_place(pair):
    model, variables = pair
    batch = random_batch()
    order = np.arange(8)[::-1]
    found = outputs_of(model, variables, jax.tree.map(lambda x: x[order], batch), train=True)
    expected = outputs_of(model, variables, batch, train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[order], atol=2e-5), expected, found)
    other = outputs_of(model, variables, batch, train=True, key=1)
    assert np.abs(other.start - expected.start)[batch.video_mask].max() > 1e-3


def test_base_has_no_highlight():
    model = create("vslnet", highlight=False, **SMALL)
    batch = random_batch()
    variables = random_variables(model, batch)
    outputs = outputs_of(model, variables, batch)
    assert outputs.highlight is None and "highlight_logit" not in variables["params"]
    assert set(model.loss(outputs, batch, epoch=jnp.int32(0))) == {"start", "end"}


@pytest.mark.parametrize(
    "fields,change,message",
    [
        (dict(predictor="lstm"), {}, 'predictor of vslnet is "lstm"[.] Known: rnn, transformer'),
        (dict(table_init="torch"), {}, 'table_init of vslnet is "torch"[.] Known: glorot, normal'),
        (dict(max_positions=4), {}, "positions for 4 clips and words, and the batch has 16"),
        ({}, dict(query_chars=None), "reads the characters of the query"),
    ],
)
def test_wrong_settings_are_told(fields, change, message):
    batch = dataclasses.replace(random_batch(), **change)
    with pytest.raises(UserError, match=message):
        model = create("vslnet", **{**SMALL, **fields})
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)


def test_wrong_shapes_are_refused():
    batch = random_batch()
    model = create("vslnet", **SMALL)
    with pytest.raises(AssertionError):
        wrong = dataclasses.replace(batch, query_chars=batch.query_chars[:, :-1])
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), wrong)


def test_fast_forms_equal_the_plain_ones():
    """Outputs and gradients of a ragged batch, without dropout."""
    model, batch = create("vslnet", dropout=0.0, **SMALL), random_batch()
    variables = random_variables(model, batch)

    def run():
        def total(variables):
            outputs = model.apply(variables, batch, train=True)
            return sum(x.value() for x in model.loss(outputs, batch, epoch=jnp.int32(0)).values()), outputs

        return jax.jit(jax.value_and_grad(total, has_aux=True))(variables)

    assert_fast_forms_equal_the_plain_ones(run)
