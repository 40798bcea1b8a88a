"""The program that times a start of training: when its stages end, and what is said without a first step."""

import csv
import sys

import pytest
from absl import flags

from vmr_jax.errors import UserError

PROGRAM = """
import sys, time
for line in {lines}:
    print(line, file=sys.stderr, flush=True)
    time.sleep(0.05)
time.sleep({after})
"""
LINES = [
    "Loading JAX",
    "Preparing the data of storyboard",
    "Compiling the training step",
    "First step done after 1 s",
]


@pytest.fixture
def start(program, monkeypatch, tmp_path):
    """The program, which starts another in place of launch.py; `start.write(lines)` says what that prints."""
    module = program("start")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "benchmarks" / "start.py"))

    def write(lines, after=0):
        (tmp_path / "launch.py").write_text(PROGRAM.format(lines=lines, after=after), encoding="utf-8")

    monkeypatch.setattr(module, "write", write, raising=False)
    return module


def test_stages_end_with_their_lines_and_the_program_is_stopped(start, tmp_path):
    start.write(LINES, after=600)
    found = start.start("vslnet", tmp_path / "programs", tmp_path / "run")
    assert tuple(sorted(found)) == tuple(sorted(start.FIGURES))
    # A line follows the one before after 0.05 s at least: two of them before compiling has ended.
    seconds = [float(found[f"{stage}_s"]) for stage in start.STAGES]
    assert float(found["seconds"]) == pytest.approx(sum(seconds), abs=0.2)
    assert 0 < float(found["seconds"]) < 60


def test_a_program_without_a_first_step_is_quoted(start, tmp_path):
    start.write([*LINES[:2], "config.dataset.name is wrong"])
    with pytest.raises(UserError, match="(?s)vslnet ended before its first step.*is wrong"):
        start.start("vslnet", tmp_path / "programs", tmp_path / "run")


def test_each_architecture_is_started_twice_and_once_a_commit(start, tmp_path, monkeypatch):
    asked, prepared = [], []

    def begin(name, folder, workdir):
        asked.append((name, folder.name, folder.parent, workdir.name))
        return dict.fromkeys(start.FIGURES, "1.0")

    monkeypatch.setattr(start, "start", begin)
    monkeypatch.setattr(start, "prepare", prepared.append)
    monkeypatch.setattr(start, "command_and_commit", lambda given: {"command": "c", "commit": "a"})
    monkeypatch.setattr(sys, "argv", ["start.py"])
    for models in ("vslnet", "vslnet,mmn"):
        holder = flags.FlagValues()
        start.define_flags(holder)
        holder(["start.py", f"--models={models}", f"--csv={tmp_path / 'start.csv'}"])
        monkeypatch.setattr(start, "FLAGS", holder)
        start.main([])
    assert [(name, run) for name, _, _, run in asked] == [
        ("vslnet", "cold"), ("vslnet", "warm"), ("mmn", "cold"), ("mmn", "warm"),
    ]  # fmt: skip
    assert prepared == ["vslnet", "mmn"]
    assert asked[0][2] == asked[1][2] != asked[2][2]  # the second start finds what the first has compiled
    with (tmp_path / "start.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["model"], row["cache"]) for row in csv.DictReader(file)] == [
            ("vslnet", "cold"), ("vslnet", "warm"), ("mmn", "cold"), ("mmn", "warm"),
        ]  # fmt: skip


def test_the_embedded_dataset_is_prepared(start, monkeypatch):
    opened = []
    monkeypatch.setattr(start, "Dataset", lambda options, annotations_only: opened.append(options.name))
    start.prepare("vslnet")
    assert opened == ["storyboard"]
