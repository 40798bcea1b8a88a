"""Fast twins of plain layers: the same parameters and the same numbers, sooner.

Each layer of `vmr_jax.layers` that has a twin here stands there in its plain form. `use_kernels(False)`, or
`VMR_JAX_KERNELS=0` in the environment, lets every layer compute by that form: to debug, or on a device whose
compiler does better. tests/kernels compares the values and the gradients of the two.
"""

import os

_in_use = os.environ.get("VMR_JAX_KERNELS", "1") != "0"


def use_kernels(on: bool) -> None:
    """Chooses between fast twins (True, at first) and plain forms, for all that is traced from now on.

    A function that JAX has compiled already keeps the form that it was traced with.
    """
    global _in_use
    _in_use = on


def kernels_in_use() -> bool:
    """Whether layers compute by their fast twins."""
    return _in_use
