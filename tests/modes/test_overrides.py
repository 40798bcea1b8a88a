"""`--config.PATH=VALUE`: every field can be set, and a wrong path or value is one readable line."""

import importlib

import pytest

from vmr_jax import models
from vmr_jax.errors import UserError
from vmr_jax.modes.overrides import overridden
from vmr_jax.training.experiment import make_model


@pytest.mark.parametrize(
    "override,message",
    [
        ("--config.model.commn=3", 'config.model has no field "commn". Did you mean "common"? Known: common,'),
        ("--config.modl.common=3", 'config has no field "modl". Did you mean "config.model.common"?'),
        ("-config.modl=3", 'config has no field "modl". Did you mean "model"? Known: batch_size,'),
        ("--config.learning_rate=1", 'Did you mean "config.optimizer.learning_rate"?'),
        ("--config.lr=1", 'Did you mean "config.optimizer.learning_rate"?'),
        ("--config.optimizer.lr=1", 'config.optimizer has no field "lr". Did you mean "learning_rate"?'),
        ("--noconfig.model.score_scal", 'Did you mean "score_scale"?'),
        ("--config.model.features.x=3", 'config.model.features has no field "x". Known: none.'),
        ("--config.batch_size=abc", 'config.batch_size is "abc"; it must be a whole number, such as 16.'),
        ("--config.text.trainable=maybe", 'config.text.trainable is "maybe"; it must be True or False.'),
        ("--config.model.temperature=warm", 'temperature is "warm"; it must be a number'),
        ("--config.model=3", 'config.model is "3"; it must be set by its fields, such as config.model.common.'),
        ("--confg.seed=3", 'There is no flag "--confg.seed". Did you mean "--config'),
    ],
)
def test_a_wrong_override_is_one_line(override, message):
    with pytest.raises(UserError) as refused:
        overridden(get_config("fvmr"), ["--config.seed=1", override])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_overrides_are_read_in_every_way_that_a_flag_is_written():
    line = [
        "A",
        "--config.model.common=3",
        "-config.seed",
        "7",
        "--noconfig.text.trainable",
        "--config.note=a: b",
    ]
    config, given, rest = overridden(get_config("fvmr"), line)
    assert (config.model.common, config.seed, config.text.trainable, config.note) == (3, 7, False, "a: b")
    assert given == ["model.common", "seed", "text.trainable", "note"] and rest == ["A"] and config.is_locked


def get_config(name):
    return importlib.import_module(f"vmr_jax.configs.{name}").get_config()


def parsed(name, *overrides):
    """The config after the overrides of a command line."""
    return overridden(get_config(name), overrides)[0]


@pytest.mark.parametrize("name", models.architectures())
def test_every_hyper_parameter_is_set_from_the_command_line(name):
    config = get_config(name)
    fields = {field: value for field, value in config.model.items() if field != "name"}
    given = parsed(name, *(f"--config.model.{field}={value}" for field, value in fields.items()))
    assert given.model.to_dict() == config.model.to_dict()
    longer = {field: value + value[:1] for field, value in fields.items() if isinstance(value, tuple)}
    changed = parsed(name, *(f"--config.model.{field}={value}" for field, value in longer.items()))
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
