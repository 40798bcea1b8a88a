"""Preextracted features: read them as the field distributes them, keep them where training reads them fast.

A `FeatureReader` opens a file or folder of features, whatever its layout. A `FeatureStore` holds the videos
of a dataset in one memory-mapped file, checked once. Rows are native: nothing is resampled or normalised.
"""

import abc
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from vmr_jax.errors import UserError, nearest

# Names of the array within an .npz file, an HDF5 group or a video's own HDF5 file, where the user gives none.
KEYS = ("features", "image_embeddings", "feature", "c3d_features")
_HDF5 = (".h5", ".hdf5", ".hdf")
_VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")
_FORMAT = 1  # of the cache
_ALIGNMENT = 64  # bytes; each video starts at a multiple


def plain_id(name: str) -> str:
    """A video id without the extension of a video file: 's17-d69.avi' and 's17-d69' are the same video."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _VIDEO_SUFFIXES else name


# --- readers --------------------------------------------------------------------------------------


class FeatureReader(abc.ABC):
    """Features of many videos, by video id. Ids with and without the extension of a video file are the same.

    Attributes:
      path: the file or folder.
      key: name of the array within a video's group or file; '' for the usual ones.
    """

    def __init__(self, path: Path, key: str, names: Iterable[str]):
        self.path, self.key = path, key
        self._names: dict[str, str] = {}  # plain id -> name in the file or folder
        for name in sorted(names):
            other = self._names.setdefault(plain_id(name), name)
            if other != name:
                raise UserError(f"{path} has {other} and {name}, which are one video id. Remove one of them.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The video ids, sorted, without extensions."""
        return tuple(self._names)

    def __contains__(self, video_id: str) -> bool:
        return plain_id(video_id) in self._names

    def read(self, video_id: str) -> np.ndarray:
        """Returns the features [n,D] of a video, float16 or float32, all native rows.

        Axes of length 1 are squeezed: [n,1,1,D] and [1,n,D] become [n,D]. float64 becomes float32.

        Raises:
          UserError: for an absent video, a damaged file, a wrong key, or an array that is no feature matrix.
        """
        if video_id not in self:
            raise UserError(
                f'{self.path} has no features of the video "{video_id}".{nearest(video_id, self.ids)}'
            )
        name = self._names[plain_id(video_id)]
        where = self.where(video_id)
        try:
            rows = self._read(name, where)
        except UserError:
            raise
        except Exception as error:  # h5py, zipfile, zlib and numpy each raise their own for a damaged file
            raise UserError(
                f"{where} cannot be read ({error}). The file is damaged, cut short or holds pickled objects; "
                "get or extract it again."
            ) from None
        return _matrix(rows, where)

    @abc.abstractmethod
    def where(self, video_id: str) -> str:
        """The place of a video's features, for messages."""

    @abc.abstractmethod
    def files(self, video_ids: Iterable[str]) -> list[Path]:
        """The files that hold these videos."""

    @abc.abstractmethod
    def _read(self, name: str, where: str) -> np.ndarray: ...


class Hdf5File(FeatureReader):
    """One HDF5 file: an array `[id]`, or an array `[id][key]`."""

    def __init__(self, path: Path, key: str):
        self._file = _open_hdf5(path)
        super().__init__(path, key, self._file.keys())

    def where(self, video_id: str) -> str:
        return f"{self.path}[{video_id!r}]"

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        return [self.path]

    def _read(self, name: str, where: str) -> np.ndarray:
        return _array_of(self._file[name], self.key, where)


class Folder(FeatureReader):
    """A folder with one .npy, .npz or HDF5 file per video, named by its id."""

    def __init__(self, path: Path, key: str):
        files = [f for f in path.iterdir() if f.suffix in _READ_FILE and not f.name.startswith(".")]
        suffixes = sorted({f.suffix for f in files})
        if len(suffixes) != 1:
            found = f"files of several kinds ({', '.join(suffixes)})" if suffixes else "no feature files"
            raise UserError(
                f"{path} holds {found}; expected one file per video, its id and one of "
                f"{', '.join(_READ_FILE)}. Set config.dataset.features to the folder that holds them."
            )
        self._suffix = suffixes[0]
        super().__init__(path, key, (f.stem for f in files))

    def where(self, video_id: str) -> str:
        return str(self._file_of(self._names[plain_id(video_id)]))

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        return [self._file_of(self._names[plain_id(v)]) for v in video_ids]

    def _file_of(self, name: str) -> Path:
        return self.path / (name + self._suffix)

    def _read(self, name: str, where: str) -> np.ndarray:
        return _READ_FILE[self._suffix](self._file_of(name), self.key, where)


def open_features(path: str | Path, key: str = "") -> FeatureReader:
    """Opens preextracted features.

    Args:
      path: an HDF5 file with one entry per video (2D-TAN, MS-2D-TAN, CPL), or a folder of one .npy (LGI,
        VSLNet), .npz (Moment-DETR's family) or HDF5 file (SCN, RTBPN) per video.
      key: name of the array within a video's HDF5 group or file; '' takes the first of `KEYS` that is there.

    Raises:
      UserError: for a missing path, an unknown kind, a damaged file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return Folder(path, key)
    if not path.exists():
        raise UserError(
            f"There are no features at {path}. Set config.dataset.features to an HDF5 file or a folder with "
            "one file per video; the README of the dataset says where to get them."
        )
    if path.suffix in _HDF5 or h5py.is_hdf5(path):
        return Hdf5File(path, key)
    raise UserError(
        f"{path} is no feature file of a known kind. Expected an HDF5 file ({', '.join(_HDF5)}) with one entry "
        f"per video, or a folder with one file ({', '.join(_READ_FILE)}) per video."
    )


def missing(reader: FeatureReader, video_ids: Iterable[str]) -> list[str]:
    """Returns the ids without features, in the order given. The caller decides what becomes of them."""
    return [video_id for video_id in video_ids if video_id not in reader]


def _open_hdf5(path: Path) -> h5py.File:
    try:
        # Reading needs no lock, and network file systems often have none.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened as HDF5 ({error}). The file is damaged or cut short; compare its size "
            "with that of the source and get it again."
        ) from None


def _array_of(entry: h5py.Dataset | h5py.Group, key: str, where: str) -> np.ndarray:
    """The array of an HDF5 entry: the entry itself, or an array within the group."""
    if isinstance(entry, h5py.Dataset):
        if key:
            raise UserError(
                f'{where} is an array, not a group with the array "{key}". Set config.dataset.feature_key '
                'to "".'
            )
        return entry[()]
    return entry[_key(list(entry), key, where)][()]


def _key(names: Sequence[str], key: str, where: str) -> str:
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


def _read_npy(path: Path, key: str, where: str) -> np.ndarray:
    if key:
        raise UserError(f'{where} is a single array without keys. Set config.dataset.feature_key to "".')
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path, key: str, where: str) -> np.ndarray:
    # NumPy leaves a damaged file open that it opened itself.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays[_key(arrays.files, key, where)]


def _read_hdf5(path: Path, key: str, where: str) -> np.ndarray:
    with _open_hdf5(path) as file:
        return _array_of(file, key, where)


_READ_FILE: Mapping[str, Callable[[Path, str, str], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    **{suffix: _read_hdf5 for suffix in _HDF5},
}


def _matrix(rows: np.ndarray, where: str) -> np.ndarray:
    """Squeezes to [n,D] and converts to float16 or float32."""
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or rows.dtype.kind != "f":
        kind = getattr(rows, "dtype", type(rows).__name__)
        raise UserError(
            f"{where} holds {kind} of shape {list(np.shape(rows))}; expected floating-point features "
            "[clips,dimensions]. Check config.dataset.features and config.dataset.feature_key."
        )
    if sum(n != 1 for n in rows.shape[:-1]) > 1:
        raise UserError(
            f"{where} has shape {list(rows.shape)}; expected [clips,dimensions]. Pool the other axes first."
        )
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.astype(np.float32) if rows.dtype not in (np.float16, np.float32) else rows


# --- store ----------------------------------------------------------------------------------------


class FeatureStore(Mapping):
    """Features of a dataset's videos in one memory-mapped file: `store[video_id]` is a view [n,D]."""

    def __init__(self, folder: Path):
        """Opens a finished cache; `build_feature_store` makes one."""
        self.path = folder
        self._index = json.loads((folder / "index.json").read_text(encoding="utf-8"))["videos"]
        self._bytes = np.memmap(folder / "features.bin", np.uint8, "r")

    def __getitem__(self, video_id: str) -> np.ndarray:
        offset, dtype, shape = self._index[video_id]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._bytes[offset : offset + size].view(dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def build_feature_store(
    reader: FeatureReader,
    video_ids: Iterable[str],
    feature_dim: int,
    cache_dir: str | Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """Copies the features of the listed videos into one memory-mapped file, or opens it where that was done.

    The cache lies in cache_dir/<fingerprint>; the fingerprint covers the reader's path and key, the name, size
    and modification time of every file read, the ids and the format, so a changed source is read anew. It is
    written under another name and renamed when complete. Several processes may ask at once: one builds, the
    others wait.

    Args:
      reader: where the features are.
      video_ids: the videos wanted, each in the reader; duplicates count once.
      feature_dim: D that every video must have.
      cache_dir: folder of all caches; made if absent.
      on_progress: called with (videos done, videos) after each.

    Raises:
      UserError: for a video of another dimension, without clips, or with NaN or infinity (naming the first such
        row); where the disk is full or cache_dir cannot be written.
    """
    video_ids = sorted(set(video_ids))
    absent = missing(reader, video_ids)
    if absent:
        raise UserError(f"{reader.path} has no features of {len(absent)} videos, such as {absent[0]}.")
    cache_dir = Path(cache_dir).expanduser()
    final = cache_dir / _fingerprint(reader, video_ids, feature_dim)
    if final.is_dir():
        return FeatureStore(final)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(final.with_suffix(".lock")):
            if not final.is_dir():
                with _renamed_when_done(final) as folder:
                    _write(reader, video_ids, feature_dim, folder, on_progress)
    except OSError as error:
        raise UserError(
            f"The features cannot be written to {cache_dir} ({error.strerror or error}). They take as much "
            f"room as {reader.path} uncompressed. Make room, or set config.dataset.data_dir to another disk."
        ) from None
    return FeatureStore(final)


def _fingerprint(reader: FeatureReader, video_ids: Sequence[str], feature_dim: int) -> str:
    digest = hashlib.sha256()
    parts = [_FORMAT, str(reader.path.resolve()), reader.key, feature_dim, *video_ids]
    for file in reader.files(video_ids):
        stat = file.stat()
        parts += [file.name, stat.st_size, stat.st_mtime_ns]
    for part in parts:
        digest.update(f"{part}\0".encode())
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file; the system frees it when the process ends, however it ends."""
    import fcntl  # not on Windows

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _renamed_when_done(final: Path) -> Iterator[Path]:
    """A folder to write in, which gets its final name at the end and is removed after an error."""
    unfinished = final.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write(
    reader: FeatureReader,
    video_ids: Sequence[str],
    feature_dim: int,
    folder: Path,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    index, offset = {}, 0
    with (folder / "features.bin").open("wb") as file:
        for done, video_id in enumerate(video_ids, 1):
            rows = reader.read(video_id)
            _check(rows, feature_dim, reader.where(video_id))
            index[video_id] = (offset, rows.dtype.name, rows.shape)
            data = np.ascontiguousarray(rows).tobytes()
            padding = -len(data) % _ALIGNMENT
            file.write(data + bytes(padding))
            offset += len(data) + padding
            if on_progress is not None:
                on_progress(done, len(video_ids))
        _to_disk(file)
    with (folder / "index.json").open("w", encoding="utf-8") as file:
        json.dump({"videos": index}, file)
        _to_disk(file)


def _to_disk(file: IO) -> None:
    """Waits until what was written survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def _check(rows: np.ndarray, feature_dim: int, where: str) -> None:
    if rows.shape[1] != feature_dim:
        raise UserError(
            f"{where} has features of dimension {rows.shape[1]}; config.dataset.feature_dim is {feature_dim}. "
            f"Set it to {rows.shape[1]}, or bring the features that the config means."
        )
    if not rows.shape[0]:
        raise UserError(
            f"{where} has no clips (shape {list(rows.shape)}). Extract the video again or leave it out."
        )
    finite = np.isfinite(rows).all(-1)
    if not finite.all():
        raise UserError(
            f"{where} holds NaN or infinity, first in row {int(finite.argmin())} of {len(rows)} (from 0). "
            "Extract the video again or leave it out."
        )
