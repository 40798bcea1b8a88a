"""Frames of video files, by the second at which they are shown.

PyAV decodes (its wheels carry FFmpeg). The clock of a file is that of its player: it begins where the first of
its streams begins, and a frame is shown from its presentation time on until that of the next one, whatever the
frame rate says. One thread decodes, with the codec's own threads; others prepare frames for the encoder.

Letters beyond the usual: H, W height and width of a prepared frame; n frames.
"""

import collections
import contextlib
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmr_jax.errors import UserError, printable_line

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")
CHUNK = 32  # frames that are handed over together
_AHEAD = 2  # chunks that wait for who reads them
_LONGEST = 100 * 3600.0  # seconds; rows for what a broken clock claims would fill the disk
_TOLERANCE = 1e-3  # seconds; Matroska rounds presentation times to milliseconds
_MISSING = (1.0, 0.05)  # seconds and share of the length by which a whole file may end early
# What FFmpeg may open: containers of video alone. A playlist in the guise of a video would lead to other files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}


class VideoFile(NamedTuple):
    """A video file whose first frame could be decoded.

    Attributes:
      path: the file.
      duration: its length in seconds, as a player shows it.
      width: of a frame, in pixels, after rotation.
      height: likewise.
    """

    path: Path
    duration: float
    width: int
    height: int


class Unreadable(UserError):
    """A file that is no whole video; `reason` says why in a few words."""

    def __init__(self, path: str | Path, reason: str):
        self.reason = reason
        super().__init__(f"{printable_line(str(path))} cannot be read as a video: {reason}.")


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


def probe(path: str | Path) -> VideoFile:
    """Length and size of a video file, whose first frame is decoded.

    Raises:
      Unreadable: for a file that is missing, empty, broken, cut short before its first frame, encrypted, or
        without a video stream.
    """
    with _Reader(Path(path)) as reader:
        frame = next(reader.frames(), None)
        if frame is None:
            raise Unreadable(path, "no frame can be decoded")
        turned = frame[1].rotation % 180 == 90
        size = frame[1].height, frame[1].width
        width, height = size if turned else size[::-1]
        return VideoFile(Path(path), reader.duration, width, height)


def rows_of(duration: float, rate: float) -> int:
    """Number of the times k/rate at which a video of `duration` seconds is read: at least one."""
    return max(1, round(duration * rate))


def read_frames(
    path: str | Path,
    rate: float,
    prepare: Callable[["av.VideoFrame"], np.ndarray],
    *,
    first: float = 0.0,
    last: float | None = None,
    threads: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the frames that are shown at k/rate seconds, k = 0, 1, 2, ..., a chunk at a time.

    Memory is bounded whatever the length: few frames wait to be prepared, and `_AHEAD` chunks to be read.

    Args:
      path: the video file.
      rate: frames per second that are wanted, more or fewer than the file has.
      prepare: makes the encoder's [H,W,3] uint8 of a frame that is turned upright; several threads call it.
      first: second from which on frames are wanted.
      last: second before which they are; None reads to the end, and then a file that is cut short is refused.
      threads: number of threads that prepare frames; None is half of the cores.

    Yields:
      Times [n] float64 in seconds, n at most `CHUNK`, and frames [n,H,W,3] uint8.

    Raises:
      Unreadable: for what `probe` refuses, and for a file that ends early or whose frames are mostly broken.
    """
    threads = threads or max(1, (os.cpu_count() or 2) // 2)
    stop = threading.Event()
    chunks: queue.Queue = queue.Queue(_AHEAD)

    def hand_over(item: Any) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                chunks.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            with _Reader(Path(path)) as reader, ThreadPoolExecutor(threads) as pool:
                shown = _shown(reader, rate, first, last)
                for chunk in _chunks(_prepared(shown, prepare, pool, 2 * threads)):
                    if not hand_over(chunk):
                        return
            hand_over(None)
        except BaseException as error:  # it is raised where the frames are read
            hand_over(error)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while (item := chunks.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


class _Reader:
    """An open file: its video stream, and its clock."""

    def __init__(self, path: Path):
        self.path, self._sought = path, False

    def __enter__(self) -> "_Reader":
        av = pyav()
        with self._errors():
            if self.path.stat().st_size == 0:
                raise Unreadable(self.path, "it is empty")
            # An absolute path is no address of another protocol, whatever its name.
            self._file = av.open(str(self.path.absolute()), options=OPTIONS, metadata_errors="replace")
        try:
            picture = av.stream.Disposition.attached_pic
            streams = [s for s in self._file.streams.video if not s.disposition & picture]
            if not streams:
                raise Unreadable(self.path, "it has no video stream")
            self.stream = streams[0]
            with self._errors():
                self.stream.thread_type = "AUTO"
            self._timed = [self.stream, *self._file.streams.audio]
            self.start = (self._file.start_time or 0) / av.time_base
            self.duration = self._told_duration()
            self.end = 0.0  # of the last packet that was read, in seconds
            if self.duration <= 0:  # such as a recording of a browser
                self._read_through()
                self.duration = self.end
            if self.duration > _LONGEST:
                raise Unreadable(self.path, f"its clock claims {self.duration / 3600:,.0f} hours")
        except BaseException:
            self._file.close()
            raise
        return self

    def _told_duration(self) -> float:
        """Seconds, as the header or FFmpeg's look at the ends of the file has them; 0 where neither has."""
        stream = self.stream
        if self._file.format.name == "mpegts" and stream.duration:
            # Its clock has 33 bits: a packet of sound from before zero would be a day after the end.
            end = (stream.start_time or 0) + stream.duration
            return float(end * stream.time_base) - self.start
        return (self._file.duration or 0) / pyav().time_base

    def __exit__(self, *exception: Any) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what FFmpeg and the disk raise into `Unreadable`."""
        av = pyav()
        try:
            yield
        except (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError):
            raise Unreadable(self.path, "it is broken, or of a kind that FFmpeg does not know") from None
        except FileNotFoundError:
            raise Unreadable(self.path, "there is no such file") from None
        except (av.error.InvalidDataError, av.error.ArgumentError):
            raise Unreadable(self.path, "it is broken, cut short, or no video") from None
        except (av.error.FFmpegError, OSError) as error:
            raise Unreadable(self.path, f"it cannot be opened ({error.strerror or error})") from None

    def seek(self, second: float) -> None:
        """Goes to a key frame before a second: further back where a container only finds what is near it."""
        back = 0.0
        while second - back > 0:
            self._go(second - back)
            key = next(
                (packet for packet in self.packets() if packet.is_keyframe and packet.pts is not None), None
            )
            if key is not None and float(key.pts * key.time_base) - self.start <= second + _TOLERANCE:
                break
            back = max(1.0, 2 * back)
        self._go(max(second - back, 0.0))
        self._sought = True

    def _go(self, second: float) -> None:
        with self._errors():
            self._file.seek(int((second + self.start) / self.stream.time_base), stream=self.stream)

    def packets(self) -> Iterator[Any]:
        """The packets of the video, in the file's order; notes when those of picture and sound end."""
        with self._errors():
            for packet in self._file.demux(self._timed):
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.start
                    self.end = max(self.end, end)
                if packet.stream is self.stream:
                    yield packet

    def _read_through(self) -> None:
        """Reads the file for the time of its end, which its header lacks, and goes back to its start."""
        collections.deque(self.packets(), maxlen=0)
        self._file.seek(0)

    def frames(self) -> Iterator[tuple[float, "av.VideoFrame"]]:
        """The frames with the seconds from which on they are shown, which rise."""
        av = pyav()
        decoded = broken = 0
        before = -math.inf
        packets = self.packets()
        if self._sought:  # pictures before the first key frame lack what they change
            packets = itertools.dropwhile(lambda packet: packet.size and not packet.is_keyframe, packets)
        for packet in packets:
            if packet.size and "encryption_info" in {data.data_type for data in packet.iter_sidedata()}:
                raise Unreadable(self.path, "it is encrypted")
            try:
                found = packet.decode()
            except av.error.InvalidDataError:
                broken += 1
                continue
            for frame in found:
                decoded += 1
                stamp = frame.pts if frame.pts is not None else frame.dts
                if stamp is None:
                    continue
                time = float(stamp * self.stream.time_base) - self.start
                if time > before:
                    before = time
                    yield time, frame
        if broken > decoded:
            raise Unreadable(self.path, f"{broken} of {broken + decoded} of its frames are broken")

    def check_whole(self) -> None:
        """Raises `Unreadable` where what was read ends long before the file should."""
        seconds, share = _MISSING
        if self.duration - self.end > max(seconds, share * self.duration):
            raise Unreadable(self.path, f"it is cut short: {self.end:.1f} of {self.duration:.1f} s are there")


def _shown(
    reader: _Reader, rate: float, first: float, last: float | None
) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """(k/rate, the frame that is shown then) for every k that is wanted."""
    rows = rows_of(reader.duration, rate)
    k = math.ceil(first * rate - 1e-9)
    end = rows if last is None else min(rows, math.ceil(last * rate - 1e-9))
    if first > 0:
        reader.seek(first)
    before = None
    for time, frame in reader.frames():
        while before is not None and k < end and k / rate < time - _TOLERANCE:
            yield k / rate, before
            k += 1
        if k >= end and last is not None:
            return
        before = frame
    if before is None:
        raise Unreadable(reader.path, "no frame can be decoded")
    if last is None:
        reader.check_whole()
    for later in range(k, end):  # the last frame stays until the sound ends
        yield later / rate, before


def _prepared(
    shown: Iterator[tuple[float, "av.VideoFrame"]],
    prepare: Callable[["av.VideoFrame"], np.ndarray],
    pool: ThreadPoolExecutor,
    waiting: int,
) -> Iterator[tuple[float, np.ndarray]]:
    """(time, prepared frame), in order; at most `waiting` frames of the file's size are held."""
    pending: collections.deque[tuple[float, Future]] = collections.deque()
    before: Any = None
    for time, frame in shown:
        same = frame is before and bool(pending)  # where the file has fewer frames than are wanted
        before = frame
        pending.append((time, pending[-1][1] if same else pool.submit(_upright, prepare, frame)))
        if len(pending) > waiting:
            ready, prepared = pending.popleft()
            yield ready, prepared.result()
    for ready, prepared in pending:
        yield ready, prepared.result()


def _upright(prepare: Callable[["av.VideoFrame"], np.ndarray], frame: "av.VideoFrame") -> np.ndarray:
    return prepare(upright(frame))


def _chunks(frames: Iterator[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while part := list(itertools.islice(frames, CHUNK)):
        times, prepared = zip(*part)
        yield np.asarray(times), np.stack(prepared)


def upright(frame: "av.VideoFrame") -> "av.VideoFrame":
    """The frame as it is to be seen: turned by the angle that a phone has noted, a multiple of 90 degrees."""
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return frame
    pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    return pyav().VideoFrame.from_ndarray(pixels, format="rgb24")
