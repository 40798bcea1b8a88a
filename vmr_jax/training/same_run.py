"""All that must agree before a folder is trained in: the config of the run in it, and its hosts."""

import hashlib
import json
import logging
import secrets
from pathlib import Path
from typing import Any

import ml_collections

from vmr_jax.config import CONFIG, config_as_dict, load_config
from vmr_jax.errors import UserError, first_few
from vmr_jax.files import write_whole
from vmr_jax.models import model_class
from vmr_jax.parallel import (
    hosts_agree,
    is_lead_host,
    lead_says,
    several_hosts,
)
from vmr_jax.training import finite
from vmr_jax.training.places import identity_of, is_place

_OF_EVALUATION = ("dataset", "evaluation", "retrieval", "note")  # parts that an evaluation may change

_SHOWN = 6  # changed fields that a message names

log = logging.getLogger("vmr_jax")

_MAY_CHANGE = {
    "train_for", "log_every", "checkpoint_every", "patience", "profile", "tensorboard", "num_devices",
    "parallel", "dataset.beam",
}  # fmt: skip


def check_same_run(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, tuple[Any, Any]]:
    """Refuses to resume with a config that would not continue the same run.

    Returns the fields that may have changed, and did, as field -> (old, new): numbers of the optimiser, where
    the run in the folder has stopped because numbers were not finite; none elsewhere.
    """
    if not (workdir / CONFIG).is_file():
        return {}
    old, new = identity_of(load_config(workdir)), identity_of(config)
    if old.get("model.name") != new["model.name"]:
        raise UserError(
            f"{workdir} holds a run of the architecture {old.get('model.name')}; this config trains "
            f"{new['model.name']}. Choose another --workdir."
        )
    changed = [k for k in _differences(old, new) if k not in _MAY_CHANGE]
    stopped = finite.read_record(workdir)
    allowed = {k: (old.get(k), new.get(k)) for k in changed if stopped and k in finite.MAY_CHANGE}
    changed = [k for k in changed if k not in allowed]
    if changed:
        raise UserError(
            f"{workdir} holds a run with another config ({_shown(changed, old, new)}). Choose another "
            "--workdir for a new run, or give the original settings to resume it."
        )
    if stopped and not allowed:
        log.warning(
            "This run has stopped before, with the same settings: %s Expect the same again.", stopped["found"]
        )
    return allowed


def check_evaluated_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Refuses to evaluate a run with settings that are not of its evaluation, its data or its devices."""
    old, new = identity_of(load_config(workdir)), identity_of(config)
    answers = {f"model.{field}" for field in model_class(config.model.name).of_evaluation}
    wrong = [
        k
        for k in _differences(old, new)
        if k.split(".")[0] not in _OF_EVALUATION and k not in _MAY_CHANGE | answers and not is_place(k)
    ]
    if wrong:
        shown, may = _shown(wrong, old, new), "".join(f"config.{field}, " for field in sorted(answers))
        raise UserError(
            f"The run in {workdir} was trained with other settings ({shown}). An evaluation may change {may}"
            "config.dataset, config.evaluation, config.retrieval, the devices, and where files are."
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [k for k in sorted(old | new) if old.get(k) != new.get(k)]


def _shown(fields: list[str], old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first few changes: 'config.seed: 0 -> 1', ', ...' where there are more; what is empty is ''."""

    def value(of: Any) -> Any:
        return "''" if of == "" else of

    changes = [f"config.{k}: {value(old.get(k))} -> {value(new.get(k))}" for k in fields]
    return first_few(changes, _SHOWN)


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """A digest of all that the results of a run depend on; not of its length, and not of its devices."""
    kept = {field: value for field, value in identity_of(config).items() if field not in _MAY_CHANGE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def check_hosts_agree(config: ml_collections.ConfigDict, workdir: Path, read_only: bool = False) -> None:
    """Raises UserError, on all hosts, where they were given different commands or do not share `workdir`.

    Args:
      config: as each host got it.
      workdir: the folder.
      read_only: where the folder cannot be written, the same config in it is enough.
    """
    if not several_hosts():
        return
    if not hosts_agree(json.dumps([config_as_dict(config), workdir.name])):
        raise UserError("The hosts have different configs. Start all of them with the same command.")
    marker, problem = workdir / ".hosts", ""
    if is_lead_host():
        try:
            write_whole(marker, secrets.token_hex())
        except UserError as error:
            marker, problem = workdir / CONFIG, "" if read_only else str(error)
    problem = lead_says(problem)
    if problem:
        raise UserError(problem)
    marker = workdir / lead_says(marker.name)
    shared = hosts_agree(marker.read_text(encoding="utf-8") if marker.is_file() else "")
    if is_lead_host() and marker.name != CONFIG:
        marker.unlink()
    if not shared:
        raise UserError(
            f"{workdir} is not the same folder on all hosts. The lead host writes checkpoints that all of them "
            "read: choose a --workdir on a file system that they share."
        )
