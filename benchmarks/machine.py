"""On which machine, and with which versions, a figure was measured, and what that machine can do at best."""

import os
import platform
import resource
import shlex
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import on_cpu


def describe_machine(*versions: str) -> str:
    """Devices, processor, cores, the versions of Python, JAX and NumPy, and `versions` of others."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    device = jax.devices()[0]
    programs = (f"jax {jax.__version__}", f"numpy {np.__version__}", *versions)
    return (
        f"{len(jax.devices())} x {device.device_kind} ({device.platform}), {processor}, "
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {', '.join(programs)}"
    )


def command_and_commit(arguments: list[str]) -> dict[str, str]:
    """The command with these arguments, and the commit, '' where the checkout has no history."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {"command": shlex.join(["python", *arguments]), "commit": commit}


def cpu_seconds(process: int) -> float:
    """CPU seconds of the user and of the system that a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """CPU seconds of all programs that this process has started and seen end, and of what these waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own_memory(name: str) -> int:
    """Bytes of this process that Linux counts by this name: 'RssAnon', 'VmHWM' and others."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def copy_bandwidth(rounds: int, size: int = 2**30) -> float:
    """Bytes read and written per second by one device that adds 1 to `size` bytes in place, the best round."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(jnp.zeros(size // 4, jnp.float32))
    best = np.inf
    for _ in range(rounds):
        x.block_until_ready()
        start = time.perf_counter()
        x = add(x)
        x.block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * x.nbytes / best


def matrix_rate(dtype: str, sizes: tuple[int, ...] = ()) -> float:
    """Floating-point operations a second of one device: the fastest of matrix products of three sizes."""
    best = 0.0
    for size in sizes or ((1024, 2048, 4096) if on_cpu() else (4096, 8192, 16384)):
        x = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product = jax.jit(jnp.dot)
        jax.block_until_ready(product(x, x))
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(product(x, x))
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
