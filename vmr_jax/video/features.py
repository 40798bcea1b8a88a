"""The features of a video on disk: rows in a .npy file, written as they come and mapped when they are read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import crc32_of_file, past_race
from vmr_jax.video.encoder import FrameEncoder
from vmr_jax.video.manifest import FEATURES, Entry


def write_features(path: Path, chunks: Iterable[np.ndarray], encoder: FrameEncoder) -> int:
    """Writes rows as they come to a .npy file, whose header is told their number at the end; returns it."""
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (0, encoder.dim)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # with room for any number of rows
        rows, start = 0, file.tell()
        for vectors in chunks:
            if vectors.shape[1] != encoder.dim or not np.isfinite(vectors).all():
                raise ValueError(f"The encoder {encoder.name} gave {vectors.shape}, or what is not finite.")
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            rows += len(vectors)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, encoder.dim)})
        if file.tell() != start:
            raise ValueError("The header of a .npy file has changed its length.")
        file.flush()
        os.fsync(file.fileno())
    return rows


def read_features(library: Path, entry: Entry) -> np.ndarray:
    """Rows [n,D] float32 of a video, mapped; UserError where they are not what was written."""
    path = library / FEATURES / f"{entry.content}.npy"
    again = f"Delete the file, and ingest {entry.file} again."
    try:
        rows = past_race(lambda: np.load(path, mmap_mode="r", allow_pickle=False))
        if crc32_of_file(path) != entry.crc32:
            raise UserError(f"{path} is not what was written (its checksum differs). {again}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the features of {entry.id}. {again}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). {again}") from None
    return rows
