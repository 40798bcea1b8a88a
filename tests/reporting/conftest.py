"""A run to report on."""

import pytest
from run_folder import write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")
