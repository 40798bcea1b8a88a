"""Pieces of the features of a file that is still being encoded: a killed process loses seconds, not hours.

  begun/CONTENT-ENCODER/00000000.npz    rows from this one on, and the frames behind the last of them
  begun/CONTENT-ENCODER/file.json       where the file lay, its size and time

A piece ends where a chunk of frames does, and is never changed. Who goes on reads the last of those chunks
again: its frames must be the same, to the bit, or the file is read from its beginning.
"""

import hashlib
import json
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.files import past_race, plain, read_json, write_json
from vmr_jax.video.decode import CHUNK
from vmr_jax.video.manifest import Manifest

BEGUN = "begun"  # folder of a library
_SECONDS = 10.0  # of work that a piece holds
_ROWS = 64 * CHUNK  # that it has at most, so that they fit into memory
_FILE = "file.json"
_SUFFIX = ".npz"


class Pieces:
    """The pieces of a file; several processes may write the same ones.

    Args:
      library: the folder.
      content: SHA-256 of the file.
      file: its path.
      stat: its size, and the time of its last change.
      encoder: identity, rate and width of the encoder, as the manifest has them.

    Attributes:
      rows: number of rows of the pieces.
      resumed: whether some were there already.
    """

    def __init__(
        self, library: Path, content: str, file: str, stat: tuple[int, int], encoder: tuple[Any, float, int]
    ):
        self._folder = library / BEGUN / f"{content}-{encoder_key(*encoder)}"
        self._file = {"file": file, "size": stat[0], "modified": stat[1]}
        self._dim = encoder[2]
        self._new: list[np.ndarray] = []
        self._since = time.monotonic()
        self.rows, self.resumed, self._seen = 0, False, ""

    def read(self) -> Iterator[np.ndarray]:
        """The rows [n,D] of each piece that follows the one before; `rows` is then their number."""
        while (found := self._read(self._folder / _name(self.rows))) is not None:
            rows, self._seen = found
            self.rows += len(rows)
            yield rows
        self.resumed = self.rows > 0
        if self.resumed:
            write_json(self._folder / _FILE, self._file)  # it may have been moved

    def follows(self, frames: np.ndarray) -> bool:
        """Whether frames [n,H,W,3] are those of the last chunk of the pieces that were read."""
        return _digest(frames) == self._seen

    def add(self, vectors: np.ndarray, frames: np.ndarray) -> None:
        """Takes the vectors [n,D] of a chunk of frames [n,H,W,3]; now and then they become a piece."""
        self._new.append(vectors)
        rows = sum(map(len, self._new))
        if len(frames) == CHUNK and (time.monotonic() - self._since >= _SECONDS or rows >= _ROWS):
            self._write(np.concatenate(self._new).astype("<f4"), _digest(frames))
            self.rows += rows
            self._new, self._since = [], time.monotonic()

    def remove(self) -> None:
        """Deletes the pieces."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.rows, self.resumed, self._seen, self._new = 0, False, "", []

    def _read(self, path: Path) -> tuple[np.ndarray, str] | None:
        """Rows and digest of a piece; None where there is none, or a damaged one."""
        try:
            rows, seen = past_race(lambda: _arrays(path))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        whole = rows.shape[1:] == (self._dim,) and rows.dtype == np.float32 and len(rows) > 0
        return (rows, seen) if whole and len(rows) % CHUNK == 0 else None

    def _write(self, rows: np.ndarray, seen: str) -> None:
        """Writes a piece, whole or not at all."""
        if not (self._folder / _FILE).exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / _FILE, self._file)
        path = self._folder / _name(self.rows)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, rows=rows, seen=np.array(seen))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def encoder_key(identity: Any, rate: float, dim: int) -> str:
    """A short name of an encoder; no other one has it."""
    return hashlib.sha256(json.dumps(plain([identity, rate, dim]), sort_keys=True).encode()).hexdigest()[:16]


def clear_pieces(library: Path, manifest: Manifest, coming: Collection[str]) -> None:
    """Deletes the pieces of what is encoded, of other encoders, and of files that are gone.

    Args:
      library: the folder.
      manifest: of it.
      coming: contents that are being encoded.
    """
    key = encoder_key(manifest.encoder, manifest.rate, manifest.dim)
    done = manifest.by_content()
    for folder in (library / BEGUN).glob("*"):
        content, _, of = folder.name.partition("-")
        if of != key or content in done or (content not in coming and not _is_there(folder)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_there(folder: Path) -> bool:
    """Whether the file of these pieces is as it was."""
    try:
        noted = read_json(folder / _FILE)
        found = os.stat(noted["file"])
        return [found.st_size, found.st_mtime_ns] == [noted["size"], noted["modified"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _name(row: int) -> str:
    return f"{row:08d}{_SUFFIX}"


def _digest(frames: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def _arrays(path: Path) -> tuple[np.ndarray, str]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as piece:  # checks checksums
        return piece["rows"], str(piece["seen"])
