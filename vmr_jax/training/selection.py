"""Which checkpoint is the best, by which split, and what a run ends with."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from vmr_jax.errors import UserError, unknown
from vmr_jax.evaluation.protocols import Protocol, check_selection
from vmr_jax.input.dataset import Dataset
from vmr_jax.models.base import GroundingModel


def check_evaluation(
    config: ml_collections.ConfigDict, model: GroundingModel, dataset: Dataset, protocol: Protocol
) -> list[str]:
    """The splits that a run ends with; none where the dataset has but `train`.

    Raises:
      UserError: for all that would stop the run at its first evaluation or at its end.
    """
    options = config.evaluation
    check_selection(options, protocol)
    if options.select_split and options.select_split not in dataset.split_names:
        raise unknown(
            f"The dataset {config.dataset.name} has no split",
            options.select_split,
            dataset.split_names,
            "config.evaluation.select_split chooses the best checkpoint: name a split, or give "
            "--config.evaluation.select_split= to keep the last one.",
        )
    if config.patience and not options.select_split:
        raise UserError(
            f"config.patience is {config.patience}, which counts evaluations on a validation split, and "
            "config.evaluation.select_split names none. Set config.patience to 0, or name a split."
        )
    splits = list(options.splits) or [name for name in dataset.labelled_splits if name != "train"]
    for name in dict.fromkeys((*splits, *filter(None, [options.select_split]))):
        protocol.prepare(model, dataset.split(name))
    return splits


def first_position(losses: Iterable[str] = ()) -> dict[str, Any]:
    """The position before the first evaluation, as a checkpoint stores it; `losses` are the further ones."""
    further = {"losses": sorted(losses)} if losses else {}
    return {"step": 0, "best_step": 0, "best_value": -1.0, "stale": 0, **further}


def next_position(position: Mapping[str, Any], step: int, value: float) -> dict[str, Any]:
    """The position after an evaluation at a step: the best one until now, and how many came after it."""
    better = value > position["best_value"]
    return {
        **position,
        "step": step,
        "best_step": step if better else position["best_step"],
        "best_value": value if better else position["best_value"],
        "stale": 0 if better else position["stale"] + 1,
    }
