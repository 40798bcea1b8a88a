"""How many operations of the convolutions over moment maps reach no candidate, at a step of training.

    python benchmarks/dead_work.py                                    # no data, nothing is computed; a minute
    python benchmarks/dead_work.py --models=two_d_tan --args=charades_sta,vgg

The model is traced on abstract arrays, and of each of its convolutions over two axes with a kernel of more than
one cell is noted what it reads, how wide it is, and which cells matter. Then two counts are made:

- done: of the convolution with both its gradients as it is lowered for this device, in bands or whole, by the
  compiler (`jax.stages.Lowered.cost_analysis`). It counts no products with the zeros beyond an edge.
- needed: 2 D F k^2 for each cell of the result that matters, once for the value and once for its part in the
  gradient of the kernel, and for each cell of the source, for the gradient with respect to it. A cell matters
  which a candidate reaches through the layers before and which reaches a candidate through those after
  (`vmr_jax.kernels.map_convolution.map_regions`); where statistics of a batch are over all cells of the map
  (MMN), all of them do. Of a convolution that is not told which cells matter, all do.

'cells' is the same share for the cells of the result alone, a row and column of every band counted in full.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from lines import Lines
from machine import command_and_commit, describe_machine
from program import run
from training_steps import PUBLISHED, WORDS

from vmr_jax.input.spec import batch_spec
from vmr_jax.kernels import map_convolution
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.experiment import make_model

FLAGS = flags.FLAGS
MODELS = ("two_d_tan", "mmn", "vdi", "fvmr", "dcm", "rtbpn", "emb", "vlg_net", "ms_2d_tan")
KEY = ("model", "setting", "commit")
COLUMNS = (
    "model", "setting", "convolutions", "done_gflop", "needed_gflop", "times", "cells_times",
    "command", "commit", "machine",
)  # fmt: skip


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    flags.DEFINE_list("models", [*MODELS], "Architectures with maps of moments.", flag_values=holder)
    flags.DEFINE_string("args", "", "Their argument; '': storyboard, then the published.", flag_values=holder)
    flags.DEFINE_string("csv", "", "A file for the figures; empty: none.", flag_values=holder)


class Convolution(NamedTuple):
    """A convolution over a map, as it was traced.

    Attributes:
      shape: [B,Z,Z',D] of what it reads.
      kernel: its sides.
      features: F.
      padding: as `nn.Conv` has it.
      source: [Z,Z] bool, the cells that may be other than zero; None: it is not told.
      target: [Z'',Z''] bool, the cells of the result that matter; None with `source`.
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    features: int
    padding: Any
    source: np.ndarray | None = None
    target: np.ndarray | None = None


def traced(model: Any, batch: Any) -> list[Convolution]:
    """The convolutions over two axes of a step of training, in their order."""
    found = []

    def note(call: Callable, given: tuple, named: dict, context: Any) -> Any:
        module = context.module
        if (
            isinstance(module, nn.Conv)
            and context.method_name == "__call__"
            and np.size(module.kernel_size) == 2
        ):
            kernel = tuple(module.kernel_size)
            cells = getattr(module.conv_general_dilated, "keywords", {})
            if max(kernel) > 1:
                regions = cells.get("source"), cells.get("target")
                found.append(Convolution(given[0].shape, kernel, module.features, module.padding, *regions))
        return call(*given, **named)

    variables = abstract_variables(model, batch)
    kept = [name for name in variables if name != "params"]
    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda v, b: model.apply(v, b, train=True, rngs={"dropout": jax.random.key(0)}, mutable=kept),
            variables,
            batch,
        )
    return found


def done(convolution: Convolution) -> float:
    """Operations of value and gradients, as the compiler counts them."""
    *batch, height, width, channels = convolution.shape
    x = jax.ShapeDtypeStruct((int(np.prod(batch)), height, width, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*convolution.kernel, channels, convolution.features), jnp.float32)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if convolution.source is not None:
            return map_convolution.convolve(
                x, kernel, source=convolution.source, target=np.asarray(convolution.target)
            )
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), convolution.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def step(x: jax.Array, kernel: jax.Array) -> Any:
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(y)

    cost: Any = jax.jit(step).lower(x, kernel).cost_analysis()
    return cost["flops"]


def cells(convolution: Convolution) -> tuple[int, int, int]:
    """Cells of the source and of the result that matter, and of the result that are computed."""
    height, width = convolution.shape[-3:-1]
    if convolution.source is None or convolution.target is None:
        lost = 0 if convolution.padding == "SAME" else convolution.kernel[0] - 1
        return height * width, (height - lost) * (width - lost), (height - lost) * (width - lost)
    half = convolution.kernel[0] // 2
    found, _ = map_convolution.on_canvas(convolution.source, convolution.target, half)
    computed = 0
    for band in found:
        columns = band.read[1] - band.read[0] + sum(map_convolution.padding(half))
        computed += (band.rows[1] - band.rows[0]) * (columns - 2 * half)
    return int(convolution.source.sum()), int(convolution.target.sum()), computed


def needed(convolution: Convolution) -> float:
    """Operations of the cells that matter, for value and gradients."""
    *batch, _, _, channels = convolution.shape
    before, after, _ = cells(convolution)
    of_cell = 2 * channels * convolution.features * np.prod(convolution.kernel)
    return float(np.prod(batch) * of_cell * (2 * after + before))


def measure(name: str, arg: str, batch_size: int) -> dict[str, str]:
    """The columns from `convolutions` to `cells_times`."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)
    config.batch_size = batch_size or config.batch_size
    model = make_model(config, WORDS)
    found = traced(model, batch_spec(config, config.batch_size, model.requires()))
    line = {"convolutions": str(len(found))}
    if found:
        ours, least = sum(map(done, found)), sum(map(needed, found))
        _, matter, computed = (sum(column) for column in zip(*map(cells, found), strict=True))
        line |= {"done_gflop": f"{ours / 1e9:.2f}", "needed_gflop": f"{least / 1e9:.2f}"}
        line |= {"times": f"{ours / least:.2f}", "cells_times": f"{computed / matter:.2f}"}
    return line


def main(arguments: list[str]) -> None:
    """Prints a line for each architecture and setting."""
    origin = command_and_commit(["benchmarks/dead_work.py", *sys.argv[1:]]) | {"machine": describe_machine()}
    lines = Lines(Path(FLAGS.csv), COLUMNS, KEY) if FLAGS.csv else None
    for name in FLAGS.models:
        settings = [("storyboard", 0), *([PUBLISHED[name]] if name in PUBLISHED else [])]
        for arg, batch_size in [(FLAGS.args, 0)] if FLAGS.args else settings:
            key = {"model": name, "setting": arg, **origin}
            if lines and lines.has(*(key[column] for column in KEY)):
                continue
            found = key | measure(name, arg, batch_size)
            print(said(found), flush=True)
            if lines:
                lines.append([found])


def said(row: dict[str, str]) -> str:
    """A line for the reader."""
    head = f"{row['model']:<12} {row['setting']:<24}"
    if row["convolutions"] == "0":
        return f"{head} no convolution over a map"
    return (
        f"{head} {row['convolutions']} convolutions: {row['done_gflop']} GFLOP done, {row['needed_gflop']} "
        f"needed, {row['times']} times; cells {row['cells_times']} times"
    )


if __name__ == "__main__":
    run(main, define_flags)
