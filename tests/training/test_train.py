"""The trainer: resuming, refusing, stopping, choosing; in one process."""

import json

import jax
import numpy as np
import pytest
from tiny import tiny_config as with_sanity_checks

from vmr_jax.errors import UserError
from vmr_jax.modes.train import train
from vmr_jax.training import loop as train_lib
from vmr_jax.training.fit import fit
from vmr_jax.training.loop import Trainer


def tiny_config(data_dir, name="ctrl", **fields):
    """Without two more passes over the test split of each run, which tests/evaluation has."""
    return with_sanity_checks(data_dir, name, evaluation__sanity=(), **fields)


pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    train(tiny_config(data_dir), workdir)
    return workdir


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_hold_losses_and_validation_in_order(finished):
    steps = [row["step"] for row in rows(finished)]
    assert steps == [2, 4, 4, 6, 8, 8]
    assert "val/R@1,IoU=0.5" in rows(finished)[2] and "train/loss" in rows(finished)[3]


def test_at_the_last_step_already(finished, data_dir):
    with pytest.raises(UserError, match=r"already at its last step \(8 of 8\).*longer config.train_for"):
        train(tiny_config(data_dir), finished)


def test_another_architecture_in_the_same_folder(finished, data_dir):
    with pytest.raises(UserError, match="holds a run of the architecture ctrl; this config trains two_d_tan"):
        train(tiny_config(data_dir, "two_d_tan"), finished)


def test_another_setting_in_the_same_folder(finished, data_dir):
    with pytest.raises(UserError, match=r"config.optimizer.learning_rate: 0.005 -> 0.5"):
        train(tiny_config(data_dir, optimizer__learning_rate=0.5), finished)


def test_batch_size_that_devices_cannot_share(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"batch_size is 12, which 8 devices cannot share equally.*8 or 16"):
        train(tiny_config(data_dir, batch_size=12), tmp_path)


def test_more_devices_than_there_are(data_dir, tmp_path):
    with pytest.raises(UserError, match="config.num_devices is 99, but this machine has 8"):
        train(tiny_config(data_dir, num_devices=99), tmp_path)


def test_non_finite_loss_stops_with_the_step(data_dir, tmp_path):
    config = tiny_config(
        data_dir, optimizer__learning_rate=1e30, optimizer__name="sgd", optimizer__clip_norm=0.0
    )
    with pytest.raises(UserError, match=r"The loss is not finite at step \d"):
        train(config, tmp_path)


def test_unknown_selection_metric(data_dir, tmp_path):
    message = r'protocol moment_retrieval config.evaluation.select_by is "R1"\..* Known: R@1,IoU=0.3'
    with pytest.raises(UserError, match=message):
        train(tiny_config(data_dir, evaluation__select_by="R1"), tmp_path)


def test_early_stopping_and_best_step(data_dir, tmp_path, monkeypatch):
    # The second evaluation is the best, the third and fourth are worse: patience 2 stops at the fourth.
    values = iter([10.0, 30.0, 20.0, 25.0])
    monkeypatch.setattr(train_lib.Evaluator, "metrics", lambda *_: {"R@1,IoU=0.5": next(values), "mIoU": 1.0})
    monkeypatch.setattr(train_lib, "finish", lambda *_: None)
    config = tiny_config(data_dir, evaluate_every="1 steps", patience=2)
    trainer = Trainer(train_lib.Experiment(config, tmp_path), tmp_path)
    trainer.run()
    assert trainer.position == {"step": 4, "best_step": 2, "best_value": 30.0, "stale": 2}
    variables, position = trainer.experiment.best_variables(tmp_path)
    assert position == {"step": 2, "value": 30.0}
    assert jax.tree.leaves(variables)


def test_trained_word_vectors_move_only_known_words(data_dir, tmp_path):
    config = tiny_config(data_dir, "two_d_tan", text__trainable=True, model__map_layers=1)
    train(config, tmp_path)
    trainer_variables, _ = train_lib.Experiment(config, tmp_path).best_variables(tmp_path)
    offset = np.asarray(trainer_variables["params"]["words"]["offset"])
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_text())
    assert offset.shape == (len(vocabulary) + 2, config.text.dim)
    assert np.abs(offset[:2]).max() == 0  # padding and unknown
    assert np.abs(offset[2:]).max() > 0


def test_jit_and_pmap_train_alike(data_dir, tmp_path, finished):
    train(tiny_config(data_dir, parallel="jit"), tmp_path)
    pmap, jit = (
        [row["train/loss"] for row in rows(folder) if "train/loss" in row] for folder in (finished, tmp_path)
    )
    np.testing.assert_allclose(pmap, jit, rtol=1e-4)


def test_profile_writes_a_trace(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(train_lib, "finish", lambda *_: None)
    fit(tiny_config(data_dir, profile=True), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
