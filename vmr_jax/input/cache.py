"""The feature cache: normalised, shortened features of every video in one memory-mapped file."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.files import open_lock, parsed, require_file
from vmr_jax.input.features import FeatureReader, kept_rows, missing

log = logging.getLogger("vmr_jax")

_FORMAT = 3  # of the cache
_BLOCK, _BLOCKS = 4096, 8  # bytes and number of the samples by which the content of a source file is known
_MAGIC = b"vmrclips"  # the last bytes of a cache
_ALIGNMENT = 64  # bytes; each video starts at a multiple


class FeatureStore(Mapping):
    """Clips of a dataset's videos in one memory-mapped file: `store[video_id]` is a view [n,D] float32.

    The file: the rows of each video, then an index as JSON, its CRC-32, its size in 8 bytes, and `_MAGIC`. The
    index has the CRC-32 of the rows of each video, which are compared when a video is read first.
    """

    def __init__(self, path: Path):
        """Opens a finished cache; `build_feature_store` makes one.

        Raises:
          ValueError: it is cut short, longer than it was written, or no cache.
        """
        self.path = path
        self._bytes = np.memmap(path, np.uint8, "r")
        head = len(self._bytes) - 24
        if head < 0 or self._bytes[head + 16 :].tobytes() != _MAGIC:
            raise ValueError(f"{path} does not end as a cache")
        crc, size = (int.from_bytes(self._bytes[k : k + 8].tobytes(), "little") for k in (head, head + 8))
        start = head - size
        written = self._bytes[max(start, 0) : head].tobytes()
        if zlib.crc32(written) != crc:
            raise ValueError(f"the index of {path} is not what was written")
        index = parsed(written)
        if index["start"] != start:
            raise ValueError(f"{path} has another size than was written")
        self.source: str = index["source"]  # what the content of the source files was
        self._videos = index["videos"]
        self._checked: set[str] = set()

    def __getitem__(self, video_id: str) -> np.ndarray:
        offset, shape, crc = self._videos[video_id]
        rows = self._bytes[offset : offset + int(np.prod(shape)) * 4]
        if video_id not in self._checked:
            if zlib.crc32(rows.data) != crc:
                raise UserError(
                    f'{self.path}: the features of the video "{video_id}" are not what was written: the disk '
                    "has changed them. Delete the file, which is written anew then, and check the disk."
                )
            self._checked.add(video_id)
        return rows.view(np.float32).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._videos)

    def __len__(self) -> int:
        return len(self._videos)


def build_feature_store(
    reader: FeatureReader,
    video_ids: Iterable[str],
    feature_dim: int,
    cache_dir: str | Path,
    num_clips: int,
    normalize: bool,
    on_progress: Callable[[int, int], None] | None = None,
    beam: str = "",
    resample: str = "average",
) -> FeatureStore:
    """Writes the clips of the listed videos to one memory-mapped file, or opens it where that was done.

    A video of n rows takes min(n, num_clips) * feature_dim * 4 bytes: at most 4 MiB for 256 clips of 4096
    dimensions (0.5 GiB for the 127 videos of TACoS; 18 GiB for the 6,672 of Charades-STA with about 180 rows
    each). One video at a time is in memory. What a shorter video repeats or pads is added when it is read
    (`fit_rows`), so the file is the same for config.input.resample 'average' and 'pad'; with 'spread' it holds
    all rows.

    The file is cache_dir/<settings>.clips, where the settings are path and key of the reader, the ids and the
    other arguments. It holds a fingerprint of the source: name, size, modification time and samples of every
    file read. Where the source has another one now, or the cache is cut short or longer than it was written,
    it is written anew, under another name and renamed when complete. Several processes may ask at once: one
    builds, the others wait.

    Args:
      reader: where the features are.
      video_ids: the videos wanted, each in the reader; duplicates count once.
      feature_dim: D that every video must have.
      cache_dir: folder of all caches; made if absent.
      num_clips: longer videos are shortened to so many rows, see `shorten`.
      normalize: whether native rows are L2-normalised, before they are averaged; see `read_rows`.
      on_progress: called with (videos done, videos) after each.
      beam: options of an Apache Beam pipeline whose workers read the features, `config.dataset.beam`; '' reads
        them in this process.
      resample: `config.input.resample`.

    Raises:
      UserError: for a video that `read_rows` refuses; where the disk is full or cache_dir cannot be written.
    """
    video_ids = sorted(set(video_ids))
    absent = missing(reader, video_ids)
    if absent:
        raise UserError(
            f"{reader.path} has no features of {len(absent)} videos, such as {absent[0]}."
            f"{reader.spelling(absent[0])}"
        )
    cache_dir = user_path(cache_dir)
    kept = [] if resample in ("average", "pad") else [f"resample {resample}"]  # these two keep the same rows
    settings = _digest([_FORMAT, *reader.identity, feature_dim, num_clips, normalize, *kept, *video_ids])
    path = cache_dir / f"{settings}.clips"
    source = _source(reader, video_ids)
    try:
        store = _opened(path, source)
        if store is not None:
            return store
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            store = _opened(path, source)  # another process may have written it meanwhile
            if store is None:
                make = _maker_of_clips(beam, path.with_suffix(".beam"))
                clips = make(reader, video_ids, feature_dim, num_clips, normalize, resample, on_progress)
                with contextlib.closing(clips), _renamed_when_done(path) as file:
                    _write(file, source, clips)
                store = FeatureStore(path)
    except OSError as error:
        raise UserError(
            f"The features cannot be written to {cache_dir} ({error.strerror or error}). They take up to as "
            f"much room as {reader.path} as uncompressed float32. Make room, or set config.dataset.data_dir to "
            "another disk."
        ) from None
    return store


def _digest(parts: Iterable) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else f"{part}\0".encode())
    return digest.hexdigest()[:24]


def _source(reader: FeatureReader, video_ids: Sequence[str]) -> str:
    """A fingerprint of the content of the files of these videos."""

    def parts():
        for path in reader.files(video_ids):
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                yield from (path.name, stat.st_size, stat.st_mtime_ns, _samples(file, stat.st_size))

    try:
        return _digest(parts())
    except OSError as error:
        raise UserError(
            f"{error.filename or reader.path} cannot be read ({error.strerror or error}). Check the path and "
            "its permissions."
        ) from None


def _samples(file: IO, size: int) -> bytes:
    """Blocks from head to tail of a file, all of a small one: a rewritten file can keep its size and time."""
    if size <= _BLOCK * _BLOCKS:
        return file.read()
    blocks = []
    for k in range(_BLOCKS):
        file.seek(k * (size - _BLOCK) // (_BLOCKS - 1))
        blocks.append(file.read(_BLOCK))
    return b"".join(blocks)


def _opened(path: Path, source: str) -> FeatureStore | None:
    """The cache at `path` where it is whole and of this source."""
    require_file(path)
    try:
        store = FeatureStore(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("The cache of features is damaged (%s); it is written anew.", error)
        return None
    return store if store.source == source else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file; the system frees it when the process ends, however it ends."""
    import fcntl  # not on Windows

    with open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another process that writes the same features to %s", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _renamed_when_done(path: Path) -> Iterator[IO]:
    """A file to write, which gets its name at the end and is removed after an error."""
    unfinished = path.with_suffix(".unfinished")
    try:
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # what has the name must survive a power cut
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _clips(
    reader: FeatureReader,
    video_ids: Sequence[str],
    feature_dim: int,
    num_clips: int,
    normalize: bool,
    resample: str,
    on_progress: Callable[[int, int], None] | None,
) -> Generator[tuple[str, np.ndarray], None, None]:
    """Yields (id, rows as they are kept) of each video."""
    for done, video_id in enumerate(video_ids, 1):
        yield video_id, kept_rows(reader, video_id, feature_dim, num_clips, normalize, resample)
        if on_progress is not None:
            on_progress(done, len(video_ids))


def _maker_of_clips(beam: str, folder: Path) -> Callable[..., Generator[tuple[str, np.ndarray], None, None]]:
    """`_clips`, or what does the same with the workers of an Apache Beam pipeline."""
    if not beam:
        return _clips
    from vmr_jax.input import beam as beam_lib

    return functools.partial(beam_lib.clips, beam=beam, folder=folder)


def _write(file: IO, source: str, clips: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes the file that `FeatureStore` reads."""
    videos = {}
    for video_id, rows in clips:
        rows = np.ascontiguousarray(rows)
        videos[video_id] = (file.tell(), rows.shape, zlib.crc32(rows.data))
        file.write(rows.data)
        file.write(bytes(-rows.nbytes % _ALIGNMENT))
    index = json.dumps({"start": file.tell(), "source": source, "videos": videos}).encode()
    file.write(index + b"".join(n.to_bytes(8, "little") for n in (zlib.crc32(index), len(index))) + _MAGIC)
