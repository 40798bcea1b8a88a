"""The 2D map: candidates, geometry, pooling, convolutions. Expected numbers are derived in comments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.errors import UserError
from vmr_jax.layers.map2d import (
    MapConvs,
    StackedConvMap,
    candidate_layers,
    candidate_mask,
    cell_spans,
    iou_map,
    map_weights,
    max_pool_map,
    rank_cells,
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "num_clips, scale_layers, count",
    # N=16: 16 * 17 / 2. N=64, offsets 0..15: 64 + 63 + ... + 49 = 904; offsets 17, 19..31 with even starts:
    # 24 + 23 + ... + 17 = 164; offsets 35, 39..63 with starts 0 mod 4: 8 + 7 + ... + 1 = 36; 1104 in all.
    # N=128: 128 + ... + 113 = 1928, 56 + 55 + ... + 49 = 420, 24 + ... + 17 = 164, 8 + ... + 1 = 36; 2548.
    [(16, (16,), 136), (64, (16, 8, 8), 1104), (128, (16, 8, 8, 8), 2548), (4, (2,), 7)],
)
def test_number_of_candidates(num_clips, scale_layers, count):
    mask = candidate_mask(num_clips, scale_layers)
    assert mask.shape == (num_clips, num_clips)
    assert mask.dtype == bool
    assert mask.sum() == count


def test_candidates_of_two_scales():
    # Scale 0: offsets 0, 1. Scale 1: 1 + 2 = 3 and 5, on even starts.
    assert candidate_layers(6, (2, 2)) == [(0, 0), (0, 1), (1, 3), (1, 5)]
    expected = [
        [1, 1, 0, 1, 0, 1],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(candidate_mask(6, (2, 2)), np.array(expected, bool))


@pytest.mark.parametrize("num_clips, scale_layers", [(8, (16,)), (16, (16, 1)), (16, ()), (16, (0,))])
def test_impossible_candidates(num_clips, scale_layers):
    with pytest.raises(UserError, match=f"num_clips={num_clips}"):
        candidate_mask(num_clips, scale_layers)


def test_cell_spans():
    spans = cell_spans(4, jnp.array([8.0, 20.0]))
    assert spans.shape == (2, 4, 4, 2)
    np.testing.assert_allclose(spans[0, 1, 2], [2.0, 6.0])  # clips of 2 s: from 1 * 2 to (2 + 1) * 2
    np.testing.assert_allclose(spans[1, 0, 3], [0.0, 20.0])
    np.testing.assert_allclose(spans[1, 3, 3], [15.0, 20.0])


def test_iou_map():
    # Clips of 2 s, moment [1, 4]. Cell (0,0) = [0,2]: 1 of 4 s. (0,1) = [0,4]: 3 of 4 s. (1,1) = [2,4]: 2 of
    # 3 s. (1,0) would end where it starts.
    iou = iou_map(2, jnp.array([[1.0, 4.0]]), jnp.array([4.0]))
    np.testing.assert_allclose(iou[0], [[1 / 4, 3 / 4], [0.0, 2 / 3]], rtol=1e-6)


def test_iou_map_is_zero_before_the_start_and_for_filling_rows():
    iou = iou_map(16, jnp.array([[3.3, 21.7], [0.0, 0.0]]), jnp.array([31.0, 0.0]))
    assert not np.tril(iou[0], -1).any()
    assert np.array_equal(iou[1], np.zeros((16, 16)))
    # The annotated moment is within half a clip of 3.3 / 31 * 16 = 1.7 to 21.7 / 31 * 16 = 11.2: cell (2, 10).
    assert np.unravel_index(iou[0].argmax(), (16, 16)) == (2, 10)


def test_rank_cells():
    scores = jnp.arange(9.0).reshape(1, 3, 3)  # cell (i, j) scores 3 i + j; (1,0), (2,0), (2,1) are none
    mask = np.triu(np.ones((3, 3), bool))
    ranked = rank_cells(scores, mask, jnp.array([6.0]), 3)
    np.testing.assert_array_equal(ranked.scores, [[8.0, 5.0, 4.0]])  # (2,2), (1,2), (1,1)
    np.testing.assert_array_equal(ranked.spans, [[[4.0, 6.0], [2.0, 6.0], [2.0, 4.0]]])
    assert rank_cells(scores, mask, jnp.array([6.0]), 0).scores.shape == (1, 6)
    assert rank_cells(scores, mask, jnp.array([6.0]), 100).scores.shape == (1, 6)


@pytest.mark.parametrize("num_clips, scale_layers", [(1, (1,)), (5, (5,)), (16, (16,)), (22, (6, 8))])
def test_max_pool_map(num_clips, scale_layers):
    clips, mask = normal(0, 2, num_clips, 3), candidate_mask(num_clips, scale_layers)
    weights = normal(1, 2, num_clips, num_clips, 3)

    def by_definition(clips):
        i, j, t = np.ogrid[:num_clips, :num_clips, :num_clips]
        inside = ((i <= t) & (t <= j))[None, ..., None]
        longest = jnp.where(inside, clips[:, None, None], -jnp.inf).max(3)
        return jnp.where(mask[None, :, :, None], longest, 0)

    def weighted(pool):
        return jax.jit(jax.value_and_grad(lambda clips: (pool(clips) * weights).sum()))

    np.testing.assert_array_equal(max_pool_map(clips, mask), jax.jit(by_definition)(clips))
    _, expected = weighted(by_definition)(clips)
    _, gradient = weighted(lambda clips: max_pool_map(clips, mask))(clips)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_max_pool_map_checks_shapes():
    with pytest.raises(AssertionError):
        max_pool_map(jnp.zeros((2, 4, 3)), candidate_mask(5, (5,)))


@pytest.mark.parametrize("tap", ["first", "last"])
def test_stacked_convs_reach_from_the_first_to_the_last_clip(tap):
    """With kernels that pass on one end of their window alone, a cell is its first (last) clip."""
    module, clips = StackedConvMap(1, (4, 3, 2)), normal(0, 2, 18, 1)  # offsets 0..3, 5, 7, 9, 13, 17
    variables = initial_variables(module, 1, clips)

    def one_tap(leaf):
        if leaf.ndim == 1:
            return jnp.zeros_like(leaf)
        return jnp.zeros_like(leaf).at[0 if tap == "first" else -1].set(1.0)

    result = jax.jit(module.apply)(jax.tree.map(one_tap, variables), clips)[..., 0]
    mask = candidate_mask(18, (4, 3, 2))
    ends = clips[:, :, None, 0] if tap == "first" else clips[:, None, :, 0]
    np.testing.assert_array_equal(result, jnp.where(mask[None], ends, 0.0))


def test_stacked_convs_have_the_official_kernels():
    variables = initial_variables(StackedConvMap(4, (3, 2)), 0, normal(0, 1, 7, 6))
    shapes = {name: leaf["kernel"].shape for name, leaf in variables["params"].items()}
    assert shapes == {
        "layer_0": (1, 6, 4),
        "layer_1": (2, 4, 4),
        "layer_2": (2, 4, 4),
        "layer_3": (3, 4, 4),
        "layer_4": (2, 4, 4),
    }


def test_map_weights():
    # Candidates (0,0), (0,1), (1,1). After the first layer rows and columns run from -1 to 2; a 3 x 3 window
    # around (-1,-1) holds (0,0) only, around (0,0) all three, around (2,-1) none. The second layer counts the
    # cells that were not zero: all but (2,-1), which only the window around (1,0) holds.
    first, second = map_weights(np.array([[True, True], [False, True]]), kernel=3, layers=2)
    counts = np.array([[1, 2, 2, 1], [1, 3, 3, 2], [1, 3, 3, 2], [np.inf, 1, 1, 1]])
    np.testing.assert_allclose(first, 1 / counts, rtol=1e-6)
    np.testing.assert_allclose(second, [[1 / 9, 1 / 9], [1 / 8, 1 / 9]], rtol=1e-6)
    assert first.dtype == np.float32


def test_map_convs_average_over_candidates():
    """With kernels of ones, and ones at the candidates, every layer averages ones."""
    mask = candidate_mask(10, (4, 3))
    module, x = MapConvs(1, kernel=3, layers=4), jnp.asarray(mask, jnp.float32)[None, :, :, None]
    variables = jax.eval_shape(lambda key: module.init(key, x, mask), jax.random.key(0))
    ones = jax.tree.map(lambda p: jnp.full(p.shape, float(p.ndim > 1)), variables)
    result = jax.jit(lambda v: module.apply(v, x, mask))(ones)[0, :, :, 0]
    np.testing.assert_allclose(result[mask], 1.0, rtol=1e-5)


def literal_map_convs(params, x, mask, kernel, layers, normalized=lambda x, layer: x):
    """As the official code: all padding on the first layer, weights counted by a convolution of ones."""
    valid = jnp.asarray(mask, jnp.float32)[None, :, :, None]
    ones = jnp.ones((kernel, kernel, 1, 1))
    for layer in range(layers):
        pad = (kernel - 1) * layers // 2 if layer == 0 else 0

        def conv(x, w, pad=pad):
            padding, names = ((pad, pad), (pad, pad)), ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=names)

        p = params[f"layer_{layer}"]
        count = conv(valid, ones)
        weight = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0)
        x = normalized(conv(x, p["kernel"]) + p["bias"][None, None, None], layer)
        x = jax.nn.relu(x) * weight
        valid = (count > 0).astype(jnp.float32)
    return x


@pytest.mark.parametrize(
    "num_clips, scale_layers, kernel, layers",
    [(16, (16,), 5, 8), (6, (6,), 3, 1), (12, (4, 4), 3, 3), (14, (6, 2, 1), 5, 5), (22, (6, 8), 9, 4)],
)
def test_map_convs_equal_the_official_definition(num_clips, scale_layers, kernel, layers):
    mask = candidate_mask(num_clips, scale_layers)
    x, cells = normal(0, 2, num_clips, num_clips, 3), mask[None, :, :, None]
    module = MapConvs(3, kernel, layers)
    variables = initial_variables(module, 1, x, mask)
    # A large bias fills cells outside the map, the ones that a wrong margin would lose.
    params = jax.tree.map(lambda p: p + 0.5 * (p.ndim == 1), variables["params"])

    @jax.jit
    def cropped(params, x):
        return module.apply({"params": params}, x * cells, mask)

    @jax.jit
    def literal(params, x):
        return literal_map_convs(params, x * cells, mask, kernel, layers) * cells

    ours, gradients = value_and_gradients(cropped, params, x)
    official, expected = value_and_gradients(literal, params, x)
    np.testing.assert_allclose(ours, official, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())


@pytest.mark.parametrize("train", [True, False])
def test_normed_map_convs_equal_the_official_definition(train):
    """Statistics of a batch are over all cells of the official maps, of the two real rows of three."""
    mask, layers, real = candidate_mask(12, (4, 4)), 4, jnp.array([True, False, True])
    x = normal(0, 3, 12, 12, 3) * mask[None, :, :, None]
    module = MapConvs(5, 3, layers, norm=True)
    variables = jax.tree.map(lambda p: p + 0.5 * (p.ndim == 1), initial_variables(module, 1, x, mask, real))
    params, running = variables["params"], variables["batch_stats"]  # running: mean 0.5, variance 1.5

    def normalized(x, layer):
        mean, var = x[::2].mean((0, 1, 2)), x[::2].var((0, 1, 2))
        if not train:
            mean, var = running[f"norm_{layer}"]["mean"], running[f"norm_{layer}"]["var"]
        p = params[f"norm_{layer}"]
        factor = p["scale"] / jnp.sqrt(var + 1e-5)
        return (x - mean[None, None, None]) * factor[None, None, None] + p["bias"][None, None, None]

    expected = jax.jit(lambda x: literal_map_convs(params, x, mask, 3, layers, normalized))(x)
    found, changed = jax.jit(lambda v: module.apply(v, x, mask, real, train, mutable=["batch_stats"]))(
        variables
    )
    np.testing.assert_allclose(found[::2], expected[::2] * mask[None, :, :, None], rtol=1e-4, atol=1e-5)
    assert not np.any(found[1])
    moved = np.abs(changed["batch_stats"]["norm_0"]["mean"] - running["norm_0"]["mean"]).max() > 1e-3
    assert moved == train


def value_and_gradients(function, params, x):
    value, pull = jax.vjp(function, params, x)
    return value, jax.jit(pull)(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))


def test_map_convs_refuse_an_even_kernel():
    with pytest.raises(UserError, match="odd"):
        map_weights(candidate_mask(4, (4,)), kernel=4, layers=2)


def test_map_convs_check_shapes():
    with pytest.raises(AssertionError):
        MapConvs(3, 3, 2).init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)), candidate_mask(4, (4,)))


@pytest.mark.parametrize("module", [StackedConvMap(4, (4,), jnp.bfloat16), MapConvs(4, 3, 2, jnp.bfloat16)])
def test_bfloat16_keeps_float32_parameters(module):
    mask = candidate_mask(4, (4,))
    inputs = (normal(0, 2, 4, 3),) if isinstance(module, StackedConvMap) else (normal(0, 2, 4, 4, 3), mask)
    result, variables = module.init_with_output(jax.random.key(0), *inputs)
    assert result.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
