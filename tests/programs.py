"""Compiled programs that tests leave behind."""

import pathlib

import jax


def free_programs() -> None:
    """Forgets them where they are many: a process can map only 65,530 areas of memory.

    Not always, since JAX forgets the traces of its own functions with them.
    """
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
