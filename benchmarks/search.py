"""Queries per second of exact search, and the bytes of rows it reads beside the device's copy bandwidth.

    python benchmarks/search.py                                  # 1e4 to 1e7 moments of 512 numbers; 5 min
    python benchmarks/search.py --moments=1e6 --dtypes=float32   # one size
    python benchmarks/search.py --moments=1e8 --memory_gib=100   # on an accelerator

Rows are unit vectors of random clusters, queries lie near some of them; D = 512 is the common space of FVMR.
Ours is `vmr_jax.retrieval.search.Searcher` on a saved index, on all devices, from queries in host memory to
answers in host memory. FAISS is `IndexFlatIP`, float32, with as many threads as there are cores; without
faiss-cpu (pip install -e '.[bench]') ours stands alone. They take turns; a figure is the median over the
rounds, with the 10th and 90th percentile. GB/s are those of the rows, read once a batch; copy bandwidth counts
bytes read and written. Recall is how many of the best k of float32 rows the other rows give. That our answers
in float32 are those of FAISS is checked. 'open' is from a saved index to a searcher, 'first answer' from a
saved index to the first answer but for compile seconds, which stand apart.
"""

import functools
import importlib.metadata
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from machine import copy_bandwidth, describe_machine
from rich.console import Console
from rich.table import Table

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import DTYPES, EncodedVideo
from vmr_jax.retrieval.store import MomentStore

FLAGS = flags.FLAGS
flags.DEFINE_list("moments", ["1e4", "1e5", "1e6", "1e7"], "Rows.")
flags.DEFINE_list("dtypes", list(DTYPES), "Of the rows.")
flags.DEFINE_integer("dim", 512, "D.")
flags.DEFINE_list("batch_sizes", ["1", "32"], "Queries at once.")
flags.DEFINE_integer("k", 10, "Moments that are asked for.")
flags.DEFINE_integer("rounds", 9, "Measurements of each.")
flags.DEFINE_float("memory_gib", 8.0, "The most that the rows of an index may take; FAISS holds as much again.")
flags.DEFINE_string("folder", "", "Where the temporary index is made; empty: the system's.")

_MOMENTS_OF_A_VIDEO = 1000
_CLUSTERS = 1000
_RECALL = (10, 100)


# --- data -----------------------------------------------------------------------------------------


def centres(rng: np.random.Generator) -> np.ndarray:
    """[_CLUSTERS,D] float32."""
    return rng.standard_normal((_CLUSTERS, FLAGS.dim), np.float32)


def near(rng: np.random.Generator, of: np.ndarray, rows: int) -> np.ndarray:
    """[rows,D] unit vectors, each near one of the centres, with as much noise as centre."""
    x = of[rng.integers(len(of), size=rows)] + rng.standard_normal((rows, FLAGS.dim), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def videos(moments: int) -> Iterator[EncodedVideo]:
    """The rows from seed 0, in the same order each time."""
    rng = np.random.default_rng(0)
    of = centres(rng)
    for first in range(0, moments, _MOMENTS_OF_A_VIDEO):
        rows = min(_MOMENTS_OF_A_VIDEO, moments - first)
        yield EncodedVideo(f"v{first}", near(rng, of, rows), np.zeros((rows, 2), np.float32))


def make_queries(count: int) -> np.ndarray:
    """[count,D] near the same centres."""
    return near(np.random.default_rng(1), centres(np.random.default_rng(0)), count)


# --- what is measured -----------------------------------------------------------------------------


class Compiling:
    """Seconds that JAX has spent on tracing and compiling in this process."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += seconds


def in_turns(
    functions: dict[str, Callable[[np.ndarray], object]], queries: np.ndarray
) -> dict[str, np.ndarray]:
    """Seconds [rounds] of each function; the first call of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function(queries)
    for _ in range(FLAGS.rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function(queries)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.asarray(s) for name, s in seconds.items()}


def check_equal(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> None:
    """Raises AssertionError where scores differ, or rows whose scores differ by more than rounding."""
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for scores, row, other in zip(ours[0], ours[1], theirs[1]):
        for place in np.flatnonzero(row != other):
            # Only rows of one score, but for rounding, may change places.
            twins = np.abs(scores - scores[place]) < 1e-5
            assert twins.sum() > 1 or place == len(row) - 1, f"rows {row[place]} and {other[place]} differ"


def recall(found: np.ndarray, expected: np.ndarray, k: int) -> float:
    """The share of the first k of `expected` [Q,.] that are among the first k of `found`."""
    return float(np.mean([len(set(f[:k]) & set(e[:k])) / k for f, e in zip(found, expected)]))


def open_faiss(store: MomentStore):
    """An `IndexFlatIP` of the rows, or None without faiss."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexFlatIP(store.dim)
    for segment in store.segments:
        index.add(np.asarray(segment.vectors))
    return index


# --- the report -----------------------------------------------------------------------------------


class Report:
    """Measures sizes one after the other and keeps the rows of two tables."""

    def __init__(self, parallel: Parallel, copy: float):
        self._parallel, self._copy, self._compiling = parallel, copy, Compiling()
        self.opening = Table(title="opening, and recall of the best of float32 rows")
        self.speed = Table(title=f"the best {FLAGS.k}, median of {FLAGS.rounds} rounds (p10-p90)")
        recalls = (f"recall@{k}" for k in _RECALL)
        for column in ("moments", "rows", "open s", "first answer s", "compile s", *recalls):
            self.opening.add_column(column, justify="right")
        for column in ("moments", "queries", "rows", "ms", "queries/s", "GB/s", "of copy", "FAISS takes"):
            self.speed.add_column(column, justify="right")

    def measure(self, moments: int, folder: Path) -> None:
        """Adds one size; its indexes are made in `folder`."""
        searchers, faiss, exact = {}, None, None
        for dtype in FLAGS.dtypes:
            size = moments * FLAGS.dim * DTYPES[dtype].itemsize
            if size > FLAGS.memory_gib * 2**30:
                self.opening.add_row(f"{moments:,}", dtype, "skipped", f"{size / 2**30:.1f} GiB")
                continue
            store = MomentStore.create(folder / dtype, FLAGS.dim, dtype, {}).add(videos(moments))
            searchers[dtype], figures = self._opened(folder / dtype)
            found = searchers[dtype](make_queries(64), max(_RECALL))
            if dtype == "float32":
                exact, faiss = found, open_faiss(store)
                if faiss is not None:
                    check_equal(found, faiss.search(make_queries(64), max(_RECALL)))
            recalls = [f"{recall(found[1], exact[1], k):.4f}" for k in _RECALL] if exact else []
            self.opening.add_row(f"{moments:,}", dtype, *figures, *recalls)
        functions = {dtype: functools.partial(searcher, k=FLAGS.k) for dtype, searcher in searchers.items()}
        if faiss is not None:
            functions["FAISS float32"] = lambda queries: faiss.search(queries, FLAGS.k)
        for queries in map(int, FLAGS.batch_sizes):
            self._add_speed(moments, queries, in_turns(functions, make_queries(queries)))

    def _opened(self, path: Path) -> tuple[Searcher, list[str]]:
        """A searcher, and how long it took to open, to the first answer, and to compile."""
        before, start = self._compiling.seconds, time.perf_counter()
        searcher = Searcher(MomentStore.open(path), self._parallel)
        opened = time.perf_counter() - start
        searcher(make_queries(1), FLAGS.k)
        compiled = self._compiling.seconds - before
        first = time.perf_counter() - start - compiled
        return searcher, [f"{opened:.3f}", f"{first:.3f}", f"{compiled:.1f}"]

    def _add_speed(self, moments: int, queries: int, seconds: dict[str, np.ndarray]) -> None:
        faiss = seconds.get("FAISS float32")
        for name, of_one in seconds.items():
            low, median, high = np.percentile(of_one, (10, 50, 90))
            rate = moments * FLAGS.dim * DTYPES[name.split()[-1]].itemsize / median
            self.speed.add_row(
                f"{moments:,}",
                str(queries),
                name,
                f"{1e3 * median:.2f} ({1e3 * low:.2f}-{1e3 * high:.2f})",
                f"{queries / median:,.1f}",
                f"{rate / 1e9:.2f}",
                f"{rate / self._copy:.0%}",
                "" if faiss is None else f"{np.median(faiss) / median:.2f} times",
            )


def faiss_version() -> str:
    """Of the other program, where it is installed."""
    try:
        return f"faiss-cpu {importlib.metadata.version('faiss-cpu')}"
    except importlib.metadata.PackageNotFoundError:
        return "no FAISS (pip install -e '.[bench]')"


def main(_):
    """Prints how indexes open and what they recall, then their speed."""
    logging.set_verbosity(logging.WARNING)
    console = Console(width=150, highlight=False, soft_wrap=True)
    console.print(f"python {' '.join(sys.argv)}\n{describe_machine(faiss_version())}")
    parallel = Parallel("pmap")
    copy = copy_bandwidth(FLAGS.rounds) * len(parallel.devices)
    console.print(f"copy bandwidth, read and written: {copy / 1e9:.1f} GB/s; D = {FLAGS.dim}")
    report = Report(parallel, copy)
    for moments in FLAGS.moments:
        with tempfile.TemporaryDirectory(dir=FLAGS.folder or None) as folder:
            report.measure(int(float(moments)), Path(folder))
    console.print(report.opening)
    console.print(report.speed)


if __name__ == "__main__":
    app.run(main)
