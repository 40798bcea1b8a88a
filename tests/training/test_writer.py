"""Files that survive a kill."""

import os

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.files import open_lock, read_lines, write_json
from vmr_jax.training.owner import OWNER, owned
from vmr_jax.training.writer import JsonLines, prepare_workdir, prepared_workdir


def test_rows_not_to_be_kept_and_a_torn_line_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a"')
    log = JsonLines(path, lambda row: row["step"] <= 2)
    log.write({"step": 3, "a": np.float32(0.5)})
    log.close()
    assert path.read_text() == '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 0.5}\n'


def test_damaged_line_in_the_middle_loses_nothing_after_it(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\x00\n[2]\n{"step": 2\n{"step": 3}\n{"step": 4')
    assert read_lines(path) == [{"step": 1}, {"step": 3}]
    assert "metrics.jsonl is damaged: line 2, 3, 4 is no JSON object" in caplog.text
    JsonLines(path, lambda row: True).close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_link_in_the_folder_leads_to_no_other_file(tmp_path):
    other, run = tmp_path / "other", tmp_path / "run"
    other.write_text("mine")
    run.mkdir()
    for name in ("a.json.tmp", "metrics.jsonl", ".writable", OWNER):
        (run / name).symlink_to(other)
    write_json(run / "a.json", {})
    prepare_workdir(run)
    log = JsonLines(run / "metrics.jsonl", lambda row: True)
    log.write({"step": 1})
    log.close()
    assert (run / "metrics.jsonl").read_text() == '{"step": 1}\n'
    with pytest.raises(UserError, match="run cannot be written"), owned(run, "train"):
        pass
    with pytest.raises(OSError):
        open_lock(run / OWNER)
    assert other.read_text() == "mine"


def test_a_log_that_is_no_file_is_one_clear_error(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="metrics.jsonl could not be written .it is no regular file"):
        JsonLines(tmp_path / "metrics.jsonl", lambda row: True)


def test_numpy_and_tuples_become_json(tmp_path):
    write_json(tmp_path / "x.json", {"a": (np.int32(1), np.arange(2)), "b": {"c": np.float64(0.25)}})
    assert "".join((tmp_path / "x.json").read_text().split()) == '{"a":[1,[0,1]],"b":{"c":0.25}}'
    (tmp_path / "y.jsonl").write_text('{"step": 1}\n\n')
    assert read_lines(tmp_path / "y.jsonl") == [{"step": 1}]


def test_unwritable_workdir_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"working directory .*file/run cannot be written.*--workdir"):
        prepare_workdir(tmp_path / "file" / "run")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_clear_error(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = JsonLines(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics.jsonl could not be written \(No space left on device\)"):
        log.write({"step": 1})
    log.close()


def test_folder_of_a_run_that_did_not_begin_is_removed(tmp_path):
    for before, kept in ((False, False), (True, True)):
        if before:
            (tmp_path / "run").mkdir()
        with pytest.raises(ZeroDivisionError), prepared_workdir(tmp_path / "run"):
            raise ZeroDivisionError
        assert (tmp_path / "run").exists() == kept
    with prepared_workdir(tmp_path / "new"):
        (tmp_path / "new" / "config.json").write_text("{}")
    assert (tmp_path / "new").is_dir()
