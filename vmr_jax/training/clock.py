"""A training loop's view of itself: speed, progress, a trace."""

import contextlib
import logging
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vmr_jax.errors import UserError
from vmr_jax.parallel import is_lead_host

log = logging.getLogger("vmr_jax")


_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


def seconds_of(text: str, field: str) -> float:
    """Turns '10 minutes' (seconds, hours; fractions allowed) into seconds; UserError names `field`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(second|minute|hour)s?\s*", str(text))
    if not match:
        raise UserError(
            f"{field} is \"{text}\"; write a number and a unit, such as '10 minutes' or '90 seconds'."
        )
    return float(match[1]) * _SECONDS[match[2]]


class Clock:
    """Steps per second without compilation (the first step) and without evaluation."""

    def __init__(self, batch_size: int):
        self.steps, self._batch_size, self._busy = 0, batch_size, 0.0
        self._since, self._paused = time.perf_counter(), False
        self.first_step_seconds = 0.0

    def tick(self) -> None:
        """Counts a step; the first one is that of the compilation."""
        self.steps += 1
        if self.steps == 1:
            self.first_step_seconds = time.perf_counter() - self._since
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the time, for an evaluation."""
        self._busy += time.perf_counter() - self._since
        self._paused = True

    def resume(self) -> None:
        """Goes on after an evaluation."""
        self._since, self._paused = time.perf_counter(), False

    def examples_per_second(self) -> float:
        """Speed since the first step; 0 before the second."""
        busy = self._busy + (0.0 if self._paused else time.perf_counter() - self._since)
        return (self.steps - 1) * self._batch_size / busy if self.steps > 1 else 0.0

    def summary(self) -> dict[str, float]:
        """The numbers of a line of timing.jsonl."""
        busy = max(self._busy, 1e-9)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_bytes = peak if sys.platform == "darwin" else peak * 1024
        return {
            "compile_seconds": self.first_step_seconds,
            "steps_per_second": (self.steps - 1) / busy,
            "examples_per_second": (self.steps - 1) * self._batch_size / busy,
            "peak_host_memory_gib": peak_bytes / 2**30,
        }


class Profiler:
    """Traces ten steps after the first two where `config.profile` is set."""

    def __init__(self, enabled: bool, workdir: Path, first: int):
        self._start, self._stop = first + 3, first + 13
        self._enabled, self._folder, self._running = enabled, workdir / "profile", False

    def before(self, step: int) -> None:
        """Starts or ends the trace, where it is time to."""
        if self._enabled and step == self._start:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if self._running and step == self._stop:
            self.close()

    def close(self) -> None:
        """Ends the trace, where one runs."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            log.info("Trace of ten steps in %s", self._folder)


@contextlib.contextmanager
def progress_bar(first: int, total: int) -> Iterator[Callable[[int, float, float], bool]]:
    """A bar with step, loss, examples/s and time left; nothing where output is not a terminal.

    The function that it gives says whether there is one.
    """
    bar = Progress(
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:.0f} examples/s"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        transient=True,
        disable=not (sys.stdout.isatty() and is_lead_host()),
    )
    task = bar.add_task("train", total=total, completed=first, loss=0.0, speed=0.0)

    def show(step: int, loss: float, speed: float) -> bool:
        bar.update(task, completed=step, loss=loss, speed=speed)
        return not bar.disable

    with bar:
        yield show
