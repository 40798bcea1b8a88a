"""Features in files of one row each, as the programs of TALL, MAC and MML keep them: a file per unit.

    VIDEO_1.0_17.0.npy           features [D] of frames 1 to 17: TALL's C3D, MML's captions
    VIDEO.mp4_1_33.npy, .pt      the same of MAC's and MML's scores

A row is a unit, some times 16 frames, and rows begin 16 frames apart; of units that overlap more, those between
are left out. A file of a part of a video in seconds, such as QVHighlights' VIDEO_60.0_210.0.npz, is none.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.feature_files import READ_FILE, refuse_other_downloads
from vmr_jax.input.features import FeatureReader

STRIDE = 16  # frames from one row to the next
_NAMES = (re.compile(r"(.+)_(\d+)\.0_(\d+)\.0(\.\w+)"), re.compile(r"(.+)\.mp4_(\d+)_(\d+)(\.\w+)"))


def are_units(path: Path) -> bool:
    """Whether a folder of features holds a file per unit; the first file that is there tells it."""
    with os.scandir(path) as entries:
        name = next((entry.name for entry in entries if not entry.name.startswith(".")), "")
    return _unit(name) is not None


class Units(FeatureReader):
    """The rows [n,D] of videos from a file for each.

    Args:
      path: the folder.
      key: name of the array in a file; '' for the usual ones.
    """

    def __init__(self, path: Path, key: str):
        starts: dict[str, dict[int, str]] = {}
        for name in os.listdir(path):
            if (unit := _unit(name)) is not None:
                starts.setdefault(unit[0], {})[unit[1]] = name
        self._files = {video: _rows(units) for video, units in starts.items()}
        super().__init__(path, key, self._files)

    def where(self, video_id: str) -> str:
        return f"{self.path}, files of {self._name(video_id)}"

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        """The first and the last file of each video, which stand for those between."""
        rows = (self._files[str(self._name(video))] for video in video_ids)
        return [Path(self.path) / name for names in rows for name in dict.fromkeys((names[0], names[-1]))]

    def _read(self, name: str, where: str) -> np.ndarray:
        rows = []
        for file in (Path(self.path) / unit for unit in self._files[name]):
            refuse_other_downloads(file)
            rows.append(np.asarray(READ_FILE[file.suffix](file, self.key, str(file)), np.float32).reshape(-1))
            if rows[-1].shape != rows[0].shape:
                raise UserError(
                    f"{file} holds {rows[-1].size} numbers, and the unit before it {rows[0].size}. Get it "
                    "again, and keep units of one kind of features in a folder."
                )
        return np.stack(rows)


def _unit(name: str) -> tuple[str, int] | None:
    """Video and first frame of a file of this name; None where it is of no unit."""
    match = next((found for pattern in _NAMES if (found := pattern.fullmatch(name))), None)
    if match is None or match[4] not in READ_FILE or (int(match[3]) - int(match[2])) % STRIDE:
        return None
    return match[1], int(match[2])


def _rows(units: dict[int, str]) -> list[str]:
    """The files of units, by their first frames, that begin a whole number of strides behind the first one."""
    first = min(units)
    return [units[start] for start in sorted(units) if (start - first) % STRIDE == 0]
