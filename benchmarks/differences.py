"""Losses and gradients of every architecture on the accelerator beside those of the CPU.

The models and batches are the small ones of the contract (tests/cases, tests/batches.py), the step is the one
that trains, with random weights. The reference is the CPU in float32; matrix products in float32 have the
highest precision on both.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from items import Line, Prepared, digits
from training_steps import random_variables

from vmr_jax import models
from vmr_jax.models.base import abstract_variables
from vmr_jax.training.step import initial_state, make_step

DTYPES = ("float32", "bfloat16")
# In float32 sums in another order gave at most 1e-5. In bfloat16: as below, or twice what the CPU loses by it;
# where it loses more than `_CHOICE`, another moment was chosen or drawn, and nothing can be said.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
_CHOICE = 0.25


class Difference:
    """An architecture, both dtypes."""

    def __init__(self, name: str):
        self.key = ("correctness", name, "small", "float32")

    def prepare(self) -> Prepared:
        """Steps of the CPU in each dtype, then of the accelerator."""
        sys.path.append(str(Path(__file__).parents[1] / "tests"))
        import batches
        import cases

        small, batch = cases.ALL[self.key[1]].SMALL, batches.random_batch()
        keep, rate = optax.trace(0.0), optax.constant_schedule(0.0)  # its state is the gradient itself
        steps, programs, inputs = [], [], []
        for dtype in DTYPES:
            fields = small if dtype == "float32" else {**small, "dtype": jnp.dtype(dtype)}
            model = models.create(self.key[1], **fields)
            steps.append(jax.jit(make_step(model, keep, rate, 10, seed=0)))
        variables = random_variables(abstract_variables(model, batch))
        state = jax.tree.map(np.asarray, initial_state(variables, keep))
        cpu, device = jax.devices("cpu")[0], jax.devices()[0]
        with jax.default_matmul_precision("highest"):
            for place in dict.fromkeys((cpu, device)):
                given = jax.device_put((state, batch), place)
                programs += [step.lower(*given) for step in steps]
                inputs += [given] * len(steps)
        return Prepared(programs, functools.partial(_lines, inputs))


def _lines(inputs: Sequence[Any], compiled: Sequence[Any]) -> list[Line]:
    """One for each dtype; the last programs are those of the accelerator, or of the CPU where there is none."""
    found = [_loss_and_gradient(step(*given)) for step, given in zip(compiled, inputs, strict=True)]
    lines = []
    for dtype, on_cpu, on_device in zip(DTYPES, found, found[-len(DTYPES) :]):
        own, _ = largest_difference(found[0], on_cpu)
        difference, where = largest_difference(found[0], on_device)
        line = {"dtype": dtype, "quantity": "difference", "value": f"{difference:.2g}", "unit": "relative"}
        note = f"most in {where}; the CPU's own: {own:.2g}"
        if own > _CHOICE:
            lines.append({**line, "note": f"{note}, by another choice: not judged"})
            continue
        tolerance = max(TOLERANCES[dtype], 2 * own)
        judged = {"tolerance": digits(tolerance), "within": "yes" if difference <= tolerance else "no"}
        lines.append({**line, **judged, "note": note})
    return lines


def _loss_and_gradient(result: Any) -> tuple[float, dict[str, np.ndarray]]:
    state, scalars = jax.device_get(result)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.opt_state.trace)
    names = {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}
    return float(scalars["train/loss"]), names


def largest_difference(reference: Any, found: Any) -> tuple[float, str]:
    """Of two (loss, name -> gradient): the larger relative difference of loss and gradient, and where most is.

    The gradient's is the norm of the difference of all arrays by the norm of all: some arrays have a gradient
    that is nothing but rounding. It is infinite where something is not finite.
    """
    (loss, gradients), (other_loss, others) = reference, found
    apart = {
        name: float(np.linalg.norm((others[name] - x).astype(np.float64))) for name, x in gradients.items()
    }
    norm = np.linalg.norm([np.linalg.norm(x.astype(np.float64)) for x in gradients.values()])
    differences = {
        "the loss": abs(other_loss - loss) / abs(loss) if other_loss != loss else 0.0,
        max(apart, key=lambda name: _finite(apart[name])): float(np.linalg.norm([*apart.values()]) / norm),
    }
    differences = {name: _finite(x) for name, x in differences.items()}
    where = max(differences, key=differences.__getitem__)
    return differences[where], where


def _finite(x: float) -> float:
    return x if np.isfinite(x) else np.inf
