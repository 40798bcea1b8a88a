"""Preextracted features: read them as the field distributes them, keep them where training reads them fast.

A `FeatureReader` opens a file or folder of features, whatever its layout, or several of them side by side;
its rows are native: nothing is resampled or normalised. A `FeatureStore` holds the videos of a dataset in one
memory-mapped file as training needs them: checked, normalised, averaged to clips where a video has more rows.

The n rows of a video are taken to cover its whole duration evenly, row i from i/n to (i+1)/n of it, whatever
n is: no file of the field says at which second a row was taken. Features that end before their video, or
before the moment that is asked for, are stretched over it; `launch.py --mode=check` names such videos.
"""

import abc
import logging
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from vmr_jax.errors import UserError, nearest, user_path
from vmr_jax.files import past_race, read_json
from vmr_jax.input.feature_files import (
    HDF5,
    READ_FILE,
    array_of,
    group_of_videos,
    matrix,
    open_hdf5,
    refuse_other_downloads,
)
from vmr_jax.input.interpolation import interpolate_rows, middle_rows

log = logging.getLogger("vmr_jax")

# What to do with features that were saved as [dimensions,clips].
TURN = "Save each matrix transposed (array.T), as [clips,dimensions]."
LIBRARY_FORMAT = "vmr_jax video library"  # of the manifest beside a folder of features
RESAMPLE = ("average", "pad", "cut", "pick", "spread", "interpolate")  # rows to clips; see `fit_rows`
_VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")
MOST = 1e6  # of a feature, either sign; the largest of the field's are some thousands
_MOST_APART = 2  # rows by which sources of one video may differ, as the field's extractors round differently


def plain_id(name: str) -> str:
    """A video id without the extension of a video file: 's17-d69.avi' and 's17-d69' are the same video."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _VIDEO_SUFFIXES else name


def _folded(name: str) -> str:
    """A name without what no eye sees: capitals, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


# --- readers --------------------------------------------------------------------------------------


class FeatureReader(abc.ABC):
    """Features of many videos, by video id, with or without the extension of a video file.

    Where two names differ in the extension alone, as DiDeMo has them, each is found by its full name.

    Attributes:
      path: the file or folder; a text that names all where there are several.
      key: name of the array within a video's group or file; '' for the usual ones.
    """

    def __init__(self, path: Path | str, key: str, names: Iterable[str]):
        self.path, self.key = path, key
        self._names: dict[str, list[str]] = {}  # plain id -> names in the file or folder
        for name in sorted(names):
            self._names.setdefault(plain_id(name), []).append(name)
        for plain, same in self._names.items():
            if len(same) > 1 and plain in same:
                raise UserError(f"{path} has {' and '.join(same)}, which are one video id. Remove one of them.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The video ids, sorted, without extensions."""
        return tuple(self._names)

    def __contains__(self, video_id: str) -> bool:
        return self._name(video_id) is not None

    def _name(self, video_id: str) -> str | None:
        """The name in the file or folder; None where there is none, or several and none is exact."""
        names = self._names.get(plain_id(video_id), [])
        return video_id if video_id in names else names[0] if len(names) == 1 else None

    def read(self, video_id: str) -> np.ndarray:
        """Returns the features [n,D] of a video, float16 or float32, all native rows.

        Axes of length 1 are squeezed: [n,1,1,D] and [1,n,D] become [n,D]. float64 becomes float32.

        Raises:
          UserError: for an absent video, a damaged file, a wrong key, or an array that is no feature matrix.
        """
        name = self._name(video_id)
        if name is None:
            raise UserError(f'{self.path} has no features of the video "{video_id}".{self.spelling(video_id)}')
        where = self.where(video_id)
        try:
            rows = past_race(lambda: self._read(name, where))
        except UserError:
            raise
        except Exception as error:  # h5py, zipfile, zlib and numpy each raise their own for a damaged file
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{where} cannot be read ({said}). The file is damaged, cut short or holds pickled objects; "
                "get or extract it again."
            ) from None
        return matrix(rows, where)

    def parts(self, video_id: str) -> list[np.ndarray]:
        """Returns the features of each source, [n,D1], [n,D2], ...; here the one source."""
        return [self.read(video_id)]

    def spelling(self, video_id: str) -> str:
        """' Did you mean "x"?' for the id that differs in case alone, else for the nearest, else ''.

        Of one that looks the same, with accents composed in another way as macOS writes them, that is said.
        """
        wanted = _folded(plain_id(video_id))
        same = next((known for known in self.ids if _folded(known) == wanted), None)
        if same and same.casefold() != plain_id(video_id).casefold():
            form = "NFC" if unicodedata.is_normalized("NFC", same) else "NFD"
            return f' There is "{same}" in another form of Unicode, {form}: write both in one form.'
        return f' Did you mean "{same}"?' if same else nearest(video_id, self.ids)

    @property
    def identity(self) -> tuple[str, ...]:
        """Path and key, which tell it from other readers."""
        return (str(Path(self.path).resolve()), self.key)

    @abc.abstractmethod
    def where(self, video_id: str) -> str:
        """The place of a video's features, for messages."""

    @abc.abstractmethod
    def files(self, video_ids: Iterable[str]) -> list[Path]:
        """The files that hold these videos."""

    @abc.abstractmethod
    def _read(self, name: str, where: str) -> np.ndarray: ...


class Hdf5File(FeatureReader):
    """One HDF5 file: an array `[id]`, or an array `[id][key]`; a group may stand around them all."""

    def __init__(self, path: Path, key: str):
        self._file = open_hdf5(path)
        self._prefix = group_of_videos(self._file, key)
        super().__init__(path, key, self._file[self._prefix or "/"].keys())

    def __reduce__(self):
        return Hdf5File, (self.path, self.key)  # an open file stays here; a worker opens its own

    def where(self, video_id: str) -> str:
        return f"{self.path}[{video_id!r}]"

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        return [Path(self.path)]

    def _read(self, name: str, where: str) -> np.ndarray:
        return array_of(self._file, self._prefix + name, self.key, where)


class Folder(FeatureReader):
    """A folder with one .npy, .npz, .pt, .pth or HDF5 file per video, named by its id."""

    def __init__(self, path: Path, key: str):
        files = [f for f in path.iterdir() if f.suffix in READ_FILE and not f.name.startswith(".")]
        suffixes = sorted({f.suffix for f in files})
        if len(suffixes) != 1:
            found = f"files of several kinds ({', '.join(suffixes)})" if suffixes else "no feature files"
            raise UserError(
                f"{path} holds {found}; expected one file per video, its id and one of "
                f"{', '.join(READ_FILE)}. Set config.dataset.features to the folder that holds them."
            )
        self._suffix = suffixes[0]
        super().__init__(path, key, (f.stem for f in files))

    def where(self, video_id: str) -> str:
        return str(self._file_of(str(self._name(video_id))))

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        return [self._file_of(str(self._name(v))) for v in video_ids]

    def _file_of(self, name: str) -> Path:
        return Path(self.path) / (name + self._suffix)

    def _read(self, name: str, where: str) -> np.ndarray:
        refuse_other_downloads(self._file_of(name))
        return READ_FILE[self._suffix](self._file_of(name), self.key, where)


class LibraryFolder(Folder):
    """The features of a library of videos (`vmr_jax.Library`): a .npy file for each content of a video file.

    Args:
      path: the folder `features` of the library.
      key: as in `open_features`.
      contents: video id -> name of its file, without suffix.
    """

    def __init__(self, path: Path, key: str, contents: Mapping[str, str]):
        self._suffix, self._contents = ".npy", dict(contents)
        FeatureReader.__init__(self, path, key, self._contents)

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, *(f"{id}={content}" for id, content in sorted(self._contents.items())))

    def _file_of(self, name: str) -> Path:
        return super()._file_of(self._contents[name])


def _library_contents(path: Path) -> dict[str, str] | None:
    """Video id -> content, where a folder of features is that of a library; else None."""
    try:
        manifest = read_json(path.parent / "manifest.json")
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != LIBRARY_FORMAT:
        return None
    return {video["id"]: video["content"] for video in manifest["videos"]}


class Concatenated(FeatureReader):
    """Several sources side by side: the rows [n,D1+D2+...] of the videos that all of them have.

    Lengths may differ by two rows, as they do in the files of Moment-DETR's family; the longer ones are cut.
    """

    def __init__(self, readers: Sequence[FeatureReader]):
        self._readers = tuple(readers)
        names = set.intersection(*(set(reader.ids) for reader in self._readers))
        super().__init__(" and ".join(str(reader.path) for reader in self._readers), "", names)

    @property
    def identity(self) -> tuple[str, ...]:
        return tuple(part for reader in self._readers for part in reader.identity)

    def where(self, video_id: str) -> str:
        return " and ".join(reader.where(video_id) for reader in self._readers)

    def files(self, video_ids: Iterable[str]) -> list[Path]:
        video_ids = list(video_ids)
        return [file for reader in self._readers for file in reader.files(video_ids)]

    def parts(self, video_id: str) -> list[np.ndarray]:
        """Returns the features of each source, cut to the shortest.

        Raises:
          UserError: for what `read` raises; for lengths that differ by more than two rows.
        """
        parts = [reader.read(video_id) for reader in self._readers]
        lengths = [len(part) for part in parts]
        if max(lengths) - min(lengths) > _MOST_APART:
            found = ", ".join(f"{reader.path}: {n}" for reader, n in zip(self._readers, lengths))
            raise UserError(
                f'The sources of features have different numbers of rows for the video "{video_id}" ({found}); '
                f"at most {_MOST_APART} rows apart are cut to the shortest. Extract them at the same rate, or "
                "leave the video out."
            )
        return [part[: min(lengths)] for part in parts]

    def _read(self, name: str, where: str) -> np.ndarray:
        return np.concatenate(self.parts(name), axis=1)


def open_features(path: str | Path, key: str = "", field: str = "config.dataset.features") -> FeatureReader:
    """Opens preextracted features.

    Args:
      path: an HDF5 file with one entry per video (2D-TAN, MS-2D-TAN, CPL), or a folder of one .npy (LGI,
        VSLNet), .npz (Moment-DETR's family), .pt (DRN, Ego4D) or HDF5 file (SCN, RTBPN) per video; or the
        folder `features` of a library of videos.
      key: name of the array in a video's HDF5 group or file; '' is the first there of `feature_files.KEYS`.
      field: what names them, for messages.

    Raises:
      UserError: for a missing path, an unknown kind, a damaged file.
    """
    path = user_path(path)
    if path.is_dir():
        contents = _library_contents(path)
        return Folder(path, key) if contents is None else LibraryFolder(path, key, contents)
    if not path.exists():
        raise UserError(
            f"There are no features at {path}. Set {field} to an HDF5 file or a folder with one file per "
            f"{'query' if '.text.' in field else 'video'}; the README of the dataset says where to get them."
        )
    refuse_other_downloads(path)
    if path.suffix in HDF5 or h5py.is_hdf5(path):
        return Hdf5File(path, key)
    raise UserError(
        f"{path} is no feature file of a known kind. Expected an HDF5 file ({', '.join(HDF5)}) with one entry "
        f"per video, or a folder with one file ({', '.join(READ_FILE)}) per video."
    )


def missing(reader: FeatureReader, video_ids: Iterable[str]) -> list[str]:
    """Returns the ids without features, in the order given. The caller decides what becomes of them."""
    return [video_id for video_id in video_ids if video_id not in reader]


# --- clips ----------------------------------------------------------------------------------------


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """L2-normalises the last axis of rows [n,...,D] (2D-TAN and its line; eps 1e-12), float32."""
    rows = rows.astype(np.float32)
    return rows / np.maximum(_norms(rows), 1e-12)


def _normalize_part(rows: np.ndarray) -> np.ndarray:
    """L2-normalises one of several sources [n,D] (Moment-DETR and its line: x / (|x| + 1e-5)), float32."""
    rows = rows.astype(np.float32)
    return rows / (_norms(rows) + np.float32(1e-5))


def _norms(rows: np.ndarray) -> np.ndarray:
    """[n,1]"""
    return np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]


def average_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Resamples [n,...] to [length,...] float32: the mean of each bucket, a repeated row where n < length.

    Edges are min(round(k/length*n), n-1) in float32, halves to even, as 2D-TAN's
    `average_to_fixed_length` has them; the last bucket therefore never contains the last row when
    n > length.
    """
    n, rows = rows.shape[0], np.asarray(rows, np.float32)
    edges = _edges(n, length)
    if n <= length:  # no bucket has more than one row
        return rows[edges[:-1]]
    counts = np.maximum(edges[1:] - edges[:-1], 1).astype(np.float32)
    sums = np.add.reduceat(rows, edges[:-1], axis=0)
    # The last bucket must stop at the last edge; reduceat runs to the end of the array.
    sums[-1] = rows[edges[-2] : max(edges[-1], edges[-2] + 1)].sum(0)
    return sums / counts.reshape(-1, *([1] * (rows.ndim - 1)))


def _edges(n: int, length: int) -> np.ndarray:
    """[length+1] where the buckets of `average_rows` begin and end."""
    edges = np.round(np.arange(length + 1, dtype=np.float32) / np.float32(length) * np.float32(n))
    return np.minimum(edges, n - 1).astype(np.int64)


def spread_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Resamples [n,...] to [length,...] float32: the mean from one of `first_rows` to the next.

    The last clip is the last row alone; where rows repeat, so do clips (CMIN, official code: `ClipDataset1`).
    """
    rows = np.asarray(rows, np.float32)
    first = first_rows(rows.shape[0], length, "spread")
    counts = np.append(np.maximum(np.diff(first), 1), 1).astype(np.float32)
    sums = np.add.reduceat(rows, first, axis=0)
    return sums / counts.reshape(-1, *([1] * (rows.ndim - 1)))


def first_rows(n: int, length: int, resample: str) -> np.ndarray:
    """Returns [length] int32, the first of the n rows that `fit_rows` makes each clip of; 0 at padding."""
    if resample in ("interpolate", "spread"):
        rows = middle_rows(n, length) if resample == "interpolate" else np.linspace(0, n - 1, length)
        return rows.astype(np.int32)
    if resample == "average" or (n > length and resample == "pad"):
        return _edges(n, length)[:-1].astype(np.int32)
    if n > length and resample == "pick":
        return np.round(np.arange(length) * (n / length)).astype(np.int32)
    return np.where(np.arange(length) < n, np.arange(length), 0).astype(np.int32)


def fit_rows(rows: np.ndarray, length: int, resample: str) -> tuple[np.ndarray, np.ndarray]:
    """Brings [n,...] to [length,...] float32 and its mask [length]; rows already so are not copied.

    'average', 'spread' and 'interpolate' resample every video to `length`; the others pad a shorter one. Of a
    longer one 'cut' keeps the first `length` (Moment-DETR, official code: max_v_l), 'pick' single rows at equal
    distances, rounded to the nearest (LGI, official code: `get_fixed_length_feat`); 'pad' averages. Fitting
    what `shorten` left is fitting the native rows.
    """
    n, rows = rows.shape[0], np.asarray(rows, np.float32)
    if n == length:
        return rows, np.ones(length, bool)
    if resample == "spread":
        return spread_rows(rows, length), np.ones(length, bool)
    if resample == "interpolate":
        return interpolate_rows(rows, length), np.ones(length, bool)
    if resample in ("cut", "pick") and n > length:
        return rows[first_rows(n, length, resample)], np.ones(length, bool)
    if resample == "average" or n > length:
        return average_rows(rows, length), np.ones(length, bool)
    fitted = np.zeros((length, *rows.shape[1:]), np.float32)
    fitted[:n] = rows
    return fitted, np.arange(length) < n


def shorten(rows: np.ndarray, num_clips: int, resample: str = "average") -> np.ndarray:
    """The rows that are kept of [n,D] for `fit_rows`: num_clips where n is larger, but with 'spread' all."""
    if rows.shape[0] <= num_clips or resample == "spread":
        return rows
    if resample in ("cut", "pick"):
        return rows[first_rows(rows.shape[0], num_clips, resample)]
    return interpolate_rows(rows, num_clips) if resample == "interpolate" else average_rows(rows, num_clips)


def read_rows(
    reader: FeatureReader, video_id: str, feature_dim: int, normalize: bool, vectors: int = 1
) -> np.ndarray:
    """Returns all native rows [n,D] of a video, float32.

    Args:
      reader: where the features are.
      video_id: the video.
      feature_dim: D that it must have.
      normalize: whether to L2-normalise each row; each source of a row for itself where there are several.
      vectors: number of vectors that stand side by side in a row, such as patches of a frame; more than one are
        normalised each for itself.

    Raises:
      UserError: for what `reader.read` raises; for another dimension, no clips, NaN or infinity (naming the
        first such row).
    """
    parts = check_rows(reader.parts(video_id), feature_dim, reader.where(video_id))
    if vectors == 1 or not normalize:
        return joined_rows(parts, normalize)
    rows = joined_rows(parts, normalize=False)
    return normalize_rows(rows.reshape(len(rows), vectors, -1)).reshape(rows.shape)


def joined_rows(parts: Sequence[np.ndarray], normalize: bool) -> np.ndarray:
    """Sources [n,D1], [n,D2], ... side by side as [n,D] float32, each L2-normalised for itself if asked for."""
    if normalize:
        parts = [normalize_rows(parts[0])] if len(parts) == 1 else [_normalize_part(part) for part in parts]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return rows.astype(np.float32, copy=False)


def kept_rows(
    reader: FeatureReader, video_id: str, feature_dim: int, num_clips: int, normalize: bool, resample: str
) -> np.ndarray:
    """Returns the rows [n,D] of a video as a `FeatureStore` keeps them; raises what `read_rows` raises."""
    return shorten(read_rows(reader, video_id, feature_dim, normalize), num_clips, resample)


def check_rows(parts: Sequence[np.ndarray], feature_dim: int, where: str, do: str = "") -> Sequence[np.ndarray]:
    """The sources of a video; UserError, naming `where`, unless they are rows of finite numbers, D in all.

    `do` says what to do about another width than `feature_dim`.
    """
    for part in parts:
        if part.dtype.kind not in "fiub":
            raise UserError(f"{where} has features that are {part.dtype}; expected numbers, such as float32.")
    shapes = [part.shape for part in parts]
    if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise UserError(
            f"{where} has features of shape {', '.join(map(str, shapes))}; expected is [rows,{feature_dim}], "
            "one row for each clip."
        )
    widths = [part.shape[1] for part in parts]
    if sum(widths) != feature_dim:
        turned = len(parts) == 1 and parts[0].shape[0] == feature_dim
        if turned:
            do = f"They are [dimensions,clips], turned around. {TURN}"
        raise UserError(
            f"{where} has features of dimension {' + '.join(map(str, widths))}; config.dataset.feature_dim is "
            f"{feature_dim}. "
            + (do or f"Set it to {sum(widths)}, or bring the features that the config means.")
        )
    if not parts[0].shape[0]:
        raise UserError(
            f"{where} has no clips (shape {list(parts[0].shape)}). Extract the video again or leave it out."
        )
    finite = np.all([np.isfinite(part).all(-1) for part in parts], axis=0)
    if not finite.all():
        raise UserError(
            f"{where} holds NaN or infinity, first in row {int(finite.argmin())} of {len(finite)} (from 0). "
            "Extract the video again or leave it out."
        )
    largest = max(max(float(part.max()), -float(part.min())) for part in parts)
    if largest > MOST:
        raise UserError(
            f"{where} holds {largest:.3g}, which no extractor gives (at most {MOST:.0e} is read). Extract the "
            "video again or leave it out."
        )
    return parts


# --- store ----------------------------------------------------------------------------------------
