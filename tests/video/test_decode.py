"""Frames of real files: at the right second in every container, upright, and no file stops the others."""

import filmed
import numpy as np
import pytest

from vmr_jax.video.decode import probe, read_frames

KINDS = {
    "a.mp4": {},
    "b.mov": {},
    "c.mkv": {},
    "d.webm": {"codec": "libvpx-vp9"},
    "e.avi": {"codec": "mpeg4"},
    "f.m4v": {"codec": "mpeg4"},
    "g.ts": {"sound": 6.0},
    "h.mkv": {"codec": "libx265"},
    "i.mp4": {"sound": 6.0, "movflags": "frag_keyframe+empty_moov"},
    "j.webm": {"codec": "libvpx", "sound": 6.0},
}


def whole(frame):
    return frame.to_ndarray(format="rgb24")


def frames_of(path, rate=4.0, **wanted):
    """Times [n] and frames [n,H,W,3]."""
    times, frames = zip(*read_frames(path, rate, whole, threads=2, **wanted))
    return np.concatenate(times), np.concatenate(frames)


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_their_second(tmp_path, name):
    path = filmed.film(tmp_path / name, **KINDS[name])
    video = probe(path)
    assert (video.width, video.height) == (64, 48)
    assert abs(video.duration - 6.0) < 0.15  # a frame, or what a codec of sound pads
    times, frames = frames_of(path)
    np.testing.assert_array_equal(times[:24], np.arange(24) / 4)  # 6 s, four a second
    greys = frames[:, 30:, 40:].mean((1, 2, 3))
    expected = [filmed.level(min(time, 5.9)) for time in times]
    assert np.abs(greys - expected).max() < filmed.GREY / 2
