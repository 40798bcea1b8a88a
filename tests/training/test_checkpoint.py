"""Checkpoints: exact, whole or absent, and damage is noticed."""

import logging
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.training.checkpoint import Checkpoints


def state_of(value, width=3):
    return {
        "step": jnp.int32(value),
        "params": {"a": {"kernel": jnp.full((width, 4), value + 0.1, jnp.float32)}},
        "half": jnp.full((2,), value, jnp.bfloat16),
    }


def assert_equal_trees(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture
def parallel():
    return Parallel("pmap")


def test_round_trip_keeps_the_newest(tmp_path, parallel):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.restore(parallel.abstract(state_of(0))) is None
    for step in (1, 2, 3):
        checkpoints.save(step, parallel.replicate(state_of(step)), {"step": step, "best_value": 0.1})
    assert checkpoints.steps() == [2, 3]
    state, position = checkpoints.restore(parallel.abstract(state_of(0)))
    assert_equal_trees(state, state_of(3))
    assert position == {"step": 3, "best_value": 0.1}


def test_saved_on_eight_devices_restored_on_one(tmp_path, parallel):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(5, parallel.replicate(state_of(5)), {"step": 5})
    one = Parallel("jit", num_devices=1)
    state, _ = checkpoints.restore(one.abstract(state_of(0)))
    assert_equal_trees(state, state_of(5))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(state))


def damage_by_truncating(folder):
    for path in folder.rglob("d/*"):  # Orbax keeps array data in folders named d
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_flipping_bits(folder):
    for path in folder.rglob("d/*"):
        raw = bytearray(path.read_bytes())
        for i in range(len(raw) // 4, len(raw) // 2):
            raw[i] ^= 0x55
        path.write_bytes(bytes(raw))


def damage_by_removing(folder):
    for path in [p for p in (folder / "state").rglob("*") if p.is_file()]:
        path.unlink()


def damage_of_the_position(folder):
    path = folder / "position" / "metadata"
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))


def damage_by_a_pipe(folder):
    (folder / "state" / "_METADATA").unlink()
    os.mkfifo(folder / "state" / "_METADATA")


# Where one of its readers fails, Orbax leaves the others' coroutines unfinished.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage",
    [
        damage_by_truncating,
        damage_by_flipping_bits,
        damage_by_removing,
        damage_of_the_position,
        damage_by_a_pipe,
    ],
)
def test_damaged_checkpoint_falls_back_and_says_so(tmp_path, parallel, damage, caplog):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2):
        checkpoints.save(step, parallel.replicate(state_of(step)), {"step": step})
    checkpoints.close()
    damage(tmp_path / "c" / "2")
    again = Checkpoints(tmp_path / "c", keep=2)
    with caplog.at_level(logging.WARNING, logger="vmr_jax"):
        state, position = again.restore(parallel.abstract(state_of(0)))
    assert_equal_trees(state, state_of(1))
    assert position == {"step": 1}
    assert "damaged" in caplog.text and "falling back to the one before it" in caplog.text
    again.save(2, parallel.replicate(state_of(2)), {"step": 2})  # the step can be written anew
    assert again.steps() == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_damaged_is_one_clear_error(tmp_path, parallel):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, parallel.replicate(state_of(1)), {"step": 1})
    checkpoints.close()
    damage_by_removing(tmp_path / "c" / "1")
    with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged \(steps \[1\]"):
        Checkpoints(tmp_path / "c", keep=2).restore(parallel.abstract(state_of(0)))


def test_half_written_checkpoint_is_not_seen(tmp_path, parallel):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, parallel.replicate(state_of(1)), {"step": 1})
    checkpoints.close()
    (tmp_path / "c" / "2.orbax-checkpoint-tmp-1").mkdir()
    _, position = Checkpoints(tmp_path / "c", keep=2).restore(parallel.abstract(state_of(0)))
    assert position == {"step": 1}


def test_other_shapes_name_the_parameter(tmp_path, parallel):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, parallel.replicate(state_of(1)), {"step": 1})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "c", keep=2)  # as another process would open it
    with pytest.raises(UserError, match=r"params/a/kernel is \(3, 4\) there and \(5, 4\) in this config"):
        checkpoints.restore(parallel.abstract(state_of(0, width=5)))
    assert checkpoints.steps() == [1]  # not mistaken for damage


def test_full_disk_is_told_before_anything_is_written(tmp_path, parallel, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    state = parallel.replicate(state_of(1))
    checkpoints.save(1, state, {"step": 1})
    # The arrays take 4 + 3 * 4 * 4 + 2 * 2 = 56 bytes, beside 2**18 for what else a checkpoint holds.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**18 + 55))
    with pytest.raises(UserError, match=r"The disk of .*c is full: a checkpoint takes 0\.3 MiB, 0\.3 MiB are"):
        checkpoints.save(2, state, {"step": 2})
    assert checkpoints.steps() == [1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**18 + 56))
    checkpoints.save(2, state, {"step": 2})
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("said", ["Disk quota exceeded", "File too large", "No space left on device"])
def test_what_the_system_does_not_let_be_written_is_one_line(tmp_path, parallel, monkeypatch, said):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    state = parallel.replicate(state_of(1))
    checkpoints.save(1, state, {"step": 1})

    def refused(*_, **__):  # as TensorStore says it
        raise ValueError(
            f"OUT_OF_RANGE: writing {'x' * 200}: Failed to write 8 bytes: {said} [os_error_code='27']"
        )

    monkeypatch.setattr(checkpoints._manager, "save", refused)
    with pytest.raises(
        UserError, match=f"c/2 could not be written: .*{said}.* What was saved before is intact"
    ):
        checkpoints.save(2, state, {"step": 2})


def test_kill_while_a_step_is_saved_again_loses_nothing(tmp_path, parallel, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, parallel.replicate(state_of(1)), {"step": 1})

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "save", kill)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(1, parallel.replicate(state_of(1)), {"step": 1, "evaluated": True})
    again = Checkpoints(tmp_path / "c", keep=2)
    assert again.restore(parallel.abstract(state_of(0)))[1] == {"step": 1}
    again.save(1, parallel.replicate(state_of(1)), {"step": 1, "evaluated": True})
    assert again.restore(parallel.abstract(state_of(0)))[1] == {"step": 1, "evaluated": True}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
