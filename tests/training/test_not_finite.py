"""Numbers that are not finite are never saved, and a run goes on after them with other settings."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.modes.train import train
from vmr_jax.parallel import Parallel
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.finite import (
    NOT_FINITE,
    changes_in_words,
    merged_changes,
    named,
    not_finite,
    write_record,
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

# Kernels rest for four steps. Then their rate is 10 * 1e38, beyond the largest float32, 3.4e38: the update of
# the fifth step is infinite, and its loss, which comes before the update, is finite.
RUN = {
    "name": "ctrl",
    "optimizer__name": "sgd",
    "optimizer__clip_norm": 0.0,
    "optimizer__learning_rate": 1.0,
    "optimizer__rules": ((".*kernel", 10.0, "from 4 steps"), (".*", 1e-3)),
    "optimizer__schedule": "step",
    "optimizer__decay_at": ("4 steps",),
    "optimizer__decay_by": 1e38,
    "evaluate_every": "1 steps",
    "log_every": "1 steps",
    "train_for": "6 steps",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
}
MENDED = {**RUN, "optimizer__decay_by": 1e-3, "optimizer__clip_norm": 1e6}  # a norm that no gradient has


@pytest.fixture(scope="module")
def stopped(data_dir, tmp_path_factory):
    """The folder of a run that has stopped, what it said, and what the folder held then."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.raises(UserError) as error:
        train(tiny_config(data_dir, **RUN), workdir)
    names = sorted(path.name for path in workdir.iterdir())
    return workdir, str(error.value), names


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_infinite_update_stops_before_its_save(stopped, data_dir):
    workdir, message, names = stopped
    assert "The training state is not finite after step 5, but its loss is: params/" in message
    assert "Nothing of step 5 was saved" in message and "goes on from step 4, the last checkpoint" in message
    assert f"--workdir={workdir}" in message and "config.optimizer.clip_norm" in message
    assert NOT_FINITE in names and "results.json" not in names
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "4"]
    variables, position = Experiment(tiny_config(data_dir, **RUN), workdir).best_variables(workdir)
    assert position["step"] <= 4 and not_finite(variables) == []
    assert len(losses(workdir)) == 5 and np.isfinite(losses(workdir)).all()


def test_other_settings_go_on_in_the_same_folder(stopped, data_dir, tmp_path, caplog):
    workdir, *_ = stopped
    with pytest.raises(UserError, match="config.seed: 0 -> 1"):
        train(tiny_config(data_dir, **MENDED, seed=1), workdir)
    with caplog.at_level("WARNING", logger="vmr_jax"):
        train(tiny_config(data_dir, **MENDED), workdir)
    said = "From step 4 on with config.optimizer.clip_norm: 1000000.0 (before: 0.0), "
    assert said + "config.optimizer.decay_by: 0.001 (before: 1e+38)." in caplog.text
    # Until then the rate was the same, and the norm clips nothing: as if those had been the settings always.
    train(tiny_config(data_dir, **MENDED), tmp_path)
    assert (workdir / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (workdir, tmp_path))
    assert ours["splits"] == theirs["splits"] and ours["step"] == theirs["step"] == 6
    assert (said in ours["note"]) == (ours["best_step"] > 4) and said not in theirs["note"]
    assert not (workdir / NOT_FINITE).exists()
    with pytest.raises(UserError, match=r"config.optimizer.decay_by: 0.001 -> 0.5"):  # the exception has ended
        train(tiny_config(data_dir, **{**MENDED, "optimizer__decay_by": 0.5}), workdir)


def test_the_same_settings_are_told_to_end_the_same(data_dir, tmp_path, caplog):
    run = {**RUN, "optimizer__rules": ((".*", 1.0),), "optimizer__schedule": "constant"}
    run |= {"optimizer__learning_rate": 1e38, "evaluate_every": "6 steps", "optimizer__decay_at": ()}
    with pytest.raises(UserError, match=r"step \d.* starts from its first step"):
        train(tiny_config(data_dir, **run), tmp_path)
    first = (tmp_path / NOT_FINITE).read_bytes()
    with caplog.at_level("WARNING", logger="vmr_jax"), pytest.raises(UserError):
        train(tiny_config(data_dir, **run), tmp_path)
    assert "has stopped before, with the same settings: " in caplog.text
    assert (tmp_path / NOT_FINITE).read_bytes() == first


def test_a_checkpoint_refuses_what_is_not_finite(tmp_path):
    checkpoints, parallel = Checkpoints(tmp_path / "c", keep=2), Parallel("pmap")
    checkpoints.save(1, parallel.replicate({"a": np.ones(3, np.float32)}), {"step": 1})
    with pytest.raises(UserError, match=r"c/2 was not saved: a holds numbers that are not finite"):
        checkpoints.save(2, parallel.replicate({"a": np.asarray([1, np.inf], np.float32)}), {"step": 2})
    assert checkpoints.steps() == [1]


def test_arrays_that_are_not_finite_by_path():
    good, half = jnp.ones(2), jnp.asarray([1, jnp.nan], jnp.bfloat16)
    tree = {"a": {"kernel": good, "bias": half}, "count": jnp.int32(3), "b": [good, jnp.full((2, 2), -jnp.inf)]}
    assert not_finite(tree) == ["a/bias", "b/1"]
    assert not_finite({"count": jnp.int32(3)}) == []
    assert named(["a", "b", "c"]) == "a, b, c" and named([*"abcde"]) == "a, b, c and 2 more"


def test_changes_since_the_last_checkpoint_add_up(tmp_path):
    write_record(tmp_path, "The loss is not finite at step 5.", 5, 4)
    record = json.loads((tmp_path / NOT_FINITE).read_text())
    record["changes"] = {"optimizer.learning_rate": [1.0, 0.5], "optimizer.b1": [0.9, 0.8]}
    (tmp_path / NOT_FINITE).write_text(json.dumps(record))
    new = {"optimizer.learning_rate": (0.5, 0.1), "optimizer.b1": (0.8, 0.9)}
    merged = merged_changes(tmp_path, new)
    assert merged == {"optimizer.learning_rate": (1.0, 0.1)}  # b1 is what it was
    words = "From step 4 on with config.optimizer.learning_rate: 0.1 (before: 1.0)."
    assert changes_in_words(merged, 4) == words
