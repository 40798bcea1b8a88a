"""Architectures, one file each. `create` finds one by the name of its file."""

import importlib
import pkgutil

from vmr_jax.errors import UserError, nearest
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel

_NO_ARCHITECTURE = ("base", "card")  # files of this folder that the others share

__all__ = ["CorpusRetriever", "DualEncoder", "GroundingModel", "architectures", "create", "model_class"]


def architectures() -> list[str]:
    """Returns the names of all architectures: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_ARCHITECTURE)


def model_class(name: str) -> type[GroundingModel]:
    """The class `Model` of `vmr_jax/models/<name>.py`; UserError for an unknown name."""
    if name not in architectures():
        raise UserError(
            f'There is no architecture "{name}".{nearest(name, architectures())} '
            f"Known: {', '.join(architectures())}."
        )
    return importlib.import_module(f"{__name__}.{name}").Model


def create(name: str, **hyper_parameters) -> GroundingModel:
    """Builds an architecture; UserError for an unknown name or hyper-parameter."""
    built = model_class(name)
    fields = [f for f in built.__dataclass_fields__ if f not in ("parent", "name")]
    for field in hyper_parameters:
        if field not in fields:
            raise UserError(
                f'{name} has no hyper-parameter "{field}".{nearest(field, fields)} It has: {", ".join(fields)}.'
            )
    return built(**hyper_parameters)
