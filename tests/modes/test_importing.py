"""--mode=import: an official checkpoint becomes a run, or nothing is written."""

import logging

import jax
import numpy as np
import pytest
from tiny import tiny_config

from vmr_jax.config import load_config
from vmr_jax.errors import UserError
from vmr_jax.modes.evaluate import evaluate
from vmr_jax.modes.importing import import_checkpoint
from vmr_jax.torch_import import load
from vmr_jax.training.experiment import Experiment

torch = pytest.importorskip("torch")
from references import vslnet  # noqa: E402
from references.two_d_tan import Twin  # noqa: E402


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A randomly initialised checkpoint of the tests' twin: F = 12, D = 10, W = 8."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("official") / "official.pth"
    twin = Twin(10, 8, 12, 16, num_clips=16, scale_layers=(16,), map_kernel=3, map_layers=3)
    torch.save({"state_dict": twin.state_dict()}, path)
    return path


def config_of(data_dir, **fields):
    """Of other sizes than the checkpoint's, but for map_kernel."""
    sizes = dict(model__features=8, model__lstm_layers=1, model__map_kernel=3, model__map_layers=4)
    return tiny_config(data_dir, "two_d_tan", **{**sizes, **fields})


def test_a_checkpoint_of_other_features_is_refused_and_nothing_written(data_dir, official, tmp_path):
    # The twin reads 10-d clips, storyboard has 64.
    with pytest.raises(UserError, match=r"params/clips/linear/kernel is \(10, 12\) in it and \(64, 12\)"):
        import_checkpoint(config_of(data_dir), tmp_path / "run", str(official))
    assert not (tmp_path / "run").exists()


def test_characters_that_the_config_does_not_name_are_refused(data_dir, tmp_path):
    # Which character has which row is not in the checkpoint: the size of the table is the config's.
    twin = vslnet.Twin(
        64, 50, features=16, heads=8, predictor="rnn", max_positions=32, char_features=50, num_chars=12
    )
    torch.save(twin.state_dict(), tmp_path / "vslnet.pth")
    with pytest.raises(UserError, match=r"words/characters is \(12, 50\) in it and \(40, 50\) in the config"):
        import_checkpoint(tiny_config(data_dir, "vslnet"), tmp_path / "run", str(tmp_path / "vslnet.pth"))
    assert not (tmp_path / "run").exists()


def test_an_imported_checkpoint_is_evaluated(data_dir, official, tmp_path, caplog):
    config = config_of(data_dir)
    state = torch.load(official, weights_only=True)["state_dict"]
    wide = {"frame_layer.vis_conv.weight": (12, 64, 1), "fusion_layer.textual_encoder.weight_ih_l0": (48, 50)}
    for key, shape in wide.items():
        state[key] = torch.randn(shape)
    torch.save(state, tmp_path / "wide.pth")
    with caplog.at_level(logging.INFO, "vmr_jax"):
        import_checkpoint(config, tmp_path / "run", str(tmp_path / "wide.pth"))
    assert [x.getMessage() for x in caplog.records if "from the checkpoint" in x.getMessage()] == [
        "config.model.features: 8 -> 12, from the checkpoint",
        "config.model.map_layers: 4 -> 3, from the checkpoint",
        "config.model.lstm_layers: 1 -> 3, from the checkpoint",
    ]
    config = load_config(tmp_path / "run")
    assert (config.model.features, config.model.map_layers, config.model.lstm_layers) == (12, 3, 3)
    experiment = Experiment(config, tmp_path / "run")
    variables, position = experiment.best_variables(tmp_path / "run")
    assert position["imported"] == "wide.pth"
    jax.tree.map(np.testing.assert_array_equal, variables, load("two_d_tan", state))
    evaluate(config, tmp_path / "run")  # what --mode=evaluate does: table, predictions and report
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    with pytest.raises(UserError, match="already holds a run"):
        import_checkpoint(config, tmp_path / "run", str(official))


@pytest.mark.parametrize("content,message", [(b"PK\x03\x04", "cannot be read"), (b"", "cannot be read")])
def test_a_damaged_file_leaves_nothing(data_dir, tmp_path, content, message):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_checkpoint(config_of(data_dir), tmp_path / "run", str(tmp_path / "bad.pth"))
    assert not (tmp_path / "run").exists()


def test_the_file_must_be_named(data_dir, tmp_path):
    with pytest.raises(UserError, match="needs --checkpoint=FILE"):
        import_checkpoint(config_of(data_dir), tmp_path, None)
