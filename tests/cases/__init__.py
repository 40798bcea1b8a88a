"""Each architecture as the tests know it that serve all: one module per architecture, found by name.

A module has SMALL, hyper-parameters for `batches.random_batch`; `golden()`, the parameter count of every
'dataset,variant' of its config; and where needed

- TOLERANCE, where float32 sums in another order differ by more than 1e-6;
- SEED of the initial variables, where those of seed 0 make rounding nearly as large;
- PADDED_DRAWS = True where JAX's draws depend on the padding of another axis than their first: others stand for
  them (`simple_draws.padded_key`);
- DRAWS_ROWS = True where rows of the batch are drawn, so that their order matters;
- OPTIONS, name -> fields beside SMALL, of settings with parts that SMALL lacks.
"""

import importlib
import pkgutil


def other_width(count: int, published: int, width: int, features: int) -> int:
    """`count`, with `width` instead of `published` columns in a first linear layer of `features` outputs."""
    return count - (published - width) * features


def manual_variants(datasets) -> list[tuple[str, str, int]]:
    """(argument, dataset, D) of every feature variant of the manual datasets among `datasets`."""
    from vmr_jax.configs.datasets import FEATURES, Features

    found = []
    for dataset, variants in {**FEATURES, "jsonl": {"": Features("features", 512)}}.items():
        for variant, features in variants.items():
            if dataset in datasets:
                found.append((f"{dataset},{variant}" if variant else dataset, dataset, features.dim))
    return found


ALL = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
OPTIONS = [f"{name},{option}" for name, case in ALL.items() for option in getattr(case, "OPTIONS", {})]
