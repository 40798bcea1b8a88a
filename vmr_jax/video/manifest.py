"""The manifest of a library of videos: what is there, from which files, and by which encoder.

A library is a folder:

  manifest.json             this file; replaced as a whole, with a checksum of itself
  features/CONTENT.npy      rows [n,D] float32 of each video, named by the SHA-256 of its file
  begun/                    pieces of the features of files that are being encoded (`pieces`)
  index/                    the moments, encoded for each run that was asked
  thumbnails/               pictures of hits
  train.jsonl, val.jsonl    the user's sentences, where there are any: the folder is a dataset, `library`

What is named by content is never changed: a process that dies leaves the manifest of before, and files that
nobody names, which the next one clears.
"""

import dataclasses
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import crc32_of_document, read_json, write_json
from vmr_jax.input.features import LIBRARY_FORMAT

MANIFEST, VERSION = "manifest.json", 1
FEATURES, INDEX, THUMBNAILS = "features", "index", "thumbnails"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of the library.

    Attributes:
      id: its name, that of the file without suffix; no other video has it.
      file: the absolute path.
      content: SHA-256 of the file, which names the features.
      size: bytes of the file.
      modified: when the file was changed last, in nanoseconds.
      duration: seconds.
      width: pixels of a frame, after rotation.
      height: likewise.
      rows: number of feature rows.
      crc32: checksum of the features' file.
      added: when it came into the library, in seconds since 1970.
    """

    id: str
    file: str
    content: str
    size: int
    modified: int
    duration: float
    width: int
    height: int
    rows: int
    crc32: int
    added: float


@dataclasses.dataclass(frozen=True)
class Refused:
    """A file that could not be read, and why; it is not read again before it changes."""

    file: str
    size: int
    modified: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`.

    Attributes:
      encoder: `FrameEncoder.identity`.
      rate: rows a second.
      dim: D, width of a row.
      weights: folder of the encoder's weights; '' where it has none.
      videos: id -> video.
      refused: file -> why it is no video of the library.
    """

    encoder: dict[str, Any]
    rate: float
    dim: int
    weights: str = ""
    videos: dict[str, Entry] = dataclasses.field(default_factory=dict)
    refused: dict[str, Refused] = dataclasses.field(default_factory=dict)

    def by_content(self) -> dict[str, Entry]:
        """SHA-256 -> video."""
        return {entry.content: entry for entry in self.videos.values()}

    def by_file(self) -> dict[str, Entry]:
        """Path -> video."""
        return {entry.file: entry for entry in self.videos.values()}


def is_library(path: Path) -> bool:
    """Whether a folder holds a library."""
    return (path / MANIFEST).is_file()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the manifest of a library, whole or not at all."""
    document = {
        "format": LIBRARY_FORMAT,
        "version": VERSION,
        **{name: getattr(manifest, name) for name in ("encoder", "rate", "dim", "weights")},
        "videos": [dataclasses.asdict(entry) for entry in manifest.videos.values()],
        "refused": [dataclasses.asdict(refused) for refused in manifest.refused.values()],
    }
    write_json(path / MANIFEST, {**document, "crc32": crc32_of_document(document)})


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of a library.

    Raises:
      UserError: where there is none, it is of a later version, or not what was written.
    """
    file = path / MANIFEST
    try:
        document = read_json(file)
    except FileNotFoundError:
        raise UserError(
            f"{path} holds no library of videos (no {MANIFEST}). Make one with: vmr_jax --mode=ingest "
            f"--videos=FOLDER --library={path}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}). {_again(path)}") from None
    if not isinstance(document, dict) or document.get("format") != LIBRARY_FORMAT:
        raise UserError(f"{file} is not of a library of videos. Give the folder of a library.")
    if document.get("version") != VERSION:
        raise UserError(
            f"{path} is a library of version {document.get('version')}; this program reads version {VERSION}. "
            f"Use the program that wrote it. {_again(path)}"
        )
    if document.pop("crc32", None) != crc32_of_document(document):
        raise UserError(f"{file} is not what was written (its checksum differs). {_again(path)}")
    try:
        entries = [Entry(**entry) for entry in document["videos"]]
        refused = [Refused(**entry) for entry in document["refused"]]
        own = {name: document[name] for name in ("encoder", "rate", "dim", "weights")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} lacks what a library needs ({error}). {_again(path)}") from None
    return Manifest(
        **own, videos={entry.id: entry for entry in entries}, refused={entry.file: entry for entry in refused}
    )


def check_encoder(path: Path, manifest: Manifest, identity: dict[str, Any]) -> None:
    """Raises UserError where the library was made by another encoder than the one of this identity."""
    if manifest.encoder == identity:
        return
    fields = {*manifest.encoder, *identity}
    differing = sorted(name for name in fields if manifest.encoder.get(name) != identity.get(name))
    there, here = ({name: of.get(name) for name in differing} for of in (manifest.encoder, identity))
    raise UserError(
        f"The library {path} was encoded by {manifest.encoder.get('name')}, and the encoder here is "
        f"{identity.get('name')}; they differ in {', '.join(differing)} ({_short(there)} and {_short(here)}). "
        "Vectors of two encoders cannot be compared: give the encoder of the library, or another --library."
    )


def _short(values: dict[str, Any]) -> str:
    return ", ".join(str(value)[:40] for value in values.values())


def _again(path: Path) -> str:
    return f"Or delete {path} and ingest the videos again."
