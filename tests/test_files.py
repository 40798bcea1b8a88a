"""Files that come from anywhere: what is no file, and JSON that is none."""

import json
import os
import re
import tracemalloc

import pytest

from vmr_jax.errors import UserError
from vmr_jax.files import MOST_BYTES, content_of, parsed, past_race, read_json, read_lines, require_file


@pytest.fixture(params=["pipe", "device", "folder"])
def no_file(request, tmp_path):
    path = tmp_path / "a.json"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("read", [content_of, read_json, read_lines])
def test_what_would_be_read_for_ever_is_refused(no_file, read):
    with pytest.raises(OSError, match="it is no regular file"):
        read(no_file)
    with pytest.raises(UserError, match=f"{re.escape(str(no_file))} is a folder, a pipe or a device; a file"):
        require_file(no_file)


def test_a_file_of_more_than_can_be_read_at_once(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # it takes no room on the disk
    with pytest.raises(OSError, match="it has more than 1 GiB"):
        content_of(tmp_path / "a")


def test_a_small_file_takes_little_memory(tmp_path):
    (tmp_path / "a").write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert content_of(tmp_path / "a") == b"{}"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20  # not what may be read at most, a thousand times as much


def test_every_text_that_is_no_json_is_a_value_error():
    for text in ("[" * 100_000, '{"a": ' * 100_000, "9" * 5000, "{", "", b"\xff"):
        with pytest.raises(ValueError):
            parsed(text)
    assert parsed("[" * 100 + "]" * 100) == json.loads("[" * 100 + "]" * 100)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_brackets_without_end_are_one_damaged_line(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + "[" * 100_000 + '\n{"a": 2}\n')
    assert read_lines(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_arrays_are_read_again_where_two_threads_parse_at_once():
    """Python until 3.11.8 says so of a header that is whole (gh-106905)."""
    said = ["AST constructor recursion depth mismatch (before=75, after=72)"] * 3

    def read():
        if said:
            raise SystemError(said.pop())
        return "rows"

    assert past_race(read) == "rows"
    said.append("another fault")
    with pytest.raises(SystemError, match="another fault"):
        past_race(read)
    said.extend(["AST constructor recursion depth mismatch"] * 100)
    with pytest.raises(SystemError, match="mismatch"):  # not for ever
        past_race(read)
