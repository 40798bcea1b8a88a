"""Steps of training, ours and PyTorch's, on random batches: what `training.py` and `accelerator.py` time.

PyTorch's are the twins of tests/references, on the CPU or on CUDA.
"""

import contextlib
import dataclasses
import importlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.experiment import make_model
from vmr_jax.training.step import initial_state, make_step

PUBLISHED = {  # argument, batch size that two CPU cores carry
    "two_d_tan": ("charades_sta,vgg", 2),
    "mmn": ("charades_sta,vgg,glove", 8),
    "vslnet": ("charades_sta,i3d", 16),
    "moment_detr": ("charades_sta,clip", 32),
}
_REST = 0.02  # seconds; OpenMP's threads spin for some milliseconds
WORDS = 20  # of the vocabulary where word vectors are trained; those of a random batch

# --- random inputs --------------------------------------------------------------------------------


def random_batch(spec, queries_per_video=1, seed=0):
    """A batch of the spec's shapes: noise, no padding, another moment in each row."""
    rng = np.random.default_rng(seed)

    def leaf(s):
        if s.dtype == np.float32:
            return rng.standard_normal(s.shape, np.float32) / np.float32(np.sqrt(s.shape[-1]))
        return np.ones(s.shape, s.dtype) if s.dtype == bool else rng.integers(2, 20, s.shape, np.int32)

    size = spec.example_mask.shape[0]
    start = rng.uniform(0, 15, size)
    return dataclasses.replace(
        jax.tree.map(leaf, spec),
        duration=np.full(size, 30, np.float32),
        span=np.stack([start, start + rng.uniform(3, 12, size)], 1).astype(np.float32),
        example_index=np.arange(size, dtype=np.int32),
        video_index=np.arange(size, dtype=np.int32) // queries_per_video,
    )


def random_variables(shapes, seed=0) -> dict[str, Any]:
    """Variables of these shapes, as those of a trained model may be, without compiling their initialisation.

    Parameters have unit gain, scales are near one and biases near zero; statistics are positive, counts zero.
    """
    rng = np.random.default_rng(seed)

    def leaf(path, s):
        if s.dtype != np.float32:
            return np.zeros(s.shape, s.dtype)
        if path[0].key != "params":
            return rng.uniform(0.1, 0.5, s.shape).astype(np.float32)
        noise = rng.standard_normal(s.shape, np.float32)
        if path[-1].key in ("scale", "bias"):
            return np.float32(path[-1].key == "scale") + np.float32(0.1) * noise
        return noise / np.float32(math.sqrt(math.prod(s.shape[:-1])))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


# --- ours -----------------------------------------------------------------------------------------


class OurStep:
    """Training steps of a config, one after the other on the same batch; `compile` comes before the first.

    Attributes:
      first_seconds: to compile, and to take the first step.
      loss: of the first step.
      flops: of a step, as the compiler counts them.
      bytes: that a step reads and writes, likewise.
    """

    def __init__(self, config, model, variables, batch):
        self.parallel = Parallel(config.parallel, config.num_devices)
        self.parallel.check_batch_size(config.batch_size, "--batch_size")
        schedule = optimizer_lib.learning_rate(config.optimizer, 1000, 100)
        optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 100)
        self.state = self.parallel.replicate(initial_state(variables, optimizer))
        step = self.parallel.map_step(make_step(model, optimizer, schedule, 100, config.seed))
        self.batch = self.parallel.put_batch(batch)
        start = time.perf_counter()
        self.lowered = step.lower(self.state, self.batch)
        self.first_seconds = time.perf_counter() - start

    def start(self, compiled: Any = None) -> "OurStep":
        """Compiles, or takes what `lowered.compile()` gave, and takes the first step."""
        start = time.perf_counter()
        self.step = compiled or self.lowered.compile()
        self.loss = self()
        self.first_seconds += time.perf_counter() - start
        cost, devices = self.step.cost_analysis() or {}, len(self.parallel.devices)
        self.flops, self.bytes = (cost.get(x, math.nan) * devices for x in ("flops", "bytes accessed"))
        return self

    def __call__(self):
        """The loss before the update."""
        self.state, scalars = self.step(self.state, self.batch)
        return float(jax.block_until_ready((self.state, scalars))[1]["train/loss"])


def at_full_rate(config) -> None:
    """The first step at the full learning rate and of the last stage of training, as PyTorch's."""
    config.optimizer.schedule, config.optimizer.warmup = "constant", "0 steps"
    if "third_stage" in config.model:
        config.model.second_stage = config.model.third_stage = 0
        config.optimizer.rules = ((".*", 1.0),)


# --- PyTorch's ------------------------------------------------------------------------------------


def torch_twin(name):
    """The modules `references` and `references.NAME` of the tests; UserError where no twin can be trained."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    try:
        twins, module = importlib.import_module("references"), importlib.import_module(f"references.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"There is no module {error.name}. A step of PyTorch needs PyTorch (pip install -e '.[torch]') and "
            "a model that has a twin in tests/references."
        ) from error
    if not hasattr(module.Twin, "loss"):
        raise UserError(f"The twin of {name} in tests/references has no loss, so that it cannot be trained.")
    return twins, module


class TorchStep:
    """Training steps of a twin, one after the other on the same batch.

    Args:
      name: of the architecture.
      config: of the twin.
      batch: numpy arrays.
      dtype: of the forward pass, by autocast where it is not 'float32'.
      device: 'cpu' or 'cuda'.
      compiled: whether the forward pass and the loss go through `torch.compile`; the first call then compiles.

    Raises:
      UserError: without PyTorch, or where there is no twin that can be trained.
    """

    def __init__(self, name, config, batch, *, dtype="float32", device="cpu", compiled=False):
        self.twins, module = torch_twin(name)
        self.torch, self.device, self._clip = self.twins.torch, device, config.optimizer.clip_norm
        with self._on_device():
            self.torch.manual_seed(0)
            self.twin, self._batch = module.build(config).train(), self.twins.tensors(batch)
            self.optimizer = self.twins.make_optimizer(config.optimizer, self.twin)
        self._autocast = None
        if dtype != "float32":
            self._autocast = self.torch.autocast(device, getattr(self.torch, dtype))
        self.compiled = compiled
        if compiled:
            self.twin.compile()
            self.twin.loss = self.torch.compile(self.twin.loss)

    def _on_device(self):
        """Where the twin makes its constants; on the CPU nothing has to be said, and that is faster."""
        return contextlib.nullcontext() if self.device == "cpu" else self.torch.device(self.device)

    def __call__(self):
        """The loss before the update."""
        with self._on_device():
            return self.twins.train_step(
                self.twin, self.optimizer, self._clip, self._batch, autocast=self._autocast
            )


def trainable() -> list[str]:
    """The architectures whose twin in tests/references has a loss, in order of their names."""
    folder = Path(__file__).parents[1] / "tests" / "references"
    files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    return [path.stem for path in files if "    def loss(self, " in path.read_text(encoding="utf-8")]


def without_dropout(config):
    """A copy of the config that drops nothing; the rate of a plugin that is not there stays."""
    still = config.copy_and_resolve_references()
    for field in still.model:
        if field.endswith("dropout") and not field.startswith("plugin"):
            still.model[field] = 0.0
    return still


def check_first_step(step: TorchStep, name, config, batch, variables) -> bool:
    """Compares the losses of the first step, without dropout; AssertionError where they differ.

    Returns:
      Whether the twin drops what the config says: its loss with the dropout of the config is another, or
      the config drops nothing.
    """
    still = without_dropout(config)
    twins, module = torch_twin(name)
    model = make_model(still, WORDS)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    draws = twins.random_draws(model, variables, batch, key)

    def of_twin(config):
        same = module.build(config).train()
        same.load_state_dict(step.twin.state_dict())
        with twins.torch.no_grad():
            return sum(x.item() for x in same.loss(same(twins.tensors(batch)), batch, **draws).values())

    @jax.jit
    def of_ours(variables, batch):
        outputs, _ = model.apply(variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        terms = model.loss(outputs, batch, epoch=jnp.int32(0))
        return sum(term.value() for term in terms.values())

    theirs = of_twin(still)
    tolerance = 1e-4 if config.dtype == "float32" else 2e-2
    np.testing.assert_allclose(of_ours(variables, batch), theirs, rtol=tolerance)
    return still.model == config.model or not math.isclose(of_twin(config), theirs, rel_tol=1e-6)


# --- time -----------------------------------------------------------------------------------------


def in_turns(steps: list[Callable], rounds: int, most_seconds: float, least: int = 3) -> list[list[float]]:
    """Seconds of every call of each function: `rounds`, but no more after `most_seconds`, `least` at least.

    A moment before each call lets the threads of the one before it stop to wait busily.
    """
    seconds = [[] for _ in steps]
    begin = time.perf_counter()
    for count in range(rounds):
        if count >= least and time.perf_counter() - begin > most_seconds:
            break
        for step, found in zip(steps, seconds, strict=True):
            time.sleep(_REST)
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
    return seconds
