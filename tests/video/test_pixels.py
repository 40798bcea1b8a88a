"""The encoder `pixels`: a fixed function of colours, places and motion."""

import av
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.video.encoder import open_encoder
from vmr_jax.video.pixels import CELLS, SIDE, Pixels


def plain(colour, count=1):
    return np.broadcast_to(np.asarray(colour, np.uint8), (count, SIDE, SIDE, 3)).copy()


def groups(vector):
    """colours, changed, places, texture, motion."""
    return np.split(vector, np.cumsum([64, 64, 48, 64]))


def test_a_still_plain_frame_has_one_colour_one_place_and_nothing_else():
    """(0, 85, 255) is level 0, 1 and 3 of four: colour 0 * 16 + 1 * 4 + 3 = 7, with the whole share of 1."""
    (vector,) = Pixels().encode(plain((0, 85, 255)), None)
    colours, changed, places, texture, motion = groups(vector)
    np.testing.assert_allclose(colours, np.eye(64)[7], atol=1e-3)  # a root of rounding
    np.testing.assert_allclose(places.reshape(CELLS, CELLS, 3)[2, 1], (-0.5, 85 / 255 - 0.5, 0.5), atol=1e-6)
    assert np.abs(np.concatenate([changed, texture, motion])).max() == 0


def test_a_colour_between_two_levels_is_shared_between_them():
    """Red 42.5 would be halfway from 0 to 85; 34 is 0.4 of the way: shares .6 and .4, their roots are kept."""
    colours, *_ = groups(Pixels().encode(plain((34, 0, 0)), None)[0])
    np.testing.assert_allclose(colours[[0, 16]], np.sqrt([0.6, 0.4]), atol=1e-3)
    assert np.delete(colours, [0, 16]).max() < 1e-3  # a root of rounding


def test_what_changes_is_seen_where_and_in_which_colour():
    """The upper left cell turns from black to white: of its 1/16 of the frame every pixel changes by 1."""
    frames = plain((0, 0, 0), 2)
    frames[1, :16, :16] = 255
    still, moved = Pixels().encode(frames, None)
    assert np.abs(groups(still)[1]).max() == np.abs(groups(still)[4]).max() == 0
    _, changed, _, _, motion = groups(moved)
    np.testing.assert_allclose(changed, np.eye(64)[63] * np.sqrt(1 / 16), atol=1e-3)
    motion = motion.reshape(CELLS, CELLS, 4)
    np.testing.assert_allclose(motion[0, 0, :2], 4.0, atol=1e-5)  # the change and its root, times the gain
    assert np.abs(motion[2:, 2:]).max() == 0


def test_motion_has_a_direction():
    """A ramp that is brighter to the right, moved to the right by two pixels, and back."""
    ramp = np.broadcast_to(np.arange(SIDE)[None, :, None] * 3, (SIDE, SIDE, 3)).astype(np.uint8)
    right = np.roll(ramp, 2, axis=1)
    there, back = (groups(Pixels().encode(b[None], a)[0])[4] for a, b in ((ramp, right), (right, ramp)))
    inside = (slice(None), slice(1, 3), 3)  # cells that the edges do not reach, flow to the right
    assert (there.reshape(CELLS, CELLS, 4)[inside] > 0).all()
    assert (back.reshape(CELLS, CELLS, 4)[inside] < 0).all()


def test_texture_knows_the_direction_of_stripes():
    """Vertical stripes have gradients to the right, which is the first direction; horizontal ones the third."""
    stripes = np.broadcast_to((np.arange(SIDE) // 4 % 2 * 255)[None, :, None], (SIDE, SIDE, 3)).astype(np.uint8)
    upright, lying = Pixels().encode(np.stack([stripes, stripes.transpose(1, 0, 2)]), None)
    for vector, direction in ((upright, 0), (lying, 2)):
        texture = groups(vector)[3].reshape(-1, 4)
        assert texture[:, direction].min() > 0.5 and np.delete(texture, direction, 1).max() < 1e-5


def test_chunks_do_not_matter():
    frames = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3)).astype(np.uint8)
    encoder = Pixels()
    parts = [encoder.encode(frames[:3], None), encoder.encode(frames[3:], frames[2])]
    np.testing.assert_allclose(np.concatenate(parts), encoder.encode(frames, None), atol=1e-6)


def test_a_frame_of_any_size_is_prepared():
    frame = av.VideoFrame.from_ndarray(np.full((90, 160, 3), (255, 0, 0), np.uint8)).reformat(format="yuv420p")
    prepared = Pixels().prepare(frame)
    assert prepared.shape == (SIDE, SIDE, 3) and prepared.dtype == np.uint8
    assert np.abs(prepared.astype(int) - (255, 0, 0)).max() <= 3


def test_sentences_and_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="no text tower"):
        Pixels().encode_sentences(["a man opens the door"])
    with pytest.raises(UserError, match="without weights"):
        open_encoder("pixels", tmp_path)
    with pytest.raises(UserError, match='Did you mean "pixels"'):
        open_encoder("pixel", None)
