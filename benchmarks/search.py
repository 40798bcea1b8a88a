"""Milliseconds of exact search beside FAISS, usearch and plain BLAS, and how much of the machine it uses.

    python benchmarks/search.py                                  # 1e3 to 1e6 moments of 512 numbers; 7 min
    python benchmarks/search.py --csv=results/search.csv         # the table of the site too
    python benchmarks/search.py --moments=1e6 --dtypes=float32   # one size
    python benchmarks/search.py --moments=1e8 --memory_gib=100   # on an accelerator
    python benchmarks/search.py --disk=1e8 --dim=64 --batch_sizes=1,32 --csv=results/search_disk.csv

Rows are unit vectors of random clusters, queries lie near some of them; D = 512 is the common space of
FVMR. Ours is `vmr_jax.retrieval.search.Searcher` on a saved index, on all devices, from queries in host
memory to answers in host memory. Rivals have the same rows in float32 and as many threads as there are
cores: FAISS's `IndexFlatIP`, usearch's exact search (pip install -e '.[bench]'; without them their columns
are empty), and BLAS: a matrix product in NumPy for each tile of rows, `np.argpartition`, and the best of
all tiles sorted. All take turns, in another order each round, since threads that still wait for work of
their own library slow down who comes next; a figure is the median over the rounds, as many as fit into
--seconds, and at least one. A rival that would take more than --longest at the next size, by what it took
at the last one, is not asked. Where float32 rows are slower than the best rival is told first.

'read' is the rate at which one query reads float32 rows, beside that of the product alone in BLAS; 'of
peak' the multiplications of many queries beside the best of large matrix products in XLA and BLAS.
Recall@10 is how many of the best ten of float32 rows the other rows give, of all queries of the call. That
our answers in float32 are those of FAISS is checked. 'open' is from a saved index to a searcher, 'first
answer' from a saved index to the first answer but for compile seconds, which stand apart.

--disk measures one index of int8 rows instead, without rivals, in a process that may allot only --allot_gib
more than it had before it opened the index: rows of 1e8 moments of 64 numbers take 6.8 GB of 7.7 GB on the
disk. Of a 'cold' answer nothing is in the system's cache.
"""

import csv
import functools
import importlib.metadata
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from lines import check_folder, read_rows
from machine import command_and_commit, describe_machine, own_memory
from program import run, whole
from rich.console import Console
from rich.table import Table

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import DTYPES, FORMATS, EncodedVideo
from vmr_jax.retrieval.store import MomentStore

FLAGS = flags.FLAGS
flags.DEFINE_list("moments", ["1e3", "1e4", "1e5", "1e6"], "Rows.")
flags.DEFINE_list("dtypes", ["float32", "bfloat16", "int8", "int8+float32"], "Of the rows.")
flags.DEFINE_integer("dim", 512, "D.")
flags.DEFINE_list("batch_sizes", ["1", "32", "1024"], "Queries at once.")
flags.DEFINE_integer("k", 10, "Moments that are asked for.")
flags.DEFINE_integer("rounds", 101, "Measurements of each, at most.")
flags.DEFINE_float("seconds", 12.0, "After which no further round begins.")
flags.DEFINE_float("longest", 40.0, "Seconds that a call of a rival may be expected to take.")
flags.DEFINE_float("memory_gib", 8.0, "The most that the rows of an index may take; FAISS holds as much again.")
flags.DEFINE_string("folder", "", "Where the temporary index is made; empty: the system's.")
flags.DEFINE_string("disk", "", "Rows of one int8 index that is larger than what the process may allot.")
flags.DEFINE_float("allot_gib", 2.0, "What the process may allot, with --disk.")
flags.DEFINE_string("csv", "", "A file for the figures; empty: none.")

_MOMENTS_OF_A_VIDEO = 1000
_CLUSTERS = 1000
_TILE = 1 << 16  # rows of a product of BLAS
_RIVALS = ("BLAS", "usearch", "FAISS")


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


def peak() -> float:
    """Multiplications and additions per second of the best of large float32 matrix products."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    product, on_device = jax.jit(jnp.matmul), jnp.asarray(a)
    ways = {"XLA": lambda _: product(on_device, on_device).block_until_ready(), "BLAS": lambda _: a @ a}
    return 2 * 2048**3 / min(seconds.min() for seconds in in_turns(ways, a)[0].values())


Answer = tuple[np.ndarray, np.ndarray]


def in_turns(
    functions: dict[str, Callable[[np.ndarray], object]], queries: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Seconds [rounds] of each function, and what it gave; the first call of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    given, end = {name: function(queries) for name, function in functions.items()}, None
    rng, names = np.random.default_rng(0), [*functions]
    for _ in range(FLAGS.rounds):
        if end is not None and time.perf_counter() > end:
            break
        end = end or time.perf_counter() + FLAGS.seconds
        for name in rng.permutation(names).tolist():
            start = time.perf_counter()
            functions[name](queries)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.asarray(s) for name, s in seconds.items()}, given


def check_equal(ours: Answer, theirs: Answer) -> None:
    """Raises AssertionError where scores differ, or rows whose scores differ by more than rounding."""
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for scores, row, other in zip(ours[0], ours[1], theirs[1]):
        for place in np.flatnonzero(row != other):
            # Only rows of one score, but for rounding, may change places.
            twins = np.abs(scores - scores[place]) < 1e-5
            assert twins.sum() > 1 or place == len(row) - 1, f"rows {row[place]} and {other[place]} differ"


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """The share of `expected` [Q,K] that is in `found` [Q,K]."""
    return float(np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(found, expected)]))


# --- the rivals -----------------------------------------------------------------------------------


def by_blas(queries: np.ndarray, rows: np.ndarray) -> Answer:
    """The best by a product and a partition for each tile."""
    k, found = FLAGS.k, []
    for first in range(0, len(rows), _TILE):
        scores = queries @ rows[first : first + _TILE].T
        best = np.argpartition(scores, max(scores.shape[1] - k, 0), axis=1)[:, -k:]
        found.append((np.take_along_axis(scores, best, 1), first + best))
    scores, best = (np.concatenate(parts, axis=1) for parts in zip(*found))
    order = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)


def rivals(rows: np.ndarray) -> dict[str, Callable[[np.ndarray], Answer]]:
    """Those of `_RIVALS` that are installed, over float32 rows [n,D]."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Callable[[np.ndarray], Answer]] = {"BLAS": functools.partial(by_blas, rows=rows)}
    try:
        from usearch.index import MetricKind, search

        def by_usearch(queries: np.ndarray) -> Answer:
            matches = search(rows, queries, FLAGS.k, MetricKind.IP, exact=True, threads=cores)
            return 1 - matches.distances.reshape(len(queries), -1), matches.keys.reshape(len(queries), -1)

        found["usearch"] = by_usearch
    except ImportError:
        pass
    try:
        import faiss

        faiss.omp_set_num_threads(cores)
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        found["FAISS"] = lambda queries: index.search(queries, FLAGS.k)
    except ImportError:
        pass
    return found


# --- the report -----------------------------------------------------------------------------------


class Report:
    """Measures sizes one after the other and keeps the rows of two tables.

    Attributes:
      rows: a row for each size and number of queries, as the file of --csv has them.
    """

    def __init__(self, parallel: Parallel):
        self._parallel, self._compiling = parallel, Compiling()
        self._peak = peak()
        self._rates: dict[tuple[str, int], float] = {}  # seconds a row of a rival
        self.rows: list[dict[str, str]] = []
        self.opening = Table(title="opening")
        for column in ("moments", "rows", "open s", "first answer s", "compile s"):
            self.opening.add_column(column, justify="right")
        self.speed = Table(title=f"the best {FLAGS.k}, medians; float32 GFLOP/s at most {self._peak / 1e9:.0f}")
        for column in (
            "moments",
            "queries",
            "rows",
            "ms",
            "(least-most)",
            "rounds",
            "GB/s",
            "of peak",
            "recall@10",
        ):
            self.speed.add_column(column, justify="right")

    def measure(self, moments: int, folder: Path) -> None:
        """Adds one size; its indexes are made in `folder`."""
        functions: dict[str, Callable[[np.ndarray], object]] = {}
        others: dict[str, Callable[[np.ndarray], Answer]] = {}
        rows = np.zeros((0, FLAGS.dim), np.float32)
        for dtype in FLAGS.dtypes:
            size = moments * FLAGS.dim * _bytes(dtype)
            if size > FLAGS.memory_gib * 2**30:
                self.opening.add_row(f"{moments:,}", dtype, "skipped", f"{size / 2**30:.1f} GiB")
                continue
            store = MomentStore.create(folder / dtype, FLAGS.dim, dtype, {}).add(videos(moments))
            searcher, figures = self._opened(folder / dtype)
            self.opening.add_row(f"{moments:,}", dtype, *figures)
            functions[dtype] = functools.partial(searcher, k=FLAGS.k)
            if dtype == "float32":
                rows = np.asarray(store.segments[0].vectors)
                others = rivals(rows)
                if "FAISS" in others:
                    check_equal(searcher(make_queries(64), FLAGS.k), others["FAISS"](make_queries(64)))
        for queries in whole("--batch_sizes", FLAGS.batch_sizes):
            expected = {name: self._rates.get((name, queries), 0) * moments for name in others}
            asked = {name: others[name] for name, seconds in expected.items() if seconds < FLAGS.longest}
            if queries == 1 and len(rows):
                asked["product"] = lambda q: rows @ q[0]
            seconds, given = in_turns({**functions, **asked}, make_queries(queries))
            self._rates |= {(name, queries): float(np.median(seconds[name])) / moments for name in asked}
            self._add(moments, queries, seconds, given)

    def _opened(self, path: Path) -> tuple[Searcher, list[str]]:
        """A searcher, and how long it took to open, to the first answer, and to compile."""
        before, start = self._compiling.seconds, time.perf_counter()
        searcher = Searcher(MomentStore.open(path), self._parallel)
        opened = time.perf_counter() - start
        searcher(make_queries(1), FLAGS.k)
        compiled = self._compiling.seconds - before
        first = time.perf_counter() - start - compiled
        return searcher, [f"{opened:.3f}", f"{first:.3f}", f"{compiled:.1f}"]

    def _add(self, moments: int, queries: int, seconds: dict[str, np.ndarray], given: dict) -> None:
        medians = {name: float(np.median(of_one)) for name, of_one in seconds.items()}
        recalls = {
            name: f"{recall(given[name][1], given['float32'][1]):.4f}"
            for name in seconds
            if name in FORMATS and "float32" in given
        }
        work = 2 * moments * queries * FLAGS.dim / self._peak
        for name, of_one in seconds.items():
            rate = moments * FLAGS.dim * _bytes(name) / medians[name]
            self.speed.add_row(
                f"{moments:,}",
                str(queries),
                name,
                f"{1e3 * medians[name]:.3f}",
                f"({1e3 * of_one.min():.3f}-{1e3 * of_one.max():.3f})",
                str(len(of_one)),
                f"{rate / 1e9:.2f}",
                f"{work / medians[name]:.0%}",
                recalls.get(name, ""),
            )
        row = {"moments": str(moments), "queries": str(queries)}
        row |= {column(name): f"{1e3 * medians[name]:.3f}" if name in medians else "" for name in _COLUMNS}
        alone, float32 = medians.get("product"), medians.get("float32")
        row["read_of_blas"] = f"{alone / float32:.2f}" if alone and float32 else ""
        row["of_peak"] = f"{work / float32:.2f}" if float32 and queries > 1 else ""
        row |= {f"recall10_{column(name)}": recalls.get(name, "") for name in _COLUMNS[1:4]}
        self.rows.append(row)


_COLUMNS = ("float32", "bfloat16", "int8", "int8+float32", *_RIVALS)


def column(name: str) -> str:
    """The name of a column of the file."""
    return name.lower().replace("+", "_")


def _bytes(name: str) -> int:
    """Of a number of the rows that are searched."""
    return DTYPES[FORMATS[name][0] if name in FORMATS else "float32"].itemsize


def versions() -> list[str]:
    """Of the other programs, where they are installed."""
    found = []
    for name in ("faiss-cpu", "usearch", "numkong"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found


def lost(rows: list[dict[str, str]]) -> list[str]:
    """A line for each size and number of queries at which float32 rows are slower than the best rival."""
    lines = []
    for row in rows:
        rivals = {name: float(row[column(name)]) for name in _RIVALS if row[column(name)]}
        if not row["float32"] or not rivals:
            continue
        best = min(rivals, key=rivals.__getitem__)
        if float(row["float32"]) > rivals[best]:
            where = f"{int(row['moments']):,} moments, {row['queries']} queries"
            lines.append(f"slower than {best}: {where}: {row['float32']} ms, {rivals[best]:.3f} ms")
    return lines


# --- larger than memory ---------------------------------------------------------------------------


def from_disk(rows: int, folder: Path) -> list[dict[str, str]]:
    """The figures of an int8 index of which no more is held than its answers, one row a number of queries."""
    MomentStore.create(folder / "int8", FLAGS.dim, "int8", {}).add(videos(rows))
    files = [file for part in ("vectors", "scales") for file in (folder / "int8").glob(f"*.{part}")]
    size = sum(file.stat().st_size for file in files)
    most = own_memory("VmData") + int(FLAGS.allot_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    found = []
    for count in whole("--batch_sizes", FLAGS.batch_sizes):
        start = time.perf_counter()
        searcher = Searcher(MomentStore.open(folder / "int8"), Parallel("pmap"))
        opened, queries = time.perf_counter() - start, make_queries(count)
        for file in files:
            with file.open("rb") as opened_file:
                os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before, start = _read_bytes(), time.perf_counter()
        searcher(queries, FLAGS.k)
        cold, read, start = time.perf_counter() - start, _read_bytes() - before, time.perf_counter()
        searcher(queries, FLAGS.k)
        again = time.perf_counter() - start
        row = {"moments": rows, "dim": FLAGS.dim, "queries": count, "rows_gb": f"{size / 1e9:.2f}"}
        row |= {"open_s": f"{opened:.1f}", "cold_s": f"{cold:.2f}", "again_s": f"{again:.2f}"}
        row |= {"read_gb": f"{read / 1e9:.2f}", "may_allot_gb": f"{FLAGS.allot_gib * 2**30 / 1e9:.2f}"}
        row["own_memory_gb"] = f"{own_memory('RssAnon') / 1e9:.2f}"
        found.append({name: str(value) for name, value in row.items()})
    return found


def _read_bytes() -> int:
    """Bytes that this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def write(rows: list[dict[str, str]], path: str, machine: str) -> None:
    """The figures with what they come from; lines of other sizes or numbers of queries stay in the file."""
    source = {**command_and_commit(["benchmarks/search.py", *sys.argv[1:]]), "machine": machine}
    lines = [{**row, **source} for row in rows]
    columns, cells = list(lines[0]), {_cell(line) for line in lines}
    kept = [line for line in _earlier(path) if list(line) == columns and _cell(line) not in cells]
    lines = sorted(kept + lines, key=_cell)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _earlier(path: str) -> list[dict[str, str]]:
    """The lines of a file that may be there; UserError where it is no CSV."""
    return read_rows(Path(path)) if Path(path).exists() else []


def _cell(line: dict[str, str]) -> tuple[int, ...]:
    """Its size and number of queries."""
    return tuple(int(line[name]) for name in ("moments", "queries") if name in line)


def check_places(file: str, folder: str) -> None:
    """UserError where the CSV `file` or an index in `folder` could not be written; empty: there is none.

    What stands in the file is read too, since it stays.
    """
    if file:
        check_folder(Path(file))
        _earlier(file)
    if folder:
        check_folder(Path(folder) / "index")


def main(_):
    """Prints how indexes open, then their speed."""
    logging.set_verbosity(logging.WARNING)
    console = Console(width=150, highlight=False, soft_wrap=True)
    check_places(FLAGS.csv, FLAGS.folder)
    machine = describe_machine(*versions())
    console.print(f"python {' '.join(sys.argv)}\n{machine}\nD = {FLAGS.dim}")
    if FLAGS.disk:
        with tempfile.TemporaryDirectory(dir=FLAGS.folder or None) as folder:
            rows = from_disk(*whole("--disk", [FLAGS.disk]), Path(folder))
        for row in rows:
            console.print(", ".join(f"{name} {value}" for name, value in row.items()))
        if FLAGS.csv:
            write(rows, FLAGS.csv, machine)
        return
    report = Report(Parallel("pmap"))
    for moments in whole("--moments", FLAGS.moments):
        with tempfile.TemporaryDirectory(dir=FLAGS.folder or None) as folder:
            report.measure(moments, Path(folder))
    console.print("\n".join(lost(report.rows)) or "float32 rows are nowhere slower than the best rival")
    console.print(report.opening)
    console.print(report.speed)
    if FLAGS.csv:
        write(report.rows, FLAGS.csv, machine)


if __name__ == "__main__":
    run(main)
