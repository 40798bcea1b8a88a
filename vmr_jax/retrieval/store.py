"""The folder of a moment index: vectors of moments in segments that never change, and one small manifest.

  manifest.json        origin of the vectors, and the segments: rows, sizes of the files, removed videos
  000001.vectors       [M,E] rows in float32, bfloat16 or int8, those of a video together
  000001.scales        [M] float32, the factor of each int8 row
  000001.spans         [M,2] float32 seconds
  000001.offsets       [U+1] int64, the first row of each video
  000001.videos        ids, one a line

A change writes new segments and then replaces the manifest in one step: a process that dies before leaves the
old index whole. Opening maps the files and reads none of the vectors.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from vmr_jax.errors import UserError, unknown
from vmr_jax.files import disk_error, write_json
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.search import Searcher

MANIFEST, FORMAT, VERSION = "manifest.json", "vmr_jax moment index", 1
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}
_PARTS = ("vectors", "scales", "spans", "offsets", "videos")


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """A video as the index holds it.

    Attributes:
      id: id of the video, one line of text.
      vectors: [M,E] float32, one row a moment.
      spans: [M,2] float32 seconds.
    """

    id: str
    vectors: np.ndarray
    spans: np.ndarray


class Ranked(NamedTuple):
    """Moments for one query, best first: their videos, spans [K,2] in seconds and scores [K] float32."""

    videos: Sequence[str]
    spans: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segment:
    """Mapped files of some videos; `removed` [U] bool marks those that no longer count."""

    name: str
    vectors: np.ndarray
    scales: np.ndarray | None
    spans: np.ndarray
    offsets: np.ndarray
    videos: list[str]
    removed: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """[M] bool: rows of videos that count."""
        return np.repeat(~self.removed, np.diff(self.offsets))


class MomentStore:
    """An open index folder."""

    most: ClassVar[int] = sys.maxsize  # number of moments that one search can rank

    def __init__(self, path: Path, manifest: dict[str, Any], segments: list[Segment]):
        """Use `create` or `open`."""
        self.path, self.manifest, self.segments = path, manifest, segments

    @functools.cached_property
    def _place(self) -> dict[str, tuple[int, int]]:
        """Segment of each video that counts, and its place there."""
        return {
            self.segments[s].videos[v]: (s, v)
            for s, segment in enumerate(self.segments)
            for v in np.flatnonzero(~segment.removed).tolist()
        }

    @classmethod
    def create(cls, path: Path, dim: int, dtype: str, source: dict[str, Any]) -> "MomentStore":
        """Makes an empty index in a new or empty folder.

        Args:
          path: the folder.
          dim: E, width of the vectors.
          dtype: one of `DTYPES`.
          source: origin of the vectors, plain JSON: an index of another source is refused later.
        """
        if dtype not in DTYPES:
            raise unknown("dtype is", dtype, DTYPES)
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty. Give a new folder for a new index, or open the one in it.")
        path.mkdir(parents=True, exist_ok=True)
        manifest = {
            "format": FORMAT, "version": VERSION, "dim": dim, "dtype": dtype, "source": source, "segments": [],
        }  # fmt: skip
        write_json(path / MANIFEST, manifest)
        return cls(path, manifest, [])

    @classmethod
    def open(cls, path: Path) -> "MomentStore":
        """Maps an index; UserError for a folder that is none, and for one whose files are not whole."""
        manifest = _read_manifest(path)
        return cls(path, manifest, [_open_segment(path, manifest, entry) for entry in manifest["segments"]])

    @property
    def dim(self) -> int:
        """E, width of the vectors."""
        return self.manifest["dim"]

    @property
    def dtype(self) -> str:
        """Number format of the rows: 'float32', 'bfloat16' or 'int8'."""
        return self.manifest["dtype"]

    @property
    def source(self) -> dict[str, Any]:
        """The origin of the vectors."""
        return self.manifest["source"]

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return str(self.path)

    @property
    def videos(self) -> list[str]:
        """Ids of the videos that count, in the order of their rows."""
        return list(self._place)

    def __len__(self) -> int:
        """Number of moments that count."""
        return sum(int(np.diff(segment.offsets)[~segment.removed].sum()) for segment in self.segments)

    def searcher(self, parallel: Parallel) -> "FolderSearcher":
        """The part that ranks the moments, on these devices."""
        return FolderSearcher(self, parallel)

    def rows_of(self, video: str) -> tuple[Segment, slice]:
        """The segment and rows of a video; UserError where it is not in the index."""
        if video not in self._place:
            raise unknown(f"The index {self.path} has no video", video, self._place)
        place, v = self._place[video]
        segment = self.segments[place]
        return segment, slice(int(segment.offsets[v]), int(segment.offsets[v + 1]))

    def locate(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Video ids and spans [K,2] of rows, counted through all segments."""
        starts = np.cumsum([0, *(len(segment.vectors) for segment in self.segments)])
        of_segment = np.searchsorted(starts, rows, side="right") - 1
        videos, spans = [], np.zeros((len(rows), 2), np.float32)
        for i, (row, s) in enumerate(zip(rows, of_segment)):
            segment, local = self.segments[s], int(row - starts[s])
            videos.append(segment.videos[int(np.searchsorted(segment.offsets, local, side="right")) - 1])
            spans[i] = segment.spans[local]
        return videos, spans

    def add(self, videos: Iterable[EncodedVideo]) -> "MomentStore":
        """Returns the index with these videos too; one that is there already is replaced. Memory: one video."""
        with _one_writer(self.path):
            manifest = _read_manifest(self.path)
            name = f"{max((int(entry['name']) for entry in manifest['segments']), default=0) + 1:06d}"
            entry = _write_segment(self.path, name, manifest, videos)
            added = set(_read_videos(self.path, entry))
            segments = [_without(self.path, old, added) for old in manifest["segments"]]
            write_json(self.path / MANIFEST, {**manifest, "segments": [*segments, entry]})
        return MomentStore.open(self.path)

    def remove(self, videos: Iterable[str]) -> "MomentStore":
        """Returns the index without these videos; UserError names the first that is not there."""
        gone = set(videos)
        for video in sorted(gone):
            self.rows_of(video)
        with _one_writer(self.path):
            manifest = _read_manifest(self.path)
            segments = [_without(self.path, old, gone) for old in manifest["segments"]]
            write_json(self.path / MANIFEST, {**manifest, "segments": segments})
        return MomentStore.open(self.path)


class FolderSearcher:
    """Ranks the moments of a folder. The devices get their vectors at the first search of the whole corpus.

    Args:
      store: the folder.
      parallel: the devices.
    """

    def __init__(self, store: MomentStore, parallel: Parallel):
        self._store, self._parallel = store, parallel

    @functools.cached_property
    def _rows(self):
        return Searcher(self._store, self._parallel)

    def top(self, queries: np.ndarray, k: int) -> list[Ranked]:
        """The k best moments for each of queries [Q,E], of all videos; fewer where there are no more."""
        scores, rows = self._rows(queries, k)
        return [Ranked(*self._store.locate(r), s) for s, r in zip(scores, rows)]

    def of_video(self, query: np.ndarray, video: str) -> Ranked:
        """All moments of a video for a query [E]; UserError where it is not in the index."""
        segment, rows = self._store.rows_of(video)
        scores = segment.vectors[rows].astype(np.float32) @ query
        if segment.scales is not None:
            scores = scores * segment.scales[rows]
        order = np.argsort(-scores, kind="stable")
        return Ranked([video] * len(order), segment.spans[rows][order], scores[order])


# --- reading --------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} holds no moment index (no {MANIFEST}). Build one with: python launch.py --mode=index"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / MANIFEST} cannot be read ({error}). Build the index again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path / MANIFEST} is not of a moment index. Give the folder of an index.")
    if manifest["version"] != VERSION:
        raise UserError(
            f"{path} is an index of version {manifest['version']}; this program reads version {VERSION}. Build "
            "it again."
        )
    return manifest


def _open_segment(path: Path, manifest: dict[str, Any], entry: dict[str, Any]) -> Segment:
    for part, size in entry["bytes"].items():
        file = path / f"{entry['name']}.{part}"
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise UserError(
                f"{file} has {'no' if found is None else f'{found:,}'} bytes and {size:,} were written: the "
                "index is not whole. Copy it again, or build it again."
            )
    rows, dim, videos = entry["rows"], manifest["dim"], entry["videos"]

    def mapped(part: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if not rows:
            return np.zeros(shape, dtype)  # an empty file cannot be mapped
        return np.memmap(path / f"{entry['name']}.{part}", dtype, "r", shape=shape)

    removed = np.zeros(videos, bool)
    removed[entry["removed"]] = True
    return Segment(
        name=entry["name"],
        vectors=mapped("vectors", DTYPES[manifest["dtype"]], (rows, dim)),
        scales=mapped("scales", np.dtype(np.float32), (rows,)) if manifest["dtype"] == "int8" else None,
        spans=mapped("spans", np.dtype(np.float32), (rows, 2)),
        offsets=np.fromfile(path / f"{entry['name']}.offsets", np.int64),
        videos=_read_videos(path, entry),
        removed=removed,
    )


def _read_videos(path: Path, entry: dict[str, Any]) -> list[str]:
    return (path / f"{entry['name']}.videos").read_text(encoding="utf-8").splitlines()


# --- writing --------------------------------------------------------------------------------------


def _write_segment(
    path: Path, name: str, manifest: dict[str, Any], videos: Iterable[EncodedVideo]
) -> dict[str, Any]:
    """Writes the files of a segment, on disk before it returns; its entry in the manifest."""
    files = {part: path / f"{name}.{part}" for part in _PARTS}
    offsets: list[int] = [0]
    ids: dict[str, int] = {}
    try:
        with contextlib.ExitStack() as stack:
            out = {part: stack.enter_context(file.open("wb")) for part, file in files.items()}
            for video in videos:
                check_video(video, manifest["dim"], ids)
                rows, scales = quantized(video.vectors, manifest["dtype"])
                out["vectors"].write(rows.tobytes())
                out["scales"].write(b"" if scales is None else scales.tobytes())
                out["spans"].write(np.asarray(video.spans, np.float32).tobytes())
                out["videos"].write((video.id + "\n").encode())
                ids[video.id] = len(ids)
                offsets.append(offsets[-1] + len(rows))
            out["offsets"].write(np.asarray(offsets, np.int64).tobytes())
            for file in out.values():
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from None
    return {
        "name": name,
        "rows": offsets[-1],
        "videos": len(ids),
        "bytes": {part: file.stat().st_size for part, file in files.items()},
        "removed": [],
    }


def check_video(video: EncodedVideo, dim: int, seen: Container[str]) -> None:
    """UserError for a video whose id is no line or was `seen`, or whose vectors are not finite [M,E]."""
    if video.id in seen:
        raise UserError(f'The video "{video.id}" comes twice. Give every video once.')
    if video.id.splitlines() != [video.id]:
        raise UserError(f"A video id must be one line of text, not {video.id!r}.")
    if video.vectors.shape != (len(video.spans), dim):
        raise UserError(
            f'The video "{video.id}" has vectors {list(video.vectors.shape)} and spans '
            f"{list(np.shape(video.spans))}; expected [n,{dim}] and [n,2]."
        )
    if not np.isfinite(video.vectors).all():
        raise UserError(f'The video "{video.id}" has a vector that is not finite. Look at its features.')


def quantized(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows [M,E] float32 as they are stored, and the scales [M] of int8: the largest of a row is 127."""
    if dtype != "int8":
        return vectors.astype(DTYPES[dtype]), None
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-30).astype(np.float32) / 127
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def _without(path: Path, entry: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    """The entry of a segment with the videos of `gone` removed."""
    found = [v for v, video in enumerate(_read_videos(path, entry)) if video in gone]
    return {**entry, "removed": sorted({*entry["removed"], *found})}


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """Holds the folder for a change, and clears what a change that died has left."""
    import fcntl  # not on Windows

    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {entry["name"] for entry in _read_manifest(path)["segments"]}
        for file in path.iterdir():
            if file.suffix[1:] in _PARTS and file.stem not in known:
                file.unlink()
        yield
