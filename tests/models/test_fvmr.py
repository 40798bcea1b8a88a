"""FVMR against its paper: sizes, equations 1 to 7, the dual encoder, and what it refuses."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of
from tiny_fvmr import CELLS, TINY, make_batch, random_variables

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.layers.recurrent import GRU, LSTM
from vmr_jax.models import create, fvmr
from vmr_jax.types import Moments, Tree


def test_parameter_counts_at_the_sizes_of_the_paper():
    """F = D = 512, GloVe 300-d, VGG 4096-d features, 16 clips."""
    moment_encoder = (
        4096 * 512 + 512  # clips: linear
        + 25 * 512 * 512 + 9 * 512 * 512  # conv k5, k3, no bias
        + 2 * (512 + 512)  # two batch norms: scale and bias
    )  # fmt: skip
    sentence_encoder = 2 * (  # two directions of 256 units and 4 gates, two biases each
        4 * 256 * (300 + 256 + 2)  # layer 1
        + 4 * 256 * (512 + 256 + 2)  # layer 2
    )
    projection = 2 * (512 * 512 + 512)  # one of phi_m, phi_s, phi_u
    semantic_extractor = (
        2 * 3 * 256 * (300 + 256 + 2)  # BiGRU, 3 gates
        + 2 * 512 * 512 + 1024  # W_top, W_low, W_alpha
    )  # fmt: skip
    phi_fuse = 9 * 512 * 512 + 512 + 81 * 512 * 2 + 2  # conv k3; gated conv k9: content and gate
    stacked_convolutions = 512 * 512 + 512 + 15 * (2 * 512 * 512 + 512)

    batch = jax.eval_shape(lambda: make_batch(b=2, t=256))
    batch = batch.replace(
        video=jax.ShapeDtypeStruct((2, 256, 4096), jnp.float32),
        query_vectors=jax.ShapeDtypeStruct((2, 7, 300), jnp.float32),
    )

    def count(**fields):
        model = create("fvmr", **fields)
        init = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)
        return {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in init["params"].items()}

    student = {
        "moment_encoder": moment_encoder,
        "sentence_encoder": sentence_encoder,
        "phi_m": projection,
        "phi_s": projection,
    }
    teacher = {"semantic_extractor": semantic_extractor, "phi_u": projection, "phi_fuse": phi_fuse}
    assert count() == student | teacher
    assert sum(count().values()) == 19_133_442
    assert count(teacher="none") == student
    assert sum(count(teacher="none").values()) == 14_782_976
    assert count(score="p+q") == student | teacher
    conv = count(front_end="conv")
    assert conv["moment_encoder"] == moment_encoder + stacked_convolutions
    assert sum(conv.values()) == 27_268_098
    # 64 words of vocabulary add an offset of 300 each.
    assert count(vocab_size=64)["words"] == 64 * 300


def convolve(grid, conv, valid):
    """A convolution [N,N,D] by loops over pairs of valid cells; the other cells give 0."""
    kernel = np.asarray(conv["kernel"])
    half = kernel.shape[0] // 2
    out = np.zeros((*valid.shape, kernel.shape[-1])) + conv.get("bias", 0.0)
    for i, j in np.argwhere(valid):
        for a, b in np.argwhere(valid):
            if abs(a - i) <= half and abs(b - j) <= half:
                out[i, j] += grid[a, b] @ kernel[a - i + half, b - j + half]
    return out * valid[..., None]


def perceptron(x, params):
    hidden = x @ params["linear0"]["kernel"] + params["linear0"]["bias"]
    return np.maximum(hidden, 0) @ params["linear1"]["kernel"] + params["linear1"]["bias"]


def test_video_encoder_and_scores_against_loops():
    """Eq. 1, 6 and 7 in numpy, with a map in which cell (0,3) of the upper triangle is no candidate."""
    batch = make_batch().replace(example_mask=np.array([True, True, False]))
    fields = {**TINY, "scale_layers": (3,)}
    model = create("fvmr", **fields)
    variables = random_variables(model, batch)
    valid = candidate_mask(4, (3,))
    assert valid.sum() == 9 and not valid[0, 3]
    outputs = outputs_of(model, variables, batch, train=True)

    params = jax.tree.map(np.float64, variables["params"])
    encoder = params["moment_encoder"]
    grids = []
    for video, mask in zip(batch.video[:2], batch.video_mask[:2]):
        linear = encoder["clips"]["linear"]
        rows = np.maximum(video @ linear["kernel"] + linear["bias"], 0)
        clips = [rows[k : k + 3][mask[k : k + 3]] for k in range(0, 12, 3)]
        clips = [x.mean(0) if len(x) else np.zeros(8) for x in clips]
        grid = np.zeros((4, 4, 8))
        for i, j in np.argwhere(valid):
            grid[i, j] = np.max(clips[i : j + 1], axis=0)
        grids.append(grid)
    for layer in range(2):
        grids = [convolve(grid, encoder[f"conv{layer}"], valid) for grid in grids]
        counted = np.concatenate([grid[valid] for grid in grids])  # 18 cells of two real videos
        norm = encoder[f"norm{layer}"]
        factor = norm["scale"] / np.sqrt(counted.var(0) + 1e-5)
        grids = [np.tanh((grid - counted.mean(0)) * factor + norm["bias"]) * valid[..., None] for grid in grids]
    for row, grid in enumerate(grids):
        moments = perceptron(grid, params["phi_m"])
        p = moments @ np.asarray(outputs.s[row])
        np.testing.assert_allclose(outputs.p[row][valid], p[valid], atol=1e-4)
        fuse = params["phi_fuse"]
        hidden = np.maximum(convolve(moments * np.asarray(outputs.u[row]), fuse["conv"], valid), 0)
        content, gate = np.moveaxis(convolve(hidden, fuse["gated"], valid), -1, 0)
        np.testing.assert_allclose(outputs.q[row][valid], (content / (1 + np.exp(-gate)))[valid], atol=1e-4)
    assert np.std(outputs.p) > 0.01 and np.std(outputs.q) > 0.01


def test_sentence_is_the_first_plus_the_last_state():
    """Eq. 2, with the BiLSTM run alone."""
    batch = make_batch()
    encoder = fvmr.SentenceEncoder(features=8, layers=2)
    variables = encoder.init(jax.random.key(0), batch.query_vectors, batch.query_mask)
    s = encoder.apply(variables, batch.query_vectors, batch.query_mask)
    lstm = {"params": variables["params"]["lstm"]}
    states = LSTM(4, 2, True).apply(lstm, batch.query_vectors, batch.query_mask)
    last = batch.query_mask.sum(1) - 1
    assert len(set(last)) > 1
    expected = np.stack([states[row, 0] + states[row, last[row]] for row in range(3)])
    np.testing.assert_allclose(s, expected, rtol=1e-6)


def test_equations_3_to_5_by_hand():
    """The attention over a tree with two verbs (one noun shared) against loops over the definition.

    Verb 0 has nouns 0 and 1, verb 1 has noun 1; verb 2 and noun 2 are padding.
    """
    top = np.array([[0.5, -1.0], [2.0, 0.25]])  # g W, that is W_top transposed
    low = np.array([[1.0, 0.5], [-0.5, 1.5]])
    alpha = np.array([1.0, -2.0, 0.5, 3.0])
    sentence = np.array([0.3, -0.2])
    verbs = np.array([[1.0, 0.0], [0.5, -1.0], [9.0, 9.0]])
    nouns = np.array([[0.0, 1.0], [-1.0, 0.5], [7.0, -7.0]])

    def importance(guide, node):  # Eq. 3
        return alpha @ np.tanh(np.concatenate([guide @ top, node @ low]))

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    verb_scores = np.array([importance(sentence, verbs[k]) for k in range(2)])
    a = softmax(verb_scores)
    guide = a[0] * verbs[0] + a[1] * verbs[1]
    noun_scores = np.array([importance(guide, nouns[k]) for k in range(2)])
    b0 = softmax(np.array([verb_scores[0], noun_scores[0], noun_scores[1]]))  # Eq. 4
    b1 = softmax(np.array([verb_scores[1], noun_scores[1]]))
    h0 = b0[0] * verbs[0] + b0[1] * nouns[0] + b0[2] * nouns[1]
    h1 = b1[0] * verbs[1] + b1[1] * nouns[1]

    tree = Tree(
        verb_words=jnp.array([[[True, False], [False, True], [False, False]]]),
        noun_words=jnp.array([[[True, False], [True, True], [False, False]]]),
        # Edges to padding must not count.
        edges=jnp.array([[[True, True, True], [False, True, False], [True, True, True]]]),
    )
    params = {"top": {"kernel": top}, "low": {"kernel": low}, "alpha": {"kernel": alpha[:, None]}}
    phrases = fvmr.HierarchicalAttention(features=2).apply(
        {"params": jax.tree.map(jnp.float32, params)},
        jnp.float32(sentence)[None],
        jnp.float32(verbs)[None],
        jnp.float32(nouns)[None],
        tree,
    )
    np.testing.assert_allclose(phrases[0, :2], np.stack([h0, h1]), atol=1e-6)


def test_u_is_the_sentence_times_the_mean_phrase():
    """Eq. 5 with the parts of the extractor run one by one; row 0 has no verb, so u = g^(s)."""
    batch = make_batch()
    extractor = fvmr.SemanticExtractor(features=8)
    arguments = (batch.query_vectors, batch.query_mask, batch.tree)
    variables = extractor.init(jax.random.key(0), *arguments)
    u = jax.jit(extractor.apply)(variables, *arguments)

    params = variables["params"]
    states = np.asarray(GRU(4, 1, True).apply({"params": params["gru"]}, batch.query_vectors, batch.query_mask))
    expected = []
    for row in range(3):
        g_s, *nodes = (
            np.stack([states[row][w].mean(0) if w.any() else np.zeros(8) for w in words[row]])
            for words in (batch.query_mask[:, None], batch.tree.verb_words, batch.tree.noun_words)
        )
        g_s = g_s[0]
        phrases = fvmr.HierarchicalAttention(features=8).apply(
            {"params": params["attention"]},
            *(jnp.float32(x)[None] for x in (g_s, *nodes)),
            jax.tree.map(lambda x, row=row: x[row : row + 1], batch.tree),
        )[0]
        real = batch.tree.verb_words[row].any(-1)
        expected.append(g_s * np.asarray(phrases)[real].mean(0) if real.any() else g_s)
    assert [bool(x.any()) for x in batch.tree.verb_words] == [False, True, True]
    np.testing.assert_allclose(u, np.stack(expected), atol=1e-6)


def test_a_query_without_verbs_trains_without_nan():
    batch = make_batch()
    tree = jax.tree.map(np.zeros_like, batch.tree)
    extractor = fvmr.SemanticExtractor(features=8)
    params = extractor.init(jax.random.key(0), batch.query_vectors, batch.query_mask, tree)["params"]

    def total(params):
        return extractor.apply({"params": params}, batch.query_vectors, batch.query_mask, tree).sum()

    grads = jax.jit(jax.grad(total))(params)
    chex.assert_tree_all_finite(grads)
    assert all(not np.any(x) for x in jax.tree.leaves(grads["attention"]))
    assert all(np.any(x) for x in jax.tree.leaves(grads["gru"]))


def encode(model, variables, batch, method):
    return jax.jit(lambda v, b: model.apply(v, b, method=method))(variables, batch)


@pytest.mark.parametrize("score_scale", [False, True])
def test_dual_encoder_gives_p(score_scale):
    batch = make_batch()
    model = create("fvmr", **TINY, score_scale=score_scale)
    variables = random_variables(model, batch)
    outputs = outputs_of(model, variables, batch)
    vectors, spans, mask = encode(model, variables, batch, "encode_moments")
    query = encode(model, variables, batch, "encode_query")
    chex.assert_shape([vectors, spans, mask, query], [(3, CELLS, 10), (3, CELLS, 2), (3, CELLS), (3, 10)])
    scores = np.einsum("bnd,bd->bn", np.asarray(vectors), np.asarray(query))
    assert mask.all() and np.std(scores) > 1e-4

    moments = model.predict(outputs, batch)
    chex.assert_shape([moments.spans, moments.scores], [(3, CELLS, 2), (3, CELLS)])
    order = np.argsort(-scores, axis=-1)
    np.testing.assert_allclose(moments.scores, np.take_along_axis(scores, order, 1), atol=1e-5)
    np.testing.assert_allclose(
        moments.spans, np.take_along_axis(np.asarray(spans), order[..., None], 1), atol=1e-5
    )
    # Clips 1 to 2 of 4, both included, are the middle half of the video.
    middle = np.asarray(spans)[:, list(zip(*np.nonzero(candidate_mask(4, (4,))))).index((1, 2))]
    np.testing.assert_allclose(middle, batch.duration[:, None] * np.array([[0.25, 0.75]]), rtol=1e-6)


def test_score_scale_divides_by_the_root_of_d():
    batch = make_batch()
    model = create("fvmr", **TINY)
    variables = random_variables(model, batch)
    raw = outputs_of(model, variables, batch).p
    scaled = outputs_of(create("fvmr", **TINY, score_scale=True), variables, batch).p
    np.testing.assert_allclose(scaled, raw / np.sqrt(10), rtol=1e-5)


def test_moments_never_see_the_query_and_students_never_see_the_tree():
    batch = make_batch()
    model = create("fvmr", **TINY)
    variables = random_variables(model, batch)
    other = batch.replace(
        query=batch.query + 1,
        query_vectors=np.full_like(batch.query_vectors, np.nan),
        query_mask=~batch.query_mask,
        tree=None,
    )
    one, two = (encode(model, variables, b, "encode_moments") for b in (batch, other))
    chex.assert_trees_all_equal(one, two)

    blind = batch.replace(video=np.full_like(batch.video, np.nan), video_mask=~batch.video_mask, tree=None)
    one, two = (encode(model, variables, b, "encode_query") for b in (batch, blind))
    chex.assert_trees_all_equal(one, two)

    outputs, treeless = (outputs_of(model, variables, b) for b in (batch, batch.replace(tree=None)))
    assert outputs.q is None and outputs.u is None
    chex.assert_trees_all_equal(outputs, treeless)
    assert set(model.loss(outputs, batch, epoch=jnp.int32(20))) == {"student"}


def test_predict_and_explain():
    """The mean of p and q ranks with p+q; `keep` cuts the list; the picture is NaN off the candidates."""
    rng = np.random.default_rng(0)
    p, q = (jnp.float32(rng.normal(size=(3, 4, 4))) for _ in range(2))
    outputs = fvmr.Outputs(p=p, q=q, s=None, u=None)
    batch = make_batch()
    valid = np.triu(np.ones((4, 4), bool))
    for score, expected in (("p", p), ("p+q", (p + q) / 2)):
        model = create("fvmr", **TINY, score=score, keep=3)
        moments = model.predict(outputs, batch)
        cells = np.where(valid[None], expected, -np.inf).reshape(3, 16)
        best = np.argsort(-cells, axis=-1)[:, :3]
        np.testing.assert_allclose(moments.scores, np.take_along_axis(cells, best, 1), rtol=1e-6)
        clips = np.stack([best // 4, best % 4 + 1], -1)
        np.testing.assert_allclose(moments.spans, clips * (batch.duration / 4)[:, None, None], rtol=1e-6)
        picture = np.asarray(model.explain(outputs, batch)["map"])
        assert (np.isnan(picture) == ~valid[None]).all()
        np.testing.assert_allclose(picture[:, valid], 1 / (1 + np.exp(-expected[:, valid])), rtol=1e-5)
    assert isinstance(moments, Moments)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.replace(video_mask=b.video_mask[:, :-1]),
        lambda b: b.replace(query_mask=b.query_mask[:, :-1]),
        lambda b: b.replace(span=b.span[:, :1]),
        lambda b: b.replace(tree=b.tree.replace(noun_words=b.tree.noun_words[:, :-1])),
        lambda b: b.replace(tree=b.tree.replace(verb_words=b.tree.verb_words[:, :, :-1])),
    ],
)
def test_shapes_that_disagree_are_assertion_errors(change):
    model = create("fvmr", **TINY)
    with pytest.raises(AssertionError):
        jax.eval_shape(lambda: model.init(jax.random.key(0), change(make_batch()), train=True))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"teacher": "none", "score": "p+q"}, "need the teacher"),
        ({"teacher": "none", "feature_distillation": 1.0}, "need the teacher"),
        ({"distillation": "bec"}, 'Did you mean "bce"'),
        ({"score": "q"}, "Known: p, p[+]q"),
        ({"features": 7}, "must be even"),
        ({"num_clips": 5, "scale_layers": (5,)}, "12 clips .* 5 map clips"),
    ],
)
def test_contradictory_settings_are_user_errors(fields, message):
    with pytest.raises(UserError, match=message):
        model = create("fvmr", **{**TINY, **fields})
        jax.eval_shape(lambda: model.init(jax.random.key(0), make_batch(), train=True))


def test_training_without_trees_is_a_user_error():
    batch = make_batch().replace(tree=None)
    with pytest.raises(UserError, match="semantic role tree"):
        jax.eval_shape(lambda: create("fvmr", **TINY).init(jax.random.key(0), batch, train=True))
    params = jax.eval_shape(
        lambda: create("fvmr", **TINY, teacher="none").init(jax.random.key(0), batch, train=True)
    )["params"]
    assert set(params) == {"moment_encoder", "sentence_encoder", "phi_m", "phi_s"}


def test_clip_pool_averages_the_real_clips_of_each_window():
    """Weights 2, bias -1, ReLU: clips (1, 3 | 0, 5 | 7, 7) become (1, 5 | 0, 9 | ..)."""
    pool = ClipPool(features=1, num_clips=3)
    params = {"linear": {"kernel": jnp.float32([[2.0]]), "bias": jnp.float32([-1.0])}}
    video = jnp.float32([[[1.0], [3.0], [0.0], [5.0], [7.0], [7.0]]])
    mask = jnp.array([[True, True, True, True, False, False]])
    # (1 + 5) / 2, (0 + 9) / 2, and no real clip.
    np.testing.assert_allclose(pool.apply({"params": params}, video, mask)[0, :, 0], [3.0, 4.5, 0.0])
    mask = mask.at[0, 2].set(False)
    np.testing.assert_allclose(pool.apply({"params": params}, video, mask)[0, :, 0], [3.0, 9.0, 0.0])
    # Without ReLU the third clip counts as -1.
    linear = dataclasses.replace(pool, activation=None)
    mask = mask.at[0, 2].set(True)
    np.testing.assert_allclose(linear.apply({"params": params}, video, mask)[0, :, 0], [3.0, 4.0, 0.0])
