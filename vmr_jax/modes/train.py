"""`--mode=train`: trains, evaluates, reports."""

from collections.abc import Mapping
from pathlib import Path

import ml_collections

from vmr_jax.training.finish import print_results
from vmr_jax.training.fit import fit
from vmr_jax.training.step import LossFunction


def train(
    config: ml_collections.ConfigDict, workdir: Path, losses: Mapping[str, LossFunction] | None = None
) -> None:
    """Trains, evaluates and reports in a folder; `losses` are further terms of the objective, from Python."""
    print_results(workdir, fit(config, workdir, losses=losses))
