"""One folder for each dataset. Importing this gives TFDS their names, when TFDS is: see `registered.py`."""

import contextlib
import importlib

with contextlib.suppress(ModuleNotFoundError):  # TFDS brings wrapt; a trained run is used without either
    import wrapt

    @wrapt.when_imported("tensorflow_datasets")
    def _register(_) -> None:
        importlib.import_module("vmr_jax.data.registered")
