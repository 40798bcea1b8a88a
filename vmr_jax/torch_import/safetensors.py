"""Reads the safetensors format: the length of a header, the header (JSON), the bytes of all tensors.

Format: github.com/huggingface/safetensors, README, "Format".
"""

import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import parsed

MAX_HEADER = 100_000_000  # bytes, the format's own limit
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": jnp.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns all tensors of a file by name, as read-only views of it: only what is used is read.

    Raises:
      UserError: for a missing, truncated or foreign file, and for a type of numbers that NumPy lacks.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no safetensors file at {path}. Check the path.")
    header, start = _header(path)
    tensors = {name: _place(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    _check_places(path, [place for _, _, place in tensors.values()], path.stat().st_size - start)
    if not tensors:
        raise UserError(f"{path} holds no tensor. Get the file again.")
    content = np.memmap(path, np.uint8, "r")[start:]
    return {
        name: content[begin:end].view(dtype).reshape(shape)
        for name, (dtype, shape, (begin, end)) in tensors.items()
    }


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header and the place of the first byte after it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise _damaged(path, "it is shorter than its header, or has none")
        try:
            header = parsed(file.read(length))
        except ValueError:
            raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header, 8 + length


def _place(path: Path, name: str, entry: Any) -> tuple[np.dtype, list[int], tuple[int, int]]:
    """(type, shape, (begin, end) in bytes) of one tensor."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(isinstance(x, int) and x >= 0 for x in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise _damaged(path, f"its header does not describe the tensor {name}")
    if kind not in _DTYPES:
        raise UserError(
            f"{path}: the numbers of the tensor {name} are of type {kind}; read are {', '.join(_DTYPES)}. Save "
            "the weights as float32 or float16."
        )
    dtype = np.dtype(_DTYPES[kind])
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"the tensor {name} has {end - begin} bytes, but its shape is {shape} of {kind}")
    return dtype, shape, (begin, end)


def _check_places(path: Path, places: list[tuple[int, int]], size: int) -> None:
    """The tensors must follow one another and fill the file to its end."""
    last = 0
    for begin, end in sorted(places):
        if begin != last:
            raise _damaged(path, f"its tensors leave a gap or overlap at byte {begin}")
        last = end
    if last != size:
        raise _damaged(path, f"its tensors have {last} bytes, but {size} follow the header")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is not a whole safetensors file: {why}. Download it again, and check its size against the "
        "page that it comes from (a file of a hundred bytes is a Git LFS pointer)."
    )
