"""How the operations of a training step grow with clips, map size, words and batch, beside the mathematics.

    python benchmarks/growth.py                              # one architecture of each family, on one core
    python benchmarks/growth.py --models=vslnet --axes=clips --memory

Nothing is computed: the step is traced at the size of the embedded test bed with one length changed, and the
operations of its matrix products, convolutions and other steps are added up, those of a loop as often as it
runs. So the figures do not depend on the machine or on what else it does. --memory also compiles every step,
for the bytes of temporaries that the compiler plans.

`exponent` is the slope of the least-squares line through the logarithms, `last` the slope between the last two
points, and `mathematics` the highest exponent that the architecture's equations have. 'FASTER' marks a step
whose last slope is more than a twentieth above that. --output gets a line for each point.
"""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import app, flags
from jax.extend import core
from lines import Lines

from vmr_jax.input.spec import batch_spec
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.experiment import make_model
from vmr_jax.training.step import initial_state, make_step

FLAGS = flags.FLAGS
AXES = {
    "clips": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "map": (16, 32, 64, 128, 256),
    "words": (8, 16, 32, 64, 128),
    "batch": (4, 8, 16, 32, 64),
}
# Self-attention is quadratic in what attends, a map in its side, a contrast in the batch; all else is linear.
# TSP-PRL's queries are one vector each; CPL reads all clips, officially 200, by self-attention.
MATHEMATICS = {
    "two_d_tan": {"clips": 1, "map": 2, "words": 1, "batch": 1},
    "fvmr": {"clips": 1, "map": 2, "words": 1, "batch": 1},
    "vslnet": {"clips": 2, "words": 2, "batch": 1},
    "lgi": {"clips": 2, "words": 1, "batch": 1},
    "moment_detr": {"clips": 2, "words": 2, "batch": 1},
    "tsp_prl": {"clips": 1, "words": 1, "batch": 1},
    "cpl": {"clips": 2, "words": 2, "batch": 1},
    "xml": {"clips": 2, "words": 2, "batch": 2},
}
_BATCH, _SLACK = 4, 0.05
COLUMNS = ("model", "axis", "length", "operations", "temporary_bytes")


def define_flags() -> None:
    """The flags of the program."""
    flags.DEFINE_list("models", [*MATHEMATICS], "Architectures whose mathematics is known here.")
    flags.DEFINE_list("axes", [*AXES], "Lengths that grow.")
    flags.DEFINE_bool("memory", False, "Compiles too, for the bytes of temporaries.")
    flags.DEFINE_string("output", "growth.csv", "Gets a line for each point.")


def main(_) -> None:
    """Prints a line for each architecture and axis."""
    lines = Lines(Path(FLAGS.output), COLUMNS, COLUMNS[:3])
    for name in FLAGS.models:
        for axis in (axis for axis in FLAGS.axes if axis in MATHEMATICS[name]):
            points = []
            for length in AXES[axis]:
                points.append(measured(name, axis, length))
                lines.append([dict(zip(COLUMNS, (name, axis, length, *points[-1]), strict=True))])
            print(said(name, axis, points), flush=True)
            jax.clear_caches()


def said(name: str, axis: str, points: list[tuple[float, Any]]) -> str:
    """How operations, and bytes where they are known, grew."""
    lengths, expected = AXES[axis], MATHEMATICS[name][axis]
    text = f"{name:<12} {axis:<6} {lengths[0]} to {lengths[-1]}: mathematics {expected}"
    for what, values in zip(("operations", "temporaries"), zip(*points, strict=True), strict=True):
        if "" not in values:
            slope, last = exponent(lengths, values), exponent(lengths[-2:], values[-2:])
            faster = "  FASTER" if last > expected + _SLACK else ""
            text += f"; {what} exponent {slope:.2f}, last {last:.2f}{faster}"
    return text


def exponent(lengths, values) -> float:
    """The slope of the line through the logarithms by least squares."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def measured(name: str, axis: str, length: int) -> tuple[float, Any]:
    """Operations of a training step, and bytes of temporaries or ''."""
    config = make_config(name, axis, length)
    model = make_model(config)
    batch = batch_spec(config, config.batch_size, model.requires())
    optimizer = optax.sgd(1.0)
    variables = abstract_variables(model, batch)
    state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
    step = jax.jit(make_step(model, optimizer, optax.constant_schedule(1.0), 100, 0))
    traced = step.trace(state, batch)
    if not FLAGS.memory:
        return operations(traced.jaxpr.jaxpr), ""
    memory: Any = traced.lower().compile().memory_analysis()
    return operations(traced.jaxpr.jaxpr), memory.temp_size_in_bytes


def make_config(name: str, axis: str, length: int):
    """The embedded test bed's, with one length changed, and the limits of the architecture raised to it."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config("storyboard")
    config.batch_size = length if axis == "batch" else _BATCH
    if axis == "words":
        config.text.max_words = length
    if axis == "map":
        config.model.num_clips, config.input.num_clips = length, max(length, config.input.num_clips)
        config.model.scale_layers = (16,) + (8,) * int(math.log2(length // 16))
    if axis == "clips":
        config.input.num_clips = length
    for field, limit in (("max_positions", length), ("max_clips", length), ("max_words", length)):
        if axis in ("clips", "words") and field in config.model:
            config.model[field] = max(limit, config.model[field])
    return config


# --- operations -----------------------------------------------------------------------------------


def operations(jaxpr: core.Jaxpr) -> float:
    """Multiplications and additions of products, two of a pair; one for each number that other steps give."""
    return sum(_of_step(step) for step in jaxpr.eqns)


def _of_step(step: Any) -> float:
    inner = [operations(jaxpr) for jaxpr in _inside(step.params)]
    if inner:
        # Of branches the dearest; a loop of unknown length counts once.
        total = max(inner) if step.primitive.name == "cond" else sum(inner)
        return total * step.params.get("length", 1)
    results = sum(math.prod(x.aval.shape) for x in step.outvars)
    if step.primitive.name == "dot_general":
        (contracted, _), _ = step.params["dimension_numbers"]
        return 2.0 * results * math.prod(step.invars[0].aval.shape[i] for i in contracted)
    if step.primitive.name == "conv_general_dilated":
        kernel = step.invars[1].aval.shape
        return 2.0 * results * math.prod(kernel) / kernel[step.params["dimension_numbers"].rhs_spec[0]]
    return max(results, sum(math.prod(x.aval.shape) for x in step.invars if hasattr(x.aval, "shape")))


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that a step runs."""
    for value in params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, core.Jaxpr):
                yield x


if __name__ == "__main__":
    define_flags()
    app.run(main)
