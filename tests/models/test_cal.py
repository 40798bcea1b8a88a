"""CAL: windows, inputs and distances by hand, negatives by what they may be, dot products, and the corpus."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import pad_clips, random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.cal import Outputs, chamfer

SMALL = dict(hidden=8, features=6, lstm_features=8, clip_seconds=0.0, scales=(1, 2, 4, 8), moments="span")


def created(**fields):
    return create("cal", **{**SMALL, **fields})


@pytest.fixture(scope="module")
def batch():
    """Eight rows, the last two filling, with two sentences of one video."""
    return dataclasses.replace(random_batch(), video_index=np.array([0, 0, 1, 2, 3, 4, 0, 1], np.int32))


@functools.cache
def variables_of(model):
    variables = jax.jit(lambda b: model.init(jax.random.key(0), b, train=False))(random_batch())
    return jax.tree.map(lambda p: p * 10 if p.ndim > 1 else p, variables)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def call(model, method, variables, *args):
    return model.apply(variables, *args, method=method)


@functools.partial(jax.jit, static_argnames="model")
def outputs_of(model, variables, batch):
    return model.apply(variables, batch, train=False)


# Windows.


def test_windows_by_hand():
    # Windows of 1, 2, 4 units of two clips step by 1, 1 and round(4 * 0.5) = 2 units. Of a video of six clips
    # (4 s each, the last ends with the video at 23 s) they are, in clips, [0,2) [0,4) [0,6), where 4 units are
    # cut, [2,4) [2,6) and [4,6). Of a video of five clips the last ones end there.
    model = created(unit=2, scales=(1, 2, 4), stride=0.5, clip_seconds=4.0)
    mask = np.arange(7) < np.array([[6], [5]])
    video = random_batch(size=2, clips=7).replace(video_mask=mask, duration=np.float32([23.0, 20.0]))
    _, _, spans, real = call(model, "_windows", {}, video)
    found = [spans[b][real[b]].tolist() for b in range(2)]
    assert found[0] == [[0, 8], [0, 16], [0, 23], [8, 16], [8, 23], [16, 23]]
    assert found[1] == [[0, 8], [0, 16], [0, 20], [8, 16], [8, 20], [16, 20]]


def test_of_didemo_they_are_the_21_segments():
    model = created(scales=(1, 2, 3, 4, 5, 6), stride=0.0)
    video = random_batch(size=1, clips=6).replace(video_mask=np.ones((1, 6), bool), duration=np.float32([30.0]))
    first, last, spans, real = call(model, "_windows", {}, video)
    assert real.all()
    pairs = [(i, j) for i in range(6) for j in range(i, 6)]
    assert list(zip(first[0].tolist(), last[0].tolist())) == pairs
    np.testing.assert_allclose(spans[0], [[5 * i, 5 * j + 5] for i, j in pairs], rtol=1e-6)


# Inputs and distances.


def test_inputs_by_hand():
    # Clips (3,4) and (6,8) have the direction (.6,.8); so has their mean. The third clip is padding.
    video = np.float32([[[3, 4], [6, 8], [9, 9]]])
    small = random_batch(size=1, clips=3).replace(
        video=video, video_mask=np.array([[True, True, False]]), duration=np.float32([8.0])
    )
    rows = call(created(), "_rows", {}, small.video, small.video_mask)
    np.testing.assert_allclose(rows[0, :2], [[0.6, 0.8] * 2] * 2, rtol=1e-5)
    assert call(created(global_context=False), "_rows", {}, small.video, small.video_mask).shape == (1, 3, 2)
    spans = jnp.float32([[[2, 6], [0, 8]]])
    ends = call(created(), "_ends", {}, small, spans)
    np.testing.assert_allclose(ends[0, :, 0], [[0.25, 0.75], [0, 1]])
    # Two clips of four seconds.
    ends = call(created(endpoints="clip"), "_ends", {}, small, spans)
    np.testing.assert_allclose(ends[0, 0, :2], [[0, 0.5], [0.5, 1]])
    assert call(created(endpoints="none"), "_ends", {}, small, spans).shape == (1, 1, 1, 0)


def test_chamfer_by_hand():
    # Clips 0, 3 and 10 (outside) and words 1, 5 and 3 (padding). Nearest words: 1 (1) and 1 or 5 (4); nearest
    # clips: 0 (1) and 3 (4). So (1 + 4) / 2 + (1 + 4) / 2. The whole video: clip 10 is 25 from word 5.
    v = np.float32([0, 3, 10]).reshape(1, 1, 3, 1).repeat(2, 1)
    inside = np.array([[[True, True, False], [True, True, True]]])
    t, words = np.float32([[[1], [5], [3]]]), np.array([[True, True, False]])
    np.testing.assert_allclose(chamfer(v, inside, t, words), [[5.0, 30 / 3 + 2.5]])


@pytest.mark.parametrize("endpoints", ["moment", "clip", "none"])
@pytest.mark.parametrize("distance", ["mean", "chamfer"])
def test_distances_are_those_of_single_clips(batch, distance, endpoints):
    """By loops over windows and clips, with numpy."""
    model = created(distance=distance, endpoints=endpoints)
    variables = variables_of(model)
    found = outputs_of(model, variables, batch).distances
    first, last, spans, real = (np.asarray(x) for x in call(model, "_windows", {}, batch))
    t, words = (np.asarray(x) for x in call(model, "_sentence", variables, batch))
    rows = np.asarray(call(model, "_rows", {}, batch.video, batch.video_mask))
    p = jax.tree.map(np.asarray, variables["params"]["clips"])
    for b in (0, 3):
        count = batch.video_mask[b].sum()
        for m in np.flatnonzero(real[b]):
            x = rows[b, first[b, m] : last[b, m] + 1]
            place = np.arange(first[b, m], last[b, m] + 1)
            ends = {
                "moment": np.tile(spans[b, m] / batch.duration[b], (len(x), 1)),
                "clip": np.stack([place, place + 1], -1) / count,
                "none": np.zeros((len(x), 0)),
            }[endpoints]
            hidden = np.maximum(np.concatenate([x, ends], -1) @ p["hidden_kernel"] + p["hidden_bias"], 0)
            v = hidden @ p["output_kernel"] + p["output_bias"]
            sentence = t[b][words[b]] if distance == "chamfer" else t[b][None]
            pairs = np.square(v[:, None] - sentence[None]).sum(-1)
            expected = pairs.min(1).mean() + (pairs.min(0).mean() if distance == "chamfer" else 0)
            np.testing.assert_allclose(found[b, m], expected, rtol=1e-4)


# Negatives.


@pytest.fixture(scope="module")
def drawn(batch):
    """Sixty draws of the triplets, with either kind of negative in the own video."""

    def draws(**fields):
        model = created(**fields)
        draw = jax.jit(lambda key: model.apply({}, batch, method="_triplets", rngs={"dropout": key}))
        return model, jax.tree.map(np.asarray, jax.vmap(draw)(jax.random.split(jax.random.key(0), 60)))

    return {kind: draws(negatives=kind) for kind in ("segments", "windows")}


def overlap(a, b):
    shared = np.maximum(0, np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]))
    return shared / (a[..., 1] - a[..., 0] + b[..., 1] - b[..., 0] - shared)


@pytest.mark.parametrize("kind", ["segments", "windows"])
def test_intra_negatives_overlap_little(batch, drawn, kind):
    model, (segments, _, has_intra, _) = drawn[kind]
    own, intra = segments[:, :, 0], segments[:, :, 1]
    np.testing.assert_array_equal(own, np.broadcast_to(batch.span, own.shape))
    assert has_intra.all() and (overlap(own, intra) < 0.35).all()
    assert (intra[..., 0] >= 0).all() and (intra[..., 1] <= batch.duration + 1e-4).all()
    _, _, spans, real = (np.asarray(x) for x in call(model, "_windows", {}, batch))
    for b in range(6):
        windows = {tuple(x) for x in spans[b][real[b]].tolist()}
        seen = {tuple(x) for x in intra[:, b].tolist()}
        if kind == "windows":
            assert seen <= windows and len(seen) > 5
        else:
            assert len(seen) == 60 and not seen & windows


def test_inter_negatives_are_the_same_seconds_of_another_video(batch, drawn):
    _, (segments, other, _, has_inter) = drawn["segments"]
    assert has_inter.all()
    for b in range(6):
        allowed = {u for u in range(6) if batch.video_index[u] != batch.video_index[b]}
        # The probability that one of four rows is missing in 60 draws is below 4 * .75^60 = 1.3e-7.
        assert set(other[:, b].tolist()) == allowed
        for draw in range(60):
            u, inter = other[draw, b], segments[draw, b, 2]
            if batch.duration[u] >= batch.duration[b]:
                np.testing.assert_array_equal(inter, batch.span[b])
            else:  # anywhere in the shorter video
                assert inter[0] >= 0 and inter[1] <= batch.duration[u] + 1e-4
                assert not np.array_equal(inter, batch.span[b])


def test_the_triplet_is_what_the_windows_are(batch):
    """Three windows as moment and negatives have the distances that they have among all windows."""
    model = created()
    variables = variables_of(model)
    _, _, spans, real = (np.asarray(x) for x in call(model, "_windows", {}, batch))
    place = np.array([np.flatnonzero(real[b])[[0, 3, 5]] for b in range(8)])
    segments = np.take_along_axis(spans, place[..., None], axis=1)
    rows = np.arange(8)
    v, inside = call(model, "_triplet_clips", variables, batch, segments, rows)
    t, _ = call(model, "_sentence", variables, batch)
    squares = np.square(np.asarray(v) - np.asarray(t)[:, None, None]).sum(-1)
    found = (squares * inside).sum(-1) / inside.sum(-1)
    expected = np.take_along_axis(np.asarray(outputs_of(model, variables, batch).distances), place, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_one_of_the_annotated_moments_is_drawn(batch):
    model = created(moments="windows")
    assert model.requires() == ("windows",) and created().requires() == ()
    draw = jax.jit(lambda key: model.apply({}, batch, method="_triplets", rngs={"dropout": key})[0][:, 0])
    own = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(1), 40)))
    for b, count in enumerate(batch.window_mask.sum(1)):
        annotated = {tuple(x) for x in batch.windows[b, :count].tolist()}
        assert {tuple(x) for x in own[:, b].tolist()} == annotated


def test_losses_by_hand(batch):
    model = created(margin=0.1, intra_weight=0.5, inter_weight=0.2)
    distances = jnp.float32([[1.0, 1.05, 0.5], [2.0, 3.0, 3.0], [1.0, 0.0, 0.0], [9, 0, 0]])
    outputs = Outputs(distances, jnp.array([True] * 4), jnp.array([True, False, True, True]))
    four = jax.tree.map(lambda x: x[:4], batch).replace(example_mask=np.arange(4) < 3)
    terms = model.loss(outputs, four, epoch=jnp.int32(0))
    # Hinges .1 + moment - negative; the last row is a filler, the second has no inter negative.
    expected = {"intra": (0.5 * (0.05 + 0 + 1.1), 3), "inter": (0.2 * (0.6 + 1.1), 2)}
    found = {name: (float(term.sum), float(term.count)) for name, term in terms.items()}
    assert found == {name: pytest.approx(pair, abs=1e-6) for name, pair in expected.items()}


# The corpus.


@pytest.mark.parametrize("fields", [{}, {"distance": "chamfer"}, {"endpoints": "none"}], ids=str)
def test_corpus(batch, fields):
    """A moment's scores in the corpus add up to its negative distance, whichever the video."""
    model = created(**fields)
    variables = variables_of(model)
    mute = batch.replace(query_vectors=np.full_like(batch.query_vectors, np.nan))
    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask)
    videos = call(model, "encode_videos", variables, mute)
    fits = np.asarray(call(model, "score_videos", variables, blind, videos))
    expected = model.predict(outputs_of(model, variables, batch), batch)
    found = call(model, "localize", variables, blind, videos, batch.video_mask, batch.duration)
    own = np.diagonal(fits)
    np.testing.assert_allclose(own, expected.scores[:, 0], rtol=1e-4)
    real = np.isfinite(expected.scores)
    np.testing.assert_allclose((found.scores + own[:, None])[real], expected.scores[real], rtol=1e-4)
    # Query 0 in video 2.
    other = batch.replace(
        query_vectors=batch.query_vectors[[0] * 8],
        query_mask=batch.query_mask[[0] * 8],
        query=batch.query[[0] * 8],
    )
    best = model.predict(outputs_of(model, variables, other), other).scores[2, 0]
    np.testing.assert_allclose(fits[0, 2], best, rtol=1e-4)


def test_the_mean_distance_is_a_dot_product(batch):
    model = created()
    variables = variables_of(model)
    vectors, spans, mask = call(
        model, "encode_moments", variables, batch.replace(query_vectors=np.nan * batch.query_vectors)
    )
    query = call(model, "encode_query", variables, batch.replace(video=np.nan * batch.video))
    _, _, expected, real = call(model, "_windows", {}, batch)
    np.testing.assert_array_equal(mask, real & batch.example_mask[:, None])
    np.testing.assert_array_equal(spans, expected)
    dot = np.einsum("bme,be->bm", vectors, query)
    distances = np.asarray(outputs_of(model, variables, batch).distances)
    np.testing.assert_allclose(dot[mask], -distances[mask], rtol=1e-4, atol=1e-4)


def test_the_picture_shows_windows(batch):
    model = created()
    outputs = outputs_of(model, variables_of(model), batch)
    picture = np.asarray(jax.jit(lambda o, b: model.explain(o, b)["map"])(outputs, batch))
    first, last, _, real = (np.asarray(x) for x in call(model, "_windows", {}, batch))
    for b in range(2):
        cells = list(zip(first[b][real[b]].tolist(), last[b][real[b]].tolist()))
        assert len(set(cells)) == len(cells) == np.isfinite(picture[b]).sum()
        expected = np.exp(-np.asarray(outputs.distances)[b][real[b]])
        np.testing.assert_allclose([picture[b][cell] for cell in cells], expected, rtol=1e-6)


def test_padded_clips_change_nothing(batch):
    model = created(dropout=0.0)
    longer = pad_clips(batch, 5)
    one, two = (model.predict(outputs_of(model, variables_of(model), b), b) for b in (batch, longer))
    real = np.isfinite(one.scores)
    np.testing.assert_allclose(two.scores[:, : real.shape[1]][real], one.scores[real], rtol=1e-5)
    np.testing.assert_allclose(two.spans[:, : real.shape[1]][real], one.spans[real], rtol=1e-5)
    draws = [
        jax.jit(lambda b: model.apply(variables_of(model), b, train=True, rngs={"dropout": jax.random.key(0)}))(
            b
        )
        for b in (batch, longer)
    ]
    np.testing.assert_allclose(draws[0].distances, draws[1].distances, rtol=1e-5)


@pytest.mark.parametrize(
    "fields,change,message",
    [
        (dict(distance="euclidean"), {}, 'distance of cal is "euclidean"[.] Known: mean, chamfer'),
        (dict(endpoints="moments"), {}, 'Did you mean "moment"'),
        (dict(moments="windows"), dict(windows=None), "CAL draws one of the annotated moments"),
    ],
)
def test_wrong_settings_are_told(batch, fields, change, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(
            lambda b: created(**fields).init(jax.random.key(0), b, train=True), batch.replace(**change)
        )


def test_the_chamfer_distance_has_no_index(batch):
    model = created(distance="chamfer")
    with pytest.raises(UserError, match="no dot product, so its moments cannot be indexed"):
        model.apply(variables_of(model), batch, method="encode_moments")
