"""Files of features of one video, and HDF5 files of many: the arrays in them, and what is refused.

What a file holds is not trusted: nothing is unpickled, an HDF5 file may not lead to other files (external links
and storage, virtual datasets), and no array is larger than its file can hold, whatever its header claims.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import require_file, saved_instead

# Names of the array within an .npz file, an HDF5 group or a video's own HDF5 file, where the user gives none.
KEYS = ("features", "image_embeddings", "feature", "c3d_features")
HDF5 = (".h5", ".hdf5", ".hdf")
TORCH = (".pt", ".pth")
_DEEPEST = 4  # groups within each other
_MOST_PACKED = 1200  # times that deflate can make a file smaller: 1,032
_LARGE, _MOST_PACKED_OF_LARGE = 2**26, 100  # of that many bytes only what would fill the memory is so uniform
_MOST_BYTES = 2**34  # of the array of one video


def refuse_other_downloads(path: Path) -> None:
    """Raises UserError for a pointer of Git LFS and for a web page, whatever the name of the file."""
    require_file(path)
    with path.open("rb") as file:
        if wrong := saved_instead(file.read(1000)):
            raise UserError(f"{path} {wrong}")


def _bounded(size: int, stored: int, packed: bool, where: str) -> None:
    """Raises UserError where an array is larger than its file can hold.

    Args:
      size: bytes of the array, as the header has it.
      stored: bytes of the file, or of the array within it.
      packed: whether they may be compressed.
      where: names it.
    """
    times = (_MOST_PACKED if size <= _LARGE else _MOST_PACKED_OF_LARGE) if packed else 1
    if size > stored * times or size > _MOST_BYTES:
        raise UserError(
            f"{where} claims {size:,} bytes of numbers in {stored:,} bytes of file. The file is damaged, cut "
            "short or made to fill the memory; get it again."
        )


# --- HDF5 -----------------------------------------------------------------------------------------


def open_hdf5(path: Path) -> h5py.File:
    """Opens a file; UserError where it is none."""
    try:
        refuse_other_downloads(path)
        # Reading needs no lock, and network file systems often have none.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened as HDF5 ({error}). The file is damaged or cut short; compare its size "
            "with that of the source and get it again."
        ) from None


def group_of_videos(file: h5py.File, key: str) -> str:
    """The path of the group that holds the videos, with a slash at its end; '' where that is the file itself.

    One group, or several within each other, may stand around all videos. `key` names the array of a video.
    """
    group, prefix = file, ""
    for _ in range(_DEEPEST):
        names = list(group)
        if len(names) != 1 or not _is_around(group, names[0], key):
            break
        group, prefix = group[names[0]], f"{prefix}{names[0]}/"
    return prefix


def _is_around(group: h5py.Group, name: str, key: str) -> bool:
    """Whether the one entry of a group is no video: its own entries have no name that an array has."""
    hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
    if not hard or not isinstance(group[name], h5py.Group):
        return False
    inner = group[name]
    named = set(inner) & {key} if key else set(inner) & set(KEYS)
    groups = any(inner.get(entry, getclass=True) is h5py.Group for entry in inner)
    return not named and (len(inner) > 1 or groups or name in KEYS)


def array_of(group: h5py.Group, name: str, key: str, where: str) -> np.ndarray:
    """The array of an entry: the entry itself, or an array within the group that it is."""
    entry = _own(group, name, where)
    if isinstance(entry, h5py.Dataset):
        if key:
            raise UserError(
                f'{where} is an array, not a group with the array "{key}". Set config.dataset.feature_key '
                'to "".'
            )
        return _read(entry, where)
    return _read(_own(entry, array_key(list(entry), key, where), where), where)


def _own(group: h5py.Group, path: str, where: str) -> Any:
    """The entry at a path; UserError where a link on the way leads to another file."""
    for name in path.split("/"):
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(
                f"{where} is a link to another file, which is not followed. Copy the arrays into one."
            )
        group = group[name]
    return group


def _read(data: Any, where: str) -> np.ndarray:
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{where} is a group of groups; expected an array. Check config.dataset.feature_key.")
    if data.external or data.is_virtual:
        raise UserError(f"{where} has its numbers in other files, which are not read. Copy them into one file.")
    size, stored = data.size * data.dtype.itemsize, data.id.get_storage_size()
    # Of chunks that were never written nothing is stored, and they would be read as zeros.
    _bounded(size, stored, data.id.get_create_plist().get_nfilters() > 0, where)
    return data[()]


def array_key(names: Sequence[str], key: str, where: str) -> str:
    """The array to read among those that are there."""
    wanted = (key,) if key else KEYS
    found = next((k for k in wanted if k in names), None)
    if found is None:
        raise UserError(
            f"{where} has no array {' or '.join(repr(k) for k in wanted)}; it has: "
            f"{', '.join(sorted(names)) or 'none'}. Set config.dataset.feature_key to the one that holds the "
            "features."
        )
    return found


# --- one file a video -----------------------------------------------------------------------------


def _refuse_key(key: str, where: str) -> None:
    if key:
        raise UserError(f'{where} is a single array without keys. Set config.dataset.feature_key to "".')


def matrix(rows: np.ndarray, where: str) -> np.ndarray:
    """Squeezes an array that was read to [n,D] and converts it to float16 or float32.

    A matrix stays as it is. Of more axes all but two must have length 1, wherever they stand: [1,n,D], [n,1,D]
    and [n,D,1,1] are [n,D].
    """
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or rows.dtype.kind != "f":
        kind = getattr(rows, "dtype", type(rows).__name__)
        raise UserError(
            f"{where} holds {kind} of shape {list(np.shape(rows))}; expected floating-point features "
            "[clips,dimensions]. Check config.dataset.features and config.dataset.feature_key."
        )
    if rows.ndim > 2:
        long = [n for n in rows.shape if n != 1]
        if len(long) > 2:
            raise UserError(
                f"{where} has shape {list(rows.shape)}; expected [clips,dimensions]. Pool the other axes first."
            )
        one_dimension = len(long) == 1 and rows.shape[0] != 1
        rows = rows.reshape(long if len(long) == 2 else (-1, 1) if one_dimension else (1, -1))
    with np.errstate(over="ignore"):  # infinity then, which `check_rows` names
        return rows.astype(np.float32) if rows.dtype not in (np.float16, np.float32) else rows


def _check_header(file: IO[bytes], stored: int, packed: bool, where: str) -> None:
    """Raises UserError where the header of a .npy file claims more than there can be."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    _bounded(int(np.prod(shape, dtype=object)) * dtype.itemsize, stored, packed, where)


def _read_npy(path: Path, key: str, where: str) -> np.ndarray:
    _refuse_key(key, where)
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, False, where)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _read_npz(path: Path, key: str, where: str) -> np.ndarray:
    # NumPy leaves a damaged file open that it opened itself.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        name = array_key(arrays.files, key, where)
        packed: zipfile.ZipInfo = arrays.zip.getinfo(name if name in arrays.zip.namelist() else f"{name}.npy")
        with arrays.zip.open(packed) as header:
            _check_header(header, path.stat().st_size, packed.compress_type != zipfile.ZIP_STORED, where)
        return arrays[name]


def _read_hdf5(path: Path, key: str, where: str) -> np.ndarray:
    with open_hdf5(path) as file:
        names = list(file)
        if (
            len(names) == 1
            and names[0] not in (*KEYS, key)
            and isinstance(_own(file, names[0], where), h5py.Group)
        ):
            return array_of(file, names[0], key, where)  # the group of the video
        return _read(_own(file, array_key(names, key, where), where), where)


def _read_torch(path: Path, key: str, where: str) -> np.ndarray:
    from vmr_jax.torch_import.torch_file import read_tensors

    content = read_tensors(path)
    if isinstance(content, Mapping):
        return np.asarray(content[array_key([str(name) for name in content], key, where)])
    _refuse_key(key, where)
    return np.asarray(content)


READ_FILE: Mapping[str, Callable[[Path, str, str], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    **dict.fromkeys(TORCH, _read_torch),
    **dict.fromkeys(HDF5, _read_hdf5),
}
