"""Architectures, one file each. `create` builds one by the name of its file, or a user's own class."""

import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp

from vmr_jax.errors import UserError, unknown
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel

__all__ = [
    "CorpusRetriever",
    "DualEncoder",
    "GroundingModel",
    "architectures",
    "create",
    "model_class",
    "model_fields",
    "model_name",
]

_NO_ARCHITECTURE = ("base", "card")  # files of this folder that the others share
_NOT_SET = ("parent", "name", "vocab_size", "dtype")  # of Flax, of the vocabulary and of `config.dtype`
# Type of a hyper-parameter -> what its value must be.
_KINDS: Mapping[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
}
# Hyper-parameters that must be positive, by the last words of their names: widths, counts and lengths.
_POSITIVE = re.compile(
    r"(.*_)?(features|hidden|heads|space|common|clips|words|kernels?|positions|vocab|chars|queries|phrases|rows|"
    r"horizon|relations|per_video|temperature|lstm_layers|map_layers|"
    r"decoder_layers|max_windows|candidates|hide_one_in|phase_steps)"
)


def architectures() -> list[str]:
    """Returns the names of all architectures: the files of this folder.

    >>> "fvmr" in architectures()
    True
    """
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_ARCHITECTURE)


def model_class(name: str | type[GroundingModel]) -> type[GroundingModel]:
    """The class of an architecture.

    Args:
      name: of a file of `vmr_jax/models`, whose class is `Model`; the place of a user's own class,
        'my_project.models:Mine' or 'my_project.models.Mine'; or the class itself.

    Raises:
      UserError: where there is no such architecture, module or class.
    """
    if isinstance(name, type):
        return _checked(name, name.__qualname__)
    if not isinstance(name, str):
        raise UserError(f"An architecture is given by its name or its class, not as {name!r:.80}.")
    if name in architectures():
        return importlib.import_module(f"{__name__}.{name}").Model
    if ":" in name or "." in name:
        return _users_class(name)
    own = "Your own is named as 'my_project.models:Mine'."
    raise unknown("There is no architecture", name, architectures(), own)


def _users_class(place: str) -> type[GroundingModel]:
    module, _, path = place.partition(":") if ":" in place else place.rpartition(".")
    if not module or module.startswith("."):
        raise UserError(f'The architecture "{place}" names no module. Give it as "my_project.models:Mine".')
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise UserError(
            f'The architecture "{place}" names the module {module}, which cannot be imported ({error}). Start '
            "from the folder that holds it, or install the project that it belongs to."
        ) from None
    for part in path.split("."):
        if not hasattr(found, part):
            classes = [n for n, value in vars(found).items() if isinstance(value, type)]
            raise unknown(f"The module {module} has no class", path, classes)
        found = getattr(found, part)
    return _checked(found, place)


def _checked(found: Any, place: str) -> type[GroundingModel]:
    if not (isinstance(found, type) and issubclass(found, GroundingModel)):
        raise UserError(
            f"{place} is no architecture: expected is a class that inherits from vmr_jax.GroundingModel and "
            "has the methods __call__, loss and predict."
        )
    return found


def model_name(kind: type[GroundingModel]) -> str:
    """The name by which `model_class` finds a class again: 'fvmr', or 'my_project.models:Mine'."""
    short = kind.__module__.removeprefix(f"{__name__}.")
    if kind.__qualname__ == "Model" and short in architectures():
        return short
    return f"{kind.__module__}:{kind.__qualname__}"


def model_fields(kind: type[GroundingModel]) -> dict[str, Any]:
    """Hyper-parameter -> default of a class: what `config.model` holds beside the name.

    Raises:
      UserError: for a field without a default, which a config could not leave out.
    """
    fields = [field for field in dataclasses.fields(kind) if field.name not in _NOT_SET]
    for field in fields:
        if field.default is dataclasses.MISSING:
            raise UserError(
                f"The hyper-parameter {field.name} of {model_name(kind)} has no default; give it one."
            )
    return {field.name: field.default for field in fields}


def create(name: str | type[GroundingModel], **hyper_parameters: Any) -> GroundingModel:
    """Builds an architecture.

    >>> create("two_d_tan", num_clips=32, scale_layers=(32,)).num_clips
    32

    Args:
      name: as in `model_class`.
      **hyper_parameters: fields of the class that differ from its defaults.

    Raises:
      UserError: for an unknown name or hyper-parameter, and for a value that it cannot have.
    """
    kind = model_class(name)
    fields = {f.name: f.type for f in dataclasses.fields(kind) if f.name not in ("parent", "name")}
    for field, value in hyper_parameters.items():
        if field not in fields:
            raise unknown(f"{model_name(kind)} has no hyper-parameter", field, fields)
        wanted, what = _KINDS.get(fields[field], (object, ""))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (Integral, Real)):
            raise UserError(f"config.model.{field} of {model_name(kind)} is {value!r}; it must be {what}.")
    _check_dtype(model_name(kind), hyper_parameters.get("dtype", jnp.float32))
    _check_sizes(model_name(kind), hyper_parameters, kind.positive)
    model = kind(**hyper_parameters)
    _check_heads(model)
    _check_lengths(model)
    return model


def _check_dtype(owner: str, dtype: Any) -> None:
    """Raises UserError where the numbers that the layers compute with are no floating-point numbers."""
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise UserError(f"dtype of {owner} is {dtype!r}; it must be jnp.float32, jnp.bfloat16 or jnp.float16.")


def _check_sizes(owner: str, fields: Mapping[str, object], positive: Collection[str] = ()) -> None:
    """Raises UserError where a hyper-parameter of the architecture `owner` is no possible width, count or rate.

    Widths, counts, lengths, temperatures and the fields of `positive` must be positive, rates of dropout in
    [0,1), shares in (0,1], what both neighbours have of a label in [0,0.5]; no count is negative, and every
    number is finite.
    """
    for field, value in fields.items():
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if type(v) in (int, float)]
        if not all(map(math.isfinite, numbers)):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must be finite.")
        if field.endswith("share") and not all(0 < number <= 1 for number in numbers):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must be above 0, and 1 at most.")
        if field.endswith("softness") and not all(0 <= number <= 0.5 for number in numbers):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must be in [0,0.5].")
        if (field in positive or _POSITIVE.fullmatch(field)) and any(number <= 0 for number in numbers):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must be positive.")
        if any(type(number) is int and number < 0 for number in numbers):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must not be negative.")
        if field.endswith("dropout") and not all(0 <= number < 1 for number in numbers):
            raise UserError(f"config.model.{field} of {owner} is {value}; it must be in [0,1).")


def _check_heads(model: GroundingModel) -> None:
    """Raises UserError where attention heads cannot divide the width that they share."""
    for field, width in model.shared_by_heads.items():
        heads, shared = getattr(model, field, 1), getattr(model, width, 0)
        if shared % heads:
            raise UserError(
                f"config.model.{width} of {model_name(type(model))} is {shared}, which {heads} heads cannot "
                f"share equally. Set config.model.{field} to a divisor of it."
            )


def _check_lengths(model: GroundingModel) -> None:
    """Raises UserError where no moment is as long as the shortest and as short as the longest (0: any)."""
    shortest, longest = getattr(model, "shortest", 0), getattr(model, "longest", 0)
    if isinstance(shortest, int) and isinstance(longest, int) and 0 < longest < shortest:
        raise UserError(
            f"config.model.longest of {model_name(type(model))} is {longest}, less than config.model.shortest, "
            f"{shortest}: no moment is that long. Set longest to {shortest} or more, or to 0 for any length."
        )
