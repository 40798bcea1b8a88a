"""Batch normalisation and L2 normalisation, against PyTorch and across devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.norm import MaskedBatchNorm, l2_normalize
from vmr_jax.parallel import Parallel

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(8, 5, 4))).astype(np.float32)
MASK = RNG.random((8, 5)) < 0.6
MASK[3] = False  # one device of eight has nothing real


def initial(x=X, mask=MASK):
    return MaskedBatchNorm().init(jax.random.key(0), x, mask, True)


def train_step(variables, x, mask):
    return MaskedBatchNorm().apply(variables, x, mask, True, mutable=["batch_stats"])


def test_equals_pytorch_on_the_real_positions():
    torch = pytest.importorskip("torch")
    twin = torch.nn.BatchNorm1d(4)
    params = {"scale": np.array([1, 2, 3, 4], np.float32), "bias": np.array([0, 1, 0, -1], np.float32)}
    twin.load_state_dict(
        {"weight": torch.tensor(params["scale"]), "bias": torch.tensor(params["bias"])}, strict=False
    )
    variables = {**initial(), "params": params}
    for step in range(2):
        x = X + step
        real = torch.tensor(x[MASK], requires_grad=True)
        expected = twin(real)
        expected.pow(3).sum().backward()
        result, updated = train_step(variables, x, MASK)
        np.testing.assert_allclose(result[MASK], expected.detach(), atol=1e-5)
        gradient = jax.grad(lambda x, v=variables: (train_step(v, x, MASK)[0] ** 3).sum())(jnp.asarray(x))
        np.testing.assert_allclose(gradient[MASK], real.grad, rtol=1e-3, atol=1e-3)
        assert not gradient[~MASK].any()
        variables = {**variables, **updated}
    statistics = variables["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], twin.running_mean, rtol=1e-6)
    np.testing.assert_allclose(statistics["var"], twin.running_var, rtol=1e-5)

    twin.eval()
    result = MaskedBatchNorm().apply(variables, X, MASK, False)
    np.testing.assert_allclose(result[MASK], twin(torch.tensor(X[MASK])).detach(), atol=1e-5)


def test_masked_positions_are_zero_and_change_nothing():
    expected, expected_statistics = train_step(initial(), X, MASK)
    garbage = np.where(MASK[..., None], X, np.nan)
    result, statistics = train_step(initial(), garbage, MASK)
    np.testing.assert_array_equal(result, expected)
    jax.tree.map(np.testing.assert_array_equal, statistics, expected_statistics)
    assert not result[~MASK].any()
    for train in (True, False):
        gradient = jax.grad(
            lambda x, t=train: MaskedBatchNorm().apply(initial(), x, MASK, t, mutable=["batch_stats"])[0].sum()
        )(jnp.asarray(garbage))
        assert np.isfinite(gradient).all()


def test_nothing_real_leaves_the_statistics_alone():
    variables, nothing = initial(), np.zeros_like(MASK)
    result, updated = train_step(variables, X, nothing)
    assert not result.any()
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_statistics_survive_a_large_mean():
    # float32 near 4096 has steps of 1/2048; the difference of E[x^2] and E[x]^2, with steps of 1, would not do.
    x = 4096 + np.tile([0.0, 1.0], 20)[:, None].astype(np.float32)
    _, updated = train_step(initial(x, np.ones(40, bool)), x, np.ones(40, bool))
    # Old variance 1, new one 40 / 39 * 1/4.
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 40 / 39 / 4], rtol=1e-5)


@pytest.mark.parametrize("mode, devices", [("pmap", 1), ("pmap", 8), ("jit", 8)])
def test_statistics_are_of_all_devices(mode, devices):
    expected, expected_statistics = train_step(initial(), X, MASK)
    parallel = Parallel(mode, devices)

    def step(variables, batch):
        output, updated = train_step(variables, *batch)
        return {**variables, **updated}, {}

    state, _ = parallel.map_step(step)(parallel.replicate(initial()), parallel.put_batch((X, MASK)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        state["batch_stats"],
        expected_statistics["batch_stats"],
    )
    outputs = parallel.map_examples(lambda variables, batch: train_step(variables, *batch)[0])
    result = outputs(parallel.replicate(initial()), parallel.put_batch((X, MASK)))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_batch_norm_checks_shapes_and_keeps_its_dtype():
    with pytest.raises(AssertionError):
        MaskedBatchNorm().init(jax.random.key(0), X, MASK[:, :4], True)
    half = MaskedBatchNorm(dtype=jnp.bfloat16)
    result, variables = half.init_with_output(jax.random.key(0), X.astype(jnp.bfloat16), MASK, True)
    assert result.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("axis", [1, -1])
def test_l2_normalize_equals_pytorch(axis):
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    weights = np.cos(np.arange(X.size, dtype=np.float32)).reshape(X.shape)
    expected = torch.nn.functional.normalize(x, dim=axis)
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(l2_normalize(X, axis), expected.detach(), atol=1e-6)
    gradient = jax.grad(lambda x: (l2_normalize(x, axis) * weights).sum())(jnp.asarray(X))
    np.testing.assert_allclose(gradient, x.grad, atol=1e-6)


def test_l2_normalize_at_zero():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)
    # Near zero the function is x / eps.
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(x)
    np.testing.assert_allclose(gradient[0], [1e12, 1e12], rtol=1e-5)
    assert l2_normalize(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
