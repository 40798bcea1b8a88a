"""`--config.PATH=VALUE` on a command line, and what is wrong with a flag in one line."""

import re
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from vmr_jax.config import check_field, kind, wanted
from vmr_jax.errors import UserError, unknown

_OVERRIDE = re.compile(r"--?(?:no)?config\.(?P<path>[\w.]+)")
_REFUSED = re.compile(r"flag --(?P<name>[\w.]+)=(?P<value>.*?): ", re.DOTALL)  # how absl says it
_TYPES = {"int": int, "float": float, "bool": bool}


def overridden(
    config: ml_collections.ConfigDict, arguments: Sequence[str]
) -> tuple[ml_collections.ConfigDict, list[str], list[str]]:
    """The config with the fields that a command line sets.

    Args:
      config: of a file or of a run.
      arguments: the command line without the program and without the flags that it has read already.

    Returns:
      The locked config, the paths of the fields that were set, and the arguments that are no flags.

    Raises:
      UserError: for a field that the config lacks, a value of another kind, and an unknown flag.
    """
    for argument in arguments:
        if found := _OVERRIDE.match(argument):
            check_field(config, found["path"])
    line = ["", *arguments]
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=line)
    try:
        rest = values(line)
    except flags.UnrecognizedFlagError as error:
        raise unknown_flag(error.flagname, flags.FLAGS) from None
    except flags.Error as error:
        raise refused(error, values, config) from None
    return values.config, list(config_flags.get_override_values(values["config"])), rest[1:]


def unknown_flag(name: str, known: flags.FlagValues) -> UserError:
    """The error for a flag that there is not; the known ones are those of the program, not absl's."""
    own = known.flags_by_module_dict().get("vmr_jax.modes.launch", [])
    names = [f"--{flag.name}" for flag in own]
    return unknown("There is no flag", f"--{name}", [*names, "--config.FIELD"])


def refused(
    error: flags.Error, values: flags.FlagValues, config: ml_collections.ConfigDict | None = None
) -> UserError:
    """The error for a flag whose value absl has refused, in our words."""
    found = _REFUSED.match(str(error))
    if found is None:
        return UserError(f"{str(error).rstrip('.')}.")
    name, value = found["name"], found["value"]
    if config is not None and name.startswith("config."):
        takes = wanted(config, name.removeprefix("config."))
    else:
        flag: Any = values[name]
        takes = kind(_TYPES.get(flag.flag_type(), str), flag.default)
        name = f"--{name}"
    return UserError(f'{name} is "{value}"; it must be {takes}.')
