"""Ingestion: files are found, told apart by their content, decoded, encoded and written, and only what changed.

The manifest is the truth: a video is in the library from the moment on at which the manifest that names it has
replaced the one before. Features are written before that, under a name of their own.
"""

import collections
import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vmr_jax.errors import UserError, printable_line, user_path
from vmr_jax.files import crc32_of_file, disk_error
from vmr_jax.video.decode import CHUNK, SUFFIXES, probe, read_frames
from vmr_jax.video.encoder import FrameEncoder
from vmr_jax.video.features import write_features
from vmr_jax.video.manifest import FEATURES, Entry, Manifest, Refused, write_manifest
from vmr_jax.video.pieces import BEGUN, Pieces, clear_pieces
from vmr_jax.video.reader import Damaged, Unreadable

log = logging.getLogger("vmr_jax")

_SETTLED = 1.0  # seconds after its last change in which a file may still be being written
ENCODED = "encoded"  # folder of a library in which workers tell what they have encoded
GROWING = "it is still being written"
_SHARE = 0.05  # of the time that writing the manifest may take

Progress = Callable[[str, float, float], None]  # (file, seconds that are done, seconds of it)


class Outcome(NamedTuple):
    """Fate of a file.

    Attributes:
      file: its path.
      what: 'added', 'changed', 'moved', 'unchanged', 'removed', 'duplicate' or 'unreadable'.
      reason: of 'unreadable' why; of 'moved' from where; of 'duplicate' the video that has the same content.
    """

    file: str
    what: str
    reason: str = ""


class Report(list[Outcome]):
    """Fates of the files, in the order of their paths.

    >>> report = Report([Outcome("a.mp4", "added"), Outcome("b.mp4", "unreadable", "it is empty")])
    >>> print(report)
    1 added, 1 unreadable
    """

    def of(self, *what: str) -> list[Outcome]:
        """Those of these kinds."""
        return [outcome for outcome in self if outcome.what in what]

    def __str__(self) -> str:
        counts = collections.Counter(outcome.what for outcome in self)
        return ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "no video file"


class Encoded(NamedTuple):
    """A video whose features are on disk."""

    duration: float
    width: int
    height: int
    rows: int
    crc32: int


class Found(NamedTuple):
    """A file with content that is not known yet."""

    file: str
    content: str
    stat: tuple[int, int]  # size, time of the last change


class EncodeFiles(Protocol):
    """Encodes files, on this machine or on many."""

    def __call__(self, found: Sequence[Found]) -> Iterator[tuple[Found, Encoded | str]]:
        """Each with its features, or with the reason why it cannot be read, in any order."""


# --- files ----------------------------------------------------------------------------------------


def video_files(folder: Path) -> list[Path]:
    """The video files of a folder and of those in it, sorted; hidden ones are left out."""
    folder = user_path(folder).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give the folder that holds the video files.")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def content_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settled_hash(file: str, stat: tuple[int, int]) -> str:
    """The SHA-256 of a file; `Unreadable` where it changes meanwhile or cannot be read at all."""
    since = time.time() - stat[1] / 1e9
    if 0 <= since < _SETTLED:
        time.sleep(_SETTLED - since)
    try:
        content = content_hash(Path(file)) if _stat(file) == stat else ""
    except OSError as error:
        raise Unreadable(file, f"it cannot be opened ({error.strerror or error})") from None
    if not content or _stat(file) != stat:
        raise Unreadable(file, GROWING)
    return content


def _stat(path: str) -> tuple[int, int] | None:
    """Size and time of the last change; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# --- one file -------------------------------------------------------------------------------------


def encode_file(
    library: Path,
    found: Found,
    encoder: FrameEncoder,
    lock: Any = None,
    on_progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Encoded | str:
    """Decodes and encodes a file into `features/CONTENT.npy`, or says why it cannot be read.

    Memory: a few chunks of frames, and the rows of some seconds, whatever the length of the file. What a
    process that died has finished is taken over (`pieces`), and the features are equal to the bit. A damaged
    file is decoded anew from its beginning, by one thread, as what else is shown of it is not always the same.

    Args:
      library: the folder.
      found: the file.
      encoder: makes its rows.
      lock: is held while the encoder works; None where nobody else asks it.
      on_progress: hears how far it is.
      stop: ends it early where it is set.
    """
    key = encoder.identity, encoder.rate, encoder.dim
    pieces, steady = Pieces(library, found.content, found.file, found.stat, key), False
    while True:
        try:
            return _encoded(library, found, encoder, pieces, steady, lock, on_progress, stop)
        except Damaged:
            pieces.remove()
            steady = True
            log.info("%s is damaged: one thread decodes it from its beginning", found.file)
        except Unreadable as error:
            resumed = pieces.resumed
            pieces.remove()
            if not resumed:
                return error.reason
            log.info("%s: it is encoded from its beginning (%s)", found.file, error.reason)


def _encoded(
    library: Path,
    found: Found,
    encoder: FrameEncoder,
    pieces: Pieces,
    steady: bool,
    lock: Any,
    on_progress: Progress | None,
    stop: threading.Event | None,
) -> Encoded:
    """Decodes and encodes what the pieces lack; `Unreadable` where the file is not whole."""
    place = library / FEATURES / f"{found.content}.npy"
    temporary = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        video = probe(found.file)
        chunks = _vectors(found, video.duration, encoder, pieces, steady, lock, on_progress, stop)
        rows = write_features(temporary, chunks, encoder)
        if _stat(found.file) != found.stat:
            raise Unreadable(found.file, GROWING)
        checksum = crc32_of_file(temporary)
        os.replace(temporary, place)
    except OSError as error:
        raise disk_error(place, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    return Encoded(video.duration, video.width, video.height, rows, checksum)


def _vectors(
    found: Found,
    duration: float,
    encoder: FrameEncoder,
    pieces: Pieces,
    steady: bool,
    lock: Any,
    on_progress: Progress | None,
    stop: threading.Event | None,
) -> Iterator[np.ndarray]:
    """The vectors [n,D] of each chunk of frames: those of the pieces, then the others.

    A damaged file has no pieces: what is shown of it hangs on all that was decoded before.
    """
    if not steady:
        yield from pieces.read()
    before, first = None, max(0, pieces.rows - CHUNK) / encoder.rate
    chunks = read_frames(found.file, encoder.rate, encoder.prepare, first=first, steady=steady)
    with contextlib.closing(chunks):
        if pieces.rows:
            log.info("%s goes on at %.0f of %.0f s", found.file, pieces.rows / encoder.rate, duration)
            before = _last_of(pieces, next(chunks, None), found.file)
        for times, frames in chunks:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            with lock or contextlib.nullcontext():
                vectors = encoder.encode(frames, before)
            yield vectors
            if not steady:
                pieces.add(vectors, frames)
            before = frames[-1]
            if on_progress is not None:
                on_progress(found.file, min(float(times[-1]) + 1 / encoder.rate, duration), duration)


def _last_of(pieces: Pieces, chunk: tuple[np.ndarray, np.ndarray] | None, file: str) -> np.ndarray:
    """The last frame of the pieces; `Unreadable` where the chunk before their end is not what it was."""
    if chunk is None or not pieces.follows(chunk[1]):
        raise Unreadable(file, "its frames are not found again from the middle on")
    return chunk[1][-1]


class EncodeHere:
    """Encodes on this machine, several files at a time; the encoder takes one chunk after the other.

    Args:
      library: the folder.
      encoder: of the frames.
      on_progress: hears how far each file is.
    """

    def __init__(self, library: Path, encoder: FrameEncoder, on_progress: Progress | None = None):
        self.library, self.encoder, self.on_progress = library, encoder, on_progress

    def __call__(self, found: Sequence[Found]) -> Iterator[tuple[Found, Encoded | str]]:
        """See `EncodeFiles`."""
        several = min(4, max(1, (os.cpu_count() or 1) // 2))
        lock, stop, waiting = threading.Lock(), threading.Event(), collections.deque(found)
        working: dict[Future, Found] = {}
        with ThreadPoolExecutor(several) as pool:
            try:
                while waiting or working:
                    while waiting and len(working) < several:
                        file = waiting.popleft()
                        job = pool.submit(
                            encode_file, self.library, file, self.encoder, lock, self.on_progress, stop
                        )
                        working[job] = file
                    done, _ = wait(working, return_when=FIRST_COMPLETED)
                    for job in done:
                        yield working.pop(job), job.result()
            finally:
                stop.set()


# --- a change of the library ----------------------------------------------------------------------


class Change:
    """A change of a library: `run` brings the manifest to what the files are now. One at a time in a folder.

    Args:
      library: the folder, owned by this process.
      manifest: of it.
      encode: makes the features of new files.
    """

    def __init__(self, library: Path, manifest: Manifest, encode: EncodeFiles):
        self.library, self.manifest, self._encode = library, manifest, encode
        self._written, self._took = 0.0, 0.0

    def run(self, files: Sequence[Path], within: Sequence[Path] = ()) -> tuple[Manifest, Report]:
        """Takes files in, and drops videos whose file is gone.

        Args:
          files: the video files.
          within: folders of which `files` are all that there are: other videos in them are gone.
        """
        clear(self.library, self.manifest)
        self._before = self.manifest
        stats, report = {}, Report()
        for path in map(str, files):
            if (stat := _stat(path)) is None:
                report.append(Outcome(path, "unreadable", "there is no such file"))
            elif not os.path.isfile(path):  # a pipe or a device would be waited for, or read, for ever
                report.append(Outcome(path, "unreadable", "it is no regular file"))
            else:
                stats[path] = stat
        contents = self._contents(stats, report)
        new = self._known(contents, stats, report)
        self._coming = {found.content for found in new}
        clear_pieces(self.library, self.manifest, self._coming)
        self._drop_gone(stats, within, report)
        self._drop_overwritten(contents, {found.file for found in new})
        self._write()
        try:
            for found, encoded in self._encode(new):
                self._take(found, encoded, report)
                self._write_seldom()
        finally:
            self._write()
        shutil.rmtree(self.library / ENCODED, ignore_errors=True)
        clear(self.library, self.manifest)
        with contextlib.suppress(OSError):  # it is not empty
            (self.library / BEGUN).rmdir()
        return self.manifest, Report(sorted(report))

    def _contents(self, stats: dict[str, tuple[int, int]], report: Report) -> dict[str, str]:
        """File -> SHA-256, of those that are not known to be unreadable."""
        known, contents = self.manifest.by_file(), {}
        for file in stats:
            entry, refused = known.get(file), self.manifest.refused.get(file)
            if entry and (entry.size, entry.modified) == stats[file]:
                contents[file] = entry.content
            elif refused and (refused.size, refused.modified) == stats[file]:
                report.append(Outcome(file, "unreadable", refused.reason))
            else:
                try:
                    contents[file] = _settled_hash(file, stats[file])
                except Unreadable as error:  # it is looked at again next time
                    report.append(Outcome(file, "unreadable", error.reason))
        return contents

    def _known(
        self, contents: dict[str, str], stats: dict[str, tuple[int, int]], report: Report
    ) -> list[Found]:
        """Takes note of what is unchanged, moved or there twice; returns the files of new content."""
        files: dict[str, list[str]] = {}
        for file, content in contents.items():
            files.setdefault(content, []).append(file)
        by_content, new = self.manifest.by_content(), []
        videos = dict(self.manifest.videos)
        for content, same in files.items():
            entry = by_content.get(content)
            if entry is None:
                new.append(Found(same[0], content, stats[same[0]]))
                report += [Outcome(file, "duplicate", same[0]) for file in same[1:]]
                continue
            # A file elsewhere that is not among these files still has it, unless it is gone.
            as_it_was = _stat(entry.file) == (entry.size, entry.modified)
            stays = entry.file in same or (entry.file not in contents and as_it_was)
            place = entry.file if stays else same[0]
            if place in stats:
                size, modified = stats[place]
                moved = dataclasses.replace(entry, file=place, size=size, modified=modified)
                videos[entry.id] = moved
                what = "unchanged" if place == entry.file else "moved"
                report.append(Outcome(place, what, "" if what == "unchanged" else entry.file))
            report += [Outcome(file, "duplicate", place) for file in same if file != place]
        self.manifest = dataclasses.replace(
            self.manifest,
            videos=_named(videos.values()),
            refused={file: refused for file, refused in self.manifest.refused.items() if file not in contents},
        )
        return new

    def _drop_gone(self, stats: dict[str, Any], within: Sequence[Path], report: Report) -> None:
        """Drops the videos, and the refusals, of files in `within` that are gone."""

        def gone(file: str) -> bool:
            return file not in stats and any(Path(file).is_relative_to(folder) for folder in within)

        videos = {id: entry for id, entry in self.manifest.videos.items() if not gone(entry.file)}
        report += [
            Outcome(entry.file, "removed") for id, entry in self.manifest.videos.items() if id not in videos
        ]
        refused = {file: why for file, why in self.manifest.refused.items() if not gone(file)}
        self.manifest = dataclasses.replace(self.manifest, videos=videos, refused=refused)

    def _drop_overwritten(self, contents: dict[str, str], new: set[str]) -> None:
        """Drops the videos whose file has the content of another one now; `new` contents are yet to come."""
        videos = {
            id: entry
            for id, entry in self.manifest.videos.items()
            if entry.file in new or contents.get(entry.file, entry.content) == entry.content
        }
        self.manifest = dataclasses.replace(self.manifest, videos=videos)

    def _take(self, found: Found, encoded: Encoded | str, report: Report) -> None:
        """Takes a file into the manifest, in place of the video that the file was before."""
        before = self.manifest.by_file().get(found.file)
        if isinstance(encoded, str):
            videos = {id: entry for id, entry in self.manifest.videos.items() if entry is not before}
            self.manifest = dataclasses.replace(self.manifest, videos=videos)
            return self._refuse(found.file, found.stat, encoded, report)
        entry = Entry(
            id=before.id if before else _name(found.file),
            file=found.file,
            content=found.content,
            size=found.stat[0],
            modified=found.stat[1],
            duration=encoded.duration,
            width=encoded.width,
            height=encoded.height,
            rows=encoded.rows,
            crc32=encoded.crc32,
            added=time.time(),
        )
        others = [other for other in self.manifest.videos.values() if other is not before]
        self.manifest = dataclasses.replace(self.manifest, videos=_named([*others, entry]))
        report.append(Outcome(found.file, "changed" if before else "added"))
        return None

    def _refuse(self, file: str, stat: tuple[int, int], reason: str, report: Report) -> None:
        refused = {**self.manifest.refused, file: Refused(file, *stat, reason)}
        self.manifest = dataclasses.replace(self.manifest, refused=refused)
        report.append(Outcome(file, "unreadable", reason))

    def _write(self) -> None:
        started = time.monotonic()
        if self.manifest is not self._before:
            write_manifest(self.library, self.manifest)
            clear_pieces(self.library, self.manifest, self._coming)
        self._before = self.manifest
        self._written = time.monotonic()
        self._took = self._written - started

    def _write_seldom(self) -> None:
        """Writes the manifest unless that would take too much of the time; what is not in it is done again."""
        if time.monotonic() - self._written > self._took / _SHARE:
            self._write()


def _name(file: str) -> str:
    """The id of a video: the name of its file without suffixes, as one line of text."""
    path = Path(file)
    while path.suffix.lower() in SUFFIXES and path.stem:
        path = path.with_suffix("")
    return printable_line(path.name)


def _named(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Id -> video: each by the name of its file, those that come later with a number where it is taken."""
    named: dict[str, Entry] = {}
    for entry in entries:
        name, number = _name(entry.file), 1
        base = name
        while name in named:
            number += 1
            name = f"{base} ({number})"
        named[name] = dataclasses.replace(entry, id=name)
    return named


def clear(library: Path, manifest: Manifest) -> None:
    """Deletes the features that no video of the manifest has, such as those of a process that died.

    Those of which a worker has told stay, as the next manifest may take them.
    """
    known, told = {entry.content for entry in manifest.videos.values()}, set()
    for note in (library / ENCODED).glob("*.json"):
        if note.stem in known:
            note.unlink(missing_ok=True)
        else:
            told.add(note.stem)
    names = {f"{content}.npy" for content in known | told}
    for file in (library / FEATURES).glob("*"):
        if file.name not in names:
            file.unlink(missing_ok=True)
