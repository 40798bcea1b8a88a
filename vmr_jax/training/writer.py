"""Files of a run: JSON lines that survive a kill, and small JSON documents written whole.

`metrics.jsonl` holds only what is a function of the run's config: no clock, no speed. An interrupted and
resumed run therefore leaves the same bytes as an uninterrupted one. Speed goes to `timing.jsonl`.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import disk_error, plain, read_lines, write_whole


def prepare_workdir(workdir: Path) -> None:
    """Creates the folder; raises UserError where it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir, buffering=0) as probe:
            probe.write(b"x" * 4096)
    except OSError as error:
        raise UserError(
            f"The working directory {workdir} cannot be written ({error.strerror or error}). Choose another "
            "with --workdir, or free space and check permissions."
        ) from None


@contextlib.contextmanager
def prepared_workdir(workdir: Path) -> Iterator[None]:
    """Creates the folder, and removes it where the block leaves it empty: no run has begun then."""
    made = not workdir.exists()
    prepare_workdir(workdir)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                workdir.rmdir()


class JsonLines:
    """Appends JSON objects to a file, each on disk before the call returns."""

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool] | None = None):
        """Opens for appending; rows that are not to be kept, and damaged lines, are removed first."""
        self.path = path
        try:
            if keep is not None:
                rows = read_lines(path) if path.exists() else []
                write_whole(path, "".join(json.dumps(row) + "\n" for row in rows if keep(row)))
            self._file = path.open("ab", buffering=0)  # unbuffered: a failed write leaves nothing pending
        except OSError as error:
            raise disk_error(path, error) from None

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line; raises UserError where the disk is full."""
        try:
            self._file.write((json.dumps(plain(row)) + "\n").encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class NoLines:
    """In place of `JsonLines` on the hosts that write nothing."""

    def write(self, row: dict[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
