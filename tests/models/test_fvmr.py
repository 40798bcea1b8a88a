"""FVMR against its paper: sizes, equations 3 to 10, the dual encoder, and what must not matter."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from applied import outputs_of

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.layers.recurrent import GRU, LSTM
from vmr_jax.models import create, fvmr
from vmr_jax.parallel import Parallel, sum_over_devices
from vmr_jax.types import Batch, Moments, Tree

# D differs from F, and no two axes of a batch are equal, so that a mix-up of axes is an error.
TINY = {"features": 8, "common": 10, "num_clips": 4, "scale_layers": (4,)}
CELLS = 10  # valid cells of 4 clips: 4 + 3 + 2 + 1


def make_batch(b=3, t=12, length=7, v=2, n=5, seed=0) -> Batch:
    """A random batch (numpy) with ragged queries and trees; its first query has no verb."""
    rng = np.random.default_rng(seed)
    words = rng.integers(2, length + 1, b)
    query_mask = np.arange(length)[None] < words[:, None]
    verb_words = (rng.random((b, v, length)) < 0.3) & query_mask[:, None]
    verb_words[1:, 0, 0] = True
    verb_words[0] = False
    noun_words = (rng.random((b, n, length)) < 0.3) & query_mask[:, None]
    edges = (rng.random((b, v, n)) < 0.6) & verb_words.any(-1)[:, :, None] & noun_words.any(-1)[:, None]
    duration = rng.uniform(5, 30, b).astype(np.float32)
    span = np.sort(rng.random((b, 2)), axis=-1).astype(np.float32) * duration[:, None]
    return Batch(
        video=rng.normal(size=(b, t, 6)).astype(np.float32),
        video_mask=np.arange(t)[None] < rng.integers(t // 2, t + 1, b)[:, None],
        duration=duration,
        query=rng.integers(2, 20, (b, length)).astype(np.int32) * query_mask,
        query_vectors=rng.normal(size=(b, length, 9)).astype(np.float32) * query_mask[..., None],
        query_mask=query_mask,
        span=span,
        example_mask=np.ones(b, bool),
        example_index=np.arange(b, dtype=np.int32),
        video_index=np.arange(b, dtype=np.int32),
        tree=Tree(verb_words=verb_words, noun_words=noun_words, edges=edges),
    )


def random_variables(model, batch, seed=0):
    """Variables of the right shapes, drawn by numpy (compiling `init` takes seconds).

    Nothing is left at the 0 or 1 at which biases, scales and running statistics would start.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=True))

    def draw(path, x):
        fan_in = int(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 4
        around_one = path[-1].key in ("scale", "var")
        return np.float32(rng.uniform(-1, 1, x.shape) / fan_in**0.5 + around_one)

    return jax.tree.map_with_path(draw, shapes)


def sum_of_means(terms):
    """The share of this device in the objective: local sums over global counts."""
    counts = sum_over_devices({name: term.count for name, term in terms.items()})
    return sum(term.sum / counts[name] for name, term in terms.items())


def train_step(model, variables, batch):
    """The terms, the gradient of the objective, and the new batch statistics, summed over devices."""

    def objective(params):
        outputs, updates = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        terms = model.loss(outputs, batch, epoch=jnp.int32(8))
        return sum_of_means(terms), (terms, updates)

    (_, (terms, updates)), grads = jax.value_and_grad(objective, has_aux=True)(variables["params"])
    return *sum_over_devices((terms, grads)), updates


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


def two_clips(p, q):
    """The model of two clips, and outputs and batch of one pair whose moment is the first clip.

    Cells (0,0), (0,1), (1,1) have IoU 1, 1/2 and 0 with it, so y = 1, (.5 - .3) / .4 = 1/2 and 0.
    A second, filling row must not count.
    """
    batch = make_batch(b=2).replace(
        duration=np.float32([2, 2]), span=np.float32([[0, 1], [0, 2]]), example_mask=np.array([True, False])
    )

    def grid(x):
        return jnp.float32([[[x[0], x[1]], [np.nan, x[2]]], [[99.0, -99.0], [0.0, 5.0]]])

    s = jnp.float32([[3.0, 4.0], [1.0, 1.0]])
    u = jnp.float32([[0.0, 2.0], [1.0, 0.0]])
    return batch, fvmr.Outputs(p=grid(p), q=grid(q), s=s, u=u)


def test_losses_by_hand():
    """Equations 8 to 10 in numbers."""
    # p = 0: -y ln(1/2) - (1-y) ln(1/2) = ln 2 in each of the three cells.
    # q = ln 3, sigmoid 3/4: -ln .75, -(ln .75 + ln .25) / 2, -ln .25.
    batch, outputs = two_clips(p=[0.0] * 3, q=[np.log(3)] * 3)
    fields = {"num_clips": 2, "scale_layers": (2,)}
    terms = create("fvmr", **fields).loss(outputs, batch, epoch=jnp.int32(8))
    assert set(terms) == {"student", "teacher", "distillation"}
    np.testing.assert_allclose(terms["student"].sum, 3 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(terms["teacher"].sum, 0.287682 + 0.836988 + 1.386294, rtol=1e-5)
    assert terms["student"].count == terms["teacher"].count == terms["distillation"].count == 3

    # softmax(p) = (1/4, 1/4, 1/2) and softmax(q) = (1/2, 1/4, 1/4). BCE per cell:
    #   -.5 ln .25 - .5 ln .75 = .836988
    #   -.25 ln .25 - .75 ln .75 = .562335
    #   -.25 ln .5 - .75 ln .5 = .693147, together 2.092470, times lambda = 3.
    batch, outputs = two_clips(p=np.log([1, 1, 2]), q=np.log([2, 1, 1]))
    distillation = create("fvmr", **fields).loss(outputs, batch, epoch=jnp.int32(8))["distillation"]
    np.testing.assert_allclose(distillation.sum, 3 * 2.092470, rtol=1e-5)
    # T = 1/2 doubles the scores: softmax(p) = (1/6, 1/6, 4/6), softmax(q) = (4/6, 1/6, 1/6).
    #   -4/6 ln(1/6) - 2/6 ln(5/6) = 1.255281
    #   -1/6 ln(1/6) - 5/6 ln(5/6) = .450561
    #   -1/6 ln(4/6) - 5/6 ln(2/6) = .983088
    hot = create("fvmr", **fields, temperature=0.5, distillation_weight=1.0)
    hot = hot.loss(outputs, batch, epoch=jnp.int32(8))["distillation"]
    np.testing.assert_allclose(hot.sum, 1.255281 + 0.450561 + 0.983088, rtol=1e-5)
    # Cross-entropy: .5 ln 4 + .25 ln 4 + .25 ln 2 = 1.213008 for the one real example.
    cross = create("fvmr", **fields, distillation="cross_entropy")
    cross = cross.loss(outputs, batch, epoch=jnp.int32(8))["distillation"]
    np.testing.assert_allclose(cross.sum, 3 * 1.213008, rtol=1e-5)
    assert cross.count == 1
    # s = (3,4)/5 and u = (0,1): .6^2 + .2^2 = .4, times 5.
    features = create("fvmr", **fields, distillation="none", feature_distillation=5.0)
    terms = features.loss(outputs, batch, epoch=jnp.int32(8))
    assert set(terms) == {"student", "teacher", "feature_distillation"}
    np.testing.assert_allclose(terms["feature_distillation"].sum, 5 * 0.4, rtol=1e-5)
    assert terms["feature_distillation"].count == 1


@pytest.mark.parametrize("name", ["distillation", "feature_distillation"])
def test_warm_up_ends_with_epoch_8(name):
    batch, outputs = two_clips(p=np.log([1, 1, 2]), q=np.log([2, 1, 1]))
    model = create("fvmr", num_clips=2, scale_layers=(2,), feature_distillation=1.0)
    term = jax.jit(lambda epoch: model.loss(outputs, batch, epoch=epoch)[name])
    terms = [term(jnp.int32(epoch)) for epoch in (0, 7, 8, 30)]
    assert [float(t.sum) for t in terms[:2]] == [0, 0]
    assert terms[2].sum > 0.1 and terms[2].sum == terms[3].sum
    assert len({float(t.count) for t in terms}) == 1 and terms[0].count > 0


def test_distillation_is_finite_where_a_softmax_saturates():
    """P = (1, e^-200, e^-400): 1 - P of the first is e^-200 + e^-400, whose logarithm is -200."""
    log_p, log_not_p = fvmr.log_softmax_pair(jnp.float32([[200.0, 0.0, -200.0]]))
    np.testing.assert_allclose(log_p[0], [0, -200, -400], atol=1e-4)
    np.testing.assert_allclose(log_not_p[0], [-200, 0, 0], atol=1e-4)

    x = np.random.default_rng(0).normal(size=(4, 9)) * 3
    exact = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    log_p, log_not_p = fvmr.log_softmax_pair(jnp.float32(x))
    np.testing.assert_allclose(log_p, np.log(exact), rtol=1e-5)
    np.testing.assert_allclose(log_not_p, np.log1p(-exact), rtol=1e-4, atol=1e-7)

    # A student as sure as can be of the wrong cell pays about 200 per cell that is wrong.
    batch, outputs = two_clips(p=[200.0, 0.0, -200.0], q=[-200.0, 0.0, 200.0])
    outputs = outputs.replace(p=jnp.nan_to_num(outputs.p))
    model = create("fvmr", num_clips=2, scale_layers=(2,), distillation_weight=1.0)

    def sum_of(p):
        return model.loss(outputs.replace(p=p), batch, epoch=jnp.int32(8))["distillation"].sum

    value, grad = jax.value_and_grad(sum_of)(outputs.p)
    # Cell 0: -ln(1 - P_0) = 200; cell 2: -ln P_2 = 400.
    np.testing.assert_allclose(value, 600, rtol=1e-5)
    chex.assert_tree_all_finite(grad)


def test_distillation_does_not_train_the_teacher():
    batch = make_batch()
    model = create("fvmr", **TINY, feature_distillation=1.0)
    variables = random_variables(model, batch)

    @jax.jit
    def grads_of_terms(params):
        def sums(params):
            outputs = model.apply({**variables, "params": params}, batch, train=True, mutable=["batch_stats"])[
                0
            ]
            return {k: v.sum for k, v in model.loss(outputs, batch, epoch=jnp.int32(8)).items()}

        terms, backward = jax.vjp(sums, params)
        return {term: backward({k: jnp.float32(k == term) for k in terms})[0] for term in terms}

    grads = grads_of_terms(variables["params"])
    teacher, student = ("semantic_extractor", "phi_u", "phi_fuse"), ("sentence_encoder", "phi_s")

    def trained(term, parts):
        return {bool(np.any(x)) for part in parts for x in jax.tree.leaves(grads[term][part])}

    for term in ("distillation", "feature_distillation", "student"):
        assert trained(term, teacher) == {False}
        assert trained(term, student) == {True}
    assert trained("distillation", ("phi_m", "moment_encoder")) == {True}
    # The teacher does learn, from L_ce(q, y), and with it the shared video encoder.
    assert trained("teacher", (*teacher, "phi_m", "moment_encoder")) == {True}
    assert trained("teacher", student) == {False}


@pytest.mark.parametrize("distillation", ["bce", "cross_entropy"])
def test_the_gradient_of_the_distillation_stops_at_q(distillation):
    batch, outputs = two_clips(p=np.log([1, 1, 2]), q=np.log([2, 1, 1]))
    outputs = jax.tree.map(jnp.nan_to_num, outputs)
    model = create("fvmr", num_clips=2, scale_layers=(2,), distillation=distillation)

    def term(p, q):
        outputs_ = outputs.replace(p=p, q=q)
        return model.loss(outputs_, batch, epoch=jnp.int32(8))["distillation"].sum

    by_p, by_q = jax.grad(term, argnums=(0, 1))(outputs.p, outputs.q)
    assert not np.any(by_q)
    assert by_p[0, 0, 0] < 0 < by_p[0, 1, 1]  # the teacher likes the first cell better, the last less


def padded(small, rows, junk):
    """`small` with twice the words, verbs and nouns, and filling rows, full of junk where masks are False."""
    n = small.size

    def fill(real, junk):
        out = np.array(junk)
        out[tuple(slice(0, size) for size in real.shape)] = real
        return out

    large = jax.tree.map(fill, small, junk)
    large = large.replace(example_mask=np.concatenate([small.example_mask, np.zeros(rows - n, bool)]))
    large.query_mask[:n, 7:] = False
    large.query_vectors[:n, :7] = np.where(small.query_mask[..., None], small.query_vectors, 50.0)
    # The new nodes do not exist, and the old ones have no new words. Edges to nowhere do not count.
    large.tree.verb_words[:n, 2:], large.tree.verb_words[:n, :, 7:] = False, False
    large.tree.noun_words[:n, 5:], large.tree.noun_words[:n, :, 7:] = False, False
    large.tree.edges[:n, 2:], large.tree.edges[:n, :, 5:] = True, True
    return large


@pytest.mark.slow
def test_padding_and_devices_change_nothing():
    """Terms, gradient and batch statistics are those of one device, padded or not, and outputs too."""
    batch = make_batch(b=8)
    # Ragged: of eight devices some hold a real example, some none; with twice the rows some hold two.
    batch = batch.replace(example_mask=(np.arange(8) < 6) & (np.arange(8) != 2))
    large = padded(batch, 16, make_batch(b=16, length=14, v=4, n=10, seed=1))
    model = create("fvmr", **TINY, score="p+q", feature_distillation=1.0)
    variables = random_variables(model, batch)

    def step(state, batch):
        terms, grads, updates = train_step(model, state, batch)
        return {**state, **updates}, {"terms": terms, "grads": grads}

    results = []
    for mode, devices, rows in (("pmap", 1, batch), ("pmap", 8, batch), ("jit", 8, large)):
        parallel = Parallel(mode, devices)
        results.append(parallel.map_step(step)(parallel.replicate(variables), parallel.put_batch(rows)))
    one, *others = jax.tree.map(np.asarray, results)
    assert one[1]["terms"]["student"].count == one[1]["terms"]["distillation"].count == 5 * CELLS
    assert np.any(one[1]["grads"]["phi_fuse"]["gated"]["kernel"])
    assert np.any(one[0]["batch_stats"]["moment_encoder"]["norm0"]["mean"])
    for other in others:
        chex.assert_trees_all_close(other, one, rtol=1e-5, atol=1e-6)
    outputs, padded_outputs = (outputs_of(model, variables, rows) for rows in (batch, large))
    rows = outputs, model.predict(outputs, batch)
    padded_rows = jax.tree.map(lambda x: x[:8], (padded_outputs, model.predict(padded_outputs, large)))
    chex.assert_trees_all_close(rows, padded_rows, rtol=1e-5, atol=1e-6)


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


ABLATIONS = {
    "paper": {},
    "w/o SD": {"distillation": "none"},
    "cross-entropy, +FeatDist, p + q": {
        "distillation": "cross_entropy",
        "feature_distillation": 1.0,
        "score": "p+q",
    },
    "student alone, scaled scores": {"teacher": "none", "score_scale": True},
    "D, one BiLSTM layer, kernels": {
        "common": 24,
        "lstm_layers": 1,
        "map_kernels": (3,),
        "fuse_kernels": (1, 3),
    },
    "three BiLSTM layers, trained words": {"lstm_layers": 3, "vocab_size": 40},
    "conv front end, sparse map": {"front_end": "conv", "num_clips": 6, "scale_layers": (2, 2)},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_takes_a_step(name):
    """A step down the gradient lowers the objective, and every parameter is used."""
    batch = make_batch()
    model = create("fvmr", **{**TINY, **ABLATIONS[name]})
    variables = random_variables(model, batch)
    step = jax.jit(lambda v: train_step(model, v, batch)[:2])
    terms, grads = jax.device_get(step(variables))
    chex.assert_tree_all_finite((terms, grads))
    for path, grad in jax.tree.leaves_with_path(grads):
        assert np.any(grad), f"{jax.tree_util.keystr(path)} has no gradient"
    # A step of length 0.01.
    size = sum(np.square(x).sum() for x in jax.tree.leaves(grads)) ** 0.5
    params = jax.tree.map(lambda x, g: x - 0.01 * g / size, variables["params"], grads)
    after, _ = step({**variables, "params": params})
    assert sum_of_means(after) < sum_of_means(terms)
    assert model.requires() == (() if name.startswith("student") else ("tree",))


def test_bfloat16_keeps_parameters_scores_and_losses_in_float32():
    batch = make_batch()
    variables = random_variables(create("fvmr", **TINY, dtype=jnp.bfloat16), batch)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    exact, rounded = (create("fvmr", **TINY, dtype=d, score="p+q") for d in (jnp.float32, jnp.bfloat16))
    a, b = (outputs_of(model, variables, batch, train=True) for model in (exact, rounded))
    assert {x.dtype for x in jax.tree.leaves(b)} == {np.dtype("float32")}
    terms = [m.loss(o, batch, epoch=jnp.int32(8)) for m, o in ((exact, a), (rounded, b))]
    assert {x.dtype for x in jax.tree.leaves(terms)} == {np.dtype("float32")}
    for name, term in terms[0].items():
        np.testing.assert_allclose(terms[1][name].value(), term.value(), rtol=0.02)
    # 8 bits of precision in the computation, not in what ranks.
    assert np.max(np.abs(a.p - b.p)) > 1e-5
    scores = np.asarray(rounded.predict(b, batch).scores)
    assert np.any(scores != scores.astype(jnp.bfloat16).astype(np.float32))


@pytest.mark.slow
def test_a_few_steps_memorise_a_batch():
    """Adam finds the moment of each of eight pairs among ten candidates; chance is one in ten.

    No moment is longer than two clips: of the others (0,2) has IoU 3/4 with (0,3), and both would have
    label 1.
    """
    batch = make_batch(b=8)
    cells = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (1, 2)]
    clips = np.float32([(a, b + 1) for a, b in cells])
    batch = batch.replace(span=clips * batch.duration[:, None] / 4)
    model = create("fvmr", **TINY)
    variables = jax.jit(lambda key: model.init(key, batch, train=True))(jax.random.key(0))
    optimizer = optax.adam(0.02)

    def step(carry, _):
        variables, moments = carry
        _, grads, updates = train_step(model, variables, batch)
        change, moments = optimizer.update(grads, moments)
        return ({"params": optax.apply_updates(variables["params"], change), **updates}, moments), None

    start = (variables, optimizer.init(variables["params"]))
    (variables, _), _ = jax.jit(lambda s: jax.lax.scan(step, s, length=150))(start)
    best = model.predict(outputs_of(model, variables, batch), batch).spans[:, 0]
    np.testing.assert_allclose(best, batch.span, rtol=1e-5)


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
    model = create("fvmr", **{**TINY, **fields})
    with pytest.raises(UserError, match=message):
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
