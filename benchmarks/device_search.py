"""Search on the device that JAX has, beside a matrix product and top-k in PyTorch: items of `accelerator.py`.

Rows and queries are those of `search.py`, made on the device: unit vectors near random centres.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from device_speed import first_line
from items import Best, Line, Prepared, Rival, Size, digits, spread

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.device_rows import products
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import DTYPES, Segment

K = 10
QUERIES = (1, 32)
_CENTRES = 1000
_TOGETHER = 100_000  # rows that are made at once
_TORCH_PART = 1 << 20  # int8 rows that PyTorch turns into numbers that it multiplies at once
_COPIES = 2.5  # of the rows that are held: ours, those of the others, and what is between
_RECALL_TARGET = 0.95  # of approx_max_k


class Index(NamedTuple):
    """What a `Searcher` opens."""

    segments: Sequence[Segment]


def in_host_memory(vectors: np.ndarray, scales: np.ndarray | None) -> Index:
    """An index of rows [n,D] that are those of one video."""
    count = len(vectors)
    spans, offsets = np.zeros((count, 2), np.float32), np.asarray([0, count])
    return Index([Segment("", vectors, scales, spans, offsets, ["video"], np.zeros(1, bool))])


@dataclasses.dataclass
class Search:
    """Milliseconds of a search for the best `K` rows.

    Attributes:
      rows: of the index.
      dtype: of the rows.
      size: D.
      best: what the device can do.
      rival: PyTorch.
      seconds: in which each is timed.
      exact: rows -> the answers from float32 rows, of those that were searched before.
    """

    rows: int
    dtype: str
    size: Size
    best: Best
    rival: Rival
    seconds: float
    exact: dict[int, np.ndarray]

    def __post_init__(self):
        self.key = ("search", f"{self.rows:,} rows", f"D={self.size.dim}", self.dtype)

    def prepare(self) -> Prepared:
        """Nothing: a searcher compiles what it needs."""
        return Prepared([], self._lines)

    def _lines(self, compiled: Sequence[Any]) -> list[Line]:
        """For each number of queries, and how many of the exact answers are found."""
        wanted, free = _COPIES * self.rows * self.size.dim * DTYPES[self.dtype].itemsize, free_bytes()
        if wanted > free:
            note = f"skipped: it would take {wanted / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"
            return [{"quantity": "search", "note": note}]
        rows, scales = make_rows(self.rows, self.size.dim, self.dtype)
        index = in_host_memory(np.asarray(rows), None if scales is None else np.asarray(scales))
        searcher = Searcher(index, Parallel("pmap", 1))
        ours: dict[str, Callable] = {"ours": lambda queries: searcher(queries, K)}
        others, note = self._others(rows, scales)
        asked = make_queries(64, self.size.dim)
        found = ours["ours"](asked)[1]
        if self.dtype == "float32":
            self.exact[self.rows] = found
        exact = self.exact.get(self.rows)
        lines = []
        for count in QUERIES:
            lines += self._timed(ours | others, asked[:count], rows.nbytes, note)
        for name, search in (ours | others).items():
            recalled = None if exact is None else recall(search(asked)[1], exact)
            if recalled is not None and (name, self.dtype) != ("ours", "float32"):
                quantity = f"recall@{K} of {name}"
                lines.append({"quantity": quantity, "value": f"{recalled:.4f}", "unit": "of float32"})
        return lines

    def _others(self, rows: jax.Array, scales: jax.Array | None) -> tuple[dict[str, Callable], str]:
        """approx_max_k, and PyTorch's functions, of queries in host memory to scores and rows there."""
        found: dict[str, Callable] = {}
        if jax.default_backend() == "tpu":  # elsewhere it sorts, so that nothing is approximate
            found["approx_max_k"] = functools.partial(_approximate, rows, scales)
        if self.rival.torch is None:
            return found, self.rival.absent
        try:
            search = torch_search(self.rival, rows, scales)
            search(make_queries(1, self.size.dim))
        except Exception as error:  # whatever PyTorch raises, ours is measured
            return found, f"PyTorch: {first_line(error)}"
        return {**found, "PyTorch": search}, ""

    def _timed(
        self, functions: dict[str, Callable], queries: np.ndarray, traffic: int, note: str
    ) -> list[Line]:
        """Lines of ours, with PyTorch's column, and of approx_max_k; they take turns."""
        seconds = in_turns(functions, queries, self.seconds)
        count, lines = len(queries), []
        for name in ("ours", "approx_max_k"):
            if name not in seconds:
                continue
            quantity = f"{count} at once" + (f", {name}" if name != "ours" else "")
            median = float(np.median(seconds[name]))
            line = {"quantity": quantity, "unit": "ms", **spread(seconds[name], 1e3), "note": note}
            flops = 2.0 * count * self.rows * self.size.dim
            line |= self.best.parts(median, flops, traffic, self.dtype)
            if "PyTorch" in seconds:
                line["torch_eager"] = digits(1e3 * float(np.median(seconds["PyTorch"])))
                ratio = np.asarray(seconds["PyTorch"]) / np.asarray(seconds[name])
                line["times_eager"] = digits(float(np.median(ratio)))
            lines.append(line)
        return lines


def in_turns(functions: dict[str, Callable], queries: np.ndarray, most: float) -> dict[str, list[float]]:
    """Seconds of the calls of each function; the first call of each is not counted."""
    for function in functions.values():
        function(queries)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    while len(seconds["ours"]) < 3 or time.perf_counter() - begin < most * len(functions):
        for name, function in functions.items():
            start = time.perf_counter()
            function(queries)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the rows [Q,K] that are found."""
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), exact.tolist())]))


def free_bytes() -> float:
    """Of the device, or where that is not known of the machine."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(float(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


# --- rows and queries -----------------------------------------------------------------------------


def _near(key: jax.Array, count: int, dim: int) -> jax.Array:
    """[count,D] unit vectors, each near one of the centres, with as much noise as centre."""
    centres = jax.random.normal(jax.random.key(0), (_CENTRES, dim))
    which, noise = jax.random.split(key)
    x = centres[jax.random.randint(which, (count,), 0, _CENTRES)] + jax.random.normal(noise, (count, dim))
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def make_queries(count: int, dim: int) -> np.ndarray:
    """[count,D] in host memory."""
    return np.asarray(_near(jax.random.key(1), count, dim))


def make_rows(count: int, dim: int, dtype: str) -> tuple[jax.Array, jax.Array | None]:
    """Rows [count,D] on the device, and scales [count] of int8 rows; of every dtype from the same numbers."""
    part = math.gcd(count, _TOGETHER)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def fill(rows, scales, first):
        x = _near(jax.random.fold_in(jax.random.key(2), first), part, dim)
        if dtype == "int8":
            scale = jnp.abs(x).max(1) / 127
            x, scales = jnp.round(x / scale[:, None]), jax.lax.dynamic_update_slice(scales, scale, (first,))
        return jax.lax.dynamic_update_slice(rows, x.astype(rows.dtype), (first, 0)), scales

    rows, scales = jnp.zeros((count, dim), dtype), jnp.zeros(count)
    for first in range(0, count, part):
        rows, scales = fill(rows, scales, first)
    return rows, scales if dtype == "int8" else None


# --- other searches -------------------------------------------------------------------------------


def _approximate(rows: jax.Array, scales: jax.Array | None, queries: np.ndarray) -> tuple[np.ndarray, ...]:
    found = _approximate_on_device(queries, rows, scales)
    return tuple(np.asarray(x) for x in found)


@jax.jit
def _approximate_on_device(queries, rows, scales):
    scores = products(queries, rows)
    if scales is not None:
        scores = scores * scales[None, :]
    return jax.lax.approx_max_k(scores, K, recall_target=_RECALL_TARGET)


def torch_search(rival: Rival, rows: jax.Array, scales: jax.Array | None) -> Callable:
    """A matrix product and top-k in PyTorch over the same memory, in full precision of the rows' dtype."""
    torch = rival.torch
    ours = torch.from_dlpack(rows)
    factors = None if scales is None else torch.from_dlpack(scales)
    if rival.device == "cuda":
        torch.set_float32_matmul_precision("highest")
    number = {torch.float32: torch.float32, torch.bfloat16: torch.bfloat16, torch.int8: torch.float32}
    if rival.device == "cuda":
        number[torch.int8] = torch.bfloat16  # holds every int8 number

    @torch.no_grad()
    def search(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = torch.tensor(queries, device=rival.device, dtype=number[ours.dtype])
        if factors is None:
            scores = given @ ours.T
        else:
            parts = [given @ part.to(given.dtype).T for part in ours.split(_TORCH_PART)]
            scores = torch.cat(parts, 1) * factors
        found = torch.topk(scores, K)
        return found.values.float().cpu().numpy(), found.indices.cpu().numpy()

    return search
