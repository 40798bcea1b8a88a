"""`--mode=train`: trains, evaluates, reports."""

from pathlib import Path

from vmr_jax.training.loop import Trainer
from vmr_jax.training.same_run import check_hosts_agree
from vmr_jax.training.writer import prepare_workdir


def train(config, workdir: Path) -> None:
    """`--mode=train`: trains, evaluates, reports."""
    prepare_workdir(workdir)
    check_hosts_agree(config, workdir)
    Trainer(config, workdir).run()
