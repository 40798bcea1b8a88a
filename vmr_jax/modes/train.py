"""`--mode=train`: trains, evaluates, reports."""

from pathlib import Path

import ml_collections

from vmr_jax.training.loop import Trainer
from vmr_jax.training.owner import owned
from vmr_jax.training.same_run import check_hosts_agree
from vmr_jax.training.writer import prepare_workdir


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """`--mode=train`: trains, evaluates, reports."""
    prepare_workdir(workdir)
    check_hosts_agree(config, workdir)
    with owned(workdir, "train"):
        Trainer(config, workdir).run()
