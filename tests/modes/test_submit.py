"""`--mode=predict --split=NAME`: whole splits with a run of initial variables."""

import dataclasses
import json

import pytest

from tests.tiny import tiny_config
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.results import prediction_rows
from vmr_jax.input.dataset import Dataset
from vmr_jax.modes.predict import predict
from vmr_jax.modes.submit import submit
from vmr_jax.training.experiment import Experiment


@pytest.fixture
def untrained(monkeypatch):
    """Every run has the initial variables, and no moment of a split but train is annotated."""
    monkeypatch.setattr(Experiment, "best_variables", lambda self, workdir: (_variables(self), {"step": 0}))
    split = Dataset.split

    def without_moments(self, name):
        found = split(self, name)
        queries = [
            dataclasses.replace(query, span=(0.0, float(duration)), windows=(), saliency=None)
            for query, duration in zip(found.queries, found.durations)
        ]
        return found if name == "train" else dataclasses.replace(found, queries=queries)

    return lambda: monkeypatch.setattr(Dataset, "split", without_moments)


def _variables(experiment):
    return experiment.parallel.replicate(experiment.initial_variables())


def test_a_split_without_moments_is_predicted_as_with_them(untrained, data_dir, tmp_path, capsys):
    config = tiny_config(data_dir, parallel="jit", num_devices=1)
    experiment = Experiment(config)
    evaluator = Evaluator(config, experiment.model, experiment.parallel)
    loader = experiment.loader("val")
    expected = prediction_rows(loader.split, evaluator.run(_variables(experiment), loader))
    untrained()
    predict(config, tmp_path, None, None, 5, split="val")
    path = tmp_path / "submission" / "storyboard_val_submission.jsonl"
    assert capsys.readouterr().out == f"val: {len(expected):,} queries in {path}\n"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keys = ("qid", "query", "vid", "pred_relevant_windows")
    assert rows == [{key: row[key] for key in keys} for row in expected]


def test_what_is_refused(untrained, data_dir, tmp_path):
    config = tiny_config(data_dir)
    with pytest.raises(UserError, match='has no split "tset". Did you mean "test"'):
        submit(config, tmp_path, "val,tset")
    with pytest.raises(UserError, match="--split=NAME for a whole split, or --video=ID and --query; not both"):
        predict(config, tmp_path, "v", None, 5, split="val")
