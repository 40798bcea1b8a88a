"""The news of a run while it trains: metrics.jsonl, timing.jsonl, the log and the bar."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vmr_jax.parallel import is_lead_host
from vmr_jax.training.clock import Clock, progress_bar
from vmr_jax.training.writer import JsonLines, NoLines

log = logging.getLogger("vmr_jax")


class Journal:
    """The files of one run's training, open as long as the block of its `with`.

    Attributes:
      clock: of the steps; who evaluates pauses it.
    """

    def __init__(
        self,
        workdir: Path,
        first: int,
        total: int,
        steps_per_epoch: int,
        log_every: int,
        batch_size: int,
        evaluated: bool = True,
        tensorboard: bool = False,
    ):
        """Opens the files, without what they hold past the step that is resumed from.

        Args:
          workdir: folder of the run.
          first: the step that is resumed from.
          total: the last step.
          steps_per_epoch: training batches in an epoch.
          log_every: steps from one line of losses to the next.
          batch_size: rows of a batch.
          evaluated: False where the step that is resumed from is yet to be evaluated.
          tensorboard: whether events go to WORKDIR/tensorboard too.
        """
        self._total, self._steps_per_epoch, self._log_every = total, steps_per_epoch, log_every
        self._metrics = _lines(workdir / "metrics.jsonl", first, evaluated)
        self._timing = _lines(workdir / "timing.jsonl", first)
        self._open = contextlib.ExitStack()
        self._show = self._open.enter_context(progress_bar(first, total))
        self._open.callback(self._metrics.close)
        self._open.callback(self._timing.close)
        self._events: Any = None
        if tensorboard and is_lead_host():
            import tensorboardX

            self._events = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=first + 1)
            self._open.callback(self._events.close)
        self.clock = Clock(batch_size)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the loss of a step, and writes the line of every `log_every`-th."""
        speed = self.clock.examples_per_second()
        shown = self._show(step, values["train/loss"], speed)
        if step % self._log_every == 0:
            self._write(step, values)
            if not shown:
                log.info(
                    "step %d of %d: loss %.4f, %.0f examples/s", step, self._total, values["train/loss"], speed
                )

    def evaluation(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of a split."""
        self._write(step, {f"{split}/{name}": value for name, value in values.items()})

    def saved(self, step: int, result: str) -> None:
        """Writes the speed up to a checkpoint, and tells its result."""
        self._timing.write({"step": step, **self.clock.summary()})
        speed = self.clock.examples_per_second()
        log.info(
            "epoch %g, step %d of %d: %s, %.0f examples/s", self._epoch(step), step, self._total, result, speed
        )

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.write({"step": step, "epoch": self._epoch(step), **values})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def _epoch(self, step: int) -> float:
        return round(step / self._steps_per_epoch, 4)


def _lines(path: Path, first: int, evaluated: bool = True) -> JsonLines | NoLines:
    """The lines of a file up to the step that is resumed from, where this host writes it."""
    if not is_lead_host():
        return NoLines()

    def keep(row: Mapping[str, Any]) -> bool:
        step = row.get("step")
        if type(step) is not int:
            return False
        return step < first or (step == first and (evaluated or "train/loss" in row))

    return JsonLines(path, keep)
