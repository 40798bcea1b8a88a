"""What must agree before a folder is trained in: the config of the run in it, and its hosts."""

import json
import secrets
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import write_whole
from vmr_jax.parallel import (
    hosts_agree,
    is_lead_host,
    several_hosts,
    wait_for_hosts,
)
from vmr_jax.training.experiment import CONFIG, config_as_dict, load_config

_MAY_CHANGE = {
    "train_for", "log_every", "patience", "profile", "num_devices", "parallel", "dataset.beam"
}  # fmt: skip


def check_same_run(config, workdir: Path) -> None:
    """Refuses to resume with a config that would not continue the same run."""
    if not (workdir / CONFIG).is_file():
        return
    old, new = _flat(config_as_dict(load_config(workdir))), _flat(config_as_dict(config))
    if old.get("model.name") != new["model.name"]:
        raise UserError(
            f"{workdir} holds a run of the architecture {old.get('model.name')}; this config trains "
            f"{new['model.name']}. Choose another --workdir."
        )
    changed = [
        k for k in sorted(old | new) if old.get(k) != new.get(k) and not {k, k.split(".")[0]} & _MAY_CHANGE
    ]
    if changed:
        shown = ", ".join(f"config.{k}: {old.get(k)} -> {new.get(k)}" for k in changed[:6])
        raise UserError(
            f"{workdir} holds a run with another config ({shown}{', ...' if len(changed) > 6 else ''}). Choose "
            "another --workdir for a new run, or give the original settings to resume it."
        )


def check_hosts_agree(config, workdir: Path) -> None:
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
