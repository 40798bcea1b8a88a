"""The memory of a process between the steps of a training."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_ALL = 2**31 - 1  # bytes, the largest number that it takes


def keep_freed_memory() -> None:
    """Lets the C library keep what a step frees, for the next step; does nothing where that is not glibc.

    A step on CPUs takes memory for all that it computes at once, and frees it at its end. What is larger than
    32 MiB glibc gives back to the system, which clears every page anew when the next step writes to it.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _ALL)
        library.mallopt(_TRIM_THRESHOLD, _ALL)
