"""VLG-Net: windows, distances, neighbours, the syntactic graph, pooling and the loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.vlg_net import MomentPool, Outputs, SyntacticGraph, distances, nearest, window_means
from vmr_jax.types import Batch


def test_windows_overlap_and_count_real_rows_alone():
    # Windows of 3 rows, 2 apart, of the rows 0 1 2 3 4 and, in the second video, 0 1.
    video = jnp.broadcast_to(jnp.arange(5.0)[None, :, None], (2, 5, 1))
    mask = jnp.array([[True] * 5, [True] * 2 + [False] * 3])
    means, real = window_means(video, mask, 2, 3)
    assert means[..., 0].tolist() == [[1, 3], [0.5, 0]] and real.tolist() == [[True, True], [True, False]]
    with pytest.raises(UserError, match="windows of 5 rows make no 3 clips"):
        window_means(jnp.zeros((1, 7, 1)), jnp.ones((1, 7), bool), 3, 5)


def test_distances_by_hand():
    """Of (0, 0), (3, 4) and (3, 4) again: 5, 5, 0; their gradients are finite."""
    nodes = jnp.float32([[[0, 0], [3, 4], [3, 4]]])
    np.testing.assert_allclose(distances(nodes)[0], [[0, 5, 5], [5, 0, 0], [5, 0, 0]], atol=1e-3)
    gradient = jax.jit(jax.grad(lambda x: distances(x).sum()))(nodes)
    # d|a - b| / da is the unit vector (3, 4) / 5, from two others and in both orders.
    np.testing.assert_allclose(gradient[0, 0], [-4 * 0.6, -4 * 0.8], rtol=1e-5)


def test_neighbours_are_real_and_begin_with_the_node_itself():
    nodes = jnp.float32([0, 1, 5, 4.9])[None, :, None]
    near, closeness = nearest(nodes, jnp.array([[True, True, True, False]]), 3)
    assert near[0, :3, :, 0].tolist() == [[0, 1, 5], [1, 0, 5], [5, 1, 0]]
    np.testing.assert_allclose(closeness[0, :3], [[0, -1, -5], [0, -1, -4], [0, -4, -5]], rtol=1e-5)
    # Features 1 2 of a node and 3 4 of another lie as 1 3 2 4, and are read as 1 3 and 2 4.
    mixed = nearest(jnp.float32([[[1, 2], [3, 4]]]), jnp.ones((1, 2), bool), 1, mixed=True)[0]
    assert mixed[0, :, 0].tolist() == [[1, 3], [2, 4]]
    # Two are real, so that the third is at minus infinity; and there are never more than nodes.
    near, closeness = nearest(nodes, jnp.array([[True, True, False, False]]), 9)
    assert near.shape == (1, 4, 4, 1) and np.isfinite(closeness[0, 0]).tolist() == [True, True, False, False]


def test_words_hear_those_that_hang_from_them():
    """Words 1, 2 and 4: the first hears the others with weights 1/4 and 3/4, the others hear nothing.

    The hidden edge is the word that is heard, its logit log 3 / 2 of it: weights are as 3^1 and 3^2.
    """
    params = {
        "edge": {"kernel": jnp.float32([[0], [1]])},
        "weight": {"kernel": jnp.full((1, 1), np.log(3) / 2)},
        "message": {"kernel": jnp.full((1, 1), 10.0)},
    }
    words = jnp.float32([1, 2, 4])[None, :, None]
    edges = jnp.array([[[False, True, True], [False] * 3, [False] * 3]])
    graph = SyntacticGraph(1, 0.0, jnp.float32)
    heard = jax.jit(lambda p: graph.apply({"params": p}, words, edges, jnp.arange(1), False))(params)
    np.testing.assert_allclose(heard[0, :, 0], [1 + 20 / 4 + 40 * 3 / 4, 2, 4], rtol=1e-5)


def test_moments_are_weighed_by_their_clips():
    """Of clips log 3 and 0, whose logits they are, the first weighs 3/4 of a moment of both."""
    params = {"logit": {"kernel": jnp.ones((1, 1))}}
    clips, rows, columns = jnp.float32([np.log(3), 0])[None, :, None], np.array([0, 0, 1]), np.array([0, 1, 1])
    pool, mask = MomentPool(jnp.float32), jnp.ones((1, 2), bool)
    moments = jax.jit(lambda p: pool.apply({"params": p}, clips, mask, rows, columns))(params)
    np.testing.assert_allclose(moments[0, :, 0], [np.log(3), np.log(3) * 3 / 4, 0], rtol=1e-5)


def test_loss_by_hand():
    # Two clips of 2 s, the moment [0, 3]. Cells (0, 0), (0, 1) and (1, 1) have IoU 2/3, 3/4 and 1/4; labels
    # (IoU - 0.7) / 0.1, cut, are 0, 1/2 and 0. Logits 1, 2 and 0.
    model = create("vlg_net", num_clips=2, scale_layers=(2,), iou_low=0.7, iou_high=0.8)
    batch = Batch.of(video=np.ones((1, 8, 3)), duration=np.float32([4]), span=np.float32([[0, 3]]))
    outputs = Outputs(jnp.float32([[[1, 2], [0, 0]]]))
    found = jax.jit(lambda o: model.loss(o, batch, epoch=jnp.int32(0))["iou"].value())(outputs)
    np.testing.assert_allclose(found, (np.log1p(np.e) + np.log1p(np.exp(2)) - 1 + np.log(2)) / 3, rtol=1e-6)
    moments = model.predict(outputs, batch)
    assert moments.spans[0].tolist() == [[0, 4], [0, 2], [2, 4]]


def test_the_official_maps():
    """The counts of candidates that the official program reports for its three configs."""
    settings = {1104: (64, (16, 8, 8)), 3101: (256, (6, 8, 8, 8)), 505: (48, (10, 4))}
    for count, (clips, layers) in settings.items():
        assert create("vlg_net", num_clips=clips, scale_layers=layers).candidates.sum() == count


def test_what_does_not_fit_is_told():
    model = create("vlg_net", num_clips=8, scale_layers=(8,), window=2, features=6)
    with pytest.raises(UserError, match="multiple of 4"):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
    with pytest.raises(UserError, match="this batch has none"):
        batch = random_batch().replace(dependencies=None)
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
