"""The folder of a moment index: segments of videos that never change (`segments`), and one small manifest.

  manifest.json        origin of the vectors, and the segments: rows, sizes and checksums of the files, removed
                       videos; and a checksum of itself
  000001.*             files of a segment

A change writes new segments and then replaces the manifest in one step: a process that dies before leaves the
old index whole. Where there come to be many segments, or more that does not count than does, they are merged.
"""

import contextlib
import functools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

import vmr_jax
from vmr_jax.errors import UserError, unknown
from vmr_jax.files import crc32_of_document, open_lock, read_json, write_json
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.segments import (
    FINER,
    FORMATS,
    PARTS,
    EncodedVideo,
    Segment,
    check_dtype,
    open_segments,
    read_ids,
    stored,
    write_segment,
)

MANIFEST, FORMAT, VERSION = "manifest.json", "vmr_jax moment index", 3
_OLDEST = 2  # version that is still read; the first one had no checksums
# Said in the manifest for programs that come later: how rows are to be read, and what a score is.
_READ_AS = {"byte_order": "little", "score": "inner product", "times": "seconds"}
_SEGMENTS = 8  # of an index at most


class Ranked(NamedTuple):
    """Moments for one query, best first: their videos, spans [K,2] in seconds and scores [K] float32."""

    videos: Sequence[str]
    spans: np.ndarray
    scores: np.ndarray


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
          dtype: one of `FORMATS`.
          source: origin of the vectors, plain JSON: an index of another source is refused later.
        """
        check_dtype(dtype)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is no folder. Give a new folder for a new index.")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty. Give a new folder for a new index, or open the one in it.")
        path.mkdir(parents=True, exist_ok=True)
        manifest = {
            "format": FORMAT, "version": VERSION, "dim": dim, "dtype": dtype, "source": source, "segments": [],
            "read_as": _READ_AS, "written_by": vmr_jax.__version__,
        }  # fmt: skip
        _write_manifest(path, manifest)
        return cls(path, manifest, [])

    @classmethod
    def open(cls, path: Path) -> "MomentStore":
        """Maps an index; UserError for a folder that is none, and for one whose files are not as written.

        Its files are read once, for their checksums, at the speed of the disk.
        """
        while True:
            manifest = _read_manifest(path)
            try:
                return cls(path, manifest, _open(path, manifest))
            except (UserError, FileNotFoundError):
                if _read_manifest(path) == manifest:  # else a change has just removed what was to be opened
                    raise

    @property
    def dim(self) -> int:
        """E, width of the vectors."""
        return self.manifest["dim"]

    @property
    def dtype(self) -> str:
        """Number format of the rows, one of `FORMATS`."""
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

    def searcher(self, parallel: Parallel, recall: float = 1.0) -> "FolderSearcher":
        """The part that ranks the moments, on these devices; `recall` as of `retrieval.search.Searcher`."""
        return FolderSearcher(self, parallel, recall)

    def rows_that_count(self, videos: Collection[str]) -> list[np.ndarray]:
        """[M] bool for each segment: the rows of these videos; those that are not in the index have none."""
        marked = [np.zeros(len(segment.videos), bool) for segment in self.segments]
        for video in videos:
            if video in self._place:
                place, v = self._place[video]
                marked[place][v] = True
        return [np.repeat(mark, np.diff(segment.offsets)) for mark, segment in zip(marked, self.segments)]

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
            new = stored(videos, manifest["dim"], manifest["dtype"])
            entry = write_segment(self.path, _next_name(manifest), manifest["dtype"], new)
            added = set(read_ids(self.path, entry))
            segments = [_without(self.path, old, added) for old in manifest["segments"]]
            _change(self.path, manifest, [*segments, entry])
        return MomentStore.open(self.path)

    def remove(self, videos: Iterable[str]) -> "MomentStore":
        """Returns the index without these videos; UserError names the first that is not there."""
        gone = set(videos)
        for video in sorted(gone):
            self.rows_of(video)
        with _one_writer(self.path):
            manifest = _read_manifest(self.path)
            _change(self.path, manifest, [_without(self.path, old, gone) for old in manifest["segments"]])
        return MomentStore.open(self.path)


class FolderSearcher:
    """Ranks the moments of a folder. The devices get their vectors at the first search of the whole corpus.

    Args:
      store: the folder.
      parallel: the devices.
      recall: as of `retrieval.search.Searcher`.
    """

    def __init__(self, store: MomentStore, parallel: Parallel, recall: float = 1.0):
        self._store, self._parallel, self._recall = store, parallel, recall

    @functools.cached_property
    def _rows(self):
        return Searcher(self._store, self._parallel, self._recall)

    def top(self, queries: np.ndarray, k: int, videos: Collection[str] | None = None) -> list[Ranked]:
        """The k best moments for each of queries [Q,E]; fewer where there are no more.

        Args:
          queries: [Q,E].
          k: number of moments.
          videos: the videos that are searched; None is all.
        """
        scores, rows = self._rows(queries, k, None if videos is None else self._store.rows_that_count(videos))
        return [Ranked(*self._store.locate(r), s) for s, r in zip(scores, rows)]

    def of_video(self, query: np.ndarray, video: str) -> Ranked:
        """All moments of a video for a query [E]; UserError where it is not in the index."""
        segment, rows = self._store.rows_of(video)
        scores = segment.numbers(rows) @ query
        order = np.argsort(-scores, kind="stable")
        return Ranked([video] * len(order), segment.spans[rows][order], scores[order])


# --- the manifest ---------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    again = f"Delete {path} and build the index again."
    try:
        manifest = read_json(file)
    except FileNotFoundError:
        raise UserError(
            f"{path} holds no moment index (no {MANIFEST}). Build one with: python launch.py --mode=index"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}). {again}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{file} is not of a moment index. Give the folder of an index.")
    version = manifest.get("version")
    if type(version) is not int or not _OLDEST <= version <= VERSION:
        raise UserError(
            f"{path} is an index of version {version}, written by vmr_jax {manifest.get('written_by', '0.2')}; "
            f"this program reads versions {_OLDEST} to {VERSION}. {again}"
        )
    if manifest.pop("crc32", None) != crc32_of_document(manifest):
        raise UserError(f"{file} is not what was written (its checksum differs). {again}")
    manifest = _migrated(manifest)
    if manifest["read_as"] != _READ_AS:
        raise UserError(f"{file} is to be read as {manifest['read_as']}, which this program cannot. {again}")
    dim, segments = manifest.get("dim"), manifest.get("segments")
    possible = type(dim) is int and dim > 0 and manifest.get("dtype") in FORMATS
    if not possible or not isinstance(segments, list) or not all(isinstance(entry, dict) for entry in segments):
        raise UserError(f"{file} has no width, number format or segments. {again}")
    return manifest


def _migrated(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an older version as one of this version; the next change writes it so."""
    if manifest["version"] == 2:  # all was as it is now, and not said
        manifest = {**manifest, "version": 3, "read_as": _READ_AS, "written_by": "0.2"}
    return manifest


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_json(path / MANIFEST, {**manifest, "crc32": crc32_of_document(manifest)})


def _open(path: Path, manifest: dict[str, Any]) -> list[Segment]:
    return open_segments(path, manifest["dim"], manifest["dtype"], manifest["segments"])


def _next_name(manifest: dict[str, Any]) -> str:
    return f"{max((int(entry['name']) for entry in manifest['segments']), default=0) + 1:06d}"


# --- changes --------------------------------------------------------------------------------------


def _change(path: Path, manifest: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Replaces the segments of the manifest, then merges those that have become too many or too empty.

    Merging comes after the change, in a second step of its own: each step leaves a whole index.
    """
    changed = {**manifest, "segments": entries}
    _write_manifest(path, changed)
    first = _first_to_merge(entries)
    if first == len(entries):
        return
    segments = _open(path, {**changed, "segments": entries[first:]})
    living = (video for segment in segments for video in segment.living())
    merged = write_segment(path, _next_name(changed), manifest["dtype"], living)
    kept = [merged] if merged["videos"] else []
    _write_manifest(path, {**changed, "segments": [*entries[:first], *kept]})


def _first_to_merge(entries: Sequence[dict[str, Any]]) -> int:
    """The segments from this one on become one; their number where nothing is to be merged.

    All of them where more videos are removed than are left. Where there are too many, the last ones, as long as
    the one before is not larger than they are together: so a moment is copied few times, however many additions
    come.
    """
    count, removed = (
        sum(entry["videos"] for entry in entries),
        sum(len(entry["removed"]) for entry in entries),
    )
    if 2 * removed > count:
        return 0
    if len(entries) <= _SEGMENTS:
        return len(entries)
    first = len(entries) - 2
    rows = sum(entry["rows"] for entry in entries[first:])
    while first and entries[first - 1]["rows"] <= rows:
        first -= 1
        rows += entries[first]["rows"]
    return first


def _without(path: Path, entry: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    """The entry of a segment with the videos of `gone` removed."""
    found = [v for v, video in enumerate(read_ids(path, entry)) if video in gone]
    return {**entry, "removed": sorted({*entry["removed"], *found})}


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """Holds the folder for a change, and clears what it, or one that died before, has left."""
    import fcntl  # not on Windows

    with open_lock(path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _clear(path)
        yield
        _clear(path)


def _clear(path: Path) -> None:
    """Deletes the files that no segment has; who has mapped them keeps them."""
    known = {entry["name"] for entry in _read_manifest(path)["segments"]}
    for file in path.iterdir():
        if file.suffix[1:] in (*PARTS, FINER) and file.stem not in known:
            file.unlink()
