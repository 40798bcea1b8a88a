"""Speed of a training step beside eager and compiled PyTorch: ms, share of the peak, compile seconds.

    python benchmarks/training.py --rivals=eager,compiled --csv=results/training.csv   # all, under 25 minutes
    python benchmarks/training.py --models=fvmr --args=charades_sta,clip
    python benchmarks/training.py --args=charades_sta,i3d --models=vslnet --dtypes=float32,bfloat16

Random batches of the config's shapes without padding, so it needs no dataset and no TensorFlow. Without
--args each model is measured at the size of the embedded dataset, and those of `PUBLISHED` at a published one
too, with as small a batch as two CPU cores carry. Medians with the 10th and 90th percentile. 'of peak' is the
compiler's count of floating-point operations by the time, beside the best of large matrix products of the same
dtype in the same run. 'peak GiB' is that of the process so far where the device does not tell its own.

--rivals times PyTorch too, on the CPU, all steps in turns: the twins of tests/references with the same batch,
weights, loss, clipping and optimiser, eager or through `torch.compile`, each in a process of its own, which has
no large pages and gives freed memory back, as PyTorch does for its users. Before that the losses of the first
step without dropout are compared. A twin that drops nothing is timed beside ours without dropout, which the
note says. 'times' is the median of the ratios. A rival that cannot be built or compiled, that takes longer than
--longest to start, or whose first loss is another is named in the note, and the others go on. Where others use
the machine, take --threads=1: PyTorch's threads wait for each other, ours do not.

--csv gets a line as soon as a setting is measured, and those that it has of the same commit are not measured
again. 'compile' and 'torch compile' are seconds to the end of the first step; of what PyTorch has compiled
before it finds a part in its own cache (TORCHINDUCTOR_CACHE_DIR).
"""

import contextlib
import importlib
import importlib.metadata
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from lines import Lines
from machine import command_and_commit, describe_machine, matrix_rate
from program import known, run
from rich.console import Console
from rich.table import Table
from rivals import RivalFailed, RivalStep, in_a_line
from training_steps import (
    PUBLISHED,
    WORDS,
    OurStep,
    TorchStep,
    at_full_rate,
    check_first_step,
    in_turns,
    random_batch,
    torch_twin,
    trainable,
    without_dropout,
)

from vmr_jax.input.spec import batch_spec
from vmr_jax.training.experiment import initial_variables, make_model

FLAGS = flags.FLAGS
KEY = ("model", "setting", "dtype", "commit")
COLUMNS = (
    "model", "setting", "dtype", "batch", "step_ms", "p10_ms", "p90_ms", "examples_per_second", "gflop",
    "percent_of_peak", "peak_gib", "compile_s", "eager_ms", "times_eager", "compiled_ms", "times_compiled",
    "torch_compile_s", "note", "command", "commit", "machine",
)  # fmt: skip
RIVALS = ("eager", "compiled")


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    which = "Configs to measure; none given: those that can be trained in PyTorch, of PUBLISHED first."
    flags.DEFINE_list("models", [], which, flag_values=holder)
    flags.DEFINE_string("args", "", "Their argument; '': storyboard, then the published.", flag_values=holder)
    flags.DEFINE_list("dtypes", ["float32"], "Of the computation. PyTorch's is float32.", flag_values=holder)
    flags.DEFINE_integer("features", 0, "Hidden size; 0: the config's.", flag_values=holder)
    flags.DEFINE_integer("batch_size", 0, "0: the config's, or the published setting's.", flag_values=holder)
    flags.DEFINE_integer("steps", 40, "Timed steps at most.", lower_bound=1, flag_values=holder)
    flags.DEFINE_integer("least", 8, "Timed steps at least.", lower_bound=1, flag_values=holder)
    flags.DEFINE_float("seconds", 8, "No more than --least after so many for a setting.", flag_values=holder)
    flags.DEFINE_integer("threads", 2, "CPU threads of all.", lower_bound=1, flag_values=holder)
    flags.DEFINE_list("rivals", [], f"Of PyTorch: some of {', '.join(RIVALS)}.", flag_values=holder)
    flags.DEFINE_float("longest", 120, "Seconds in which a rival must have started.", flag_values=holder)
    flags.DEFINE_string("csv", "", "A file for the figures; empty: none.", flag_values=holder)


class Rival(NamedTuple):
    """A step of PyTorch that has run."""

    step: RivalStep
    first: float  # seconds to compile, and to take the first step


class Measured(NamedTuple):
    """Of one setting."""

    batch_size: int
    first: float  # seconds to compile and take the first step
    ours: list[float]  # seconds of a step
    theirs: dict[str, list[float]]  # the rivals'
    flops: float  # of a step
    torch_first: float  # seconds of the first compiled step of PyTorch, nan where there is none
    notes: list[str]


def make_config(name: str, arg: str, batch_size: int, dtype: str):
    """The config with what the flags change."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)
    config.dtype = dtype
    config.batch_size = FLAGS.batch_size or batch_size or config.batch_size
    if FLAGS.features:
        config.model.features = FLAGS.features
        if "common" in config.model:
            config.model.common = FLAGS.features
    at_full_rate(config)
    return config


# --- one setting ----------------------------------------------------------------------------------


def measure(name: str, arg: str, batch_size: int, dtype: str) -> Measured:
    """Times a setting: ours and PyTorch's take turns."""
    config = make_config(name, arg, batch_size, dtype)
    spec = batch_spec(config, config.batch_size, make_model(config, WORDS).requires())
    batch = random_batch(spec, config.input.queries_per_video)
    notes, variables = [], None
    with contextlib.ExitStack() as ended:
        rivals = {}
        if FLAGS.rivals:
            rivals, notes, variables, drops = start_rivals(name, config, batch, ended)
            if rivals and not drops:
                config = without_dropout(config)
                notes.append("without dropout")
        model = make_model(config, WORDS)
        if variables is None:
            variables = initial_variables(model, spec, 0)
        ours = OurStep(config, model, variables, batch).start()
        steps = [ours, *(rival.step for rival in rivals.values())]
        for step in steps:
            step()
        seconds, *others = in_turns(steps, FLAGS.steps, FLAGS.seconds, FLAGS.least)
    theirs = dict(zip(rivals, others, strict=True))
    torch_first = rivals["compiled"].first if "compiled" in rivals else np.nan
    return Measured(config.batch_size, ours.first_seconds, seconds, theirs, ours.flops, torch_first, notes)


def start_rivals(
    name: str, config, batch, ended: contextlib.ExitStack
) -> tuple[dict[str, Rival], list[str], dict | None, bool]:
    """The steps of --rivals by name, notes on those that are not there, weights as ours, whether they drop.

    They end with the stack `ended`.
    """
    rivals, notes, variables, drops = {}, [], None, True
    for kind in FLAGS.rivals:
        with contextlib.ExitStack() as failed:
            try:
                with seconds_left(FLAGS.longest):
                    if variables is None:
                        here = TorchStep(name, config, batch)
                        own = torch_twin(name)[1].variables(here.twin)
                        drops, variables = check_first_step(here, name, config, batch, own), own
                    rival = RivalStep(name, config, batch, kind == "compiled", FLAGS.threads)
                    step = failed.enter_context(rival)
                    start = time.perf_counter()
                    step()
                    rivals[kind] = Rival(step, time.perf_counter() - start)
                ended.push(failed.pop_all())
            except Exception as error:  # whatever PyTorch raises, ours is measured
                notes.append(f"{kind}: {reason(error)}")
                if variables is None:
                    break  # the others have the same twin
    return rivals, notes, variables, drops


@contextlib.contextmanager
def seconds_left(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block when so many have passed."""

    def end(*_):
        raise TimeoutError(f"not ready after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """In a line why a rival is not there."""
    if isinstance(error, AssertionError):
        return "the loss of the first step is another"
    return str(error) if isinstance(error, RivalFailed) else in_a_line(error)


# --- what is printed and kept ---------------------------------------------------------------------


def peak_memory() -> float:
    """In GiB: of the device, or where that is not known of this process so far (PyTorch's share included)."""
    device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (device or host) / 2**30


def row(found: Measured, peak: float) -> dict[str, str]:
    """The columns from `batch` to `note`; `peak` is of floating-point operations a second."""
    low, median, high = np.percentile(found.ours, [10, 50, 90])
    line = {
        "batch": str(found.batch_size),
        "step_ms": f"{1e3 * median:.1f}",
        "p10_ms": f"{1e3 * low:.1f}",
        "p90_ms": f"{1e3 * high:.1f}",
        "examples_per_second": f"{found.batch_size / median:.1f}",
        "gflop": f"{found.flops / 1e9:.1f}",
        "percent_of_peak": f"{100 * found.flops / median / peak:.0f}",
        "peak_gib": f"{peak_memory():.2f}",
        "compile_s": f"{found.first:.1f}",
        "note": "; ".join(found.notes),
    }
    for kind, seconds in found.theirs.items():
        line[f"{kind}_ms"] = f"{1e3 * np.median(seconds):.1f}"
        line[f"times_{kind}"] = f"{np.median(np.asarray(seconds) / np.asarray(found.ours)):.2f}"
    if not np.isnan(found.torch_first):
        line["torch_compile_s"] = f"{found.torch_first:.1f}"
    return line


def settings(names: list[str]) -> list[tuple[str, str, int]]:
    """(model, argument, batch size or 0), what matters most first."""
    if FLAGS.args:
        return [(name, FLAGS.args, 0) for name in names]
    first = [name for name in names if name in PUBLISHED]
    return [
        *((name, "storyboard", 0) for name in first),
        *((name, *PUBLISHED[name]) for name in first),
        *((name, "storyboard", 0) for name in names if name not in PUBLISHED),
    ]


def main(arguments: list[str]) -> None:
    """Prints one row per (model, setting, dtype) that --csv does not have of this commit."""
    known("rivals", FLAGS.rivals, RIVALS)
    known("dtypes", FLAGS.dtypes, ("float32", "bfloat16", "float16"))
    # PyTorch's compiler then works in the process that waits for it, and ends with it.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as there are cores for it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.threads])
    lines = Lines(Path(FLAGS.csv), COLUMNS, KEY) if FLAGS.csv else None
    machine = describe_machine(*([f"torch {importlib.metadata.version('torch')}"] if FLAGS.rivals else []))
    origin = command_and_commit(["benchmarks/training.py", *sys.argv[1:]])
    peaks = {dtype: matrix_rate(dtype) for dtype in FLAGS.dtypes}
    rates = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in peaks.items())
    table = Table(title=f"{machine}; one large matrix product: {rates}")
    for column in COLUMNS[: COLUMNS.index("command")]:
        table.add_column(column.replace("_", " "), justify="right")
    print(f"{machine}; {rates}", flush=True)
    for name, arg, batch_size in settings(FLAGS.models or [*PUBLISHED, *others()]):
        for dtype in FLAGS.dtypes:
            key = {"model": name, "setting": arg, "dtype": dtype, **origin}
            if lines and lines.has(*(key[column] for column in KEY)):
                continue
            found = key | row(measure(name, arg, batch_size, dtype), len(jax.devices()) * peaks[dtype])
            cells = [found.get(column, "") for column in COLUMNS[: COLUMNS.index("command")]]
            table.add_row(*cells)
            print("; ".join(cells), flush=True)  # so that a run that is cut short has shown something
            if lines:
                lines.append([found | {"machine": machine}])
            jax.clear_caches()
    Console(width=230).print(table)


def others() -> list[str]:
    """Architectures that can be trained in PyTorch, without those of `PUBLISHED`."""
    return [name for name in trainable() if name not in PUBLISHED]


if __name__ == "__main__":
    run(main, define_flags)
