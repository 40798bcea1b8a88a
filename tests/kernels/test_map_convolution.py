"""The convolutions of a sparse map in bands, beside the plain form. Expected numbers are derived."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.kernels import map_convolution, use_kernels
from vmr_jax.kernels.map_convolution import Band, band_height, bands, cropped, map_regions
from vmr_jax.layers.map2d import CandidateConvs, MapConvs, candidate_mask, map_weights


@pytest.fixture(autouse=True)
def kernels_at_the_end():
    yield
    use_kernels(True)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def run(module, variables, x, mask, real, train):
    """Result, gradients with respect to parameters and map, and statistics of a step."""

    @jax.jit
    def step(params, x):
        def apply(params, x):
            changed = {**variables, "params": params}
            cells = mask[None, :, :, None]
            return module.apply(changed, x * cells, mask, real, train, mutable=["batch_stats"])

        y, pull, changed = jax.vjp(apply, params, x, has_aux=True)
        return y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), changed

    return step(variables["params"], x)


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max())),
        found,
        expected,
    )


@pytest.mark.parametrize("normed, train", [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize(
    "num_clips, scale_layers, kernel, layers", [(16, (16,), 5, 4), (14, (6, 2, 1), 5, 3), (12, (4, 4), 3, 1)]
)
def test_equal_to_the_plain_form(num_clips, scale_layers, kernel, layers, normed, train):
    mask, real = candidate_mask(num_clips, scale_layers), jnp.array([True, True, False])
    x = normal(0, 3, num_clips, num_clips, 3)
    module = MapConvs(4, kernel, layers, norm=normed)
    variables = initial_variables(module, 1, x, mask, real)
    # A large bias fills cells outside the map, the ones that a wrong margin would lose.
    variables = jax.tree.map(lambda p: p + 0.5 * (p.ndim == 1), variables)
    found = run(module, variables, x, mask, real, train)
    use_kernels(False)
    plain = initial_variables(module, 1, x, mask, real)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda p: p + 0.5 * (p.ndim == 1), plain), variables
    )
    close(found, run(module, variables, x, mask, real, train))


def test_convolutions_of_candidates_are_those_of_the_plain_form_and_of_the_definition():
    mask, x = candidate_mask(14, (6, 2, 1)), normal(0, 2, 14, 14, 3)
    module, cells = CandidateConvs(4, 5, 2), mask[None, :, :, None]
    params = initial_variables(module, 1, x, mask)["params"]

    def value_and_gradients(apply):
        y, pull = jax.vjp(jax.jit(apply), params, x)
        return y, jax.jit(pull)(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    def definition(params, x):
        x = x * cells
        for layer in params.values():
            names = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=names)
            x = jax.nn.relu(y + layer["bias"][None, None, None]) * cells
        return x

    def apply(params, x):
        return module.apply({"params": params}, x * cells, mask)

    found = value_and_gradients(apply)
    use_kernels(False)
    close(found, value_and_gradients(lambda params, x: apply(params, x)))
    close(found, value_and_gradients(definition))


def test_the_plain_form_convolves_every_cell():
    """The switch is real: the maps of the plain form have the official sides."""
    mask, x = candidate_mask(8, (8,)), normal(0, 1, 8, 8, 2)
    module = MapConvs(3, 3, 4)
    variables = initial_variables(module, 0, x, mask)

    def sides():
        _, captured = module.apply(variables, x, mask, capture_intermediates=True, mutable=["intermediates"])
        layers = captured["intermediates"]
        return [layers[f"layer_{i}"]["__call__"][0].shape[1] for i in range(4)]

    assert sides() == [10, 12, 10, 8]  # a cell more a layer, then a cell less
    use_kernels(False)
    assert sides() == [14, 12, 10, 8]  # 8 + 2 * 4 at first, then two less a layer


@pytest.mark.parametrize("kernel, normed", [(5, False), (5, True), (3, False)])
def test_bands_change_nothing(kernel, normed, monkeypatch):
    """Rows are convolved one, eight (the CPU's choice) or all at a time; result, gradients and statistics."""
    mask, real = candidate_mask(14, (6, 2, 1)), jnp.array([True, True, False])
    x = normal(0, 3, 14, 14, 3)
    module = MapConvs(4, kernel, 3, norm=normed)
    variables = initial_variables(module, 1, x, mask, real)

    def run_in_bands(height):
        monkeypatch.setattr(map_convolution, "band_height", lambda: height)
        return run(module, variables, x, mask, real, True)

    expected = run_in_bands(1000)
    assert band_height() == 8
    for height in (1, 8):
        close(run_in_bands(height), expected)


def test_bands():
    # Kernel 3. Rows 2 and 3 of the result read rows 1 to 4 of the source, whose columns 2 to 5 are not zero;
    # column 6 is out of reach of the columns 3 and 4 that matter. Row 4 alone reads column 5 in row 5.
    source, target = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    source[1, 2], source[4, 5], source[5, 5], source[3, 6] = True, True, True, True
    target[2, 3], target[3, 4], target[4, 6] = True, True, True
    assert bands(source, target, half=1, height=2) == (
        Band(rows=(2, 4), columns=(3, 5), read=(2, 6)),
        Band(rows=(4, 5), columns=(6, 7), read=(5, 7)),
    )


def test_map_regions():
    # The candidates (0,0), (0,1), (1,1); the first layer keeps one cell around. All of its 4 x 4 cells reach a
    # candidate through the second 3 x 3 kernel, and all but (2,-1) are reached, see test_map_weights.
    mask = np.array([[True, True], [False, True]])
    weights = map_weights(mask, kernel=3, layers=2)
    first, second, third = map_regions(mask, weights, half=1, whole=False)
    np.testing.assert_array_equal(first, mask)
    np.testing.assert_array_equal(second, ~np.eye(4, dtype=bool)[::-1] | (np.arange(4)[:, None] < 3))
    np.testing.assert_array_equal(third, mask)


def test_cropped():
    # Kernel 3, three layers, official sides 2 + 2 * 2, 2 + 2 and 2. Layers 1 and 2 keep one cell around the
    # map: of the first, one of two is cut away; of the second, none.
    weights = map_weights(np.array([[True, True], [False, True]]), kernel=3, layers=3)
    first, second, third = cropped(weights, half=1, whole=False)
    np.testing.assert_array_equal(first, weights[0][1:-1, 1:-1])
    np.testing.assert_array_equal(second, weights[1])
    np.testing.assert_array_equal(third, weights[2])
    assert [len(weight) for weight in cropped(weights, half=1, whole=True)] == [6, 4, 2]
