"""EMB: blocks, proposals, guides, labels and losses by hand; what must not change either."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.emb import SMALL

from vmr_jax.layers.attention import MASKED
from vmr_jax.models import create
from vmr_jax.models.emb import (
    Outputs,
    block_maxima,
    elastic_loss,
    last_block,
    proposal_bounds,
    proposal_cells,
    proposal_mask,
    second_opinion,
    surroundings,
)


def test_proposals_go_from_block_to_block():
    # Seven clips in blocks of three: 0-2, 3-5 and 6. Of at most two blocks.
    first, last = proposal_cells(7, 3, 2)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    # Five real clips reach into the second block, and end it.
    mask = np.arange(7)[None] < 5
    assert proposal_mask(mask, (first, last), 3).tolist() == [[True, True, True, False, False]]
    assert proposal_bounds(mask, (first, last), 3)[0, :3].tolist() == [[0, 3], [0, 5], [3, 5]]


def test_blocks_take_the_frames_that_are_seen():
    frames = jnp.float32([[-5, -1, -2, -3, 9]])[..., None]
    seen = np.array([[True, True, True, True, False]])
    # Blocks (-5, -1), (-2, -3) and (9); the last is not seen.
    np.testing.assert_array_equal(block_maxima(frames, seen, 2)[0, :, 0], np.float32([-1, -2, MASKED]))
    # A batch of three frames lacks one in its second block, which is zero there.
    steps = np.arange(5)[None] < 3
    tail = last_block(steps, 2)
    assert tail.tolist() == [[False, False, False, True, False, False]]
    np.testing.assert_array_equal(block_maxima(frames, steps, 2, tail)[0, :, 0], np.float32([-1, 0, MASKED]))


def test_a_frame_is_guided_by_what_is_before_and_after_it():
    frames = jnp.float32([[1, -3, -2, 7], [1, 2, 3, 4]])[..., None]
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    guides = surroundings(frames, mask)
    assert guides[0, :, :, 0].tolist() == [[0, -2], [1, -2], [1, 0], [0, 0]]
    assert not guides[1].any()


def test_the_iou_that_a_second_opinion_needs_falls():
    model = create("emb", elastic_epochs=40)
    # Half way the sigmoid is 1/2: (1 + .5) / 2; a tenth of the epochs later it is 1 / (1 + e^-2).
    expected = [0.5 + 0.5 / (1 + np.exp(-10)), 0.75, 0.5 + 0.5 / (1 + np.exp(2))]
    np.testing.assert_allclose([model.needed_iou(jnp.int32(e)) for e in (0, 20, 24)], expected, rtol=1e-6)


def test_the_best_of_the_proposals_that_overlap_enough_is_the_second_opinion():
    bounds = jnp.int32([[[0, 2], [0, 4], [2, 4]]] * 3)
    overlap = jnp.float32([[0.5, 0.6, 0.9], [0.5, 0.5, 0.1], [0.2, 0.3, 0.4]])
    logits = jnp.float32([[3, 1, 2], [1, 1, 9], [0, 0, 0]])
    clips = jnp.int32([2, 1, 3])
    start, end = second_opinion(logits, bounds, overlap, jnp.float32(0.5), clips, clips + 1)
    # The highest; the first of two that are equal; none, so that the annotation, of two clips, stands.
    assert (start.tolist(), end.tolist()) == ([0, 0, 3], [2, 2, 5])


def test_every_clip_between_both_opinions_is_right():
    logits = jnp.log(jnp.float32([[0.1, 0.2, 0.3, 0.4]] * 3))
    loss = elastic_loss(logits, jnp.int32([1, 2, 3]), jnp.int32([2, 1, 3]))
    np.testing.assert_allclose(loss, -np.log([0.5, 0.5, 0.4]), rtol=1e-6)


def test_loss_by_hand():
    model = create("emb", **{**SMALL, "block": 2, "highlight_weight": 5.0})
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=4, fill=0))
    batch = dataclasses.replace(
        batch, video_mask=np.ones((1, 4), bool), duration=np.float32([4]), span=np.float32([[0, 1]])
    )
    none = jnp.zeros((1, 4))
    # Proposals (0, 1), (0, 3), (2, 3): IoU 1/2, 1/4 and 0 with clip 0, targets (.5 - .3) / .4 = .5, 0 and 0.
    outputs = Outputs(start=none, end=none, highlight=none, proposal=jnp.zeros((1, 3)))

    def terms(epoch):
        found = model.loss(outputs, batch, epoch=jnp.int32(epoch))
        return {name: float(term.value()) for name, term in found.items()}

    # At first the annotation stands alone: one start of four, and two ends, as an opinion's end is one clip
    # late. Highlighted is clip 0: round(.1) = 0. Every logit of 0 costs log 2, twice inside.
    log2 = np.log(2)
    expected = {"start": 2 * log2, "end": log2, "highlight": 5 * 5 * log2 / 4, "ranking": log2}
    assert terms(0) == pytest.approx(expected, rel=1e-6)
    # The proposal (0, 1) never has more than 1/2, so that nothing changes; from .4 on it would add an end.
    assert terms(99) == pytest.approx(expected, rel=1e-6)
    model = model.clone(threshold=0.4)
    assert terms(99) == pytest.approx({**expected, "end": np.log(4 / 3)}, rel=1e-6)


def test_padded_clips_and_words_change_nothing():
    model = create("emb", **SMALL, dropout=0.0)
    batch = random_batch()
    variables = random_variables(model, batch)
    # With five clips more the number of blocks changes, and with it the order of the proposals.
    expected, found = (outputs_of(model, variables, b) for b in (batch, pad_clips(batch, 5).pad(L=3)))
    for name in ("start", "end", "highlight"):
        np.testing.assert_allclose(getattr(found, name)[:, :16], getattr(expected, name), atol=2e-5)
    (old, new), size = (proposal_cells(n, 4, 16) for n in (16, 21)), {}
    size = {cell: i for i, cell in enumerate(zip(*map(np.ndarray.tolist, new), strict=True))}
    places = [size[cell] for cell in zip(*map(np.ndarray.tolist, old), strict=True)]
    np.testing.assert_allclose(found.proposal[:, places], expected.proposal, atol=2e-5)
