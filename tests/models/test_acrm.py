"""ACRM: labels, losses and ranking by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.acrm import SMALL

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.acrm import Outputs, end_clips
from vmr_jax.types import Batch

MASK = np.array([[True] * 4 + [False]])


def test_the_end_is_rounded_up():
    # Four clips of 2.5 s: 3 s is in the second; 7.4 s in the third, rounded up the fourth; 10 s after the last.
    of_two = jnp.float32([[3, 7.4], [0, 10]]), jnp.float32([10, 10]), np.repeat(MASK, 2, 0)
    assert [x.tolist() for x in end_clips(*of_two, "ceil")] == [[1, 0], [3, 3]]
    assert [x.tolist() for x in end_clips(*of_two, "floor")] == [[1, 0], [2, 3]]


def of_one_video(span):
    batch = Batch.of(
        video=np.ones((1, 5, 2)), video_mask=MASK, duration=np.float32([4]), span=np.float32([span])
    )

    def logits(*shares):
        return jnp.where(MASK, jnp.log(jnp.float32([[*shares, 1]])), MASKED)

    outputs = Outputs(logits(0.1, 0.2, 0.3, 0.4), logits(0.4, 0.3, 0.2, 0.1), logits(0.5, 0.25, 0.125, 0.125))
    return batch, outputs


@jax.jit
def terms_of(outputs, batch):
    model = create("acrm", inside_weight=2.0, **SMALL)
    return {name: term.value() for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}


def test_losses_by_hand():
    # Four clips of 1 s and the moment [0, 1.5], clips 0 to 2: -log .1, -log .2 and twice the half of
    # log 2 + log 4 + log 8.
    batch, outputs = of_one_video([0, 1.5])
    found = {name: float(x) for name, x in terms_of(outputs, batch).items()}
    expected = {"start": np.log(10), "end": np.log(5), "inside": 6 * np.log(2)}
    assert found == pytest.approx(expected, rel=1e-5)
    # Of one clip, the last, the sum is divided by 1.
    found = terms_of(outputs, batch.replace(span=np.float32([[3, 4]])))
    assert float(found["inside"]) == pytest.approx(2 * np.log(8), rel=1e-5)


def test_pairs_are_ranked():
    batch, outputs = of_one_video([0, 4])
    moments = jax.jit(create("acrm", **SMALL).predict)(outputs, batch)
    # .2 * .3 is the best product of a start and an end that is not before it; .3 * .2 comes after .1 * .4 and
    # before nothing better: 6 and 6 are equal, and the earlier comes first.
    assert moments.spans[0, :2].tolist() == [[1, 2], [2, 3]]
    np.testing.assert_allclose(moments.scores[0, :4], [0.06, 0.06, 0.04, 0.04], rtol=1e-5)
    assert np.isfinite(moments.scores).sum() == 10  # pairs of four clips
    shown = create("acrm", **SMALL).explain(outputs, batch)
    np.testing.assert_allclose(shown["clips"][0], [1, 0.5, 0.25, 0.25, np.nan], rtol=1e-5)


def test_padding_changes_nothing():
    model, batch = create("acrm", **SMALL), random_batch()
    variables = random_variables(model, batch)
    outputs = outputs_of(model, variables, batch)
    padded = outputs_of(model, variables, pad_clips(batch, 3))
    for name in ("start", "end", "inside"):
        found, expected = getattr(padded, name), getattr(outputs, name)
        np.testing.assert_allclose(found[:, :-3], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("field, value", [("fusion", "sum"), ("labels", "round")])
def test_unknown_settings_are_named(field, value):
    with pytest.raises(UserError, match=f"config.model.{field} of acrm"):
        create("acrm", **{**SMALL, field: value})
