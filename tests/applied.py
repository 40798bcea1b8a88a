"""Models applied in tests: random variables that need no compilation, and outputs that are compiled once."""

import functools

import jax
import numpy as np

from vmr_jax.kernels import use_kernels
from vmr_jax.training.experiment import abstract_variables


def random_variables(model, batch, seed=0):
    """Variables of the shapes of the model, drawn by numpy, as compiling `init` takes seconds.

    Nothing is left at the 0 or 1 at which biases and scales start: kernels are as large as PyTorch's initial
    ones, biases at most a tenth, scales and running variances around 1. Integers, which count updates, are 0.
    """
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if not np.issubdtype(x.dtype, np.floating):
            return np.zeros(x.shape, x.dtype)
        around_one = path[-1].key in ("scale", "var")
        size = 0.1 if len(x.shape) < 2 else np.prod(x.shape[:-1]) ** -0.5
        return np.asarray(rng.uniform(-size, size, x.shape) + around_one, x.dtype)

    return jax.tree.map_with_path(draw, abstract_variables(model, batch))


def initial_variables(module, seed, *arguments):
    """The initial variables of a layer, as one program; by themselves its operations would be one each."""
    return jax.jit(lambda: module.init(jax.random.key(seed), *arguments))()


def outputs_of(model, variables, batch, train=False, key=0):
    """Outputs of the model, compiled once for all variables, batches of one shape and keys."""
    return _compiled(model, train)(variables, batch, jax.random.key(key))


@functools.lru_cache(maxsize=8)
def _compiled(model, train):
    def run(variables, batch, key):
        state = [name for name in variables if name != "params"]
        return model.apply(variables, batch, train=train, rngs={"dropout": key}, mutable=state)[0]

    return jax.jit(run)


def assert_fast_forms_equal_the_plain_ones(run):
    """What a function without arguments gives, tracing anew, is the same with and without the fast forms."""
    found = run()
    use_kernels(False)
    try:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, run())
    finally:
        use_kernels(True)
