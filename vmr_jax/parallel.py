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
import hashlib
import logging
import math
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.memory import keep_freed_memory

log = logging.getLogger("vmr_jax")

AXIS = "data"
MODES = ("pmap", "jit")
_MODES_OF_HOSTS = ("train", "evaluate")  # of launch.py; the others are for one host
# What a host that ends waits for the others to end too. All of them end together (`wait_for_hosts`) but
# after an error of one, and then the others should soon know.
_LEAVE_SECONDS = 20
_LONGEST = 2000  # bytes of a message between hosts
_PROGRAM_BYTES = 2 * 2**30  # of all compiled programs that are kept
_WORTH_KEEPING = 0.1  # seconds that a program takes to compile at least
_NO_BACKEND = re.compile(
    r"(?i)unable to initialize backend|unknown backend|no (visible )?\w+ (devices|backend)"
)
_inside_pmap = contextvars.ContextVar("inside_pmap", default=False)


def sum_over_devices(tree: Any) -> Any:
    """Sums every leaf over the devices that share the batch."""
    return jax.lax.psum(tree, AXIS) if _inside_pmap.get() else tree


def gather_examples(tree: Any) -> Any:
    """Concatenates leaves [B/devices,...] to [B,...] over the devices that share the batch."""
    if not _inside_pmap.get():
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, axis=0, tiled=True), tree)


def on_cpu() -> bool:
    """Whether the computation is on CPUs."""
    return jax.default_backend() == "cpu"


@contextlib.contextmanager
def _pmap_axis() -> Iterator[None]:
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
            raise unknown("config.parallel is", mode, MODES)
        available = _available()
        if num_devices > len(available):
            raise UserError(
                f"config.num_devices is {num_devices}, but this machine has {len(available)}. "
                "Set it to 0 to use them all."
            )
        if several_hosts():
            _check_hosts(mode, num_devices)
        self.mode = mode
        # The devices of a host side by side: it reads the rows between those of its neighbours (`host_rows`).
        available = sorted(available, key=lambda device: (device.process_index, device.id))
        self.devices = available[: num_devices or len(available)]
        self.mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    def check_batch_size(self, batch_size: int, field: str) -> None:
        """Raises UserError where `batch_size` rows cannot be shared equally among the devices."""
        n = len(self.devices)
        if batch_size < 1:
            raise UserError(
                f"{field} is {batch_size}; it must be a positive multiple of the number of devices, {n}."
            )
        if batch_size % n:
            lower, upper = batch_size // n * n, math.ceil(batch_size / n) * n
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

    def on_first_device(self, tree: Any) -> Any:
        """Copies a tree to the first device, for functions of `jax.jit` that only it runs."""
        return jax.device_put(tree, self.devices[0])

    def as_replicated(self, tree: Any) -> Any:
        """A state that a step returned, in the sharding `replicated`; pmap of JAX 0.7 has one of its own."""
        return jax.device_put(tree, self.replicated)

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
        if on_cpu():
            keep_freed_memory()
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


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, so that the next start of the same computation is not slow.

    Each kind of processor has a subfolder, for what was compiled for one may not run on another that shares
    the folder. Programs that were not used for longest are dropped above two gigabytes. Nothing is done where
    JAX has a cache already (JAX_COMPILATION_CACHE_DIR), or where the folder cannot be written.

    Args:
      folder: config.compilation_cache; '' keeps nothing.
    """
    if not folder or getattr(jax.config, "jax_compilation_cache_dir"):  # noqa: B009  not in its type
        return
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        kind = "\n".join(line for line in described if line.startswith(("model name", "flags", "Features")))
    except OSError:
        kind = platform.processor()
    name = hashlib.sha256(f"{platform.machine()}\n{kind}".encode()).hexdigest()[:16]
    try:
        place = user_path(folder) / name
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, UserError) as error:
        log.info("Compiled programs are not kept: %s cannot be written (%s)", folder, error)
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_compilation_cache_max_size", _PROGRAM_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


def one_copy(tree: Any) -> Any:
    """The first device's copy of replicated arrays, to be saved; with several hosts the arrays as they are.

    Of arrays on several devices Orbax saves a slice from each, and compiles a program for every slice.
    """
    if several_hosts():
        return tree
    return jax.tree.map(
        lambda x: x.addressable_data(0) if isinstance(x, jax.Array) and x.is_fully_replicated else x, tree
    )


def _available() -> list[jax.Device]:
    """The devices of all hosts; UserError where JAX cannot start."""
    try:
        return jax.devices()
    except RuntimeError as error:
        raise backend_error(error) or error from None


def backend_error(error: BaseException) -> UserError | None:
    """The message for an error with which JAX does not start; None for another error."""
    said = str(error).strip().split("\n")[0]
    if not (isinstance(error, RuntimeError) and _NO_BACKEND.search(said)):
        return None
    wanted = os.environ.get("JAX_PLATFORMS", "")
    asked = f"JAX_PLATFORMS={wanted} asks for it. " if wanted else ""
    return UserError(
        f"JAX cannot start: {said}. {asked}Set JAX_PLATFORMS=cpu to compute without an accelerator, or "
        "install JAX for this one (pip install 'jax[tpu]' or 'jax[cuda12]'), see that its driver works, and "
        "that no other process holds it."
    )


def _with_axis(function: Callable) -> Callable:
    def mapped(state: Any, batch: Any) -> Any:
        with _pmap_axis():
            return function(state, batch)

    return mapped


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


# --- hosts ----------------------------------------------------------------------------------------


def initialise_hosts(mode: str) -> None:
    """Joins the other hosts where VMR_JAX_MULTIHOST=1, before anything else of JAX is used.

    VMR_JAX_COORDINATOR (address:port of the lead host, free there), VMR_JAX_PROCESSES and VMR_JAX_PROCESS_ID (0
    on the lead host) describe them; where the first is not set, JAX recognises TPU pods, Slurm and Open MPI.

    Args:
      mode: of launch.py.

    Raises:
      UserError: for a mode of one host, a variable that is missing or wrong, hosts that do not meet.
    """
    if os.environ.get("VMR_JAX_MULTIHOST") != "1":
        return
    if mode not in _MODES_OF_HOSTS:
        raise UserError(
            f"--mode={mode} runs on one host; several (VMR_JAX_MULTIHOST=1) {' and '.join(_MODES_OF_HOSTS)} "
            "alone. Give the command on one host, without VMR_JAX_MULTIHOST."
        )
    described = _described_hosts()
    if described:
        values = described.values()
        log.info("Meeting the other hosts at %s: %d processes, this is number %d", *values)
    try:
        jax.distributed.initialize(**described, shutdown_timeout_seconds=_LEAVE_SECONDS)
    except (ValueError, RuntimeError) as error:
        where = "by the cluster's own description (TPU, Slurm, Open MPI)"
        if described:
            where = f"at {described['coordinator_address']}"
        raise UserError(
            f"The hosts of VMR_JAX_MULTIHOST=1 did not meet {where}: {str(error).strip().splitlines()[0]}. Set "
            "VMR_JAX_COORDINATOR to an address of the lead host and a port that is free there and open to "
            "the others, VMR_JAX_PROCESSES and VMR_JAX_PROCESS_ID, and start all of them."
        ) from None
    if not is_lead_host():
        log.setLevel(logging.WARNING)  # the lead host tells how it goes


def _described_hosts() -> dict[str, Any]:
    """Coordinator, number of processes and number of this one, of the environment; {} where it names none."""
    names = ("VMR_JAX_COORDINATOR", "VMR_JAX_PROCESSES", "VMR_JAX_PROCESS_ID")
    values = [os.environ.get(name, "") for name in names]
    if not any(values):
        return {}
    coordinator, count, index = values
    if not (coordinator and count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        given = ", ".join(f"{name}={value!r}" for name, value in zip(names, values))
        raise UserError(
            f"VMR_JAX_MULTIHOST=1 came with {given}. Expected are an address and port, such as 10.0.0.1:8476, "
            "the number of processes, and the number of this one, from 0 on. Set all three, or none where TPU "
            "pods, Slurm or Open MPI describe the hosts."
        )
    return {"coordinator_address": coordinator, "num_processes": int(count), "process_id": int(index)}


def _check_hosts(mode: str, num_devices: int) -> None:
    """Raises UserError where the devices of several hosts cannot share a batch in equal parts."""
    if mode == "pmap":
        raise UserError("config.parallel='pmap' serves one host; with several, set config.parallel='jit'.")
    if num_devices:
        raise UserError(
            f"config.num_devices is {num_devices}, which leaves out devices of some hosts. Several hosts use "
            "all of theirs; set it to 0."
        )
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:
        raise UserError(
            f"The hosts have {', '.join(map(str, counts))} devices; all must have the same number, as each "
            "reads an equal share of a batch. Hide some (CUDA_VISIBLE_DEVICES), or leave a host out."
        )


def several_hosts() -> bool:
    """True where this process is one of several."""
    return jax.process_count() > 1


def host_rows(rows: np.ndarray) -> np.ndarray:
    """The share [B/hosts] of the rows [B] of a batch that this host reads, for `Parallel.put_batch`."""
    return np.split(rows, jax.process_count())[jax.process_index()]


def wait_for_hosts(what: str) -> None:
    """Returns when all hosts have called it; `what` is their place in the code."""
    if several_hosts():
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def lead_host_first(what: str) -> Iterator[None]:
    """The lead host runs the block before the others, which find the files that it has written."""
    if not is_lead_host():
        wait_for_hosts(what)
    try:
        yield
    finally:  # after an error too: the others will say the same, or go on and learn that one has ended
        if is_lead_host():
            wait_for_hosts(what)


def hosts_agree(text: str) -> bool:
    """True where all hosts have the same text; they ask at the same time."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    every = multihost_utils.process_allgather(digest)  # [hosts,32]
    return bool((every == every[0]).all())


def largest_of_hosts(number: int) -> int:
    """The largest of the numbers of all hosts; they ask at the same time."""
    if not several_hosts():
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def lead_says(text: str) -> str:
    """The lead host's text, cut to 2000 bytes, on every host; they ask at the same time."""
    if not several_hosts():
        return text
    said = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(text.encode()[:_LONGEST], np.uint8)
    said[: len(encoded)] = encoded
    heard = np.asarray(multihost_utils.broadcast_one_to_all(said), np.uint8)
    return heard.tobytes().rstrip(b"\0").decode(errors="ignore")


def is_lead_host() -> bool:
    """True on the one host that writes files."""
    return jax.process_index() == 0
