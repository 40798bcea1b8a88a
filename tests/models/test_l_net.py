"""L-Net: its attended recurrent network, self interactor and pointer, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.l_net import Reader, SelfAttention

F = 8


@pytest.fixture(scope="module")
def model():
    return create("l_net", features=F, dropout=0.0)


@pytest.fixture(scope="module")
def variables(model):
    return random_variables(model, random_batch())


def linear(x, layer):
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer.get("bias", 0.0))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(state, x, layer):
    """Gates in the order r, z, n; the reset gate after the recurrent product, as in PyTorch."""
    inputs = np.split(x @ layer["input_kernel"] + layer["input_bias"], 3, axis=-1)
    recurrent = np.split(state @ layer["recurrent_kernel"] + layer["recurrent_bias"], 3, axis=-1)
    r, z = (sigmoid(a + b) for a, b in zip(inputs[:2], recurrent[:2]))
    n = np.tanh(inputs[2] + r * recurrent[2])
    return (1 - z) * n + z * state


def test_a_step_attends_gates_and_reads(variables):
    rng = np.random.default_rng(0)
    params = variables["params"]["reader"]
    state, clip = rng.normal(size=(2, 2, F)).astype(np.float32)
    words, keys = rng.normal(size=(2, 2, 3, F)).astype(np.float32)
    mask, real = np.array([[True, True, True], [True, False, False]]), np.array([True, False])
    found, seen = jax.jit(Reader(F, jnp.float32).apply)(
        {"params": params}, state, clip, real, words, keys, mask
    )
    query = linear(clip, params["clip_query"]) + linear(state, params["state_query"])
    logits = linear(np.tanh(keys + query[:, None]), params["word_logit"])[..., 0]
    attended = np.einsum("bl,blf->bf", softmax(np.where(mask, logits, -1e9)), words)
    gated = clip * sigmoid(linear(attended, params["word_gate"]))
    both = np.concatenate([gated, attended * sigmoid(linear(clip, params["clip_gate"]))], axis=-1)
    expected = gru(state, both, params["gru"])
    np.testing.assert_allclose(found, np.where(real[:, None], expected, state), atol=1e-6)
    np.testing.assert_allclose(seen, np.where(real[:, None], expected, 0), atol=1e-6)


def test_every_clip_attends_to_all(variables):
    params = variables["params"]["self_attention"]
    states = np.random.default_rng(1).normal(size=(2, 4, F)).astype(np.float32)
    mask = np.arange(4) < np.array([[4], [2]])
    found = jax.jit(SelfAttention(F, jnp.float32).apply)({"params": params}, states, mask)
    hidden = np.tanh(linear(states, params["query"])[:, :, None] + linear(states, params["key"])[:, None])
    weights = softmax(np.where(mask[:, None], (hidden @ params["weight"])[..., 0], -1e9))
    np.testing.assert_allclose(found, np.einsum("btj,bjf->btf", weights, states), atol=1e-6)


def test_the_end_is_looked_for_with_what_the_start_may_be(model, variables):
    """The pointer from its parts: words and clips are read back from the network that makes them."""
    batch = random_batch()
    outputs, state = jax.jit(
        lambda v, b: model.apply(v, b, train=False, capture_intermediates=True, mutable=["intermediates"])
    )(variables, batch)
    made, params = state["intermediates"], variables["params"]
    words, clips = (np.asarray(made[name]["__call__"][0]) for name in ("word_gru", "matching_gru"))
    pooled = linear(np.tanh(linear(words, params["pool_hidden"])), params["pool_logit"])[..., 0]
    query = np.einsum("bl,blf->bf", softmax(np.where(batch.query_mask, pooled, -1e9)), words)
    for name in ("start", "end"):
        hidden = np.tanh(linear(clips, params["pointer_key"]) + linear(query, params["pointer_query"])[:, None])
        logits = np.where(batch.video_mask, linear(hidden, params["pointer_logit"])[..., 0], -1e9)
        found = np.where(batch.video_mask, getattr(outputs, name), -1e9)
        np.testing.assert_allclose(found, logits, atol=1e-5)
        query = gru(query, np.einsum("bt,btf->bf", softmax(logits), clips), params["pointer_gru"])


def test_the_order_of_time_matters(model, variables):
    """A recurrent network: the last clip moves the logits of the first through the direction from the end."""
    batch = random_batch()
    video = np.array(batch.video)
    row = int(np.argmax(batch.video_mask.sum(1)))
    video[row, batch.video_mask[row].sum() - 1] += 1
    changed = outputs_of(model, variables, batch.replace(video=video))
    before = outputs_of(model, variables, batch)
    assert np.abs(changed.start[row, 0] - before.start[row, 0]) > 1e-6
    others = np.arange(batch.size) != row
    np.testing.assert_array_equal(np.asarray(changed.start)[others], np.asarray(before.start)[others])


def test_an_odd_width_is_told():
    model = create("l_net", features=7)
    with pytest.raises(UserError, match="features is 7; L-Net reads both ways with half of it"):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
