"""`--config.PATH=VALUE`: every field can be set, and a wrong path is one readable line."""

import importlib
import sys
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

from vmr_jax import models
from vmr_jax.errors import UserError
from vmr_jax.modes.overrides import unknown_field
from vmr_jax.training.experiment import make_model

CONFIG = "--config=configs/fvmr.py"


@pytest.mark.parametrize(
    "override,message",
    [
        ("--config.model.commn=3", 'config.model has no field "commn". Did you mean "common"? Known: common,'),
        ("--config.modl.common=3", 'config has no field "modl". Did you mean "config.model.common"?'),
        ("-config.modl=3", 'config has no field "modl". Did you mean "model"? Known: batch_size,'),
        ("--config.learning_rate=1", 'Did you mean "config.optimizer.learning_rate"?'),
        ("--noconfig.model.score_scal", 'Did you mean "score_scale"?'),
        ("--config.model.features.x=3", 'config.model.features has no field "x". Known: none.'),
    ],
)
def test_a_wrong_path_names_the_nearest(override, message):
    error = unknown_field([f"{CONFIG}:charades_sta,vgg", "--config.seed=1", override])
    assert isinstance(error, UserError) and message in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [CONFIG],
        ["--config.modl=1"],
        [
            CONFIG,
            "--config.model.common=3",
            "--config.model=x",
            "--config.dataset.name=x",
            "--workdir=config.x",
        ],
        ["--config=configs/vdi.py:charades_sta", "--config.dataset.streams=x"],
    ],
)
def test_a_right_path_is_no_error(argv):
    assert unknown_field(argv) is None


def get_config(name):
    return importlib.import_module(f"vmr_jax.configs.{name}").get_config()


def parsed(name, *overrides):
    """The config after the overrides of a command line."""
    values, argv = flags.FlagValues(), ["program", *overrides]
    with mock.patch.object(sys, "argv", argv):  # where config_flags looks for overrides
        config_flags.DEFINE_config_dict("config", get_config(name), flag_values=values)
        values(argv)
    return values.config


def written(value):
    return f"({', '.join(map(str, value))},)" if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", models.architectures())
def test_every_hyper_parameter_is_set_from_the_command_line(name):
    config = get_config(name)
    fields = {field: value for field, value in config.model.items() if field != "name"}
    given = parsed(name, *(f"--config.model.{field}={written(value)}" for field, value in fields.items()))
    assert given.model.to_dict() == config.model.to_dict()
    longer = {field: value + value[:1] for field, value in fields.items() if isinstance(value, tuple)}
    changed = parsed(name, *(f"--config.model.{field}={written(value)}" for field, value in longer.items()))
    assert {field: changed.model[field] for field in longer} == longer


@pytest.mark.parametrize(
    "override,message",
    [
        ("common=0", "config.model.common of fvmr is 0; it must be positive"),
        ("map_kernels=(5, 0)", r"config.model.map_kernels of fvmr is \(5, 0\); it must be positive"),
        ("temperature=0", "config.model.temperature of fvmr is 0.0; it must be positive"),
        ("keep=-1", "config.model.keep of fvmr is -1; it must not be negative"),
    ],
)
def test_an_impossible_size_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        make_model(parsed("fvmr", f"--config.model.{override}"))


def test_an_impossible_rate_is_refused():
    with pytest.raises(UserError, match=r"dropout of cmin is 1.0; it must be in \[0,1\)"):
        models.create("cmin", dropout=1.0)
    assert models.create("cmin", dropout=0.0, projection=0).dropout == 0  # zero is possible where it means none
