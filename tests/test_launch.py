"""The command as a user gives it, in processes of their own.

Two are started by Python from `launch.py`; the others are forked from one that has imported everything, see
commands.py.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--config=configs/ctrl.py",  # which compiles fastest
    "--config.model.text=mean",
    "--config.dataset.train_videos=20",
    "--config.model.features=8",
    "--config.batch_size=16",
    "--config.evaluation.batch_size=200",
    "--config.evaluation.sanity=()",
    "--config.evaluation.splits=('val', 'test')",
    "--config.train_for=24 steps",
    "--config.evaluate_every=3 steps",
    "--config.log_every=1 steps",
)


def by_python(*arguments):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_PLATFORMS": "cpu",
    }
    line = [sys.executable, "launch.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """An uninterrupted tiny run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = by_python(*TINY, f"--config.dataset.data_dir={data_dir}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


@pytest.mark.slow
def test_train_ends_with_a_table_and_its_files(trained):
    workdir, output = trained
    for name in ("metrics.jsonl", "predictions.jsonl", "report.html"):
        assert (workdir / name).is_file() and str(workdir / name) in output
    for row in ("ctrl (this run)", "whole video", "best span of the training prior", "random span"):
        assert row in output
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["splits"]) == {"val", "test"}
    names = {"R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "R@5,IoU=0.3", "R@5,IoU=0.5", "R@5,IoU=0.7", "mIoU"}
    assert all(set(row["metrics"]) == names for s in results["splits"].values() for row in s["rows"])
    predictions = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == sum(s["count"] for s in results["splits"].values())
    # The table's mIoU is the mean of the IoUs that predictions.jsonl holds.
    mean = 100 * np.mean([p["iou"] for p in predictions if p["split"] == "test"])
    assert results["splits"]["test"]["rows"][0]["metrics"]["mIoU"] == pytest.approx(mean, abs=1e-3)


@pytest.mark.slow
def test_evaluate_reproduces_the_numbers_from_the_checkpoint(trained, commands):
    workdir, _ = trained
    before = {name: (workdir / name).read_bytes() for name in ("results.json", "predictions.jsonl")}
    for name in before:
        (workdir / name).unlink()
    done = commands.run("--mode=evaluate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert {name: (workdir / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_score_gives_the_numbers_of_the_run(trained, commands):
    workdir, _ = trained
    done = commands.run(
        "--mode=score", f"--workdir={workdir}", f"--predictions={workdir / 'predictions.jsonl'}"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())["splits"]
    split, found = None, {name: {} for name in results}
    for line in done.stdout.splitlines():
        split = line.split(" on ")[1].split(",")[0] if line.startswith("predictions.jsonl on ") else split
        if line.startswith((" R@", " mIoU")):
            found[split].update([line.split()])
    for name, entry in results.items():
        assert found[name] == {metric: f"{v:.2f}" for metric, v in entry["rows"][0]["metrics"].items()}


@pytest.mark.slow
def test_predict_prints_moments_best_first(trained, commands):
    workdir, _ = trained
    row = json.loads((workdir / "predictions.jsonl").read_text().splitlines()[0])
    done = commands.run(
        "--mode=predict", f"--workdir={workdir}", f"--video={row['vid']}", f"--query={row['query']}", "--top=3"
    )
    assert done.returncode == 0, done.stderr
    start, end, score = row["pred_relevant_windows"][0]
    first = next(line for line in done.stdout.splitlines() if line.split()[1:2] == ["1"])
    assert f"{start:.2f}" in first and f"{end:.2f}" in first
    wrong = commands.run("--mode=predict", f"--workdir={workdir}", "--video=nothing", "--query=a man runs")
    assert wrong.returncode == 2
    assert 'has no video "nothing"' in wrong.stderr and "Traceback" not in wrong.stderr
    unread = commands.run(
        "--mode=predict", f"--workdir={workdir}", f"--video={row['vid']}", "--query=qwertz zuiop"
    )
    assert unread.returncode == 2 and "it has no vector of qwertz, zuiop" in unread.stderr


@pytest.mark.slow
def test_killed_five_times_and_resumed_ends_with_the_same_bytes(trained, commands, data_dir, tmp_path):
    workdir, _ = trained
    arguments = (*TINY, f"--config.dataset.data_dir={data_dir}", f"--workdir={tmp_path / 'run'}")
    rng = np.random.default_rng()
    delays = rng.uniform(0, 1.5, 5)
    print("seconds between a new line of metrics.jsonl and the kill:", delays)
    log = tmp_path / "run" / "metrics.jsonl"
    for delay in delays:
        process = commands.start(*arguments)
        size = log.stat().st_size if log.exists() else 0
        deadline = time.monotonic() + 120
        # A resumed run first shortens the log to its checkpoint: wait for any change, then a little.
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.stat().st_size != size:
                break
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
    done = commands.run(*arguments)
    if done.returncode:  # the last kill came after the end
        assert "already at its last step" in done.stderr, done.stderr
    for name in ("metrics.jsonl", "results.json", "predictions.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (workdir / name).read_bytes(), name
    assert final_parameters(tmp_path / "run") == final_parameters(workdir)


@pytest.mark.slow
def test_killed_in_its_last_evaluation_evaluates_when_started_again(trained, commands, data_dir, tmp_path):
    workdir, _ = trained
    run = tmp_path / "run"
    arguments = (*TINY, f"--config.dataset.data_dir={data_dir}", f"--workdir={run}")
    process = commands.start(*arguments)
    # Said when the last checkpoint is saved, and the evaluation of all splits begins.
    while process.poll() is None and "\nval: " not in process.stderr:
        time.sleep(0.01)
    process.kill()
    assert (run / "checkpoints" / "24").is_dir() and not (run / "results.json").exists()
    done = commands.run(*arguments)
    assert done.returncode == 0, done.stderr
    for name in ("metrics.jsonl", "results.json", "predictions.jsonl"):
        assert (run / name).read_bytes() == (workdir / name).read_bytes(), name
    again = commands.run(*arguments)
    assert again.returncode == 2 and "already at its last step (24 of 24) and evaluated" in again.stderr


def final_parameters(workdir):
    """The checksums that the last checkpoint holds of every leaf of the state."""
    last = max((p for p in (workdir / "checkpoints").iterdir()), key=lambda p: int(p.name))
    return json.loads((last / "position" / "metadata").read_text())


@pytest.mark.slow
def test_saved_on_eight_devices_resumed_on_one(commands, data_dir, tmp_path):
    shared = (*TINY, f"--config.dataset.data_dir={data_dir}", "--config.evaluate_every=12 steps")
    first = (*shared, f"--workdir={tmp_path / 'eight'}")
    assert commands.run(*first, "--config.train_for=12 steps", devices=8).returncode == 0
    shutil.copytree(tmp_path / "eight", tmp_path / "mixed")
    assert commands.run(*first, devices=8).returncode == 0
    assert commands.run(*shared, f"--workdir={tmp_path / 'mixed'}", devices=1).returncode == 0
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("eight", "mixed")
    ]
    losses = [[r["train/loss"] for r in run if "train/loss" in r and r["step"] > 12] for run in rows]
    assert len(losses[0]) == 12
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_inspect_needs_no_data(commands, tmp_path):
    done = commands.run(
        "--mode=inspect", "--config=configs/ctrl.py", "--config.batch_size=8",
        f"--config.dataset.data_dir={tmp_path / 'absent'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("query_vectors", "(8, 20, 50)", "total", "GFLOP", "estimated memory", "learning_rate"):
        assert words in done.stdout
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--config=configs/fvmr.py:storybord",), 'Did you mean "storyboard"?'),
        (
            ("--config=configs/fvmr.py", "--config.optimizer.learning_rat=1"),
            'config.optimizer has no field "learning_rat". Did you mean "learning_rate"? Known: b1, b2',
        ),
        (("--config=configs/fvmr.py", "--config.model.layers=1"), 'config.model has no field "layers"'),
        (("--config=configs/fvmr.py", "--config.model.common=0"), "config.model.common of fvmr is 0"),
        (("--config=configs/absent.py",), "absent"),
        (("--config=vslnet",), "such as configs/vslnet.py, then a colon"),
        (("--mode=evaluate", "--workdir=/nonexistent/run"), "holds no config.json"),
        ((), "Give --config=configs/NAME.py to train"),
        (("--mode=trian",), 'There is no --mode "trian". Did you mean "train"? Known: train, evaluate'),
        (("--config=configs/fvmr.py", "--config.dtype=float23"), 'config.dtype is "float23". Did you mean'),
        (("--config=configs/fvmr.py", "--config.batch_size=0"), "config.batch_size is 0"),
        (("--config=configs/fvmr.py", "--workdir=/dev/null/run"), "cannot be written"),
    ],
)
def test_bad_command_is_one_paragraph(commands, arguments, message):
    is_one_paragraph(commands.run(*arguments), message)


def test_bad_command_by_python():
    is_one_paragraph(by_python("--config=configs/fvmr.py:storybord"), 'Did you mean "storyboard"?')


def test_an_output_that_has_no_such_characters():
    done = subprocess.run(
        [sys.executable, "launch.py", "--mode=survey", "--dataset=tacos"],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    assert b" \\u2014 " in done.stdout  # the dash of a figure that no paper reports


def is_one_paragraph(done, message):
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip()) < 1200
