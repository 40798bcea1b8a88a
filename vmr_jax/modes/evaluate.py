"""`--mode=evaluate`: reproduces the numbers of a run from its best checkpoint."""

from pathlib import Path

from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.training.finish import finish
from vmr_jax.training.loop import open_experiment
from vmr_jax.training.same_run import check_hosts_agree


def evaluate(config, workdir: Path) -> None:
    """`--mode=evaluate`: reproduces the numbers of a run from its best checkpoint."""
    check_hosts_agree(config, workdir)
    experiment = open_experiment(config, workdir)
    finish(experiment, Evaluator(config, experiment.model, experiment.parallel), workdir)
