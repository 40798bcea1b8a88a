"""Files of a run: JSON lines that survive a kill, and small JSON documents written whole.

`metrics.jsonl` holds only what is a function of the run's config: no clock, no speed. An interrupted and
resumed run therefore leaves the same bytes as an uninterrupted one. Speed goes to `timing.jsonl`.
"""

import json
import os
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import disk_error, plain, write_whole


def prepare_workdir(workdir: Path) -> None:
    """Creates the folder; raises UserError where it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_bytes(b"x" * 4096)
        probe.unlink(missing_ok=True)  # of several hosts another may have been faster
    except OSError as error:
        raise UserError(
            f"The working directory {workdir} cannot be written ({error.strerror or error}). Choose another "
            "with --workdir, or free space and check permissions."
        ) from None


class JsonLines:
    """Appends JSON objects to a file, each on disk before the call returns."""

    def __init__(self, path: Path, keep_until_step: int | None = None):
        """Opens for appending. Lines past `keep_until_step` (and a torn last line) are removed first."""
        self.path = path
        if keep_until_step is not None and path.exists():
            write_whole(path, "".join(_lines_until(path, keep_until_step)))
        self._file = path.open("ab", buffering=0)  # unbuffered: a failed write leaves nothing pending

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


def _lines_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # torn by a kill while writing; the resumed run writes it again
        if not line.endswith("\n") or row["step"] > step:
            break
        kept.append(line)
    return kept


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
