"""`--mode=import`: an official PyTorch checkpoint becomes a run that can be evaluated and asked."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import numpy as np

from vmr_jax.config import CONFIG
from vmr_jax.errors import UserError
from vmr_jax.files import write_json, write_whole
from vmr_jax.input.queries import FIRST_WORD
from vmr_jax.models import model_class, model_fields
from vmr_jax.models.base import first_difference
from vmr_jax.modes.inspect import abstract_variables
from vmr_jax.torch_import import contradicts, hyper_parameters, load, read_checkpoint
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.experiment import BEST, Experiment, make_model
from vmr_jax.training.owner import owned
from vmr_jax.training.places import stored_config
from vmr_jax.training.writer import prepare_workdir

log = logging.getLogger("vmr_jax")

# Fields that must agree with how the config makes ids of characters, relations and subwords.
_OF_THE_TEXT = ("num_chars", "relations", "text_vocab")


def import_checkpoint(config, workdir: Path, checkpoint: str | None) -> None:
    """Turns the official `checkpoint` of `config.model.name` into the best checkpoint of `workdir`.

    The sizes of the model are the checkpoint's; those of the data, such as the width of the features, are the
    config's. Nothing is written before the file has been read and fits both.

    Raises:
      UserError: without a file, for a folder that holds a run, for a file that is damaged, of another
        architecture, or trained on data of other sizes than the config's.
    """
    if not checkpoint:
        raise UserError("--mode=import needs --checkpoint=FILE, an official checkpoint of the architecture.")
    if (workdir / CONFIG).exists():
        raise UserError(f"{workdir} already holds a run. Choose another --workdir.")
    state_dict = read_checkpoint(checkpoint)
    config = _with_sizes(config, hyper_parameters(config.model.name, state_dict))
    wanted = abstract_variables(config, vocab_size=_vocab_size(config))
    variables = load(config.model.name, state_dict)
    _check_sizes(wanted, variables, checkpoint)
    prepare_workdir(workdir)
    with owned(workdir, "import"):
        experiment = Experiment(config, workdir)
        best = Checkpoints(workdir / BEST, keep=1)
        position = {"step": 0, "value": 0.0, "imported": Path(checkpoint).name}
        best.save(0, experiment.parallel.replicate(variables), position)
        best.close()
        write_whole(workdir / "metrics.jsonl", "")  # nothing was trained here; the report asks for it
        experiment.write_vocabulary(workdir)
        write_json(workdir / CONFIG, stored_config(config))
    count = sum(int(np.prod(leaf.shape)) for leaf in flax.traverse_util.flatten_dict(variables).values())
    print(
        f"{count:,} numbers of {checkpoint} are the checkpoint of {workdir}. Evaluate it with: "
        f"python launch.py --mode=evaluate --workdir={workdir}"
    )


def _vocab_size(config) -> int:
    """Of the vocabulary that the model has a table of; 0 where it has none, and the data stay closed."""
    if config.text.trainable or make_model(config).needs_vocabulary:
        return len(Experiment(config).vocabulary) + FIRST_WORD
    return 0


def _with_sizes(config, read: Mapping[str, Any]):
    """The config with the hyper-parameters that were `read` off the checkpoint; logs each that it changes."""
    name = config.model.name
    fields = {**model_fields(model_class(name)), **config.model}
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for field, value in read.items():
            if field not in fields or field in _OF_THE_TEXT:
                continue
            if contradicts(name, field, value, fields[field]):
                log.info("config.model.%s: %s -> %s, from the checkpoint", field, fields[field], value)
                config.model[field] = value
    return config


def _check_sizes(wanted, variables, checkpoint: str) -> None:
    """Raises UserError where the checkpoint is of another size than the `wanted` variables of the config."""
    other = first_difference(wanted, variables)
    if other is not None:
        path, ours, theirs = other
        raise UserError(
            f"{checkpoint} does not fit the config: {path} is {theirs} in it and {ours} in the config. "
            "Choose the dataset and options that it was trained with, set the fields of config.model, or "
            "give its vocabulary as config.text.vocabulary."
        )
