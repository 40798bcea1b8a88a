"""TMLGA: labels, losses and both ways of predicting by hand, and the GRU without biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.tmlga import SMALL, size

from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.guided_ends import attention_loss, divergence, end_clips, soft_label
from vmr_jax.models import create
from vmr_jax.models.tmlga import Outputs

MASK = np.array([[True] * 4 + [False]])


def test_ends_are_the_clips_that_hold_them():
    # Four clips of 2.5 s: 2.5 begins the second, 7.4 is in the third, and the end of the video in the last.
    first, last = end_clips(jnp.float32([[2.5, 7.4], [0, 10]]), jnp.float32([10, 10]), np.repeat(MASK, 2, 0))
    assert (first.tolist(), last.tolist()) == ([1, 0], [2, 3])


def test_labels_are_soft():
    # A quarter on each side, less half of the one number of 1e-10 left; at the border one of them is lost.
    quarter = (0.5 - 1e-10) / 2
    found = soft_label(jnp.array([1, 3]), np.repeat(MASK, 2, 0))
    expected = [[quarter, 0.5, quarter, 1e-10, 0], [1e-10, 1e-10, quarter, 0.5, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_losses_by_hand():
    # Against equal probabilities of four clips: 2 * .25 log 1 + .5 log 2, and next to nothing.
    found = divergence(jnp.where(MASK, 3.0, MASKED), jnp.array([1]), MASK)
    np.testing.assert_allclose(found, [np.log(2) / 2], rtol=1e-5)
    # Outside of clips 1 and 2, before 3, attention is .5 and .25: -log .5 - log .75.
    attention = jnp.float32([[0.5, 0.125, 0.125, 0.25, 0]])
    found = attention_loss(attention, jnp.array([1]), jnp.array([3]), MASK)
    np.testing.assert_allclose(found, [np.log(2) + np.log(4 / 3)], rtol=1e-6)


@pytest.mark.parametrize("rest", [0, 1e-9])
def test_attention_that_is_certain_has_a_finite_loss(rest):
    attention = jax.nn.softmax(jnp.log(jnp.float32([[1, rest, rest, 0, 0]])))  # the first one is 1 in float32
    loss = jax.jit(jax.value_and_grad(lambda a: attention_loss(a, jnp.array([1]), jnp.array([4]), MASK).sum()))
    found = loss(attention)
    assert all(np.isfinite(x).all() for x in found)
    # Of the first clip alone: -log of what it leaves and of the constants, 1e-12 - 1e-13.
    np.testing.assert_allclose(found[0], -np.log(2 * rest + 9e-13), rtol=1e-5)


def of_one_video():
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=3, fill=0))
    batch = batch.replace(video_mask=np.ones((1, 3), bool), duration=np.float32([6]))
    # Start .2, .2, .6; end .5, .3, .2: the best of each is the last clip and the first.
    start, end = (jnp.log(jnp.float32([x])) for x in ((0.2, 0.2, 0.6), (0.5, 0.3, 0.2)))
    return batch, Outputs(start=start, end=end, attention=jnp.float32([[0.5, 0.25, 0.25]]))


def test_pairs_are_ranked():
    batch, outputs = of_one_video()
    moments = create("tmlga", **SMALL).predict(outputs, batch)
    # (2,2) .6 * .2, (0,0) .2 * .5, (0,1) and (1,1) .2 * .3, (0,2) and (1,2) .2 * .2; clips of 2 s.
    np.testing.assert_allclose(moments.scores[0, :6], [0.12, 0.1, 0.06, 0.06, 0.04, 0.04], rtol=1e-5)
    np.testing.assert_allclose(moments.spans[0, :4], [[4, 6], [0, 2], [0, 4], [2, 4]])
    assert not np.isfinite(moments.scores[0, 6:]).any()


def test_independent_ends():
    batch, outputs = of_one_video()
    model = create("tmlga", independent_ends=True, **SMALL)
    moments = model.predict(outputs, batch)
    moments.check()
    # The start 4 s is behind the end 2 s: an empty moment.
    assert moments.spans.tolist() == [[[4, 4]]]
    np.testing.assert_allclose(moments.scores, [[0.6 * 0.5]], rtol=1e-6)
    moments = model.predict(outputs.replace(start=outputs.end), batch)
    assert moments.spans.tolist() == [[[0, 2]]]


def test_padding_changes_nothing():
    model, batch = create("tmlga", **SMALL), random_batch()
    variables = random_variables(model, batch)
    longer = pad_clips(batch, batch.video.shape[1])
    expected, found = outputs_of(model, variables, batch), outputs_of(model, variables, longer)
    clips = batch.video.shape[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, :clips], atol=2e-6), expected, found)
    np.testing.assert_allclose(found.attention.sum(1), 1, rtol=1e-5)


def test_only_linear_layers_have_biases():
    batch = random_batch()

    def biases(**fields):
        model = create("tmlga", **{**SMALL, **fields})
        shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
        paths = jax.tree_util.tree_leaves_with_path(shapes)
        return {path[1].key for path, _ in paths if "bias" in path[-1].key}

    assert biases(use_bias=False) == {"filter", "clips", "start", "end"}
    assert biases(use_bias=True) == {"filter", "clips", "start", "end", "query_gru", "gru"}


def test_size_is_the_official_one():
    """It has 4,003,332 with I3D and GloVe, of which 1024 + 1 and 512 + 1 are in layers that are not used."""
    assert size(1024, 300) + 1025 + 513 == 4_003_332


@pytest.mark.parametrize("weight,names", [(1.0, {"start", "end", "attention"}), (0.0, {"start", "end"})])
def test_guidance_can_be_left_out(weight, names):
    batch, outputs = of_one_video()
    model = create("tmlga", attention_weight=weight, **SMALL)
    assert set(model.loss(outputs, batch, epoch=jnp.int32(0))) == names
