"""Clips and pictures of a film whose greys tell the second: 20 levels more every half second."""

import av
import numpy as np
import pytest
from filmed import film, level
from PIL import Image

from vmr_jax.errors import UserError
from vmr_jax.video.clips import cut, frame_rate, still
from vmr_jax.video.decode import read_frames
from vmr_jax.video.reader import Unreadable

GOP = 10  # frames from one key frame to the next: one second of ten frames
CLOSE = 6  # levels of grey that a codec may be off


def shown(path):
    """(second, grey of the lower right quarter) of every frame."""
    with av.open(str(path)) as file:
        found = []
        for frame in file.decode(video=0):
            pixels = frame.to_ndarray(format="gray")
            found.append((frame.time, pixels[pixels.shape[0] // 2 :, pixels.shape[1] // 2 :].mean()))
    return found


def heard(path):
    """Seconds of sound."""
    with av.open(str(path)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


def is_of(frames, start):
    """Whether these frames are those of the film from `start` on, ten a second."""
    times, greys = zip(*frames)
    assert times == pytest.approx([i / 10 for i in range(len(frames))], abs=0.002)
    assert greys == pytest.approx([level(start + i / 10) for i in range(len(frames))], abs=CLOSE)
    return True


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, codec in (("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.ts", "libx264"), ("d.webm", "libvpx")):
        film(folder / name, codec=codec, sound=6.0)
    return folder


CONTAINERS = {
    "a.mp4": {},
    "b.mov": {"sound": 6.0},
    "c.mkv": {"codec": "libx265"},
    "d.webm": {"codec": "libvpx-vp9"},
    "e.avi": {"codec": "mpeg4"},
    "f.ts": {},  # without an index, and with frames that need later ones
    "g.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "h.webm": {"codec": "libvpx", "live": "1"},  # of no length
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_clips_and_pictures_begin_with_the_frame_that_is_encoded(tmp_path, name):
    """As ingestion encodes it of that second (`read_frames`); 29.97 frames a second, no two alike."""

    def show(second):
        k = round(second * 30000 / 1001)  # in two digits of 15, of grey
        pixels = np.full((48, 64, 3), 8 + 16 * (k % 15), np.uint8)
        pixels[:, 32:] = 8 + 16 * (k // 15)
        return pixels

    def number(pixels):
        left, right = pixels[:, 4:28].mean(), pixels[:, 36:60].mean()
        return round((left - 8) / 16) + 15 * round((right - 8) / 16)

    times = [round(1001 * k / 30) for k in range(180)]
    source = film(tmp_path / name, times=times, fps=30, show=show, **CONTAINERS[name])
    rate = 30000 / 1001
    for k in (0, 10, 69, 170):  # 10 and 170 begin a little late, as containers count milliseconds
        times, frames = next(read_frames(source, rate, whole, first=k / rate, last=(k + 0.5) / rate))
        assert times == pytest.approx([k / rate]) and number(frames[0]) == k
        clip = cut(source, k / rate, (k + 6) / rate, tmp_path / "clip.mp4", exact=True)
        with av.open(str(clip.path)) as file:
            found = [(frame.time, number(whole(frame))) for frame in file.decode(video=0)]
        assert found[0][0] == 0 and [n for _, n in found] == list(range(k, k + 6))
        (tmp_path / "still.png").write_bytes(still(source, k / rate, width=64))
        assert number(np.asarray(Image.open(tmp_path / "still.png").convert("RGB"))) == k


def whole(frame):
    return frame.to_ndarray(format="rgb24")


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "d.webm"])
def test_an_exact_clip(films, tmp_path, name):
    clip = cut(films / name, 2.3, 3.9, tmp_path / "clip.mp4", exact=True)
    assert (clip.start, clip.copied) == (2.3, False)
    frames = shown(clip.path)
    assert len(frames) == 16 and is_of(frames, 2.3)
    assert heard(clip.path) == pytest.approx(1.6, abs=2 * 1024 / 48_000)  # AAC has whole blocks


def test_a_copied_clip_begins_before_with_its_sound(films, tmp_path):
    clip = cut(films / "a.mp4", 2.3, 3.9, tmp_path / "clip.mp4")
    assert clip.copied and clip.start <= 2.3
    frames = shown(clip.path)
    # A frame that is shown behind the end is there only where one before it needs it.
    wanted = round(10 * (3.9 - clip.start))
    assert wanted <= len(frames) <= wanted + 2 and is_of(frames, clip.start)
    assert heard(clip.path) == pytest.approx(3.9 - clip.start, abs=0.03)


@pytest.mark.parametrize("name", ["many.mp4", "many.mkv", "many.ts"])
def test_of_many_key_frames_the_one_before(tmp_path, name):
    source = tmp_path / name
    with_key_frames(source)
    clip = cut(source, 2.3, 3.9, tmp_path / "clip.mp4")
    # Key frames are at 0, 1, 2, ... s. A transport stream has no index, and may begin one earlier.
    assert clip.copied and round(clip.start) in ((1, 2) if name == "many.ts" else (2,))
    frames = shown(clip.path)
    wanted = round(10 * (3.9 - round(clip.start)))
    assert wanted <= len(frames) <= wanted + 2 and is_of(frames, round(clip.start))


def with_key_frames(path):
    """A film with a key frame each second, and frames that need later ones (B frames)."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=10, options={"g": str(GOP), "sc_threshold": "0", "bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level(i / 10), np.uint8))
            frame.pts = i
            file.mux(video.encode(frame))
        file.mux(video.encode())


def test_a_clip_behind_the_end_is_as_long_as_there_is_film(films, tmp_path):
    assert len(shown(cut(films / "a.mp4", 5.5, 99.0, tmp_path / "clip.mp4", exact=True).path)) == 5
    with pytest.raises(UserError, match=r"has no picture between 50\.00 and 60\.00 s"):
        cut(films / "d.webm", 50.0, 60.0, tmp_path / "none.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


@pytest.mark.parametrize("start,end", [(2.0, 2.0), (3.0, 2.0), (-1.0, 2.0), (float("nan"), 2.0)])
def test_a_clip_without_length(films, tmp_path, start, end):
    with pytest.raises(UserError, match="has no length"):
        cut(films / "a.mp4", start, end, tmp_path / "clip.mp4")


def test_a_clip_that_is_stopped_leaves_nothing(films, tmp_path):
    for exact in (False, True):
        with pytest.raises(InterruptedError):
            cut(films / "a.mp4", 1.0, 5.0, tmp_path / "clip.mp4", exact, stopped=lambda: True)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read(films, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 100)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {films / 'a.mp4'}\n")  # would open another
    film(tmp_path / "sound.mp4", codec=None, sound=1.0)
    for name in ("broken.mp4", "list.mp4", "nowhere.mp4", "sound.mp4"):
        with pytest.raises(Unreadable):
            cut(tmp_path / name, 0.0, 1.0, tmp_path / "clip.mp4")
        with pytest.raises(Unreadable):
            still(tmp_path / name, 0.0)


def test_a_full_disk_is_said(films, tmp_path):
    with pytest.raises(UserError, match="could not be written"):
        cut(films / "a.mp4", 0.0, 1.0, tmp_path / "missing" / "clip.mp4")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_film_is_upright_in_pictures_and_clips(tmp_path, rotation):
    """Its left upper corner is red as it is stored; a player turns it against the clock."""
    source = film(tmp_path / "turned.mp4", seconds=1.0, rotation=rotation)
    expected = {0: (0, 0), 90: (1, 0), 180: (1, 1), 270: (0, 1)}[rotation]  # the corner: bottom?, right?
    (tmp_path / "still.jpg").write_bytes(still(source, 0.5))
    picture = np.asarray(Image.open(tmp_path / "still.jpg"))
    with av.open(str(cut(source, 0.0, 0.5, tmp_path / "clip.mp4", exact=True).path)) as file:
        clip = next(file.decode(video=0)).to_ndarray(format="rgb24")
    for pixels in (picture, clip):
        assert pixels.shape[:2] == ((64, 48) if rotation % 180 else (48, 64))
        assert corner_of_red(pixels) == expected


def corner_of_red(pixels):
    height, width = pixels.shape[:2]
    red = pixels[..., 0].astype(int) - pixels[..., 1]
    corners = [(bottom, right) for bottom in (0, 1) for right in (0, 1)]
    return max(corners, key=lambda c: red[c[0] * (height - 8) :, c[1] * (width - 8) :][:8, :8].mean())


def test_pictures_are_of_their_second(films, tmp_path):
    for name in ("a.mp4", "b.mkv", "c.ts", "d.webm"):
        for second in (0.0, 0.35, 2.66, 5.9, 99.0):
            (tmp_path / "still.jpg").write_bytes(still(films / name, second, width=32))
            picture = np.asarray(Image.open(tmp_path / "still.jpg").convert("L"))
            assert picture.shape == (24, 32)
            assert picture[12:, 16:].mean() == pytest.approx(level(min(second, 5.9)), abs=CLOSE), (name, second)


def test_frames_a_second(films):
    assert frame_rate(films / "a.mp4") == 10
