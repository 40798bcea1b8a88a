"""RTBPN: candidates, partners, the score of a stream and the loss, by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from applied import random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.rtbpn import Model, Outputs, nearest_scores, official_iou, partners, stretched

TINY = dict(num_clips=4, scale_layers=(3,), lengths=(1, 2), features=4, clusters=2, map_kernel=3, nearest=2)


def test_candidates_of_the_paper():
    # ActivityNet Captions: 57 + 49 at every clip, 21 + 17 at every second, 5 + 3 + 1 at every fourth.
    assert len(Model().candidates(train=True)) == 57 + 49 + 21 + 17 + 5 + 3 + 1
    charades = Model(
        num_clips=32, scale_layers=(16,), lengths=tuple(range(1, 33)), train_lengths=tuple(range(1, 16, 2))
    )
    # 33 - n moments of n clips: of the odd lengths up to 15, 8 * 33 - 64; of all, 32 * 33 / 2.
    assert (len(charades.candidates(train=True)), len(charades.candidates(train=False))) == (200, 528)


def test_all_cells_of_the_map_where_no_lengths_are_given():
    found = Model(num_clips=8, scale_layers=(2, 1), lengths=()).candidates(train=False)
    # One clip, two clips, and from every second clip four.
    expected = [(i, i) for i in range(8)] + [(i, i + 1) for i in range(7)] + [(0, 3), (2, 5), (4, 7)]
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


@pytest.mark.parametrize(
    "fields, said",
    [(dict(lengths=(5,)), "lengths of RTBPN has 5"), (dict(features=3), "features of RTBPN is 3")],
)
def test_sizes_that_do_not_fit(fields, said):
    with pytest.raises(UserError, match=said):
        random_variables(create("rtbpn", **{**TINY, **fields}), random_batch())


def test_partners_are_mirrored_among_the_real_rows():
    batch = random_batch(size=7).replace(
        example_mask=np.array([True, True, False, True, True, True, False]),
        video_index=np.arange(7, dtype=np.int32) // 2 * 2,
    )
    # Real rows 0, 1, 3, 4, 5: 0 with 5, 1 with 4, and 3 with itself. Videos are 0 0 2 2 4 4 6.
    partner, found = jax.jit(partners)(batch)
    assert partner[np.array([0, 1, 3, 4, 5])].tolist() == [5, 4, 3, 1, 0]
    assert found.tolist() == [True, True, False, False, True, True, False]
    same = batch.replace(video_index=np.zeros(7, np.int32))
    assert not np.asarray(jax.jit(partners)(same)[1]).any()


def test_overlaps_are_over_the_hull():
    # [0, 2), [1, 3), [2, 3): 1/3 of three clips, nothing where they only touch, 1/2.
    found = official_iou(np.array([[0, 1], [1, 2], [2, 2]]))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0], [1 / 3, 1, 1 / 2], [0, 1 / 2, 1]], atol=1e-9)
    assert 0 < found[0, 2] < 1e-9  # they come before moments that are apart


def test_the_score_of_a_stream():
    """The best is the second candidate; of those that overlap alike with it the higher one comes first."""
    overlaps = np.array([[1, 0.5, 0, 0], [0.5, 1, 0.5, 0.2], [0, 0.5, 1, 0], [0, 0.2, 0, 1]], np.float32)
    probability = np.float32([0.2, 0.9, 0.6, 0.8])
    logits = np.log(probability / (1 - probability))
    found = jax.jit(lambda x: nearest_scores(x, overlaps, 3))(logits)
    np.testing.assert_allclose(found, [0.9, 0.6, 0.2], rtol=1e-5)


def test_the_loss():
    """One candidate is the best of two single clips; the other overlaps with it nowhere, and K is 1."""
    model = Model(num_clips=2, scale_layers=(1,), lengths=(1,), nearest=1, margin=0.2)
    batch = random_batch(size=3, fill=1)
    probability = np.float32([[[0.8, 0.5], [0.3, 0.7], [0.1, 0.4]], [[0.5, 0.6], [0.2, 0.1], [0.9, 0.3]]])
    scores = np.concatenate([np.log(probability / (1 - probability)), np.full((1, 3, 2), 7.0, np.float32)])
    weight = np.float32([[1, 0], [0, 1], [9, 9]])
    outputs = Outputs(scores, weight, np.array([True, False, True]))
    terms = jax.jit(lambda o: model.loss(o, batch, epoch=0))(outputs)
    # Scores of the streams: .8, .7, .4; .6, .2 and .9, which is of no other video.
    expected = {
        "alignment": -np.log(0.8 * 0.6) / 2,
        "negative_alignment": -np.log(1 - 0.4),
        "suppression": 0.1 * (0.7 - 0.8 + 0.2) / 2,
        # Stretched scores are 1 and 0, and the softmax over one is 1.
        "score_regularization": 0.1 * 0.5,
        # The mean gate is 1/2; softmax of (1, 0), and half of its entropy, the mean over two clips.
        "filter_regularization": 0.01 * (0.5 + 0.5 * entropy(1 / (1 + np.exp(-1)))),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name].value(), value, rtol=1e-5, err_msg=name)


def entropy(p):
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def test_stretched():
    np.testing.assert_allclose(stretched(np.float32([2, 4, 3])), [0, 1, 0.5], atol=1e-6)
    np.testing.assert_allclose(stretched(np.float32([2, 2])), 1)  # officially 1e-10 / 1e-10


def test_words_without_a_vector_and_the_moment_are_not_read():
    """And the gate is a constant to clips and words: their layers learn through the streams alone."""
    model, batch = create("rtbpn", **TINY, dropout=0.0), random_batch(size=4, fill=0)
    variables = random_variables(model, batch)

    @jax.jit
    def run(params, batch):
        def objective(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
            )
            return sum(term.value() for term in model.loss(outputs, batch, epoch=0).values())

        return jax.value_and_grad(objective)(params)

    words = np.insert(batch.query_vectors[:, :6], 1, 0, axis=1)  # a word without a vector behind the first one
    more = dict(query_vectors=words, query_mask=np.insert(batch.query_mask[:, :6], 1, True, axis=1))
    fewer = dict(query_vectors=batch.query_vectors, query_mask=batch.query_mask & (np.arange(7) < 6))
    blind = dataclasses.replace(batch, span=np.full_like(batch.span, np.nan), windows=None, window_mask=None)
    (loss, gradients), (expected, _) = (
        run(variables["params"], dataclasses.replace(blind, **x)) for x in (more, fewer)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
