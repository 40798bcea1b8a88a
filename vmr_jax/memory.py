"""The memory of a process between the steps of a training."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_ALL = 2**31 - 1  # bytes, the largest number that it takes
_LARGE_PAGES = "glibc.malloc.hugetlb"
_WHO_GETS_THEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_with_large_pages() -> None:
    """Starts the program of this process anew, so that the C library asks the system for pages of 2 MiB.

    The system then clears what a step takes, and gives back, in hundreds of pieces in place of hundreds of
    thousands. The C library reads this when a process starts and at no other time, so a command does it first
    of all. Does nothing where the system gives such pages unasked, or to nobody, where the C library cannot ask
    (glibc can from 2.35 on), where GLIBC_TUNABLES speaks of it already, and under a debugger.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    debugged = sys.gettrace() is not None
    if _LARGE_PAGES not in tunables and _given_on_request() and sys.executable and not debugged:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_LARGE_PAGES}=1".removeprefix(":")
        with contextlib.suppress(OSError):  # who may not start programs goes on with this one
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _given_on_request() -> bool:
    """Whether large pages are to be had for the asking, and the C library can ask."""
    name, version = platform.libc_ver()
    can_ask = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return can_ask and _WHO_GETS_THEM.exists() and "[madvise]" in _WHO_GETS_THEM.read_text()


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
