"""A CSV that grows by a line as soon as something is measured, and the time that is left to measure in.

Several programs may write one CSV, and read it meanwhile: each holds a lock of the file as it does, where the
file system has such locks, and lines come by one write.
"""

import contextlib
import csv
import errno
import fcntl
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vmr_jax.errors import UserError
from vmr_jax.files import disk_error

_NO_BREAK = "has no line break at its end"


class Lines:
    """The lines of a CSV; those of an earlier start stay, and are not measured again.

    Args:
      path: of the file; it need not exist.
      columns: its names.
      key: the columns that tell what is measured from what else is.

    Raises:
      UserError: where the file cannot be written or read, has other columns, or a line that is not whole.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]):
        self._path, self._columns, self._key = path, tuple(columns), tuple(key)
        self.rows: list[dict[str, str]] = []
        check_folder(path)
        if path.exists():
            columns, self.rows = _read(path)
            self._check_columns(columns)

    def find(self, *key: str) -> dict[str, str] | None:
        """The first line of this key; None where there is none."""
        of_key = (row for row in self.rows if tuple(row[column] for column in self._key) == key)
        return next(of_key, None)

    def has(self, *key: str) -> bool:
        """Whether a line of this key stands there."""
        return self.find(*key) is not None

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Appends lines, on disk when this returns."""
        rows = [{column: str(row.get(column, "")) for column in self._columns} for row in rows]
        with _writing(self._path, "a+b") as file:
            self._check_end(file)
            self._write(file, rows)
        self.rows += rows

    def drop(self, gone: Callable[[Mapping[str, str]], bool]) -> None:
        """Writes the file anew without the lines that are `gone`; those that came meanwhile stay.

        Its permissions stay too, and a link to it.
        """
        if not any(gone(row) for row in self.rows):
            return
        with _writing(self._path, "r+b") as file:  # NFS locks for a writer alone only what it may write
            columns, rows = _parsed(self._path, file.read())
            self._check_columns(columns)
            rows = [row for row in rows if not gone(row)]
            place = Path(os.path.realpath(self._path))
            beside = place.with_name(place.name + ".new")
            beside.unlink(missing_ok=True)
            with beside.open("ab") as anew:
                os.fchmod(anew.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
                self._write(anew, rows)
            beside.replace(place)
        self.rows = rows

    def _check_columns(self, columns: Sequence[str]) -> None:
        """UserError for other ones; an empty file, which has none, gets them at the first line."""
        if columns and columns != self._columns:
            raise UserError(
                f"{self._path} has other columns than {', '.join(self._columns[:5])}, ... It is of another "
                "program or version; give another file, or delete it."
            )

    def _check_end(self, file: BinaryIO) -> None:
        """UserError where another program was stopped amid a line, to which the next would be glued."""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                raise _not_whole(self._path, "The last line", _NO_BREAK)

    def _write(self, file: BinaryIO, rows: Iterable[Mapping[str, str]]) -> None:
        """Writes rows by one write, the columns before them where the file is empty; all of it or nothing."""
        size, text = os.fstat(file.fileno()).st_size, io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        if not size:
            writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        try:
            if os.write(file.fileno(), content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


@contextlib.contextmanager
def _writing(path: Path, mode: str) -> Iterator[BinaryIO]:
    """The file at a path, locked for one writer alone; UserError for what fails meanwhile."""
    try:
        with _locked(path, mode, alone=True) as file:
            yield file
    except OSError as error:
        raise disk_error(path, error) from None


@contextlib.contextmanager
def _locked(path: Path, mode: str, alone: bool) -> Iterator[BinaryIO]:
    """The file at a path, locked until the block is left: by one writer alone, or by readers together."""
    while True:
        with path.open(mode) as file:
            with contextlib.suppress(OSError):  # a network file system without locks
                fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            if _is_at(path, file):
                yield file
                return
        # `drop` has put another file in its place meanwhile.


def _is_at(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def check_folder(path: Path) -> None:
    """UserError where a file that is written at the end could not be, which is said at the beginning."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {folder}. Make it first.")
    if path.is_dir():
        raise UserError(f"{path} cannot be written: it is a folder. Give a file.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{path} cannot be written: that is not permitted. Give a file that you may write.")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV of another program; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"There is no file {path} (seen from {Path.cwd()}). Give the one of the lines to read.")
    return _read(path)[1]


def _read(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns and the lines; UserError for what is no text and for a line that is not whole."""
    try:
        with _locked(path, "rb", alone=False) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}. Expected is a CSV in UTF-8.") from None
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """What the bytes of a file hold, as `_read` returns it."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}. Expected is a CSV in UTF-8.") from None
    if text.isspace():
        raise UserError(f"{path} holds empty lines alone, and no names of columns. Delete it.")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise _not_whole(
                path, f"Line {reader.line_num}", f"has not the {len(reader.fieldnames or ())} columns"
            )
        rows.append(row)
    if text and not text.endswith("\n"):
        raise _not_whole(path, f"Line {reader.line_num}", _NO_BREAK)
    return tuple(reader.fieldnames or ()), rows


def _not_whole(path: Path, which: str, why: str) -> UserError:
    return UserError(
        f"{which} of {path} {why}: what wrote it was stopped amid it. Complete the line or delete it."
    )


class Clock:
    """The time of a program, shared by its stages; what one leaves goes to those after it.

    Args:
      seconds: of all stages together.
      shares: stage -> its part, in the order in which they come.
    """

    def __init__(self, seconds: float, shares: Mapping[str, float]):
        self._begin, self._shares, self.seconds = time.monotonic(), dict(shares), seconds

    def left(self, stage: str) -> float:
        """Seconds until the end of a stage."""
        names = [*self._shares]
        until = sum(self._shares[name] for name in names[: names.index(stage) + 1])
        share = until / sum(self._shares.values())
        return self._begin + share * self.seconds - time.monotonic()
