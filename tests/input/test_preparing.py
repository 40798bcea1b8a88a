"""What killed preparations of records leave is deleted by one that is alone."""

import fcntl

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
