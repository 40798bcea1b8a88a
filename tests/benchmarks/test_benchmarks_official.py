"""The program that times two training programs from the outside: what it counts, and what it refuses."""

import csv
import shlex
import sys
import tempfile

import pytest
from absl import flags

from vmr_jax.errors import UserError

PYTHON = shlex.quote(sys.executable)


@pytest.fixture
def official(program, monkeypatch):
    """The program; `official.give(...)` sets its flags."""
    module = program("official")

    def give(**values):
        holder = flags.FlagValues()
        module.define_flags(holder)
        given = {"name": "pair", "ours": "ours {n}", "theirs": "theirs {n}"} | values
        holder(["official.py", *(f"--{flag}={value}" for flag, value in given.items())])
        monkeypatch.setattr(module, "FLAGS", holder)
        return holder

    monkeypatch.setattr(module, "give", give, raising=False)
    return module


def test_a_step_is_the_difference_of_the_runs_by_that_of_the_numbers(official):
    Taken = official.Taken
    # Ours: 7 s to start, and 1, 3, 2 s a step; theirs: 3 s, and 4, 6, 8 s. CPU: 2 s a step, and 5 s.
    ours = [(Taken(7 + 2 * s, 9), Taken(7 + 6 * s, 17)) for s in (1, 3, 2)]
    theirs = [(Taken(3 + 2 * s, 11), Taken(3 + 6 * s, 31)) for s in (4, 6, 8)]
    line = official.row({"ours": ours, "theirs": theirs}, (2, 6), 30)
    assert (line["short"], line["long"], line["rounds"], line["examples"]) == (2, 6, 3, 30)
    assert (line["ours_s"], line["ours_cpu_s"], line["theirs_s"], line["theirs_cpu_s"]) == ("2", "2", "6", "5")
    assert (line["ours_examples_per_second"], line["theirs_examples_per_second"]) == ("15.0", "5.0")
    assert (line["ours_start_s"], line["theirs_start_s"]) == ("7.0", "3.0")
    # Of the rounds 4 / 1, 6 / 3 and 8 / 2.
    assert (line["times_low"], line["times"], line["times_high"]) == ("2.00", "4.00", "4.00")
    assert line["times_cpu"] == "2.50"
    assert official.row({"ours": ours, "theirs": theirs}, (2, 6), 0)["ours_examples_per_second"] == ""


def test_a_round_that_did_not_grow_is_named_and_has_no_ratio(official, capsys):
    Taken = official.Taken
    # Ours: 1, 0 and 2 s a step, the CPU not more; theirs: 4, 6 and 8 s, and 5 CPU seconds.
    ours = [(Taken(7 + 2 * s, 9), Taken(7 + 6 * s, 9)) for s in (1, 0, 2)]
    theirs = [(Taken(3 + 2 * s, 11), Taken(3 + 6 * s, 31)) for s in (4, 6, 8)]
    line = official.row({"ours": ours, "theirs": theirs}, (2, 6), 30)
    assert capsys.readouterr().out == "Round 2: ours took no longer for 6 than for 2, so it has no ratio.\n"
    assert (line["ours_s"], line["theirs_s"]) == ("1", "6")  # medians of all
    assert (line["ours_cpu_s"], line["theirs_cpu_s"], line["times_cpu"]) == ("", "5", "")
    assert (line["times_low"], line["times"], line["times_high"]) == ("4.00", "4.00", "4.00")  # 4 / 1 and 8 / 2
    ours[0] = ours[1]  # two of three
    with pytest.raises(UserError, match="--ours took no longer for 6 than for 2.*larger second number"):
        official.row({"ours": ours, "theirs": theirs}, (2, 6), 30)


def test_a_run_counts_the_processes_that_it_has_waited_for(official, tmp_path, monkeypatch):
    # A child of a child takes 0.3 s of the processor after a wait of 0.2 s, twice as the command has a 2.
    work = "import time; time.sleep(0.2); t = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    command = f"for i in $(seq {{n}}); do {PYTHON} -I -S -c {shlex.quote(work)}; done"
    taken = official.take("ours", command, 2)
    assert 0.6 <= taken.cpu_seconds < taken.seconds and taken.seconds >= 1.0
    kept = tmp_path / "kept"
    official.take("ours", f"ls -A {{folder}} > {kept}; echo {{folder}} >> {kept}; touch {{folder}}/a", 1)
    (folder,) = kept.read_text().split()  # it was empty, so that ls said nothing
    assert not (tmp_path / folder).exists()
    (tmp_path / "a folder; exit 1").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a folder; exit 1"))
    official.take("ours", f"echo {{folder}} > {kept}; touch {{folder}}/a", 1)  # one word of the shell
    assert kept.read_text().startswith(str(tmp_path / "a folder; exit 1"))


def test_a_program_that_fails_is_quoted(official):
    with pytest.raises(UserError, match=r"(?s)--theirs ended with 3: echo 7;.*It said last: no data$"):
        official.take("theirs", "echo {n}; echo no data >&2; exit 3", 7)
    with pytest.raises(UserError, match="--ours ended with 1: false\nIt said last: nothing"):
        official.take("ours", "false", 7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"numbers": "3,1"}, '--numbers has "3,1"; expected are two whole ones'),
        ({"numbers": "1"}, '--numbers has "1"; expected'),
        ({"numbers": "1,2.5"}, '--numbers has "1,2.5"; expected'),
        ({"numbers": "0,2"}, '--numbers has "0"; expected are numbers above 0'),
        ({"name": ""}, "--name is empty"),
        ({"theirs": "python main.py"}, "--theirs has .*main.py.*; expected is a command with {n}"),
        ({"ours": ""}, '--ours has ""; expected is a command with {n}'),
        (
            {"ours": "n=3; echo ${n}"},
            "--ours has .*; expected is a command with {n} in it, and no \\$ before it",
        ),
        ({"theirs": "echo {n} ${folder}"}, "--theirs has .*; expected is a command with {n} in it, and no \\$"),
    ],
)
def test_flags_that_no_run_could_go_with_are_refused_before_any(official, monkeypatch, given, said):
    monkeypatch.setattr(official, "take", lambda *_: pytest.fail("a program was run"))
    official.give(**given)
    with pytest.raises(UserError, match=said):
        official.main([])


def test_both_sides_take_turns_and_a_pair_is_measured_once_a_commit(official, monkeypatch, tmp_path, capsys):
    asked, cost = [], {"ours": 2.0, "theirs": 3.0}

    def take(side, command, number):
        asked.append((command.split()[0], number))
        return official.Taken(10 + number * cost[side], number * cost[side])

    monkeypatch.setattr(official, "take", take)
    monkeypatch.setattr(official, "describe_machine", lambda: "a machine")
    monkeypatch.setattr(official, "command_and_commit", lambda given: {"command": "c", "commit": "a"})
    monkeypatch.setattr(sys, "argv", ["official.py"])
    path = tmp_path / "official.csv"
    official.give(rounds=2, numbers="1,4", examples=6, note="torch 2", csv=path)
    official.main([])
    ours, theirs = [("ours", 1), ("ours", 4)], [("theirs", 1), ("theirs", 4)]
    assert asked == [("ours", 1), ("theirs", 1), *ours, *theirs, *theirs, *ours]
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == official.COLUMNS
    assert (row["name"], row["times"], row["times_cpu"], row["ours_s"], row["theirs_s"]) == (
        *("pair", "1.50", "1.50", "2", "3"),
    )
    assert (row["note"], row["machine"], row["theirs_start_s"]) == ("torch 2", "a machine", "10.0")
    assert "times 1.50" in capsys.readouterr().out
    official.main([])
    assert len(asked) == 10 and "has pair of this commit and command" in capsys.readouterr().out
    monkeypatch.setattr(official, "command_and_commit", lambda given: {"command": "d", "commit": "a"})
    official.main([])  # another command of the same name
    assert len(asked) == 20
