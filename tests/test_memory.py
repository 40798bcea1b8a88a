"""What the C library does with freed memory."""

import ctypes
import subprocess
import sys
import types

import pytest

from vmr_jax import parallel
from vmr_jax.training import fit

PROGRAM = """
import ctypes, resource, sys, threading
from vmr_jax.memory import keep_freed_memory, share_one_heap

if "share" in sys.argv:
    share_one_heap()
if "keep" in sys.argv:
    keep_freed_memory()
library, size = ctypes.CDLL(None), 128 * 2**20
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def take_and_free():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        place = library.malloc(size)
        library.memset(place, 1, size)
        library.free(place)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size)

if "thread" in sys.argv:
    thread = threading.Thread(target=take_and_free)
    thread.start()
    thread.join()
else:
    take_and_free()
"""


def cleared(*arguments):
    """The share of 128 MiB that the system had to clear, each of three times that they were taken and freed."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in run.stdout.split()]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not with the C library of GNU"
)
@pytest.mark.parametrize("inside", [(), ("share", "thread")])
def test_memory_that_is_kept_is_not_cleared_again(inside):
    given_back, kept = cleared(*inside), cleared("keep", *inside)
    # A page at a time. Where the system has larger ones on its own, there is nothing to see.
    if given_back[2] < 0.9:
        pytest.skip("the system gives out pages larger than it says")
    assert max(kept[1:]) < 0.01


def test_a_training_shares_one_heap_before_all_else(monkeypatch, tmp_path):
    class SharedError(Exception):
        """Raised where the heap would be shared."""

    def share():
        raise SharedError

    monkeypatch.setattr(fit, "share_heap_on_cpus", share)
    with pytest.raises(SharedError):
        fit.fit(None, tmp_path)  # whatever came before would miss a config


@pytest.mark.parametrize(
    "platforms,installed,shares",
    [
        (None, (), True),
        (None, ("jax_plugins",), False),
        (None, ("libtpu",), False),
        ("cpu", ("jax_plugins",), True),
        ("cuda,cpu", ("jax_plugins",), False),
    ],
)
def test_the_heap_is_shared_where_there_are_cpus_alone(monkeypatch, platforms, installed, shares):
    called = []
    monkeypatch.setattr(parallel, "share_one_heap", lambda: called.append(True))
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(parallel.jax, "config", types.SimpleNamespace(jax_platforms=platforms))
    parallel.share_heap_on_cpus()
    assert bool(called) == shares
