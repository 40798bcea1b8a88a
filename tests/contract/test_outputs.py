"""What every architecture predicts and reads."""

import jax
import numpy as np
import pytest
from applied import random_variables
from cases import ALL, OPTIONS
from programs import free_programs
from small import Small

from vmr_jax.errors import UserError
from vmr_jax.models.base import abstract_variables
from vmr_jax.types import Batch, fields_of, with_masks


@pytest.fixture(scope="module", params=ALL)
def small(request):
    yield Small(request.param)
    free_programs()


def test_moments_are_ranked(small):
    @jax.jit
    def predict(variables, batch):
        moments = small.model.predict(small.model.apply(variables, batch, train=False), batch)
        moments.check()
        return moments

    moments = predict(random_variables(small.model, small.batch), small.batch)
    spans, scores = np.asarray(moments.spans), np.asarray(moments.scores)
    assert spans.dtype == scores.dtype == np.float32
    assert spans.shape[0] == small.batch.size
    assert not np.isnan(scores).any() and (scores < np.inf).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()  # best first, and -inf at the end
    real = np.isfinite(scores)
    assert real[:, 0].all()
    assert np.isfinite(spans[real]).all()


def trace_objective(model, variables, batch):
    """Traces the terms of the objective of variables and a batch of these shapes."""
    jax.eval_shape(lambda v, b: _objective(model, v, b), variables, batch)


def _objective(model, variables, batch):
    outputs, _ = model.apply(
        variables, batch, train=True, mutable=list(variables), rngs={"dropout": jax.random.key(1)}
    )
    return model.loss(outputs, batch, epoch=np.int32(0))


@pytest.mark.parametrize("small", [*ALL, *OPTIONS], indirect=True)
def test_required_fields_are_those_that_training_reads(small):
    """Without the other optional fields it trains; without one of its own it does not.

    But how the clips were made need not be said: where nothing is, every clip is a row of the features.
    """
    required = small.model.requires()
    optional = {name for name, info in fields_of(Batch).items() if info.optional}
    assert set(required) <= optional
    least = small.batch.replace(**dict.fromkeys(optional - set(with_masks(required))))
    variables = abstract_variables(small.model, least)
    trace_objective(small.model, variables, least)
    for field in required:
        without = least.replace(**{field: None})
        if fields_of(Batch)[field].source == "features":
            trace_objective(small.model, variables, without)
            continue
        with pytest.raises((UserError, AssertionError, AttributeError, TypeError)):
            trace_objective(small.model, variables, without)
