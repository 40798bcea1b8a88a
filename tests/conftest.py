"""Strict session: eight simulated CPU devices, warnings are errors, rank promotion raises."""

import collections
import fnmatch
import gc
import importlib.metadata
import os
import pathlib
import signal
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A command that a test calls in its own process must not start that process anew (vmr_jax/memory.py).
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    # Compilation is most of the time of the suite; numbers stay those of the same program.
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag would end the process
    # The older emitters compile in two thirds of the time, a program in one part in nine tenths, and with the
    # preset one in four fifths, of long chains of operations in half. test_launch.py has the settings of today.
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        " --xla_cpu_opt_preset=FAST_COMPILE"
    )
# Compiled programs are shared among workers, the processes that tests start, and sessions: pytest --cache-clear
# forgets them. An entry that cannot be read is compiled again (setup.cfg ignores the warning).
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{pathlib.Path(__file__).parents[1]}/.pytest_cache/d/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import cases
import jax
import pytest
from commands import Commands
from programs import free_programs
from records import read_once
from simple_draws import simple_key
from xdist.scheduler import LoadFileScheduling

from vmr_jax.input.dataset import Dataset
from vmr_jax.kernels import kernels_in_use, use_kernels

Dataset._read_records = read_once
jax.config.update("jax_numpy_rank_promotion", "raise")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background; tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The dearest files first, so that no worker is left with one of them at the end.
DEAREST = (
    "tests/test_launch.py",
    "tests/test_api.py",
    "tests/training/test_hosts.py",
    "tests/docs/test_snippets.py",
    "tests/input/test_beam.py",
    "tests/training/test_train.py",
    "tests/training/test_finish.py",
    "tests/modes",
    "tests/contract",
    "tests/retrieval",
    "tests/models",
    "tests/input",
    "tests/torch_import",
    "tests/data",
)

# `pytest -m smoke`: quick tests of each room, and one architecture through contract, train, evaluate, predict.
SMOKE = (
    "tests/contract/test_train_step.py::*fvmr]",
    "tests/data/test_jsonl.py::*",
    "tests/evaluation/test_metrics.py::*",
    "tests/input/test_input.py::*",
    "tests/kernels/test_bernoulli.py::*",
    "tests/layers/test_dr*.py::*",
    "tests/models/test_cmin.py::*",
    "tests/modes/test_score.py::*",
    "tests/reporting/test_tables.py::*",
    "tests/retrieval/test_search.py::*",
    "tests/test_launch.py::test_train_*",
    "tests/test_launch.py::test_evaluate_*",
    "tests/test_launch.py::test_predict_*",
    "tests/text/test_text_tokenize.py::*",
    "tests/torch_import/test_torch_import_cmin.py::*",
    "tests/training/test_optimizer.py::*",
)


def first_parameter(test: str) -> str:
    """The architecture of a test of the contract."""
    return test.partition("[")[2].rstrip("]").split("-")[0]


class Scheduling(LoadFileScheduling):
    """Every file in one worker, but the contract one architecture at a time."""

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        return f"{file}[{first_parameter(test)}]" if file.startswith("tests/contract/") else file


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    def rank(item):
        found = [i for i, start in enumerate(DEAREST) if item.nodeid.startswith(start)]
        return min(found, default=len(DEAREST))

    items.sort(key=rank)
    for item in items:
        if any(fnmatch.fnmatch(item.nodeid, pattern) for pattern in SMOKE):
            item.add_marker(pytest.mark.smoke)


def cpu_seconds() -> float:
    """Of this process, of those that it has started and that have ended, and of commands.py."""
    return sum(os.times()[:4]) + Commands.seconds


_clock = [0.0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Notes what was used since the report before; what waited for others took none."""
    report = yield
    before, _clock[0] = _clock[0], cpu_seconds()
    report.cpu_seconds = _clock[0] - before
    return report


def pytest_terminal_summary(terminalreporter):
    """Prints the CPU seconds of the ten dearest files, and of each architecture if contract and models ran."""
    files, contract, own = (collections.Counter() for _ in range(3))
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if hasattr(report, "cpu_seconds"):
            file, _, test = report.nodeid.partition("::")
            files[file] += report.cpu_seconds
            if file.startswith("tests/contract/"):
                contract[first_parameter(test)] += report.cpu_seconds
            if file.startswith("tests/models/test_"):
                found = [name for name in cases.ALL if file.startswith(f"tests/models/test_{name}")]
                own[max(found, key=len)] += report.cpu_seconds
    if len(files) > 10:
        terminalreporter.section("ten dearest test files, CPU seconds")
        for file, seconds in files.most_common(10):
            terminalreporter.write_line(f"{seconds:7.1f} {file}")
    if set(cases.ALL) == set(own) <= set(contract):
        terminalreporter.section("CPU seconds of each architecture: contract, tests of its own")
        for name in cases.ALL:
            terminalreporter.write_line(f"{contract[name]:7.1f} {own[name]:7.1f} {name}")
        means = (sum(found[name] for name in cases.ALL) / len(cases.ALL) for found in (contract, own))
        terminalreporter.write_line("{:7.1f} {:7.1f} on average".format(*means))


def pytest_sessionstart(session):
    """Forgets programs that were compiled a week ago."""
    if not hasattr(session.config, "workerinput"):
        for file in pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob("*"):
            if time.time() - file.stat().st_mtime > 7 * 86400:
                file.unlink()


def pytest_collection_finish():
    """What is there by now stays: garbage is sought among what tests make, which tracing makes much of."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    _clock[0] = cpu_seconds()


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Frees compiled programs after a file."""
    yield
    free_programs()


@pytest.fixture(scope="module")
def plain_layers():
    """The plain form of every layer, which compiles sooner; tests/kernels compares it with its fast twin."""
    before = kernels_in_use()
    use_kernels(False)
    yield
    use_kernels(before)


@pytest.fixture(scope="module")
def simple_draws():
    """Other random numbers than JAX's, whose programs compile sooner; see simple_draws.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "key", simple_key)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where prepared data are kept for the whole test session."""
    return tmp_path_factory.mktemp("data_dir")


@pytest.fixture(scope="session")
def commands():
    """Runs the command in processes of its own; see commands.py."""
    found = Commands()
    yield found
    found.close()
