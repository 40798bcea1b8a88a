"""All that must agree before a folder is trained in: the config of the run in it, and its hosts."""

import hashlib
import json
import logging
import secrets
from pathlib import Path
from typing import Any

import ml_collections

from vmr_jax.config import CONFIG, config_as_dict, load_config
from vmr_jax.errors import UserError
from vmr_jax.files import write_whole
from vmr_jax.parallel import (
    hosts_agree,
    is_lead_host,
    several_hosts,
    wait_for_hosts,
)
from vmr_jax.training import finite

log = logging.getLogger("vmr_jax")

_MAY_CHANGE = {
    "train_for", "log_every", "patience", "profile", "num_devices", "parallel", "dataset.beam"
}  # fmt: skip


def check_same_run(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, tuple[Any, Any]]:
    """Refuses to resume with a config that would not continue the same run.

    Returns the fields that may have changed, and did, as field -> (old, new): numbers of the optimiser, where
    the run in the folder has stopped because numbers were not finite; none elsewhere.
    """
    if not (workdir / CONFIG).is_file():
        return {}
    old, new = _flat(config_as_dict(load_config(workdir))), _flat(config_as_dict(config))
    if old.get("model.name") != new["model.name"]:
        raise UserError(
            f"{workdir} holds a run of the architecture {old.get('model.name')}; this config trains "
            f"{new['model.name']}. Choose another --workdir."
        )
    changed = [
        k for k in sorted(old | new) if old.get(k) != new.get(k) and not {k, k.split(".")[0]} & _MAY_CHANGE
    ]
    stopped = finite.read_record(workdir)
    allowed = {k: (old.get(k), new.get(k)) for k in changed if stopped and k in finite.MAY_CHANGE}
    changed = [k for k in changed if k not in allowed]
    if changed:
        shown = ", ".join(f"config.{k}: {old.get(k)} -> {new.get(k)}" for k in changed[:6])
        raise UserError(
            f"{workdir} holds a run with another config ({shown}{', ...' if len(changed) > 6 else ''}). Choose "
            "another --workdir for a new run, or give the original settings to resume it."
        )
    if stopped and not allowed:
        log.warning(
            "This run has stopped before, with the same settings: %s Expect the same again.", stopped["found"]
        )
    return allowed


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """A digest of all that the results of a run depend on; not of its length, and not of its devices."""
    kept = {
        field: value
        for field, value in _flat(config_as_dict(config)).items()
        if field == "published" or not {field, field.split(".")[0]} & _MAY_CHANGE
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def check_hosts_agree(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Raises UserError, on all hosts, where they were given different commands or do not share `workdir`."""
    if not several_hosts():
        return
    if not hosts_agree(json.dumps([config_as_dict(config), workdir.name])):
        raise UserError("The hosts have different configs. Start all of them with the same command.")
    marker = workdir / ".hosts"
    if is_lead_host():
        write_whole(marker, secrets.token_hex())
    wait_for_hosts("marked the folder")
    shared = hosts_agree(marker.read_text(encoding="utf-8") if marker.is_file() else "")
    if is_lead_host():
        marker.unlink()
    if not shared:
        raise UserError(
            f"{workdir} is not the same folder on all hosts. The lead host writes checkpoints that all of them "
            "read: choose a --workdir on a file system that they share."
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
