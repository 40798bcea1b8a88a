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

import dataclasses
import importlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec
from vmr_jax.parallel import Parallel, on_cpu
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.experiment import initial_variables, make_model
from vmr_jax.training.step import initial_state, make_step

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

PUBLISHED = {  # argument, batch size
    "two_d_tan": ("charades_sta,vgg", 2),
    "mmn": ("charades_sta,vgg,glove", 8),
    "vslnet": ("charades_sta,i3d", 16),
    "moment_detr": ("charades_sta,clip", 32),
}
_RANDOM = ("dropout", "input_dropout", "text_dropout")


class Measured(NamedTuple):
    """Of one setting."""

    batch_size: int
    first: float  # seconds to compile and take the first step
    ours: list[float]  # seconds of a step
    theirs: list[float]  # PyTorch's; empty without --torch
    flops: float  # of a step
    memory: str


def random_batch(spec, queries_per_video=1, seed=0):
    """A batch of the spec's shapes: noise, no padding, another moment in each row."""
    rng = np.random.default_rng(seed)

    def leaf(s):
        if s.dtype == np.float32:
            return rng.standard_normal(s.shape, np.float32) / np.float32(np.sqrt(s.shape[-1]))
        return np.ones(s.shape, s.dtype) if s.dtype == bool else rng.integers(2, 20, s.shape, np.int32)

    size = spec.example_mask.shape[0]
    start = rng.uniform(0, 15, size)
    return dataclasses.replace(
        jax.tree.map(leaf, spec),
        duration=np.full(size, 30, np.float32),
        span=np.stack([start, start + rng.uniform(3, 12, size)], 1).astype(np.float32),
        example_index=np.arange(size, dtype=np.int32),
        video_index=np.arange(size, dtype=np.int32) // queries_per_video,
    )


def make_config(name, arg, batch_size, dtype):
    """The config with what the flags change."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)
    config.dtype = dtype
    config.batch_size = FLAGS.batch_size or batch_size or config.batch_size
    if FLAGS.features:
        config.model.features = FLAGS.features
        if "common" in config.model:
            config.model.common = FLAGS.features
    # The first step at the full learning rate, as PyTorch's.
    config.optimizer.schedule, config.optimizer.warmup = "constant", "0 steps"
    return config


class OurStep:
    """Compiled training steps of a config, one after the other on the same batch."""

    def __init__(self, config, model, variables, batch):
        self.parallel = Parallel(config.parallel, config.num_devices)
        self.parallel.check_batch_size(config.batch_size, "--batch_size")
        schedule = optimizer_lib.learning_rate(config.optimizer, 1000, 100)
        optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 100)
        self.state = self.parallel.replicate(initial_state(variables, optimizer))
        step = self.parallel.map_step(make_step(model, optimizer, schedule, 100, config.seed))
        self.batch = self.parallel.put_batch(batch)
        start = time.perf_counter()
        self.step = step.lower(self.state, self.batch).compile()
        self.loss = self()
        self.first_seconds = time.perf_counter() - start
        self.flops = (self.step.cost_analysis() or {}).get("flops", float("nan")) * len(self.parallel.devices)

    def __call__(self):
        """The loss before the update."""
        self.state, scalars = self.step(self.state, self.batch)
        return float(jax.block_until_ready((self.state, scalars))[1]["train/loss"])


def torch_twin(name):
    """The modules `twins` and `twins.NAME` of the tests; UserError without PyTorch."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    try:
        twins, module = importlib.import_module("references"), importlib.import_module(f"references.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--torch found no module {error.name}. It needs PyTorch (pip install -e '.[torch]') and a model "
            "that has a twin in tests/references."
        ) from error
    if not hasattr(module.Twin, "loss"):
        raise UserError(f"--torch trains a twin, and that of {name} in tests/references has no loss.")
    return twins, module


def torch_step(name, config, batch):
    """PyTorch's step, a function without arguments, and the same initial variables for ours.

    Raises AssertionError where the losses of the first step without dropout are not equal.
    """
    twins, module = torch_twin(name)
    twins.torch.set_num_threads(FLAGS.threads)
    twins.torch.manual_seed(0)
    twin, tensors = module.build(config).train(), twins.tensors(batch)
    variables = module.variables(twin)
    check_first_step(twins, module, config, twin, batch, variables)
    optimizer = twins.make_optimizer(config.optimizer, twin)
    return lambda: twins.train_step(twin, optimizer, config.optimizer.clip_norm, tensors), variables


def check_first_step(twins, module, config, twin, batch, variables):
    """Compares the losses of the first step, without dropout."""
    still = config.copy_and_resolve_references()
    for field in _RANDOM:
        if field in still.model:
            still.model[field] = 0.0
    model, same = make_model(still), module.build(still).train()
    same.load_state_dict(twin.state_dict())
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    draws = twins.random_draws(model, variables, batch, key)
    with twins.torch.no_grad():
        theirs = sum(x.item() for x in same.loss(same(twins.tensors(batch)), batch, **draws).values())

    @jax.jit
    def loss(variables, batch):
        outputs, _ = model.apply(variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        terms = model.loss(outputs, batch, epoch=jnp.int32(0))
        return sum(term.value() for term in terms.values())

    tolerance = 1e-4 if config.dtype == "float32" else 2e-2
    np.testing.assert_allclose(loss(variables, batch), theirs, rtol=tolerance)


def measure(name, arg, batch_size, dtype) -> Measured:
    """Times a setting: ours and PyTorch's take turns."""
    config = make_config(name, arg, batch_size, dtype)
    model = make_model(config)
    spec = batch_spec(config, config.batch_size, model.requires())
    batch = random_batch(spec, config.input.queries_per_video)
    if FLAGS.torch:
        theirs, variables = torch_step(name, config, batch)
    else:
        variables = initial_variables(model, spec, 0)
    ours = OurStep(config, model, variables, batch)
    steps = [ours, theirs] if FLAGS.torch else [ours]
    for step in steps:
        step()
    seconds = in_turns(steps)
    seconds += [[]] * (2 - len(steps))
    return Measured(config.batch_size, ours.first_seconds, *seconds, ours.flops, peak_memory())


def in_turns(steps: list[Callable]) -> list[list[float]]:
    """Seconds of every call of each function."""
    seconds = [[] for _ in steps]
    begin = time.perf_counter()
    for count in range(FLAGS.steps):
        if count >= 3 and time.perf_counter() - begin > FLAGS.seconds:
            break
        for step, found in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
    return seconds


def peak_memory() -> str:
    """In GiB: of the device, or where that is not known of this process so far (PyTorch's share included)."""
    device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{(device or host) / 2**30:.2f}"


def matmul_peak(dtype) -> float:
    """Floating-point operations a second of one device: the fastest of matrix products of three sizes."""
    best = 0.0
    for size in (1024, 2048, 4096) if on_cpu() else (4096, 8192, 16384):
        x = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product = jax.jit(jnp.dot)
        jax.block_until_ready(product(x, x))
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(product(x, x))
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


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
    peaks = {dtype: matmul_peak(dtype) for dtype in FLAGS.dtypes}
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
