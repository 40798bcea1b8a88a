"""XML: labels and losses by hand, prediction by exhaustion, the corpus, and what changes nothing."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import OF_CLIPS, random_batch

from vmr_jax.configs.xml import get_config
from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.xml import Outputs

SMALL = dict(features=8, heads=2, max_clips=32, clip_seconds=0.0)
OTHERS = [name for name in OF_CLIPS if name not in ("subtitles", "subtitle_mask")]  # of other architectures


def created(**fields):
    return create("xml", **{**SMALL, **fields})


def one_batch():
    return dataclasses.replace(random_batch(), **dict.fromkeys(OTHERS))


@functools.partial(jax.jit, static_argnames="model")
def outputs_of(model, variables, batch):
    return model.apply(variables, batch, train=False)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def call(model, method, variables, *args):
    return model.apply(variables, *args, method=method)


@functools.cache
def variables_of(model):
    """With weights large enough to matter."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), one_batch(), train=False))()
    return jax.tree.map(lambda p: p * 20 if p.ndim > 1 else p, variables)


# Losses.


def hinges(outputs, batch, real, margin, pool):
    """Both hinge losses of every real example, by loops over the formulas of section 4.3."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (outputs.queries, outputs.retrieval)]
    fit = np.zeros((8, 8))
    for b in range(8):
        for c in range(8):
            cosine = [(unit[1][c, s] @ unit[0][b, s])[batch.video_mask[c]].max() for s in range(2)]
            fit[b, c] = np.mean(cosine)
    found = []
    for scores, draws in ((fit, outputs.draws[:, 0]), (fit.T, outputs.draws[:, 1])):
        for b in real:
            ranked = sorted((scores[b, c] for c in real if c != b), reverse=True)[:pool]
            found.append(max(0, margin + ranked[int(draws[b] * len(ranked))] - scores[b, b]))
    return np.reshape(found, (2, -1))


@pytest.mark.parametrize("epoch,pool", [(0, 5), (1, 5), (2, 3), (9, 3)])
def test_losses_by_hand(epoch, pool):
    model = created(hard_epoch=2, hard_pool=3, span_weight=0.5, margin=0.1, late_end=False)
    batch, rng = one_batch(), np.random.default_rng(0)
    logits = np.where(batch.video_mask, rng.normal(size=(2, 8, 16)), MASKED).astype(np.float32)
    queries = rng.normal(size=(8, 2, 4)).astype(np.float32)
    retrieval = rng.normal(size=(8, 2, 16, 4)).astype(np.float32)
    retrieval[:3, :, 0] = queries[:3]  # these three fit best
    draws = rng.random((8, 2), np.float32)
    outputs = Outputs(logits[0], logits[1], queries, retrieval, draws)
    terms = model.loss(outputs, batch, epoch=jnp.int32(epoch))
    real = range(6)
    for name, expected in zip(("video", "query"), hinges(outputs, batch, real, 0.1, pool)):
        assert expected.min() == 0 < expected.max()  # both sides of the hinge occur
        assert float(terms[name].value()) == pytest.approx(expected.mean(), rel=1e-5)
        assert float(terms[name].count) == 6
    first = np.floor(batch.span[:, 0] / batch.duration * batch.video_mask.sum(1)).astype(int)
    last = np.ceil(batch.span[:, 1] / batch.duration * batch.video_mask.sum(1)).astype(int) - 1
    for name, label, x in zip(("start", "end"), (first, last), logits):
        log_softmax = x - np.log(np.exp(x).sum(1, keepdims=True))
        expected = -0.5 * np.mean([log_softmax[b, label[b]] for b in real])
        assert float(terms[name].value()) == pytest.approx(expected, rel=1e-5)


def test_without_another_example_there_is_no_negative():
    model, batch = created(), one_batch()
    alone = dataclasses.replace(batch, example_mask=np.arange(8) < 1)
    outputs = outputs_of(model, variables_of(model), alone)
    terms = model.loss(outputs, alone, epoch=jnp.int32(0))
    assert terms["video"].count == terms["query"].count == 0 and terms["video"].value() == 0
    assert terms["start"].count == 1


def test_draws_are_uniform_and_the_examples_own():
    model, batch = created(), one_batch()
    run = jax.jit(lambda v, b, key: model.apply(v, b, train=True, rngs={"dropout": key}).draws)
    draws = np.stack([run(variables_of(model), batch, jax.random.key(i)) for i in range(40)])
    chex.assert_shape(draws, (40, 8, 2))
    assert (draws >= 0).all() and (draws < 1).all()
    # The mean of 640 uniform numbers is within 0.06 of 1/2 (five standard deviations of 0.289 / sqrt(640)).
    assert abs(draws.mean() - 0.5) < 0.06
    turned = jax.tree.map(lambda x: x[::-1], batch)
    np.testing.assert_array_equal(run(variables_of(model), turned, jax.random.key(0)), draws[0, ::-1])
    assert not outputs_of(model, variables_of(model), batch).draws.any()  # the hardest, where nothing is drawn


# Prediction.


@pytest.mark.parametrize("shortest,longest", [(3, 5), (1, 0)])
def test_prediction_is_the_best_of_all_pairs(shortest, longest):
    model = created(shortest=shortest, longest=longest, clip_seconds=1.5, keep=20)
    rng = np.random.default_rng(1)
    mask = np.arange(8) < np.array([[8], [5]])
    logits = np.where(mask, rng.normal(size=(2, 2, 8)), MASKED).astype(np.float32)
    batch = jax.tree.map(lambda x: x[:2], one_batch()).replace(
        video_mask=mask, duration=np.float32([11.3, 7.5])
    )
    outputs = Outputs(logits[0], logits[1], None, None, None)
    moments = model.predict(outputs, batch)
    moments.check()
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for b, count in enumerate((8, 5)):
        pairs = [
            (probability[0, b, i] * probability[1, b, j], 1.5 * i, min(1.5 * (j + 1), batch.duration[b]))
            for i in range(count)
            for j in range(i, count)
            if shortest <= j - i + 1 <= (longest or 8)
        ]
        pairs = np.array(sorted(pairs, reverse=True)[:20])
        n = len(pairs)
        np.testing.assert_allclose(moments.scores[b, :n], np.log(pairs[:, 0]), rtol=1e-5)
        np.testing.assert_allclose(moments.spans[b, :n], pairs[:, 1:], rtol=1e-6)
        assert n == 20 or (moments.scores[b, n:] == -np.inf).all()
    picture = model.explain(outputs, batch)["map"]
    for b in range(2):
        i, j = np.unravel_index(np.nanargmax(picture[b]), (8, 8))
        assert picture[b, i, j] == 1 and moments.spans[b, 0, 0] == 1.5 * i
        assert np.isfinite(picture[b]).sum() == sum(
            1 for i in range(8 - 3 * b) for j in range(i, 8 - 3 * b) if shortest <= j - i + 1 <= (longest or 8)
        )


@pytest.mark.parametrize("streams", ["both", "video", "subtitles"])
def test_corpus(streams):
    model, batch = created(streams=streams, video_scale=20.0), one_batch()
    variables = variables_of(model)
    nothing = np.full_like(batch.query_vectors, np.nan)
    videos = call(model, "encode_videos", variables, batch.replace(query_vectors=nothing))
    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask, subtitles=None)
    fits = call(model, "score_videos", variables, blind, jax.tree.map(lambda x: x[:5], videos))
    outputs = outputs_of(model, variables, batch)
    count = 2 if streams == "both" else 1
    chex.assert_shape([fits, outputs.queries, outputs.retrieval], [(8, 5), (8, count, 8), (8, count, 16, 8)])
    unit = outputs.queries / np.linalg.norm(outputs.queries, axis=-1, keepdims=True)
    cosine = np.einsum("bsf,cstf->bcst", unit, outputs.retrieval[:5])
    best = np.where(batch.video_mask[None, :5, None], cosine, -9).max(-1).mean(-1)
    np.testing.assert_allclose(fits, 20 * best, atol=1e-4)
    # In its own video, a query of the corpus finds what `predict` does.
    found = call(model, "localize", variables, blind, videos, batch.video_mask, batch.duration)
    chex.assert_trees_all_close(found, model.predict(outputs, batch), atol=1e-5)
    assert np.isfinite(found.scores[:, 0]).all()


@pytest.mark.parametrize("streams", ["both", "video", "subtitles"])
def test_dual_encoder(streams):
    """The best clip of a video has the score of the video; with two streams each may have a better clip."""
    model, batch = created(streams=streams, clip_seconds=1.5, video_scale=1.0), one_batch()
    variables = variables_of(model)
    mute = batch.replace(query_vectors=np.full_like(batch.query_vectors, np.nan))
    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask, subtitles=None)
    vectors, spans, mask = call(model, "encode_moments", variables, mute)
    query = call(model, "encode_query", variables, blind)
    width = 16 if streams == "both" else 8
    chex.assert_shape([vectors, spans, mask, query], [(8, 16, width), (8, 16, 2), (8, 16), (8, width)])
    np.testing.assert_array_equal(mask, batch.video_mask & batch.example_mask[:, None])
    dot = np.einsum("bd,ctd->bct", query, vectors)
    outputs = outputs_of(model, variables, batch)
    unit = outputs.queries / np.linalg.norm(outputs.queries, axis=-1, keepdims=True)
    cosine = np.einsum("bsf,cstf->bcst", unit, outputs.retrieval)
    np.testing.assert_allclose(dot[:, mask], cosine.mean(2)[:, mask], atol=1e-5)
    best = np.where(batch.video_mask, dot, -np.inf).max(-1)
    fits = call(model, "score_videos", variables, blind, call(model, "encode_videos", variables, mute))
    if streams == "both":
        assert (best <= fits + 1e-5).all() and (best < fits - 1e-2).any()
    else:
        np.testing.assert_allclose(best, fits, atol=1e-5)
    # A clip has 1.5 s; where the video is longer than that by more than one clip, they share it.
    count = batch.video_mask.sum(1)
    length = np.where(batch.duration > 1.5 * (count + 1), batch.duration / count, 1.5)
    grid = np.stack([np.arange(16), np.arange(1, 17)], axis=-1) * length[:, None, None]
    np.testing.assert_allclose(spans, np.minimum(grid, batch.duration[:, None, None]), rtol=1e-6)


# What is read, and what is not.


def changed(batch, name, where):
    """With other numbers in the rows of a field where `where` [B,T] is True."""
    rows = np.array(getattr(batch, name))
    rows[where] = rows[where][:, ::-1]
    return batch.replace(**{name: rows})


@pytest.mark.parametrize("streams", ["both", "video", "subtitles"])
def test_each_stream_is_read_where_it_is_asked_for(streams):
    model, batch = created(streams=streams), one_batch()
    variables, said = variables_of(model), batch.subtitle_mask
    expected = outputs_of(model, variables, batch)

    def moves(other):
        found = outputs_of(model, variables, other)
        return not np.allclose(found.start[batch.video_mask], expected.start[batch.video_mask], atol=1e-4)

    assert moves(changed(batch, "video", batch.video_mask)) == (streams != "subtitles")
    assert moves(changed(batch, "subtitles", said)) == (streams != "video")
    assert not moves(changed(batch, "subtitles", ~said))  # nothing is said there
    assert model.requires() == (() if streams == "video" else ("subtitles",))


@pytest.mark.parametrize("fields", [{}, {"cross_attention": False}], ids=str)
def test_padded_clips_do_not_matter(fields):
    model, batch = created(**fields), one_batch()
    variables = variables_of(model)
    wide = {
        name: np.concatenate([getattr(batch, name), np.zeros_like(getattr(batch, name))], 1)
        for name in ("video", "video_mask", "subtitles", "subtitle_mask")
    }
    found, expected = (outputs_of(model, variables, b) for b in (batch.replace(**wide), batch))
    for name in ("start", "end"):
        np.testing.assert_allclose(
            getattr(found, name)[:, :16], getattr(expected, name), rtol=1e-5, atol=1e-5, err_msg=name
        )
        assert (getattr(found, name)[:, 16:] == np.float32(MASKED)).all()


def test_cross_attention_brings_the_other_stream():
    """The features for localization of one stream change with the other stream; those for retrieval do not."""
    for fields, crosses in (({}, True), ({"cross_attention": False}, False)):
        model, batch = created(**fields), one_batch()
        other = changed(batch, "subtitles", batch.subtitle_mask)
        one, two = (call(model, "encode_videos", variables_of(model), b) for b in (batch, other))
        real = batch.video_mask
        np.testing.assert_array_equal(one.retrieval[:, 0][real], two.retrieval[:, 0][real])
        assert np.allclose(one.localization[:, 0][real], two.localization[:, 0][real]) != crosses


def test_word_vectors_can_be_fine_tuned():
    model = created(vocab_size=20)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), one_batch(), train=True))
    assert variables["params"]["word_vectors"]["offset"].shape == (20, 5)


def test_what_is_not_decayed():
    """All biases and norms but those after cross-attention, whose official name escapes the rule there."""
    pattern = get_config("tvr").optimizer.no_decay
    variables = jax.eval_shape(lambda: created().init(jax.random.key(0), one_batch(), train=True))
    leaves = jax.tree.leaves_with_path(variables["params"])
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    decayed = {path for path in paths if not re.fullmatch(pattern, path)}
    assert {path for path in decayed if not path.endswith(("/kernel", "/table"))} == {
        "cross_video/cross_norm/scale",
        "cross_subtitles/cross_norm/scale",
    }
    assert {path for path in paths if path.endswith(("/kernel", "/table"))} <= decayed


def test_mistakes_are_named():
    batch = one_batch()

    def init(batch, **fields):
        jax.eval_shape(lambda: created(**fields).init(jax.random.key(0), batch, train=True))

    with pytest.raises(UserError, match='streams of xml is "vidoe". Did you mean "video"'):
        init(batch, streams="vidoe")
    with pytest.raises(UserError, match="reads subtitles, and this batch has none"):
        init(batch.replace(subtitles=None, subtitle_mask=None))
    with pytest.raises(UserError, match="positions for 15 clips, and the batch has 16"):
        init(batch, max_clips=15)
    with pytest.raises(AssertionError):
        init(batch.replace(span=batch.span[:, :1]))
