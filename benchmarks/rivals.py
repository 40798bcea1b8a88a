"""A step of PyTorch in a process of its own, with the memory and the threads that its users have."""

import contextlib
import multiprocessing
import os
import signal
from typing import Any, Self

from program import users_environment
from training_steps import TorchStep


class RivalFailed(Exception):
    """What PyTorch has raised, in a line."""


class RivalStep:
    """`TorchStep` in another process, from `with` on; when the block is left, that process ends.

    In this process it would share what serves ours: pages of 2 MiB, and memory that is kept from one step to
    the next. A call takes one step there, and waits for it without using a core. The weights are those of every
    `TorchStep` of these arguments.

    Args:
      name: of the architecture.
      config: of the twin.
      batch: numpy arrays.
      compiled: as `TorchStep` takes it.
      threads: number of threads of PyTorch.

    Raises:
      RivalFailed: what PyTorch raises, when the twin is built and at each step.
    """

    def __init__(self, name: str, config: Any, batch: Any, compiled: bool, threads: int):
        self._given = (name, config.copy_and_resolve_references(), batch, compiled, threads)

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_take_steps, args=(other, *self._given), daemon=True)
        with users_environment():
            self._process.start()
        other.close()
        try:
            self._answer()  # the twin is built
        except BaseException:
            self.__exit__()
            raise
        return self

    def __call__(self) -> float:
        """The loss before the update."""
        try:
            self._connection.send(None)
        except ConnectionError:  # `_answer` says how it has ended
            pass
        return self._answer()

    def _answer(self) -> float:
        try:
            loss, error = self._connection.recv()
        except (EOFError, ConnectionError):  # and not OSError, as a TimeoutError of the caller is one
            self._process.join()
            raise RivalFailed(f"its process ended with status {self._process.exitcode}") from None
        if error:
            raise RivalFailed(error)
        return loss

    def __exit__(self, *_) -> None:
        self._connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with a compiler that it may have started
        self._process.kill()
        self._process.join()


def _take_steps(connection: Any, name: str, config: Any, batch: Any, compiled: bool, threads: int) -> None:
    """Sends (0, '') when the twin is built, then (loss, '') for each message; where it fails (0, the error)."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the other side answers
    with contextlib.suppress(EOFError, BrokenPipeError):  # the other side has ended
        try:
            step = TorchStep(name, config, batch, compiled=compiled)
            step.torch.set_num_threads(threads)
            connection.send((0.0, ""))
            while True:
                connection.recv()
                connection.send((step(), ""))
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:  # whatever PyTorch raises
            connection.send((0.0, in_a_line(error)))


def in_a_line(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]
