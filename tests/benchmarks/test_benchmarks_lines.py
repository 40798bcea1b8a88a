"""Two programs that write one CSV at a time, and one that reads it meanwhile."""

import stat
import subprocess
import sys

import pytest

from vmr_jax.errors import UserError

COLUMNS = ("row", "number", "text")
TEXT = "two\nlines, one cell;" * 2000  # 40 kB: more than a buffered file writes at once
COUNT = 40
# Appends its lines; a second argument: it drops each of them again, the last one excepted.
WRITER = f"""
import sys
from pathlib import Path
import lines
path, name, drops = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
for number in range({COUNT}):
    file = lines.Lines(path, {COLUMNS!r}, ("row", "number"))
    file.append([{{"row": name, "number": number, "text": {TEXT!r}}}])
    if drops and number < {COUNT - 1}:
        file.drop(lambda row: row["row"] == name)
"""


@pytest.fixture(scope="module")
def lines(program):
    """The program."""
    return program("lines")


def started(lines, path, *arguments):
    """A writer in a process of its own."""
    folder = lines.__file__.rpartition("/")[0]
    program = f"import sys; sys.path.insert(0, {folder!r}){WRITER}"
    return subprocess.Popen([sys.executable, "-c", program, str(path), *arguments])


def test_lines_of_two_programs_stay_whole_for_each_other_and_for_a_reader(lines, tmp_path):
    path = tmp_path / "a.csv"
    writers = [started(lines, path, name) for name in ("left", "right")]
    seen = [0]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.append(len(lines.read_rows(path)))  # an error for half of a line
    assert [writer.returncode for writer in writers] == [0, 0]
    rows = lines.read_rows(path)
    expected = {(name, str(number), TEXT) for name in ("left", "right") for number in range(COUNT)}
    assert len(rows) == 2 * COUNT and {tuple(row.values()) for row in rows} == expected
    assert seen == sorted(seen) and path.read_text().count("row,number,text") == 1


def test_a_program_that_drops_its_lines_keeps_those_that_come_meanwhile(lines, tmp_path):
    path = tmp_path / "a.csv"
    writers = [started(lines, path, "left"), started(lines, path, "right", "drops")]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = [(row["row"], int(row["number"])) for row in lines.read_rows(path)]
    assert sorted(found) == [*(("left", number) for number in range(COUNT)), ("right", COUNT - 1)]
    assert not path.with_name("a.csv.new").exists()


def test_lines_that_do_not_fit_on_the_disk_leave_the_others_as_they_were(lines, tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    file = lines.Lines(path, COLUMNS, ("row",))
    file.append([{"row": "first"}])
    before, write = path.read_bytes(), lines.os.write
    monkeypatch.setattr(lines.os, "write", lambda number, content: write(number, content[:5]))
    with pytest.raises(UserError, match="a.csv could not be written .No space left on device."):
        file.append([{"row": "second"}])
    assert path.read_bytes() == before and len(file.rows) == 1


def test_a_file_that_is_empty_gets_its_columns(lines, tmp_path):
    path = tmp_path / "a.csv"
    path.touch()  # as between the moment when a program makes it and its first write
    lines.Lines(path, COLUMNS, ("row",)).append([{"row": "first"}])
    assert lines.read_rows(path) == [{"row": "first", "number": "", "text": ""}]


def grown(lines, path):
    """A file of two lines, `first` and `second`."""
    file = lines.Lines(path, COLUMNS, ("row",))
    file.append([{"row": "first"}, {"row": "second"}])
    return file


def test_what_drops_lines_keeps_a_link_and_the_permissions(lines, tmp_path):
    (tmp_path / "store").mkdir()
    link, place = tmp_path / "a.csv", tmp_path / "store" / "b.csv"
    link.symlink_to(place)
    file = grown(lines, link)
    place.chmod(0o664)
    file.drop(lambda row: row["row"] == "first")
    assert link.is_symlink() and stat.S_IMODE(place.stat().st_mode) == 0o664
    assert [row["row"] for row in lines.read_rows(place)] == [row["row"] for row in file.rows] == ["second"]
    assert {path.name for path in tmp_path.rglob("*")} == {"a.csv", "store", "b.csv"}


def test_nothing_is_glued_to_a_line_that_was_torn_meanwhile(lines, tmp_path):
    path = tmp_path / "a.csv"
    file = grown(lines, path)
    with path.open("a") as torn:
        torn.write("third,")
    before = path.read_bytes()
    with pytest.raises(UserError, match="The last line of .*a.csv has no line break at its end"):
        file.append([{"row": "fourth"}])
    assert path.read_bytes() == before and len(file.rows) == 2


def test_what_happens_to_a_file_meanwhile_is_said_in_one_line(lines, tmp_path):
    path = tmp_path / "a.csv"
    file = grown(lines, path)
    path.write_text("other,row\n1,first\n")
    with pytest.raises(UserError, match="a.csv has other columns than row, number"):
        file.drop(lambda row: row["row"] == "first")
    assert path.read_text() == "other,row\n1,first\n"
    path.unlink()
    with pytest.raises(UserError, match="a.csv could not be written .No such file or directory."):
        file.drop(lambda row: row["row"] == "first")
    assert not path.exists()


def test_a_link_to_nowhere_is_refused_in_one_line(lines, tmp_path):
    path = tmp_path / "a.csv"
    path.symlink_to(tmp_path / "no such folder" / "b.csv")
    with pytest.raises(UserError, match="a.csv could not be written .No such file or directory."):
        grown(lines, path)


def test_empty_lines_alone_are_refused(lines, tmp_path):
    """An editor leaves one of a file that is emptied; lines after it would have no columns."""
    path = tmp_path / "a.csv"
    path.write_text("\n")
    with pytest.raises(UserError, match="a.csv holds empty lines alone, and no names of columns. Delete it."):
        grown(lines, path)
