"""An index that follows a library of videos: the moments of windows of videos, named by the content of the
file.

A window is a stored id CONTENT:SECOND. A moved or renamed file changes nothing here; the windows of a changed
file are those of another content. Windows overlap by half, so that a moment of up to half a window lies whole
in one; what two of them find alike is found once, as the search drops the worse of two moments that overlap
much.
"""

import atexit
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vmr_jax.files import disk_error, open_lock, plain
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import MomentIndex
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.retrieval.store import MANIFEST, MomentStore

log = logging.getLogger("vmr_jax")

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_TOGETHER = 64  # videos that are added in one step; a process that dies loses so many at most
_KEPT = 4  # indices of a library, of the runs that were asked last


class MomentEncoder(NamedTuple):
    """Encoder of moments and sentences.

    Attributes:
      source: JSON that tells it from others: an index is of one of them.
      sentences: sentences -> vectors [Q,E] float32.
      moments: contents of videos -> the moments of their windows, with stored ids, in seconds of the window.
      parallel: the devices of the search.
      dtype: of the rows on disk.
      nms_threshold: IoU above which only the better of two moments of a video is returned.
    """

    source: dict[str, Any]
    sentences: Callable[[Sequence[str]], np.ndarray]
    moments: Callable[[Sequence[str]], Iterator[EncodedVideo]]
    parallel: Parallel
    dtype: str
    nms_threshold: float


def windows(duration: float, length: float) -> list[tuple[float, float]]:
    """Seconds (start, end) of the parts of a video: the whole where it fits, else windows that overlap by half.

    >>> from vmr_jax.retrieval.windows import windows
    >>> windows(100.0, 120.0), windows(250.0, 120.0)[-2:]
    ([(0.0, 100.0)], [(120.0, 240.0), (130.0, 250.0)])
    """
    if duration <= length:
        return [(0.0, duration)]
    starts = [i * length / 2 for i in range(math.ceil((duration - length) / (length / 2)))]
    return [*((start, start + length) for start in starts), (duration - length, duration)]


def stored_id(content: str, start: float) -> str:
    """The stored id of the window of a video that begins at a second."""
    return f"{content}:{start:.3f}"


def content_of(stored: str) -> str:
    """The content of the video of a stored id."""
    return stored.partition(":")[0]


def start_of(stored: str) -> float:
    """The second at which the window of a stored id begins."""
    return float(stored.partition(":")[2])


def follow(folder: Path, encoder: MomentEncoder, names: Mapping[str, str]) -> MomentIndex:
    """The index of videos, brought to those that there are: new ones are encoded, those that are gone removed.

    Args:
      folder: of the indices of a library, one for each `MomentEncoder.source`.
      encoder: of the moments and sentences.
      names: content -> id, of all videos; at least one.
    """
    key = json.dumps(plain(encoder.source), sort_keys=True)
    path = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    store = _opened(path)
    if store is None or _new(store, names) or _gone(store, names):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open_lock(path.with_suffix(".lock"))
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise disk_error(path, error) from None
            return follow(_in_its_place(folder), encoder, names)
        with file as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be about the same
            store = _changed(path, encoder, names)
            _drop_oldest(folder, path)
    video_of = functools.partial(_video_of, names)
    return MomentIndex(store, encoder.sentences, encoder.parallel, encoder.nms_threshold, video_of)


@functools.cache
def _in_its_place(folder: Path) -> Path:
    """A folder that is kept as long as this process, in the place of one that cannot be written."""
    place = Path(tempfile.mkdtemp(prefix="vmr_jax_index_"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    log.warning("%s cannot be written: the moments are encoded for this process alone.", folder)
    return place


def _changed(path: Path, encoder: MomentEncoder, names: Mapping[str, str]) -> MomentStore:
    """Brings the index in a folder to these videos."""
    store = _opened(path)
    new = _new(store, names)
    for part in (new[i : i + _TOGETHER] for i in range(0, len(new), _TOGETHER)):
        encoded: Iterator[EncodedVideo] = map(_shifted, encoder.moments(part))
        if store is None:
            first = next(encoded)
            shutil.rmtree(path, ignore_errors=True)  # what a process that died has left
            store = MomentStore.create(path, first.vectors.shape[1], encoder.dtype, encoder.source)
            encoded = itertools.chain([first], encoded)
        store = store.add(encoded)
    assert store is not None  # there is a video, which is in the index or new
    gone = _gone(store, names)
    return store.remove(gone) if gone else store


def _opened(path: Path) -> MomentStore | None:
    """The index in a folder; None where there is none yet."""
    return MomentStore.open(path) if (path / MANIFEST).exists() else None


def _new(store: MomentStore | None, names: Mapping[str, str]) -> list[str]:
    """The videos of which no window is in the index."""
    there = {content_of(stored) for stored in store.videos} if store else set()
    return [content for content in names if content not in there]


def _gone(store: MomentStore, names: Mapping[str, str]) -> list[str]:
    """The windows in the index whose video is gone."""
    return [stored for stored in store.videos if content_of(stored) not in names]


def _shifted(window: EncodedVideo) -> EncodedVideo:
    """The moments of a window in seconds of its video."""
    start = np.float32(start_of(window.id))
    return EncodedVideo(window.id, window.vectors, np.asarray(window.spans, np.float32) + start)


def _video_of(names: Mapping[str, str], stored: str) -> str:
    return names[content_of(stored)]


def _drop_oldest(folder: Path, path: Path) -> None:
    """Deletes the indices that were changed last before the others, but for the newest ones and `path`."""
    others = [other for other in folder.iterdir() if other.is_dir() and other != path]
    others.sort(key=lambda other: other.stat().st_mtime, reverse=True)
    for other in others[_KEPT - 1 :]:
        shutil.rmtree(other, ignore_errors=True)
        other.with_suffix(".lock").unlink(missing_ok=True)
