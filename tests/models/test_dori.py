"""DORi: two rounds of messages by hand, what is summed over, and what it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.dori import SMALL, size

from vmr_jax.configs.dori import get_config
from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec
from vmr_jax.models import create
from vmr_jax.models.dori import Joined
from vmr_jax.types import Batch

SIZES = dict(features=1, recurrent_features=1, key_features=1, recurrent_layers=1, dropout=0.0)
HALF = np.arctanh(0.5)  # of which the tanh is .5


def test_a_layer_on_two_vectors_is_one_on_both_side_by_side():
    first, second = jnp.ones((2, 1, 3)), jnp.arange(16.0).reshape(2, 4, 2)
    layer = Joined(5, jnp.float32)
    params = jax.jit(layer.init)(jax.random.key(0), first, second)["params"]
    assert {name: x.shape for name, x in params.items()} == {"kernel": (5, 5), "bias": (5,)}
    both = jnp.concatenate([jnp.broadcast_to(first, (2, 4, 3)), second], -1)
    found = jax.jit(layer.apply)({"params": params}, first, second)
    np.testing.assert_allclose(found, both @ params["kernel"] + params["bias"][None, None], rtol=1e-5)


def lead_by_hand(regions, persons, **fields):
    """By how much the node of a clip with regions [O] is above that of one without, as the attention tells.

    Features are one number each, kernels 1 and biases 0, but the GRU over the one word is zero, and so are the
    query nodes: a message is the node that it comes from.
    """
    regions = np.float32([regions, np.zeros_like(regions)])[None]
    batch = Batch.of(
        video=np.full((1, 2, 1), HALF, np.float32),
        query_vectors=np.ones((1, 1, 1), np.float32),
        objects=regions[..., None],
        object_mask=regions != 0,
        persons=np.array([[persons, persons]]),
    )
    model = create("dori", **SIZES, **fields)
    params = jax.tree.map_with_path(
        lambda path, x: np.full_like(x, "kernel" in path[-1].key and path[1].key != "query_gru"),
        random_variables(model, batch),
    )
    attention = outputs_of(model, params, batch).attention[0]
    return float(jnp.log(attention[0] / attention[1]))


def test_rounds_by_hand():
    # Every node is .5 at first: tanh of arctanh .5. Two people, one thing, and a slot that is empty.
    seen = [HALF, HALF, HALF, 0], [True, True, False, False]
    # Clip: (.5 + 2 * .5) (.5 + .5) .5 = .75. Thing, after it: (.5 + 2 * .5) (.5 + .75) .5 = .9375. Human, after
    # both: (.5 + .9375) (.5 + .75) .5 = .8984375. The clip without regions hears nothing: .5 * .5 * .5 = .125.
    assert lead_by_hand(*seen, iterations=1) == pytest.approx(0.75 - 0.125, rel=1e-5)
    # Again: (.75 + 2 * .8984375) (.75 + .9375) .5 = 2.546875 * .84375; the other: .125 * .125 * .5.
    expected = 2.546875 * 0.84375 - 0.125**2 / 2
    assert lead_by_hand(*seen, iterations=2) == pytest.approx(expected, rel=1e-5)


def test_official_padding_counts_what_fills_the_clips_of_a_batch_up():
    batch = random_batch(size=3, clips=4, fill=1)
    there = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], bool)[None].repeat(3, 0)
    # In the second row both regions of the first clip are people; the filling row does not count.
    persons = np.array([[[1, 0]] * 4, [[1, 1]] * 4, [[1, 1]] * 4], bool)
    batch = batch.replace(object_mask=there, persons=persons)
    model = create("dori", official_padding=True, **SMALL)
    weights = jax.jit(model._weights)
    # At most 2 people: in the first row 1, 1, 0 and 0 are there; those missing are shared by the other slots.
    people = weights(batch, there & persons)
    np.testing.assert_array_equal(people[0], [[1, 1], [1, 1], [1, 1], [1, 1]])
    # At most 1 thing, in the first clip of the first row.
    things = weights(batch, there & ~persons)
    np.testing.assert_array_equal(things[0], [[0, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    assert things.sum(2).tolist() == np.ones((3, 4)).tolist()
    plain = jax.jit(create("dori", **SMALL)._weights)(batch, there & persons)
    np.testing.assert_array_equal(plain, there & persons)


def test_padding_and_the_order_of_regions_change_nothing():
    model, batch = create("dori", **SMALL), random_batch()
    variables = random_variables(model, batch)
    longer = pad_clips(batch, batch.video.shape[1])
    expected, found = outputs_of(model, variables, batch), outputs_of(model, variables, longer)
    clips = batch.video.shape[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, :clips], atol=2e-6), expected, found)
    turned = {name: getattr(batch, name)[:, :, ::-1] for name in ("objects", "object_mask", "persons")}
    found = outputs_of(model, variables, batch.replace(**turned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), expected, found)
    others = outputs_of(model, variables, batch.replace(persons=~batch.persons))
    assert np.abs(np.where(batch.video_mask, others.start - expected.start, 0)).max() > 1e-5


def test_size_is_the_official_one():
    """It has 10,865,155 with I3D and GloVe, of which 3 layers 300 -> 512 are not used."""
    assert size(1024, 300) + 3 * 301 * 512 == 10_865_155


def test_a_dataset_without_regions_is_refused_before_training():
    config = get_config("charades_sta,i3d")
    with config.unlocked():
        del config.dataset.streams["persons"]
    with pytest.raises(
        UserError,
        match=r'dori needs "persons", which the dataset charades_sta does not have .*streams\.persons',
    ):
        batch_spec(config, 2, create("dori").requires())
