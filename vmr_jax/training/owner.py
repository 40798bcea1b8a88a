"""A run folder has one owner at a time: two that write to it at once would destroy each other's checkpoints."""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vmr_jax.errors import UserError
from vmr_jax.files import read_json
from vmr_jax.parallel import is_lead_host, lead_says

log = logging.getLogger("vmr_jax")

OWNER = ".owner"  # in the folder, while it has an owner
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def owned(workdir: Path, mode: str, read_only: bool = False) -> Iterator[bool]:
    """Owns a folder for the time of the block, which gets whether it can be written.

    The lock is the operating system's (flock), so that it ends with the process, however that ends. The hosts
    of one run own the folder together: the lead host takes it.

    Args:
      workdir: the folder, which exists.
      mode: of launch.py, for the message of those who come second.
      read_only: a folder that cannot be written is no error; nobody owns it then.

    Raises:
      UserError: on all hosts, where another process owns the folder, or where it cannot be written.
    """
    file, problem = None, ""
    if is_lead_host():
        try:
            file = _locked(workdir / OWNER)
            problem = "" if file is not None else _in_use(workdir, mode)
        except OSError as error:
            if not (read_only and error.errno in _READ_ONLY):
                why = error.strerror or error
                problem = f"{workdir} cannot be written ({why}). Choose another {_flag(mode)}."
    problem = lead_says(problem)
    if problem:
        raise UserError(problem)
    if file is None:
        yield not is_lead_host()
        return
    with os.fdopen(file, "r+b") as owner:
        _describe(owner, mode)
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                (workdir / OWNER).unlink()  # before the lock ends: who comes next makes a new file


def _locked(path: Path) -> int | None:
    """The descriptor of the locked file; None where another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            log.warning("%s knows no locks: see to it that no other process writes to it", path.parent)
            return file
        if _is_file(path, file):
            return file
        os.close(file)  # its owner has removed it between the opening and the lock


def _is_file(path: Path, file: int) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _describe(owner: BinaryIO, mode: str) -> None:
    """Writes who owns the folder, for the message of those who come second."""
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    who = {"mode": mode, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # a full disk: whoever writes next says so
        owner.truncate(0)
        owner.write(json.dumps(who).encode())
        owner.flush()


def _flag(mode: str) -> str:
    """The flag that names the folder."""
    return "--library" if mode == "ingest" else "--workdir"


def _in_use(workdir: Path, mode: str) -> str:
    """The message for those who come second."""
    try:
        who = read_json(workdir / OWNER)
        owner = f"process {who['pid']} on host {who['host']} (--mode={who['mode']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        owner = "another process"  # which has only just come, or is about to go
    work = "videos" if mode == "ingest" else "checkpoints"
    return (
        f"{workdir} is in use by {owner}. Two at once would destroy each other's {work}: wait until that one "
        f"ends, end it, or choose another {_flag(mode)}."
    )
