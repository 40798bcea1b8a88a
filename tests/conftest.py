"""Strict session: eight simulated CPU devices, warnings are errors, rank promotion raises."""

import importlib.metadata
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    # Compilation is most of the time of the suite; numbers stay those of the same program.
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag would end the process
    # The older emitters compile in two thirds of the time. test_launch.py has the ones of today.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Frees compiled programs after each file: a process can map only so many."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where prepared data are kept for the whole test session."""
    return tmp_path_factory.mktemp("data_dir")
