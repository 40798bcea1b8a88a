"""The config of a run: from its file, a folder, or Python."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from vmr_jax import models
from vmr_jax.configs.common import model_defaults
from vmr_jax.errors import UserError, unknown
from vmr_jax.files import plain

CONFIG = "config.json"  # of a run, beside its checkpoints


def given_config(config, path: str):
    """The locked config of a --config flag; UserError where its file `path` does not exist."""
    try:
        return config.unlock().lock()  # the first touch reports a file that was not found
    except OSError:
        known = [f"configs/{name}.py" for name in models.architectures()]
        raise unknown("There is no config file", path, known) from None


def default_workdir(config: ml_collections.ConfigDict) -> Path:
    """Where a run goes that is given no folder: runs/MODEL_DATASET."""
    return Path("runs") / f"{config.model.name.replace(':', '.')}_{config.dataset.name}"


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the resolved config of a run; UserError where the folder holds none.

    Hyper-parameters that the architecture has got since have the defaults of its class.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no {CONFIG}, so it is not the --workdir of a run. Give the folder that a "
            "training run printed at its end, or train first with --config."
        )
    stored = _tuples(json.loads(path.read_text(encoding="utf-8")))
    stored.pop("published", None)  # of a run of version 0.1
    stored["model"] = {**model_defaults(stored["model"]["name"]).to_dict(), **stored["model"]}
    return ml_collections.ConfigDict(stored).lock()


def override(config: ml_collections.ConfigDict, settings: Mapping[str, Any]) -> None:
    """Sets fields of an unlocked config by their path: {'optimizer.learning_rate': 1e-3}.

    Raises:
      UserError: for a field that the config lacks, with the nearest name, and for a value of another kind.
    """
    known = flatten_dict(config.to_dict(), sep=".")
    for path, value in settings.items():
        if path not in known:
            raise unknown("The config has no field", path, known)
        *parents, last = path.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        try:
            node[last] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"config.{path} cannot be {value!r}: {error}.") from None


def config_as_dict(config) -> dict[str, Any]:
    """The config as plain JSON types."""
    return plain(config.to_dict())


def _tuples(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
