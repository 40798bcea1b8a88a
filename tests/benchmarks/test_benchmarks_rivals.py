"""Steps of PyTorch in a process of their own."""

import importlib
import os
import signal

import numpy as np
import pytest

from vmr_jax.input.spec import batch_spec

pytest.importorskip("torch")


@pytest.fixture
def given(program):
    """Name, config and batch of a small model, as `TorchStep` takes them."""
    steps = program("training_steps")
    config = importlib.import_module("vmr_jax.configs.acrm").get_config("storyboard")
    config.batch_size, config.model.features = 2, 16
    return "acrm", config, steps.random_batch(batch_spec(config, 2, steps.make_model(config).requires()))


@pytest.fixture
def large_pages(monkeypatch):
    """What a benchmark starts with, and something of the user's."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1")


def test_its_steps_are_those_of_this_process_but_not_its_memory(program, given, large_pages):
    rivals, steps = program("rivals"), program("training_steps")
    here = steps.TorchStep(*given)
    with rivals.RivalStep(*given, compiled=False, threads=2) as step:
        np.testing.assert_allclose([step() for _ in range(3)], [here() for _ in range(3)], rtol=1e-5)
        pid = step.process.pid
        assert os.getsid(pid) == pid  # Ctrl-C at the terminal does not reach it
        with open(f"/proc/{pid}/environ", "rb") as file:
            assert b"GLIBC_TUNABLES=glibc.malloc.tcache_count=7" in file.read().split(b"\0")
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_it_says_where_it_fails(program, given):
    rivals = program("rivals")
    _, config, batch = given
    with pytest.raises(rivals.RivalFailed, match="^UserError: The twin of avmr in tests.references"):
        rivals.RivalStep("avmr", config, batch, compiled=False, threads=1).__enter__()
    with rivals.RivalStep(*given, compiled=False, threads=1) as step:
        os.kill(step.process.pid, signal.SIGKILL)
        with pytest.raises(rivals.RivalFailed, match="^its process ended with status -9$"):
            step()


def test_one_that_is_given_up_ends(program, given):
    rivals, training = program("rivals"), program("training")
    step = rivals.RivalStep(*given, compiled=False, threads=1)
    with pytest.raises(TimeoutError), training.seconds_left(0.5):
        step.__enter__()
    assert step.process.returncode == -signal.SIGTERM
