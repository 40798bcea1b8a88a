"""Small files, written whole or not at all, and the message where that fails."""

import errno
import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from vmr_jax.errors import UserError

log = logging.getLogger("vmr_jax")

_T = TypeVar("_T")

_PART = 1 << 24  # bytes that are read at once for a checksum
_RACE = "AST constructor recursion depth mismatch"
_TRIES = 10
MOST_BYTES = 2**30  # of a file that is read at once, packed or not: a small packed one can claim terabytes


def last_name(path: str) -> str:
    """The name of a file or folder without those that it is in; also of '.' and 'runs/..'."""
    return os.path.basename(os.path.abspath(path)) if path else ""


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON document, whole or not at all."""
    write_whole(path, json.dumps(plain(document), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    r"""Writes a text file by way of a temporary one, so that it is never half there.

    Half of a surrogate pair, which UTF-8 cannot hold, is written as JSON writes it: \ud800.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a link, through which another file would be written
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from None


def content_of(path: Path) -> bytes:
    """The bytes of a file that is read at once; OSError for what is none, such as a pipe or a device.

    Those would be waited for, or read, for ever; a folder that comes from someone else can hold them.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as file:
        # Python allots what may be read before it reads: what there is, and not the limit, is asked for.
        content = file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES) + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES / 2**30:g} GiB", str(path))
    return content


def past_race(read: Callable[[], _T]) -> _T:
    """Returns what `read` does, which reads arrays of NumPy, whose headers are parsed as Python.

    Until 3.11.8 and 3.12.2 Python says SystemError where two threads parse at once (gh-106905): it is then read
    again. Any other error is raised.
    """
    for _ in range(_TRIES - 1):
        try:
            return read()
        except SystemError as error:
            if _RACE not in str(error):
                raise
    return read()


def require_file(path: Path) -> None:
    """Raises UserError for what is there and no file: a folder, or a pipe or device, which would never end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a folder, a pipe or a device; a file is expected. Give its path.")


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark; OSError and ValueError alone."""
    return parsed(content_of(path).decode("utf-8-sig"))


def parsed(text: str | bytes, object_of: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text; ValueError for all that is none, thousands of brackets in each other too.

    Args:
      text: the JSON.
      object_of: makes an object of its (key, value) pairs; None makes dictionaries.
    """
    try:
        return json.loads(text, object_pairs_hook=object_of)
    except RecursionError:
        raise ValueError("it has more brackets within each other than can be read") from None


def open_lock(path: Path) -> BinaryIO:
    """Opens a file to be locked, empty or not; OSError for a link, through which another file would be held."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644), "r+b")


def saved_instead(head: bytes) -> str:
    """The kind of a file, and what to do, where it is not what was asked for; '' elsewhere.

    Args:
      head: the first bytes of the file, 1,000 are enough.
    """
    start = head[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return (
            "is a pointer of Git LFS and not the file itself. Install git-lfs, and give the command git lfs "
            "pull in the clone that it is from."
        )
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")) or b"<html" in start:
        return (
            "is a web page that was saved in place of the file, such as a question to confirm a download. Get "
            "the file again with a browser, and compare its size with that of the source."
        )
    return ""


def disk_error(path: Path, error: OSError) -> UserError:
    """The message for a file that could not be written."""
    return UserError(
        f"{path} could not be written ({error.strerror or error}). What was saved before is intact; free "
        "space or fix permissions and give the same command again to resume."
    )


def plain(value: Any) -> Any:
    """Turns numpy scalars and arrays, tuples and nested containers into what JSON knows."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value


def crc32_of_file(path: Path) -> int:
    """Checksum of the bytes of a file of any size."""
    found = 0
    with path.open("rb") as file:
        while part := file.read(_PART):
            found = zlib.crc32(part, found)
    return found


def crc32_of_document(document: Any) -> int:
    """Checksum of what is written as JSON, whatever the order of its keys."""
    return zlib.crc32(json.dumps(plain(document), sort_keys=True).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file; damaged lines are left out, and named in the log.

    What follows the last line break is no line: a kill has torn it.
    """
    *lines, _ = content_of(path).split(b"\n")
    rows, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = parsed(line) if line.strip() else None
        except ValueError:  # no JSON, or no UTF-8
            row = line
        if isinstance(row, dict):
            rows.append(row)
        elif row is not None:
            damaged.append(str(number))
    if damaged:
        log.warning("%s is damaged: line %s is no JSON object and is left out", path, ", ".join(damaged[:20]))
    return rows
