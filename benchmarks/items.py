"""What `accelerator.py` measures: the form of an item, the sizes, what is the best of the machine, PyTorch."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

STAGES = ("machine", "correctness", "training", "query", "search", "frames")
KEY = ("stage", "subject", "setting", "dtype")
COLUMNS = (
    *KEY, "quantity", "value", "unit", "p10", "p90", "of_copy", "of_matrix",
    "torch_eager", "torch_compiled", "times_eager", "times_compiled", "tolerance", "within", "note",
    "seconds", "command", "commit", "machine",
)  # fmt: skip
Line = dict[str, object]


class Item(Protocol):
    """Something to measure.

    Attributes:
      key: stage, subject, setting and dtype, as in the first of its lines.
    """

    key: tuple[str, str, str, str]

    def prepare(self) -> "Prepared":
        """What it needs, while nothing is timed."""


class Prepared(NamedTuple):
    """An item that is about to be measured.

    Attributes:
      programs: lowered ones, to be compiled beside those of other items.
      lines: measures, with the compiled programs; columns that it does not name are filled in.
    """

    programs: Sequence[Any]
    lines: Callable[[Sequence[Any]], list[Line]]


class Size(NamedTuple):
    """How large everything is.

    Attributes:
      copied: bytes that are copied.
      matrices: sides of the matrices that are multiplied.
      published: whether training and queries have the published sizes, or those of the embedded test bed.
      batch: rows of a training batch; 0 is the config's.
      queries: numbers of queries at once.
      rows: of an index.
      dim: D, numbers of a row.
      tower: fields of the image tower other than those of ViT-B/32.
      frames: numbers of frames at once.
    """

    copied: int
    matrices: tuple[int, ...]
    published: bool
    batch: int
    queries: tuple[int, ...]
    rows: tuple[int, ...]
    dim: int
    tower: dict[str, int]
    frames: tuple[int, ...]


SIZES = {
    "published": Size(2**30, (4096, 8192, 16384), True, 0, (1, 256), (10**6, 10**7), 512, {}, (32, 256)),
    "reduced": Size(2**28, (1024, 2048), False, 0, (1, 32), (10**5,), 512, {}, (8,)),
    "tiny": Size(2**20, (64,), False, 4, (1,), (2048,), 16, dict(features=64, layers=1, heads=1), (2,)),
}


class Rival(NamedTuple):
    """PyTorch: the module and its device, or None and why."""

    torch: Any
    device: str
    absent: str

    @classmethod
    def find(cls) -> "Rival":
        """The PyTorch that computes on what JAX computes on."""
        try:
            torch = importlib.import_module("torch")
        except ImportError as error:
            return cls(None, "", f"no PyTorch here ({error})")
        if jax.default_backend() == "cpu":
            return cls(torch, "cpu", "")
        if jax.default_backend() == "gpu" and torch.cuda.is_available():
            return cls(torch, "cuda", "")
        return cls(None, "", f"PyTorch {torch.__version__} does not see the {jax.default_backend()}")

    def wait(self) -> None:
        """Until its device has done all."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def free(self) -> None:
        """Gives memory of what was deleted back to the device, where JAX finds it."""
        if self.device == "cuda":
            self.torch.cuda.empty_cache()


class Best(NamedTuple):
    """What one device does at best: bytes copied a second, and operations a second by dtype."""

    copy: float
    matrix: dict[str, float]

    def parts(self, seconds: float, flops: float, traffic: float, dtype: str) -> Line:
        """Columns: the share of the copy bandwidth and of the matrix rate, by the compiler's counts."""
        parts = {"of_copy": traffic / seconds / self.copy}
        if dtype in self.matrix:
            parts["of_matrix"] = flops / seconds / self.matrix[dtype]
        return {name: digits(x) for name, x in parts.items()}


def digits(x: float) -> str:
    """Four digits; '' for what is not known."""
    return "" if math.isnan(x) else f"{x:.4g}"


def spread(seconds: Sequence[float], times: float = 1.0, rate: bool = False) -> Line:
    """Columns value, p10 and p90 of seconds by `times`, or with `rate` of `times` by seconds."""
    values = times / np.asarray(seconds) if rate else times * np.asarray(seconds)
    low, median, high = np.percentile(values, (10, 50, 90))
    return {"value": digits(median), "p10": digits(low), "p90": digits(high)}
