"""mXML: each language is an XML, the neighbourhood by hand, and what is read in which language."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import OF_CLIPS, random_batch

from vmr_jax.configs.mxml import get_config
from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec, check_fields
from vmr_jax.models import create
from vmr_jax.models.mxml import InLanguage, Outputs, in_language, mean_of_clips

SMALL = dict(features=8, heads=2, max_clips=32, clip_seconds=0.0)
LANGUAGES = ("query", "translation")


def created(**fields):
    return create("mxml", **{**SMALL, **fields})


def one_batch():
    return random_batch(word_dim=4).replace(**{name: None for name in OF_CLIPS if "subtitle" not in name})


@functools.cache
def variables_of(model):
    """With weights large enough to matter."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), one_batch(), train=False))()
    return jax.tree.map(lambda p: p * 20 if p.ndim > 1 else p, variables)


@functools.partial(jax.jit, static_argnames="model")
def answers(model, variables, batch):
    """Outputs, and the inference of the language that answers."""
    outputs = model.apply(variables, batch, train=False)
    methods = ("encode_moments", "encode_query")
    encoded = [model.apply(variables, batch, method=method) for method in methods]
    return outputs, (*encoded, model.predict(outputs, batch))


@functools.partial(jax.jit, static_argnames="model")
def outputs_of(model, variables, batch):
    return model.apply(variables, batch, train=False)


@functools.partial(jax.jit, static_argnames="model")
def terms_of(model, outputs, batch, epoch):
    return model.loss(outputs, batch, epoch=epoch)


def test_each_language_is_xml_with_the_common_encoders():
    """Of the words and subtitles of the language, without attention between the streams."""
    batch, both = one_batch(), created()
    params = variables_of(both)["params"]
    assert params.keys() == {"encoders", "languages_query", "languages_translation"}
    xml = create("xml", cross_attention=False, **SMALL)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    for language in LANGUAGES:
        outputs, inference = answers(both.clone(language=language), {"params": params}, batch)
        alone = {"params": {**params["encoders"], **params[f"languages_{language}"]}}
        expected, wanted = answers(xml, alone, in_language(batch, language))
        for name in ("start", "end", "queries", "retrieval"):
            close(getattr(getattr(outputs, language), name), getattr(expected, name))
        jax.tree.map(close, inference, wanted)


def test_without_common_encoders_there_are_two():
    def count(**fields):
        shapes = jax.eval_shape(lambda: created(**fields).init(jax.random.key(0), one_batch(), train=False))
        return sum(x.size for x in jax.tree.leaves(shapes))

    encoders = sum(x.size for x in jax.tree.leaves(variables_of(created())["params"]["encoders"]))
    # 30 words and 32 clips of 8 numbers, two norms; seven self-attentions of four layers of 8 by 8 and a norm.
    assert encoders == 62 * 8 + 2 * 16 + 7 * (4 * 72 + 16)
    assert count(tied=False) - count() == encoders


def hinge(scores, draws, pool, real, margin):
    """[rows] by the formula: each row against one of the `pool` best other real columns."""
    found = []
    for b in real:
        ranked = sorted((scores[b, c] for c in real if c != b), reverse=True)[:pool]
        found.append(max(0, margin + ranked[int(draws[b] * len(ranked))] - scores[b, b]))
    return np.array(found)


def outputs_by_hand(rng, batch):
    """Of random vectors; four of the six real examples have neighbours that are close."""

    def one():
        logits = [jnp.zeros(batch.video_mask.shape)] * 2
        arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((8, 2, 4), (8, 2, 16, 4), (8, 4, 4))]
        return InLanguage(*logits, *arrays, draws=rng.random((8, 2), np.float32))

    query, translation = one(), one()
    meaning = translation.meaning.copy()
    meaning[:4] = query.meaning[:4] + 0.1 * meaning[:4]
    return Outputs(query, translation.replace(meaning=meaning), rng.random((8, 8), np.float32))


@pytest.mark.parametrize("epoch, pool", [(0, 5), (1, 3), (2, 1), (9, 1)])
def test_neighbours_by_hand(epoch, pool):
    model, batch = created(hard_epochs=(1, 2), hard_pools=(3, 1), neighbour_weight=0.5), one_batch()
    outputs = outputs_by_hand(np.random.default_rng(0), batch)
    terms = terms_of(model, outputs, batch, jnp.int32(epoch))
    of_xml = {"start", "end", "video", "query"}
    assert terms.keys() == of_xml | {f"translated_{name}" for name in of_xml} | {"neighbours"}
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in
            (outputs.query.meaning, outputs.translation.meaning)]  # fmt: skip
    total = np.zeros(6)
    for n in range(4):
        scores = unit[1][:, n] @ unit[0][:, n].T  # rows are translations, columns queries
        for matrix, draws in ((scores, outputs.draws[:, 2 * n]), (scores.T, outputs.draws[:, 2 * n + 1])):
            total += hinge(matrix, draws, pool, range(6), 0.1)
    assert total[:4].sum() < total[4:].sum()
    assert float(terms["neighbours"].value()) == pytest.approx(0.5 * total.mean(), rel=1e-5)
    assert float(terms["neighbours"].count) == 6


def test_the_mean_of_the_clips_by_hand():
    x = jnp.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[5.0, 5.0], [7.0, 7.0], [1.0, 1.0]]])
    mask = np.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(mean_of_clips(x, mask), [[2.0, 4.0], [0.0, 0.0]])


@pytest.mark.parametrize("streams, pairs", [("both", 4), ("subtitles", 3)])
def test_what_means_the_same_has_the_same_vector(streams, pairs):
    """Both languages with one network and one text: every pair is equal, and no neighbour is closer."""
    model, batch = created(streams=streams, margin=0.0), one_batch()
    variables = jax.tree.map(lambda x: x, variables_of(model))
    variables["params"]["languages_translation"] = variables["params"]["languages_query"]
    same = batch.replace(translation=batch.query_vectors, translation_mask=batch.query_mask)
    same = same.replace(translated_subtitles=batch.subtitles * batch.subtitle_mask[..., None])
    outputs = outputs_of(model, variables, same)
    assert outputs.query.meaning.shape == (8, pairs, 8)
    np.testing.assert_allclose(outputs.query.meaning, outputs.translation.meaning, atol=1e-6)
    assert float(terms_of(model, outputs, same, jnp.int32(0))["neighbours"].value()) < 1e-6
    outputs = outputs_of(model, variables, batch)
    assert float(terms_of(model, outputs, batch, jnp.int32(0))["neighbours"].value()) > 0.01


def test_a_language_reads_its_own_words_and_subtitles():
    model, batch = created(), one_batch()
    variables = variables_of(model)
    other = batch.replace(
        translation=batch.translation[:, ::-1], translated_subtitles=batch.translated_subtitles[:, ::-1]
    )
    for language, moves in (("query", False), ("translation", True)):
        one, two = (getattr(outputs_of(model, variables, b), language).start for b in (batch, other))
        assert np.allclose(one[batch.video_mask], two[batch.video_mask], atol=1e-4) != moves


def test_a_second_language_that_is_absent_is_named_before_training():
    assert created().requires() == ("translation", "subtitles", "translated_subtitles")
    assert created(streams="video").requires() == ("translation",)
    config = get_config("tvr,resnet_i3d")
    assert batch_spec(config, 2, created().requires()).translated_subtitles.shape == (2, 100, 768)
    config.text.translation_features = ""
    with pytest.raises(
        UserError,
        match='mxml needs "translation", which the dataset tvr does not have .*bring it: storyboard. Set conf',
    ):
        check_fields(config, created().requires())
    batch = one_batch().replace(translation=None, translation_mask=None)
    with pytest.raises(UserError, match="reads the query in a second language, and this batch has no transl"):
        jax.eval_shape(lambda: created().init(jax.random.key(0), batch, train=True))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(language="translatoin"), 'language of mxml is "translatoin". Did you mean "translation"'),
        (dict(streams="vidoe"), 'streams of mxml is "vidoe". Did you mean "video"'),
        (dict(hard_pools=(3,)), "hard_epochs of mXML has 3 epochs and hard_pools 1 numbers"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: created(**fields).init(jax.random.key(0), one_batch(), train=True))
