"""The memory of a process between the steps of a training."""

import contextlib
import ctypes
import os
import platform
import sys
from itertools import pairwise
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_ALL = 2**31 - 1  # bytes, the largest number that it takes
LARGE_PAGES = "glibc.malloc.hugetlb=1"  # what GLIBC_TUNABLES says for them
_WHO_GETS_THEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_with_large_pages() -> None:
    """Starts the program of this process anew, so that the C library asks the system for pages of 2 MiB.

    The system then clears what a step takes, and gives back, in hundreds of pieces in place of hundreds of
    thousands. The C library reads this when a process starts and at no other time, so a command does it first
    of all. Does nothing where the system gives such pages unasked, or to nobody, where the C library cannot ask
    (glibc can from 2.35 on), where GLIBC_TUNABLES speaks of it already, under a debugger, and where the process
    is not that of the command alone.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    debugged = sys.gettrace() is not None
    if LARGE_PAGES[:-1] not in tunables and _is_of_a_file() and not debugged and _given_on_request():
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{LARGE_PAGES}".removeprefix(":")
        with contextlib.suppress(OSError):  # who may not start programs goes on with this one
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_of_a_file() -> bool:
    """Whether the process was started as 'python OPTIONS FILE ARGUMENTS', for the program that now runs.

    Starting anew would end the notebook, test or program that has called the command; what came by a pipe can
    be read once; and a profiler that runs the command may have begun a file that must not be there yet.
    """
    options = ["", *sys.orig_argv[1 : -len(sys.argv)]]
    plain = all(after.startswith("-") or before in ("-X", "-W") for before, after in pairwise(options))
    same = sys.orig_argv[-len(sys.argv) :] == sys.argv
    return bool(sys.executable) and same and plain and Path(sys.argv[0]).is_file()


def _given_on_request() -> bool:
    """Whether large pages are to be had for the asking, and the C library can ask."""
    name, version = platform.libc_ver()
    can_ask = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    try:
        return can_ask and "[madvise]" in _WHO_GETS_THEM.read_text()
    except OSError:  # a system without them, or a container that hides it
        return False


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
