"""Video Moment Retrieval in JAX and Flax: one contract, one trainer, one file per architecture.

    import vmr_jax as vmr

    run = vmr.load("runs/fvmr")
    video = run.encode_video(features, duration=31.0)
    run.predict(video, ["a person opens the door"], k=5)

Names are imported when they are first used, so that `import vmr_jax` costs nothing.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

_PUBLIC = {  # name -> module of this package
    "Batch": "types",
    "Constituents": "types",
    "Mean": "types",
    "Moments": "types",
    "Tree": "types",
    "UserError": "errors",
    "GroundingModel": "models",
    "DualEncoder": "models",
    "CorpusRetriever": "models",
    "architectures": "models",
    "create": "models",
    "Dataset": "api",
    "Split": "api",
    "evaluate": "api",
    "fit": "api",
    "load": "api",
    "Moment": "run",
    "Run": "run",
    "VideoFeatures": "run",
    "MomentIndex": "retrieval",
    "Library": "library",
}

__all__ = [*_PUBLIC, "__version__"]

_beside = Path(__file__).resolve().parents[1]
if not Path(__file__).with_name("data").exists() and (_beside / "data" / "storyboard").exists():
    __path__.append(str(_beside))  # a checkout, where data and configs lie beside this package

if TYPE_CHECKING:
    from vmr_jax.api import Dataset, Split, evaluate, fit, load
    from vmr_jax.errors import UserError
    from vmr_jax.library import Library
    from vmr_jax.models import CorpusRetriever, DualEncoder, GroundingModel, architectures, create
    from vmr_jax.retrieval import MomentIndex
    from vmr_jax.run import Moment, Run, VideoFeatures
    from vmr_jax.types import Batch, Constituents, Mean, Moments, Tree


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
