"""Small pictures of videos, cut once and kept in a folder of bounded size."""

import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from vmr_jax.errors import UserError
from vmr_jax.video.clips import still

MOST_BYTES = 1 << 28  # of a folder; of more, those that were not asked for longest go
_STEP = 0.1  # seconds; who asks for one in between gets the picture before


class Thumbnails:
    """Pictures of videos.

    A picture is of a file as it was then: one that has changed since gets new ones. Where nothing can be
    written, as on a full disk, pictures are cut anew each time.

    Args:
      folder: where they are kept, made when it is needed; None is a folder that goes with this process.
      most_bytes: size of the folder.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES):
        self._folder = folder or Path(tempfile.mkdtemp(prefix="vmr_jax_"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._most = most_bytes
        self._size: int | None = None  # bytes in the folder
        self._lock = threading.Lock()

    def get(self, file: Path, second: float) -> bytes:
        """The picture at a second as JPEG; UserError for a file that cannot be read."""
        second = max(0.0, int(second / _STEP) * _STEP)
        kept = self._place(file, second)
        try:
            content = kept.read_bytes()
            os.utime(kept)
            return content
        except OSError:
            content = still(file, second)
        try:
            self._keep(kept, content)
        except OSError:
            pass
        return content

    def _place(self, file: Path, second: float) -> Path:
        try:
            state = file.stat()
        except OSError as error:
            raise UserError(f"{file.name} cannot be read ({error.strerror}).") from None
        of = f"{file.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\0{second:.1f}"
        return self._folder / f"{hashlib.sha256(of.encode(errors='surrogateescape')).hexdigest()[:40]}.jpg"

    def _keep(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{threading.get_ident()}")
        part.write_bytes(content)
        os.replace(part, path)
        with self._lock:
            if self._size is None:
                self._size = sum(size for _, size, _ in self._kept())
            else:
                self._size += len(content)
            if self._size > self._most:
                self._size = self._drop()

    def _kept(self) -> list[tuple[float, int, Path]]:
        """When each was asked for last, its size, its file."""
        found = []
        for path in self._folder.glob("*.jpg"):
            try:
                state = path.stat()
            except OSError:
                continue
            found.append((state.st_mtime, state.st_size, path))
        return found

    def _drop(self) -> int:
        """Deletes those that were not asked for longest, until three quarters are left; bytes that are left."""
        kept = sorted(self._kept())
        size = sum(bytes_ for _, bytes_, _ in kept)
        for _, bytes_, path in kept:
            if size <= 0.75 * self._most:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
        return size
