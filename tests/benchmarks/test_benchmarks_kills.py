"""Programs that fork and kill: what they leave when they are stopped themselves."""

import os
import signal
import subprocess
import sys
import time

import pytest

PREAMBLE = """
import os, pathlib, sys, time
sys.path.insert(0, {folder!r})
import program, {name}

def busy(*_):
    pathlib.Path({told!r} + ".part").write_text(str(os.getpid()))
    os.rename({told!r} + ".part", {told!r})
    time.sleep(600)
"""
TRAINING = """
kills.launch.cli = busy
with program.ended_in_one_line():
    kills.main()
"""
INGESTION = """
class Library:
    def __init__(self, _): pass
    update = busy

def touched(path, _):
    path.touch()
    return path

kills_ingest.Library, kills_ingest.make_film = Library, touched
with program.ended_in_one_line():
    kills_ingest.main()
"""


@pytest.mark.parametrize(
    ("name", "rest", "number", "said", "status"),
    [
        pytest.param("kills", TRAINING, signal.SIGTERM, "Stopped by SIGTERM.", 143, id="kills"),
        pytest.param("kills_ingest", INGESTION, signal.SIGTERM, "Stopped by SIGTERM.", 143, id="kills_ingest"),
    ],
)
def test_a_signal_ends_the_program_with_its_fork(program, tmp_path, name, rest, number, said, status):
    """The signal reaches the program alone, not its fork, which would go on for ten minutes."""
    folder, told = program("program").__file__.rpartition("/")[0], tmp_path / "told"
    script = PREAMBLE.format(folder=folder, name=name, told=str(told)) + rest
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        until = time.monotonic() + 60
        while not told.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        fork = int(told.read_text())
        assert is_there(fork)
        process.send_signal(number)
        try:
            error = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    try:
        assert not is_there(fork)  # it is waited for before the program ends
    except AssertionError:
        os.kill(fork, signal.SIGKILL)
        raise
    assert process.returncode == status and error.strip().splitlines()[-1] == said
    assert [path.name for path in tmp_path.iterdir()] == ["told"]  # no temporary folder is left


@pytest.mark.parametrize("wrong", [[], ["chain1: another results.json"]])
def test_the_runs_stay_where_one_is_wrong(program, monkeypatch, tmp_path, wrong):
    kills = program("kills")
    monkeypatch.setattr(sys, "argv", ["kills.py"])
    monkeypatch.setattr(kills.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(kills, "kill_chains", lambda folder, kills, draw, found: found.extend(wrong))
    with pytest.raises(SystemExit) as ended:
        kills.main()
    assert ended.value.code == len(list(tmp_path.iterdir())) == len(wrong)


AMID = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import program, forks

os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
fork = forks.Fork(lambda tell: time.sleep(600))
try:
    with program.ended_in_one_line(), fork:
        time.sleep(600)
finally:
    print(fork.pid)
"""


def test_a_signal_amid_a_fork_is_not_lost(program):
    """Python swallows an exception that a signal raises among what it does after a fork."""
    script = AMID.format(folder=program("program").__file__.rpartition("/")[0])
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "Stopped by Ctrl-C.\n")
    assert not is_there(int(ended.stdout))


UNWRITABLE = """
import os, sys
sys.path.insert(0, {folder!r})
import forks

def work(tell):
    sys.stdout.close()  # its last flush fails, as on a full disk
    WORK

with forks.Fork(work) as fork:
    fork.wait()
os.write(2, f"{{fork.status}}\\n".encode())
"""


@pytest.mark.parametrize(("rest", "status"), [("", 70), ("sys.exit(2)", 2)])
def test_a_fork_whose_output_cannot_be_written_ends(program, rest, status):
    """It never goes on with what the program does after it, which would be done twice."""
    script = UNWRITABLE.format(folder=program("program").__file__.rpartition("/")[0]).replace("WORK", rest)
    ended = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, f"{status}\n")


def is_there(process):
    """Whether a process has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
