"""The end of a run: its files belong together, to a step and to a config, whenever it is killed."""

import json

import numpy as np
import pytest
from killed import Killed
from rich.console import Console
from tiny import tiny_config

from vmr_jax.configs import ctrl
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.modes.check import find_problems
from vmr_jax.modes.evaluate import evaluate
from vmr_jax.modes.predict import predict
from vmr_jax.modes.train import train
from vmr_jax.training import finish as finish_lib
from vmr_jax.training import loop, owner
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.finish import finish, is_evaluated, set_results_aside

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

FILES = ("examples.npz", "examples.json", "predictions.jsonl", "report.html", "results.json")
SHORT = {"name": "ctrl", "train_for": "4 steps", "evaluate_every": "2 steps", "evaluation__sanity": ()}


def contents(workdir):
    return {name: (workdir / name).read_bytes() for name in FILES}


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    train(tiny_config(data_dir, **SHORT), workdir)
    return workdir


def test_confidence_is_fitted_to_val_and_judged_on_test(finished):
    """By the moments of predictions.jsonl, of which the first five of each query are kept."""
    found = results_of(finished)["confidence"]
    lines = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    moments = [m for line in lines if line["split"] == "test" for m in with_iou(line)]
    said = [1 / (1 + np.exp(-(found["slope"] * score + found["intercept"]))) for score, _ in moments]
    right = np.array([iou >= 0.5 for _, iou in moments])
    assert found["split"] == "val" and found["queries"] == 395
    bins = found["splits"]["test"]["bins"]
    assert sum(hits for hits, _, _ in bins) == len(moments)
    np.testing.assert_allclose(sum(n * s for n, s, _ in bins) / len(moments), np.mean(said), atol=1e-4)
    np.testing.assert_allclose(sum(n * w for n, _, w in bins) / len(moments), right.mean(), atol=1e-3)
    assert abs(np.mean(said) - right.mean()) < 0.05  # the two splits are of one kind


def with_iou(line):
    """(score, IoU with the annotated moment) of each moment of a line."""
    (start, end), *_ = line["relevant_windows"]
    for first, last, score in line["pred_relevant_windows"]:
        inside = max(0.0, min(last, end) - max(first, start))
        yield score, inside / (last - first + end - start - inside)


# --- killed ---------------------------------------------------------------------------------------


def test_killed_at_each_point_and_finished_again(finished, data_dir, monkeypatch):
    config = tiny_config(data_dir, **SHORT)
    experiment = Experiment(config, finished)
    evaluator = Evaluator(config, experiment.model, experiment.parallel)
    position = {key: results_of(finished)[key] for key in ("step", "best_step")}
    assert position["step"] == 4 and is_evaluated(config, finished, position)
    whole = contents(finished)
    for point in ("save_examples", "write_whole", "write_report", "write_json"):
        with monkeypatch.context() as patched:
            patched.setattr(finish_lib, point, die)
            with pytest.raises(Killed):
                finish(experiment, evaluator, finished)
        assert not is_evaluated(config, finished, position), point
        finish(experiment, evaluator, finished)
        assert is_evaluated(config, finished, position)
        assert contents(finished) == whole, point


def die(*_):
    raise Killed


def test_results_of_another_step_config_or_without_their_files_are_not_current(finished, data_dir, tmp_path):
    config, results = tiny_config(data_dir, **SHORT), results_of(finished)
    for name in FILES:
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    here = {key: results[key] for key in ("step", "best_step")}
    assert is_evaluated(config, tmp_path, here)
    assert not is_evaluated(config, tmp_path, {**here, "step": 6})
    assert not is_evaluated(config, tmp_path, {**here, "best_step": 1})
    other = tiny_config(data_dir, **{**SHORT, "evaluation__splits": ("val",)})
    assert not is_evaluated(other, tmp_path, here)
    # The length of training and the devices are not what results depend on.
    longer = tiny_config(data_dir, **{**SHORT, "train_for": "9 steps"}, num_devices=1)
    assert is_evaluated(longer, tmp_path, here)
    for damage in ("", "[]", "{"):
        (tmp_path / "results.json").write_text(damage)
        assert not is_evaluated(config, tmp_path, here)
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "predictions.jsonl").unlink()
    assert not is_evaluated(config, tmp_path, here)


def test_trained_on_after_its_end_and_killed_in_the_evaluation(data_dir, tmp_path, monkeypatch):
    train(tiny_config(data_dir, **SHORT), tmp_path)
    first = contents(tmp_path)
    longer = tiny_config(data_dir, **{**SHORT, "train_for": "6 steps"})
    with monkeypatch.context() as patched:
        patched.setattr(loop, "finish", die)
        with pytest.raises(Killed):
            train(longer, tmp_path)
    assert not any((tmp_path / name).exists() for name in FILES)  # of step 4 nothing looks current
    assert contents(tmp_path / "earlier" / "step_4") == first
    train(longer, tmp_path)
    assert results_of(tmp_path)["step"] == 6
    with pytest.raises(UserError, match=r"already at its last step \(6 of 6\) and evaluated"):
        train(longer, tmp_path)
    # Another evaluation leaves results of another config, which the run does not take for its own.
    evaluate(tiny_config(data_dir, **{**SHORT, "evaluation__splits": ("val",)}), tmp_path)
    assert set(results_of(tmp_path)["splits"]) == {"val"}
    train(longer, tmp_path)
    assert set(results_of(tmp_path)["splits"]) == {"val", "test"}


def test_remains_of_a_killed_evaluation_are_removed(tmp_path):
    (tmp_path / "predictions.jsonl").write_text("{}\n")
    set_results_aside(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- a folder that cannot be written --------------------------------------------------------------


def test_read_only_run_is_evaluated_and_nothing_is_written(finished, data_dir, monkeypatch, capsys, caplog):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    monkeypatch.setattr(owner, "_locked", refuse)
    with caplog.at_level("WARNING", logger="vmr_jax"):
        evaluate(tiny_config(data_dir, **SHORT), finished)
    assert "cannot be written: the numbers will be printed, and not saved" in caplog.text
    printed = capsys.readouterr().out
    assert "ctrl (this run)" in printed and "nothing of this evaluation was saved" in printed
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


# --- without a validation split -------------------------------------------------------------------


def test_without_a_validation_split_the_last_step_is_kept_and_evaluated(data_dir, tmp_path):
    train(tiny_config(data_dir, **SHORT, evaluation__select_split=""), tmp_path)
    results = results_of(tmp_path)
    assert (results["step"], results["best_step"], set(results["splits"])) == (4, 4, {"val", "test"})
    assert results["protocol"]["selection"] == "none, the last step"


def test_patience_counts_evaluations_of_a_split(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"config.patience is 3.*config.evaluation.select_split names none"):
        train(tiny_config(data_dir, **SHORT, patience=3, evaluation__select_split=""), tmp_path)


@pytest.fixture(scope="module")
def train_only(tmp_path_factory):
    """A folder of the user's with training queries alone; returns its config."""
    folder = tmp_path_factory.mktemp("train_only")
    draw = np.random.default_rng(0)
    (folder / "features").mkdir()
    rows = []
    for video in ("a", "b", "c"):
        np.save(folder / "features" / f"{video}.npy", draw.normal(size=(8, 4)).astype(np.float32))
        rows += [
            {"video": video, "duration": 16.0, "query": f"a man {verb}", "windows": [[2.0, 6.0]]}
            for verb in ("runs", "sits", "walks")
        ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(**fields):
        found = ctrl.get_config("jsonl")
        found.dataset.manual_dir, found.dataset.data_dir = str(folder), str(folder / "data")
        found.dataset.feature_dim, found.dataset.val_fraction = 4, 0.0
        found.text.vectors, found.text.trainable, found.text.dim = "none", True, 5
        found.model.text, found.model.features = "mean", 8
        found.batch_size = found.evaluation.batch_size = 8
        found.train_for, found.evaluate_every, found.log_every = "4 steps", "2 steps", "1 steps"
        found.evaluation.select_split = fields.get("select_split", "")
        return found.lock()

    return config


def test_only_training_queries(train_only, tmp_path, capsys):
    config = train_only()
    train(config, tmp_path)
    results = results_of(tmp_path)
    assert (results["step"], results["best_step"], results["splits"]) == (4, 4, {})
    assert "Nothing was evaluated: the dataset jsonl has no split but train" in results["note"]
    page = (tmp_path / "report.html").read_text()
    assert "ctrl on jsonl" in page and "Nothing was evaluated" in page and "Gradient norm" in page
    assert "Nothing was evaluated" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"already at its last step \(4 of 4\) and evaluated"):
        train(config, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    evaluate(config, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    predict(config, tmp_path, "a", "a man runs", 2)
    assert "in a (16.0 s, split train)" in capsys.readouterr().out
    problems = find_problems(config, Console(width=100, quiet=True))
    assert problems.fatal == []


def test_split_that_is_not_there_is_known_at_the_start(train_only, tmp_path):
    with pytest.raises(UserError) as error:
        train(train_only(select_split="val"), tmp_path)
    assert 'The dataset jsonl has no split "val". Known: train.' in str(error.value)
    assert "--config.evaluation.select_split= to keep the last one" in str(error.value)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert any(
        'no split "val"' in problem
        for problem in find_problems(train_only(select_split="val"), Console(width=100, quiet=True)).fatal
    )
