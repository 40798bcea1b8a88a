"""Regions that a detector found in frames, as DORi's program lays them out: a folder of pickles for each video.

    DIR/VIDEO/VIDEO-000123.pkl   of frame 123: 'features' [n,D] and 'object_class' [n] of its n regions
    DIR/*.json                   'frame_selected', the frames of each video, one for each row of its other
                                 features; 'mapping', whether each class is 'human'

The json files are the program's annotations (`charades_sta_train_tokens_w_objects.json` and that of the test
split); all else in them is left alone. Pickles are read without running anything that is in them.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import read_json
from vmr_jax.input.features import FeatureReader
from vmr_jax.torch_import.torch_file import read_pickle

log = logging.getLogger("vmr_jax")

STREAMS = ("objects", "persons")  # fields of `Batch` that are read from such a folder


def are_detections(path: Path) -> bool:
    """Whether a folder of features holds folders of pickles."""
    return path.is_dir() and next(path.glob("*/*.pkl"), None) is not None


class Detections(FeatureReader):
    """The regions of each row, or whether they are people; a row is one frame.

    Of a frame the first `slots` regions of its file are kept; where it has fewer, the other slots are zeros.

    Args:
      path: the folder.
      stream: 'objects', rows [n,slots*D], or 'persons', rows [n,slots] of 1 (a person) and 0.
      slots: O, regions that are kept of a frame.

    Raises:
      UserError: where no json file says which frames and classes there are.
    """

    def __init__(self, path: Path, stream: str, slots: int):
        self._stream, self._slots = stream, slots
        self._frames: dict[str, list[int]] = {}
        self._human: dict[str, bool] = {}
        self._lists = sorted(path.glob("*.json"))
        for file in self._lists:
            self._read_list(file)
        if not self._frames or not self._human:
            raise UserError(
                f"{path} holds detections, and no json file with 'frame_selected' and 'mapping'. Put the "
                "annotations of DORi's program beside the folders, charades_sta_train_tokens_w_objects.json "
                "and that of the test split."
            )
        # The lists may name other folders, even such as '../x'; what counts is in this one.
        folders = {entry.name for entry in path.iterdir() if entry.is_dir()}
        super().__init__(path, stream, folders & self._frames.keys())

    def _read_list(self, file: Path) -> None:
        try:
            content = read_json(file)
            self._frames.update((v, [int(frame) for frame in f]) for v, f in content["frame_selected"].items())
            self._human.update((str(kind), bool(what["human"])) for kind, what in content["mapping"].items())
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, OSError) as error:
            raise UserError(
                f"{file} is no list of DORi's program: expected are 'frame_selected', a list of frames for "
                f"each video, and 'mapping', an object with 'human' for each class ({error!r}). Get it again, "
                "or keep only the program's lists beside the folders."
            ) from None

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, str(self._slots))

    def where(self, video_id: str) -> str:
        return str(Path(self.path) / str(self._name(video_id)))

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        """The lists, which name every file; those of the frames are hundreds a video."""
        return self._lists

    def _read(self, name: str, where: str) -> np.ndarray:
        files = [Path(where) / f"{name}-{frame:06d}.pkl" for frame in self._frames[name]]
        frames = [self._regions(file) for file in files]
        width = max((features.shape[1] for features, _ in frames), default=0)
        for file, (features, _) in zip(files, frames, strict=True):
            if len(features) and features.shape[1] != width:
                raise UserError(
                    f"{file} has regions of {features.shape[1]} numbers, and another frame of {width}. Take "
                    "the files of one detector."
                )
        rows = np.zeros((len(frames), self._slots, width), np.float32)
        persons = np.zeros((len(frames), self._slots), np.float32)
        for row, flags, (features, human) in zip(rows, persons, frames, strict=True):
            if human:
                row[: len(features)], flags[: len(human)] = features, human
        return persons if self._stream == "persons" else rows.reshape(len(rows), -1)

    def _regions(self, file: Path) -> tuple[np.ndarray, list[bool]]:
        """Vectors [n,D] of the regions of a frame that are kept, and whether each is a person."""
        content: Any = read_pickle(file)
        try:
            features = np.asarray(content["features"], np.float32)
            kinds = [str(int(kind)) for kind in content["object_class"]]
            features = features if kinds else features.reshape(0, 0)  # of a frame without any
            whole = features.ndim == 2 and len(features) == len(kinds)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            whole = False
        if not whole:
            raise UserError(
                f"{file} holds no detections: expected are 'features' [regions,dimensions] and 'object_class', "
                "a number for each region. Get it again."
            )
        features, kinds = features[: self._slots], kinds[: self._slots]
        unknown = sorted(set(kinds) - set(self._human))
        if unknown:
            raise UserError(
                f"{file} has a region of class {unknown[0]}, of which the 'mapping' of {self.path}/*.json says "
                "nothing. Take the lists that belong to these detections."
            )
        return features, [self._human[kind] for kind in kinds]
