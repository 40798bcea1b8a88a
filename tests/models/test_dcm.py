"""DCM: the intervention, the codes of locations and the losses of a batch by hand, and its negative videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.dcm import BackdoorAdjustment, Outputs, distance_correlation, frobenius_norm, location_codes

SMALL = dict(num_clips=2, scale_layers=(2,), features=4, heads=1, lstm_layers=1, map_kernel=3, map_layers=1)
EPOCH = jnp.int32(0)


def correlation(x, y, real):
    """Of one moment [1] in each row."""
    index = np.arange(len(x), dtype=np.int32)
    x, y = (np.float32(z).reshape(-1, 1, 1) for z in (x, y))
    return jax.jit(jax.value_and_grad(distance_correlation))(x, y, index, np.array(real))


def test_distance_correlation_by_hand():
    """Of x = 0, 1, 3 and y = 0, 1, 0; the fourth row only fills the batch.

    Distances minus their rows' means (x 4/3, 1, 5/3; y 1/3, 2/3, 1/3) and columns' means, plus the mean of all
    (4/3; 4/9): A = [-4/3, 0, 4/3; 0, -2/3, 2/3; 4/3, 2/3, -2], B = [-2, 4, -2; 4, -8, 4; -2, 4, -2] / 9. Sums
    of the
    products: A B 4/3, A A 32/3, B B 16/9.
    """
    value, gradient = correlation([0, 1, 3, 7], [0, 1, 0, 2], [True, True, True, False])
    expected = np.sqrt(4 / 3) / np.sqrt(np.sqrt(32 / 3) * np.sqrt(16 / 9))
    np.testing.assert_allclose(value, expected, rtol=1e-4)  # 1e-9 stands under the roots of the distances
    assert (gradient[:3] != 0).any() and gradient[3] == 0


def test_distance_correlation_is_one_of_multiples_and_zero_of_independent_numbers():
    np.testing.assert_allclose(correlation([0, 1, 3], [5, 3, -1], [True] * 3)[0], 1, rtol=1e-4)
    # Every x with every y. Its covariance is 0 but for rounding, where the root has no slope.
    value, gradient = correlation([0, 0, 1, 1], [0, 1, 0, 1], [True] * 4)
    assert value < 1e-2
    assert np.isfinite(gradient).all()


def test_frobenius_norm_counts_real_rows():
    x = np.float32([[[3, 0]], [[0, 4]], [[9, 9]]])
    np.testing.assert_allclose(frobenius_norm(x, np.array([True, True, False])), 5, rtol=1e-6)


def test_location_codes_by_hand():
    """Of two clips, at pi and 2 pi: sine and cosine (0, -1) and (0, 1); first those of the start."""
    codes = location_codes(np.array([[True, True], [False, True]]), 4)
    np.testing.assert_allclose(codes, [[0, -1, 0, -1], [0, -1, 0, 1], [0, 1, 0, 1]], atol=1e-5)


def test_a_moment_attends_to_all_locations_and_to_its_own():
    """Key log 3 and query 1: a probe of 1 weighs locations 1 and 0 as 3/4 and 1/4, a probe of 0 equally."""
    attention = BackdoorAdjustment(1, 1, 0.0, 0.5, jnp.float32)
    layer = {"value": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    layer |= {"query": {"kernel": jnp.ones((1, 1))}, "key": {"kernel": jnp.full((1, 1), np.log(3))}}
    probe = location = jnp.float32([[[1], [0]]])
    index = jnp.zeros(1, jnp.int32)
    found = jax.jit(lambda p: attention.apply({"params": p}, probe, location, index, False))(layer)
    np.testing.assert_allclose(found[0, :, 0], [3 / 4 + 0.5 * 1, 1 / 2 + 0.5 * 0], rtol=1e-6)
    # A value below zero is cut before it is attended to.
    layer["value"]["bias"] = jnp.full(1, -0.5)
    found = jax.jit(lambda p: attention.apply({"params": p}, probe, location, index, False))(layer)
    np.testing.assert_allclose(found[0, :, 0], [0.5 * (3 / 4 + 0.5), 0.5 * 1 / 2], rtol=1e-6)


def test_loss_by_hand():
    """Two clips of 2 s, moment [0, 3]: IoUs of (0,0), (0,1), (1,1) are 2/3, 3/4, 1/4; labels 1/3, 1/2, 0."""
    model = create("dcm", **SMALL | dict(location_weight=2.0, independence_weight=0.0, norm_weight=0.1))
    batch = random_batch(3, fill=1).replace(
        duration=np.full(3, 4, np.float32), span=np.tile(np.float32([0, 3]), (3, 1))
    )
    logits = np.zeros((3, 2, 2), np.float32)
    logits[0] = [[0, 1], [50, -2]]  # (1, 0) is no candidate
    content, location = np.zeros((2, 3, 3, 4), np.float32)
    content[:, 0, 0], location[:, 0, 1] = 3, 1  # of the third row nothing counts
    location[:2] += np.asarray(location_codes(model.candidates, 4))
    outputs = Outputs(
        jnp.asarray(logits), content, location, jnp.full((3, 2, 2), -1.0), None, np.array([True, False, True])
    )
    terms = model.loss(outputs, batch, epoch=EPOCH)
    assert list(terms) == ["iou", "negative", "location", "norm"]
    first = np.log(2) + np.log(1 + np.e) - 0.5 + np.log(1 + np.exp(-2))
    np.testing.assert_allclose(terms["iou"].value(), (first + 3 * np.log(2)) / 6, rtol=1e-5)
    # The second row has no other video.
    np.testing.assert_allclose(terms["negative"].value(), np.log(1 + np.exp(-1)), rtol=1e-5)
    # Two of six moments are a distance of 1 from their code.
    np.testing.assert_allclose(terms["location"].value(), 2 * 2 / 6, rtol=1e-4)
    norms = np.sqrt(2 * 3**2) + np.linalg.norm(location[:2])
    np.testing.assert_allclose(terms["norm"].value(), 0.1 * norms, rtol=1e-5)


def negatives_of(batch, key=0):
    model = create("dcm", **SMALL)
    variables = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape), variables)

    @jax.jit
    def run(key):
        outputs = model.apply(variables, batch, train=True, rngs={"dropout": key})
        return outputs.negatives, outputs.has_negative

    return run(jax.random.key(key))


def test_negatives_are_of_other_videos():
    batch = random_batch(8, fill=2).replace(video_index=np.int32([0, 0, 0, 1, 1, 2, 3, 3]))
    drawn = [negatives_of(batch, key)[0][:6] for key in range(4)]
    assert np.max(drawn) < 6  # the last two rows only fill the batch
    assert (batch.video_index[np.array(drawn)] != batch.video_index[:6]).all()
    assert len(np.unique(drawn, axis=0)) == 4
    assert negatives_of(batch)[1].all()
    alone = batch.replace(video_index=np.int32([0, 0, 0, 0, 0, 0, 1, 1]))
    assert not negatives_of(alone)[1][:6].any()


@pytest.mark.parametrize(
    "fields, message",
    [(dict(features=6), "features of DCM is 6"), (dict(map_kernel=4), "must be odd")],
)
def test_wrong_settings_are_told(fields, message):
    model = create("dcm", **SMALL | fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
