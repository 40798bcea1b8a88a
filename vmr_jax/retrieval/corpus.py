"""The content of the page: a corpus of videos that can be searched, and the one of a run's index.

A library of videos (`vmr_jax.Library`) is the other one; `modes/serve.py` brings it into this form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vmr_jax.errors import UserError
from vmr_jax.retrieval.hits import ServedVideo
from vmr_jax.retrieval.thumbnails import Thumbnails
from vmr_jax.retrieval.video_folder import VideoFolder
from vmr_jax.retrieval.waiting import Search


class Corpus(Protocol):
    """Videos that can be searched.

    Attributes:
      title: a line about them.
      threshold: confidence below which a moment is no match; None where scores are not calibrated.
      missing: a sentence that says what to do where a video has no file; '{video}' in it is its id.
    """

    missing: str

    @property
    def title(self) -> str: ...

    @property
    def threshold(self) -> float | None: ...

    def videos(self) -> Mapping[str, ServedVideo]:
        """The videos by id, as they are now."""

    def file(self, video: str) -> Path | None:
        """The file of a video, as it may be shown now; None where there is none."""

    def search(
        self, sentences: Sequence[str], k: int, video: str | frozenset[str] | None
    ) -> Sequence[Sequence[Any]]:
        """The k best moments for each sentence, with `video`, `start`, `end` and `score`.

        They may have `confidence` too, from 0 to 1. They are of one `video`, of several ids, or of all.
        """

    def thumbnail(self, video: str, second: float) -> bytes:
        """The frame at a second as JPEG; UserError where there is none."""


class Editable(Corpus, Protocol):
    """A corpus that takes videos."""

    def add(self, path: Path) -> str:
        """Takes a file that lies in `uploads`; the id that it got. UserError says why it cannot be read."""

    def remove(self, video: str) -> None:
        """Takes a video out."""

    @property
    def uploads(self) -> Path:
        """The folder for files that are sent."""


class RunCorpus:
    """The index of a run, and a folder of video files that are named by video id.

    Args:
      title: name of the run.
      search: function of type `Search`.
      durations: video id -> seconds, of all videos that can be asked for.
      files: the video files.
      folder: for thumbnails; None keeps them as long as this process.
    """

    threshold = None
    missing = "Start the server with --videos=FOLDER, a folder that holds {video}.mp4 or .webm."

    def __init__(
        self,
        title: str,
        search: Search,
        durations: Mapping[str, float],
        files: VideoFolder,
        folder: Path | None = None,
    ):
        self.title, self.search, self._files = title, search, files
        self._videos = {video: ServedVideo(video, video, seconds) for video, seconds in durations.items()}
        self._thumbnails = Thumbnails(folder)

    def videos(self) -> Mapping[str, ServedVideo]:
        """The videos by id."""
        return self._videos

    def file(self, video: str) -> Path | None:
        """The file of a video; None where there is none."""
        return self._files.find(video)

    def thumbnail(self, video: str, second: float) -> bytes:
        """The frame at a second as JPEG."""
        file = self.file(video)
        if file is None:
            raise UserError(f'There is no file of the video "{video}", so there is no picture of it.')
        return self._thumbnails.get(file, second)
