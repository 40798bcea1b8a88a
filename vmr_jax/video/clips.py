"""Pieces of a video file: a clip of it as mp4, and one picture of it as JPEG.

A clip is copied, which costs no quality and hardly any time: it begins with the key frame before its start, as
no other frame can be shown without those before it. Or it is exact, and its frames are encoded anew. Seconds
count from the start of the file, as players show them.
"""

import contextlib
import errno
import fractions
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmr_jax.errors import UserError
from vmr_jax.files import disk_error
from vmr_jax.video.reader import TOLERANCE, Reader, pyav, upright

if TYPE_CHECKING:
    import av

_VIDEO = ("h264", "hevc", "av1", "vp9", "mpeg4")  # codecs that mp4 holds and players of mp4 show
_AUDIO = ("aac", "mp3", "opus", "ac3", "eac3", "flac", "alac")
_QUALITY = {"crf": "20", "preset": "veryfast"}  # of x264: hardly to be told from the original
_TICKS = fractions.Fraction(1, 90_000)  # seconds; every usual rate of frames is a whole number of them
_SAMPLES = 48_000  # a second, of encoded sound
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EFBIG)


class Clip(NamedTuple):
    """A clip that was written.

    Attributes:
      path: its file.
      start: second of the source at which it begins: with `copied` at most the one asked for.
      copied: whether its frames are those of the source.
    """

    path: Path
    start: float
    copied: bool


def frame_rate(path: Path) -> fractions.Fraction:
    """Frames a second of a file, on average; 25 where it does not say."""
    with Reader(path) as source:
        return source.stream.average_rate or fractions.Fraction(25)


# --- a picture ------------------------------------------------------------------------------------


def still(path: Path, second: float, width: int = 320) -> bytes:
    """The frame that is shown at a second, as JPEG of at most this width; the last one behind the end.

    UserError where the file has none.
    """
    shown = None
    with Reader(path) as source:
        source.seek(second)
        for begins, frame in source.frames():
            if shown is not None and begins > second + TOLERANCE:
                break
            shown = frame
        if shown is None:
            raise UserError(f"{path.name} has no picture at {second:.1f} s.")
        picture = upright(shown).to_image()
    picture.thumbnail((width, 2 * width))
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=80)
    return content.getvalue()


# --- a clip ---------------------------------------------------------------------------------------


def cut(
    source: Path,
    start: float,
    end: float,
    target: Path,
    exact: bool = False,
    stopped: Callable[[], bool] = bool,
) -> Clip:
    """Writes the piece [start, end) of a video file as mp4, whole or not at all.

    Codecs that mp4 does not hold are encoded anew, too.

    Args:
      source: the video file.
      start: in seconds.
      end: in seconds; behind the end of the file it is that end.
      target: the mp4.
      exact: begins and ends with the frames that are shown then, encoded anew; else copies.
      stopped: is asked now and then; True stops with an InterruptedError.

    Raises:
      UserError: it cannot be read, has nothing there, or there is no room.
    """
    if not 0 <= start < end:
        raise UserError(f"A clip from {start:.2f} to {end:.2f} s has no length. Give its start before its end.")
    part = target.with_name(target.name + ".part")
    try:
        with Reader(source) as readable, readable.errors():
            copied = not exact and readable.stream.codec_context.name in _VIDEO
            write = _copy if copied else _encode
            begun = None
            if start < readable.duration:
                with _writable(part) as out:
                    begun = write(readable, out, start, end, stopped)
        if begun is None:
            raise UserError(f"{source.name} has no picture between {start:.2f} and {end:.2f} s.")
        os.replace(part, target)
    except InterruptedError:
        raise
    except OSError as error:
        raise disk_error(target, error) from None
    finally:
        part.unlink(missing_ok=True)
    return Clip(target, begun, copied)


@contextlib.contextmanager
def _writable(part: Path) -> Iterator["av.container.OutputContainer"]:
    """An mp4 to be written; UserError where the disk does not let it."""
    try:
        with pyav().open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as out:
            yield out
    except OSError as error:
        if error.errno in _OF_DISK:
            raise disk_error(part, error) from None
        raise  # of the source


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise InterruptedError


def _copy(
    source: Reader,
    out: "av.container.OutputContainer",
    start: float,
    end: float,
    stopped: Callable[[], bool],
) -> float | None:
    """Copies packets from the key frame before `start`; the second of that frame, None without one."""
    video = source.stream
    sound = [stream for stream in source.sounds[:1] if stream.codec_context.name in _AUDIO]
    outs = {stream.index: out.add_stream_from_template(stream) for stream in (video, *sound)}
    early: list[Any] = []  # sound that comes before the first frame
    late: list[Any] = []  # frames that are shown behind the end, which one before it may need
    begun: float | None = None
    ended: set[int] = set()

    def put(packet: Any) -> None:
        assert begun is not None
        shift = round((begun + source.start) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = outs[packet.stream.index]
        out.mux(packet)

    source.seek(start)
    for packet in _with_decoding_times(source.packets(*sound), video):
        _check(stopped)
        index, second = packet.stream.index, source.second(packet)
        if packet.stream is video:
            if begun is None and packet.is_keyframe:
                begun = second
                for waiting in early:
                    if source.second(waiting) >= begun:
                        put(waiting)
            if float(packet.dts * packet.time_base) - source.start >= end:
                ended.add(index)
        elif second >= end:
            ended.add(index)
        if len(ended) == len(outs) or (video.index in ended and second > end + 1):
            break
        if index in ended:
            continue
        if begun is None:
            early += [packet] if packet.stream is not video else []
        elif packet.stream is video and second >= end:
            late.append(packet)
        elif packet.stream is video:
            for needed in (*late, packet):
                put(needed)
            late = []
        elif second >= begun:
            put(packet)
    return begun


def _with_decoding_times(packets: Iterator[Any], video: Any) -> Iterator[Any]:
    """Packets that all have a decoding time: Matroska leaves the first ones out, which mp4 must have."""
    waiting: list[Any] = []
    for packet in packets:
        if packet.pts is None:
            continue  # the last, empty one of a stream
        if packet.dts is None and packet.stream is video:
            waiting.append(packet)
            continue
        if waiting and packet.stream is video:
            step = packet.duration or 1
            for n, early in enumerate(reversed(waiting), 1):
                early.dts = packet.dts - n * step
            yield from waiting
            waiting = []
        if packet.dts is None:
            packet.dts = packet.pts
        yield packet
    for packet in waiting:
        packet.dts = packet.pts
        yield packet


def _encode(
    source: Reader,
    out: "av.container.OutputContainer",
    start: float,
    end: float,
    stopped: Callable[[], bool],
) -> float | None:
    """Encodes the frames that are shown in [start, end) and the sound of it; `start`, None without a frame."""
    source.seek(start)
    first = next(source.frames(), None)
    if first is None:
        return None
    pictures = _Pictures(out, source.stream, first[1], start, end)
    heard = source.sounds[:1]
    writers: dict[int, _Pictures | _Sound] = {source.stream.index: pictures}
    writers |= {stream.index: _Sound(out, stream, start, end) for stream in heard}
    source.seek(start)
    for second, frame, stream in source.decoded(*heard):
        _check(stopped)
        writers[stream.index].take(frame, second)
        if all(writer.ended for writer in writers.values()):
            break
    for writer in writers.values():
        writer.finish()
    return start if pictures.some else None


class _Pictures:
    """Encodes frames of the output's stream; the one that is shown at the start may have come before."""

    def __init__(self, out: Any, stream: Any, frame: Any, start: float, end: float):
        self._out, self._start, self._end = out, start, end
        self._to = out.add_stream("h264", options=_QUALITY)
        sizes = (frame.height, frame.width) if round(frame.rotation / 90) % 2 else (frame.width, frame.height)
        width, height = (max(2, length & ~1) for length in sizes)
        self._to.width, self._to.height, self._to.pix_fmt = width, height, "yuv420p"
        self._to.codec_context.time_base = _TICKS
        self._to.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or 1
        self._waiting: Any = None  # a frame of which it is not known until when it is shown
        self.some = self.ended = False

    def take(self, frame: Any, second: float) -> None:
        """Takes the next frame, which is shown from `second` on."""
        if self.ended:
            return
        if self._waiting is not None and second > self._start + TOLERANCE:
            self._write(min(second, self._end))
        if second >= self._end - TOLERANCE:
            self.ended = True
        else:
            self._waiting = frame, second

    def finish(self) -> None:
        """Writes the last frame, and what the encoder keeps."""
        if self._waiting is not None and not self.ended:
            self._write(self._end)
        if self.some:
            self._out.mux(self._to.encode())

    def _write(self, until: float) -> None:
        frame, second = self._waiting
        self._waiting = None
        made = upright(frame).reformat(self._to.width, self._to.height, "yuv420p")  # which needs even lengths
        first = second - self._start if second > self._start + TOLERANCE else 0.0
        made.pts, made.time_base = round(first / _TICKS), _TICKS
        made.duration = max(1, round((until - self._start - first) / _TICKS))
        self.some = True
        self._out.mux(self._to.encode(made))


class _Sound:
    """Encodes the sound of the output's stream, to a sample."""

    def __init__(self, out: Any, stream: Any, start: float, end: float):
        av = pyav()
        self._out, self._start, self._end = out, start, end
        self._layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self._to = out.add_stream("aac", rate=_SAMPLES, layout=self._layout)
        self._resampled = av.AudioResampler(format="fltp", layout=self._layout, rate=_SAMPLES)
        self.some = self.ended = False

    def take(self, frame: Any, second: float) -> None:
        """Takes the next samples, which are heard from `second` on."""
        av = pyav()
        if self.ended:
            return
        for found in self._resampled.resample(frame):
            samples = found.to_ndarray()
            first = max(0, round((self._start - second) * _SAMPLES))
            last = min(samples.shape[1], round((self._end - second) * _SAMPLES))
            self.ended = second >= self._end
            if first < last:
                kept = av.AudioFrame.from_ndarray(
                    samples[:, first:last].copy(), format="fltp", layout=self._layout
                )
                kept.sample_rate, kept.time_base = _SAMPLES, fractions.Fraction(1, _SAMPLES)
                kept.pts = round((second - self._start) * _SAMPLES) + first
                self.some = True
                self._out.mux(self._to.encode(kept))
            second += samples.shape[1] / _SAMPLES

    def finish(self) -> None:
        """Writes what the encoder keeps."""
        if self.some:
            self._out.mux(self._to.encode())
