"""WSSL: turns, labels, segments and the loss, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import pad_clips, random_batch

from vmr_jax.models import create
from vmr_jax.models.wssl import ANCHORS, CAPTIONS, LOCALIZER, WHOLE_VIDEOS, Model, Outputs, best_segment

TINY = dict(features=4, embedding=3, layers=1, caption_words=2, beams=2, dropout=0.0, vocab_size=12)
TURNS = dict(whole_steps=2, turn_steps=3, turns=2)


@pytest.fixture(scope="module")
def run():
    """A step of a small model: objective, its terms, outputs and gradients; compiled once for all turns."""
    model, batch = create("wssl", **TINY, **TURNS), random_batch(size=4, words=4)
    variables = random_variables(model, batch)

    @jax.jit
    def step(updates, batch):
        def objective(params):
            state = {**variables, "params": params, "counters": {"updates": updates}}
            keys = {"dropout": jax.random.key(0)}
            outputs, new = model.apply(state, batch, train=True, mutable=["batch_stats", "counters"], rngs=keys)
            terms = {name: term.value() for name, term in model.loss(outputs, batch, epoch=0).items()}
            return sum(terms.values()), (terms, outputs, new)

        return jax.grad(objective, has_aux=True)(variables["params"])

    blind = dataclasses.replace(batch, span=np.full_like(batch.span, np.nan), windows=None, window_mask=None)
    padded = pad_clips(blind, 2)
    return lambda updates: step(jnp.int32(updates), padded)


def size(tree):
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_turns(run):
    """Two updates of whole videos, three of the localizer, three of captions, three of the localizer."""
    expected = [WHOLE_VIDEOS] * 2 + [LOCALIZER] * 3 + [CAPTIONS] * 3 + [LOCALIZER]
    found = [int(run(updates)[1][1].turn) for updates in range(9)]
    assert found == expected


def test_who_learns(run):
    """Of whole videos the generator alone, in its turn the localizer alone, and both of captions."""
    learns = {0: (False, True), 2: (True, False), 5: (True, True)}
    for updates, (localizer, generator) in learns.items():
        gradients, (terms, _, new) = run(updates)
        assert (size(gradients["localizer"]) > 0, size(gradients["generator"]) > 0) == (localizer, generator)
        assert np.isfinite(size(gradients))
        assert (terms["anchor"] > 0) == (updates == 2) and (terms["change"] > 0) == (updates == 5)
        assert new["counters"]["updates"] == updates + 1


def test_labels_are_found_in_the_turn_of_the_localizer_alone(run):
    assert (run(2)[1][1].label < len(ANCHORS)).all()
    assert (run(5)[1][1].label == 0).all()


def test_the_segment_that_is_learnt_and_the_one_that_is_predicted():
    # The fourth anchor, from 0 to 1/3 around 1/6, moved by .2 and widened by .1.
    scores = np.where(np.arange(15) == 3, 5.0, 0.0)[None].astype(np.float32)
    refinements = np.tile(np.float32([0.2, 0.1]), (1, 15, 1))
    np.testing.assert_allclose(best_segment(scores, refinements), [[1 / 6 + 0.2, 1 / 3 + 0.1]], rtol=1e-6)
    batch = dataclasses.replace(random_batch(size=1, fill=0), duration=np.float32([60]))
    moments = Model().predict(Outputs(scores, refinements), batch)
    # For the moment 0.15, the middle of what the centre may move by, is taken off: 13/60 with a width of 26/60.
    np.testing.assert_allclose(moments.spans[0, 0], [0, 26], atol=1e-4)
    # The last anchor, the whole video, reaches over both ends: cut at 0 and 1e-4 before the end.
    last = moments.spans[0, np.argmax(moments.spans[0, :, 1] - moments.spans[0, :, 0])]
    np.testing.assert_allclose(last, [0, 60 * (1 - 1e-4)], rtol=1e-5)


def test_the_loss():
    batch = random_batch(size=3, fill=1)
    outputs = Outputs(
        scores=np.log(np.tile(np.float32([[2, 14 / 14] + [1] * 13]), (3, 1))),
        refinements=np.zeros((3, 15, 2), np.float32),
        caption=np.float32([4, 6, 99]),
        change=np.float32([0.2, 0.4, 99]),
        label=np.int32([0, 1, 2]),
    )
    model = Model(change_weight=0.01)
    # Probabilities of the anchors are 2/16 for the first, 1/16 for the others.
    expected = {
        WHOLE_VIDEOS: (5, 0, 0),
        CAPTIONS: (5, 0.01 * 0.3, 0),
        LOCALIZER: (0, 0, (np.log(8) + np.log(16)) / 2),
    }
    for turn, values in expected.items():
        terms = model.loss(outputs.replace(turn=jnp.int32(turn)), batch, epoch=0)
        found = [terms[name].value() for name in ("caption", "change", "anchor")]
        np.testing.assert_allclose(found, values, rtol=1e-5)
