"""On which machine, and with which versions, a figure was measured."""

import os
import platform
from pathlib import Path

import jax


def describe_machine() -> str:
    """Device, processor, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    device = jax.devices()[0]
    return (
        f"{device.device_kind} ({device.platform}), {processor}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, jax {jax.__version__}"
    )
