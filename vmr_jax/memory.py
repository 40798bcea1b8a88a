"""The memory of a process between the steps of a training."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_ALL = 2**31 - 1  # bytes, the largest number that it takes


def keep_freed_memory() -> None:
    """Lets the C library keep what a step frees, for the next step; does nothing where that is not glibc.

    A step on CPUs takes memory for all that it computes at once, and frees it at its end. What is larger than
    32 MiB glibc gives back to the system, which clears every page anew when the next step writes to it.
    """
    _set(_MMAP_THRESHOLD, _ALL)
    _set(_TRIM_THRESHOLD, _ALL)


def share_one_heap() -> None:
    """Lets all threads take memory from one heap; does nothing where the C library is not glibc.

    JAX computes in threads of its own. The heap that glibc gives to each of them holds no block above 64 MiB:
    such a block, and the memory of a step is one, comes from the system and goes back to it, whatever
    `keep_freed_memory` says. It has to be called before JAX, or another library, has started its threads.
    """
    _set(_ARENA_MAX, 1)


def _set(option: int, value: int) -> None:
    """Sets an option of glibc's malloc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        library.mallopt(option, value)
