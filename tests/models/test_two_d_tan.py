"""2D-TAN: size, loss, prediction, and what must not change either."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of

from vmr_jax.errors import UserError
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.models import create
from vmr_jax.models.two_d_tan import Outputs
from vmr_jax.parallel import Parallel, sum_over_devices
from vmr_jax.types import Batch

B, T, L, D, W = 16, 32, 6, 10, 8
SMALL = {"num_clips": 8, "scale_layers": (4, 2), "features": 12, "map_kernel": 3, "map_layers": 3}
EPOCH = jnp.int32(0)


def make_batch(rows=B, seed=0):
    """Random pairs of one to six words; of B rows the last three only fill the batch."""
    rng = np.random.default_rng(seed)
    query_mask = np.arange(L) < rng.integers(1, L + 1, rows)[:, None]
    duration = rng.uniform(20, 60, rows).astype(np.float32)
    span = np.sort(rng.random((rows, 2)), axis=1).astype(np.float32) * duration[:, None]
    return Batch(
        video=rng.normal(size=(rows, T, D)).astype(np.float32),
        video_mask=np.ones((rows, T), bool),
        duration=duration,
        query=np.where(query_mask, rng.integers(1, 20, (rows, L)), 0).astype(np.int32),
        query_vectors=rng.normal(size=(rows, L, W)).astype(np.float32) * query_mask[..., None],
        query_mask=query_mask,
        span=span,
        example_mask=np.arange(rows) < rows - 3,
        example_index=np.arange(rows, dtype=np.int32),
        video_index=np.arange(rows, dtype=np.int32),
    )


@pytest.fixture(scope="module", params=["pool", "conv"])
def model(request):
    return create("two_d_tan", proposal=request.param, vocab_size=20, **SMALL)


@pytest.fixture(scope="module")
def variables(model):
    """Random parameters for which the result depends visibly on everything that goes in.

    At first it does not: each map convolution divides by the 9 cells under its kernel, so biases dominate.
    """
    init = jax.jit(lambda key, batch: model.init(key, batch, train=False))

    def scaled(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf * (30 if "convs" in name and "kernel" in name else 3 if "lstm" in name else 1)

    return jax.tree_util.tree_map_with_path(scaled, init(jax.random.key(0), make_batch()))


@pytest.fixture(scope="module")
def expected(model, variables):
    """Gradients, {'loss': ...} and moments of `make_batch()`."""
    return everything(model, variables, make_batch())


def everything(model, variables, batch):
    gradients, scalars = jax.jit(step(model))(variables["params"], batch)
    return gradients, scalars, model.predict(outputs_of(model, variables, batch), batch)


def step(model):
    """(params, batch) -> (gradients, {'loss': ...}), the same on any number of devices."""

    def run(params, batch):
        def objective(params):
            outputs = model.apply({"params": params}, batch, train=True)
            terms = model.loss(outputs, batch, epoch=EPOCH).values()
            return sum(term.sum / sum_over_devices(term.count) for term in terms)

        loss, gradients = jax.value_and_grad(objective)(params)
        return sum_over_devices(gradients), {"loss": sum_over_devices(loss)}

    return run


def assert_close(ours, expected, tolerance=1e-6):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance * max(1.0, float(np.abs(b).max())))

    jax.tree.map(compare, ours, expected)


@pytest.mark.parametrize(
    "dim, proposal, setting, count",
    # From the sizes of the official state_dicts, with 300-d words.
    [
        (4096, "pool", {}, 60_925_953),
        (4096, "conv", {}, 69_060_609),
        (500, "pool", {"num_clips": 64, "scale_layers": (16, 8, 8)}, 91_588_609),
        (500, "conv", {"num_clips": 64, "scale_layers": (16, 8, 8)}, 108_644_353),
    ],
)
def test_parameter_count(dim, proposal, setting, count):
    if setting:
        setting = setting | {"map_kernel": 9, "map_layers": 4}
    model = create("two_d_tan", proposal=proposal, **setting)
    batch = make_batch(2).replace(video=np.zeros((2, 256, dim), np.float32), video_mask=np.ones((2, 256), bool))
    batch = batch.replace(query_vectors=np.zeros((2, L, 300), np.float32))
    variables = jax.eval_shape(lambda key: model.init(key, batch, train=False), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


def test_loss_by_hand():
    """Two clips of 2 s, moment [0, 3]; IoU of (0,0), (0,1), (1,1) is 2/3, 3/4, 1/4."""
    model = create("two_d_tan", num_clips=2, scale_layers=(2,))
    batch = make_batch(4).replace(
        duration=np.full(4, 4.0, np.float32),
        span=np.tile(np.float32([0, 3]), (4, 1)),
        example_mask=np.array([True, False, False, False]),
    )
    # (1,0) is no candidate, and three rows only fill the batch: neither logit counts.
    logits = np.full((4, 2, 2), 50.0, np.float32)
    logits[0] = [[0.0, 1.0], [50.0, -2.0]]
    term = model.loss(Outputs(logits=jnp.asarray(logits)), batch, epoch=EPOCH)["iou"]
    # Targets (IoU - 0.5) / 0.5: 1/3, 1/2, 0. Losses: log 2; log(1 + e) - 1/2; log(1 + 1/e^2).
    expected = np.log(2) + np.log(1 + np.e) - 0.5 + np.log(1 + np.exp(-2))
    np.testing.assert_allclose(term.sum, expected, rtol=1e-6)
    assert term.count == 3


def test_prediction_and_picture(model, variables):
    batch = make_batch()
    outputs = outputs_of(model, variables, batch)
    mask = candidate_mask(8, (4, 2))
    assert outputs.logits.shape == (B, 8, 8)
    assert not outputs.logits[:, ~mask].any()

    moments = model.predict(outputs, batch)
    moments.check()
    assert moments.scores.shape == (B, mask.sum())
    assert (np.diff(moments.scores) <= 0).all()
    row, column = np.unravel_index(np.where(mask, outputs.logits, -np.inf).reshape(B, -1).argmax(1), (8, 8))
    clip = batch.duration / 8
    np.testing.assert_allclose(moments.spans[:, 0], np.stack([row * clip, (column + 1) * clip], 1), rtol=1e-6)
    best = jax.nn.sigmoid(outputs.logits[np.arange(B), row, column])
    np.testing.assert_allclose(moments.scores[:, 0], best, rtol=1e-6)
    few = model.clone(keep=5).predict(outputs, batch)
    np.testing.assert_array_equal(few.spans, moments.spans[:, :5])

    picture = model.explain(outputs, batch)["map"]
    assert np.isnan(picture[:, ~mask]).all()
    np.testing.assert_allclose(picture[:, mask].max(1), moments.scores[:, 0])
    assert model.requires() == ()


def widened(batch):
    """The same pairs with more words, clips and rows; what is added is masked garbage."""
    batch = batch.replace(
        query=np.pad(batch.query, ((0, 0), (0, L)), constant_values=7),
        query_vectors=np.pad(batch.query_vectors, ((0, 0), (0, L), (0, 0)), constant_values=9.0),
        query_mask=np.pad(batch.query_mask, ((0, 0), (0, L))),
    )
    # Every clip of the map averages T / N rows; as many more of them do not count.
    video = batch.video.reshape(B, 8, T // 8, D)
    video = np.concatenate([video, np.full_like(video, 9.0)], axis=2).reshape(B, 2 * T, D)
    real = np.ones((B, 8, T // 8), bool)
    batch = batch.replace(video=video, video_mask=np.concatenate([real, ~real], axis=2).reshape(B, 2 * T))
    other = jax.tree.map(lambda x: x[::-1], batch)
    other = other.replace(example_mask=np.zeros(B, bool), duration=np.zeros(B, np.float32))
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), batch, other)


@pytest.mark.parametrize("mode, wide", [("pmap", False), ("jit", True)])
def test_devices_and_padding_do_not_matter(model, variables, expected, mode, wide):
    parallel = Parallel(mode, 8)  # 16 rows, the last 3 of which do not count, so that devices differ
    batch = widened(make_batch()) if wide else make_batch()
    placed = parallel.replicate(variables["params"]), parallel.put_batch(batch)
    gradients, scalars = parallel.map_step(step(model))(*placed)
    assert scalars["loss"] > 0.1
    assert_close((gradients, scalars), expected[:2])


def test_padding_does_not_matter_to_the_prediction(model, variables, expected):
    batch = widened(make_batch())
    moments = model.predict(outputs_of(model, variables, batch), batch)
    assert_close(jax.tree.map(lambda x: x[:B], moments), expected[2])


def test_every_parameter_learns(expected):
    for path, gradient in jax.tree.leaves_with_path(expected[0]):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_word_vectors_are_fine_tuned_by_an_offset(model, variables, expected):
    batch = make_batch()
    offset = np.zeros((20, W), np.float32)
    assert np.array_equal(variables["params"]["words"]["offset"], offset)
    moved = np.abs(expected[0]["words"]["offset"]).max(1) > 0
    seen = np.unique(batch.query[batch.query_mask & batch.example_mask[:, None]])
    # Words 0 (padding) and 1 (unknown) never move, nor does a word that the real rows lack.
    assert set(np.flatnonzero(moved)) == set(seen) - {1}
    assert 1 in seen

    # An offset of word 5 is the same as another vector for it.
    offset[5] = np.arange(W)
    params = {**variables["params"], "words": {"offset": offset}}
    ours = outputs_of(model, {"params": params}, batch).logits
    other = batch.replace(query_vectors=batch.query_vectors + offset[batch.query] * batch.query_mask[..., None])
    assert_close(ours, outputs_of(model, variables, other).logits)
    assert np.abs(ours - outputs_of(model, variables, batch).logits).max() > 1e-3
    frozen = jax.eval_shape(lambda: model.clone(vocab_size=0).init(jax.random.key(0), batch, train=False))
    assert "words" not in frozen["params"]


def test_bfloat16_layers_keep_a_float32_loss(model, variables):
    batch = make_batch()
    half = model.clone(dtype=jnp.bfloat16)
    outputs, exact = (outputs_of(m, variables, batch) for m in (half, model))
    assert outputs.logits.dtype == jnp.float32
    assert half.loss(outputs, batch, epoch=EPOCH)["iou"].sum.dtype == jnp.float32
    np.testing.assert_allclose(outputs.logits, exact.logits, atol=0.06)  # of logits up to 3; 2^-8 a rounding
    gradients, scalars = jax.jit(step(half))(variables["params"], batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, scalars))} == {jnp.dtype("float32")}
    assert jax.tree.all(jax.tree.map(lambda g: jnp.isfinite(g).all(), gradients))


def test_mistakes_are_named(model, variables):
    batch = make_batch()
    with pytest.raises(UserError, match="30 clips .*which 8 map clips"):
        cut = batch.replace(video=batch.video[:, :30], video_mask=batch.video_mask[:, :30])
        model.apply(variables, cut, train=False)
    with pytest.raises(UserError, match="Known: pool, conv"):
        model.clone(proposal="max")
    with pytest.raises(UserError, match="scale_layers"):
        model.clone(scale_layers=(16,)).apply(variables, batch, train=False)
    for wrong in (
        {"query_mask": batch.query_mask[:, 1:]},
        {"span": batch.span[:, :1]},
        {"video": batch.video[0]},
    ):
        with pytest.raises(AssertionError):
            model.apply(variables, batch.replace(**wrong), train=False)
