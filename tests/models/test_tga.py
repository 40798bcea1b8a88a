"""TGA: windows, their decoding, and the hinge, by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.tga import Model, Outputs, window_means
from vmr_jax.types import Batch


def rows(count, length=24):
    """A batch of one video of `count` rows in `length`; row t holds the number t + 1, and lasts a second."""
    video = (np.arange(length) + 1.0).reshape(1, length, 1)
    mask = np.arange(length)[None] < count
    return Batch.of(video=video, video_mask=mask, duration=[float(count)], query_vectors=np.ones((1, 2, 3)))


def test_the_last_window_is_divided_by_a_whole_one_or_by_its_rows():
    batch = rows(10, length=13)
    # 1 to 8: 36 / 8. Then 9 and 10: 19, by 8 or by 2; rows behind the tenth are padding.
    for whole, last in ((False, 19 / 8), (True, 19 / 2)):
        found = window_means(batch.video, batch.video_mask, 8, whole)
        np.testing.assert_allclose(found[0, :, 0], [4.5, last])


def test_windows_end_with_the_video():
    batch = rows(10, length=13)
    spans, real = Model(window_rows=(8, 16))._spans(batch)
    assert real.tolist() == [[True, True, True]]
    np.testing.assert_allclose(spans[0], [[0, 8], [8, 10], [0, 10]])


def decoded(count, length):
    """Spans in the order of the attention, which falls from window to window."""
    batch = rows(count, length)
    model = Model(official_windows=True)
    real = np.asarray(model._spans(batch)[1])
    attention = np.where(real, 1 / (1 + np.arange(real.shape[1])), 0).astype(np.float32)
    moments = jax.jit(model.predict)(Outputs(attention, None, None), batch)
    return np.asarray(moments.spans)[0][np.isfinite(moments.scores[0])].tolist()


def test_official_windows():
    """20 rows are ceil(20/8) = 3 and ceil(20/16) = 2 windows, n = 5, and floor(10/3) - 1 = 2.

    So places 0 and 1 are short windows; 2 to 4 are taken for long ones, though 2 is a short one. Five more
    without attention fill up to ten.
    """
    short, long = [[0, 8], [8, 16]], [[16 * i, 16 * i + 16] for i in range(8)]
    assert decoded(20, 20) == decoded(20, 24) == short + long


def test_official_windows_need_two_scales():
    with pytest.raises(UserError, match=r"window_rows is \(4,\)"):
        random_variables(create("tga", features=4, window_rows=(4,), official_windows=True), random_batch())


@pytest.mark.parametrize("hardest", [False, True])
def test_the_hinge(hardest):
    """Of three pairs at 0, 60 and 90 degrees (cosines 1/2, sqrt(3)/2 and 0), and a row that fills the batch.

    Each video has the vector of its sentence, so that its own cosine is 1, and the hinge of a pair at cosine c
    is margin - 1 + c = c - 0.2 where that is above 0.
    """
    angles = np.radians([0, 60, 90, 45])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    batch = random_batch(size=4, fill=1)
    outputs = Outputs(attention=None, video=vectors, query=vectors)
    terms = Model(margin=0.8, hardest=hardest).loss(outputs, batch, epoch=0)
    near, far = 0.5 - 0.2, np.sqrt(3) / 2 - 0.2  # the first and the last pair do not violate each other
    expected = [near, max(near, far) if hardest else near + far, far]
    for term in terms.values():
        np.testing.assert_allclose(term.sum, sum(expected), rtol=1e-5)
        assert term.count == 3


def test_no_moment_is_read():
    model, batch = create("tga", features=4, window_rows=(4, 8)), random_batch()
    batch = dataclasses.replace(batch, span=np.full_like(batch.span, np.nan), windows=None, window_mask=None)
    variables = random_variables(model, batch)

    def objective(params):
        outputs = model.apply({"params": params}, batch, train=True)
        return sum(term.value() for term in model.loss(outputs, batch, epoch=0).values())

    gradients = jax.jit(jax.grad(objective))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_attention_ranks_as_the_dot_products_do():
    model, batch = create("tga", features=4, window_rows=(4, 8)), random_batch()
    variables = random_variables(model, batch)
    outputs = outputs_of(model, variables, batch)
    z, spans, mask = jax.jit(lambda v: model.apply(v, batch, method="encode_moments"))(variables)
    scores = np.einsum("bme,be->bm", z, outputs.query)
    moments = model.predict(outputs, batch)
    for b in range(6):
        order = np.argsort(-np.where(mask[b], scores[b], -np.inf))[: mask[b].sum()]
        np.testing.assert_allclose(moments.spans[b, : len(order)], np.asarray(spans)[b, order])


def test_a_constant_attention_has_no_gradient_of_its_own():
    """With a learnt one the same loss has another gradient of the layer on the windows."""
    batch, gradients = random_batch(), []
    for learnt in (False, True):
        model = create("tga", features=4, window_rows=(4, 8), margin=0.5, learnt_attention=learnt)
        variables = random_variables(model, batch)

        def objective(params, model=model):
            outputs = model.apply({"params": params}, batch, train=True)
            return sum(term.value() for term in model.loss(outputs, batch, epoch=0).values())

        gradients.append(jax.jit(jax.value_and_grad(objective))(variables["params"]))
    (constant, of_constant), (learnt, of_learnt) = gradients
    np.testing.assert_allclose(constant, learnt, rtol=1e-6)
    assert not np.allclose(of_constant["window"]["kernel"], of_learnt["window"]["kernel"], rtol=1e-2)
