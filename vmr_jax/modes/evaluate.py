"""`--mode=evaluate`: reproduces the numbers of a run from its best checkpoint."""

import logging
from pathlib import Path

import ml_collections

from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.parallel import is_lead_host
from vmr_jax.training.finish import finish, print_results
from vmr_jax.training.fit import open_experiment
from vmr_jax.training.owner import owned
from vmr_jax.training.same_run import check_evaluated_run, check_hosts_agree

log = logging.getLogger("vmr_jax")


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """`--mode=evaluate`: reproduces the numbers of a run from its best checkpoint.

    The config may name other places of the files, other splits and another protocol than the run's own. A
    folder that cannot be written is evaluated all the same, and the numbers are printed.
    """
    check_hosts_agree(config, workdir, read_only=True)
    check_evaluated_run(config, workdir)
    with owned(workdir, "evaluate", read_only=True) as writable:
        if not writable:
            log.warning("%s cannot be written: the numbers will be printed, and not saved", workdir)
        experiment = open_experiment(config, workdir)
        if writable and is_lead_host():
            experiment.write_vocabulary(workdir)  # where it was deleted, because it was damaged
        evaluator = Evaluator(config, experiment.model, experiment.parallel)
        results = finish(experiment, evaluator, workdir, save=writable)
    print_results(workdir, results, saved=writable)
