"""A step of PyTorch in a process of its own, with the memory and the threads that its users have."""

import contextlib
import multiprocessing
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any, Self

from program import child, users_environment
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

    Attributes:
      process: that takes the steps.

    Raises:
      RivalFailed: what PyTorch raises, when the twin is built and at each step.
    """

    def __init__(self, name: str, config: Any, batch: Any, compiled: bool, threads: int):
        self._given = (name, config.copy_and_resolve_references(), batch, compiled, threads)

    def __enter__(self) -> Self:
        self._connection, other = multiprocessing.Pipe()
        handed = other.fileno()
        command, environment = [sys.executable, __file__, str(handed)], users_environment()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._connection)
            with other:
                started = child(command, stdin=subprocess.DEVNULL, pass_fds=[handed], env=environment)
                self.process = stack.enter_context(started)
            self._asked(self._given)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._ended.close()

    def __call__(self) -> float:
        """The loss before the update."""
        return self._asked(None)

    def _asked(self, message: Any) -> float:
        try:
            self._connection.send(message)
            loss, error = self._connection.recv()
        except (EOFError, ConnectionError):  # and not OSError, as a TimeoutError of the caller is one
            raise RivalFailed(f"its process ended with status {self.process.wait()}") from None
        if error:
            raise RivalFailed(error)
        return loss


def take_steps(connection: Connection) -> None:
    """Answers each message with (loss, error or ''); the first is what `TorchStep` takes, its loss 0."""
    try:
        name, config, batch, compiled, threads = connection.recv()
        step = TorchStep(name, config, batch, compiled=compiled)
        step.torch.set_num_threads(threads)
        connection.send((0.0, ""))
        while True:
            connection.recv()
            connection.send((step(), ""))
    except (EOFError, ConnectionError):  # the other side has ended
        pass
    except Exception as error:  # whatever PyTorch raises
        connection.send((0.0, in_a_line(error)))


def in_a_line(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


if __name__ == "__main__":
    take_steps(Connection(int(sys.argv[1])))
