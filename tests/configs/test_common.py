"""`config.model` is filled from the class; configs state only what differs; old run folders load."""

import importlib
import json
import sys

import flax.linen as nn
import ml_collections
import pytest

from vmr_jax import models
from vmr_jax.config import CONFIG, config_as_dict, load_config
from vmr_jax.configs import common
from vmr_jax.errors import UserError
from vmr_jax.models.base import GroundingModel
from vmr_jax.training.experiment import make_model
from vmr_jax.training.same_run import check_same_run


def get_config(name, arg=None):
    return importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)


class Mine(GroundingModel):
    """An architecture of a user's own."""

    features: int = 8
    scale: float = 2
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    activation: object = nn.relu
    vocab_size: int = 0
    dtype: object = None


@pytest.mark.parametrize("name", models.architectures())
def test_every_hyper_parameter_can_be_set(name):
    fields = models.model_fields(models.model_class(name))
    filled = common.base(name).model
    assert {"name": name, **fields} == filled.to_dict()
    for field, default in fields.items():
        assert type(filled[field]) is type(default) or (isinstance(default, int), type(filled[field])) == (
            True,
            float,
        )


def test_a_users_class_fills_the_config():
    model = common.base(Mine).model
    assert model.name == f"{__name__}:Mine" and models.model_class(model.name) is Mine
    assert set(model) == {"name", "features", "scale", "sizes", "limit"}  # a config file holds no function
    model.scale = 3  # annotated as a float
    model.limit = 5  # None until then
    assert (model.scale, model.limit) == (3.0, 5) and isinstance(model.scale, float)
    for field, value in (("features", 1.5), ("limit", "five"), ("sizes", 3)):
        with pytest.raises(TypeError):
            model[field] = value


def test_a_place_names_a_users_class():
    assert common.base(f"{__name__}:Mine").model.to_dict() == common.base(Mine).model.to_dict()


@pytest.mark.parametrize("name", models.architectures())
def test_a_config_states_only_what_differs(name, monkeypatch):
    """Each line that sets a field changes it, for some dataset or option."""
    module = importlib.import_module(f"vmr_jax.configs.{name}")
    changes: dict[int, bool] = {}  # line of the config -> whether it has changed a field
    assign = ml_collections.ConfigDict.__setattr__

    def noted(config, field, value):
        frame = sys._getframe(1)
        if frame.f_code.co_filename == module.__file__:
            changed = field not in config or config[field] != value
            changes[frame.f_lineno] = changes.get(frame.f_lineno, False) or changed
        assign(config, field, value)

    monkeypatch.setattr(ml_collections.ConfigDict, "__setattr__", noted)
    for dataset, options in module.DATASETS.items():
        for option in ("", *options):
            module.get_config(f"{dataset},{option}" if option else dataset)
    assert changes and [line for line, changed in changes.items() if not changed] == []


def old_folder(tmp_path, config, missing):
    """The config.json of a run that knew neither some hyper-parameters nor the store of published numbers."""
    stored = config_as_dict(config)
    for field in missing:
        del stored["model"][field]
    (tmp_path / CONFIG).write_text(json.dumps({**stored, "published": [["test", "published, vgg", []]]}))
    return tmp_path


def test_an_old_run_folder_loads_and_resumes(tmp_path):
    config = get_config("scdm").lock()
    folder = old_folder(tmp_path, config, ("ratios", "offset_scale", "keep"))
    assert config_as_dict(load_config(folder)) == config_as_dict(config)
    check_same_run(config, folder)
    make_model(load_config(folder))


def test_a_default_that_is_changed_since_is_another_run(tmp_path):
    config = get_config("scdm")
    folder = old_folder(tmp_path, config, ("keep",))
    config.model.keep = 7
    with pytest.raises(UserError, match=r"config\.model\.keep: 0 -> 7"):
        check_same_run(config.lock(), folder)


@pytest.mark.parametrize(
    "name,arg,message",
    [
        ("two_d_tan", "charades_sta,pool,conv", "Name one moment map, not 2: pool, conv"),
        ("ctrl", "tacos,aln,reg_p", "Name one regression, not 2: aln, reg_p"),
        ("ctrl", "didemo,reg_p", 'For didemo this config has no option "reg_p"'),
        ("vdi", "charades_cg,context,dynamics", "Name one injection, not 2: context, dynamics"),
        ("fian", "tacos,soft,tgn", "Name one ablation, not 2: soft, tgn"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(name, arg, message):
    with pytest.raises(UserError, match=message):
        get_config(name, arg)
