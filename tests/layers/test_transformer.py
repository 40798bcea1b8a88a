"""Transformer layers, against sums written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions

B, T, S, D, H, HIDDEN = 2, 3, 4, 6, 2, 5
INDEX = np.arange(B, dtype=np.int32)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_variables(layer, *arguments):
    """Biases start at zero, scales at one: random numbers show where each is used."""
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, *arguments[1:]), arguments[0])
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.5 * random(i, *x.shape) for i, x in enumerate(leaves)])


def applied(layer, variables, *arguments):
    return np.asarray(jax.jit(lambda v: layer.apply(v, *arguments))(variables))


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


def attention(p, queries, keys, values, mask):
    """Of one example, head by head: softmax(q k / sqrt(D / H)) v over the real keys."""
    q, k, v = (linear(p["heads"][n], x) for n, x in (("query", queries), ("key", keys), ("value", values)))
    found = []
    for head in np.split(np.arange(D), H):
        weights = np.exp(q[:, head] @ k[mask][:, head].T / np.sqrt(D / H))
        found.append(weights / weights.sum(-1, keepdims=True) @ v[mask][:, head])
    return linear(p["out"], np.concatenate(found, axis=-1))


def feed_forward(p, x):
    return norm(p["output_norm"], x + linear(p["output"], np.maximum(linear(p["hidden"], x), 0)))


def test_positions_are_sines_of_the_share_of_the_real_steps():
    mask = np.array([[True] * 4, [True, True, False, False]])
    found = sine_positions(jnp.asarray(mask), 6)
    for row, count in ((0, 4), (1, 2)):
        for step in range(count):
            for k in range(6):
                angle = (step + 1) / count * 2 * np.pi / 10_000 ** (2 * (k // 2) / 6)
                expected = np.sin(angle) if k % 2 == 0 else np.cos(angle)
                np.testing.assert_allclose(found[row, step, k], expected, atol=1e-5)


@pytest.mark.parametrize("placed", [True, False])
def test_encoder_layer_is_the_sum_written_out(placed):
    x, mask = random(0, B, T, D), np.array([[True] * 3, [True, True, False]])
    positions = random(1, B, T, D) if placed else None
    arguments, layer = (x, mask, INDEX, False, positions), EncoderLayer(D, H, HIDDEN)
    variables = random_variables(layer, *arguments)
    found = applied(layer, variables, *arguments)
    p = variables["params"]
    for b in range(B):
        place = x[b] + (positions[b] if placed else 0)
        y = norm(p["attention_norm"], x[b] + attention(p["attention"], place, place, x[b], mask[b]))
        np.testing.assert_allclose(found[b][mask[b]], feed_forward(p, y)[mask[b]], atol=1e-4)


@pytest.mark.parametrize("placed", [True, False])
def test_decoder_layer_is_the_sum_written_out(placed):
    x, memory = random(0, B, T, D), random(1, B, S, D)
    mask, memory_mask = np.ones((B, T), bool), np.array([[True] * 4, [True, False, True, False]])
    place, memory_place = (random(2, B, T, D), random(3, B, S, D)) if placed else (None, None)
    arguments = (x, memory, mask, memory_mask, INDEX, False, place, memory_place)
    layer = DecoderLayer(D, H, HIDDEN)
    variables = random_variables(layer, *arguments)
    found = applied(layer, variables, *arguments)
    p = variables["params"]
    for b in range(B):
        at, keys = (place[b], memory[b] + memory_place[b]) if placed else (0, memory[b])
        y = x[b] + attention(p["attention"], x[b] + at, x[b] + at, x[b], mask[b])
        y = norm(p["attention_norm"], y)
        y = y + attention(p["memory_attention"], y + at, keys, memory[b], memory_mask[b])
        y = feed_forward(p, norm(p["memory_norm"], y))
        np.testing.assert_allclose(found[b], y, atol=1e-4)


def test_weights_start_as_in_pytorch():
    x = np.zeros((1, 2, 64), np.float32)
    layer = EncoderLayer(64, 4, 128)
    mask = np.ones((1, 2), bool)
    variables = jax.jit(lambda key: layer.init(key, x, mask, INDEX[:1], False))(jax.random.key(0))
    params = variables["params"]
    # Glorot uniform: sqrt(6 / (in + out)); query, key and value are one matrix of 64 inputs and 3 * 64 outputs.
    bounds = {
        "attention/heads/query": 6 / (64 + 192), "attention/heads/key": 6 / (64 + 192),
        "attention/heads/value": 6 / (64 + 192), "attention/out": 6 / (64 + 64),
        "hidden": 6 / (64 + 128), "output": 6 / (64 + 128),
    }  # fmt: skip
    for path, square in bounds.items():
        leaf = params
        for name in path.split("/"):
            leaf = leaf[name]
        most = np.abs(leaf["kernel"]).max()
        assert 0.97 * np.sqrt(square) < most <= np.sqrt(square), path
    assert not np.any(params["attention"]["out"]["bias"])
    # Linear layers' biases: 1 / sqrt(in).
    assert 0.9 / 8 < np.abs(params["hidden"]["bias"]).max() <= 1 / 8


def test_dropout_depends_on_the_example_and_not_on_its_place():
    x, mask = random(0, 4, T, D), np.ones((4, T), bool)
    layer, index = EncoderLayer(D, H, HIDDEN, dropout=0.5), np.arange(4, dtype=np.int32)
    variables = random_variables(layer, x, mask, index, False)

    @jax.jit
    def apply(x, index, key):
        return layer.apply(variables, x, mask, index, True, rngs={"dropout": jax.random.key(key)})

    def run(order, key=0):
        return apply(x[order], index[order], key)

    order = np.arange(4)[::-1]
    np.testing.assert_allclose(run(order), run(index)[order], atol=1e-6)
    assert np.abs(run(index) - run(index, key=1)).max() > 0.1
