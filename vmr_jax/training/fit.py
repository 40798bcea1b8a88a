"""A run from its config to its report: `launch.py --mode=train` and `vmr_jax.fit` are this."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from vmr_jax.parallel import lead_host_first
from vmr_jax.training.checkpoint import has_checkpoint
from vmr_jax.training.experiment import CHECKPOINTS, Experiment
from vmr_jax.training.interrupt import signals_of_run
from vmr_jax.training.loop import Trainer
from vmr_jax.training.owner import owned
from vmr_jax.training.preflight import check_config
from vmr_jax.training.same_run import check_hosts_agree, check_same_run
from vmr_jax.training.step import LossFunction
from vmr_jax.training.writer import prepared_workdir

log = logging.getLogger("vmr_jax")


def fit(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    losses: Mapping[str, LossFunction] | None = None,
) -> dict[str, Any]:
    """Trains in a folder, resuming where it holds the same run, evaluates, and writes the report.

    Args:
      config: resolved and locked.
      workdir: the folder, which is made where it is missing; this process owns it until the end.
      losses: name -> function (outputs, batch, *, epoch) -> Mean: further terms of the objective, logged as
        train/NAME.

    Returns:
      The content of results.json.

    Raises:
      KeyboardInterrupt: after Ctrl-C, once the step is finished and saved; SystemExit (143) after SIGTERM.
      UserError: for all that the user can put right, before the first step wherever it can be known.
    """
    with signals_of_run() as signals:
        signals.advice = "Give the same command again to go on."
        check_config(config, losses, resumes=has_checkpoint(workdir / CHECKPOINTS))
        with prepared_workdir(workdir):
            check_hosts_agree(config, workdir)
            with owned(workdir, "train"):
                changes = check_same_run(config, workdir)
                experiment = open_experiment(config, workdir)
                trainer = Trainer(experiment, workdir, losses=losses, changes=changes, signals=signals)
                results = trainer.run()
                signals.advice = ""  # a signal that comes later stops no training
                return results


def open_experiment(config: ml_collections.ConfigDict, workdir: Path) -> Experiment:
    """The lead host prepares the data and writes the vocabulary, the others find them or do the same."""
    log.info("Preparing the data of %s", config.dataset.name)
    with lead_host_first("open the experiment"):
        return Experiment(config, workdir)
