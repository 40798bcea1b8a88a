"""Ctrl-C, SIGTERM and saves by time: nothing is lost, and what goes on ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from killed import Killed
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.training import interrupt, loop, pace
from vmr_jax.training.clock import Clock, seconds_of
from vmr_jax.training.fit import fit
from vmr_jax.training.interrupt import Interrupted, Signals, Terminated, signals_of_run

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

# Evaluations after steps 3 and 6.
RUN = {
    "name": "ctrl",
    "train_for": "6 steps",
    "evaluate_every": "3 steps",
    "log_every": "1 steps",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
}
SAME = ("metrics.jsonl", "results.json", "predictions.jsonl")


def ended(workdir):
    """What must be the same: the files, and the checksums of every leaf of the last state."""
    last = (workdir / "checkpoints" / "6" / "position" / "metadata").read_bytes()
    return {name: (workdir / name).read_bytes() for name in SAME}, last


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    fit(tiny_config(data_dir, **RUN), workdir)
    return ended(workdir)


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def sending(number, after):
    """A `Journal.scalars` that sends the process a signal where it is told of the step `after`."""
    scalars = loop.Journal.scalars

    def send(self, step, values):
        scalars(self, step, values)
        if step == after:
            os.kill(os.getpid(), number)

    return send


def evaluated(workdir, step):
    """How often the metrics of a step stand in the log."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return sum("val/mIoU" in row and row["step"] == step for row in rows)


def test_stopped_in_every_way_ends_with_the_same_bytes(unbroken, data_dir, tmp_path, monkeypatch, caplog):
    config = tiny_config(data_dir, **RUN, checkpoint_every="1 hour")
    caplog.set_level("WARNING", logger="vmr_jax")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    # Between evaluations: the loss of step 1 is told after step 2, which is then the last.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Journal, "scalars", sending(signal.SIGINT, 1))
        fit(config, tmp_path)
    assert steps(tmp_path) == [2]
    where = tmp_path / "checkpoints" / "2"
    assert f"Stopped by Ctrl-C after step 2 of 6, saved in {where}. Give the same command again" in caplog.text

    # Just before an evaluation, which is left out.
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended_by:
        patched.setattr(loop.Journal, "scalars", sending(signal.SIGTERM, 3))
        fit(config, tmp_path)
    assert ended_by.value.code == 143 and "Stopped by SIGTERM after step 3 of 6" in caplog.text
    assert steps(tmp_path) == [2, 3] and evaluated(tmp_path, 3) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    # Killed when that evaluation was made up for, and is in the log, but not saved.
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop.Trainer, "_save", dies)
        fit(config, tmp_path)
    assert evaluated(tmp_path, 3) == 1

    # Saves by time: every second question is an hour later. Killed after the first of them.
    now, saved = iter(range(0, 10**9, 1801)), []
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(pace, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
        patched.setattr(loop.Trainer, "_save", noting(loop.Trainer._save, saved, last=5))
        fit(config, tmp_path)
    assert saved == [3, 5] and evaluated(tmp_path, 3) == 1

    # In the evaluation of the last step.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Evaluator, "score", sending_while(loop.Evaluator.score))
        fit(config, tmp_path)
    assert steps(tmp_path) == [5, 6] and evaluated(tmp_path, 6) == 0

    fit(config, tmp_path)
    assert ended(tmp_path) == unbroken


def dies(*_):
    raise Killed


def noting(save, saved, last):
    """A `Trainer._save` that notes its steps, and is killed after the last."""

    def note(self, step, state, position):
        save(self, step, state, position)
        saved.append(step)
        if step == last:
            raise Killed

    return note


def sending_while(score):
    """An `Evaluator.score` while which Ctrl-C comes."""

    def send(self, variables, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return score(self, variables, batch)

    return send


def test_nothing_is_raised_where_no_signal_came():
    Signals().end()


# --- what a signal does ---------------------------------------------------------------------------


def test_second_signal_and_signals_outside_of_the_loop_end_at_once(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    with signals_of_run() as signals:
        with signals.saving():
            os.kill(os.getpid(), signal.SIGINT)
            now[0] = 0.5  # a launcher passes on what the terminal has sent too
            os.kill(os.getpid(), signal.SIGINT)
            now[0] = 2.0
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "Ctrl-C: finishing the step and saving. A second one stops at once.\n"
    with signals_of_run() as signals, pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
    with signals_of_run() as signals, pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


def test_other_threads_take_no_signals():
    found = []
    before = signal.getsignal(signal.SIGINT)

    def run():
        with signals_of_run() as signals:
            found.append((signals.received, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0, before)]


COMMAND = """
import sys, time
from vmr_jax.modes import launch
def run():
    if sys.argv[1] == "compiled":  # which does not return to Python
        import hashlib
        from vmr_jax.training.interrupt import signals_of_run
        with signals_of_run() as signals, signals.saving():
            print("started", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    print("started", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:  # as some libraries do while they are imported
            pass
launch._run = run
launch.cli()
"""


def command(case, *numbers):
    """Exit status and standard error of a command that gets the signals, more than a second apart."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, case], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "started\n"
        for index, number in enumerate(numbers):
            if index:
                threading.Event().wait(1.2)
            process.send_signal(number)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, told


def test_command_ends_in_one_line():
    assert command("slow", signal.SIGINT) == (130, "Stopped by Ctrl-C.\n")
    assert command("slow", signal.SIGTERM) == (143, "Stopped by SIGTERM.\n")


def test_second_signal_ends_a_command_that_computes():
    noted = "Ctrl-C: finishing the step and saving. A second one stops at once.\n"
    assert command("compiled", signal.SIGINT, signal.SIGINT) == (130, f"{noted}Stopped by Ctrl-C.\n")


# --- time -----------------------------------------------------------------------------------------


def test_seconds():
    assert [seconds_of(text, "x") for text in ("10 minutes", "90 seconds", "1.5 hours", "0 minutes")] == [
        600, 90, 5400, 0,
    ]  # fmt: skip
    with pytest.raises(UserError, match="config.checkpoint_every is \"10\".*such as '10 minutes'"):
        seconds_of("10", "config.checkpoint_every")


def test_speed_does_not_count_evaluations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vmr_jax.training.clock.time.perf_counter", lambda: now[0])
    clock = Clock(batch_size=8)
    clock.tick()  # the compilation
    now[0] = 2.0
    clock.tick()
    clock.pause()
    now[0] = 100.0  # 8 examples in the 2 seconds before it
    np.testing.assert_allclose(clock.examples_per_second(), 4.0)
    clock.resume()
    now[0] = 102.0
    clock.tick()
    np.testing.assert_allclose(clock.examples_per_second(), 4.0)
