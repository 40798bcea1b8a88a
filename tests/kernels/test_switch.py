"""The switch between fast twins and plain forms."""

import importlib

import pytest

from vmr_jax import kernels


@pytest.fixture(autouse=True)
def kernels_at_the_end():
    yield
    kernels.use_kernels(True)


@pytest.mark.parametrize("value, in_use", [(None, True), ("1", True), ("0", False)])
def test_the_environment_decides_at_first(monkeypatch, value, in_use):
    monkeypatch.delenv("VMR_JAX_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("VMR_JAX_KERNELS", value)
    importlib.reload(kernels)
    assert kernels.kernels_in_use() is in_use


def test_then_the_program():
    kernels.use_kernels(False)
    assert not kernels.kernels_in_use()
    kernels.use_kernels(True)
    assert kernels.kernels_in_use()
