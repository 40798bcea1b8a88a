"""FIAN: windows, gate, stretch and losses by hand, every ablation of the paper, and what must not change."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of
from batches import OF_CLIPS, random_batch
from cases.fian import count

from vmr_jax.configs.fian import ABLATIONS, get_config
from vmr_jax.errors import UserError
from vmr_jax.models import create, fian
from vmr_jax.models.fian import (
    ContentHead,
    Encoder,
    InformationGate,
    Outputs,
    Stretch,
    content_windows,
    window_stride,
)
from vmr_jax.moments import nms

SMALL = dict(num_clips=21, max_words=7, windows=(2, 4), stride="k/2", features=8, heads=2, hidden=12)
OTHERS = dict.fromkeys(OF_CLIPS)


def random_variables(model, batch):
    """Of the right shapes, without compiling the initialisation."""
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def pair():
    model = create("fian", **SMALL)
    return model, random_variables(model, random_batch())


def one_video(clips=4):
    """One example of clips of a second."""
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=clips, fill=0))
    return batch.replace(video_mask=np.ones((1, clips), bool), duration=np.float32([clips]))


# Windows.


def test_strides_of_table_6():
    # Of windows 8 and 24 an eighth, a quarter, half; one clip; never less than one clip.
    strides = [[window_stride(k, s) for s in ("1", "k/8", "k/4", "k/2")] for k in (8, 24, 3)]
    assert strides == [[1, 1, 2, 4], [1, 3, 6, 12], [1, 1, 1, 1]]


def test_windows_by_hand():
    # Of five clips: size 2 with stride 1, size 4 with stride 2: the second one, [2, 5], would end too late.
    expected = [[0, 1], [1, 2], [2, 3], [3, 4], [0, 3]]
    np.testing.assert_array_equal(content_windows(5, (2, 4, 6), "k/2"), expected)


@pytest.mark.parametrize(
    "arg,windows",
    [
        # (200 - k) / (k / 4) + 1, rounded down: 47, 22, 9, 5, 3, 2, 1.
        ("activitynet_captions,c3d", 89),
        # (200 - k) / (k / 8) + 1: 193, 93, 43, 18.
        ("tacos,c3d", 347),
        # (64 - k) / (k / 8) + 1: 25, 14, 9, 5.
        ("charades_sta,i3d", 53),
        ("tacos,c3d,stride_1", 193 + 185 + 169 + 137),
        ("tacos,c3d,stride_2", 49 + 24 + 11 + 5),
        ("tacos,c3d,tgn", 4 * 200),
    ],
)
def test_number_of_candidates(arg, windows):
    config = get_config(arg)
    model = create("fian", **{k: v for k, v in config.model.items() if k != "name"})
    assert len(model.candidates(config.input.num_clips)) == windows


def test_a_window_is_scored_by_all_its_clips_and_no_other():
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(1, 7, 3)).astype(np.float32)
    head = ContentHead((2, 4, 9), "k/2")  # 9 is longer than the video
    params = head.init(jax.random.key(0), clips)["params"]
    assert set(params) == {"score_2", "offset_2", "score_4", "offset_4"}
    found = head.apply({"params": params}, clips)
    for n, (first, last) in enumerate(content_windows(7, (2, 4, 9), "k/2").astype(int)):
        size = last - first + 1
        inside = clips[0, first : last + 1]
        score = (inside * params[f"score_{size}"]["kernel"][..., 0]).sum() + params[f"score_{size}"]["bias"][0]
        offset = np.einsum("kf,kfo->o", inside, params[f"offset_{size}"]["kernel"])
        np.testing.assert_allclose(found.logits[0, n], score, atol=1e-5)
        np.testing.assert_allclose(found.offsets[0, n], offset + params[f"offset_{size}"]["bias"], atol=1e-5)
    assert found.logits.shape == (1, n + 1)


# The iterative attention.


def test_information_gate_is_tied():
    # Information 3 * 1 + 5 * 2 = 13; sigmoid(13 - 13) * (13 + 7) = 10.
    params = {
        "query": {"kernel": jnp.full((1, 1), 3.0)},
        "attended": {"kernel": jnp.full((1, 1), 5.0)},
        "gate_bias": jnp.float32([-13.0]),
        "bias": jnp.float32([7.0]),
    }
    gate = InformationGate(jnp.float32)
    found = gate.apply({"params": params}, jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), 2.0))
    np.testing.assert_allclose(found, [[[10.0]]], rtol=1e-6)


def test_stretch_mixes_words_along_time():
    # Two of up to three clips from two of up to four words, of which one is padding.
    kernel = jnp.arange(12.0).reshape(3, 4)
    params = {"kernel": kernel, "bias": jnp.float32([100, 200, 300])}
    words = jnp.float32([[[1, 10], [7, 7]]])
    stretch = Stretch(3, 4, jnp.float32)
    found = stretch.apply({"params": params}, words, jnp.array([[True, False]]), 2)
    # Clip t is kernel[t, 0] * word 0 + bias[t]; kernel[1, 0] = 4.
    np.testing.assert_allclose(found, [[[100, 100], [204, 240]]])
    assert stretch.init(jax.random.key(0), words, jnp.array([[True, False]]), 2)["params"]["kernel"].shape == (
        3,
        4,
    )


@pytest.mark.parametrize("attention", ["cga", "cma", "soft"])
def test_encoder_against_numpy(attention):
    rng = np.random.default_rng(0)
    queries, values = rng.normal(size=(1, 3, 4)), rng.normal(size=(1, 5, 4))
    mask = np.array([[True] * 4 + [False]])
    encoder = Encoder(2, 6, attention, jnp.float32)
    variables = encoder.init(jax.random.key(0), queries, values, mask)
    found = encoder.apply(variables, queries, values, mask)
    p = jax.tree.map(np.float64, variables["params"])
    q, v = queries[0], values[0, :4]

    def linear(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    def norm(x):  # scale 1 and bias 0 at first
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    if attention == "soft":
        a = p["attention"]
        hidden = np.tanh(linear(q, a["query"])[:, None] + linear(v, a["key"])[None])
        attended = softmax(linear(hidden, a["score"])[..., 0]) @ v
    else:
        h = p["attention"]["heads"]
        projected = [linear(x, h[name]) for x, name in ((q, "query"), (v, "key"), (v, "value"))]
        heads = []
        for i in (slice(0, 2), slice(2, 4)):
            query, key, value = (x[:, i] for x in projected)
            heads.append(softmax(query @ key.T / np.sqrt(2)) @ value)
        attended = linear(np.concatenate(heads, -1), p["attention"]["out"])
    if attention == "cga":
        information = linear(q, p["gate"]["query"]) + linear(attended, p["gate"]["attended"])
        attended = information / (1 + np.exp(-information))  # both biases start at 0
    x = norm(q + attended)
    y = norm(x + linear(np.maximum(linear(x, p["hidden"]), 0), p["output"]))
    np.testing.assert_allclose(found[0], y, atol=1e-5)


# Losses and prediction.


def test_loss_by_hand():
    model = create("fian", **{**SMALL, "windows": (2, 4), "boundary_weight": 0.1})
    batch = one_video().replace(span=np.float32([[0.5, 2.5]]))
    # Windows [0, 2), [1, 3), [2, 4), [0, 4). IoU with [.5, 2.5): 1.5 / 2.5 = .6, .6, .5 / 3.5 = 1/7, 2 / 4.
    # Those above .55 are positive.
    logits = jnp.float32([[0.0, np.log(3), 0.0, 0.0]])
    # Offsets wanted: (.5, .5), (-.5, -.5); given (.5, 0) and (2.5, -.5).
    offsets = jnp.float32([[[0.5, 0.0], [2.5, -0.5], [99, 99], [99, 99]]])
    terms = model.loss(Outputs(logits, offsets), batch, epoch=jnp.int32(0))
    # Positives: log 2, and -.6 log(3/4) - .4 log(1/4), their mean; both negatives: log 2.
    positives = (np.log(2) - 0.6 * np.log(0.75) - 0.4 * np.log(0.25)) / 2
    # Boundary: (0 + .5^2 / 2) and (3 - .5 + 0), their mean, times .1.
    expected = {
        "positive_alignment": positives,
        "negative_alignment": np.log(2),
        "boundary": 0.1 * (0.125 + 2.5) / 2,
    }
    assert {name: float(term.value()) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    # No window has IoU > .55 with a moment of half a clip: nothing is positive, and nothing is NaN.
    terms = model.loss(Outputs(logits, offsets), batch.replace(span=np.float32([[0, 0.5]])), epoch=jnp.int32(0))
    assert [float(terms[name].value()) for name in ("positive_alignment", "boundary")] == [0, 0]
    assert terms["negative_alignment"].count == 4


def test_windows_beyond_a_shorter_video_do_not_count():
    model = create("fian", **SMALL)
    batch = one_video().replace(
        video_mask=np.array([[True, True, True, False]]), duration=np.float32([6]), span=np.float32([[0, 4]])
    )
    # Three clips of 2 s. [0, 2) is the moment; of [1, 3), [2, 4), [0, 4) only the first is within the video.
    terms = model.loss(Outputs(jnp.zeros((1, 4)), jnp.zeros((1, 4, 2))), batch, epoch=jnp.int32(0))
    assert (terms["positive_alignment"].count, terms["negative_alignment"].count) == (1, 1)
    moments = model.predict(Outputs(jnp.zeros((1, 4)), jnp.zeros((1, 4, 2))), batch)
    np.testing.assert_allclose(moments.spans[0, :2], [[0, 4], [2, 6]])
    assert np.isfinite(moments.scores[0]).sum() == 2


def test_prediction_is_the_refined_window_in_seconds():
    model = create("fian", **SMALL)
    logits = jnp.float32([[0.0, 2.0, 1.0, -1.0]])
    offsets = jnp.zeros((1, 4, 2)).at[0, 1].set(jnp.float32([-0.5, 0.25]))
    moments = model.predict(Outputs(logits, offsets), one_video())
    # Window [1, 3) with -.5 and .25, then [2, 4), [0, 2), [0, 4).
    np.testing.assert_allclose(moments.spans[0], [[0.5, 3.25], [2, 4], [0, 2], [0, 4]])
    picture = model.explain(Outputs(logits, offsets), one_video())["map"][0]
    np.testing.assert_allclose(picture[1, 2], moments.scores[0, 0])
    assert np.isfinite(picture).sum() == 4


# The ablations.

ROWS = {"full": {}, **ABLATIONS}


def initialised(row):
    model = create("fian", **{**SMALL, **ROWS[row]})
    batch = random_batch()
    return model, jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)


def size(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


class PerStep(nn.Module):
    """Stands in for a BiGRU, whose loops are what takes long to compile."""

    features: int
    bidirectional: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, mask):
        return jnp.where(mask[..., None], jnp.tanh(nn.Dense(2 * self.features, name="linear")(x)), 0)


STRIDES = {row: fields for row, fields in ROWS.items() if "stride" in fields}


@pytest.mark.parametrize("keep,enough", [(0, True), (100, False)])
def test_all_candidates_go_into_nms(keep, enough):
    # Windows of one clip as stride, best in the middle of 200 clips: the best 100 of 684 all lie within some
    # 40 clips, of which NMS at IoU .05 leaves fewer than the five moments that R@5 asks for.
    model = create("fian", stride="1", keep=keep)
    batch = one_video(clips=200)
    centre = jnp.asarray(model.candidates(200).mean(1))[None]
    logits = -jnp.abs(centre - 99.5) / 50
    moments = model.predict(Outputs(logits=logits, offsets=None), batch)
    assert moments.spans.shape[1] == (keep or 193 + 185 + 169 + 137)
    left = jnp.isfinite(nms(moments, 0.05, k=5).scores).sum()
    assert (left == 5) == enough


@pytest.mark.parametrize("row", sorted(set(ROWS) - set(STRIDES)))
def test_every_row_of_tables_4_and_5_runs(row, monkeypatch):
    """Finite losses, and gradients that reach every parameter."""
    monkeypatch.setattr(fian, "GRU", PerStep)
    model = create("fian", **{**SMALL, **ROWS[row], "windows": (2, 6), "positive_iou": 0.2})
    batch = random_batch(size=2, fill=0)
    variables = random_variables(model, batch)

    def objective(variables):
        outputs = model.apply(variables, batch, train=False)
        return sum(term.value() for term in model.loss(outputs, batch, epoch=jnp.int32(0)).values())

    loss, gradients = jax.jit(jax.value_and_grad(objective))(variables)
    assert np.isfinite(loss)
    still = [path for path, g in jax.tree_util.tree_leaves_with_path(gradients) if not np.abs(g).max() > 0]
    # A bias that is the same for every key cancels in the softmax.
    assert all("key" in str(path) and "bias" in str(path) for path in still), still


def test_every_row_of_table_6_runs():
    """Windows 8 and 16 of 32 clips, (32 - k) / stride + 1 of each."""
    expected = {"stride_1": 25 + 17, "stride_8": 25 + 9, "stride_4": 13 + 5, "stride_2": 7 + 3}
    clips = np.random.default_rng(0).normal(size=(1, 32, 3)).astype(np.float32)
    params = ContentHead((8, 16), "1").init(jax.random.key(0), clips)
    dense = ContentHead((8, 16), "1").apply(params, clips).logits
    every = content_windows(32, (8, 16), "1").tolist()
    assert set(STRIDES) == set(expected)
    for row, fields in STRIDES.items():
        found = ContentHead((8, 16), fields["stride"]).apply(params, clips)
        windows = content_windows(32, (8, 16), fields["stride"]).tolist()
        assert found.logits.shape == (1, len(windows)) == (1, expected[row])
        # The same weights give a window the same score, whichever others there are.
        np.testing.assert_allclose(found.logits, dense[:, [every.index(w) for w in windows]], atol=1e-5)


def test_rows_have_the_parts_that_the_paper_names():
    parts = {row: set(initialised(row)[1]["params"]) for row in ROWS}
    encoders = {"sentence_1", "video_1", "video_2", "sentence_2"}
    second = {"video_2", "sentence_2"}
    found = {row: names & encoders for row, names in parts.items()}
    assert found["full"] == found["tgn"] == found["stride_1"] == encoders
    assert found["soft"] == found["cma"] == found["vq"] == {"video_2"}
    assert found["vqma"] == second and found["qvma"] == encoders - second
    # Without the sentences in the fusion Q2 has no use, and there is no filter.
    assert found["concat"] == found["matrix"] == encoders - {"sentence_2"}
    filtered = {row for row, names in parts.items() if "filter" in names}
    assert filtered == set(ROWS) - {"soft", "cma", "vq", "concat", "matrix"}


def test_rows_differ_in_parameters_by_hand():
    f, hidden, clips, words = SMALL["features"], SMALL["hidden"], SMALL["num_clips"], SMALL["max_words"]
    counts = {row: size(initialised(row)[1]) for row in ROWS}
    assert counts["full"] == count(f, 6, 5, hidden, clips, words, SMALL["windows"])
    gate, attention = 2 * f * f + 2 * f, 4 * (f * f + f)
    assert counts["vq"] - counts["cma"] == gate
    # Additive attention has two square matrices, one bias and a vector.
    assert counts["cma"] - counts["soft"] == attention - (2 * f * f + f + f)
    encoder = attention + gate + 2 * f * hidden + hidden + f + 4 * f
    stretch = clips * (words + 1)
    # Half the encoders and stretches; filter and norm of F, not 2F, and a BiGRU that reads F less.
    half = 2 * encoder + stretch + (4 * f * f + 2 * f) - (f * f + f) + 2 * f + 3 * f * f
    assert counts["full"] - counts["vqma"] == counts["full"] - counts["qvma"] == half
    fusion = 2 * stretch + 4 * f * f + 2 * f + 4 * f
    assert counts["full"] - counts["concat"] == encoder + fusion
    assert counts["matrix"] - counts["concat"] == 3 * f * 2 * f  # the BiGRU reads 4F, not 2F
    point = 2 * (f + 1)  # a score for each of two sizes
    content = sum(3 * (k * f + 1) for k in SMALL["windows"])
    assert counts["full"] - counts["tgn"] == content - point
    assert counts["full"] - counts["cmin"] == content - 3 * point
    assert counts["stride_1"] == counts["stride_2"] == counts["full"]


def test_heads_of_other_papers_score_single_clips():
    for row in ("tgn", "cmin"):
        model, _ = initialised(row)
        batch = random_batch()
        shapes = jax.eval_shape(
            lambda b, m=model: m.apply(m.init(jax.random.key(0), b, train=False), b, train=False), batch
        )
        assert shapes.logits.shape == (8, 2 * 16)
        assert (shapes.offsets is None) == (row == "tgn")
    # Those of TGN end with their clip; a window of clips 2..3 is the fourth of its head.
    tgn = create("fian", **SMALL, localization="tgn")
    np.testing.assert_array_equal(tgn.candidates(4)[2 * 3], [2, 3])
    moments = tgn.predict(Outputs(jnp.zeros((1, 8)).at[0, 6].set(1.0), None), one_video())
    np.testing.assert_allclose(moments.spans[0, 0], [2, 4])


# What must not change.


def test_padded_clips_change_nothing(pair):
    model, variables = pair
    batch = random_batch().replace(**OTHERS)

    def padded(x, fill=0):
        return np.concatenate([x, np.full_like(x[:, :5], fill)], axis=1)

    longer = batch.replace(video=padded(batch.video, 7.0), video_mask=padded(batch.video_mask))
    found, expected = (outputs_of(model, variables, b) for b in (longer, batch))
    more = [tuple(w) for w in model.candidates(21)]
    at = np.array([more.index(tuple(w)) for w in model.candidates(16)])
    legal = model._legal(batch)
    np.testing.assert_allclose(found.logits[:, at][legal], expected.logits[legal], atol=2e-5)
    np.testing.assert_allclose(found.offsets[:, at][legal], expected.offsets[legal], atol=2e-5)
    terms = [model.loss(o, b, epoch=jnp.int32(0)) for o, b in ((found, longer), (expected, batch))]
    for name in terms[0]:
        np.testing.assert_allclose(terms[0][name].value(), terms[1][name].value(), rtol=1e-4)


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            dict(attention="cgs"),
            'attention of fian is "cgs"[.] Did you mean "cga"[?] Known: cga, cma, soft',
        ),
        (dict(branches="one"), "Known: both, video_query, query_video"),
        (dict(fusion="matrix", branches="query_video"), "compares the videos of two branches"),
        (dict(num_clips=15), "has 16 clips, and FIAN has weights for 15"),
        (dict(max_words=5), "has 7 words, and FIAN has weights for 5"),
        (dict(windows=(17, 30)), "smallest window has 17 clips, and the videos have 16"),
        (dict(stride="k/0"), "stride is 'k/0'; write a number of clips"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        model = create("fian", **{**SMALL, **fields})
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())


def test_one_ablation_at_a_time():
    with pytest.raises(UserError, match="Name one ablation, not 2: soft, tgn"):
        get_config("tacos,soft,tgn")


def test_wrong_shapes_are_refused():
    batch = random_batch()
    with pytest.raises(AssertionError):
        wrong = dataclasses.replace(batch, query_mask=batch.query_mask[:, :-1])
        jax.eval_shape(lambda b: create("fian", **SMALL).init(jax.random.key(0), b, train=False), wrong)
