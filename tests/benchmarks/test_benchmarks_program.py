"""What every program of benchmarks/ refuses in one line, before it measures anything."""

import os
import signal
import sys
import time

import pytest
from absl import flags

from vmr_jax.errors import UserError


@pytest.fixture(scope="module")
def start(program):
    """How a benchmark starts."""
    return program("program")


@pytest.fixture
def models():
    """Flags with --models=fvmr."""
    holder = flags.FlagValues()
    flags.DEFINE_list("models", ["fvmr"], "", flag_values=holder)
    holder(["program"])
    return holder


def test_an_argument_that_is_no_flag_is_refused(start, models):
    start.check(["program"], models)
    start.check(["program"], flags.FlagValues())  # a program without --models
    with pytest.raises(UserError, match="Unexpected argument 'vslnet'"):
        start.check(["program", "vslnet"], models)


def test_an_architecture_that_does_not_exist_is_refused_with_the_nearest(start, models):
    models.models = ["fvmr", "vslnett"]
    with pytest.raises(UserError, match='--models has "vslnett". Did you mean "vslnet"?'):
        start.check(["program"], models)


def test_numbers_of_a_flag(start):
    assert start.positive("--moments", ["1e3", "0.5", "7"]) == [1000.0, 0.5, 7.0]
    for wrong in ("abc", "0", "-1", "nan", "inf", ""):
        with pytest.raises(UserError, match=f'--moments has "{wrong}"; expected are numbers above 0'):
            start.positive("--moments", ["1", wrong])


def test_whole_numbers_of_a_flag(start):
    assert start.whole("--batch_sizes", ["1", "1e3"]) == [1, 1000]
    with pytest.raises(UserError, match='--batch_sizes has "1.5"; expected are whole numbers'):
        start.whole("--batch_sizes", ["1", "1.5"])


def test_numbers_below_nothing_are_refused(start):
    holder = flags.FlagValues()
    flags.DEFINE_integer("words", 0, "", flag_values=holder)
    flags.DEFINE_float("seconds", 2.0, "", flag_values=holder)
    for argument, message in (("--words=-1", "--words is -1; it"), ("--seconds=inf", "--seconds is inf; it")):
        holder(["program", argument])
        with pytest.raises(UserError, match=message):
            start.check(["program"], holder)
        holder.unparse_flags()
        holder["words"].value = 0


def test_a_flag_that_must_be_given_and_one_that_there_is_not(start):
    holder = flags.FlagValues()
    flags.DEFINE_string("data", None, "Folder of the features.", flag_values=holder)
    flags.mark_flag_as_required("data", holder)
    with pytest.raises(UserError, match="^--data is missing: Folder of the features. --help has all flags.$"):
        start.parsed(["program"], holder)
    with pytest.raises(UserError, match="^Unknown command line flag 'dta'. Did you mean: data"):
        start.parsed(["program", "--dta=x"], holder)
    assert start.parsed(["program", "--data=x", "y"], holder) == ["program", "y"]


def test_what_the_user_can_put_right_ends_a_program_in_one_line(start, monkeypatch, capsys):
    def refuse(_):
        raise UserError("There is no such file.")

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        start.run(refuse)
    assert ended.value.code == "There is no such file."  # Python prints it, and the status is 1


@pytest.mark.parametrize(
    ("number", "line", "status"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_signal_ends_a_program_and_what_it_has_started_in_one_line(
    start, monkeypatch, capsys, tmp_path, number, line, status
):
    """The child starts another program and waits for it: both are of one session, which is not ours."""
    told = tmp_path / "told"

    def main(_):
        command = f"sleep 600 & echo $! > {told}.part; mv {told}.part {told}; wait"
        with start.child(command, shell=True):
            while not told.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)
            time.sleep(600)

    monkeypatch.setattr(sys, "argv", ["program"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            start.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == status and capsys.readouterr().err == f"Stopped by {line}.\n"
    assert is_gone(int(told.read_text()))


def is_gone(process):
    """Whether a process ends within ten seconds; one that has ended and is not waited for yet is gone."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_program_that_does_not_end_by_itself_is_killed(start, monkeypatch):
    monkeypatch.setattr(start, "GRACE", 0.2)
    with start.child(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"], stdout=-1) as process:
        process.stdout.read(1)  # it ignores the signal from here on
    assert process.returncode == -signal.SIGKILL


def test_a_program_that_has_ended_keeps_its_status(start):
    with start.child(["sh", "-c", "exit 3"]) as process:
        assert process.wait() == 3
    assert process.returncode == 3


def test_a_command_that_no_file_can_hold_is_refused(start, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--note=caf\udce9"])
    with pytest.raises(UserError, match=r"The argument '--note=caf\\udce9' is no UTF-8"):
        start.check(["program"], flags.FlagValues())
    monkeypatch.setattr(sys, "argv", ["program", "--note=caf\u00e9"])
    start.check(["program"], flags.FlagValues())


def test_a_file_that_could_not_be_written_at_the_end_is_refused_at_the_beginning(
    program, tmp_path, monkeypatch
):
    lines = program("lines")
    lines.Lines(tmp_path / "new.csv", ("a",), ("a",))
    with pytest.raises(UserError, match="new.csv cannot be written: there is no folder .*absent"):
        lines.Lines(tmp_path / "absent" / "new.csv", ("a",), ("a",))
    with pytest.raises(UserError, match="cannot be written: it is a folder"):
        lines.Lines(tmp_path, ("a",), ("a",))
    monkeypatch.setattr(lines.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="new.csv cannot be written: that is not permitted"):
        lines.Lines(tmp_path / "new.csv", ("a",), ("a",))
    with pytest.raises(UserError, match="There is no file .*new.csv"):
        lines.read_rows(tmp_path / "new.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"a,b\r\n1,2\r\n3,4",
            "Line 3 of .*a.csv has no line break at its end.*Complete the line or delete it",
        ),
        (b"a,b\r\n1,2\r\n3", "Line 3 of .*a.csv has not the 2 columns"),
        (b"a,b\r\n1\r\n3,4\r\n", "Line 2 of .*a.csv has not the 2 columns"),
        (b"a,b\r\n1,2,3\r\n", "Line 2 of .*a.csv has not the 2 columns"),  # two lines that were glued
        (b"a,b\r\ncaf\xe9,2\r\n", "a.csv cannot be read: .*0xe9.*Expected is a CSV in UTF-8"),
        (b"a,c\r\n1,2\r\n", "a.csv has other columns than a, b.*give another file"),
    ],
)
def test_a_file_to_which_no_line_can_be_added_is_refused_and_left_as_it_is(program, tmp_path, content, said):
    lines, path = program("lines"), tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        lines.Lines(path, ("a", "b"), ("a",))
    assert path.read_bytes() == content


def test_lines_are_read_as_they_were_written(program, tmp_path):
    lines, path = program("lines"), tmp_path / "a.csv"
    rows = [{"a": "caf\u00e9", "b": "two\nlines, one cell"}, {"a": "", "b": "3"}]
    lines.Lines(path, ("a", "b"), ("a",)).append(rows)
    assert lines.Lines(path, ("a", "b"), ("a",)).rows == lines.read_rows(path) == rows
