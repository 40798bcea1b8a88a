"""`--mode=inspect`: what a config builds, without training and without opening the dataset."""

from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from vmr_jax.input.spec import batch_spec
from vmr_jax.models import base
from vmr_jax.parallel import Parallel
from vmr_jax.training import experiment
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.step import initial_state, make_step


def abstract_variables(config, batch_size: int = 1, vocab_size: int = 0):
    """Shapes of the variables of a config, by `jax.eval_shape`: nothing is computed."""
    model = experiment.make_model(config, vocab_size)
    rows = batch_size * max(config.input.queries_per_video, 1)
    batch = batch_spec(config, rows, model.requires())
    return base.abstract_variables(model, batch)


def parameter_count(variables) -> int:
    """Number of trainable values in `variables['params']`."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def inspect(config, workdir: Path) -> None:
    """Prints the resolved config, the batch, the parameters, FLOPs and memory of a training step."""
    del workdir
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    console.print("Config", style="bold")
    console.print(str(config), markup=False)
    parallel = Parallel(config.parallel, config.num_devices)
    parallel.check_batch_size(config.batch_size, "config.batch_size")
    vocab_size = 2 if config.text.trainable else 0
    model = experiment.make_model(config, vocab_size)
    batch = batch_spec(config, config.batch_size, model.requires())
    console.print(_batch_table(batch))
    variables = abstract_variables(config, vocab_size=vocab_size)
    console.print(_parameter_table(variables))
    if config.text.trainable:
        console.print(
            "Trained word vectors add (vocabulary + 2) x W parameters; the vocabulary needs the data."
        )
    console.print(_cost_table(config, model, batch))


def _batch_table(batch) -> Table:
    table = Table(title="Batch", title_justify="left")
    for column in ("field", "shape", "dtype"):
        table.add_column(column)
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        table.add_row(jax.tree_util.keystr(path).lstrip("."), str(leaf.shape), str(leaf.dtype))
    return table


def _parameter_table(variables) -> Table:
    table = Table(title="Parameters", title_justify="left")
    table.add_column("path")
    table.add_column("shape")
    table.add_column("count", justify="right")
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"], sep="/").items():
        table.add_row(path, str(leaf.shape), f"{int(np.prod(leaf.shape)):,}")
    table.add_row("total", "", f"{parameter_count(variables):,}", style="bold")
    return table


def _cost_table(config, model, batch) -> Table:
    """Compiles one step for one device and asks the compiler."""
    schedule = optimizer_lib.learning_rate(config.optimizer, 1000, 100)
    variables = base.abstract_variables(model, batch)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 100)
    state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
    step = jax.jit(make_step(model, optimizer, schedule, 100, config.seed), donate_argnums=0)
    compiled = step.lower(state, batch).compile()
    cost: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    table = Table(title=f"One training step, batch {config.batch_size}, one device", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("floating-point operations", f"{cost.get('flops', float('nan')) / 1e9:,.2f} GFLOP")
    table.add_row("parameters", _mib(_bytes(variables["params"])))
    table.add_row("optimiser state", _mib(_bytes(state.opt_state)))
    table.add_row("batch", _mib(_bytes(batch)))
    table.add_row("temporaries (activations, gradients)", _mib(memory.temp_size_in_bytes))
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    table.add_row("estimated memory", _mib(total), style="bold")
    return table


def _bytes(tree) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
