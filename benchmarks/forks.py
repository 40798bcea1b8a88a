"""Forks of a program that kills them: each ends with the program, however that ends."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Self

FAILED = 70  # exit status after an exception


class Fork:
    """A fork of this process, which does some work from `with` on; when the block is left, it is killed.

    Attributes:
      pid: its number.
      status: its exit status, the negative number of the signal that ended it; None before `poll` saw its end.

    Args:
      work: called in the fork with the file descriptor of a pipe, into which it writes lines of text.
    """

    def __init__(self, work: Callable[[int], None]):
        self._work = work
        self.pid, self.status = 0, None

    def __enter__(self) -> Self:
        came: list[int] = []  # an exception amid a fork would be swallowed, or leave it behind
        before = {
            number: signal.signal(number, lambda number, _: came.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._fork(before[signal.SIGINT])
        try:
            for number, handler in before.items():
                signal.signal(number, handler)
            for number in came:
                signal.raise_signal(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def _fork(self, interrupted) -> None:
        self._told, tell = os.pipe()
        os.set_blocking(self._told, False)
        self.pid = os.fork()
        if not self.pid:
            _end_after(self._work, tell, interrupted)
        os.close(tell)

    def _end(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self._told)

    def news(self) -> list[str]:
        """The lines that it has written since the last time."""
        try:
            return os.read(self._told, 1 << 16).decode().split("\n")[:-1]
        except BlockingIOError:
            return []

    def poll(self) -> int | None:
        """The exit status; None where it has not ended."""
        return self._look(os.WNOHANG)

    def wait(self) -> int | None:
        """The exit status, once it has ended."""
        return self._look(0)

    def _look(self, options: int) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, options)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status


def _end_after(work: Callable[[int], None], tell: int, interrupted) -> None:
    """Does the work, and never returns to what the process was before it forked."""
    status = FAILED
    try:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the program's own way to end
        work(tell)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(status)


def _leave(status: int) -> None:
    """Ends the process, also where what it has printed cannot be written: status `FAILED` in place of 0."""
    left = status or FAILED
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        left = status
    finally:
        os._exit(left)
