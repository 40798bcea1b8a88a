"""Speed of a training step: compile seconds, steps/s, examples/s, memory.

    python benchmarks/training.py                                     # the default configs
    python benchmarks/training.py --args=charades_sta,clip --features=128
    python benchmarks/training.py --args=charades_sta,vgg --dtypes=float32,bfloat16   # on an accelerator

Random batches of the config's shapes, so it needs no dataset and no TensorFlow. Medians of `--steps` timed
steps after the first, with the 10th and 90th percentile; all settings are measured in one run.
"""

import dataclasses
import importlib
import platform
import resource
import time

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from vmr_jax import input as input_lib
from vmr_jax import optimizer as optimizer_lib
from vmr_jax.experiment import initial_variables, make_model
from vmr_jax.parallel import Parallel
from vmr_jax.train import initial_state, make_step

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["fvmr", "two_d_tan"], "Configs to measure.")
flags.DEFINE_string("args", "storyboard", "Their argument.")
flags.DEFINE_list("dtypes", ["float32"], "Of the computation.")
flags.DEFINE_integer("features", 0, "Hidden size; 0: the config's.")
flags.DEFINE_integer("batch_size", 0, "0: the config's.")
flags.DEFINE_integer("steps", 20, "Timed steps.")


def random_batch(spec, seed=0):
    """A batch of the spec's shapes: noise, no padding, a moment in the first half of each video."""
    rng = np.random.default_rng(seed)
    batch = jax.tree.map(
        lambda s: (
            rng.standard_normal(s.shape, np.float32) if s.dtype == np.float32 else np.ones(s.shape, s.dtype)
        ),
        spec,
    )
    size = spec.example_mask.shape[0]
    return dataclasses.replace(
        batch, duration=np.full(size, 30, np.float32), span=np.tile(np.float32([3, 12]), (size, 1))
    )


def measure(name, dtype):
    """Returns (first step seconds, [seconds of each timed step], batch size, device memory in bytes)."""
    config = importlib.import_module(f"configs.{name}").get_config(FLAGS.args)
    config.dtype = dtype
    config.batch_size = FLAGS.batch_size or config.batch_size
    if FLAGS.features:
        config.model.features = FLAGS.features
        if "common" in config.model:
            config.model.common = FLAGS.features
    model, parallel = make_model(config), Parallel(config.parallel, config.num_devices)
    parallel.check_batch_size(config.batch_size, "--batch_size")
    spec = input_lib.batch_spec(config, config.batch_size, model.requires())
    schedule = optimizer_lib.learning_rate(config.optimizer, 1000, 100)
    variables = initial_variables(model, spec, 0)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 100)
    state = parallel.replicate(initial_state(variables, optimizer))
    step = parallel.map_step(make_step(model, optimizer, schedule, 100, 0))
    batch = parallel.put_batch(random_batch(spec))
    seconds = []
    for _ in range(FLAGS.steps + 1):
        start = time.perf_counter()
        state, scalars = step(state, batch)
        jax.block_until_ready((state, scalars))
        seconds.append(time.perf_counter() - start)
    memory = (parallel.devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return seconds[0], seconds[1:], config.batch_size, memory


def main(_):
    """Prints one row per (model, dtype)."""
    device = jax.devices()[0]
    table = Table(
        title=f"jax {jax.__version__}, {len(jax.devices())} x {device.device_kind} ({platform.machine()}), "
        f"{FLAGS.args}, features {FLAGS.features or 'of the config'}"
    )
    for column in (
        "model", "dtype", "batch", "compile + first step", "step ms (p10-p90)", "steps/s", "examples/s",
        "peak memory",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for name in FLAGS.models:
        for dtype in FLAGS.dtypes:
            first, seconds, batch, memory = measure(name, dtype)
            median = float(np.median(seconds))
            low, high = np.percentile(seconds, [10, 90])
            host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            table.add_row(
                name, dtype, str(batch), f"{first:.1f} s",
                f"{1e3 * median:.1f} ({1e3 * low:.1f}-{1e3 * high:.1f})", f"{1 / median:.2f}",
                f"{batch / median:.0f}",
                f"{memory / 2**30:.2f} GiB" if memory else f"{host / 2**30:.2f} GiB (host, so far)",
            )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    app.run(main)
