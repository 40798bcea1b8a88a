"""Training that begins with the weights of another run: `config.init_from`.

Where another dataset or other features change the shape of an array, that array begins anew.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmr_jax.config import CONFIG, load_config
from vmr_jax.errors import UserError, first_few
from vmr_jax.input.queries import FIRST_WORD
from vmr_jax.input.spec import batch_spec
from vmr_jax.models.base import abstract_variables
from vmr_jax.parallel import Parallel
from vmr_jax.training.experiment import BEST, make_model, open_best

log = logging.getLogger("vmr_jax")
_SHOWN = 8  # arrays that a message names


def check_init_from(config: Any) -> None:
    """UserError where `config.init_from` is no folder of a run of which a weight fits; '' is right.

    Warns where fewer than half of the arrays fit: a few have the same shape by chance.
    """
    if not config.init_from:
        return
    folder = Path(config.init_from).expanduser()
    if not folder.is_dir():
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
    if not (folder / BEST).is_dir():
        raise UserError(
            f"The run in {folder} (config.init_from) has no best checkpoint yet. Let it train on until its "
            "first evaluation, or give another one."
        )
    ours = _arrays(config, FIRST_WORD)
    fitting = _fitting(ours, _arrays(theirs, FIRST_WORD))
    _check_fit(config, theirs, fitting)
    if 2 * len(fitting) < len(ours):
        log.warning(
            "Only %d of the %d arrays of this %s fit the run in %s (config.init_from), a %s; the others begin "
            "anew. Was a run of another architecture or size meant?",
            *(len(fitting), len(ours), config.model.name, config.init_from, theirs.model.name),
        )


def with_weights_of_run(
    config: Any, variables: dict[str, Any], vocabulary: Sequence[str], parallel: Parallel
) -> dict[str, Any]:
    """The initial variables, of which those in `config.init_from` take the place.

    An array is taken where the best checkpoint of that run has one of the same path, shape and dtype. Vectors
    of words are taken where both runs have the same training words in the same order. The others stay as they
    are, and the log names them.

    Args:
      config: of the training that begins.
      variables: its initial variables.
      vocabulary: its training words.
      parallel: the devices.

    Raises:
      UserError: where nothing fits.
    """
    if not config.init_from:
        return variables
    run = open_best(Path(config.init_from).expanduser(), parallel)
    skipped = set() if list(vocabulary) == run.vocabulary else paths_of_words(config, len(vocabulary))
    ours, theirs = flatten_dict(variables, sep="/"), flatten_dict(run.variables, sep="/")
    taken = {path: np.asarray(theirs[path]) for path in _fitting(ours, theirs) - skipped}
    _check_fit(config, run.config, taken)
    anew = sorted(ours.keys() - taken.keys())
    named = f"; anew: {first_few(anew, _SHOWN)}" if anew else ""
    log.info(
        "Beginning with %d of %d arrays of step %d of %s%s",
        *(len(taken), len(ours), run.step, config.init_from, named),
    )
    return unflatten_dict({**ours, **taken}, sep="/")


def paths_of_words(config: Any, count: int) -> set[str]:
    """Paths of the variables whose shape depends on the number of training words."""
    fewer, more = _arrays(config, count + FIRST_WORD), _arrays(config, count + 1 + FIRST_WORD)
    return {path for path in fewer if fewer[path].shape != more[path].shape}


def _arrays(config: Any, vocab_size: int) -> dict[str, Any]:
    """Path -> shape and dtype of each variable of the config's model."""
    model = make_model(config, vocab_size)
    spec = batch_spec(config, max(config.input.queries_per_video, 1), model.requires())
    return flatten_dict(abstract_variables(model, spec), sep="/")


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
