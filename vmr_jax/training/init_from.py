"""Training that begins with the weights of another run: `config.init_from`.

Where another dataset or other features change the shape of an array, that array begins anew. A checkpoint of
a run that has begun so says with which weights, by the step of the other run and a digest.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmr_jax.config import CONFIG, load_config
from vmr_jax.errors import UserError, first_few
from vmr_jax.input.queries import FIRST_WORD
from vmr_jax.models.base import abstract_variables
from vmr_jax.parallel import Parallel
from vmr_jax.training.checkpoint import Checkpoints, digest_of_arrays
from vmr_jax.training.experiment import BEST, make_model, open_best, read_run_vocabulary, small_spec

log = logging.getLogger("vmr_jax")
_SHOWN = 8  # arrays that a message names


def check_init_from(config: Any, parallel: Parallel) -> None:
    """UserError where `config.init_from` is no folder of a run of which a weight fits; '' is right.

    Warns where fewer than half of the arrays fit: a few have the same shape by chance.

    Args:
      config: of the training that begins.
      parallel: the devices.
    """
    if not config.init_from:
        return
    folder = _folder(config.init_from)
    if not os.path.isdir(folder):  # not Path.is_dir, which raises for a name that is too long
        raise UserError(
            f"config.init_from is {config.init_from}, which is no folder (seen from {Path.cwd()}). Give the "
            "folder of a run, or of an imported checkpoint (--mode=import)."
        )
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"config.init_from is {config.init_from}, which holds no {CONFIG}, so it is no folder of a run. "
            "Give the --workdir of a training, or of an imported checkpoint (--mode=import)."
        )
    theirs = load_config(folder)
    if _best_of(folder) is None:
        raise UserError(
            f"The run in {folder} (config.init_from) has no best checkpoint yet: {folder / BEST} is missing or "
            "empty. Let it train on until its first evaluation, or give another one."
        )
    read_run_vocabulary(folder)
    ours = _arrays(config, FIRST_WORD, parallel)
    fitting = _fitting(ours, _arrays(theirs, FIRST_WORD, parallel))
    _check_fit(config, theirs, fitting)
    if 2 * len(fitting) < len(ours):
        log.warning(
            "Only %d of the %d arrays of this %s fit the run in %s (config.init_from), a %s; the others begin "
            "anew. Was a run of another architecture or size meant?",
            *(len(fitting), len(ours), config.model.name, config.init_from, theirs.model.name),
        )


def with_weights_of_run(
    config: Any, variables: dict[str, Any], vocabulary: Sequence[str], parallel: Parallel
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The initial variables, of which those in `config.init_from` take the place, and which ones those are.

    An array is taken where the best checkpoint of that run has one of the same path, shape and dtype. Vectors
    of words are taken where both runs have the same training words in the same order. The others stay as they
    are, and the log names them.

    Args:
      config: of the training that begins.
      variables: its initial variables.
      vocabulary: its training words.
      parallel: the devices.

    Returns:
      The variables, and what the position of a checkpoint says of them: 'init_from', the step of the other
      run's checkpoint and a digest of its 'weights'; {} where there is no other run.

    Raises:
      UserError: where nothing fits.
    """
    if not config.init_from:
        return variables, {}
    run = open_best(_folder(config.init_from), parallel)
    skipped = set()
    if list(vocabulary) != run.vocabulary:
        skipped = paths_of_words(config, len(vocabulary), parallel)
    ours, theirs = flatten_dict(variables, sep="/"), flatten_dict(run.variables, sep="/")
    taken = {path: np.asarray(theirs[path]) for path in _fitting(ours, theirs) - skipped}
    _check_fit(config, run.config, taken)
    anew = sorted(ours.keys() - taken.keys())
    named = f"; anew: {first_few(anew, _SHOWN)}" if anew else ""
    weights = digest_of_arrays(run.variables)
    log.info(
        "Beginning with %d of %d arrays of step %d of %s (weights %s)%s",
        *(len(taken), len(ours), run.step, config.init_from, weights, named),
    )
    began = {"init_from": {"step": run.step, "weights": weights}}
    return unflatten_dict({**ours, **taken}, sep="/"), began


def check_same_beginning(config: Any, workdir: Path, began: Mapping[str, Any]) -> None:
    """UserError where `config.init_from` is another run of the same name than the one in `workdir` began with.

    A folder that has been moved is known by its weights; the one whose path is given again may have trained on
    since, and one that is there no more is not needed.

    Args:
      config: of the training that goes on.
      workdir: its folder.
      began: the position of its checkpoint.
    """
    before = load_config(workdir).init_from
    given, first = (Path(os.path.realpath(_folder(path))) for path in (config.init_from, before))
    found = _best_of(given) if "init_from" in began and given != first else None
    if found is not None and found[1] != began["init_from"]["weights"]:
        raise UserError(
            f"The run in {workdir} began with the weights of step {began['init_from']['step']} of {first}, and "
            f"config.init_from is {config.init_from}, whose best checkpoint (step {found[0]}) has others. Give "
            f"--config.init_from={before} to go on, or choose another --workdir for a new run."
        )


def _folder(path: str) -> Path:
    """The folder of `config.init_from`. One of a user whom this machine does not know is none that is there."""
    return Path(os.path.expanduser(path))


def _best_of(folder: Path) -> tuple[int, str] | None:
    """The step of the best checkpoint of a run and the digest of its weights; None where it has none."""
    if not os.path.isdir(folder / BEST):
        return None
    best = Checkpoints(folder / BEST, keep=1, changes=False)
    try:
        return best.newest_record()
    finally:
        best.close()


def paths_of_words(config: Any, count: int, parallel: Parallel) -> set[str]:
    """Paths of the variables whose shape depends on the number of training words."""
    fewer, more = (_arrays(config, words + FIRST_WORD, parallel) for words in (count, count + 1))
    return {path for path in fewer if fewer[path].shape != more[path].shape}


def _arrays(config: Any, vocab_size: int, parallel: Parallel) -> dict[str, Any]:
    """Path -> shape and dtype of each variable of the config's model."""
    model = make_model(config, vocab_size)
    return flatten_dict(abstract_variables(model, small_spec(config, model, parallel)), sep="/")


def _fitting(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    """Paths at which both have an array of the same shape and dtype."""
    common = ours.keys() & theirs.keys()
    return {p for p in common if (ours[p].shape, ours[p].dtype) == (theirs[p].shape, theirs[p].dtype)}


def _check_fit(config: Any, theirs: Any, paths: Iterable[str]) -> None:
    """UserError where no parameter is among the paths of arrays that fit."""
    if not any(path.startswith("params/") for path in paths):
        raise UserError(
            f"No parameter of the run in {config.init_from} (config.init_from), a {theirs.model.name}, has "
            f"the name and the shape of one of {config.model.name} as configured here. Give a run of the same "
            "architecture and size."
        )
