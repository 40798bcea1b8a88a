"""ReLoCL: contrast and endpoints by hand, losses by loops, decoding by exhaustion, and what changes nothing."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import OF_CLIPS, random_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import clip_bounds
from vmr_jax.layers.corpus import Comparison
from vmr_jax.models import create
from vmr_jax.models.relocl import Outputs, clip_contrast, pair_contrast

SMALL = dict(features=8, heads=2, max_clips=32, clip_seconds=0.0)
OTHERS = [name for name in OF_CLIPS if name not in ("subtitles", "subtitle_mask")]  # of other architectures


def created(**fields):
    return create("relocl", **{**SMALL, **fields})


def one_batch():
    return dataclasses.replace(random_batch(), **dict.fromkeys(OTHERS))


@functools.partial(jax.jit, static_argnames="model")
def outputs_of(model, variables, batch):
    return model.apply(variables, batch, train=False)


@functools.partial(jax.jit, static_argnames="model")
def searched(model, variables, videos, queries, mask, duration):
    """Scores r [B,B], moments of query b in video b, and the dual encoder's vectors of queries and clips."""
    run = functools.partial(model.apply, variables)
    encoded = run(videos, method="encode_videos")
    fits = run(queries, encoded, method="score_videos") / model.video_scale
    moments = run(queries, encoded, mask, duration, method="localize")
    return fits, moments, run(queries, method="encode_query"), run(videos, method="encode_moments")


@functools.cache
def variables_of(model):
    """With weights large enough to matter."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), one_batch(), train=False))()
    return jax.tree.map(lambda p: p * 20 if p.ndim > 1 else p, variables)


def test_endpoints_by_hand():
    mask = np.array([[True, True, True, True, False], [True, True, False, False, False]])
    expected = [
        [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1], [0, 0]],
        [[0, 0.5], [0.5, 1], [0, 0], [0, 0], [0, 0]],
    ]
    np.testing.assert_allclose(clip_bounds(mask), expected)


def test_contrast_of_clips_by_hand():
    # softplus(-log 3) = log 4/3 and softplus(log 3) = log 4. Stream 0: the moment's clips have the dot products
    # 0 and log 3, so (log 2 - log 2) and (log 2 - log 4/3), in the mean log(3/2) / 2; the other clip 0: 0.
    # Stream 1: 0 and 0 in the moment: 0; the other log 3: log 4 - log 2 = log 2. The last clip is padding.
    log3 = np.log(3)
    fit = np.float32([[[0, log3, 0, 9], [0, 0, log3, 9]]])
    inside = np.array([[True, True, False, False]])
    mask = np.array([[True, True, True, False]])
    expected = ((0 - np.log(1.5) / 2) + (np.log(2) - 0)) / 2
    np.testing.assert_allclose(clip_contrast(fit, inside, mask), [expected], rtol=1e-6)
    # A moment that is the whole video has no other clips: minus the mean of 0, log 3/2 and 0, and of 0, 0 and
    # log 3/2.
    np.testing.assert_allclose(clip_contrast(fit, mask, mask), [-np.log(1.5) / 3], rtol=1e-6)


def test_contrast_of_pairs_by_hand():
    # Own scores log 2 and 0. Query 0 with video 1: log 3; query 1 with video 0: log 5. For the first pair
    # 2 + 3 (its query) + 2 + 5 (its video) = 12 against 2; for the second 5 + 1 + 3 + 1 = 10 against 1.
    scores = np.log(np.float32([[2, 3, 7], [5, 1, 7]]))
    same = np.array([[True, False, False], [False, True, False]])
    others = np.array([[False, True, False], [True, False, False]])  # the third fills the batch
    turned = np.log(np.float32([[2, 5, 7], [3, 1, 7]]))
    found = pair_contrast(Comparison(scores, turned, same, others))
    np.testing.assert_allclose(found, np.log([12 / 2, 10 / 1]), rtol=1e-6)


def test_losses_by_loops():
    model = created(frame_weight=0.5, video_weight=2.0, span_weight=0.5, hard_epoch=0)
    batch, rng = one_batch(), np.random.default_rng(0)
    logits = np.where(batch.video_mask, rng.normal(size=(2, 8, 16)), MASKED).astype(np.float32)
    queries = rng.normal(size=(8, 2, 4)).astype(np.float32)
    middle, last = rng.normal(size=(2, 8, 2, 16, 4)).astype(np.float32)
    outputs = Outputs(logits[0], logits[1], queries, middle, last, rng.random((8, 2), np.float32))
    terms = jax.jit(model.loss)(outputs, batch, epoch=jnp.int32(0))
    assert {name: float(term.count) for name, term in terms.items()} == dict.fromkeys(terms, 6)
    count = batch.video_mask.sum(1)
    first = np.floor(batch.span[:, 0] / batch.duration * count).astype(int)
    end = np.ceil(batch.span[:, 1] / batch.duration * count).astype(int)  # the clip after the moment
    end = np.minimum(end, count - 1)
    clips = pairs = cross = 0.0
    dots = np.einsum("bsf,cstf->bcst", queries, middle)
    best = np.where(batch.video_mask[None, :, None], dots, -np.inf).max(-1).mean(-1)
    for b in range(6):
        for stream in range(2):
            own = dots[b, b, stream, : count[b]]
            inside = np.isin(np.arange(count[b]), np.arange(first[b], end[b] + 1))
            clips -= np.mean(np.log(2) - np.log1p(np.exp(-own[inside]))) / 2
            clips += np.mean(np.log1p(np.exp(own[~inside])) - np.log(2)) / 2
        pairs += np.log(np.exp(best[b, :6]).sum() + np.exp(best[:6, b]).sum()) - best[b, b]
        cross -= logits[1, b, end[b]] - np.log(np.exp(logits[1, b]).sum())
    np.testing.assert_allclose(terms["clips"].value(), 0.5 * clips / 6, rtol=1e-5)
    np.testing.assert_allclose(terms["videos"].value(), 2.0 * pairs / 6, rtol=1e-5)
    np.testing.assert_allclose(terms["end"].value(), 0.5 * cross / 6, rtol=1e-5)


@pytest.mark.parametrize("end_inside,shortest,longest", [(False, 2, 4), (True, 1, 0)])
def test_prediction_is_the_best_of_all_pairs(end_inside, shortest, longest):
    model = created(end_inside=end_inside, shortest=shortest, longest=longest, clip_seconds=1.5, keep=12)
    rng = np.random.default_rng(1)
    mask = np.arange(8) < np.array([[8], [5]])
    logits = np.where(mask, rng.normal(size=(2, 2, 8)), MASKED).astype(np.float32)
    batch = jax.tree.map(lambda x: x[:2], one_batch()).replace(
        video_mask=mask, duration=np.float32([11.3, 7.5])
    )
    outputs = Outputs(logits[0], logits[1], None, None, None, None)
    moments, picture = jax.jit(lambda o, b: (model.predict(o, b), model.explain(o, b)["map"]))(outputs, batch)
    moments.check()
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for b, count in enumerate((8, 5)):
        # [i,j) with the end j after it, or with the end j - 1 in it.
        pairs = [
            (log_probability[0, b, i] + log_probability[1, b, j - end_inside], 1.5 * i, 1.5 * j)
            for i in range(count)
            for j in range(i + 1, count + end_inside)
            if shortest <= j - i <= (longest or 8)
        ]
        pairs = np.array(sorted(pairs, reverse=True))
        n = min(len(pairs), 12)
        np.testing.assert_allclose(moments.scores[b, :n], pairs[:n, 0], rtol=1e-5)
        spans = np.minimum(pairs[:n, 1:], batch.duration[b])
        np.testing.assert_allclose(moments.spans[b, :n], spans, rtol=1e-6)
        assert (moments.scores[b, n:] == -np.inf).all()
        # In the picture a moment stands at its first and its last clip.
        assert np.isfinite(picture[b]).sum() == len(pairs)
        i, j = np.unravel_index(np.nanargmax(picture[b]), (8, 8))
        assert picture[b, i, j] == 1 and (i * 1.5, (j + 1) * 1.5) == tuple(pairs[0, 1:])


@pytest.mark.parametrize("streams", ["both", "video"])
def test_corpus_and_dual_encoder(streams):
    """A query of the corpus finds what `predict` does; of one stream, the best clip has the video's score."""
    model, batch = created(streams=streams, video_scale=2.0), one_batch()
    variables = variables_of(model)
    mute = batch.replace(query_vectors=np.full_like(batch.query_vectors, np.nan))
    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask, subtitles=None)
    fits, found, query, (vectors, _, mask) = searched(
        model, variables, mute, blind, batch.video_mask, batch.duration
    )
    chex.assert_trees_all_close(found, model.predict(outputs_of(model, variables, batch), batch), atol=1e-5)
    assert np.isfinite(found.scores[:, 0]).all()
    np.testing.assert_array_equal(mask, batch.video_mask & batch.example_mask[:, None])
    dot = np.where(batch.video_mask, np.einsum("bd,ctd->bct", query, vectors), -np.inf).max(-1)
    if streams == "both":
        assert (dot <= fits + 1e-5).all() and (dot < fits - 1e-3).any()
    else:
        np.testing.assert_allclose(dot, fits, atol=1e-5)


def test_the_contrast_trains_another_layer_than_the_score():
    """The last self-attention moves r and the logits, and not what the contrast compares."""
    model, batch = created(), one_batch()
    variables = variables_of(model)
    params = dict(variables["params"])
    params["third_video"] = jax.tree.map(lambda p: p[..., ::-1], params["third_video"])
    one, two = (outputs_of(model, v, batch) for v in (variables, {"params": params}))
    np.testing.assert_array_equal(one.middle, two.middle)
    real = batch.video_mask
    assert np.abs(one.features - two.features)[:, 0][real].max() > 1e-2
    assert np.abs(one.start - two.start)[real].max() > 1e-3


def test_padded_clips_do_not_matter():
    model, batch = created(), one_batch()
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


def test_mistakes_are_named():
    batch = one_batch()

    def init(batch, **fields):
        jax.eval_shape(lambda: created(**fields).init(jax.random.key(0), batch, train=True))

    with pytest.raises(UserError, match='streams of relocl is "vidoe". Did you mean "video"'):
        init(batch, streams="vidoe")
    with pytest.raises(UserError, match="ReLoCL reads subtitles, and this batch has none"):
        init(batch.replace(subtitles=None, subtitle_mask=None))
