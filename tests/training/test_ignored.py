"""Settings that nothing would read are refused; those of the configs are all read."""

import importlib

import pytest

from vmr_jax import models
from vmr_jax.errors import UserError
from vmr_jax.training.experiment import make_model
from vmr_jax.training.ignored import check_nothing_is_ignored


def check(name, arg=None, **fields):
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)
    for field, value in fields.items():
        part, _, last = field.partition("__")
        config[part][last] = value
    check_nothing_is_ignored(config, make_model(config))


@pytest.mark.parametrize("name", models.architectures())
def test_configs_give_nothing_that_is_ignored(name):
    datasets = importlib.import_module(f"vmr_jax.configs.{name}").DATASETS
    for dataset, options in datasets.items():
        for option in ("", *options):
            check(name, f"{dataset},{option}" if option else dataset)


@pytest.mark.parametrize(
    "name,arg,fields,message",
    [
        (
            "fvmr",
            None,
            {"optimizer__weight_decay": 0.1},
            "weight_decay is 0.1, and adam does not decay weights",
        ),
        ("scn", None, {"text__trainable": True}, "scn with these settings keeps those of the data as they are"),
        ("mcn", "didemo", {"optimizer__weight_decay": 0.1}, "and sgd does not decay weights"),
        ("fvmr", None, {"text__encoder": "clip"}, "config.text.encoder is given, and fvmr .* a text encoder"),
        ("ctrl", "tacos", {"text__sentence_features": "x.h5"}, "and ctrl .* a vector of the sentence"),
        ("mcn", "didemo", {"dataset__streams": {"flow": ("f.h5", 4)}}, "config.dataset.streams.flow is given"),
    ],
)
def test_what_nothing_reads_is_refused(name, arg, fields, message):
    with pytest.raises(UserError, match=message):
        check(name, arg, **fields)


def test_what_is_read_is_accepted():
    check("cmin", None, optimizer__weight_decay=0.1)  # adamw
    check("ctrl", "tacos,skip_thoughts", text__sentence_features="x.h5")
    check("mmn", "charades_sta,vgg", text__encoder="distilbert")
