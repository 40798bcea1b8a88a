"""The contract is checked with the plain form of every layer, and with draws that compile sooner."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def plain(plain_layers, simple_draws):
    """See both."""
