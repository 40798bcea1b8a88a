"""Devices: the one place that knows how many there are.

Two ways to run the same step function, chosen by `config.parallel`:

- 'pmap': the batch is split over the local devices, `jax.pmap(axis_name='data')`;
- 'jit': global arrays with a NamedSharding over a 'data' mesh, which is also the path for several
  hosts.

Both give the same numbers on any number of devices, because every mean is carried as (sum, count) and
divided after the sum over devices. Model code that must look beyond its own device (batch norm
statistics, in-batch negatives) calls `sum_over_devices` and `gather_examples`; they do nothing
where the array is already global.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vmr_jax.errors import UserError

AXIS = "data"
MODES = ("pmap", "jit")
_inside_pmap = contextvars.ContextVar("inside_pmap", default=False)


def sum_over_devices(tree: Any) -> Any:
    """Sums every leaf over the devices that share the batch."""
    return jax.lax.psum(tree, AXIS) if _inside_pmap.get() else tree


def gather_examples(tree: Any) -> Any:
    """Concatenates leaves [B/devices,...] to [B,...] over the devices that share the batch."""
    if not _inside_pmap.get():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, axis=0, tiled=True), tree)


@contextlib.contextmanager
def _pmap_axis():
    token = _inside_pmap.set(True)
    try:
        yield
    finally:
        _inside_pmap.reset(token)


class Parallel:
    """Runs functions of (state, batch) on every device.

    Attributes:
      mode: 'pmap' or 'jit'.
      devices: the devices in use, of all hosts for 'jit', of this host for 'pmap'.
    """

    def __init__(self, mode: str, num_devices: int = 0):
        """Uses the first `num_devices` devices, all of them where it is 0."""
        if mode not in MODES:
            raise UserError(f'config.parallel is "{mode}"; it must be one of {", ".join(MODES)}.')
        available = jax.devices()
        if num_devices > len(available):
            raise UserError(
                f"config.num_devices is {num_devices}, but this machine has {len(available)}. "
                "Set it to 0 to use them all."
            )
        if mode == "pmap" and jax.process_count() > 1:
            raise UserError("config.parallel='pmap' serves one host; with several, set config.parallel='jit'.")
        self.mode = mode
        self.devices = available[: num_devices or len(available)]
        self.mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    def check_batch_size(self, batch_size: int, field: str) -> None:
        """Raises UserError where `batch_size` rows cannot be shared equally among the devices."""
        n = len(self.devices)
        if batch_size < 1 or batch_size % n:
            lower, upper = batch_size // n * n, math.ceil(max(batch_size, 1) / n) * n
            near = f"{lower} or {upper}" if lower else f"{upper}"
            raise UserError(
                f"{field} is {batch_size}, which {n} devices cannot share equally. Use a multiple of "
                f"{n}, such as {near}, or fewer devices (config.num_devices)."
            )

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of the training state: a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Copies a host tree to every device; the copies alias nothing that the caller keeps."""
        copies = jax.tree.map(lambda x: np.array(x) if not _is_key(x) else x, tree)
        return jax.device_put(copies, self.replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes, dtypes and replicated shardings of a tree: what a checkpoint is restored into."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree)

    def put_batch(self, batch: Any) -> Any:
        """Moves one host batch (numpy leaves [B,...]) to the devices, split along the first axis.

        With several hosts each gives its own rows, `batch_size / process_count` of them.
        """
        if self.mode == "pmap":
            return self.put_shards(batch)
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def map_step(self, step: Callable) -> Callable:
        """Compiles `step(state, batch) -> (state, scalars)`; the state is donated, results replicated."""
        if self.mode == "pmap":
            return jax.pmap(
                _with_axis(step),
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=(None, None),
                donate_argnums=0,
                devices=self.devices,
            )
        return jax.jit(step, donate_argnums=0, out_shardings=(self.replicated, self.replicated))

    def map_examples(self, function: Callable) -> Callable:
        """Compiles `function(variables, batch) -> tree of [B,...]`; calls return numpy, B rows."""
        if self.mode == "pmap":
            mapped = jax.pmap(
                _with_axis(function),
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=0,
                devices=self.devices,
            )
            return lambda variables, batch: jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), mapped(variables, batch)
            )
        compiled = jax.jit(function, out_shardings=self.replicated)
        return lambda variables, batch: jax.tree.map(np.asarray, compiled(variables, batch))

    def put_shards(self, tree: Any) -> Any:
        """Moves host arrays [N,...] to the devices, N / devices rows to each; they become [devices,N/n,...]."""
        n = len(self.devices)
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(
            lambda x: jax.device_put(x.reshape(n, x.shape[0] // n, *x.shape[1:]), sharding), tree
        )

    def map_shards(self, function: Callable) -> Callable:
        """Compiles `function(query, shard) -> tree` for every shard; calls return numpy [devices,...]."""
        mapped = jax.pmap(function, in_axes=(None, 0), devices=self.devices)
        return lambda query, shards: jax.tree.map(np.asarray, mapped(query, shards))


def _with_axis(function: Callable) -> Callable:
    def mapped(state, batch):
        with _pmap_axis():
            return function(state, batch)

    return mapped


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def initialise_hosts() -> None:
    """Joins the other hosts where the environment describes them (VMR_JAX_COORDINATOR, ...).

    TPU pods and Slurm are recognised by `jax.distributed.initialize()` itself once
    VMR_JAX_MULTIHOST=1 is set.
    """
    import os

    if os.environ.get("VMR_JAX_MULTIHOST") == "1":
        coordinator = os.environ.get("VMR_JAX_COORDINATOR")
        if coordinator:
            jax.distributed.initialize(
                coordinator,
                int(os.environ["VMR_JAX_PROCESSES"]),
                int(os.environ["VMR_JAX_PROCESS_ID"]),
            )
        else:
            jax.distributed.initialize()


def is_lead_host() -> bool:
    """True on the one host that writes files."""
    return jax.process_index() == 0
