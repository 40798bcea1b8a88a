"""MCN: segments, inputs, negatives and losses by hand, the two encoders, and the whole network in numpy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import pad_clips, random_batch
from cases.mcn import SMALL

from vmr_jax.configs.mcn import get_config
from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.mcn import Outputs, global_mean, segment_means


@pytest.fixture(scope="module")
def batch():
    return random_batch(clips=6)


@pytest.fixture(scope="module")
def small(batch):
    """A model, its variables (biases too are not zero) and its outputs at test."""
    model = create("mcn", **SMALL)
    variables = jax.jit(lambda b: model.init(jax.random.key(0), b, train=True))(batch)
    variables = jax.tree.map(lambda x: x * 4 + 0.05, variables)
    return model, variables, jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)


# Segments and what stands for them.


def test_segments_of_six_chunks_are_those_of_didemo():
    first, last = create("mcn").segments(6)
    expected = [(i, i) for i in range(6)] + [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert list(zip(first.tolist(), last.tolist())) == expected and len(expected) == 21


def test_longer_segments_can_be_left_out():
    first, last = create("mcn", max_length=2).segments(4)
    assert list(zip(first, last)) == [(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2), (2, 3)]


def test_segment_means_by_hand():
    rows = jnp.float32([[[3, 0], [0, 4], [0, 0]]])
    means = segment_means(rows, jnp.array([[0, 1, 0, 2]]), jnp.array([[0, 1, 1, 2]]))
    # (3,0), (0,4), (1.5,2) of length 2.5, (0,0); each over its length + 1e-5.
    expected = [[3 / 3.00001, 0], [0, 4 / 4.00001], [1.5 / 2.50001, 2 / 2.50001], [0, 0]]
    np.testing.assert_allclose(means[0], expected, rtol=1e-6)


def test_global_context_leaves_out_missing_and_padded_chunks():
    rows = jnp.float32([[[3, 0], [0, 4], [0, 0], [9, 9]]])
    mean = global_mean(rows, jnp.array([[True, True, True, False]]))
    # (1.5, 2), of length 2.5: the third chunk is zero, the fourth padding.
    np.testing.assert_allclose(mean, [[1.5 / 2.50001, 2 / 2.50001]], rtol=1e-6)


def test_missing_chunks_do_not_change_the_global_context():
    """The official mean counts chunks of zeros: half the length, and the same direction."""
    rows = np.float32(np.random.default_rng(0).uniform(0, 9, (1, 6, 48)))
    rows[:, [1, 3, 5]] = 0
    mean = rows[0].mean(0)
    expected = mean / (np.linalg.norm(mean) + 1e-5)
    np.testing.assert_allclose(global_mean(jnp.asarray(rows), jnp.ones((1, 6), bool))[0], expected, rtol=2e-6)


def test_inputs_are_context_segment_and_endpoints(batch):
    first, last = jnp.array([[1]] * 8), jnp.array([[2]] * 8)
    endpoints = jnp.float32([[[1 / 6, 2 / 6]]] * 8)
    for fields, width in (({}, 14), (dict(endpoints=False), 12), (dict(global_context=False), 8)):
        model = create("mcn", **SMALL, **fields)
        x = model.apply({}, batch, first, last, endpoints, method="_inputs")
        assert set(x) == {"rgb", "flow"} and x["rgb"].shape == (8, 1, width)
        parts = [global_mean(batch.video, batch.video_mask)] * model.global_context
        parts += [segment_means(batch.video, first, last)[:, 0]]
        parts += [endpoints[:, 0]] * model.endpoints
        np.testing.assert_allclose(x["rgb"][:, 0], np.concatenate(parts, axis=1), rtol=1e-6)


def test_distances_by_numpy(batch, small):
    """The distance of every segment, from the parameters as they are named."""
    _, variables, outputs = small

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def linear(x, layer):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    def unit(x):
        return x / (np.linalg.norm(x) + 1e-5)

    for stream, rows in (("rgb", batch.video), ("flow", batch.flow)):
        params = variables["params"][stream]
        lstm = params["lstm"]["layer_0"]
        assert set(lstm) == {"input_kernel", "recurrent_kernel", "input_bias"}
        for b in range(4):
            h = c = np.zeros(8)
            for word in batch.query_vectors[b, : batch.query_mask[b].sum()]:
                gates = word @ lstm["input_kernel"] + h @ lstm["recurrent_kernel"] + lstm["input_bias"]
                i, f, g, o = np.split(np.asarray(gates), 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            t = linear(h, params["sentence_output"])
            chunks = batch.video_mask[b].sum()
            context = unit(rows[b, :chunks].mean(0))
            segments = [(i, i) for i in range(6)] + [(i, j) for i in range(6) for j in range(i + 1, 6)]
            for n, (i, j) in enumerate(segments):
                if j < chunks:
                    ends = [i / chunks, j / chunks]
                    x = np.concatenate([context, unit(rows[b, i : j + 1].mean(0)), ends])
                    v = linear(np.maximum(linear(x, params["video_hidden"]), 0), params["video_output"])
                    expected = np.square(v - t).sum()
                    np.testing.assert_allclose(outputs.distances[stream][b, n], expected, rtol=1e-4)


def test_initial_values():
    model = create("mcn", hidden=50, features=40, lstm_features=30)
    batch = random_batch(clips=6)
    params = jax.jit(lambda b: model.init(jax.random.key(0), b, train=True))(batch)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key.endswith("bias"):
            assert not leaf.any()
        else:  # uniform in [-.08, .08]: the largest of at least 700 draws is near the bound
            assert 0.075 < np.abs(leaf).max() <= 0.08, path


# Prediction and the two encoders.


def test_prediction_adds_the_distances_up():
    model = create("mcn", fusion=0.25)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=3, fill=0))
    batch = dataclasses.replace(batch, video_mask=np.array([[True, True, False]]), duration=np.float32([10]))
    # Segments 0, 1, 2, 01, 02, 12, of which three end in the padded chunk.
    outputs = Outputs(
        distances={
            "rgb": jnp.float32([[4, 8, 0, 2, 0, 0]]),
            "flow": jnp.float32([[4, 0, 0, 6, 0, 0]]),
        }
    )
    moments = model.predict(outputs, batch)
    # .25 * 4 + .75 * 4 = 4; 2; .25 * 2 + .75 * 6 = 5. A chunk is 5 s.
    np.testing.assert_allclose(moments.scores[0, :3], [-2, -4, -5])
    np.testing.assert_allclose(moments.spans[0, :3], [[5, 10], [0, 5], [0, 10]])
    assert not np.isfinite(moments.scores[0, 3:]).any()
    score = np.exp(np.float32([[-4, -5, np.nan], [np.nan, -2, np.nan], [np.nan] * 3]))
    np.testing.assert_allclose(model.explain(outputs, batch)["map"][0], score, rtol=1e-6)


def test_a_dot_product_of_two_encodings_is_the_negative_distance(batch, small):
    model, variables, outputs = small
    moments, spans, mask = jax.jit(lambda v, b: model.apply(v, b, method="encode_moments"))(variables, batch)
    no_video = dataclasses.replace(batch, video=batch.video * np.nan, flow=batch.flow * np.nan)
    query = jax.jit(lambda v, b: model.apply(v, b, method="encode_query"))(variables, no_video)
    assert moments.shape == (8, 21, 2 * (6 + 2)) and query.shape == (8, 16)
    found = jnp.einsum("bnd,bd->bn", moments, query)
    distance = (outputs.distances["rgb"] + outputs.distances["flow"]) / 2
    np.testing.assert_allclose(found, -distance, rtol=1e-4, atol=1e-4)
    predicted = model.predict(outputs, batch)
    real = np.asarray(mask)[:6]
    assert not np.asarray(mask)[6:].any()  # fillers
    np.testing.assert_array_equal(real.sum(1), np.isfinite(predicted.scores[:6]).sum(1))
    best = np.where(real, found[:6], -np.inf).argmax(1)
    np.testing.assert_allclose(spans[np.arange(6), best], predicted.spans[:6, 0])


# Negatives.


@pytest.fixture(scope="module")
def drawn(batch):
    """A batch with repeated videos, and 60 draws of its triplets."""
    batch = dataclasses.replace(
        batch,
        video_index=np.array([0, 0, 1, 2, 2, 3, 0, 1], np.int32),
        span=batch.duration[:, None] * np.float32([[0, 0.35]] * 8),
    )
    model = create("mcn", **SMALL, moments="span")
    draw = jax.jit(lambda key: model.apply({}, batch, method="_triplets", rngs={"dropout": key}))
    return model, batch, [draw(key) for key in jax.random.split(jax.random.key(0), 60)]


def test_the_moment_is_the_segment_of_highest_iou(drawn):
    model, batch, draws = drawn
    first, last = model.segments(6)
    for b, chunks in enumerate(batch.video_mask.sum(1)):
        # [0,.35] with [0,(j+1)/chunks], the best of all segments: the overlap over the longer of the two.
        ends = (np.arange(chunks) + 1) / chunks
        best = int(np.argmax(np.minimum(ends, 0.35) / np.maximum(ends, 0.35)))
        assert {int(own[b]) for own, *_ in draws} == {list(zip(first, last)).index((0, best))}


def test_intra_negatives_are_the_other_segments_of_the_video(drawn):
    model, batch, draws = drawn
    _, last = model.segments(6)
    for b, chunks in enumerate(batch.video_mask.sum(1)):
        own = int(draws[0][0][b])
        allowed = {n for n in range(21) if last[n] < chunks} - {own}
        seen = {int(intra[b]) for _, intra, *_ in draws}
        assert seen <= allowed and len(seen) > len(allowed) / 2
        assert all(has_intra[b] for *_, has_intra, _ in draws)


def test_inter_negatives_are_of_real_examples_of_other_videos(drawn):
    _, _, draws = drawn
    # Rows 6 and 7 are fillers. Every video has more than the one or two chunks of the moment.
    allowed = [{2, 3, 4, 5}, {2, 3, 4, 5}, {0, 1, 3, 4, 5}, {0, 1, 2, 5}, {0, 1, 2, 5}, {0, 1, 2, 3, 4}]
    for b, rows in enumerate(allowed):
        # The probability that one of five rows is missing in 60 draws is below 5 * .8^60 = 8e-6.
        assert {int(other[b]) for _, _, other, *_ in draws} == rows
        assert all(has_inter[b] for *_, has_inter in draws)


def test_nothing_to_draw():
    batch = random_batch(size=3, clips=6, fill=0)
    batch = dataclasses.replace(
        batch,
        # Videos of 1, 2 and 6 chunks; the third's moment is its last chunk, which the others lack.
        video_mask=np.arange(6)[None] < np.array([[1], [2], [6]]),
        span=np.float32([[0, 1], [0, 0.5], [0.9, 1]]) * batch.duration[:, None],
    )
    model = create("mcn", **SMALL, moments="span")
    draw = jax.jit(lambda key: model.apply({}, batch, method="_triplets", rngs={"dropout": key}))
    own, _, _, has_intra, has_inter = draw(jax.random.key(0))
    assert own.tolist() == [0, 0, 5]
    assert has_intra.tolist() == [False, True, True]
    assert has_inter.tolist() == [True, True, False]


def test_the_inter_negative_is_the_same_place_in_the_other_video(batch):
    model = create("mcn", **SMALL)
    first, last = model.segments(6)
    own, intra, other = np.full(8, 7), np.full(8, 2), np.arange(8)[::-1].copy()
    x = model.apply({}, batch, own, intra, other, method="_triplet_inputs")["flow"]
    chunks = batch.video_mask.sum(1)
    assert (first[7], last[7], first[2], last[2]) == (0, 2, 2, 2)
    for b, j in enumerate(other):
        context = [global_mean(batch.flow[[i]], batch.video_mask[[i]])[0] for i in (b, j)]
        part = [
            segment_means(batch.flow[[i]], jnp.array([[f]]), jnp.array([[e]]))[0, 0]
            for i, f, e in ((b, 0, 2), (b, 2, 2), (j, 0, 2))
        ]
        ends = np.float32([[0, 2], [2, 2], [0, 2]]) / chunks[b]  # its own, of the other video too
        expected = [
            np.concatenate([context[0], part[0], ends[0]]),
            np.concatenate([context[0], part[1], ends[1]]),
            np.concatenate([context[1], part[2], ends[2]]),
        ]
        np.testing.assert_allclose(x[b], expected, rtol=1e-5, atol=1e-6)


def test_a_moment_is_drawn_from_the_annotated_ones(batch):
    model = create("mcn", **SMALL)
    draw = jax.jit(lambda key: model.apply({}, batch, key, method="_moment"))
    draws = np.stack([draw(key) for key in jax.random.split(jax.random.key(0), 40)])
    for b, count in enumerate(batch.window_mask.sum(1)):
        assert {tuple(m) for m in draws[:, b].tolist()} == {tuple(w) for w in batch.windows[b, :count].tolist()}
    assert batch.window_mask.sum(1).max() == 3
    chosen = dataclasses.replace(model, moments="span").apply({}, batch, jax.random.key(0), method="_moment")
    np.testing.assert_array_equal(chosen, batch.span)


def test_loss_by_hand():
    model = create("mcn")
    batch = random_batch(size=3, clips=6, fill=1)
    outputs = Outputs(
        distances={
            "rgb": jnp.float32([[1.0, 1.05, 0.5], [2.0, 3.0, 3.0], [9, 0, 0]]),
            "flow": jnp.float32([[1.0, 2.0, 1.1], [1.0, 0.0, 0.0], [9, 0, 0]]),
        },
        has_intra=jnp.array([True, True, True]),
        has_inter=jnp.array([True, False, True]),
    )
    terms = model.loss(outputs, batch, epoch=jnp.int32(0))
    found = {name: (float(term.sum), float(term.count)) for name, term in terms.items()}
    # Hinges .1 + positive - negative; the third row is a filler, the second has no inter negative.
    expected = {
        "rgb_intra": (0.5 * (0.05 + 0), 2),
        "rgb_inter": (0.2 * 0.6, 1),
        "flow_intra": (0.5 * (0 + 1.1), 2),
        "flow_inter": (0.2 * 0, 1),
    }
    assert found == {name: pytest.approx(pair, abs=1e-6) for name, pair in expected.items()}


def test_the_streams_have_gradients_of_their_own(batch):
    """The loss of RGB alone has the gradient of the joint loss, for the network of RGB."""
    model = create("mcn", **SMALL)
    variables = jax.jit(lambda b: model.init(jax.random.key(0), b, train=True))(batch)

    def total(params, streams):
        outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(1)})
        terms = model.loss(outputs, batch, epoch=jnp.int32(0))
        return sum(term.value() for name, term in terms.items() if name.split("_")[0] in streams)

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    both = gradient(variables["params"], ("rgb", "flow"))
    rgb = gradient(variables["params"], ("rgb",))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), both["rgb"], rgb["rgb"])
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(rgb["flow"]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(both["flow"]))


def test_padded_chunks_change_nothing(batch, small):
    model, variables, outputs = small
    longer = pad_clips(batch, 6)
    found = model.predict(jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, longer), longer)
    expected = model.predict(outputs, batch)
    np.testing.assert_allclose(found.scores[:, :21], expected.scores, rtol=1e-4)
    step = jax.jit(lambda v, b: model.apply(v, b, train=True, rngs={"dropout": jax.random.key(0)}))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
        step(variables, longer),
        step(variables, batch),
    )


# Settings.


def test_one_stream_needs_no_flow(batch):
    model = create("mcn", **SMALL, streams="video", moments="span")
    assert model.requires() == () and create("mcn").requires() == ("flow", "windows")
    batch = dataclasses.replace(batch, flow=None, windows=None)
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)
    assert set(shapes["params"]) == {"rgb"}


@pytest.mark.parametrize(
    "fields,change,message",
    [
        (dict(streams="flow"), {}, 'streams of mcn is "flow"[.] Known: fused, video'),
        (dict(moments="span "), {}, "Known: windows, span"),
        ({}, dict(flow=None), "this batch has no flow"),
        ({}, dict(windows=None), "one of the annotated moments"),
    ],
)
def test_wrong_settings_are_told(batch, fields, change, message):
    with pytest.raises(UserError, match=message):
        model = create("mcn", **SMALL, **fields)
        jax.eval_shape(
            lambda b: model.init(jax.random.key(0), b, train=True), dataclasses.replace(batch, **change)
        )


# The config.


def test_the_chunked_datasets_have_the_official_words():
    for arg in ("didemo", "tempo"):
        config = get_config(arg)
        assert (config.text.tokenizer, config.text.max_words) == ("alphanumeric", 50)
    assert get_config("charades_sta").text.tokenizer == "words"


def test_fused_didemo_reads_flow_beside_rgb():
    config = get_config("didemo,fused")
    assert (config.dataset.feature_dim, config.model.streams) == (4096, "fused")
    assert config.dataset.streams.to_dict() == {"flow": ("average_global_flow.h5", 1024)}
    with pytest.raises(UserError, match="leave the option flow out"):
        get_config("didemo,flow,fused")


def test_learning_rates_are_those_of_the_official_layers():
    """Ten times for the LSTM, with its bias; twice for the other biases."""
    rules = get_config("didemo").optimizer.rules
    expected = {
        "rgb/lstm/layer_0/input_kernel": 10,
        "rgb/lstm/layer_0/input_bias": 10,
        "flow/sentence_output/kernel": 1,
        "flow/sentence_output/bias": 2,
        "rgb/video_hidden/bias": 2,
        "rgb/video_output/kernel": 1,
    }
    found = {path: next(rate for rule, rate in rules if re.fullmatch(rule, path)) for path in expected}
    assert found == expected
