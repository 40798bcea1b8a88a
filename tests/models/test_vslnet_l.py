"""VSLNet-L: pieces, labels, loss and prediction by hand; at one scale of one piece it is VSLNet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.vslnet_l import NilPrediction, Outputs, joined, piece_labels, pieces

SMALL = dict(features=8, heads=2, conv_layers=1, conv_kernel=3, max_positions=16, scales=(1,), char_features=5)
MASK = np.arange(8) < np.array([[8], [7], [3]])


def test_pieces_are_cut_by_the_length_of_the_video():
    # ceil(8 / 3) = ceil(7 / 3) = 3 clips a piece, ceil(3 / 3) = 1, whatever the batch is padded to.
    clips, real = (np.asarray(x) for x in pieces(MASK, 3))
    expected = [
        [[0, 1, 2], [3, 4, 5], [6, 7]],
        [[0, 1, 2], [3, 4, 5], [6]],
        [[0], [1], [2]],
    ]
    assert [[c[r].tolist() for c, r in zip(*rows)] for rows in zip(clips, real)] == expected


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_joined_pieces_are_the_video(number):
    video = np.arange(1, 25, dtype=np.float32).reshape(3, 8, 1)
    clips, real = pieces(MASK, number)
    cut = np.take_along_axis(video, np.asarray(clips).reshape(3, -1)[..., None], axis=1)
    cut = np.where(np.asarray(real)[..., None], cut.reshape(*clips.shape, 1), np.nan)  # no padding is read
    np.testing.assert_array_equal(joined(cut, MASK), np.where(MASK[..., None], video, 0))


def test_a_piece_inside_the_moment_counts_where_overlap_does():
    # Clips 1 to 7 of 8, in four pieces of two clips: all overlap, the ends are in the first and the last.
    found = [piece_labels(jnp.array([1]), jnp.array([7]), MASK[:1], 4, kind)[0] for kind in ("overlap", "ends")]
    np.testing.assert_array_equal(found, [[True] * 4, [True, False, False, True]])


def test_the_nil_module_pools_by_attention():
    # Clips 1 and 3 with logits 0 and log 3 (weight log(3) / 2 of clips 0 and 2 would be the same): weights 1/4
    # and 3/4 pool 2.5; the linear layer 2 x - 1 gives 4. The padded clip does not count.
    variables = {
        "params": {
            "weight": jnp.float32([[np.log(3) / 2]]),
            "linear": {"kernel": jnp.float32([[2]]), "bias": jnp.float32([-1])},
        }
    }
    clips, mask = jnp.float32([[[1], [3], [50]]]), jnp.array([[True, True, False]])
    np.testing.assert_allclose(jax.jit(NilPrediction().apply)(variables, clips, mask), [4.0], rtol=1e-6)


def of_two_scales(**fields):
    """The model at scales 1 and 2, and outputs of one video of two clips whose logits are 0 where not given."""
    model = create("vslnet_l", **{**SMALL, "scales": (1, 2)})
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=2, fill=0))
    batch = dataclasses.replace(
        batch, video_mask=np.ones((1, 2), bool), duration=np.float32([4]), span=np.float32([[2, 4]])
    )
    flat = jnp.zeros((1, 2, 2))
    outputs = {"start": flat, "end": flat, "highlight": flat, "nil": (jnp.zeros((1, 1)), jnp.zeros((1, 2)))}
    return model, Outputs(**{**outputs, **fields}), batch


def test_loss_by_hand():
    model, outputs, batch = of_two_scales(nil=(jnp.zeros((1, 1)), jnp.float32([[np.log(3), 0]])))
    terms = {name: float(term.value()) for name, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
    # The moment is clip 1, so all logits of both scales cost log 2; the highlight, of which clip 1 alone is
    # inside, costs 5 * (1 + 2) * log 2 / 2. Nil: one whole piece is of the moment, 2 log 2; of two the first is
    # not, log(1 + 3), the second is, 2 log 2; the mean of three pieces.
    expected = {
        "start": np.log(2),
        "end": np.log(2),
        "highlight": 7.5 * np.log(2),
        "nil": (4 * np.log(2) + np.log(4)) / 3,
    }
    assert terms == pytest.approx(expected, rel=1e-6)


def test_a_pair_has_its_largest_probability():
    # Scale 1: start .8, .2; end .5, .5. Scale 2: start .5, .5; end .1, .9. Pairs (0,0): .4 or .05; (0,1): .4 or
    # .45; (1,1): .1 or .45. Of equal ones the first comes first.
    start = jnp.log(jnp.float32([[[0.8, 0.2], [0.5, 0.5]]]))
    end = jnp.log(jnp.float32([[[0.5, 0.5], [0.1, 0.9]]]))
    model, outputs, batch = of_two_scales(start=start, end=end)
    moments = model.predict(outputs, batch)
    np.testing.assert_allclose(moments.scores[0, :3], [0.45, 0.45, 0.4], rtol=1e-6)
    np.testing.assert_allclose(moments.spans[0, :3], [[0, 4], [2, 4], [0, 2]])


def test_one_piece_that_is_no_nil_is_vslnet():
    batch = random_batch()
    ours = create("vslnet_l", **SMALL)
    fields = {name: value for name, value in SMALL.items() if name != "scales"}
    theirs = create("vslnet", predictor="transformer", **fields)
    variables = random_variables(ours, batch)
    nil = variables["params"]["nil"]
    nil["linear"] = {"kernel": 0 * nil["linear"]["kernel"], "bias": np.float32([100])}  # a probability of 1
    shared = {"params": {name: value for name, value in variables["params"].items() if name != "nil"}}
    found, expected = outputs_of(ours, variables, batch), outputs_of(theirs, shared, batch)
    for name in ("start", "end", "highlight"):
        np.testing.assert_allclose(getattr(found, name)[:, 0], getattr(expected, name), atol=1e-6)


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(predictor="lstm"), 'predictor of vslnet_l is "lstm"[.] Known: rnn, transformer'),
        (dict(nil_labels="both"), 'nil_labels of vslnet_l is "both"[.] Known: overlap, ends'),
        (dict(max_positions=4), "VSLNet-L has positions for 4 clips and words, and the batch has 16"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        model = create("vslnet_l", **{**SMALL, **fields})
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), random_batch())
