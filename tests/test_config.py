"""Configs from a file of the user's and from Python: what is wrong with them is one line."""

import json

import ml_collections
import numpy as np
import pytest

import vmr_jax as vmr
from vmr_jax.config import CONFIG, config_as_dict, load_config, override, read_config
from vmr_jax.configs import fvmr, mmn, vslnet, zero_shot
from vmr_jax.errors import UserError


@pytest.mark.parametrize(
    "text,argument,message",
    [
        ("def get_config(arg=None)\n  return 1\n", None, "mine.py, line 1: SyntaxError: expected ':'"),
        ("x = 1\nimport nowhere\n", None, "mine.py, line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config():\n  x = 1\n  return x.y\n", None, "mine.py, line 3: AttributeError: 'int' object"),
        ("def config():\n  return 1\n", None, "mine.py has no function get_config. A config file has one"),
        ("def get_config():\n  return {}\n", None, "mine.py returns a dict; expected is an ml_collections"),
        ("def get_config():\n  return {}\n", "tacos", 'cannot be called with the argument "tacos"'),
        ("def get_config(arg):\n  return {}\n", None, "cannot be called with no argument"),
        (
            "import ml_collections\nget_config = lambda: ml_collections.ConfigDict({'seed': 0})\n",
            None,
            "mine.py lacks the fields batch_size, checkpoint_every, compilation_cache, dataset.data_dir, ",
        ),
    ],
)
def test_a_config_file_that_is_wrong(tmp_path, text, argument, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(str(tmp_path / "mine.py"), argument)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_config_file_that_is_not_there():
    with pytest.raises(UserError, match='no config file "configs/fvmrr.py". Did you mean "configs/fvmr.py"'):
        read_config("configs/fvmrr.py")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"optimizer.lr": 1.0}, 'config.optimizer has no field "lr". Did you mean "learning_rate"? Known: b1,'),
        ({"lr": 1.0}, 'config has no field "lr". Did you mean "config.optimizer.learning_rate"?'),
        ({"modle.common": 3}, 'config has no field "modle". Did you mean "config.model.common"?'),
        ({"model": {"commn": 3}}, 'config.model has no field "commn". Did you mean "common"?'),
        ({"model": 3}, "config.model is 3; it must be set by its fields, such as config.model."),
        ({"batch_size": "abc"}, "config.batch_size is 'abc'; it must be a whole number, such as 16."),
        ({"optimizer.learning_rate": None}, "config.optimizer.learning_rate is None; it must be a number, su"),
        ({"seed": 1.5}, "config.seed is 1.5; it must be a whole number, such as 0."),
        ({"train_for": 3}, "config.train_for is 3; it must be text, such as '10 epochs'."),
        ({"model.map_kernels": 3}, "config.model.map_kernels is 3; it must be a tuple, such as (5, 3"),
    ],
)
def test_settings_that_are_wrong(settings, message):
    with pytest.raises(UserError) as refused:
        override(fvmr.get_config().unlock(), settings)
    assert message in str(refused.value)


def test_settings_that_are_no_dictionary_of_fields():
    for settings in ([1], "x", {3: 1}):
        with pytest.raises(UserError, match="it must be a dictionary of fields of the config"):
            vmr.Dataset("storyboard", settings=settings)


def test_numbers_of_numpy_are_numbers():
    """As those of a sweep over np.arange or np.logspace."""
    data = vmr.Dataset("storyboard", train_videos=np.int64(20), settings={"input.num_clips": np.int32(16)})
    config = data.config_for("ctrl")
    override(config, {"optimizer.learning_rate": np.float32(0.5), "input.normalize": np.bool_(True)})
    read = config.dataset.train_videos, config.input.num_clips, config.optimizer.learning_rate
    assert read == (20, 16, 0.5) and [*map(type, read)] == [int, int, float]
    assert config.input.normalize is True


def test_a_dictionary_sets_the_fields_that_it_names():
    config = fvmr.get_config().unlock()
    before = config.optimizer.to_dict()
    override(config, {"optimizer": {"learning_rate": 0.5}, "model": {"common": 3}, "batch_size": 2})
    assert config.optimizer.to_dict() == {**before, "learning_rate": 0.5}
    assert (config.model.common, config.batch_size) == (3, 2)


def test_streams_have_the_names_that_one_gives():
    config = fvmr.get_config("charades_sta").unlock()
    override(config, {"dataset.streams": {"flow": ("flow.h5", 1024)}})
    assert config.dataset.streams == ml_collections.ConfigDict({"flow": ("flow.h5", 1024)})


# --- a folder that comes from someone else --------------------------------------------------------


def folder_of(tmp_path, **fields):
    config = fvmr.get_config()
    (tmp_path / CONFIG).write_text(json.dumps(config_as_dict(config)))
    stored = json.loads((tmp_path / CONFIG).read_text())
    for path, value in fields.items():
        part, _, name = path.partition("__")
        if name:
            stored[part][name] = value
        else:
            stored[part] = value
    (tmp_path / CONFIG).write_text(json.dumps(stored))
    return tmp_path


def test_a_class_that_a_folder_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text("raise SystemExit('its program runs')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = folder_of(tmp_path, model__name="strange_module:Mine")
    with pytest.raises(UserError, match="names the class strange_module:Mine.*give --config.model.name="):
        load_config(folder)
    with pytest.raises(SystemExit, match="its program runs"):
        load_config(folder, trusted=["strange_module:Mine"])
    for name, message in (
        ("os:system", "is no architecture"),
        (":x", "names no module"),
        ("antigravity:X", "names"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(folder_of(tmp_path, model__name=name))


def test_a_pipeline_that_a_folder_asks_for_is_not_started(tmp_path):
    config = vslnet.get_config("jsonl")
    config.dataset.beam = "--runner=PortableRunner --environment_type=PROCESS"
    (tmp_path / CONFIG).write_text(json.dumps(config_as_dict(config)))
    assert load_config(tmp_path).dataset.beam == ""


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_devices": 1e400}, "num_devices is 'inf'; it must be a whole number, such as 0"),
        (
            {"dataset__data_dir": None},
            "dataset.data_dir is 'None'; it must be text, such as '~/.cache/",
        ),
        ({"dataset__name": ["a"]}, "dataset.name is .*; it must be text"),
        ({"evaluation__thresholds": "0.5"}, "evaluation.thresholds is '0.5'; it must be a tuple"),
        ({"optimizer": []}, "a part of it is no JSON object"),
        ({"model__features": "64"}, "model.features is '64'; it must be a whole number, such as"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, fields, message):
    with pytest.raises(UserError, match=rf"config\.json, the config of the run, is damaged: {message}"):
        load_config(folder_of(tmp_path, **fields))


def test_a_library_of_videos_is_a_users_own_data():
    """In every config that reads such data, at the width of the encoder that is named."""
    for config, argument, width in ((fvmr, "library", 304), (mmn, "library,siglip,glove", 768)):
        found = config.get_config(argument).dataset
        assert (found.name, found.manual_dir, found.features) == ("jsonl", "library", "features")
        assert found.feature_dim == width
    assert zero_shot.get_config("library,clip").dataset.feature_dim == 512
    with pytest.raises(UserError, match='no option "clipp"'):
        fvmr.get_config("library,clipp")
