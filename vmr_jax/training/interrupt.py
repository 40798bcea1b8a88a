"""Ctrl-C (SIGINT) and SIGTERM, which schedulers send before they take a machine away.

A training run finishes its step and saves before it ends. Everything else ends at once: what is on disk is
whole at every instant. Nothing here imports JAX, as the command asks for it first.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

NAMES = {int(signal.SIGINT): "Ctrl-C", int(signal.SIGTERM): "SIGTERM"}
_SAME = 1.0  # seconds within which a second signal is the first: terminals and launchers both send one


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, told in one line already or not (`told`)."""

    told = False


class Terminated(SystemExit):
    """SIGTERM: the process ends with status 143."""

    told = False


class Signals:
    """The signals of a process, and their consequences.

    Attributes:
      received: the number of the first signal that came; 0 before.
      saves: True while a signal is only noted, because who runs looks at `received` after each step.
      advice: what the one line of an interruption says after its first sentence.
    """

    def __init__(self) -> None:
        self.received, self.saves, self.advice = 0, False, ""
        self._watched = False
        self._first: float | None = None  # when the first one came

    def install(self) -> None:
        """Takes the signals; again where another library, such as JAX with several hosts, has taken them."""
        for number in NAMES:
            signal.signal(number, self._handle)

    def line(self, number: int) -> str:
        """The one line of a process that ends at once."""
        return f"Stopped by {NAMES[number]}. {self.advice}".strip()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = self.received or number
        if not self._watched and (self._is_second(number) or not self.saves):
            raise error_of(number)

    def _is_second(self, number: int) -> bool:
        """Notes a signal; whether it is another one than the first."""
        now = time.monotonic()
        if self._first is None:
            self.received, self._first = number, now
            if self.saves:
                _say(f"{NAMES[number]}: finishing the step and saving. A second one stops at once.")
            return False
        return now - self._first > _SAME

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Signals are only noted inside: who runs looks at `received`, and ends by `end`."""
        self.saves = True
        try:
            yield
        finally:
            self.saves = False

    def end(self) -> None:
        """Raises for a signal that was noted; nothing where none came."""
        if self.received:
            raise error_of(self.received)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Signals are acted on at once inside, also while Python would not notice them.

        It does not while compiled code runs, and an exception amid the import of a library is swallowed or ends
        in a crash. The process ends as if it had been killed, which every file on disk bears.
        """
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(ours,), daemon=True).start()
        self._watched = True
        try:
            yield
        finally:
            self._watched = False
            signal.set_wakeup_fd(before)
            theirs.close()

    def _watch(self, ours: socket.socket) -> None:
        with ours:
            while numbers := ours.recv(1):
                if numbers[0] in NAMES and (self._is_second(numbers[0]) or not self.saves):
                    _say(self.line(numbers[0]))
                    os._exit(128 + numbers[0])


def error_of(number: int) -> Interrupted | Terminated:
    """The exception of a process that ends because of a signal."""
    return Interrupted() if number == signal.SIGINT else Terminated(128 + number)


_of_command: list[Signals] = []


@contextlib.contextmanager
def signals_of_command() -> Iterator[Signals]:
    """The signals of the command, from its first second to its end."""
    signals = Signals()
    signals.install()
    _of_command.append(signals)
    try:
        with signals.watched():
            yield signals
    finally:
        _of_command.remove(signals)


@contextlib.contextmanager
def signals_of_run() -> Iterator[Signals]:
    """The signals while a run is trained: the command's, or those of a program that calls `vmr_jax.fit`.

    The program's own handlers are back afterwards. Outside the main thread, where Python takes none, they stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Signals()
        return
    if _of_command:
        _of_command[0].install()
        yield _of_command[0]
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in NAMES}
    signals = Signals()
    signals.install()
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _say(line: str) -> None:
    """Writes a line past all buffers: a signal may come while another line is being written."""
    with contextlib.suppress(OSError, ValueError):
        file = sys.__stderr__.fileno() if sys.__stderr__ else 2
        os.write(file, f"{chr(10) if os.isatty(file) else ''}{line}\n".encode())
