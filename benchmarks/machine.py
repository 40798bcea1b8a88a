"""On which machine, and with which versions, a figure was measured."""

import os
import platform
from pathlib import Path

import jax
import numpy as np


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
