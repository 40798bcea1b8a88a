"""Everything that can be said of an accelerator in one command: correctness, then speed beside PyTorch's.

    PYTHONPATH=. python benchmarks/accelerator.py                       # on an accelerator, under eight minutes
    python benchmarks/accelerator.py --models=vslnet,fvmr --stages=correctness,training --minutes=3

It needs no TensorFlow, no network, no data, and of PyTorch only its columns. A line goes to --output as soon as
it is measured; the same command goes on with what is not there yet, whatever has ended it. Stages, in order:

- machine: bytes that one device copies and operations that its matrix products do in a second. The columns
  of_copy and of_matrix are shares of these, by the compiler's counts of bytes and operations.
- correctness: the loss and every gradient of a step of each architecture (the small models of tests/cases)
  beside the CPU's in float32, as the largest relative difference; `within` says whether it is below `tolerance`
  (benchmarks/differences.py).
- training: steps a second at the published size, beside eager and compiled PyTorch for those with a twin in
  tests/references that trains, in turns. `times_eager` and `times_compiled`: how many times as fast ours is.
  In bfloat16 PyTorch's forward pass is under autocast; in float32 CUDA multiplies by way of TF32, as XLA does.
- query: milliseconds a query by stage, as benchmarks/latency.py.
- search: milliseconds of a search for ten rows, beside a matrix product and top-k in PyTorch.
- frames: frames a second through CLIP's image tower, without decoding.

Each stage has a share of --minutes, and what one leaves is for those after it; the first few architectures are
of different families. What was not measured for lack of time is said at the end.
"""

import importlib.metadata
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the memory

import jax
from absl import flags, logging
from device_frames import Frames
from device_search import Search
from device_speed import Query, Training, first_line
from differences import DTYPES, Difference
from items import COLUMNS, KEY, SIZES, STAGES, Best, Item, Line, Rival, Size, digits
from lines import Clock, Lines
from machine import command_and_commit, copy_bandwidth, describe_machine, matrix_rate
from program import known, run

from vmr_jax import models
from vmr_jax.errors import UserError

FLAGS = flags.FLAGS
SHARES = {
    "machine": 0.03, "correctness": 0.35, "training": 0.32, "query": 0.12, "search": 0.13, "frames": 0.05,
}  # fmt: skip
FIRST = ("two_d_tan", "vslnet", "moment_detr", "fvmr", "lgi", "cpl", "xml", "tsp_prl", "mmn")
ROWS = ("float32", "bfloat16", "int8")


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    sizes = "published: the default on an accelerator; reduced: that on a CPU; tiny: a try."
    flags.DEFINE_list("stages", [*STAGES], f"Some of {', '.join(STAGES)}.", flag_values=holder)
    flags.DEFINE_list("models", [], "Architectures; none given: all of them.", flag_values=holder)
    flags.DEFINE_float(
        "minutes", 7.5, "The program ends after so many, whatever is left.", lower_bound=0.1, flag_values=holder
    )
    flags.DEFINE_float("seconds", 1.0, "In which one figure is measured.", flag_values=holder)
    flags.DEFINE_string("output", "accelerator.csv", "Gets a line for each figure.", flag_values=holder)
    flags.DEFINE_enum("size", None, [*SIZES], sizes, flag_values=holder)


def main(arguments: Sequence[str]) -> None:
    """Measures what --output does not have yet."""
    del arguments
    logging.set_verbosity(logging.WARNING)
    known("stages", FLAGS.stages, STAGES)
    stages, names = FLAGS.stages, ordered(FLAGS.models)
    size = SIZES[FLAGS.size or ("reduced" if jax.default_backend() == "cpu" else "published")]
    rival = Rival.find()
    if rival.device == "cuda":
        rival.torch.set_float32_matmul_precision("high")
    lines = Lines(Path(FLAGS.output), COLUMNS, KEY)
    run = Run(lines, Clock(60 * FLAGS.minutes, {stage: SHARES[stage] for stage in ("machine", *stages)}))
    print(
        f"{run.machine}\nPyTorch: {rival.absent or f'{rival.torch.__version__} on {rival.device}'}", flush=True
    )
    try:
        best = run.best(size)
        stages = [stage for stage in STAGES[1:] if stage in stages]
        work = {stage: items(stage, names, size, best, rival, run.clock) for stage in stages}
        run.left = {stage: run.unmeasured(wanted) for stage, wanted in work.items()}
        for stage in stages:
            run.measure(stage, rival)
    finally:
        run.timer.cancel()
    run.summary()


def ordered(given: Sequence[str]) -> list[str]:
    """Architectures: those given, or all, first some of different families."""
    return [*given] or [*FIRST, *(name for name in models.architectures() if name not in FIRST)]


def items(stage: str, names: Sequence[str], size: Size, best: Best, rival: Rival, clock: Clock) -> list[Item]:
    """What a stage measures, what matters most first."""
    seconds, exact = FLAGS.seconds, {}
    if stage == "correctness":
        return [Difference(name) for name in names]
    if stage == "search":
        return [Search(n, dtype, size, best, rival, seconds, exact) for n in size.rows for dtype in ROWS]
    # The first few architectures in both dtypes, then all in that which the device multiplies faster.
    dtypes = DTYPES if jax.default_backend() == "cpu" else DTYPES[::-1]
    pairs = [(name, dtype) for part in (names[:4], names[4:]) for dtype in dtypes for name in part]
    if stage == "training":
        left = lambda: clock.left("training")  # noqa: E731
        return [Training(*pair, size, best, rival, seconds, left) for pair in pairs]
    if stage == "query":
        return [Query(*pair, size, best, seconds) for pair in pairs]
    return [Frames(dtype, size, best, seconds) for dtype in dtypes]


class Run:
    """A start of the program: measures items while there is time, and writes their lines."""

    def __init__(self, lines: Lines, clock: Clock):
        self.lines, self.clock, self.machine = lines, clock, describe_machine(*versions())
        others = {row["machine"] for row in lines.rows} - {self.machine}
        if others:
            raise UserError(
                f"{FLAGS.output} was begun on another machine or with other versions ({others.pop()}), here it "
                f"is {self.machine}. Shares of what a machine can do are of one machine: give another --output."
            )
        self._origin = command_and_commit(sys.argv)
        self._begin, self.left = time.monotonic(), {}
        self.timer = threading.Timer(clock.seconds, self._end)
        self.timer.daemon = True
        self.timer.start()

    def best(self, size: Size) -> Best:
        """What the device can do at best: measured, or read from the lines of an earlier start."""
        setting = f"{size.copied >> 20} MiB", f"side {' or '.join(map(str, size.matrices))}"
        rates = {}
        for dtype in ("copy", *DTYPES):
            key = ("machine", "copy", setting[0], "float32")
            if dtype != "copy":
                key = ("machine", "matrix product", setting[1], dtype)
            if not self.lines.has(*key):
                rate = copy_bandwidth(9, size.copied) if dtype == "copy" else matrix_rate(dtype, size.matrices)
                unit = "GB/s read and written" if dtype == "copy" else "TFLOP/s"
                value = digits(rate / (1e9 if dtype == "copy" else 1e12))
                self._write(key, [{"quantity": "rate", "value": value, "unit": unit}], 0.0)
            rates[dtype] = float(self.lines.find(*key)["value"]) * (1e9 if dtype == "copy" else 1e12)
        return Best(rates.pop("copy"), rates)

    def unmeasured(self, wanted: Sequence[Item]) -> list[Item]:
        """Those that have no line."""
        return [item for item in wanted if not self.lines.has(*item.key)]

    def measure(self, stage: str, rival: Rival) -> None:
        """Measures what is left of a stage in groups, whose programs are compiled side by side."""
        waiting, longest = self.left[stage], 0.0
        workers = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
        while waiting and self.clock.left(stage) > longest:
            start, group = time.monotonic(), waiting[:workers]
            with ThreadPoolExecutor(workers) as pool:
                begun = [begin(item, pool) for item in group]
            for item in group:
                self._measure(item.key, *begun.pop(0))
                waiting.remove(item)
                rival.free()
            jax.clear_caches()
            longest = max(longest, time.monotonic() - start)

    def _measure(self, key: tuple[str, ...], programs: Sequence[Future], lines: Callable) -> None:
        start = time.monotonic()
        try:
            found = lines([program.result() for program in programs])
        except Exception as error:  # one that fails is a finding, and the others follow
            found = [{"quantity": "failed", "note": first_line(error)}]
        self._write(key, found, time.monotonic() - start)

    def _write(self, key: tuple[str, ...], found: Sequence[Line], seconds: float) -> None:
        shared = dict(zip(KEY, key, strict=True)) | self._origin
        shared |= {"machine": self.machine, "seconds": f"{seconds:.1f}"}
        self.lines.append([shared | line for line in found])
        for line in found:
            print(shown(shared | line), flush=True)

    def _end(self) -> None:
        """The time is over in the middle of something, which nothing can interrupt."""
        self.summary("The time is over in the middle of something.")
        os._exit(0)

    def summary(self, first: str = "") -> None:
        """What exceeds its tolerance, what failed, and what is left."""
        rows = self.lines.rows
        said = [first] if first else []
        checked = [row for row in rows if row["within"]]
        wrong = [f"{row['subject']} ({row['dtype']})" for row in checked if row["within"] == "no"]
        failed = [
            f"{row['stage']} {row['subject']} ({row['dtype']})" for row in rows if row["quantity"] == "failed"
        ]
        if checked:
            said.append(f"Correct: {len(checked) - len(wrong)} of {len(checked)}; beyond their tolerance: "
                        f"{', '.join(wrong) or 'none'}.")  # fmt: skip
        if failed:
            said.append(f"Failed: {', '.join(failed)}. Delete their lines to try them again.")
        left = [f"{stage} ({', '.join(names(waiting))})" for stage, waiting in self.left.items() if waiting]
        if left:
            said.append(
                f"Not measured for lack of time: {'; '.join(left)}. The same command goes on with them."
            )
        said.append(f"{FLAGS.output}: {len(rows)} lines, after {time.monotonic() - self._begin:.0f} s.")
        print("\n".join(said), flush=True)


def begin(item: Item, pool: ThreadPoolExecutor) -> tuple[list[Future], Callable]:
    """Prepares an item and has its programs compiled; an error comes with their results."""
    try:
        prepared = item.prepare()
    except Exception as error:
        failed: Future = Future()
        failed.set_exception(error)
        return [failed], list
    return [pool.submit(program.compile) for program in prepared.programs], prepared.lines


def names(waiting: Sequence[Item]) -> list[str]:
    """The first three, and how many more there are."""
    found = [*dict.fromkeys(item.key[1] for item in waiting)]
    more = len(found) - 3
    return [*found[:3], *([f"and {more} more"] if more > 0 else [])]


def shown(line: Line) -> str:
    """A line for the reader: what was measured, and beside what."""
    said = [f"{line['value']} {line['unit']}"] if "value" in line else []
    if "p10" in line:
        said.append(f"({line['p10']} to {line['p90']})")
    for column, of in (("of_copy", "the copy bandwidth"), ("of_matrix", "the matrix rate")):
        if line.get(column):
            said.append(f"{float(str(line[column])):.1%} of {of}")
    for kind in ("eager", "compiled"):
        if line.get(f"times_{kind}"):
            said.append(f"{float(str(line[f'times_{kind}'])):.2f} times as fast as {kind} PyTorch")
    if "within" in line:
        said.append(f"{'within' if line['within'] == 'yes' else 'BEYOND'} {line['tolerance']}")
    if line.get("note"):
        said.append(str(line["note"]))
    head = f"{line['stage']}: {line['subject']}, {line['setting']}, {line['dtype']}, {line['quantity']}"
    return f"{head}: {', '.join(said)}".replace(", (", " (")


def versions() -> list[str]:
    """Of the packages on which figures depend, where they are installed."""
    found = []
    for name in ("flax", "torch"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


if __name__ == "__main__":
    run(main, define_flags)
