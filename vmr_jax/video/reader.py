"""An open video file: its clock, its key frames, its packets and its frames, for all who read one.

PyAV decodes (its wheels carry FFmpeg). The clock of a file is that of its player: it begins where the first of
its streams begins, and a frame is shown from its presentation time on until that of the next one, whatever the
frame rate says.
"""

import collections
import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmr_jax.errors import UserError, printable_line

if TYPE_CHECKING:
    import av

TOLERANCE = 1e-3  # seconds; Matroska rounds presentation times to milliseconds
_LONGEST = 100 * 3600.0  # seconds; rows for what a broken clock claims would fill the disk
_MISSING = (1.0, 0.05)  # seconds and share of the length by which a whole file may end early
# What FFmpeg may open: containers of video alone. A playlist in the guise of a video would lead to other files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
_SILENT = ("vp8",)  # codecs whose decoder makes a picture of anything, and says nothing


class Unreadable(UserError):
    """A file that is no whole video; `reason` says why in a few words."""

    def __init__(self, path: str | Path, reason: str):
        self.reason = reason
        super().__init__(f"{printable_line(str(path))} cannot be read as a video: {reason}.")


class Damaged(Unreadable):
    """A file with a broken frame, for a `Reader` that refuses those."""

    def __init__(self, path: str | Path):
        super().__init__(path, "a frame of it is broken")


def pyav() -> Any:
    """PyAV, which is imported when the first file is opened.

    Its log stays off, as it is: with it on, threads of a codec that close wait for Python, and Python for them.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise UserError(
            "Video files are decoded with PyAV, which is not installed: pip install 'vmr_jax[video]'"
        ) from None
    return av


class Reader:
    """An open video file: its first stream of pictures, its streams of sound, and their common clock.

    Seconds count from `start`, as players show them.

    What a decoder shows in place of a broken frame hangs on its threads: one conceals from the frame before, of
    which another one may have decoded a part, and what neither writes is what the memory held. With one thread,
    and each frame let go in the same order, it is a function of the file.

    Args:
      path: the file.
      strict: refuses a file at the first frame that is broken.
      steady: decodes broken frames with one thread.

    Attributes:
      steady: whether one thread decodes.
      stream: of the pictures; a picture of the cover is none.
      sounds: streams of sound.
      start: second at which the clock of the file begins.
      end: second at which the last packet that was read ends.
    """

    def __init__(self, path: Path, *, strict: bool = False, steady: bool = False):
        self.path, self._sought = path, False
        self._strict, self.steady = strict, steady

    def __enter__(self) -> "Reader":
        av = pyav()
        with self.errors():
            if self.path.stat().st_size == 0:
                raise Unreadable(self.path, "it is empty")
            # An absolute path is no address of another protocol, whatever its name.
            path = str(self.path.absolute())
            try:
                self._file = av.open(path, options=_OPTIONS)
            except UnicodeDecodeError:  # of PyAV 18 alone, for titles and the like that are no UTF-8
                self._file = av.open(path, options=_OPTIONS, metadata_errors="replace")
        try:
            picture = av.stream.Disposition.attached_pic
            streams = [s for s in self._file.streams.video if not s.disposition & picture]
            if not streams:
                raise Unreadable(self.path, "it has no video stream")
            self.stream = streams[0]
            with self.errors():
                self._set_up(self.stream.codec_context)
            self.sounds = list(self._file.streams.audio)
            self.start = (self._file.start_time or 0) / av.time_base
            self.end = 0.0
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()

    def _set_up(self, codec: Any) -> None:
        """Chooses the threads of the pictures' decoder, and what it does about broken frames."""
        self.steady = self.steady or (self._strict and codec.name in _SILENT)
        if self.steady:
            codec.thread_count = 1
        else:
            codec.thread_type = "AUTO"
        # Else broken frames are concealed, of HEVC without a sign. The decoder of H.264 marks them, and would
        # find fault with all behind a key frame that was sought and is no new beginning.
        if self._strict and codec.name != "h264":
            codec.options = {"err_detect": "explode"}

    @functools.cached_property
    def duration(self) -> float:
        """Length in seconds; a file that does not tell is read through, and is then at its start again."""
        duration = self._told_duration()
        if duration <= 0:  # such as a recording of a browser
            collections.deque(self.packets(), maxlen=0)
            self._go(0.0)
            duration = self.end
        if duration > _LONGEST:
            raise Unreadable(self.path, f"its clock claims {duration / 3600:,.0f} hours")
        return duration

    def _told_duration(self) -> float:
        """Seconds, as the header or FFmpeg's look at the ends of the file has them; 0 where neither has."""
        stream = self.stream
        if self._file.format.name == "mpegts" and stream.duration:
            # Its clock has 33 bits: a packet of sound from before zero would be a day after the end.
            end = (stream.start_time or 0) + stream.duration
            return float(end * stream.time_base) - self.start
        return (self._file.duration or 0) / pyav().time_base

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what FFmpeg and the disk raise into `Unreadable`."""
        av = pyav()
        try:
            yield
        except InterruptedError:  # of who reads
            raise
        except (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError):
            raise Unreadable(self.path, "it is broken, or of a kind that FFmpeg does not know") from None
        except FileNotFoundError:
            raise Unreadable(self.path, "there is no such file") from None
        except (av.error.InvalidDataError, av.error.ArgumentError):
            raise Unreadable(self.path, "it is broken, cut short, or no video") from None
        except (av.error.FFmpegError, OSError) as error:
            raise Unreadable(self.path, f"it cannot be opened ({error.strerror or error})") from None

    def second(self, packet: Any) -> float:
        """The second from which on a packet with a presentation time is shown or heard."""
        return float(packet.pts * packet.time_base) - self.start

    def seek(self, second: float) -> None:
        """Goes to a key frame before a second: further back where a container only finds what is near it."""
        back = 0.0
        while second - back > 0:
            self._go(second - back)
            key = next(
                (packet for packet in self.packets() if packet.is_keyframe and packet.pts is not None), None
            )
            if key is not None and self.second(key) <= second + TOLERANCE:
                break
            back = max(1.0, 2 * back)
        self._go(second - back)
        self._sought = True

    def _go(self, second: float) -> None:
        """Goes near a second, in a transport stream behind it maybe; to the beginning for none above 0."""
        with self.errors():
            if second > 0:
                self._file.seek(int((second + self.start) / self.stream.time_base), stream=self.stream)
            else:  # whatever its timestamp
                self._file.seek(min(0, int(self.start * pyav().time_base)))

    def packets(self, *sounds: Any) -> Iterator[Any]:
        """The packets of the pictures and of these `sounds`, in the file's order; after `seek` from a key on.

        Notes when those of picture and sound end.
        """
        wanted = {self.stream.index, *(sound.index for sound in sounds)}
        skips = self._sought  # pictures before the first key frame lack what they change
        with self.errors():
            for packet in self._file.demux([self.stream, *self.sounds]):
                if packet.pts is not None:
                    self.end = max(
                        self.end, self.second(packet) + float((packet.duration or 0) * packet.time_base)
                    )
                if packet.stream is self.stream and skips:
                    if packet.size and not packet.is_keyframe:
                        continue
                    skips = False
                if packet.stream.index in wanted:
                    yield packet

    def frames(self) -> Iterator[tuple[float, "av.VideoFrame"]]:
        """The frames with the seconds from which on they are shown, which rise."""
        for second, frame, _ in self.decoded():
            yield second, frame

    def decoded(self, *sounds: Any) -> Iterator[tuple[float, Any, Any]]:
        """Frames of the pictures and of these `sounds`, in the file's order.

        Yields:
          The second from which on a frame is shown or heard, which rises from picture to picture; the frame;
          its stream.

        Raises:
          Damaged: for a broken picture, where the reader is strict.
          Unreadable: for an encrypted file, and for one whose pictures are mostly broken.
        """
        av = pyav()
        decoded = broken = 0
        before = -math.inf
        for packet in self.packets(*sounds):
            pictures = packet.stream is self.stream
            if packet.size and "encryption_info" in {data.data_type for data in packet.iter_sidedata()}:
                raise Unreadable(self.path, "it is encrypted")
            try:
                found = packet.decode()
            except av.error.FFmpegError as error:
                # Behind a key frame that was sought there may be some that lack the frames before it.
                if self._strict and (decoded or not self._sought):
                    raise Damaged(self.path) from None
                if isinstance(error, av.error.InvalidDataError):
                    broken += pictures
                    continue
                raise Unreadable(self.path, f"it cannot be decoded ({error.strerror or error})") from None
            for frame in found:
                decoded += pictures
                if self._strict and frame.is_corrupt:
                    raise Damaged(self.path)
                stamp = frame.pts if frame.pts is not None else frame.dts
                if stamp is None:
                    continue
                second = float(stamp * packet.stream.time_base) - self.start
                if pictures and second <= before:
                    continue
                if pictures:
                    before = second
                yield second, frame, packet.stream
        if broken > decoded:
            raise Unreadable(self.path, f"{broken} of {broken + decoded} of its frames are broken")

    def check_whole(self) -> None:
        """Raises `Unreadable` where what was read ends long before the file should."""
        seconds, share = _MISSING
        if self.duration - self.end > max(seconds, share * self.duration):
            raise Unreadable(self.path, f"it is cut short: {self.end:.1f} of {self.duration:.1f} s are there")


def upright(frame: "av.VideoFrame") -> "av.VideoFrame":
    """The frame as it is to be seen: turned by the angle that a phone has noted, a multiple of 90 degrees."""
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return frame
    pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    return pyav().VideoFrame.from_ndarray(pixels, format="rgb24")
