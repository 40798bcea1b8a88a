"""SCN: proposals, selection, completion and rewards by hand; that moments are never read; what sees what."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import random_variables
from batches import OF_CLIPS, random_batch

from vmr_jax.layers.completion import completion_loss
from vmr_jax.models import create
from vmr_jax.models.scn import Outputs, clip_iou, proposals, rewards_of, select

SMALL = dict(features=8, hidden=16, heads=2, layers=1, widths=(0.25, 0.5, 1.0), rows=4, vocab_size=12)


@pytest.fixture(scope="module")
def pair():
    model = create("scn", **SMALL)
    return model, random_variables(model, random_batch())


@functools.partial(jax.jit, static_argnames=("model", "train"))
def outputs_of(model, variables, batch, train=False):
    """Outputs, and the counters after it."""
    rngs = {"dropout": jax.random.key(0)}
    return model.apply(variables, batch, train=train, mutable=["counters"], rngs=rngs)


def test_proposals_end_after_every_clip_and_lie_in_the_video():
    # Widths of a quarter and of 0.7. Of 4 real clips: 1 and 2 (2.8 is cut); of 3: 1 (of 0.75) and 2 (2.1).
    mask = np.array([[True] * 4, [True] * 3 + [False]])
    spans, real = proposals(mask, (0.25, 0.7))
    expected = {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4)}
    for row, inside in ((0, expected), (1, {span for span in expected if span[1] < 4})):
        found = [tuple(span) for span in np.asarray(spans[row])[np.asarray(real[row])]]
        assert len(found) == len(inside) and set(found) == inside
    # Those of one end are neighbours, in the order of the widths.
    assert spans[0, 4:6].tolist() == [[2, 3], [1, 3]]


def test_iou_of_selection_counts_one_clip_more():
    # [0, 4] and [2, 6]: (2 + 1) / (6 + 1). Side by side: 1 / (8 + 1). One clip apart: 0. The same: 1.
    a = jnp.array([[0, 4], [0, 4], [0, 4], [3, 5]])
    b = jnp.array([[2, 6], [4, 8], [5, 8], [3, 5]])
    np.testing.assert_allclose(clip_iou(a, b), [3 / 7, 1 / 9, 0, 1], rtol=1e-6)


@pytest.mark.parametrize(
    "picks,chosen",
    [
        # Sorted: 3, 0, 1, 4, 2. IoU with [4, 8]: itself 1, [0, 4] 1/9, [1, 5] 2/8, [5, 8] 4/5, [0, 8] 5/9.
        # Below 0.5 are two, no more: nothing goes, and the best is the best again.
        ([0, 0, 0], [3, 3, 3]),
        # A random pick: place floor(.5 * 5) = 2 is proposal 1, [1, 5]. It goes, and so do [0, 4] (4/6) and
        # [0, 8] (5/9); two would be left, so that nothing goes. The best is 3; then place floor(.9 * 5) = 4.
        ([0.5, 0, 0.9], [1, 3, 2]),
    ],
)
def test_selection_by_hand(picks, chosen):
    spans = jnp.array([[[0, 4], [1, 5], [0, 8], [4, 8], [5, 8], [-1, 3]]])
    scores = jnp.array([[0.8, 0.7, 0.1, 0.9, 0.6, 1.0]])
    real = jnp.array([[True] * 5 + [False]])  # the last begins before the video
    assert select(scores, spans, real, jnp.array([picks]), 0.5).tolist() == [chosen]


def test_what_has_gone_stays_away():
    # Four places side by side, the first two of them twice. After [0, 4] both of its place go, four are left;
    # after [4, 8] two would be left: nothing goes, but [0, 4] does not come back.
    spans = jnp.array([[[0, 4], [0, 4], [4, 8], [4, 8], [8, 12], [12, 16]]])
    scores = jnp.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])
    real = jnp.ones((1, 6), bool)
    assert select(scores, spans, real, jnp.zeros((1, 3)), 0.65).tolist() == [[0, 2, 2]]


def test_a_third_of_the_words_is_hidden_content_words_more_often():
    model, draws = create("scn", **SMALL), 4000
    words = np.tile([True, True, True, False], (draws, 1))
    batch = dataclasses.replace(
        random_batch(size=1),
        query_mask=words,
        content_words=words & [False, True, False, False],
        example_index=np.arange(draws, dtype=np.int32),
    )
    hidden = nn.apply(lambda m: m._hidden(batch, True), model)({}, rngs={"dropout": jax.random.key(0)})
    # The softmax of (1, 2, 1) gives the second word e / (e + 2) = 0.576; 5 standard deviations are 0.04.
    assert hidden.sum(1).tolist() == [1] * draws
    np.testing.assert_allclose(hidden.mean(0), [0.212, 0.576, 0.212, 0], atol=0.04)


def test_random_picks_become_fewer_with_the_updates():
    model = create("scn", random_start=0.5, random_updates=100.0)
    index = jnp.arange(4000)
    picks = nn.apply(lambda m, u: m._picks(u, index, True), model)
    for updates, share in ((0, 0.5), (100, 0.5 / np.e)):
        found = picks({}, jnp.int32(updates), rngs={"dropout": jax.random.key(0)})
        assert found.shape == (4000, 3) and 0 <= found.min() and found.max() < 1
        np.testing.assert_allclose((found > 0).mean(), share, atol=0.02)  # 4 standard deviations
    np.testing.assert_allclose(found[found > 0].mean(), 0.5, atol=0.04)


def test_updates_are_counted(pair):
    model, variables = pair
    assert variables["counters"]["updates"] == 0
    _, changed = outputs_of(model, variables, random_batch(), train=True)
    assert changed["counters"]["updates"] == 1
    _, changed = outputs_of(model, variables, random_batch())
    assert changed["counters"]["updates"] == 0


def test_unknown_words_change_nothing(pair):
    model, variables = pair
    batch = random_batch(words=7)
    batch = batch.replace(query=np.where(batch.query_mask, np.maximum(batch.query, 2), 0))
    more = batch.pad(L=1)
    # An unknown word is put in front of each sentence.
    rolled = {name: np.roll(getattr(more, name), 1, axis=1) for name in ("query_mask", "content_words")}
    query, vectors = np.roll(more.query, 1, axis=1), np.roll(more.query_vectors, 1, axis=1)
    query[:, 0], vectors[:, 0], rolled["query_mask"][:, 0] = 1, 9.0, True
    more = more.replace(query=query, query_vectors=vectors, **rolled)
    model = model.clone(candidates=3)
    (found, _), (expected, _) = outputs_of(model, variables, more), outputs_of(model, variables, batch)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(
        model.predict(found, more).scores, model.predict(expected, batch).scores, atol=1e-6
    )


def test_rewards_follow_the_ranks():
    rewards = rewards_of(jnp.array([[2.0, 3.0, 1.0], [1.0, 2.0, 3.0]]), (0.0, 0.5, 1.0))
    assert rewards.tolist() == [[0.5, 0, 1], [1, 0.5, 0]]


def test_loss_by_hand():
    model = create("scn", rank_weight=2.0, smoothing=0.0, vocab_size=4)
    batch = dataclasses.replace(
        jax.tree.map(lambda x: x[:2], random_batch().cut(L=1)),
        query=np.array([[2], [3]]),
        query_mask=np.ones((2, 1), bool),
        example_mask=np.array([True, False]),
    )
    # The word, id 2, has probability 1/2, 1/4 and 1/8 in the three completions, the end, id 0, 1/2 in all.
    # The unknown word, id 1, is no class: its logit of 9 does not matter.
    word = np.insert(
        np.log([[3 / 8, 1 / 2, 1 / 8], [1 / 2, 1 / 4, 1 / 4], [3 / 4, 1 / 8, 1 / 8]]), 1, 9.0, axis=1
    )
    end = np.insert(np.log([1 / 2, 1 / 4, 1 / 4]), 1, 9.0)
    logits = np.stack([word, np.tile(end, (3, 1))], axis=1)[None].repeat(2, 0)
    scores = jnp.log(jnp.float32([[1, 5, 2, 1]] * 2))
    outputs = Outputs(scores=scores, chosen=jnp.array([[0, 2, 3]] * 2), word_logits=jnp.float32(logits))
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
    # Mean over word and end, over three completions: log 2 * (1 + 2 + 3 + 3 * 1) / 6. Rewards 1, .5, 0; the
    # softmax of the scores is 1/4, 1/2, 1/4: 2 * (1 * log 4 + .5 * log 2) / 3. The second row is a filler.
    expected = {"completion": np.log(2) * 1.5, "rank": 2 * 2.5 * np.log(2) / 3}
    assert terms == pytest.approx(expected, rel=1e-5)


def test_loss_and_gradients_never_read_the_moment(pair):
    model, variables = pair

    @jax.jit
    def gradients(params, batch):
        def objective(params):
            outputs, _ = model.apply(
                {**variables, "params": params},
                batch,
                train=True,
                mutable=["counters"],
                rngs={"dropout": jax.random.key(3)},
            )
            return sum(term.value() for term in model.loss(outputs, batch, epoch=jnp.int32(0)).values())

        return jax.value_and_grad(objective)(params)

    batch = random_batch()
    expected = gradients(variables["params"], batch)
    found = gradients(variables["params"], dataclasses.replace(batch, span=np.full_like(batch.span, np.nan)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    norms = [np.abs(leaf).max() for leaf in jax.tree.leaves(found[1])]
    # All but the bias of the keys, which no softmax sees.
    assert np.isfinite(found[0]) and sum(norm < 1e-7 for norm in norms) <= 2 * 2 * SMALL["layers"]


def test_a_score_sees_no_later_clip(pair):
    model, variables = pair
    batch = random_batch()
    later = batch.video.copy()
    later[:, 5:] += 1.0
    scores = [
        np.asarray(outputs_of(model, variables, b)[0].scores).reshape(8, 16, -1)
        for b in (batch, dataclasses.replace(batch, video=later))
    ]
    np.testing.assert_allclose(scores[0][:, :5], scores[1][:, :5], atol=1e-6)
    assert np.abs(scores[0][:, 5:8, 0] - scores[1][:, 5:8, 0]).min() > 1e-5  # at least 8 clips are real


def test_a_word_is_predicted_without_being_read(pair):
    # Without hidden words, with one and the same proposal, the whole video: only the words differ.
    model, variables = pair
    model = model.clone(dropout=0.0, hide_one_in=100, widths=(1.0, 1.0, 1.0))
    batch = random_batch()
    vectors = batch.query_vectors.copy()
    vectors[:, 1] += 1.0  # every query has two words
    logits = [
        outputs_of(model, variables, b, train=True)[0].word_logits
        for b in (batch, dataclasses.replace(batch, query_vectors=vectors))
    ]
    # Position 1 predicts word 1 from the start and word 0.
    np.testing.assert_allclose(logits[0][:, :, :2], logits[1][:, :, :2], atol=1e-6)
    assert np.abs(logits[0][:, :, 2] - logits[1][:, :, 2]).max(-1).min() > 1e-4


def test_padded_clips_change_nothing(pair):
    model, variables = pair
    batch = dataclasses.replace(random_batch(), **dict.fromkeys(OF_CLIPS))
    longer = dataclasses.replace(
        batch,
        video=np.concatenate([batch.video, np.full_like(batch.video, 7.0)], axis=1),
        video_mask=np.concatenate([batch.video_mask, np.zeros_like(batch.video_mask)], axis=1),
    )
    expected, found = (outputs_of(model, variables, b, train=True)[0] for b in (batch, longer))
    count = expected.scores.shape[1]
    np.testing.assert_allclose(found.scores[:, :count], expected.scores, atol=1e-5)
    assert not found.scores[:, count:].any()
    np.testing.assert_array_equal(found.chosen, expected.chosen)
    np.testing.assert_allclose(found.word_logits, expected.word_logits, atol=1e-4)


def test_prediction_is_in_seconds():
    model = create("scn", widths=(0.5, 1.0))
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=3, fill=0))
    batch = dataclasses.replace(batch, video_mask=np.array([[True, True, False]]), duration=np.float32([10]))
    # Two real clips of 5 s: [0, 1], [1, 2] and, of the whole video, [0, 2]. The rest are no proposals.
    scores = jnp.array([[0.3, 0.0, 0.9, 0.5, 0.0, 0.0]])
    outputs = Outputs(scores=scores, chosen=None, word_logits=None)
    moments = model.predict(outputs, batch)
    np.testing.assert_allclose(moments.scores[0, :3], [0.9, 0.5, 0.3])
    np.testing.assert_allclose(moments.spans[0, :3], [[5, 10], [0, 10], [0, 5]])
    assert not np.isfinite(moments.scores[0, 3:]).any()
    # Row: first clip; column: last clip.
    picture = model.explain(outputs, batch)["map"][0]
    nan = np.nan
    np.testing.assert_array_equal(picture, np.float32([[0.3, 0.5, nan], [nan, 0.9, nan], [nan] * 3]))


def test_candidates_are_ranked_by_completion(pair):
    model, variables = pair
    batch = random_batch()
    model = model.clone(candidates=5)
    outputs = outputs_of(model, variables, batch)[0]
    again = outputs_of(model, variables, dataclasses.replace(batch, example_index=batch.example_index + 8))[0]
    np.testing.assert_array_equal(again.word_logits, outputs.word_logits)  # nothing is drawn
    assert outputs.chosen.shape == (8, 5)
    moments = model.predict(outputs, batch)
    nll = completion_loss(outputs.word_logits, batch.query, batch.query_mask, 0.1, True)
    spans, _ = proposals(batch.video_mask, model.widths)
    for b in range(8):
        chosen, seconds = np.asarray(outputs.chosen[b]), batch.duration[b] / batch.video_mask[b].sum()
        ranked = dict(sorted(zip(chosen.tolist(), nll[b].tolist()), key=lambda pair: pair[1]))
        np.testing.assert_allclose(
            moments.scores[b, : len(ranked)], np.exp([-x for x in ranked.values()]), rtol=1e-5
        )
        np.testing.assert_allclose(
            moments.spans[b, : len(ranked)], spans[b][np.array([*ranked])] * seconds, rtol=1e-5
        )
        assert not np.isfinite(moments.scores[b, len(ranked) :]).any()
    assert np.isfinite(model.explain(outputs, batch)["map"]).sum() == np.isfinite(moments.scores).sum()


def test_vocabulary_is_needed():
    assert create("scn").needs_vocabulary
