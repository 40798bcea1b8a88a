"""Compiled programs are kept for the next start, in a folder that the user chose."""

import types

import jax
import pytest

from vmr_jax import parallel
from vmr_jax.configs.common import COMPILATION_CACHE
from vmr_jax.configs.ctrl import get_config
from vmr_jax.modes.launch import _program_folder
from vmr_jax.training.places import identity_of

FIELDS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def no_cache_yet():
    """As in a process of a user; the values of the tests come back."""
    before = {name: getattr(jax.config, name) for name in FIELDS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_divided_by_processor_and_bounded(tmp_path):
    parallel.keep_programs(str(tmp_path))
    (place,) = tmp_path.iterdir()
    assert jax.config.jax_compilation_cache_dir == str(place)
    assert jax.config.jax_compilation_cache_max_size == 2 * 2**30


def test_another_cache_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    parallel.keep_programs(str(tmp_path / "ours"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    for folder in (str(tmp_path / "file"), ""):
        parallel.keep_programs(folder)
        assert jax.config.jax_compilation_cache_dir is None


def test_without_a_home_folder_nothing_is_kept():
    parallel.keep_programs("~no_such_user/compiled")
    assert jax.config.jax_compilation_cache_dir is None


def test_the_folder_that_a_run_names_is_not_followed():
    """Programs are code; a run's folder may be a stranger's."""
    config = types.SimpleNamespace(get=lambda field, default: "/stranger")
    assert _program_folder(config, of_run=True, given=()) == COMPILATION_CACHE
    assert _program_folder(config, of_run=True, given=("compilation_cache",)) == "/stranger"
    assert _program_folder(config, of_run=False, given=()) == "/stranger"


def test_the_folder_is_no_part_of_a_run():
    config, moved = get_config(), get_config()
    moved.compilation_cache = ""
    assert identity_of(config) == identity_of(moved)
