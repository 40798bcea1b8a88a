"""What the C library does with freed memory."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from vmr_jax.memory import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
library, size = ctypes.CDLL(None), 64 * 2**20
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = library.malloc(size)
    library.memset(place, 1, size)
    library.free(place)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size)
"""


def cleared(*arguments):
    """The share of 64 MiB that the system had to clear, each of three times that they were taken and freed."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in run.stdout.split()]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not with the C library of GNU"
)
def test_memory_that_is_kept_is_not_cleared_again():
    given_back, kept = cleared(), cleared("keep")
    # A page at a time. Where the system has larger ones on its own, there is nothing to see.
    if given_back[2] < 0.9:
        pytest.skip("the system gives out pages larger than it says")
    assert max(kept[1:]) < 0.01
