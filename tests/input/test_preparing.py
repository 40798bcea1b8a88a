"""The remains of killed preparations of records are deleted by one that is alone."""

import errno
import fcntl
import types

import pytest

from vmr_jax.errors import UserError
from vmr_jax.input import preparing


def test_what_was_left_goes_when_nobody_prepares(tmp_path):
    folder = tmp_path / "data" / "storyboard"
    left, whole = folder / "incomplete.ABC_1.0.0" / "part", folder / "1.0.0" / "part"
    for file in (left, whole):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    with (tmp_path / "data" / ".preparing").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as another process that prepares
        with preparing._preparing(tmp_path / "data", folder):
            assert left.exists()
    with preparing._preparing(tmp_path / "data", folder):
        assert not left.parent.exists() and whole.exists()
        with preparing._preparing(tmp_path / "data", folder):  # a second one waits for nobody
            assert whole.exists()


def test_a_damaged_description_of_records_is_named(tmp_path):
    class ParseError(Exception):
        """As that of protobuf, which is no ValueError."""

    def damaged():
        raise ParseError("Failed to load JSON\nmore")

    for make in (damaged, lambda: types.SimpleNamespace(data_path=tmp_path)):  # a folder without one
        with pytest.raises(
            UserError, match=r"description of records in .* is damaged \(.*Delete the folder"
        ) as said:
            preparing._opened(make, tmp_path)
        assert "\n" not in str(said.value)
    with pytest.raises(UserError, match=r"is damaged \('dropped'\)"), preparing.whole_description(tmp_path):
        {}["dropped"]  # of metadata.json, which is read later
    with pytest.raises(DeprecationWarning), preparing.whole_description(tmp_path):
        raise DeprecationWarning("as python -W error makes of a warning of protobuf")
    with pytest.raises(PermissionError), preparing.whole_description(tmp_path):
        raise PermissionError(errno.EACCES, "not yours")
