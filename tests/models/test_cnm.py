"""CNM: the Gaussian and the losses by hand; which loss trains what; that moments and padding do not matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import pad_clips, random_batch

from vmr_jax.models import create
from vmr_jax.models.cnm import GENERATOR, Outputs

SMALL = dict(features=8, hidden=16, heads=2, layers=1, rows=4, vocab_size=12)
RECONSTRUCTION, CONTRAST = ("positive", "hard"), ("above_hard", "above_easy")


@pytest.fixture(scope="module")
def pair():
    model = create("cnm", **SMALL, hard_margin=0.2)
    return model, random_variables(model, random_batch())


@pytest.fixture(scope="module")
def gradients(pair):
    """A function of a batch: outputs, and the gradients of the two losses."""
    model, variables = pair

    def losses(params, batch):
        outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(3)})
        terms = model.loss(outputs, batch, epoch=jnp.int32(0))
        sums = [sum(terms[name].value() for name in names) for names in (RECONSTRUCTION, CONTRAST)]
        return jnp.stack(sums), outputs

    @jax.jit
    def run(batch):
        _, pull, outputs = jax.vjp(lambda p: losses(p, batch), variables["params"], has_aux=True)
        return outputs, [pull(row)[0] for row in jnp.eye(2)]

    return run


def test_masks_by_hand():
    model = create("cnm", rows=5, sharpness=5.0, min_width=0.1)
    center, width = jnp.array([0.5, 0.25]), jnp.array([0.4, 0.05])
    masks = model._masks(center, width)
    # Distances of u = 0, .25, .5, .75, 1 in widths: .25 / .4 = .625 and 1.25; the second is as wide as .1.
    first = np.exp(-5 * np.array([1.25, 0.625, 0, 0.625, 1.25]) ** 2)
    second = np.exp(-5 * np.array([2.5, 0, 2.5, 5, 7.5]) ** 2)
    np.testing.assert_allclose(masks[:, 0], [first, second], rtol=1e-5, atol=1e-30)
    assert (masks[:, 1] == 1).all()
    np.testing.assert_allclose(masks[:, 2], [1 - first, 1 - second], atol=1e-6)


def test_loss_by_hand():
    model = create("cnm", smoothing=0.0, vocab_size=4, hard_margin=0.1, easy_margin=0.2)
    batch = dataclasses.replace(
        jax.tree.map(lambda x: x[:2], random_batch().cut(L=1)),
        query=np.array([[2], [3]]),
        query_mask=np.ones((2, 1), bool),
        example_mask=np.array([True, False]),
    )

    def logits(probabilities):
        """Of the word, id 2, and of the end, id 0, equally; the unknown word, id 1, is no class."""
        word = [[(1 - p) / 2, 1.0, p, (1 - p) / 2] for p in probabilities]
        end = [[p, 1.0, (1 - p) / 2, (1 - p) / 2] for p in probabilities]
        return jnp.log(jnp.float32(np.stack([word, end], axis=1)))[None].repeat(2, 0)

    outputs = Outputs(jnp.zeros(2), jnp.zeros(2), logits([1 / 2, 1 / 4]), logits([1 / 2, 0.48, 0.9]))
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
    # The easy negative is better than the positive by log(.9 / .5); the hard one is worse by log(.5 / .48).
    expected = {
        "positive": np.log(2),
        "hard": np.log(4),
        "above_hard": 0.1 - np.log(0.5 / 0.48),
        "above_easy": 0.2 + np.log(0.9 / 0.5),
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_each_loss_trains_its_own_part(gradients):
    outputs, found = gradients(random_batch())
    for learns, gradient in enumerate(found):
        for name, part in gradient.items():
            size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(part))
            assert (size > 1e-6) == ((name == GENERATOR) == bool(learns)), name
    # The two passes have draws of their own.
    assert np.abs(outputs.reconstructed - outputs.contrasted[:, :2]).max(axis=(1, 2, 3)).min() > 1e-3


def test_the_moment_is_never_read(gradients):
    batch = random_batch()
    expected = gradients(batch)
    found = gradients(dataclasses.replace(batch, span=np.full_like(batch.span, np.nan)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_padded_clips_change_nothing(pair):
    model, variables = pair
    model = model.clone(dropout=0.0)

    @jax.jit
    def run(batch):
        return model.apply(variables, batch, train=True, rngs={"dropout": jax.random.key(0)})

    batch = random_batch()
    expected, found = run(batch), run(pad_clips(batch, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_prediction_lies_in_the_video():
    model = create("cnm", sharpness=2.0, min_width=0.1)
    batch = jax.tree.map(lambda x: x[:3], random_batch(clips=4, fill=0))
    batch = dataclasses.replace(
        batch,
        video_mask=np.array([[True] * 4, [True] * 4, [True, True, False, False]]),
        duration=np.full(3, 10.0),
    )
    outputs = Outputs(jnp.array([0.5, 0.1, 0.75]), jnp.array([0.4, 0.4, 0.6]), None, None)
    moments = model.predict(outputs, batch)
    # [.3, .7], [-.1, .3] and [.45, 1.05] of ten seconds.
    np.testing.assert_allclose(moments.spans[:, 0], [[3, 7], [0, 3], [4.5, 10]], rtol=1e-5)
    assert moments.scores.shape == (3, 1)
    # Two clips, with their middles at .25 and .75: exp(-2 (.5 / .6)^2) and 1.
    clips = model.explain(outputs, batch)["clips"][2]
    np.testing.assert_allclose(clips, np.float32([np.exp(-2 / 0.36 * 0.25), 1, np.nan, np.nan]), rtol=1e-5)
