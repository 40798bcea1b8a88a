"""Architectures are tested with the plain form of every layer."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def plain(plain_layers):
    """See `plain_layers`."""
