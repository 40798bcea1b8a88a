"""The contract is checked with the plain form of every layer, and with draws and a norm that compile sooner."""

import optax
import pytest
from simple_norm import simple_norm


@pytest.fixture(scope="module", autouse=True)
def plain(plain_layers, simple_draws):
    """See both; of the norm of the gradients, simple_norm.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax.tree, "norm", simple_norm)
        yield
