"""Says what is wrong with `--config.PATH=VALUE` where the config has no such field."""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from vmr_jax.errors import UserError, unknown

_CONFIG = re.compile(r"--?config=(?P<file>[^:]+)(?::(?P<arg>.*))?")
_OVERRIDE = re.compile(r"--?(?:no)?config\.(?P<path>[\w.]+)")


def unknown_field(argv: Sequence[str]) -> UserError | None:
    """The error for the first override of a command line that names no field of its config; None without one.

    Args:
      argv: the command line, whose --config is a file that can be read.
    """
    given = next((found for argument in argv if (found := _CONFIG.fullmatch(argument))), None)
    paths = [found["path"] for argument in argv if (found := _OVERRIDE.match(argument))]
    if given is None or not paths:
        return None
    config = _config(given["file"], given["arg"])
    known = {".".join(path) for path in flatten_dict(config.to_dict(), keep_empty_nodes=True)}
    known |= {".".join(path.split(".")[:depth]) for path in known for depth in range(1, path.count(".") + 1)}
    wrong = next((path for path in paths if path not in known), None)
    return None if wrong is None else _error(wrong, known)


def _config(file: str, arg: str | None) -> ml_collections.ConfigDict:
    spec: Any = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config() if arg is None else module.get_config(arg)


def _error(wrong: str, known: set[str]) -> UserError:
    """Names the fields beside the wrong one, or one of that name elsewhere."""
    parts = wrong.split(".")
    depth = next(depth for depth in range(len(parts)) if ".".join(parts[: depth + 1]) not in known)
    parent = "".join(f"{part}." for part in parts[:depth])
    beside = sorted({p.removeprefix(parent).split(".")[0] for p in known if p.startswith(parent)})
    elsewhere = sorted(path for path in known if path.split(".")[-1] == parts[-1])
    meant = f"config.{elsewhere[0]}" if elsewhere else ""
    return unknown(f"config.{parent}"[:-1] + " has no field", parts[depth], beside, meant=meant)
