"""Frames of video files, by the second at which they are shown.

One thread decodes (`reader`), with the codec's own threads; others prepare frames for the encoder.

Letters beyond the usual: H, W height and width of a prepared frame; n frames.
"""

import collections
import contextlib
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmr_jax.video.reader import TOLERANCE, Reader, Unreadable, upright

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")
CHUNK = 32  # frames that are handed over together
_AHEAD = 2  # chunks that wait for who reads them


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


def probe(path: str | Path) -> VideoFile:
    """Length and size of a video file, whose first frame is decoded.

    Raises:
      Unreadable: for a file that is missing, empty, broken, cut short before its first frame, encrypted, or
        without a video stream.
    """
    with Reader(Path(path)) as reader:
        duration = reader.duration
        frame = next(reader.frames(), None)
        if frame is None:
            raise Unreadable(path, "no frame can be decoded")
        turned = frame[1].rotation % 180 == 90
        size = frame[1].height, frame[1].width
        width, height = size if turned else size[::-1]
        return VideoFile(Path(path), duration, width, height)


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
    steady: bool = False,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yields the frames that are shown at k/rate seconds, k = 0, 1, 2, ..., a chunk at a time.

    Memory is bounded whatever the length: few frames wait to be prepared, and `_AHEAD` chunks to be read.

    Args:
      path: the video file.
      rate: frames per second that are wanted, more or fewer than the file has.
      prepare: makes the encoder's [H,W,3] uint8 of a frame that is turned upright; several threads call it.
      first: second from which on frames are wanted.
      last: second before which they are; None reads to the end, and then a file that is cut short is refused.
      threads: number of threads that prepare frames; None is half of the cores.
      steady: reads a damaged file too, always alike, by one thread for all.

    Yields:
      Times [n] float64 in seconds, n at most `CHUNK`, and frames [n,H,W,3] uint8.

    Raises:
      Damaged: for a file of which a frame is broken, unless `steady`. What came before may be broken, too.
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
            with (
                Reader(Path(path), strict=not steady, steady=steady) as reader,
                ThreadPoolExecutor(threads) as pool,
            ):
                shown = _shown(reader, rate, first, last)
                if reader.steady:
                    prepared = _prepared_in_turn(shown, prepare)
                else:
                    prepared = _prepared(shown, prepare, pool, 2 * threads)
                for chunk in _chunks(prepared):
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


def _shown(
    reader: Reader, rate: float, first: float, last: float | None
) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """(k/rate, the frame that is shown then) for every k that is wanted."""
    rows = rows_of(reader.duration, rate)
    k = math.ceil(first * rate - 1e-9)
    end = rows if last is None else min(rows, math.ceil(last * rate - 1e-9))
    if first > 0:
        reader.seek(first)
    before = None
    for time, frame in reader.frames():
        while before is not None and k < end and k / rate < time - TOLERANCE:
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


def _prepared_in_turn(
    shown: Iterator[tuple[float, "av.VideoFrame"]], prepare: Callable[["av.VideoFrame"], np.ndarray]
) -> Iterator[tuple[float, np.ndarray]]:
    """(time, prepared frame), each before the next one is decoded, so that frames are let go in their order."""
    before = pixels = None
    for time, frame in shown:
        if pixels is None or frame is not before:
            pixels = _upright(prepare, frame)
        before = frame
        yield time, pixels


def _upright(prepare: Callable[["av.VideoFrame"], np.ndarray], frame: "av.VideoFrame") -> np.ndarray:
    return prepare(upright(frame))


def _chunks(frames: Iterator[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while part := list(itertools.islice(frames, CHUNK)):
        times, prepared = zip(*part)
        yield np.asarray(times), np.stack(prepared)
