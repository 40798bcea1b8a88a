"""Architectures, one file each. `create` finds one by the name of its file."""

import importlib
import pkgutil

from vmr_jax.errors import UserError, nearest
from vmr_jax.models.base import DualEncoder, GroundingModel

__all__ = ["DualEncoder", "GroundingModel", "architectures", "create"]


def architectures() -> list[str]:
    """Returns the names of all architectures: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def create(name: str, **hyper_parameters) -> GroundingModel:
    """Builds the architecture in `vmr_jax/models/<name>.py` (its class is named `Model` there).

    Raises UserError for an unknown name or hyper-parameter.
    """
    if name not in architectures():
        raise UserError(
            f'There is no architecture "{name}".{nearest(name, architectures())} '
            f"Known: {', '.join(architectures())}."
        )
    model_class = importlib.import_module(f"{__name__}.{name}").Model
    fields = [f for f in model_class.__dataclass_fields__ if f not in ("parent", "name")]
    for field in hyper_parameters:
        if field not in fields:
            raise UserError(
                f'{name} has no hyper-parameter "{field}".{nearest(field, fields)} It has: {", ".join(fields)}.'
            )
    return model_class(**hyper_parameters)
