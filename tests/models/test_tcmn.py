"""TCMN: its tree, segments, losses and ranking by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.tcmn import SMALL

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.tcmn import Outputs, TreeLSTM, chunks, endpoints, segment_means, segments
from vmr_jax.types import Batch


def test_states_of_a_tree_by_hand():
    # With no kernels and the bias of u at 1: i = o = f = 1/2, so that c is a + the half of the children's c,
    # with a = tanh(1) / 2, and h = tanh(c) / 2. Two leaves have a each, their phrase 2 a, a third leaf a, the
    # root a + (2 a + a) / 2. The last node is padding.
    parents = jnp.int32([[2, 2, 4, 4, 0, 0]])
    cell = TreeLSTM(1, jnp.float32)
    variables = jax.eval_shape(cell.init, jax.random.key(0), jnp.zeros((1, 6, 2)), parents)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape), variables)
    variables["params"]["gates_bias"] = jnp.float32([0, 0, 1])
    states = jax.jit(cell.apply)(variables, jnp.ones((1, 6, 2)), parents)
    c = np.tanh(1) / 2 * np.array([1, 1, 2, 1, 2.5])
    np.testing.assert_allclose(states[0, :5, 0], np.tanh(c) / 2, rtol=1e-6)


def test_segments_by_their_length():
    first, last = segments(3)
    assert list(zip(first.tolist(), last.tolist())) == [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)]
    assert list(zip(*segments(4, 2))) == [(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2), (2, 3)]
    # Means of (3,0), (0,4), (0,0): of two (1.5, 2) and (0, 2), of three (1, 4/3); of unit length.
    means = segment_means(jnp.float32([[[3, 0], [0, 4], [0, 0]]]), first, last)
    expected = [[1, 0], [0, 1], [0, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]]
    np.testing.assert_allclose(means[0], expected, atol=1e-6)
    # Main (1,2) with context (0,1), over 4 chunks.
    np.testing.assert_allclose(endpoints(first, last, 4)[4, 3], [0.25, 0.5, 0, 0.25])


def video_of_two_chunks() -> Batch:
    """Three rows of 5 s, the last of zeros: two chunks, three segments of the six."""
    rows = np.float32([[[1, 2], [3, 4], [0, 0]]])
    return Batch.of(video=rows, duration=[15.0], span=np.float32([[0, 10]]))


def test_rows_of_zeros_at_the_end_are_no_chunks():
    batch = video_of_two_chunks()
    assert chunks(batch).tolist() == [2]
    model = create("tcmn", **SMALL)
    # (0,0), (1,1) and (0,1), the fourth.
    assert model._real(batch)[0].tolist() == [True, True, False, True, False, False]
    assert model._spans(batch)[0, 3].tolist() == [0, 10]
    # Without any features, as in the sanity check, all rows that there are.
    assert chunks(batch.replace(video=0 * batch.video)).tolist() == [3]


def of_scores(**cells):
    """Scores that are 0 but where the cells say (main_context=value), of the two chunks above."""
    scores = np.zeros((1, 6, 6), np.float32)
    for place, value in cells.items():
        scores[(0, *(int(x) for x in place[1:]))] = value
    return scores


@jax.jit
def losses(outputs, batch):
    return [
        sum(
            term.value()
            for term in create("tcmn", official_padding=padding, margin=0.5, **SMALL)
            .loss(outputs, batch, epoch=jnp.int32(0))
            .values()
        )
        for padding in (False, True)
    ]


def test_losses_by_hand():
    # The moment is the segment 3, whose best context 1 gives it 1; segment 0 has 0.75 with itself, segment 1
    # has 0. Hinges: 0.5 + 0.75 - 1, 0 and, of the moment itself, 0.5; a third of 0.75. Among all contexts, 5 in
    # the padding gives segment 1 the score 2: 0.5 + 2 - 1 in place of 0.
    batch = video_of_two_chunks()
    outputs = Outputs({"video_flow": of_scores(c31=1, c00=0.75, c15=2, c32=0.5)}, batch.span)
    found = losses(outputs, batch)
    np.testing.assert_allclose(found, [0.25, 0.75], rtol=1e-6)


@jax.jit
def context_loss(outputs, batch):
    model = create("tcmn", context_weight=2.0, margin=0.5, **SMALL)
    return model.loss(outputs, batch, epoch=jnp.int32(0))["video_flow_context"].value()


def test_the_context_is_learnt_where_it_has_a_weight():
    # Of the moment, segment 3, the contexts 0, 1 and 3 have 1, 0.25 and 0. Told is 5 to 10 s, context 1:
    # twice a third of 0.5 + 0.75, 0.5 and 0.25. With none told it is the whole, 0 to 10 s, context 3:
    # 0.5 + 1, 0.5 + 0.25 and 0.5.
    batch = video_of_two_chunks()
    outputs = Outputs({"video_flow": of_scores(c30=1, c31=0.25)}, batch.span)
    for context, expected in (([5, 10], 4 / 3), ([0, 0], 5.5 / 3)):
        found = context_loss(outputs, batch.replace(context=np.float32([context])))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert create("tcmn", context_weight=2.0, **SMALL).requires()[-1] == "context"
    with pytest.raises(UserError, match="this batch has none.*leave context_weight out"):
        jax.eval_shape(context_loss, outputs, batch)


def test_the_ensemble_is_ranked_by_its_weights():
    batch = video_of_two_chunks()
    scores = {"video_video": of_scores(c31=1, c00=4), "flow_video": of_scores(c33=3, c25=9, c14=9)}
    fields = {**SMALL, "networks": ("video_video", "flow_video")}
    # (0,1): 1/2 + 3/2 and (0,0): 2, a tie, of which the shorter is first; with other weights 2.5 and 1. What a
    # segment scores with a context in the padding does not count, nor do segments there.
    for weights, best, second in (((), (0, 5), (0, 10)), ((0.25, 0.75), (0, 10), (0, 5))):
        model = create("tcmn", weights=weights, **fields)
        moments = jax.jit(model.predict)(Outputs(scores, batch.span), batch)
        assert moments.spans[0, :2].tolist() == [list(best), list(second)]
        assert np.isfinite(moments.scores).sum() == 3
    np.testing.assert_allclose(moments.scores[0, :3], [2.5, 1, 0])
    shown = model.explain(Outputs(scores, batch.span), batch)["map"][0]
    np.testing.assert_allclose([shown[0, 1], shown[0, 0], shown[1, 1]], np.exp([0, -1.5, -2.5]), rtol=1e-6)
    assert np.isnan(shown).sum() == 6


def test_padding_changes_nothing():
    model, batch = create("tcmn", **SMALL), random_batch()
    variables = random_variables(model, batch)
    found, expected = (outputs_of(model, variables, b) for b in (pad_clips(batch, 2), batch))
    # Each segment of the video stands elsewhere in the longer list.
    place = {pair: m for m, pair in enumerate(zip(*segments(18, 4)))}
    where = np.array([place[pair] for pair in zip(*segments(16, 4))])
    real = np.asarray(model._real(batch))
    both = real[:, :, None] & real[:, None]
    np.testing.assert_allclose(
        np.asarray(found.scores["video_flow"])[:, where[:, None], where][both],
        np.asarray(expected.scores["video_flow"])[both],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "fields, without, message",
    [
        (dict(moments="first"), (), "config.model.moments of tcmn"),
        (dict(networks=("video_audio",)), (), "config.model.networks of tcmn .* video_video, video_flow"),
        (dict(networks=()), (), "config.model.networks of TCMN is empty"),
        (dict(weights=(0.5, 0.5)), (), "2 shares for 1 networks"),
        ({}, ("flow",), "A network of TCMN reads flow"),
        ({}, ("constituents",), "reads the constituency trees .* set config.text.parses"),
        (dict(moments="windows"), ("windows",), "TCMN draws one of the annotated moments"),
    ],
)
def test_what_cannot_be_is_named(fields, without, message):
    batch = random_batch().replace(**dict.fromkeys(without))
    with pytest.raises(UserError, match=message):
        model = create("tcmn", **{**SMALL, **fields})
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)
