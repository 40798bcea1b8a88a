"""Small files, written whole or not at all, and the message where that fails."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON document, whole or not at all."""
    write_whole(path, json.dumps(plain(document), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    r"""Writes a text file by way of a temporary one, so that it is never half there.

    Half of a surrogate pair, which UTF-8 cannot hold, is written as JSON writes it: \ud800.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from None


def disk_error(path: Path, error: OSError) -> UserError:
    """The message for a file that could not be written."""
    return UserError(
        f"{path} could not be written ({error.strerror or error}). What was saved before is intact; free "
        "space or fix permissions and give the same command again to resume."
    )


def plain(value: Any) -> Any:
    """Turns numpy scalars and arrays, tuples and nested containers into what JSON knows."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value
