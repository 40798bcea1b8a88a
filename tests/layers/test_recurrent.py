"""LSTM and GRU against PyTorch, and the handling of padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import initial_variables

from vmr_jax.layers.recurrent import GRU, LSTM, GRUCell, first_state, last_state, mean_state

LENGTHS = np.array([5, 1, 3])
MASK = np.arange(5) < LENGTHS[:, None]  # [B,L]
X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def from_torch(module):
    """Parameters of a torch.nn.LSTM or GRU, in our names: kernels transposed, both biases kept."""
    names = {"weight_ih": "input_kernel", "weight_hh": "recurrent_kernel"}
    names |= {"bias_ih": "input_bias", "bias_hh": "recurrent_bias"}
    params = {}
    for key, value in module.state_dict().items():
        name, layer = key.split("_l")
        params.setdefault(f"layer_{layer}", {})[names[name]] = value.numpy().T
    return {"params": params}


FAST = functools.partial(LSTM, fast=True)


@pytest.mark.parametrize("kind", [LSTM, FAST, GRU])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
def test_equals_pytorch(torch, kind, layers, bidirectional):
    torch.manual_seed(0)
    twin = (torch.nn.GRU if kind is GRU else torch.nn.LSTM)(
        4, 6, layers, batch_first=True, bidirectional=bidirectional
    )
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(X), LENGTHS, batch_first=True, enforce_sorted=False
    )
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(twin(packed)[0], batch_first=True)
    expected.square().sum().backward()

    module, variables = kind(6, layers, bidirectional), from_torch(twin)
    np.testing.assert_allclose(module.apply(variables, X, MASK), expected.detach(), atol=1e-6)
    gradients = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, X, MASK)).sum()))(variables)
    for parameter in twin.parameters():
        parameter.data = parameter.grad
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, atol=2e-5), gradients, from_torch(twin))


@pytest.mark.parametrize("kind, gates", [(LSTM, 4), (GRU, 3)])
def test_parameters(kind, gates):
    variables = initial_variables(kind(9, 2, True), 0, X, MASK)
    leaves = jax.tree.leaves(variables)
    # Layer 0 reads 4 features, layer 1 the 18 of both directions: kernels and two biases, per direction.
    per_direction = sum(gates * 9 * (inputs + 9 + 2) for inputs in (4, 18))
    assert sum(leaf.size for leaf in leaves) == 2 * per_direction
    # U(-1/3, 1/3), which PyTorch draws from for F = 9: of 2916 (2187) draws the largest is near the bound.
    largest = max(np.abs(leaf).max() for leaf in leaves)
    assert 0.33 < largest <= 1 / 3


@pytest.mark.parametrize("kind", [LSTM, FAST, GRU])
def test_padding_does_not_matter(kind):
    module = kind(3, 2, True)
    variables = initial_variables(module, 0, X, MASK)
    expected = module.apply(variables, X, MASK)
    longer = np.concatenate([np.where(MASK[..., None], X, 1e3), np.full_like(X, -1e3)], axis=1)
    result = module.apply(variables, longer, np.pad(MASK, ((0, 0), (0, 5))))
    np.testing.assert_allclose(result[:, :5], expected, atol=1e-6)
    assert not result[:, 5:].any()
    assert not expected[~MASK].any()
    assert (np.abs(expected[MASK]).max(-1) > 0).all()


@pytest.mark.parametrize("kind", [LSTM, FAST])
def test_nothing_but_padding_is_zero_with_finite_gradients(kind):
    module, nothing = kind(3, 1, True), np.zeros((3, 5), bool)
    variables = initial_variables(module, 0, X, nothing)

    def total(x):
        return last_state(module.apply(variables, x, nothing), nothing).sum()

    value, gradient = jax.value_and_grad(total)(X)
    assert value == 0
    assert not gradient.any()


def test_first_and_last_state():
    x = np.arange(12.0, dtype=np.float32).reshape(3, 4, 1)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(first_state(x, mask), [[0.0], [4.0], [0.0]])
    np.testing.assert_array_equal(last_state(x, mask), [[2.0], [7.0], [0.0]])


@pytest.mark.parametrize("kind", [LSTM, FAST, GRU])
def test_bfloat16_is_near_float32(kind):
    variables = initial_variables(kind(6, 2), 0, X, MASK)
    exact, rounded = (kind(6, 2, dtype=d).apply(variables, X, MASK) for d in (jnp.float32, jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), exact, atol=0.02)
    assert np.abs(exact).max() > 0.2


@pytest.mark.parametrize("function", [first_state, last_state])
def test_shapes_are_checked(function):
    with pytest.raises(AssertionError):
        function(X, MASK[:, :4])
    with pytest.raises(AssertionError):
        LSTM(3).init(jax.random.key(0), X, MASK[:, :4])


@pytest.mark.parametrize("kind, gates", [(LSTM, 4), (GRU, 3)])
def test_initialisers_and_one_bias(kind, gates):
    ones, twos = jax.nn.initializers.constant(1.0), jax.nn.initializers.constant(2.0)
    module = kind(2, 1, True, kernel_init=ones, bias_init=twos, recurrent_bias=False)
    variables = initial_variables(module, 0, X, MASK)
    for params in variables["params"].values():  # both directions
        found = {name: (value.shape, set(value.ravel().tolist())) for name, value in params.items()}
        assert found == {
            "input_kernel": ((4, 2 * gates), {1.0}),
            "recurrent_kernel": ((2, 2 * gates), {1.0}),
            "input_bias": ((2 * gates,), {2.0}),
        }
    # The missing bias is a bias of zero.
    full = {name: {**p, "recurrent_bias": jnp.zeros(2 * gates)} for name, p in variables["params"].items()}
    expected = kind(2, 1, True).apply({"params": full}, X, MASK)
    np.testing.assert_array_equal(module.apply(variables, X, MASK), expected)


def test_cell_is_a_step_of_pytorchs(torch):
    torch.manual_seed(0)
    twin = torch.nn.GRUCell(4, 6)
    names = {"weight_ih": "input_kernel", "weight_hh": "recurrent_kernel"}
    names |= {"bias_ih": "input_bias", "bias_hh": "recurrent_bias"}
    variables = {"params": {names[key]: x.numpy().T for key, x in twin.state_dict().items()}}
    cell, state = GRUCell(6), np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    expected = twin(torch.tensor(X[:, 0]), torch.tensor(state)).detach()
    np.testing.assert_allclose(cell.apply(variables, state, X[:, 0]), expected, atol=1e-6)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), state, X[:, 0]))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, shapes)


def test_mean_state_is_that_of_real_words():
    states = jnp.float32([[[1, 2], [3, 4], [9, 9]], [[5, 5], [5, 5], [5, 5]]])
    mask = jnp.array([[True, True, False], [False] * 3])
    np.testing.assert_allclose(mean_state(states, mask), [[2, 3], [0, 0]])
