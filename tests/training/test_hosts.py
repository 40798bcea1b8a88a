"""Several hosts: two processes of two devices each on this machine, beside one process of four.

This file is also what each of the two processes runs (`python test_hosts.py FOLDER`): `hosts` below.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from counted import Finder
from tiny import tiny_config

from vmr_jax import parallel
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.modes.train import train
from vmr_jax.training import same_run
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
# The loss of CTRL is over all pairs of the sentences and moments of a batch.
RUN = {
    "name": "ctrl",
    "parallel": "jit",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
    "train_for": "12 steps",
    "log_every": "1 steps",
}
LAST = 12

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")]


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environments():
    """Those of two hosts of two devices each."""
    address = f"127.0.0.1:{free_port()}"
    return [
        {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
            "VMR_JAX_MULTIHOST": "1",
            "VMR_JAX_COORDINATOR": address,
            "VMR_JAX_PROCESSES": "2",
            "VMR_JAX_PROCESS_ID": str(index),
        }
        for index in range(2)
    ]


def run_both(*command):
    """Runs the command as two hosts of two devices each."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    started = []
    try:
        for environment in environments():
            started.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    cwd=ROOT, env={**os.environ, "PYTHONPATH": path, **environment}, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        output = [process.communicate(timeout=400)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], "\n".join(output)
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def two_commands(commands, *arguments):
    """Starts launch.py as two hosts of two devices each; neither outlives the block."""
    started = [commands.start(*arguments, **environment) for environment in environments()]
    try:
        yield started
    finally:
        for command in started:
            command.kill()


# --- what each of the two processes does ----------------------------------------------------------


def hosts(folder: Path) -> None:
    """Trains, resumes, and asks what several hosts add; what it found is folder/found<index>.json."""
    parallel.initialise_hosts("train")
    index, data_dir = jax.process_index(), json.loads((folder / "data_dir.json").read_text())
    train(tiny_config(data_dir, **RUN), folder / "two")
    train(tiny_config(data_dir, **RUN), folder / "one_then_two")
    own = folder / f"of_host_{index}"
    found = {
        "rows": parallel.host_rows(np.arange(8)).tolist(),
        "damaged": after_damage(folder / "checkpoints"),
        "corpus": corpus_values(data_dir),
        "stopped": after_sigterm(data_dir, folder / "stopped", index),
        "read_only": read_only(data_dir, folder / "two"),
        "folders": refused(lambda: train(tiny_config(data_dir, **RUN), own / "run")),
        "configs": refused(lambda: train(tiny_config(data_dir, **RUN, seed=index), folder / "new")),
        "batch_size": refused(lambda: train(tiny_config(data_dir, **RUN, batch_size=18), folder / "new")),
        "pmap": refused(lambda: train(tiny_config(data_dir), folder / "new")),
        "num_devices": refused(lambda: train(tiny_config(data_dir, **RUN, num_devices=2), folder / "new")),
    }
    (folder / f"found{index}.json").write_text(json.dumps(found))


def refused(call) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def after_damage(folder: Path) -> list:
    """Saves steps 1 and 2, damages 2, restores: [the restored step, what it holds, the steps left]."""
    mesh = parallel.Parallel("jit")
    checkpoints = Checkpoints(folder, keep=2)
    for step in (1, 2):
        checkpoints.save(step, mesh.replicate({"x": np.full(3, step, np.float32)}), {"step": step})
    if parallel.is_lead_host():
        for file in (folder / "2" / "state").rglob("d/*"):  # Orbax keeps array data in folders named d
            file.write_bytes(b"")
    parallel.wait_for_hosts("damaged")
    state, position = checkpoints.restore(mesh.abstract({"x": np.zeros(3, np.float32)}))
    found = [position["step"], np.asarray(state["x"]).tolist(), checkpoints.steps()]
    checkpoints.close()
    return found


def after_sigterm(data_dir, folder: Path, index: int) -> list[int]:
    """The steps that are saved where the second host alone is told to end, as it reads the loss of 5."""
    scalars = Journal.scalars

    def send(self, step, values):
        scalars(self, step, values)
        if index == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "scalars", send)
        with pytest.raises(SystemExit):
            train(tiny_config(data_dir, **RUN), folder)
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def read_only(data_dir, folder: Path) -> str:
    """What the hosts say of a folder that the lead host cannot write: '' where they agree."""

    def refuse(path, text):
        raise UserError(f"{path} could not be written")

    config = tiny_config(data_dir, **RUN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(same_run, "write_whole", refuse)
        same_run.check_hosts_agree(config, folder, read_only=True)
        return refused(lambda: same_run.check_hosts_agree(config, folder))


def corpus_values(data_dir) -> dict:
    """Metrics of a search for video and moment by a model that knows its answers."""
    config = tiny_config(
        data_dir, parallel="jit", num_devices=0 if parallel.several_hosts() else 4, evaluation__batch_size=16,
        evaluation__protocol="corpus", evaluation__corpus_videos=3, evaluation__corpus_top_n=(1, 2),
    )  # fmt: skip
    experiment = Experiment(config)
    return Evaluator(config, Finder(), experiment.parallel).metrics({}, experiment.loader("val"))


# --- what one process finds -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Folders of runs: `one` and `two` processes, `one_then_two` and `two_then_one` resumed by the others."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "data_dir.json").write_text(json.dumps(str(data_dir)))
    one = tiny_config(data_dir, **RUN, num_devices=4)
    train(one, folder / "one")
    interrupted(folder / "one", folder / "one_then_two")
    run_both(__file__, folder)
    interrupted(folder / "two", folder / "two_then_one")
    train(one, folder / "two_then_one")
    return folder


def interrupted(finished: Path, to: Path) -> None:
    """A copy of a finished run as it was after the checkpoint before the last, a little past it."""
    shutil.copytree(finished, to)
    shutil.rmtree(to / "checkpoints" / str(LAST))
    for name in ("results.json", "predictions.jsonl"):
        (to / name).unlink()


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def found(runs):
    return [json.loads((runs / f"found{index}.json").read_text()) for index in range(2)]


@pytest.mark.parametrize("name", ["two", "one_then_two", "two_then_one"])
def test_two_processes_train_as_one(runs, name):
    """Sums over processes are added in another order: one unit in the last place of a float32 loss, 1.2e-7."""
    ours, theirs = rows(runs / "one"), rows(runs / name)
    assert [(row["step"], list(row)) for row in ours] == [(row["step"], list(row)) for row in theirs]
    assert sum("train/loss" in row for row in ours) == LAST
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(list(mine.values()), list(other.values()), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["two", "one_then_two", "two_then_one"])
def test_two_processes_predict_as_one(runs, name):
    ours, theirs = (
        [json.loads(line) for line in (runs / run / "predictions.jsonl").read_text().splitlines()]
        for run in ("one", name)
    )
    assert [row["qid"] for row in ours] == [row["qid"] for row in theirs]
    best = [[row["pred_relevant_windows"][0] for row in run] for run in (ours, theirs)]
    np.testing.assert_allclose(*best, atol=1e-4)
    assert (runs / name / "results.json").read_text() == (runs / "one" / "results.json").read_text()


def test_lead_host_alone_writes(runs):
    names = [sorted(path.name for path in (runs / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1] and ".hosts" not in names[1]
    timing = [json.loads(line) for line in (runs / "two" / "timing.jsonl").read_text().splitlines()]
    assert [row["step"] for row in timing] == [4, 8, 12]


def test_each_host_reads_its_rows(runs):
    assert [host["rows"] for host in found(runs)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_damaged_checkpoint_is_set_aside_once(runs):
    assert [host["damaged"] for host in found(runs)] == [[1, [1.0, 1.0, 1.0], [1]]] * 2
    assert [path.name for path in (runs / "checkpoints-damaged").iterdir()] == ["2"]


def test_one_host_that_is_told_to_end_ends_all_after_the_same_step(runs):
    """Told while the loss of 5 is read, which is after step 6: 4 is the evaluation before."""
    assert [host["stopped"] for host in found(runs)] == [[4, 6]] * 2


def test_hosts_agree_on_a_folder_that_cannot_be_written(runs):
    for host in found(runs):
        assert "could not be written" in host["read_only"]  # where it is to be written


def test_corpus_of_two_processes(runs, data_dir):
    values = corpus_values(data_dir)
    assert 0 < values["VCMR-R@2,IoU=0.5"] < 100
    assert [host["corpus"] for host in found(runs)] == [values] * 2


@pytest.mark.parametrize(
    "case,message",
    [
        ("folders", "run is not the same folder on all hosts.*--workdir on a file system that they share"),
        ("configs", "hosts have different configs. Start all of them with the same command"),
        ("batch_size", "batch_size is 18, which 4 devices cannot share equally.*16 or 20"),
        ("pmap", "'pmap' serves one host; with several, set config.parallel='jit'"),
        ("num_devices", "num_devices is 2, which leaves out devices of some hosts.*set it to 0"),
    ],
)
def test_every_host_says_what_is_wrong(runs, case, message):
    for host in found(runs):
        assert re.search(message, host[case]), host[case]


# --- the command ----------------------------------------------------------------------------------

COMMAND = (
    "--config=configs/ctrl.py",
    "--config.dataset.train_videos=20",
    "--config.model.features=8",
    "--config.batch_size=16",
    "--config.evaluation.batch_size=200",
    "--config.evaluation.splits=('val',)",
    "--config.evaluation.sanity=()",
    "--config.evaluate_every=4 steps",
    "--config.log_every=1 steps",
    "--config.train_for=12 steps",
    "--config.parallel=jit",
)


def test_one_killed_ends_both_and_both_started_again_end_with_the_same_bytes(
    runs, data_dir, tmp_path, commands
):
    command = (*COMMAND, f"--config.dataset.data_dir={data_dir}", f"--workdir={tmp_path / 'run'}")
    log = tmp_path / "run" / "metrics.jsonl"
    with two_commands(commands, *command) as (lead, other):
        deadline = time.monotonic() + 300
        # Past the checkpoint of step 4, before that of step 8.
        while not (log.exists() and log.read_bytes().count(b"\n") > 5) and time.monotonic() < deadline:
            assert [lead.poll(), other.poll()] == [None, None], lead.stderr + other.stderr
            time.sleep(0.01)
        lead.kill()
        assert other.wait(timeout=120) != 0  # it does not wait for a host that is gone
    with two_commands(commands, *command) as (lead, other):
        assert [lead.wait(timeout=400), other.wait(timeout=400)] == [0, 0], lead.stderr + other.stderr
    assert "Resuming from step" in lead.stderr and "ctrl (this run)" in lead.stdout
    assert "ctrl (this run)" not in other.stdout + other.stderr
    for name in ("metrics.jsonl", "results.json", "predictions.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (runs / "two" / name).read_bytes(), name


# --- the description of the hosts -----------------------------------------------------------------


@pytest.mark.parametrize(
    "described,message",
    [
        (
            {"COORDINATOR": "10.0.0.1:8476"},
            "came with VMR_JAX_COORDINATOR='10.0.0.1:8476', VMR_JAX_PROCESSES=''",
        ),
        ({"PROCESSES": "2", "PROCESS_ID": "0"}, "VMR_JAX_COORDINATOR=''.*Set all three, or none"),
        ({"COORDINATOR": "a:1", "PROCESSES": "2", "PROCESS_ID": "2"}, "number of this one, from 0 on"),
        ({"COORDINATOR": "a:1", "PROCESSES": "two", "PROCESS_ID": "0"}, "VMR_JAX_PROCESSES='two'"),
        ({}, "did not meet by the cluster's own description.*coordinator_address should be defined"),
    ],
)
def test_wrong_description_of_the_hosts(described, message, monkeypatch):
    monkeypatch.setenv("VMR_JAX_MULTIHOST", "1")
    for name in ("COORDINATOR", "PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"VMR_JAX_{name}", raising=False)
    for name, value in described.items():
        monkeypatch.setenv(f"VMR_JAX_{name}", value)
    # In this process the backend runs already, so that JAX would refuse before it looks for the hosts.
    monkeypatch.setattr(jax.distributed, "initialize", describe_nothing)
    with pytest.raises(UserError, match=message):
        parallel.initialise_hosts("train")


def describe_nothing(**_):
    raise ValueError("coordinator_address should be defined.")


@pytest.mark.parametrize("mode", ["predict", "index", "search", "serve", "import", "score"])
def test_modes_of_one_host(mode, monkeypatch):
    monkeypatch.setenv("VMR_JAX_MULTIHOST", "1")
    with pytest.raises(UserError, match=f"--mode={mode} runs on one host.*without VMR_JAX_MULTIHOST"):
        parallel.initialise_hosts(mode)


if __name__ == "__main__":
    hosts(Path(sys.argv[1]))
