"""Video files of a folder, found by video id."""

import logging
from pathlib import Path

from vmr_jax.errors import UserError, printable_line, user_path

log = logging.getLogger("vmr_jax")

SUFFIXES = (".mp4", ".webm", ".mov", ".m4v", ".mkv", ".avi", ".ts")  # what browsers play best comes first


class VideoFolder:
    """The video files of a folder, listed once.

    Args:
      folder: holds files named by video id, with one of `SUFFIXES`; None has no file. UserError where it is no
        folder.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder and user_path(folder).resolve()
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        if self._folder is None:
            return
        if not self._folder.is_dir():
            raise UserError(f"--videos={folder} is no folder. Give the folder that holds the video files.")
        files = [path for path in self._folder.iterdir() if _rank(path.suffix) is not None]
        for path in sorted(files, key=lambda path: (_rank(path.suffix), path.name)):
            if self._served(path):
                self._by_name[path.name] = path
                self._by_stem.setdefault(path.stem, path)
            else:
                log.warning(
                    "%s is not served: no file, or a link out of the folder.", printable_line(str(path))
                )

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, video: str) -> Path | None:
        """The file of a video id, which may carry the suffix of another file; None where there is none."""
        stem = video if _rank(Path(video).suffix) is None else Path(video).stem
        found = self._by_name.get(video) or self._by_stem.get(video) or self._by_stem.get(stem)
        return found if found and self._served(found) else None

    def _served(self, path: Path) -> bool:
        """Whether it is, now, a file whose real place is in the folder."""
        real = path.resolve()
        return self._folder is not None and real.is_relative_to(self._folder) and real.is_file()


def _rank(suffix: str) -> int | None:
    suffix = suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else None
