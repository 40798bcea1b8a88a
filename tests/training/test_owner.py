"""One owner of a run folder at a time, whatever becomes of it."""

import errno
import fcntl
import os
import re
import socket
import subprocess
import sys

import pytest

from vmr_jax.errors import UserError
from vmr_jax.training import owner
from vmr_jax.training.owner import OWNER, owned


def test_the_second_is_refused_by_name_and_the_next_is_not(tmp_path):
    with owned(tmp_path, "train") as writable:
        assert writable
        who = f"in use by process {os.getpid()} on host {re.escape(socket.gethostname())}"
        when = r" \(--mode=train, since 20.*wait until that one ends.*another --workdir"
        with pytest.raises(UserError, match=who + when):
            with owned(tmp_path, "evaluate", read_only=True):
                pass
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path, "train"):
        assert [path.name for path in tmp_path.iterdir()] == [OWNER]


def test_an_error_in_the_block_ends_it(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path, "train"):
        raise ZeroDivisionError
    with owned(tmp_path, "train"):
        pass


def test_a_killed_process_owns_nothing(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from vmr_jax.training.owner import owned\n"
        "with owned(Path(sys.argv[1]), 'train'): print('mine', flush=True); time.sleep(100)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid} on host"):
            with owned(tmp_path, "train"):
                pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (tmp_path / OWNER).is_file()  # left behind, and without effect
    with owned(tmp_path, "train"):
        pass


def test_file_removed_between_opening_and_lock_is_made_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(file, operation):
        if not calls:
            (tmp_path / OWNER).unlink()  # as the owner before does at its end
        calls.append(operation)
        flock(file, operation)

    monkeypatch.setattr(owner.fcntl, "flock", late)
    with owned(tmp_path, "train"):
        assert len(calls) == 2 and (tmp_path / OWNER).is_file()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, "_locked", refuse)
    with owned(tmp_path, "evaluate", read_only=True) as writable:
        assert not writable
    with pytest.raises(UserError, match=rf"cannot be written \({os.strerror(number)}\)"):
        with owned(tmp_path, "train"):
            pass


def test_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(owner.fcntl, "flock", refuse)
    with caplog.at_level("WARNING", logger="vmr_jax"), owned(tmp_path, "train") as writable:
        assert writable
    assert "knows no locks" in caplog.text
