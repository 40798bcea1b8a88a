"""CPL: Gaussians, losses and votes by hand; that moments and padding do not matter; hidden words."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import pad_clips, random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.cpl import Outputs

SMALL = dict(features=8, hidden=16, heads=2, layers=1, proposals=2, rows=4, vocab_size=12)


@pytest.fixture(scope="module")
def pair():
    model = create("cpl", **SMALL)
    return model, random_variables(model, random_batch())


def logits_of(probabilities, rows):
    """Logits [B,Z,2,4] of the word, id 2, and of the end, id 0, alike; the unknown word, id 1, is no class."""
    word = [[(1 - p) / 2, 1.0, p, (1 - p) / 2] for p in probabilities]
    end = [[p, 1.0, (1 - p) / 2, (1 - p) / 2] for p in probabilities]
    return jnp.log(jnp.float32(np.stack([word, end], axis=1)))[None].repeat(rows, 0)


def one_word(rows):
    """Rows with the word 2, in videos of ten seconds; the last one only fills the batch."""
    batch = jax.tree.map(lambda x: x[:rows], random_batch(clips=4).cut(L=1))
    return dataclasses.replace(
        batch,
        query=np.full((rows, 1), 2),
        query_mask=np.ones((rows, 1), bool),
        duration=np.full(rows, 10.0, np.float32),
        example_mask=np.arange(rows) < rows - 1,
    )


def test_negatives_come_nearer():
    model = create("cpl", rows=5, sigma=2.0, gamma=0.5, ramp_updates=100.0)
    # At the left of the proposal [.4, .8] is .4, at the right .2. After 25 updates of 100 the share is
    # sqrt(.25) / 2 = 1/4: centers .1 and 1 - .05, widths .1 and .05. Half of sigma, 1, is in a width.
    u = np.array([0, 0.25, 0.5, 0.75, 1])
    for updates, share in ((24, 1 / 4), (99, 1 / 2), (500, 1 / 2)):
        left, right = model._sides(jnp.array([[0.6]]), jnp.array([[0.4]]), jnp.int32(updates))
        for found, center, deviation in (
            (left, 0.4 * share, 0.4 * share),
            (right, 1 - 0.2 * share, 0.2 * share),
        ):
            expected = np.exp(-((u - center) ** 2) / (2 * deviation**2))
            np.testing.assert_allclose(found[0, 0], expected / expected.max(), rtol=1e-4, atol=1e-30)
    # Nothing is left beside a proposal of the whole video: the narrowest Gaussians, at both ends.
    for found, end in zip(
        model._sides(jnp.array([[0.5]]), jnp.array([[1.0]]), jnp.int32(9)), (0, 4), strict=True
    ):
        assert found[0, 0].tolist() == [float(i == end) for i in range(5)]


def test_loss_by_hand():
    model = create("cpl", proposals=2, smoothing=0.0, vocab_size=4, rank_weight=2.0, diversity_weight=3.0)
    # Two proposals, their negatives at the left, at the right, and the whole video. The second one is the best.
    gaussians = jnp.broadcast_to(jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]), (2, 2, 4))
    logits = logits_of([0.4, 0.5, 0.9, 0.48, 0.9, 0.25, 0.45], rows=2)
    outputs = Outputs(jnp.zeros((2, 2)), jnp.zeros((2, 2)), gaussians, logits)
    terms = model.loss(outputs, one_word(2), epoch=jnp.int32(0))
    # Products of the Gaussians, each with the sum 1: 1/2 with itself, 1/4 with the other.
    expected = {
        "positive": 0.5 * np.log(2),
        "whole": -0.5 * np.log(0.45),
        "above_whole": 0,  # log(.5 / .45) = .105
        "above_left": 2 * (0.15 - np.log(0.5 / 0.48)),
        "above_right": 0,  # log 2
        "diversity": 3 * (2 * (0.5 - 0.13) ** 2 + 2 * 0.25**2),
    }
    assert {name: float(x.value()) for name, x in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_the_best_is_the_likeliest_or_the_elected():
    model = create("cpl", proposals=4, smoothing=0.0, vocab_size=4)
    center = jnp.array([[0.5, 0.15, 0.5, 0.8]] * 2)
    width = jnp.array([[0.4, 0.3, 0.2, 0.6]] * 2)
    logits = logits_of([0.3, 0.5, 0.4, 0.2], rows=2)
    outputs = Outputs(center, width, jnp.ones((2, 4, 5)), logits)
    # In the order of their losses, with both words at the same probability.
    spans = np.array([[0, 3], [4, 6], [3, 7], [5, 10]])
    by_loss = model.predict(outputs, one_word(2))
    np.testing.assert_allclose(by_loss.spans[0], spans, atol=1e-5)
    np.testing.assert_allclose(by_loss.scores[0], [0.5, 0.4, 0.3, 0.2], rtol=1e-5)
    # The votes: 1, 1 + 1/2 + 1/6, 1 + 1/2 + 2/7, 1 + 1/6 + 2/7. No other one overlaps the first one.
    elected = model.clone(votes="equal").predict(outputs, one_word(2))
    np.testing.assert_allclose(elected.spans[0], spans[[2, 0, 1, 3]], atol=1e-5)
    near = model.clone(votes="near_first").predict(outputs, one_word(2))
    np.testing.assert_allclose(near.spans[0], spans, atol=1e-5)
    # The best has the center .15 and the deviation .3 / 9; of four clips the first has its middle at .125.
    batch = dataclasses.replace(one_word(2), video_mask=np.array([[True] * 4, [True, True, False, False]]))
    picture = model.explain(outputs, batch)["clips"]
    np.testing.assert_allclose(picture[0, 0], np.exp(-0.5 * (0.025 / (0.3 / 9)) ** 2), rtol=1e-4)
    assert np.isnan(picture[1, 2:]).all() and not np.isnan(picture[1, :2]).any()


def test_evaluation_hides_the_likeliest_words():
    batch = dataclasses.replace(
        jax.tree.map(lambda x: x[:3], random_batch(words=7)),
        query_mask=np.arange(7) < np.array([7, 4, 2])[:, None],
        content_words=np.isin(np.arange(21), [1, 3, 4, 15]).reshape(3, 7),
    )
    # A third of 7, of 4 and of 2 words, one at least: the first content words, or the first.
    hidden = nn.apply(lambda m: m._hidden(batch, False), create("cpl"))({})
    assert np.argwhere(hidden).tolist() == [[0, 1], [0, 3], [1, 0], [2, 1]]
    drawn = create("cpl", random_evaluation=True)
    one, same, other = (
        nn.apply(lambda m, b=b: m._hidden(b, False), drawn)({})
        for b in (batch, batch, dataclasses.replace(batch, example_index=batch.example_index + 5))
    )
    np.testing.assert_array_equal(one, same)
    assert one.sum(1).tolist() == other.sum(1).tolist() == [2, 1, 1] and (one != other).any()


def test_the_moment_is_never_read(pair):
    model, variables = pair

    @jax.jit
    def gradients(batch):
        def objective(params):
            outputs, _ = model.apply(
                {**variables, "params": params},
                batch,
                train=True,
                mutable=["counters"],
                rngs={"dropout": jax.random.key(3)},
            )
            return sum(term.value() for term in model.loss(outputs, batch, epoch=jnp.int32(0)).values())

        return jax.grad(objective)(variables["params"])

    batch = random_batch()
    expected = gradients(batch)
    found = gradients(dataclasses.replace(batch, span=np.full_like(batch.span, np.nan)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    sizes = {name: max(np.abs(x).max() for x in jax.tree.leaves(part)) for name, part in found.items()}
    assert min(sizes.values()) > 1e-6, sizes


def test_padded_clips_change_nothing(pair):
    model, variables = pair

    @jax.jit
    def run(batch):
        return model.apply(variables, batch, train=False)

    batch = random_batch()
    expected, found = run(batch), run(pad_clips(batch, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_unknown_votes_are_refused():
    with pytest.raises(UserError, match='config.model.votes of cpl is "near".* Known: none, equal, near'):
        create("cpl", votes="near")
