"""What every program of benchmarks/ refuses in one line, before it measures anything."""

import sys

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


def test_what_the_user_can_put_right_ends_a_program_in_one_line(start, monkeypatch, capsys):
    def refuse(_):
        raise UserError("There is no such file.")

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        start.run(refuse)
    assert ended.value.code == "There is no such file."  # Python prints it, and the status is 1


def test_a_file_that_could_not_be_written_at_the_end_is_refused_at_the_beginning(program, tmp_path):
    lines = program("lines")
    lines.Lines(tmp_path / "new.csv", ("a",), ("a",))
    with pytest.raises(UserError, match="new.csv cannot be written: there is no folder .*absent"):
        lines.Lines(tmp_path / "absent" / "new.csv", ("a",), ("a",))
    with pytest.raises(UserError, match="There is no file .*new.csv"):
        lines.read_rows(tmp_path / "new.csv")
