"""Speed of a training step: compile seconds, steps/s, examples/s, fraction of the device's peak, memory.

    python benchmarks/training.py --torch                             # all four, under five minutes
    python benchmarks/training.py --models=fvmr --args=charades_sta,clip
    python benchmarks/training.py --args=charades_sta,i3d --models=vslnet --dtypes=float32,bfloat16

Random batches of the config's shapes without padding, so it needs no dataset and no TensorFlow. Without --args
each model is measured at the size of the embedded dataset and at a published one, there with as small a batch
as two CPU cores carry (`PUBLISHED`). Medians with the 10th and 90th percentile. 'of peak' is the compiler's
count of floating-point operations by the time, beside the best of large matrix products of the same dtype in
the same run. 'peak GiB' is that of the process so far where the device does not tell its own.

--torch times eager PyTorch too, on the CPU, both steps in turns: tests/references with the same batch,
weights, loss, dropout rates, clipping and optimiser. Before that the losses of the first step without dropout
are compared. 'times as fast' is the median of the ratios. Where others use the machine, take --threads=1:
PyTorch's threads wait for each other, ours do not.
"""

import importlib
import os
import platform
import resource
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags
from machine import matrix_rate
from rich.console import Console
from rich.table import Table
from training_steps import (
    PUBLISHED,
    OurStep,
    TorchStep,
    at_full_rate,
    check_first_step,
    in_turns,
    random_batch,
    torch_twin,
)

from vmr_jax.input.spec import batch_spec
from vmr_jax.training.experiment import initial_variables, make_model

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["two_d_tan", "mmn", "vslnet", "moment_detr"], "Configs to measure.")
flags.DEFINE_string("args", "", "Their argument; '': storyboard, then the model's published setting.")
flags.DEFINE_list("dtypes", ["float32"], "Of the computation. PyTorch's is always float32.")
flags.DEFINE_integer("features", 0, "Hidden size; 0: the config's.")
flags.DEFINE_integer("batch_size", 0, "0: the config's, or that of the published setting.")
flags.DEFINE_integer("steps", 20, "Timed steps.")
flags.DEFINE_float("seconds", 6, "No more steps after so many for a setting, but three at least.")
flags.DEFINE_integer("threads", 2, "CPU threads of both.")
flags.DEFINE_bool("torch", False, "Times the eager PyTorch twins too.")


class Measured(NamedTuple):
    """Of one setting."""

    batch_size: int
    first: float  # seconds to compile and take the first step
    ours: list[float]  # seconds of a step
    theirs: list[float]  # PyTorch's; empty without --torch
    flops: float  # of a step
    memory: str


def make_config(name, arg, batch_size, dtype):
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


def measure(name, arg, batch_size, dtype) -> Measured:
    """Times a setting: ours and PyTorch's take turns."""
    config = make_config(name, arg, batch_size, dtype)
    model = make_model(config)
    spec = batch_spec(config, config.batch_size, model.requires())
    batch = random_batch(spec, config.input.queries_per_video)
    if FLAGS.torch:
        theirs = TorchStep(name, config, batch)
        variables = torch_twin(name)[1].variables(theirs.twin)
        theirs.torch.set_num_threads(FLAGS.threads)
        check_first_step(theirs, name, config, batch, variables)
    else:
        variables = initial_variables(model, spec, 0)
    ours = OurStep(config, model, variables, batch).start()
    steps = [ours, theirs] if FLAGS.torch else [ours]
    for step in steps:
        step()
    seconds = in_turns(steps, FLAGS.steps, FLAGS.seconds)
    seconds += [[]] * (2 - len(steps))
    return Measured(config.batch_size, ours.first_seconds, *seconds, ours.flops, peak_memory())


def peak_memory() -> str:
    """In GiB: of the device, or where that is not known of this process so far (PyTorch's share included)."""
    device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{(device or host) / 2**30:.2f}"


def spread(seconds: list[float]) -> str:
    """Median (10th-90th percentile) in milliseconds."""
    low, median, high = 1e3 * np.percentile(seconds, [10, 50, 90])
    return f"{median:.1f} ({low:.1f}-{high:.1f})"


def settings(name) -> list[tuple[str, int]]:
    """(argument, batch size or 0) of a model."""
    if FLAGS.args:
        return [(FLAGS.args, 0)]
    return [("storyboard", 0), *([PUBLISHED[name]] if name in PUBLISHED else [])]


def main(_):
    """Prints one row per (model, setting, dtype)."""
    if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as there are cores for it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.threads])
    devices = jax.devices()
    peaks = {dtype: matrix_rate(dtype) for dtype in FLAGS.dtypes}
    table = Table(
        title=f"jax {jax.__version__}, {len(devices)} x {devices[0].device_kind} ({platform.machine()}), "
        f"{FLAGS.threads} CPU threads, features {FLAGS.features or 'of the config'}; one large matrix product: "
        + ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in peaks.items())
    )
    columns = ("model", "setting", "dtype", "batch", "compile + first step", "step ms (p10-p90)", "steps/s")
    for column in (*columns, "examples/s", "GFLOP", "of peak", "peak GiB"):
        table.add_column(column, justify="right")
    if FLAGS.torch:
        table.add_column("PyTorch ms (p10-p90)", justify="right")
        table.add_column("times as fast", justify="right")
    for name in FLAGS.models:
        for arg, batch_size in settings(name):
            for dtype in FLAGS.dtypes:
                found = measure(name, arg, batch_size, dtype)
                cells = [name, arg, dtype, *row(found, len(devices) * peaks[dtype])]
                table.add_row(*cells)
                print("; ".join(cells), flush=True)  # so that a run that is cut short has shown something
                jax.clear_caches()
    Console(width=210).print(table)


def row(found: Measured, peak: float) -> list[str]:
    """The cells from the batch size on."""
    median = float(np.median(found.ours))
    cells = [
        str(found.batch_size), f"{found.first:.1f} s", spread(found.ours), f"{1 / median:.2f}",
        f"{found.batch_size / median:.1f}", f"{found.flops / 1e9:.1f}", f"{found.flops / median / peak:.0%}",
        found.memory,
    ]  # fmt: skip
    if found.theirs:
        ratio = np.median(np.asarray(found.theirs) / np.asarray(found.ours))
        cells += [spread(found.theirs), f"{ratio:.2f}"]
    return cells


if __name__ == "__main__":
    app.run(main)
