"""`fit`: the path of --mode=train, with losses of the caller's."""

import json

import jax
import numpy as np
import optax
import pytest
from batches import random_batch
from tiny import tiny_config

from vmr_jax import models
from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.training.experiment import Experiment, initial_variables
from vmr_jax.training.fit import fit
from vmr_jax.training.step import initial_state, make_step
from vmr_jax.types import Mean

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

SHORT = {
    "name": "ctrl",
    "train_for": "4 steps",
    "evaluate_every": "2 steps",
    "log_every": "1 steps",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
}

BESIDE = ("loss", "grad_norm", "learning_rate")  # scalars of a step that are no terms


def seconds(outputs, batch, *, epoch):
    """The mean length of the videos: a term without a gradient, whose value is known."""
    del outputs, epoch
    return Mean.of(batch.duration, batch.example_mask)


def test_terms_given_again_double_the_gradient():
    model, batch = models.create("ctrl", features=8), random_batch()
    optimizer, schedule, parallel = optax.sgd(1.0), optax.constant_schedule(1.0), Parallel("pmap")
    start = jax.tree.map(np.asarray, initial_state(initial_variables(model, batch, 0), optimizer))

    def after_a_step(losses):
        step = parallel.map_step(make_step(model, optimizer, schedule, 10, 0, losses))
        return jax.tree.map(np.asarray, step(parallel.replicate(start), parallel.put_batch(batch)))

    def again(name):
        return lambda outputs, batch, *, epoch: model.loss(outputs, batch, epoch=epoch)[name]

    once, scalars = after_a_step({})
    names = [key.removeprefix("train/") for key in scalars if key.removeprefix("train/") not in BESIDE]
    twice, doubled = after_a_step({f"{name}_again": again(name) for name in names})
    assert names == ["alignment", "regression"]
    for name in names:
        assert doubled[f"train/{name}_again"] == doubled[f"train/{name}"] == scalars[f"train/{name}"]
    np.testing.assert_allclose(doubled["train/loss"], 2 * scalars["train/loss"], rtol=1e-6)
    np.testing.assert_allclose(doubled["train/grad_norm"], 2 * scalars["train/grad_norm"], rtol=1e-5)
    jax.tree.map(
        lambda at, a, b: np.testing.assert_allclose(b - at, 2 * (a - at), rtol=1e-3, atol=1e-6),
        start.params,
        once.params,
        twice.params,
    )


def test_losses_of_the_caller_are_logged_and_belong_to_the_run(data_dir, tmp_path):
    config = tiny_config(data_dir, **SHORT)
    results = fit(config, tmp_path, losses={"seconds": seconds})
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert "Trained with further losses: seconds." in results["note"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/loss" in row]
    lengths = Experiment(config, tmp_path).dataset.split("train").durations
    for row in rows:
        terms = {k: v for k, v in row.items() if k.startswith("train/")}
        for other in BESIDE:
            terms.pop(f"train/{other}")
        assert lengths.min() <= row["train/seconds"] <= lengths.max()
        np.testing.assert_allclose(row["train/loss"], sum(terms.values()), rtol=1e-6)
    assert len(rows) == 4
    longer = tiny_config(data_dir, **{**SHORT, "train_for": "6 steps"})
    with pytest.raises(UserError, match="has the further losses seconds; now there are no further losses"):
        fit(longer, tmp_path)
    assert fit(longer, tmp_path, losses={"seconds": seconds})["step"] == 6


def no_mean(outputs, batch, *, epoch):
    del outputs, epoch
    return batch.duration.mean()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"grad_norm": seconds}, '"grad_norm" stands for something else in the log'),
        ({"mine": no_mean}, '"mine" returns .*; expected is a vmr_jax.types.Mean'),
        ({"alignment": seconds}, r'"alignment" has the name of a term of the architecture \(alignment'),
    ],
)
def test_wrong_losses_are_refused_at_the_start(data_dir, tmp_path, losses, message):
    config = tiny_config(data_dir, **SHORT)
    with pytest.raises(UserError, match=message):
        fit(config, tmp_path, losses=losses)
    assert not (tmp_path / "metrics.jsonl").exists()
