"""Training steps and queries on the device that JAX has, training beside PyTorch: items of `accelerator.py`."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from items import Best, Line, Prepared, Rival, Size, digits, spread
from queries import Limits, largest, measured, of_queries, opened
from training_steps import (
    PUBLISHED,
    WORDS,
    OurStep,
    TorchStep,
    at_full_rate,
    in_turns,
    random_batch,
    random_variables,
)

from vmr_jax.input.spec import batch_spec
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.experiment import make_model
from vmr_jax.types import Batch

# Twins whose loss and gradients are compared with ours by tests/torch_import.
TWINS = ("two_d_tan", "mmn", "vslnet", "moment_detr")
_COMPILING = 60  # seconds that torch.compile may take


def argument(name: str, size: Size) -> str:
    """The argument of a config: its published setting, or the embedded test bed."""
    if not size.published:
        return "storyboard"
    if name in PUBLISHED:
        return PUBLISHED[name][0]
    datasets = importlib.import_module(f"vmr_jax.configs.{name}").DATASETS
    return "charades_sta" if "charades_sta" in datasets else "tvr"


def make_config(name: str, dtype: str, size: Size):
    """The config of an architecture on one device."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(argument(name, size))
    config.dtype, config.num_devices = dtype, 1
    config.batch_size = size.batch or config.batch_size
    at_full_rate(config)
    return config


@dataclasses.dataclass
class Training:
    """Steps a second of an architecture.

    Attributes:
      name: of the architecture.
      dtype: of its computation.
      size: which setting.
      best: what the device can do.
      rival: PyTorch.
      seconds: in which each is timed.
      left: seconds that are left for training.
    """

    name: str
    dtype: str
    size: Size
    best: Best
    rival: Rival
    seconds: float
    left: Callable[[], float]

    def __post_init__(self):
        self._config = make_config(self.name, self.dtype, self.size)
        setting = f"{argument(self.name, self.size)}; batch {self._config.batch_size}"
        self.key = ("training", self.name, setting, self.dtype)

    def prepare(self) -> Prepared:
        """Our step."""
        config = self._config
        model = make_model(config, WORDS)
        spec = batch_spec(config, config.batch_size, model.requires())
        batch = random_batch(spec, config.input.queries_per_video)
        ours = OurStep(config, model, random_variables(abstract_variables(model, spec)), batch)
        return Prepared([ours.lowered], functools.partial(self._lines, ours, batch))

    def _lines(self, ours: OurStep, batch: Batch, compiled: Sequence[Any]) -> list[Line]:
        """Steps a second, ours and PyTorch's in turns."""
        ours.start(*compiled)
        rivals, notes = self._rivals(batch)
        ours()
        seconds, *others = in_turns([ours, *rivals.values()], 100, self.seconds * (1 + len(rivals)))
        median = float(np.median(seconds))
        line = {"quantity": "steps", "unit": "steps/s", **spread(seconds, rate=True)}
        line |= self.best.parts(median, ours.flops, ours.bytes, self.dtype)
        for kind, of_other in zip(rivals, others, strict=True):
            line[f"torch_{kind}"] = digits(1 / float(np.median(of_other)))
            line[f"times_{kind}"] = digits(float(np.median(np.asarray(of_other) / np.asarray(seconds))))
        return [{**line, "note": "; ".join(notes)}]

    def _rivals(self, batch: Batch) -> tuple[dict[str, TorchStep], list[str]]:
        """Steps of PyTorch that have run once, by kind, and why others are not there."""
        if self.name not in TWINS:
            return {}, ["no reference to train in PyTorch"]
        if self.rival.torch is None:
            return {}, [self.rival.absent]
        rivals, notes = {}, []
        for kind in ("eager", "compiled"):
            if kind == "compiled" and self.left() < _COMPILING:
                notes.append("no time for torch.compile; a start without this line tries it again")
                continue
            try:
                step = TorchStep(
                    self.name, self._config, batch, dtype=self.dtype,
                    device=self.rival.device, compiled=kind == "compiled",
                )  # fmt: skip
                step()
                step()
                rivals[kind] = step
            except Exception as error:  # whatever PyTorch raises, ours is measured
                notes.append(f"PyTorch, {kind}: {first_line(error)}")
        return rivals, notes


@dataclasses.dataclass
class Query:
    """Milliseconds of a query by stage, as `latency.py` measures them."""

    name: str
    dtype: str
    size: Size
    best: Best
    seconds: float

    def __post_init__(self):
        self.key = ("query", self.name, argument(self.name, self.size), self.dtype)

    def prepare(self) -> Prepared:
        """Nothing: what is compiled next depends on what was measured."""
        return Prepared([], self._lines)

    def _lines(self, compiled: Sequence[Any]) -> list[Line]:
        """What is done once a video, then text encoding and matching for each number of queries."""
        stages, variables, video, query = opened(make_config(self.name, self.dtype, self.size))
        limits = Limits(100, self.seconds, memory_gib=8.0)
        encoded = measured(limits, stages.video, variables, video)
        lines = [self._line("once a video", encoded, 1)]
        alone = of_queries(stages, variables, encoded.result, query, 1, limits)
        for asked in self.size.queries:
            count = largest(asked, *alone, limits)
            given = (stages, variables, encoded.result, query, count, limits)
            parts = alone if count == 1 else of_queries(*given)
            at_once = f"{count} at once" + (f" for {asked}" if count != asked else "")
            names = ("text encoding", "matching")
            lines += [self._line(f"{x}, {at_once}", part, count) for x, part in zip(names, parts, strict=True)]
        return lines

    def _line(self, quantity: str, stage: Any, count: int) -> Line:
        median = float(np.median(stage.seconds))
        line = {"quantity": quantity, "unit": "ms", **spread(stage.seconds, 1e3 / count)}
        return line | self.best.parts(median, stage.flops, stage.traffic, self.dtype)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, at most 200 characters."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
