"""Damaged films: what is shown in place of broken frames does not hang on the time that threads take."""

import fractions
import random
import time

import av
import filmed
import numpy as np
import pytest

from vmr_jax.video import ingest
from vmr_jax.video.decode import probe, read_frames
from vmr_jax.video.encoder import open_encoder
from vmr_jax.video.ingest import Found, encode_file
from vmr_jax.video.reader import Damaged

KINDS = {
    "a.mp4": "libx264",
    "b.mkv": "libx265",
    "c.webm": "libvpx",
    "d.webm": "libvpx-vp9",
    "e.avi": "mpeg4",
}


def waves(second, height=112, width=176):
    """Pixels of waves that move: packets of some length."""
    down, right = np.mgrid[:height, :width]
    wave = 128 + 60 * np.sin((right + 40 * second) / 9) + 50 * np.cos((down - 25 * second) / 7 + right / 31)
    return np.stack([wave, 255 - wave, 2 * wave % 255], -1).clip(0, 255).astype(np.uint8)


def broken(path, name):
    """A film of 2.6 s in which a few of the packets from 1.2 s on have random bytes in the middle."""
    content = bytearray(filmed.film(path / name, 2.6, codec=KINDS[name], show=waves).read_bytes())
    draw = random.Random(3)
    with av.open(str(path / name)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    for packet in packets[12:]:
        if len(packet) > 40 and draw.random() < 0.4:
            at = content.index(packet) + len(packet) // 3
            content[at : at + 8] = draw.randbytes(8)
    (path / name).write_bytes(content)
    return path / name


@pytest.mark.parametrize("name", KINDS)
def test_features_are_the_same_however_long_frames_are_held(tmp_path, monkeypatch, name):
    """A decoder writes into the memory of frames that were let go: which one that is may not hang on time."""
    path, encoder = broken(tmp_path, name), open_encoder("pixels", None)
    found = Found(str(path), "content", ingest._stat(str(path)))
    monkeypatch.setattr(encoder, "rate", 7.0)  # of ten frames three are let go at once
    prepare, seen = encoder.prepare, set()
    for trial in range(6):
        draw = random.Random(trial)

        def slow(frame):
            time.sleep(draw.choice([0.0, 0.0, 0.01]))  # noqa: B023
            return prepare(frame)

        monkeypatch.setattr(encoder, "prepare", slow)
        encode_file(tmp_path, found, encoder)
        seen.add((tmp_path / "features" / "content.npy").read_bytes())
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "e.avi"])
def test_a_damaged_film_is_refused_by_several_threads_and_read_by_one(tmp_path, name):
    """The decoders of VP8 and VP9 take random bytes for a picture."""
    path, encoder = broken(tmp_path, name), open_encoder("pixels", None)
    with pytest.raises(Damaged, match="a frame of it is broken"):
        list(read_frames(path, 4.0, encoder.prepare))
    rows = sum(len(times) for times, _ in read_frames(path, 4.0, encoder.prepare, steady=True))
    assert rows == round(4 * probe(path).duration)


@pytest.mark.parametrize("name,codec", [("a.mp4", "libx264"), ("b.ts", "libx264"), ("c.mkv", "libx265")])
def test_a_key_frame_that_is_no_new_beginning_is_no_damage(tmp_path, name, codec):
    """With open groups of pictures some behind a key frame, shown before it, lack the frames before those."""
    options = "open-gop=1:keyint=20:min-keyint=20:scenecut=0:bframes=3"
    with av.open(str(tmp_path / name), "w") as file:
        video = file.add_stream(codec, rate=10, options={codec[3:] + "-params": options + ":log=-1"})
        video.height, video.width, video.pix_fmt = 112, 176, "yuv420p"
        for tenth in range(80):
            frame = av.VideoFrame.from_ndarray(waves(tenth / 10))
            frame.pts, frame.time_base = tenth, fractions.Fraction(1, 10)
            file.mux(video.encode(frame))
        file.mux(video.encode())
    prepare = open_encoder("pixels", None).prepare
    expected = np.concatenate([frames for _, frames in read_frames(tmp_path / name, 4.0, prepare)])
    found = np.concatenate([frames for _, frames in read_frames(tmp_path / name, 4.0, prepare, first=5.0)])
    np.testing.assert_array_equal(found, expected[20:])  # four a second
    assert len(found) == 12
