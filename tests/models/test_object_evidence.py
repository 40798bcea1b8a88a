"""MML: what a window reads and what a sentence asks for, by hand; CTRL's tests have its windows and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import double_padding, pad_clips, random_batch
from cases.object_evidence import SMALL

from vmr_jax.configs.object_evidence import get_config
from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec
from vmr_jax.models import create
from vmr_jax.text.dependencies import DIRECT_OBJECT, SUBJECT
from vmr_jax.types import Batch


def test_scores_are_those_of_the_units_inside():
    # A row is a unit of two clips. In the window of clips 1 to 5 lie those that begin at 1, 2 and 3; in that of
    # clip 2 alone none, and the one that begins there is read.
    batch = Batch.of(
        video=np.ones((1, 6, 1)),
        activity_scores=np.float32([[[1], [2], [3], [7], [9], [11]]]),
        object_scores=np.float32([[[0, 1], [3, 0], [0, 4], [6, 8], [1, 1], [1, 1]]]),
    )
    model = create("object_evidence", **SMALL)
    things, activities = model.concepts(batch, jnp.float32([[[1, 5], [2, 3]]]))
    # The mean of [3,0], [0,4] and [6,8] is [3,4], .6 and .8 of its length.
    np.testing.assert_allclose(things[0], [[0.6, 0.8], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(activities[0], [[4], [3]], rtol=1e-6)


def test_context_is_read_where_the_video_has_all_of_it():
    model = create("object_evidence", **SMALL)
    before, _, after = model.with_context(jnp.float32([[[4, 6], [3.5, 6], [1, 12]]]), jnp.array([10]))
    assert before[0].tolist() == [[0, 4], [3.5, 6], [1, 12]]
    assert after[0].tolist() == [[6, 10], [6, 10], [1, 12]]


WORDS = np.eye(4, dtype=np.float32)
NOTHING = np.zeros(4, np.float32)


def sentence(*arcs):
    """Four words; arcs are (head, dependent, relation)."""
    graph = np.eye(4, dtype=np.int32)
    for head, word, relation in arcs:
        graph[head, word] = relation
    return graph


def test_verb_and_object():
    graphs = [
        sentence((1, 0, SUBJECT), (1, 3, DIRECT_OBJECT), (2, 0, DIRECT_OBJECT)),
        sentence((1, 0, SUBJECT)),
        sentence((1, 0, DIRECT_OBJECT)),
    ]
    batch = Batch.of(query_vectors=np.stack([WORDS] * 3), dependencies=np.stack(graphs))
    batch = batch.replace(query_mask=np.array([[True] * 4, [True] * 4, [False] * 4]))
    model = create("object_evidence", **SMALL)
    found = model.apply({}, batch, False, method="verb_object").reshape(3, 2, 4)
    # The first pair; a verb without an object; and a sentence without a word.
    np.testing.assert_array_equal(found, [[WORDS[1], WORDS[3]], [WORDS[1], NOTHING], [NOTHING, NOTHING]])

    @jax.jit
    def drawn(key):
        return model.apply({}, batch, True, method="verb_object", rngs={"dropout": key})

    # Either pair while training; of 20 draws all are one of them with probability 2e-6.
    rows = {tuple(np.flatnonzero(drawn(key)[0]).tolist()) for key in jax.random.split(jax.random.key(0), 20)}
    assert rows == {(1, 4 + 3), (2, 4 + 0)}


def test_padding_changes_nothing():
    model, batch = create("object_evidence", **SMALL), random_batch()
    variables = random_variables(model, batch)
    longer = pad_clips(batch, batch.video.shape[1])
    expected, found = (outputs_of(model, variables, b, train=True) for b in (batch, longer))
    np.testing.assert_array_equal(found.window, expected.window)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    found = outputs_of(model, variables, double_padding(batch), train=True)
    np.testing.assert_allclose(found.score[:8, :8], expected.score, atol=1e-6)


@pytest.mark.parametrize("field", ["use_captions", "use_objects"])
def test_evidence_can_be_left_out(field):
    read = {"use_captions": "captions", "use_objects": "object_scores"}[field]
    whole, batch = create("object_evidence", **SMALL), random_batch().replace(**{read: None})
    with pytest.raises(UserError, match=f"reads batch.{read}"):
        random_variables(whole, batch)
    model = create("object_evidence", **SMALL, **{field: False})
    assert set(whole.requires()) - set(model.requires()) == {read}
    assert np.isfinite(outputs_of(model, random_variables(model, batch), batch).score).all()


def test_a_dataset_without_captions_is_refused_before_training():
    config = get_config("charades_sta")
    with config.unlocked():
        del config.dataset.streams["captions"]
    with pytest.raises(UserError, match='needs "captions", which the dataset charades_sta does not have'):
        batch_spec(config, 2, create("object_evidence").requires())
