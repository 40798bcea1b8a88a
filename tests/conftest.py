"""Strict session: eight simulated CPU devices, warnings are errors, rank promotion raises."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where prepared data are kept for the whole test session."""
    return tmp_path_factory.mktemp("data_dir")
