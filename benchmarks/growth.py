"""How the operations of a training step grow with clips, map size, words and batch, beside the mathematics.

    python benchmarks/growth.py                              # one architecture of each family, on one core
    python benchmarks/growth.py --models=vslnet --axes=clips --memory
    python benchmarks/growth.py --time --output=results/growth.csv --picture=docs/growth.svg    # half an hour

By itself it computes nothing: the step is traced at the size of the embedded test bed with one length changed,
and the operations of its matrix products, convolutions and other steps are added up, those of a loop as often
as it runs. So the figures do not depend on the machine or on what else it does. --memory also compiles every
step, for the bytes of temporaries that the compiler plans. --time also takes steps, on random batches: CPU
seconds are those of all threads, the least of --steps; they depend less than the time that passes on what else
the machine does. A length at which a step is expected to take more than --longest of them, by its growth so
far, or whose temporaries take more than --memory_gib, is not run.

`exponent` is the slope of the least-squares line through the logarithms, `last` the slope between the last two
points, and `mathematics` the highest exponent that the architecture's equations have. 'FASTER' marks what has
a last slope more than a twentieth above that, of CPU seconds a fifth, which are measured. --output gets a line
for each point, and the points that it has of the same commit are not measured again; --picture is drawn of all
its lines.
"""

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import growth_picture
import jax
import numpy as np
import optax
from absl import flags
from jax.extend import core
from lines import Lines, check_folder
from machine import command_and_commit, describe_machine
from program import known, run
from training_steps import random_batch, random_variables

from vmr_jax.input.spec import batch_spec
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.experiment import make_model
from vmr_jax.training.step import initial_state, make_step

FLAGS = flags.FLAGS
AXES = {
    "clips": (64, 256, 1024, 4096, 8192),
    "map": (16, 64, 256),
    "words": (8, 32, 128),
    "batch": (4, 16, 64),
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
_BATCH = 4
# What is measured of a step, and by how much its exponent may exceed that of the mathematics.
QUANTITIES = {"operations": 0.05, "temporary_bytes": 0.05, "cpu_seconds": 0.2}
KEY = ("model", "axis", "length", "commit")
COLUMNS = ("model", "axis", "length", "mathematics", *QUANTITIES, "command", "commit", "machine")
Point = dict[str, float]


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    known = "Architectures whose mathematics is known here."
    flags.DEFINE_list("models", [*MATHEMATICS], known, flag_values=holder)
    flags.DEFINE_list("axes", [*AXES], "Lengths that grow.", flag_values=holder)
    flags.DEFINE_bool("memory", False, "Compiles too, for the bytes of temporaries.", flag_values=holder)
    flags.DEFINE_bool("time", False, "Compiles and takes steps too.", flag_values=holder)
    steps = "That are timed, after one that is not."
    flags.DEFINE_integer("steps", 3, steps, lower_bound=1, flag_values=holder)
    flags.DEFINE_float("longest", 4.0, "CPU seconds that a step may be expected to take.", flag_values=holder)
    flags.DEFINE_float("memory_gib", 4.0, "The most that temporaries of a step may take.", flag_values=holder)
    flags.DEFINE_string("output", "growth.csv", "Gets a line for each point.", flag_values=holder)
    flags.DEFINE_string("picture", "", "An SVG of all lines of the output; empty: none.", flag_values=holder)


def main(_) -> None:
    """Prints a line for each architecture and axis."""
    known("models", FLAGS.models, MATHEMATICS)
    known("axes", FLAGS.axes, AXES)
    lines = Lines(Path(FLAGS.output), COLUMNS, KEY)
    if FLAGS.picture:
        check_folder(Path(FLAGS.picture))
    origin = command_and_commit(["benchmarks/growth.py", *sys.argv[1:]]) | {"machine": describe_machine()}
    for name in FLAGS.models:
        for axis in FLAGS.axes:
            if axis not in MATHEMATICS[name]:
                print(f"{name:<12} {axis:<6} has none", flush=True)
                continue
            points: dict[int, Point] = {}
            for length in AXES[axis]:
                key = (name, axis, str(length), origin["commit"])
                if not lines.has(*key):
                    found = measured(name, axis, length, points)
                    row = dict(zip(KEY[:3], key, strict=False)) | {"mathematics": MATHEMATICS[name][axis]}
                    lines.append([row | {x: f"{value:.6g}" for x, value in found.items()} | origin])
                row = lines.find(*key)
                points[length] = {x: float(row[x]) for x in QUANTITIES if row[x]}
            print(said(name, axis, points), flush=True)
            jax.clear_caches()
    if FLAGS.picture:
        Path(FLAGS.picture).write_text(growth_picture.picture(lines.rows), encoding="utf-8")


def said(name: str, axis: str, points: dict[int, Point]) -> str:
    """How operations, and what else was measured, grew."""
    expected = MATHEMATICS[name][axis]
    text = f"{name:<12} {axis:<6} {min(points)} to {max(points)}: mathematics {expected}"
    for what, slack in QUANTITIES.items():
        lengths = [length for length, point in points.items() if what in point]
        if len(lengths) > 1:
            values = [points[length][what] for length in lengths]
            slope, last = exponent(lengths, values), exponent(lengths[-2:], values[-2:])
            faster = "  FASTER" if last > expected + slack else ""
            upto = f" up to {lengths[-1]}" if lengths[-1] < max(points) else ""
            text += f"; {what.replace('_', ' ')}{upto} exponent {slope:.2f}, last {last:.2f}{faster}"
    return text


def exponent(lengths, values) -> float:
    """The slope of the line through the logarithms by least squares."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def measured(name: str, axis: str, length: int, points: dict[int, Point]) -> Point:
    """The `QUANTITIES` of a training step that are asked for, after shorter lengths gave the `points`."""
    config = make_config(name, axis, length)
    model = make_model(config)
    batch = batch_spec(config, config.batch_size, model.requires())
    optimizer = optax.sgd(1e-3)
    variables = abstract_variables(model, batch)
    state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
    step = jax.jit(make_step(model, optimizer, optax.constant_schedule(1.0), 100, 0))
    traced = step.trace(state, batch)
    point = {"operations": operations(traced.jaxpr.jaxpr)}
    timed = FLAGS.time and expected_seconds(length, points) < FLAGS.longest
    if FLAGS.memory or timed:
        compiled: Any = traced.lower().compile()
        point["temporary_bytes"] = float(compiled.memory_analysis().temp_size_in_bytes)
        if timed and point["temporary_bytes"] < FLAGS.memory_gib * 2**30:
            state = jax.device_put(initial_state(random_variables(variables), optimizer))
            given = jax.device_put(random_batch(batch, config.input.queries_per_video))
            point["cpu_seconds"] = cpu_seconds_of(lambda: compiled(state, given))
    return point


def expected_seconds(length: int, points: dict[int, Point]) -> float:
    """By the growth between the last two lengths that were timed; infinite after one that was not."""
    if not points:
        return 0.0
    if "cpu_seconds" not in points[max(points)]:
        return math.inf
    lengths = sorted(points)[-2:]
    values = [points[x]["cpu_seconds"] for x in lengths]
    slope = exponent(lengths, values) if len(lengths) > 1 else 1.0
    return values[-1] * (length / lengths[-1]) ** max(slope, 0.0)


def cpu_seconds_of(step: Callable[[], Any]) -> float:
    """The least of some calls, after one that is not counted; each goes on for a tenth of a second at least."""
    jax.block_until_ready(step())
    found = []
    for _ in range(FLAGS.steps):
        start, calls = time.process_time(), 0
        while calls == 0 or time.process_time() - start < 0.1:
            jax.block_until_ready(step())
            calls += 1
        found.append((time.process_time() - start) / calls)
    return min(found)


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
    run(main, define_flags)
