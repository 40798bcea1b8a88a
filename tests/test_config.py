"""Configs from a file of the user's and from Python: what is wrong with them is one line."""

import ml_collections
import pytest

from vmr_jax.config import override, read_config
from vmr_jax.configs import fvmr
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
            "mine.py lacks the fields batch_size, dataset.data_dir, dataset.name, dtype, evaluate_every and ",
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
        ({"seed": 1.5}, "config.seed is 1.5; it must be a whole number, such as 0."),
        ({"train_for": 3}, "config.train_for is 3; it must be text, such as '10 epochs'."),
        ({"model.map_kernels": 3}, "config.model.map_kernels is 3; it must be a tuple, such as (5, 3"),
    ],
)
def test_settings_that_are_wrong(settings, message):
    with pytest.raises(UserError) as refused:
        override(fvmr.get_config().unlock(), settings)
    assert message in str(refused.value)


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
