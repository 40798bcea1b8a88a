"""Numbers that are not finite: how they are found, what is kept of it, and how a run goes on after them.

A step whose loss is finite can still have an infinite update. The state is therefore looked at before each
save, and a run that stops leaves `not_finite.json` in its folder. While that file is there, the numbers of the
optimiser may change, and the run goes on from its last checkpoint, which is finite.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.files import read_json, write_json

NOT_FINITE = "not_finite.json"
# Fields of config.optimizer that leave the arrays of the optimiser's state as they are.
MAY_CHANGE = frozenset(
    f"optimizer.{field}"
    for field in (
        "learning_rate", "b1", "b2", "eps", "weight_decay", "l2", "clip_norm", "clip_each", "clip_value",
        "schedule", "warmup", "warmup_from", "decay_at", "decay_by",
    )
)  # fmt: skip
_SHOWN = 3  # arrays of a message


def not_finite(tree: Any) -> list[str]:
    """Paths ('params/a/kernel') of the arrays that hold a NaN or an infinity; one pass on the devices."""
    leaves = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    if not leaves:
        return []
    finite = np.asarray(_finite([leaf for _, leaf in leaves]))
    return [path_name(path) for (path, _), good in zip(leaves, finite) if not good]


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def path_name(path: tuple) -> str:
    """The path of a leaf of a tree, its keys with slashes between them."""
    parts = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path]
    return "/".join(str(part) for part in parts)


def named(paths: list[str]) -> str:
    """The first of the paths, and how many there are, for a message."""
    shown = ", ".join(paths[:_SHOWN])
    return f"{shown} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else shown


def stop_message(workdir: Path, found: str, step: int, last_good: int) -> str:
    """The message of a run that stops because of what was `found` at a step.

    Args:
      workdir: folder of the run.
      found: the beginning, a whole sentence.
      step: at which it was found.
      last_good: step of the last checkpoint; 0 where there is none.
    """
    on = f"goes on from step {last_good}, the last checkpoint" if last_good else "starts from its first step"
    return (
        f"{found} Nothing of step {step} was saved. Lower config.optimizer.learning_rate or set "
        f"config.optimizer.clip_norm and give the command again with the same --workdir={workdir}: the run "
        f"then {on}. If that does not help, look at the features for extreme values."
    )


# --- the record in the folder ---------------------------------------------------------------------


def read_record(workdir: Path) -> dict[str, Any]:
    """The content of `not_finite.json`: 'step', 'last_good', 'found', 'changes'; {} without the file."""
    try:
        record = read_json(workdir / NOT_FINITE)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(workdir: Path, found: str, step: int, last_good: int) -> None:
    """Writes `not_finite.json`, which allows the numbers of the optimiser to change."""
    record = {"step": step, "last_good": last_good, "found": found, "changes": {}}
    write_json(workdir / NOT_FINITE, record)


def write_changes(workdir: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Adds to `not_finite.json` which fields were changed; they are in force from the last checkpoint on."""
    record = read_record(workdir)
    write_json(workdir / NOT_FINITE, {**record, "changes": dict(changes)})


def remove_record(workdir: Path) -> None:
    """A good checkpoint past the last one ends the exception."""
    (workdir / NOT_FINITE).unlink(missing_ok=True)


def merged_changes(workdir: Path, new: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The changes since the last checkpoint: those of the record, and `new` ones (field -> (old, new))."""
    changes = {field: tuple(pair) for field, pair in read_record(workdir).get("changes", {}).items()}
    for field, (old, value) in new.items():
        changes[field] = (changes.get(field, (old,))[0], value)
    return {field: pair for field, pair in changes.items() if pair[0] != pair[1]}


def changes_in_words(changes: Mapping[str, tuple[Any, Any]], step: int) -> str:
    """'From step 40 on with config.optimizer.learning_rate: 0.001 (before: 1.0).'"""
    shown = ", ".join(f"config.{field}: {new} (before: {old})" for field, (old, new) in changes.items())
    return f"From step {step} on with {shown}."
