"""The storyboard of the default setting, generated and prepared."""

import pytest
from storyboard_options import storyboard_options

from vmr_jax.data import storyboard
from vmr_jax.data.storyboard.generate import generate
from vmr_jax.data.storyboard.splits import SPLITS


@pytest.fixture(scope="session")
def generated():
    """Split -> list of (scene, features), of the default setting."""
    return {split: list(generate(0, split, 900)) for split in SPLITS}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder and the builder of the default setting."""
    data_dir = tmp_path_factory.mktemp("storyboard")
    return data_dir, storyboard.prepare(storyboard_options(data_dir))
