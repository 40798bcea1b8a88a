"""The files of a moment index: segments of videos that never change, each with checksums in the manifest.

  000001.vectors       [M,E] rows in float32, bfloat16 or int8, those of a video together
  000001.scales        [M] float32, the factor of each int8 row
  000001.spans         [M,2] float32 seconds
  000001.offsets       [U+1] int64, the first row of each video
  000001.videos        ids, one a line
  000001.finer         [M,E] the same rows in more bits, of the formats that have them

A segment is mapped, and read once through when it is opened: for its checksums.
"""

import contextlib
import dataclasses
import os
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vmr_jax.errors import UserError, unknown
from vmr_jax.files import crc32_of_file, disk_error

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}
# Number formats of an index: of the rows that are searched, and of the finer ones that rank the best again.
FORMATS = {
    **{name: (name, None) for name in DTYPES},
    "bfloat16+float32": ("bfloat16", "float32"),
    "int8+bfloat16": ("int8", "bfloat16"),
    "int8+float32": ("int8", "float32"),
}
PARTS = ("vectors", "scales", "spans", "offsets", "videos")
FINER = "finer"  # the part that some formats have besides
_NAME = re.compile(r"[0-9]{6,12}")


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


class StoredVideo(NamedTuple):
    """A video as a segment holds it: rows [M,E], scales [M] of int8 rows, spans [M,2] float32, finer [M,E]."""

    id: str
    rows: np.ndarray
    scales: np.ndarray | None
    spans: np.ndarray
    finer: np.ndarray | None


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
    finer: np.ndarray | None = None

    @property
    def alive(self) -> np.ndarray:
        """[M] bool: rows of videos that count."""
        return np.repeat(~self.removed, np.diff(self.offsets))

    def living(self) -> Iterator[StoredVideo]:
        """The videos that count."""
        for v in np.flatnonzero(~self.removed).tolist():
            rows = slice(int(self.offsets[v]), int(self.offsets[v + 1]))
            scales, finer = (None if part is None else part[rows] for part in (self.scales, self.finer))
            yield StoredVideo(self.videos[v], self.vectors[rows], scales, self.spans[rows], finer)

    def numbers(self, rows: slice | np.ndarray) -> np.ndarray:
        """[.,E] float32: the finest that there is of some rows."""
        if self.finer is not None:
            return self.finer[rows].astype(np.float32, copy=False)
        vectors = self.vectors[rows].astype(np.float32, copy=False)
        return vectors if self.scales is None else vectors * self.scales[rows][:, None]


# --- writing --------------------------------------------------------------------------------------


def parts_of(dtype: str) -> tuple[str, ...]:
    """The parts of a segment of one of `FORMATS`."""
    return PARTS if FORMATS[dtype][1] is None else (*PARTS, FINER)


def write_segment(path: Path, name: str, dtype: str, videos: Iterable[StoredVideo]) -> dict[str, Any]:
    """Writes the files of a segment, on disk before it returns; its entry in the manifest."""
    files = {part: path / f"{name}.{part}" for part in parts_of(dtype)}
    sums = dict.fromkeys(files, 0)
    offsets: list[int] = [0]
    try:
        with contextlib.ExitStack() as stack:
            out = {part: stack.enter_context(file.open("wb")) for part, file in files.items()}

            def write(part: str, content: bytes) -> None:
                out[part].write(content)
                sums[part] = zlib.crc32(content, sums[part])

            for video in videos:
                write("vectors", video.rows.tobytes())
                write("scales", b"" if video.scales is None else video.scales.tobytes())
                if video.finer is not None:
                    write(FINER, video.finer.tobytes())
                write("spans", video.spans.tobytes())
                write("videos", (video.id + "\n").encode())
                offsets.append(offsets[-1] + len(video.rows))
            write("offsets", np.asarray(offsets, np.int64).tobytes())
            for file in out.values():
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from None
    sizes = {part: file.stat().st_size for part, file in files.items()}
    found = {"rows": offsets[-1], "videos": len(offsets) - 1, "bytes": sizes, "crc32": sums}
    return {"name": name, **found, "removed": []}


def stored(videos: Iterable[EncodedVideo], dim: int, dtype: str) -> Iterator[StoredVideo]:
    """Checks videos, and makes of them what a segment of one of `FORMATS` holds."""
    seen: set[str] = set()
    searched, finer = FORMATS[dtype]
    for video in videos:
        check_video(video, dim, seen)
        seen.add(video.id)
        with np.errstate(over="ignore"):  # the next lines see it
            rows, scales = quantized(video.vectors, searched)
            again = None if finer is None else video.vectors.astype(DTYPES[finer])
        numbers = (rows if scales is None else scales, again)
        if not all(np.isfinite(part).all() for part in numbers if part is not None):
            raise UserError(f'The video "{video.id}" has a vector that is too large for {dtype}. Give float32.')
        yield StoredVideo(video.id, rows, scales, np.asarray(video.spans, np.float32), again)


def check_dtype(dtype: str) -> None:
    """UserError for what is no number format of an index."""
    if dtype not in FORMATS:
        raise unknown("dtype is", dtype, FORMATS)


def check_video(video: EncodedVideo, dim: int, seen: Container[str]) -> None:
    """UserError for an id that is no line or was `seen`, and for vectors or spans that are not finite."""
    if not isinstance(video, EncodedVideo):
        raise UserError(
            f"An index takes encoded videos, not {type(video).__name__}. `Run.index` encodes those of "
            "`Run.encode_video`; for an index that is there `vmr_jax.retrieval.index.encoded_videos` does."
        )
    if video.id in seen:
        raise UserError(f'The video "{video.id}" comes twice. Give every video once.')
    if video.id.splitlines() != [video.id]:
        raise UserError(f"A video id must be one line of text, not {video.id!r}.")
    if any("\ud800" <= character <= "\udfff" for character in video.id):
        raise UserError(f"The video id {video.id!r} has half of a surrogate pair, which is no text. Rename it.")
    if video.vectors.shape != (len(video.spans), dim):
        raise UserError(
            f'The video "{video.id}" has vectors {list(video.vectors.shape)} and spans '
            f"{list(np.shape(video.spans))}; expected [n,{dim}] and [n,2]."
        )
    for what, numbers in (("vector", video.vectors), ("span", video.spans)):
        if not np.isfinite(numbers).all():
            raise UserError(f'The video "{video.id}" has a {what} that is not finite. Look at its features.')


def quantized(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows [M,E] float32 as they are stored, and the scales [M] of int8: the largest of a row is 127."""
    if dtype != "int8":
        return vectors.astype(DTYPES[dtype]), None
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-30).astype(np.float32) / 127
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


# --- reading --------------------------------------------------------------------------------------


def open_segments(path: Path, dim: int, dtype: str, entries: Sequence[dict[str, Any]]) -> list[Segment]:
    """Maps segments; UserError, which names the file, where one is not what was written."""
    for entry in entries:
        _check_entry(path, dim, dtype, entry)
    files = [
        (path / f"{entry['name']}.{part}", entry["crc32"][part])
        for entry in entries
        for part in parts_of(dtype)
    ]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # zlib and the disk keep none waiting
        for (file, expected), found in zip(files, threads.map(crc32_of_file, (file for file, _ in files))):
            if found != expected:
                raise _damaged(path, f"{file} is not what was written (its checksum differs)")
    return [_open_segment(path, dim, dtype, entry) for entry in entries]


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{what}: the index is damaged. Copy it again, or delete {path} and build it again.")


def _check_entry(path: Path, dim: int, dtype: str, entry: Any) -> None:
    """UserError for an entry that claims more, or other, than its files hold: nothing is allotted before."""
    rows, videos, sizes, sums = (entry.get(field) for field in ("rows", "videos", "bytes", "crc32"))
    counts = type(rows) is int and type(videos) is int and rows >= 0 and videos >= 0
    name = entry.get("name")
    if not counts or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _damaged(path, f"{path} has a segment without name or numbers")
    searched, finer = FORMATS[dtype]
    expected = {
        "vectors": rows * dim * DTYPES[searched].itemsize,
        "scales": 4 * rows if searched == "int8" else 0,
        "spans": 8 * rows,
        "offsets": 8 * (videos + 1),
        "videos": sizes.get("videos") if isinstance(sizes, dict) else None,
        **({} if finer is None else {FINER: rows * dim * DTYPES[finer].itemsize}),
    }
    if sizes != expected or not isinstance(sums, dict) or set(sums) != set(parts_of(dtype)):
        raise _damaged(path, f"{path} has a segment {name} whose sizes do not fit {rows:,} moments of {dim}")
    for part, size in sizes.items():
        file = path / f"{name}.{part}"
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise UserError(
                f"{file} has {'no' if found is None else f'{found:,}'} bytes and {size:,} were written: the "
                f"index is not whole. Copy it again, or delete {path} and build it again."
            )


def _open_segment(path: Path, dim: int, dtype: str, entry: dict[str, Any]) -> Segment:
    rows, count = entry["rows"], entry["videos"]
    searched, finer = FORMATS[dtype]

    def mapped(part: str, of_type: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if not rows:
            return np.zeros(shape, of_type)  # an empty file cannot be mapped
        return np.memmap(path / f"{entry['name']}.{part}", of_type, "r", shape=shape)

    segment = Segment(
        name=entry["name"],
        vectors=mapped("vectors", DTYPES[searched], (rows, dim)),
        scales=mapped("scales", np.dtype(np.float32), (rows,)) if searched == "int8" else None,
        spans=mapped("spans", np.dtype(np.float32), (rows, 2)),
        offsets=np.fromfile(path / f"{entry['name']}.offsets", np.int64),
        videos=read_ids(path, entry),
        removed=np.zeros(count, bool),
        finer=None if finer is None else mapped(FINER, DTYPES[finer], (rows, dim)),
    )
    removed, offsets = entry.get("removed"), segment.offsets
    fits = isinstance(removed, list) and all(type(v) is int and 0 <= v < count for v in removed)
    fits = fits and offsets[0] == 0 and offsets[-1] == rows and bool((np.diff(offsets) >= 0).all())
    if not fits or len(segment.videos) != count or not np.isfinite(segment.spans).all():
        raise _damaged(path, f"The parts of segment {entry['name']} in {path} do not fit together")
    segment.removed[removed] = True
    return segment


def read_ids(path: Path, entry: dict[str, Any]) -> list[str]:
    """The ids of the videos of a segment; UserError for what is no text."""
    file = path / f"{entry['name']}.videos"
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise _damaged(path, f"{file} is no text") from None
