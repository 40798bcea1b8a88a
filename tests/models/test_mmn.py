"""MMN: batches of videos, schedule of the contrast, prediction, dual encoder."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from applied import random_variables
from batches import random_batch
from cases.mmn import SMALL

from vmr_jax.configs.mmn import get_config
from vmr_jax.errors import UserError
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.models import create
from vmr_jax.models.mmn import Outputs
from vmr_jax.parallel import Parallel
from vmr_jax.training.experiment import initial_variables
from vmr_jax.training.step import initial_state, make_step

BERT = dict(
    text="distilbert",
    text_vocab=20,
    text_features=8,
    text_layers=1,
    text_heads=2,
    text_hidden=8,
    text_positions=7,
)


def grouped_batch():
    """Four videos with two rows each; the second of the first video and both of the last only fill up."""
    batch = random_batch()
    of_video = ("video", "video_mask", "duration", "video_index")
    batch = dataclasses.replace(batch, **{name: np.repeat(getattr(batch, name)[:4], 2, 0) for name in of_video})
    fraction = np.sort(np.random.default_rng(1).random((8, 2)), axis=1).astype(np.float32)
    mask = np.array([True, False, True, True, True, True, False, False])
    return dataclasses.replace(
        batch,
        span=fraction * batch.duration[:, None],
        example_mask=mask,
        example_index=np.where(mask, np.arange(8), -1).astype(np.int32),
    )


@functools.cache
def compiled(model):
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False))


def outputs_of(model, variables, batch):
    return compiled(model)(variables, batch)


def one_step(parallel, batch, **fields):
    """State and terms after a step of SGD, rate 1."""
    model = create("mmn", **{**SMALL, **fields})
    optimizer = optax.sgd(1.0)
    variables = initial_variables(model, random_batch(), 0)
    state = jax.tree.map(np.asarray, initial_state(variables, optimizer))
    step = make_step(model, optimizer, optax.constant_schedule(1.0), steps_per_epoch=10, seed=0)
    after, scalars = parallel.map_step(step)(parallel.replicate(state), parallel.put_batch(batch))
    return jax.tree.map(np.asarray, (after.variables, scalars))


@pytest.fixture(scope="module")
def grouped():
    return one_step(Parallel("jit", 1), grouped_batch(), queries_per_video=2)


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_groups_are_the_same_on_four_devices(grouped, mode):
    found = one_step(Parallel(mode, 4), grouped_batch(), queries_per_video=2)
    chex.assert_trees_all_close(found, grouped, atol=2e-6)


def test_a_map_per_video_gives_the_losses_of_a_map_per_row(grouped):
    # Each video counts once in the statistics of batch norm, where every row has a map of its own as well: a
    # filler is not counted, so of the rows the first of the first video and both of two others.
    batch = grouped_batch()
    # With both rows of the first video real, every video comes twice, and so mean and variance are the same.
    both = dataclasses.replace(
        batch,
        example_mask=np.array([True] * 6 + [False] * 2),
        example_index=np.array([*range(6), -1, -1], np.int32),
    )
    one, two = (one_step(Parallel("jit", 1), both, queries_per_video=s)[1] for s in (1, 2))
    for name in ("train/iou", "train/moment", "train/sentence", "train/grad_norm"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, err_msg=name)
        assert abs(two[name] - grouped[1][name]) > 1e-4  # the filler of the first video did not count


def test_the_contrast_fades_after_its_epochs():
    model = create("mmn", **{**SMALL, "contrast_weight": 0.05, "contrast_epochs": 7})
    batch = random_batch()
    rng = np.random.default_rng(0)
    cells = candidate_mask(4, (4,)).sum()
    vectors = [rng.normal(size=(8, *shape, 6)).astype(np.float32) for shape in ((cells,), ())]
    vectors = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in vectors]
    outputs = Outputs(np.zeros((8, cells)), np.einsum("bmc,bc->bm", *vectors), *vectors)

    def terms(epoch):
        found = model.loss(outputs, batch, epoch=jnp.int32(epoch))
        return {name: float(term.value()) for name, term in found.items()}

    first, last_full, late = (terms(epoch) for epoch in (0, 6, 7))
    assert first == last_full and set(first) == {"iou", "moment", "sentence"}
    assert late["iou"] == first["iou"] == pytest.approx(np.log(2), rel=1e-6)  # of logits 0, whatever the target
    for name in ("moment", "sentence"):
        assert late[name] == pytest.approx(0.01 * first[name], rel=1e-5) and first[name] > 0
    doubled = model.clone(contrast_weight=0.1).loss(outputs, batch, epoch=jnp.int32(0))
    assert float(doubled["moment"].value()) == pytest.approx(2 * first["moment"], rel=1e-5)


@pytest.fixture(scope="module", params=["glove", "distilbert"])
def pair(request):
    model = create("mmn", **{**SMALL, **(BERT if request.param == "distilbert" else {})})
    variables = random_variables(model, random_batch(), seed=1)
    return model, variables


def test_dual_encoder(pair):
    model, variables = pair
    batch = random_batch()
    outputs = outputs_of(model, variables, batch)

    def encode(method, batch):
        return jax.jit(lambda v, b: model.apply(v, b, method=method))(variables, batch)

    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask)
    mute = batch.replace(query_vectors=np.full_like(batch.query_vectors, np.nan), subwords=batch.subwords + 1)
    vectors, spans, mask = encode("encode_moments", mute)
    query = encode("encode_query", blind)
    chex.assert_shape([vectors, spans, mask, query], [(8, 10, 12), (8, 10, 2), (8, 10), (8, 12)])
    # contrast^0.5 and sigmoid(10 overlap): 0.5 c + 5 o, that is half the logit.
    expected = 0.5 * outputs.contrast + outputs.iou_logits / 2
    dot = np.einsum("bnd,bd->bn", vectors, query)
    np.testing.assert_allclose(dot[:6], expected[:6], atol=1e-5)
    np.testing.assert_array_equal(mask, np.tile(batch.example_mask[:, None], (1, 10)))
    # Cell (0, 1) of 4 x 4 is the second candidate: the first half of the video.
    np.testing.assert_allclose(spans[:, 1], batch.duration[:, None] * np.float32([[0, 0.5]]), rtol=1e-6)


def test_prediction_and_picture(pair):
    model, variables = pair
    batch = random_batch()
    outputs = outputs_of(model, variables, batch)
    moments = model.predict(outputs, batch)
    moments.check()
    picture = model.explain(outputs, batch)["map"]
    chex.assert_shape(picture, (8, 4, 4))
    assert np.isnan(picture[:, ~candidate_mask(4, (4,))]).all()
    row, column = np.unravel_index(np.nan_to_num(picture, nan=-1).reshape(8, -1).argmax(1), (4, 4))
    clip = batch.duration / 4
    np.testing.assert_allclose(moments.spans[:, 0], np.stack([row * clip, (column + 1) * clip], 1), rtol=1e-6)
    np.testing.assert_allclose(moments.scores[:, 0], np.nanmax(picture, axis=(1, 2)), rtol=1e-6)
    few = model.clone(keep=3).predict(outputs, batch)
    np.testing.assert_array_equal(few.spans, moments.spans[:, :3])


def test_padding_of_the_query_does_not_matter(pair):
    model, variables = pair
    if model.text == "distilbert":
        model = model.clone(text_positions=14)
        table = np.zeros((14, 8), np.float32)
        embedding = variables["params"]["text_encoder"]["embedding"]
        table[:7] = embedding["positions"]
        encoder = {**variables["params"]["text_encoder"], "embedding": {**embedding, "positions": table}}
        variables = {**variables, "params": {**variables["params"], "text_encoder": encoder}}
    batch = random_batch()
    wide = batch.pad(L=7, S=7)
    found, expected = outputs_of(model, variables, wide), outputs_of(model, variables, batch)
    chex.assert_trees_all_close(found, expected, atol=1e-5)


def test_what_is_frozen_is_distilbert_alone():
    config = get_config("charades_sta,vgg")
    (pattern, multiplier, when), rest = config.optimizer.rules
    assert (multiplier, when, rest) == (0.1, "from 4 epochs", (".*", 1.0))
    model = create("mmn", **{**SMALL, **BERT})
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), random_batch(), train=True))
    leaves = jax.tree.leaves_with_path(variables["params"])
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    frozen = {path for path in paths if re.fullmatch(pattern, path)}
    assert {path.split("/")[0] for path in frozen} == {"text_encoder"}
    assert {path.split("/")[0] for path in paths - frozen} == {
        "clips",
        "map",
        "sentence_norm",
        "sentence_spaces",
    }


def test_requires_names_what_the_text_reads():
    assert create("mmn", text="glove").requires() == ()
    assert create("mmn").requires() == ("subwords",)


def test_word_vectors_can_be_fine_tuned():
    model = create("mmn", vocab_size=20, **SMALL)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), random_batch(), train=True))
    assert variables["params"]["words"]["offset"].shape == (20, 5)


def test_mistakes_are_named():
    batch = random_batch()
    with pytest.raises(UserError, match='text of mmn is "bert"'):
        create("mmn", text="bert")
    model = create("mmn", **{**SMALL, "queries_per_video": 3})
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=True))
    with pytest.raises(UserError, match="8 rows of the batch, which videos with 3 queries"):
        jax.eval_shape(lambda v: model.apply(v, batch, train=True, mutable=["batch_stats"]), variables)
    with pytest.raises(AssertionError):
        wrong = batch.replace(span=batch.span[:, :1])
        jax.eval_shape(lambda: create("mmn", **SMALL).init(jax.random.key(0), wrong, train=False))
