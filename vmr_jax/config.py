"""The config of a run: from its file, a folder, or Python."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from vmr_jax import models
from vmr_jax.configs import common, datasets
from vmr_jax.errors import UserError, unknown
from vmr_jax.files import plain, read_json
from vmr_jax.models.base import GroundingModel

CONFIG = "config.json"  # of a run, beside its checkpoints

_OPEN = "dataset.streams"  # the node whose fields are named by whoever sets them
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "a tuple"}


def read_config(path: str, argument: str | None = None) -> ml_collections.ConfigDict:
    """Runs a config file: the locked config that its `get_config` returns.

    Args:
      path: of the file.
      argument: what `get_config` is called with, 'DATASET[,OPTION...]'; None calls it without one.

    Raises:
      UserError: where there is no such file, where it fails (with its line), and where what it returns is no
        whole config.
    """
    if not Path(path).is_file():
        known = [f"configs/{name}.py" for name in models.architectures()]
        raise unknown("There is no config file", path, known)
    spec: Any = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    arguments = () if argument is None else (argument,)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(
                f"{path} has no function get_config. A config file has one, which returns a ConfigDict; "
                "configs/fvmr.py is an example."
            )
        if not _takes(module.get_config, arguments):
            given = "no argument" if argument is None else f'the argument "{argument}"'
            raise UserError(f"get_config of {path} cannot be called with {given}, as this --config asks.")
        config = module.get_config(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_place(path, error)}: {type(error).__name__}: {_message(error)}") from error
    _check_whole(path, config)
    return config.lock()


def _takes(function: Any, arguments: tuple[str, ...]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _place(path: str, error: Exception) -> str:
    """'FILE, line 3': the innermost line of the config file that an error came through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    file = Path(path).resolve()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
    return f"{path}, line {lines[-1]}" if lines else path


def _message(error: Exception) -> str:
    return " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())


def _check_whole(path: str, config: Any) -> None:
    """Refuses what is no config, and a config that lacks fields which every run reads."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config of {path} returns a {type(config).__name__}; expected is an "
            "ml_collections.ConfigDict, which vmr_jax.configs.common.base(MODEL) makes."
        )
    wanted = {*flatten_dict(common.base(GroundingModel).to_dict(), sep="."), "dataset.name", "dataset.data_dir"}
    missing = sorted(wanted - _paths(config))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"The config of {path} lacks the fields {', '.join(missing[:5])}{more}. Begin with "
            "vmr_jax.configs.common.base(MODEL) and a dataset of vmr_jax.configs.datasets, as configs/fvmr.py."
        )


def _paths(config: ml_collections.ConfigDict) -> set[str]:
    """'optimizer.learning_rate' and the like, and every node above: 'optimizer'."""
    leaves = {".".join(path) for path in flatten_dict(config.to_dict(), keep_empty_nodes=True)}
    return leaves | {".".join(p.split(".")[:depth]) for p in leaves for depth in range(1, p.count(".") + 1)}


def default_workdir(config: ml_collections.ConfigDict) -> Path:
    """Where a run goes that is given no folder: runs/MODEL_DATASET."""
    return Path("runs") / f"{config.model.name.replace(':', '.')}_{config.dataset.name}"


def load_config(
    workdir: Path, *, model: bool = True, trusted: Collection[str] = ()
) -> ml_collections.ConfigDict:
    """Reads the resolved config of a run; UserError where the folder holds none.

    Hyper-parameters that the architecture has got since have the defaults of its class, other fields those of
    every config.

    A folder may come from someone else, and to import a class is to run its module. So a class that is not of
    this package is taken only where its module is imported already, or the user names it.

    Args:
      workdir: folder of the run.
      model: False leaves `config.model` as it was stored, so that the class need not be at hand.
      trusted: classes that the user names, 'my_project.models:Mine', whose modules may be imported.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no {CONFIG}, so it is not the --workdir of a run. Give the folder that a "
            "training run printed at its end, or train first with --config."
        )
    stored = _stored(path)
    stored.pop("published", None)  # of a run of version 0.1
    if "beam" in stored["dataset"]:
        stored["dataset"]["beam"] = ""  # a pipeline can run programs: only the user of the moment asks for one
    if model:
        _check_trusted(path, stored["model"]["name"], trusted)
    defaults = common.base(stored["model"]["name"] if model else GroundingModel).to_dict()
    if not model:
        del defaults["model"]
    for part, default in defaults.items():
        own = stored.get(part, default)
        _check_kinds(path, part, own, default)
        stored[part] = {**default, **own} if isinstance(default, dict) else own
    _check_kinds(path, "dataset", stored["dataset"], _dataset_defaults(stored["dataset"].get("name")))
    return ml_collections.ConfigDict(stored).lock()


def _check_trusted(path: Path, name: str, trusted: Collection[str]) -> None:
    """Refuses a class of a module that is not imported and that the user has not named."""
    module = name.partition(":")[0] if ":" in name else name.rpartition(".")[0]
    if module and module not in sys.modules and name not in trusted:
        raise UserError(
            f"{path} names the class {name}, and to import it is to run its module. A folder may come from "
            "someone else, so only a class that you name is imported. If it is yours, give "
            f"--config.model.name={name} or the --config of the run; in Python, import {module} first."
        )


def _dataset_defaults(name: Any) -> dict[str, Any]:
    """`config.dataset` of a dataset of this package where nothing is chosen; {} for another."""
    config = common.base(GroundingModel)
    if isinstance(name, str) and name in datasets.EMBEDDED:
        datasets.embedded(config, name)
    elif isinstance(name, str) and name in datasets.FEATURES:
        datasets.manual_dataset(config, name)
    else:
        return {"name": "", "data_dir": ""}
    return config.dataset.to_dict()


def _check_kinds(path: Path, field: str, value: Any, default: Any) -> None:
    """Refuses a value of another kind than that of the field, which would fail far from here or not at all."""
    if isinstance(default, dict) and isinstance(value, dict):
        for name in value.keys() & default.keys():
            _check_kinds(path, f"{field}.{name}", value[name], default[name])
        return
    fits = type(value) is type(default) or (type(value) is int and type(default) is float)
    named = field == "dataset.features" and type(value) in (str, tuple)  # one file, or several
    if not (default is None or fits or named):
        raise UserError(
            f"{path}, the config of the run, is damaged: {field} is {str(value)[:80]!r}; it must be "
            f"{kind(type(default), default)}. Restore it from a copy."
        )


def _stored(path: Path) -> dict[str, Any]:
    """The content of a config.json; UserError where it is damaged."""
    try:
        stored = _tuples(read_json(path))
        parts = [stored[part] for part in ("model", "dataset", "input", "text", "optimizer", "evaluation")]
        if all(isinstance(part, dict) for part in parts) and isinstance(stored["model"]["name"], str):
            return stored
        error: Any = "a part of it is no JSON object"
    except (OSError, ValueError, KeyError, TypeError) as found:
        error = f"it has no {found}" if isinstance(found, KeyError) else found
    raise UserError(
        f"{path}, the config of the run, is damaged: {error}. Restore it from a copy, or delete it and "
        "give the training command again, which writes it anew and goes on."
    )


def checked_settings(settings: Any) -> dict[str, Any]:
    """The settings of a call, None for none; UserError where they are no dictionary of fields."""
    given = {} if settings is None else settings
    if not isinstance(given, Mapping) or not all(isinstance(path, str) for path in given):
        raise UserError(
            f"settings is {settings!r}; it must be a dictionary of fields of the config by their path, such as "
            "{'optimizer.learning_rate': 1e-3}."
        )
    return dict(given)


def override(config: ml_collections.ConfigDict, settings: Mapping[str, Any]) -> None:
    """Sets fields of an unlocked config by their path: {'optimizer.learning_rate': 1e-3}.

    A dictionary sets the fields that it names: {'optimizer': {'learning_rate': 1e-3}} is the same.

    Raises:
      UserError: for a field that the config lacks, with the nearest name, and for a value of another kind.
    """
    for path, value in settings.items():
        value = value.item() if isinstance(value, np.generic) else value
        check_field(config, path)
        node, last = _holder(config, path)
        if path == _OPEN and isinstance(value, Mapping):
            node[last].update(value)
            continue
        if isinstance(node[last], ml_collections.ConfigDict) and isinstance(value, Mapping):
            override(config, {f"{path}.{field}": v for field, v in value.items()})
            continue
        try:
            # A config takes None for anything; of a model's fields the class knows which of them take it.
            emptied = value is None and node[last] is not None and not path.startswith("model.")
            if emptied or isinstance(node[last], ml_collections.ConfigDict):
                raise TypeError
            node[last] = value
        except (TypeError, ValueError):
            raise UserError(f"config.{path} is {value!r}; it must be {wanted(config, path)}.") from None


def _holder(config: ml_collections.ConfigDict, path: str) -> tuple[Any, str]:
    """The node that holds the field of a path, and its name there."""
    *parents, last = path.split(".")
    node: Any = config
    for parent in parents:
        node = node[parent]
    return node, last


def check_field(config: ml_collections.ConfigDict, path: str) -> None:
    """Raises UserError where a config has no field of that path, and names what may be meant.

    That is a field beside it, or one of the name elsewhere; 'lr' stands for 'learning_rate'.
    """
    known = _paths(config)
    if path in known:
        return
    parts = path.split(".")
    depth = next(depth for depth in range(len(parts)) if ".".join(parts[: depth + 1]) not in known)
    parent = "".join(f"{part}." for part in parts[:depth])
    beside = sorted({p.removeprefix(parent).split(".")[0] for p in known if p.startswith(parent)})
    elsewhere = sorted(p for p in known if parts[-1] in (p.split(".")[-1], _initials(p.split(".")[-1])))
    near = [p for p in elsewhere if parent and p.startswith(parent)]
    meant = near[0].removeprefix(parent) if near else f"config.{elsewhere[0]}" if elsewhere else ""
    raise unknown(f"config.{parent}"[:-1] + " has no field", parts[depth], beside, meant=meant)


def _initials(name: str) -> str:
    """'lr' of 'learning_rate'; '' of a single word."""
    words = [word for word in name.split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def wanted(config: ml_collections.ConfigDict, path: str) -> str:
    """The values that a field takes: 'a whole number, such as 32'."""
    node, last = _holder(config, path)
    value = node[last]
    if isinstance(value, ml_collections.ConfigDict):
        return f"set by its fields, such as config.{path}.{next(iter(value), 'NAME')}"
    return kind(node.get_type(last), value)


def kind(of: type, example: Any) -> str:
    """'a whole number, such as 32': a type in words, with an example where it shows something."""
    words = _KINDS.get(of, f"a {of.__name__}")
    return words if of is bool or example in ("", None, ()) else f"{words}, such as {example!r}"


def config_as_dict(config) -> dict[str, Any]:
    """The config as plain JSON types."""
    return plain(config.to_dict())


def _tuples(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
