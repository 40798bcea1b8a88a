"""Checkpoints with Orbax, and nothing about Orbax anywhere else.

A run keeps two folders: `checkpoints/` with the newest states (to resume from) and `best/` with the variables
of the best step by the validation metric (to evaluate, predict and search with). A save is a temporary
folder that is renamed when it is complete, so a killed save is never seen; every leaf carries a checksum,
so a damaged one is noticed and passed over for the newest good one. Several hosts share the folders: all of
them call each function, the lead host writes, every host reads.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vmr_jax.errors import UserError
from vmr_jax.files import crc32_of_document, disk_error, require_file
from vmr_jax.parallel import is_lead_host, one_copy, wait_for_hosts
from vmr_jax.training.finite import named, not_finite, path_name

log = logging.getLogger("vmr_jax")

_SPARE = 1 << 18  # bytes of a checkpoint that are not arrays, and of the run's other files


class Checkpoints:
    """The checkpoints of one folder, by step.

    Args:
      folder: created at the first save.
      keep: how many of the newest are kept.
      changes: False for a reader beside the owner of the folder: it touches nothing, not even what is damaged.
    """

    def __init__(self, folder: Path, keep: int, changes: bool = True):
        self.folder = Path(folder).absolute()
        self._manager: ocp.CheckpointManager | None = None
        self._keep, self._changes = keep, changes

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            for path in self.folder.glob("*/_CHECKPOINT_METADATA"):  # Orbax reads them all at once
                require_file(path)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                create=self._changes,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=self._changes,  # of another process it may be a save in progress
            )
            handlers = {"state": ocp.StandardCheckpointHandler(), "position": ocp.JsonCheckpointHandler()}
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        return self._manager

    @property
    def _replaced(self) -> Path:
        """Where a checkpoint stays until another one of its step is complete."""
        return self.folder.with_name(self.folder.name + "-replaced")

    def _bring_back(self) -> None:
        """Puts back a checkpoint whose replacement a kill has cut short."""
        if not self._changes or self._manager is not None:
            return
        if is_lead_host() and self._replaced.is_dir():
            for path in self._replaced.iterdir():
                if path.name.isdecimal() and not (self.folder / path.name).exists():
                    os.replace(path, self.folder / path.name)
        wait_for_hosts(f"{self.folder.name} brought back")

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first."""
        self._bring_back()
        if not self.folder.is_dir():
            return []
        return sorted(self._open().all_steps())

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Saves a state and a JSON position, replacing a checkpoint of the same step.

        Raises:
          UserError: where a number of the state is not finite, or the disk is full; earlier saves stay.
        """
        _require_finite(self.folder / str(step), state)
        self.check_space(state)
        manager = self._open()
        try:
            if step in manager.all_steps():
                self._move(step, self.folder, self._replaced)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(one_copy(state)),
                    position=ocp.args.JsonSave(
                        {**position, "checksums": _checksums(state), "crc32": crc32_of_document(position)}
                    ),
                ),
            )
            manager.wait_until_finished()
            if is_lead_host():
                shutil.rmtree(self._replaced, ignore_errors=True)
        except OSError as error:
            raise disk_error(self.folder / str(step), error) from None
        except Exception as error:
            if _is_disk_trouble(error, self.folder):
                raise UserError(
                    f"The checkpoint {self.folder / str(step)} could not be written: {_first_line(error)}. "
                    "What was saved before is intact; free space or fix permissions and give the same "
                    "command again to resume."
                ) from None
            raise

    def check_space(self, state: Any) -> None:
        """UserError before anything is written, because Orbax reports a full disk in many tracebacks.

        Args:
          state: arrays, or their shapes.
        """
        needed = sum(leaf.size * leaf.dtype.itemsize for _, leaf in _leaves(state)) + _SPARE
        free = _free(self.folder)
        if free < needed:
            raise UserError(
                f"The disk of {self.folder} is full: a checkpoint takes {needed / 2**20:.1f} MiB, "
                f"{free / 2**20:.1f} MiB are free. What was saved before is intact; free space and give the "
                "same command again to resume."
            )

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest good state (of `step`, if given) into an abstract tree with shardings.

        Returns (state, position), or None where there is no checkpoint. A damaged one is moved aside (not by a
        mere reader) and the one before it is taken, with a warning; UserError where none is left.
        """
        steps = [s for s in self.steps() if step is None or s == step]
        for candidate in reversed(steps):
            self._refuse_other_model(candidate, abstract)
            try:
                return self._read(candidate, abstract)
            except Exception as error:
                log.warning(
                    "The checkpoint %s is damaged (%s); %sfalling back to the one before it",
                    self.folder / str(candidate),
                    _first_line(error),
                    "moved aside, " if self._changes else "",
                )
                if self._changes:
                    self._set_aside(candidate)
        if steps:
            aside = self.folder.with_name(self.folder.name + "-damaged")
            moved = f"; moved to {aside}" if self._changes else ""
            raise UserError(
                f"Every checkpoint in {self.folder} is damaged (steps {steps}{moved}). Train again in a new "
                "--workdir, or restore the folder from a copy."
            )
        return None

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        self._require_files(step)
        restored = self._open().restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore()),
        )
        position = dict(restored["position"])
        sums, of_position = position.pop("checksums"), position.pop("crc32", None)  # None: of version 0.1
        if _checksums(restored["state"]) != sums or of_position not in (None, crc32_of_document(position)):
            raise ValueError("checksum mismatch")
        # A fresh copy: restored buffers may be shared with the reader, and the state is donated later.
        state = jax.tree.map(lambda x: jax.device_put(np.array(x), x.sharding), restored["state"])
        return state, position

    def newest_record(self) -> tuple[int, str] | None:
        """The step of the newest checkpoint and the digest of its arrays, of which none is read; None: none.

        Raises:
          UserError: where the record of the checkpoint cannot be read.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            self._require_files(steps[-1])
            restored = self._open().restore(steps[-1], args=ocp.args.Composite(position=ocp.args.JsonRestore()))
            return steps[-1], _digest(restored["position"]["checksums"])
        except Exception as error:
            raise UserError(
                f"The checkpoint {self.folder / str(steps[-1])} is damaged ({_first_line(error)}). Restore it "
                "from a copy of the run."
            ) from None

    def _require_files(self, step: int) -> None:
        """Raises ValueError where a checkpoint holds a pipe or a device: Orbax would read it for ever."""
        for path in (self.folder / str(step)).rglob("*"):
            if not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path.name} is no file")

    def _refuse_other_model(self, step: int, abstract: Any) -> None:
        """Raises UserError for a checkpoint of other shapes (another architecture or size)."""
        try:
            self._require_files(step)
            saved = self._open().item_metadata(step)["state"]
            shapes = {path_name(path): tuple(leaf.shape) for path, leaf in _leaves(saved.tree)}
        except Exception:
            return  # damaged; reading it says how
        wanted = {path_name(path): tuple(leaf.shape) for path, leaf in _leaves(abstract)}
        if shapes and shapes != wanted:
            name = next(n for n in sorted(shapes.keys() | wanted.keys()) if shapes.get(n) != wanted.get(n))
            raise UserError(
                f"The checkpoint {self.folder / str(step)} belongs to another architecture or size: {name} "
                f"is {shapes.get(name, 'absent')} there and {wanted.get(name, 'absent')} in this config. Use "
                "the config it was trained with (config.json beside it), or another --workdir."
            )

    def _set_aside(self, step: int) -> None:
        self._move(step, self.folder, self.folder.with_name(self.folder.name + "-damaged"))

    def _move(self, step: int, source: Path, target: Path) -> None:
        """Moves a checkpoint to another folder, at once: one that is half deleted would count as damaged."""
        if is_lead_host():
            target.mkdir(exist_ok=True)
            if (target / str(step)).exists():
                shutil.rmtree(target / str(step))
            os.replace(source / str(step), target / str(step))
        wait_for_hosts(f"{source.name} {step} moved to {target.name}")
        if self._manager is not None:
            self._manager.reload()

    def close(self) -> None:
        """Releases the folder."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder of `Checkpoints` has one; says nothing of whether it can be read."""
    return any(path.name.isdecimal() for path in folder.glob("*"))


def _require_finite(path: Path, state: Any) -> None:
    found = not_finite(state)
    if found:
        raise UserError(
            f"{path} was not saved: {named(found)} holds numbers that are not finite. What was saved before is "
            "intact."
        )


def _checksums(state: Any) -> dict[str, int]:
    return {
        path_name(path): zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).view(np.uint8).reshape(-1).data)
        for path, leaf in _leaves(state)
    }


def digest_of_arrays(state: Any) -> str:
    """A digest of paths and numbers: that of `Checkpoints.newest_record` for the state that was saved."""
    return _digest(_checksums(state))


def _digest(checksums: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps(dict(checksums), sort_keys=True).encode()).hexdigest()[:12]


def _leaves(tree: Any) -> list:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _is_disk_trouble(error: Exception, folder: Path) -> bool:
    text = str(error).lower()
    words = ("no space left", "permission denied", "read-only", "resource_exhausted", "quota", "file too large")
    return any(word in text for word in words) or _free(folder) < 1 << 20


def _free(folder: Path) -> int:
    """Bytes left on the disk that holds `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _first_line(error: Exception) -> str:
    """Of a long line both ends: TensorStore names the place first and the cause last."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:95]} ... {line[-100:]}"
