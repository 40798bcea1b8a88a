"""Frames of real files: at the right second in every container, upright, and no file stops the others."""

import threading
import time

import filmed
import numpy as np
import pytest

from vmr_jax.video.clips import cut
from vmr_jax.video.decode import CHUNK, probe, read_frames
from vmr_jax.video.reader import Unreadable

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


def test_frame_rates_vary_and_only_presentation_counts(tmp_path):
    """Frames at 0, 0.1, 2 and 2.05 s: at 4 a second the second one is shown from 0.25 to 1.75."""
    path = filmed.film(tmp_path / "v.mkv", times=[0, 100, 2000, 2050], show=lambda s: filmed.picture(10 * s))
    times, frames = frames_of(path, last=2.2)
    greys = frames[:, 30:, 40:].mean((1, 2, 3))
    expected = [filmed.level(10 * shown) for shown in [0.0] + 7 * [0.1] + [2.0]]
    np.testing.assert_array_equal(times, np.arange(9) / 4)
    assert np.abs(greys - expected).max() < filmed.GREY / 2


@pytest.mark.parametrize("rotation,corner", [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_films_of_a_phone_are_turned_upright(tmp_path, rotation, corner):
    """The red corner is above to the left; against the clock it goes down, then to the right."""
    path = filmed.film(tmp_path / "r.mp4", 1.0, rotation=rotation)
    video = probe(path)
    size = (48, 64) if rotation % 180 == 0 else (64, 48)
    assert (video.height, video.width) == size
    _, frames = frames_of(path)
    assert frames.shape[1:3] == size
    red = frames[0].astype(int)[..., 0] - frames[0].astype(int)[..., 1] > 100
    rows, columns = np.nonzero(red)
    middle = rows.mean() > size[0] / 2, columns.mean() > size[1] / 2
    assert middle == corner


def test_a_part_is_read_from_the_key_frame_before_it(tmp_path):
    for name in ("a.mp4", "b.ts", "c.mkv"):
        path = filmed.film(tmp_path / name, 30.0)
        all_times, all_frames = frames_of(path)
        times, frames = frames_of(path, first=13.3, last=15.0)
        np.testing.assert_array_equal(times, np.arange(54, 60) / 4)
        np.testing.assert_array_equal(frames, all_frames[54:60])
        assert len(all_times) == 120


def test_sound_from_before_the_start_of_a_transport_stream_is_no_day_of_film(tmp_path):
    """AAC begins 21 ms before the picture: 26.5 hours, by 33 bits at 90 kHz. What counts is the picture."""
    path = filmed.film(tmp_path / "a.ts", 16.0, sound=16.0)
    assert probe(path).duration == pytest.approx(16.0, abs=0.15)
    assert len(frames_of(path)[0]) == 64


def test_the_last_picture_stays_until_the_sound_ends(tmp_path):
    path = filmed.film(tmp_path / "a.mp4", 2.0, sound=5.0)
    times, frames = frames_of(path)
    assert len(times) == round(probe(path).duration * 4) >= 20
    greys = frames[8:, 30:, 40:].mean((1, 2, 3))
    assert np.abs(greys - filmed.level(1.9)).max() < filmed.GREY / 2


def test_a_recording_without_a_length_is_read_to_its_end(tmp_path):
    """As browsers write them: Matroska that was never finished, so that its header says no duration."""
    path = filmed.film(tmp_path / "a.webm", 6.0, codec="libvpx", live="1")
    assert probe(path).duration == pytest.approx(6.0, abs=0.15)
    assert len(frames_of(path)[0]) == 24


def test_reading_can_end_early_and_errors_come_out(tmp_path):
    path = filmed.film(tmp_path / "a.mp4", 60.0, fps=4)
    chunks = read_frames(path, 4.0, whole)
    assert len(next(chunks)[0]) == CHUNK
    chunks.close()
    assert "decode" not in {thread.name for thread in threading.enumerate()}

    def fails(frame):
        raise ZeroDivisionError("in a thread")

    with pytest.raises(ZeroDivisionError, match="in a thread"):
        next(read_frames(path, 4.0, fails))


def test_few_frames_are_held_however_long_the_file(tmp_path):
    """Of 240 frames those that wait are prepared before anyone reads: two chunks and one in the making."""
    path = filmed.film(tmp_path / "a.mp4", 60.0, fps=4)
    prepared = []

    def noted(frame):
        prepared.append(frame)
        return whole(frame)

    chunks = read_frames(path, 4.0, noted, threads=1)
    next(chunks)
    time.sleep(0.3)
    assert len(prepared) <= 4 * CHUNK + 4
    assert sum(len(times) for times, _ in chunks) == 240 - CHUNK


def test_a_clock_that_claims_weeks_is_refused(tmp_path):
    """Two frames, the second after 12 days: rows of the first one would fill the disk."""
    path = filmed.film(tmp_path / "a.mkv", times=[0, 10**9])
    with pytest.raises(Unreadable, match="its clock claims 278 hours"):
        probe(path)


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv"])
def test_a_title_that_is_no_utf8_stops_nothing(tmp_path, name):
    path = filmed.film(tmp_path / name, 1.0, title="caf__")
    content = path.read_bytes()
    assert content.count(b"caf__") == 1
    path.write_bytes(content.replace(b"caf__", b"caf\xe9\xe9"))  # as programs of the nineties wrote it
    assert probe(path).height == 48
    assert len(frames_of(path)[0]) == 4  # four a second
    assert cut(path, 0.0, 1.0, tmp_path / f"clip_of_{name}.mp4").start == 0.0


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    for name, reason in (("none.mp4", "there is no such file"), ("list.mp4", "broken, cut short, or no video")):
        with pytest.raises(Unreadable, match=reason):
            probe(tmp_path / name)
        with pytest.raises(Unreadable, match=reason):
            next(read_frames(tmp_path / name, 1.0, whole))
