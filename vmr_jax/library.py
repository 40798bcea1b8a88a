"""`Library`: a folder that knows video files by their content, and finds the seconds that a sentence describes.

    lib = vmr.Library("library", run="runs/fvmr_library")
    lib.update("videos")                       # decodes and encodes what is new or has changed
    lib.search("a man opens the door", k=10)

A run's moments, or those of an encoder that reads sentences, are encoded once for each video and kept in the
library's index, which follows the files. A video that is longer than a window is read as windows that overlap
by half; of what two of them find, the better stays.
"""

import contextlib
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, check_count, unknown, user_path
from vmr_jax.evaluation.protocols import make_protocol
from vmr_jax.files import disk_error
from vmr_jax.input.queries import check_sentence
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import export
from vmr_jax.retrieval.calibration import Calibration
from vmr_jax.retrieval.client import RemoteLibrary, is_address
from vmr_jax.retrieval.confidence import FEW, Confidences, Scores
from vmr_jax.retrieval.hits import Filter, Hit, LibraryVideo, both, ranked_hits
from vmr_jax.retrieval.index import Found, MomentIndex, encoded_videos
from vmr_jax.retrieval.refining import REFINED, every_window, refined, windows_of
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.retrieval.thumbnails import Thumbnails
from vmr_jax.retrieval.windows import MomentEncoder, content_of, follow, stored_id, windows
from vmr_jax.retrieval.zero_shot import FrameMoments, Window
from vmr_jax.run import Run, VideoFeatures
from vmr_jax.training.identity import read_data
from vmr_jax.training.owner import OWNER, owned
from vmr_jax.video.encoder import FrameEncoder, open_encoder
from vmr_jax.video.features import read_features
from vmr_jax.video.ingest import Change, EncodeFiles, EncodeHere, Progress, Report, video_files
from vmr_jax.video.manifest import (
    INDEX,
    MANIFEST,
    THUMBNAILS,
    Entry,
    Manifest,
    check_encoder,
    is_library,
    read_manifest,
    write_manifest,
)

log = logging.getLogger("vmr_jax")

WINDOW = 120.0  # seconds; a longer video is read in parts
_BEGUN = {OWNER, f"{MANIFEST}.tmp"}  # files of a new library whose process died at once
_SAME = 0.5  # IoU above which only the better of two moments of frames is found


class Library:
    """Video files that are known by their content, and searched by a sentence.

    >>> lib = vmr.Library(tmp / "library")
    >>> (tmp / "films").mkdir()
    >>> print(lib.update(tmp / "films"))
    no video file
    >>> lib.videos
    []

    The address of a server, "http://HOST:8000", gives the library that it serves (`RemoteLibrary`), with the
    calls `videos`, `add`, `remove`, `search`, `thumbnail` and `export`.

    Args:
      path: the folder; one that is missing or empty becomes a library with the first video.
      encoder: of the frames, one of `vmr_jax.video.encoder.ENCODERS`; None is that of the library, 'pixels' for
        a new one.
      encoder_dir: folder of its weights; None is the one that the library was made with.
      run: folder of a trained run, or the run, whose moments take the place of the encoder's own scores.
      window: seconds; a longer video is searched as windows of this length.
      parallel: the devices; None takes one.

    Raises:
      UserError: for another encoder than that of the library, and for a run of other features.
    """

    def __new__(cls, path: str | Path, **settings: Any) -> Any:
        """A `RemoteLibrary` where the path is the address of a server."""
        if not is_address(path):
            return super().__new__(cls)
        own = [name for name in ("encoder", "encoder_dir", "run", "parallel") if settings.get(name) is not None]
        if own:
            raise UserError(
                f"{own[0]} is of the server at {path}, which was started with it. Leave it out here."
            )
        return RemoteLibrary(str(path))

    def __init__(
        self,
        path: str | Path,
        *,
        encoder: str | None = None,
        encoder_dir: str | Path | None = None,
        run: str | Path | Run | None = None,
        window: float = WINDOW,
        parallel: Parallel | None = None,
    ):
        self.path = user_path(path)
        self.parallel = parallel or Parallel("jit", num_devices=1)
        self.window = window
        if not window > 0:
            raise UserError(f"window is {window}; give a number of seconds.")
        self._stamp: Any = None
        self._encoder: FrameEncoder | None = None
        self._weights = encoder_dir and str(user_path(encoder_dir))
        if is_library(self.path):
            self._manifest = read_manifest(self.path)
            self._name = encoder or self._manifest.encoder["name"]
            if encoder is not None or encoder_dir is not None:
                check_encoder(self.path, self._manifest, self.encoder.identity)
        else:
            if self.path.exists() and {file.name for file in self.path.iterdir()} - _BEGUN:
                raise UserError(
                    f"{self.path} is not empty, and no library. Give a new folder for a new library."
                )
            self._name = encoder or "pixels"
            first = self.encoder
            self._manifest = Manifest(first.identity, first.rate, first.dim, self._weights or "")
        self._searched: tuple[Manifest, MomentIndex] | None = None
        self.confidences = Confidences(self.path, self._scores)
        self.run: Run | None = None
        if run is not None:
            self.run = run if isinstance(run, Run) else Run.load(run, parallel=self.parallel)
            self._check_run(self.run)
            if not isinstance(run, Run):
                self._check_trained_on(user_path(run))
            self._variables = self.run.fingerprint()

    def __repr__(self) -> str:
        manifest = self.manifest
        hours = sum(entry.duration for entry in manifest.videos.values()) / 3600
        name = manifest.encoder["name"]
        return f"Library({self.path}: {len(manifest.videos):,} videos, {hours:.1f} h, {name})"

    @property
    def encoder(self) -> FrameEncoder:
        """The frame encoder, opened when it is first needed."""
        if self._encoder is None:
            weights = self._weights or (self._manifest.weights if is_library(self.path) else "")
            self._encoder = open_encoder(self._name, Path(weights) if weights else None, self.parallel)
            if is_library(self.path):
                check_encoder(self.path, self._manifest, self._encoder.identity)
        return self._encoder

    @property
    def manifest(self) -> Manifest:
        """The content of the library now; another process may change it."""
        with contextlib.suppress(FileNotFoundError):
            found = (self.path / MANIFEST).stat()
            stamp = found.st_mtime_ns, found.st_ino
            if stamp != self._stamp:
                self._manifest, self._stamp = read_manifest(self.path), stamp
        return self._manifest

    @property
    def videos(self) -> list[LibraryVideo]:
        """The videos, in the order in which they came."""
        return [
            LibraryVideo(e.id, Path(e.file), e.id, e.duration, e.added, e.content)
            for e in self.manifest.videos.values()
        ]

    # --- what is in it ----------------------------------------------------------------------------

    def add(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        encode: EncodeFiles | None = None,
        on_progress: Progress | None = None,
    ) -> Report:
        """Takes video files in, and those of folders; what is there already is not encoded again.

        Args:
          paths: a file or folder, or several.
          encode: encodes the files; None does it here.
          on_progress: hears how far each file is.

        Returns:
          What became of each file; one that cannot be read is named with the reason, and the others go on.
        """
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        files: list[Path] = []
        for path in (user_path(given).absolute() for given in given):
            files += video_files(path) if path.is_dir() else [path]
        return self._change(files, [], encode, on_progress)

    def update(
        self,
        folder: str | Path | None = None,
        *,
        encode: EncodeFiles | None = None,
        on_progress: Progress | None = None,
    ) -> Report:
        """Brings the library to what a folder holds: new and changed files are encoded, deleted ones drop out.

        Args:
          folder: of video files; videos from elsewhere stay. None looks at the files of the library alone.
          encode: encodes the files; None does it here.
          on_progress: hears how far each file is.
        """
        if folder is not None:
            folder = user_path(folder).absolute()
            return self._change(video_files(folder), [folder], encode, on_progress)
        files = [Path(entry.file) for entry in self.manifest.videos.values()]
        return self._change([file for file in files if file.exists()], files, encode, on_progress)

    def _change(
        self,
        files: Sequence[Path],
        within: Sequence[Path],
        encode: EncodeFiles | None,
        on_progress: Progress | None,
    ) -> Report:
        encoder = self.encoder
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.path, error) from None
        with owned(self.path, "ingest"):
            manifest = self.manifest
            if not is_library(self.path):
                write_manifest(self.path, manifest)
            encode = encode or EncodeHere(self.path, encoder, on_progress)
            self._manifest, report = Change(self.path, manifest, encode).run(sorted({*files}), within)
        return report

    def remove(self, ids: str | Iterable[str]) -> Report:
        """Takes videos out, by their ids; their files stay where they are. UserError names an unknown one."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        with owned(self.path, "ingest"):
            manifest = self.manifest
            for id in ids:
                if id not in manifest.videos:
                    raise unknown(f"The library {self.path} has no video", id, manifest.videos)
            gone = [Path(manifest.videos[id].file) for id in ids]
            self._manifest, report = Change(self.path, manifest, lambda found: iter(())).run([], gone)
        return report

    # --- questions --------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        k: int = 10,
        video: str | Collection[str] | None = None,
        *,
        min_duration: float | None = None,
        max_duration: float | None = None,
        added_from: float | None = None,
        added_to: float | None = None,
    ) -> list[Hit]:
        """The k best moments for a sentence, best first; of two that overlap much the better one alone.

        Args:
          query: the sentence, in English.
          k: number of moments at most.
          video: id of the only video to search, or several ids; None searches all.
          min_duration: seconds that the videos have at least.
          max_duration: seconds that they have at most.
          added_from: when they were added at the earliest, in seconds since 1970.
          added_to: when at the latest.

        Raises:
          UserError: for a query without a known word, an unknown video, an empty library, and where neither the
            encoder nor a run reads sentences.
        """
        check_sentence(query)
        check_count(k)
        videos = self.manifest.videos
        if not videos:
            raise UserError(f"The library {self.path} has no video yet. Add some with --mode=ingest.")
        for id in [video] if isinstance(video, str) else video or ():
            if id not in videos:
                raise unknown(f"The library {self.path} has no video", id, videos)
        if self.run is not None:
            self.run.check_words(query)
        if limits := Filter(min_duration, max_duration, added_from, added_to):
            video = both(video, limits.ids(self.videos))
        if video is not None and not video:
            return []
        found = self._found([query], k, video)[0]
        fitted = self.calibration(within=isinstance(video, str))
        scores = [moment.score for moment in found]
        return ranked_hits(found, fitted.confidence(scores).tolist() if fitted else [None] * len(found))

    def _found(
        self, sentences: Sequence[str], k: int, video: str | Collection[str] | None
    ) -> list[list[Found]]:
        """The k best moments for each sentence."""
        if self.run is None or self.run.is_dual_encoder:
            return self._index().search(sentences, k, video)
        return [self._refined(self.run, sentence, k, video) for sentence in sentences]

    def calibration(self, *, within: bool = False) -> Calibration | None:
        """How the confidence of a hit follows from its score; None where there is nothing to fit it to.

        It is fitted to the library's own sentences (`val.jsonl` in its folder, or a part of `train.jsonl`),
        anew when these or the videos change; to few of them where the run is no dual encoder, which takes long.

        Args:
          within: whether for the search in one video, not in all.
        """
        return self.confidences.get(manifest := self.manifest, manifest.videos, within)

    def prepare(self) -> None:
        """Does now what the first question would wait for: encodes moments, and fits the confidence of hits.

        Both are kept in the folder. UserError where nothing can be searched; an empty library needs nothing.
        """
        if not self.manifest.videos:
            return
        if self.run is None or self.run.is_dual_encoder or self.encoder.has_text:
            self._index()
        for within in (False, True):
            self.calibration(within=within)

    def _scores(self) -> Scores:
        """The search whose scores are calibrated, and all that they depend on."""
        if self.run is None or self.run.is_dual_encoder:
            index = self._index()
            return Scores([index.store.source, sorted(index.store.videos)], self._found)
        state = {
            **self.run.source, "variables": self._variables, "window": self.window, "refined": REFINED,
            "encoder": self.encoder.identity,
        }  # fmt: skip
        return Scores([state, sorted(self.manifest.by_content())], self._found, FEW)

    def thumbnail(self, video: str, second: float) -> bytes:
        """The frame of a video at a second, as JPEG; the library keeps it.

        Raises:
          UserError: for an unknown video, and where its file is no longer there.
        """
        return Thumbnails(self.path / THUMBNAILS).get(Path(self._entry(video).file), second)

    def export(
        self, hits: Sequence[Any], format: str, path: str | Path, exact: bool = False, *, query: str = ""
    ) -> list[Path]:
        """Writes hits as clips, a table, subtitles, or a list of cuts for an editing program.

        Args:
          hits: from `search`.
          format: one of `vmr_jax.retrieval.export.FORMATS`: mp4, csv, json, srt, vtt, edl or fcpxml.
          path: the file; a folder for clips of several hits and subtitles of several videos.
          exact: clips begin and end with the very frame, and are encoded anew; else copied from the key frame
            before.
          query: the sentence, which subtitles and tables show.

        Returns:
          The files that were written.
        """
        chosen = []
        for hit in hits:
            entry = self._entry(hit.video)
            file = Path(entry.file)
            of_video = entry.id, entry.id, file if file.is_file() else None, entry.duration
            chosen.append(
                export.Chosen(*of_video, hit.start, hit.end, hit.score, hit.confidence, hit.rank, query)
            )
        return export.export(chosen, format, user_path(path), exact)

    def _entry(self, video: str) -> Entry:
        """The entry of a video in the manifest; UserError for an unknown one."""
        if video not in self.manifest.videos:
            raise unknown(f"The library {self.path} has no video", video, self.manifest.videos)
        return self.manifest.videos[video]

    def _index(self) -> MomentIndex:
        """The index of the run, or of the encoder, brought to the videos that are there now."""
        encoder = (
            self._run_moments(self.run) if self.run and self.run.is_dual_encoder else self._frame_moments()
        )
        while self._searched is None or self._searched[0] is not self.manifest:
            manifest = self.manifest
            names = {entry.content: entry.id for entry in manifest.videos.values()}
            try:
                self._searched = manifest, follow(self.path / INDEX, encoder, names)
            except UserError:
                if manifest is self.manifest:  # else features were deleted while they were read
                    raise
        return self._searched[1]

    def _run_moments(self, run: Run) -> MomentEncoder:
        """The moments of a dual encoder's run."""
        manifest = self.manifest

        def moments(contents: Sequence[str]) -> Iterator[EncodedVideo]:
            videos = (window for content in contents for window in self._windows(run, content))
            return encoded_videos(run.model, run.variables, run.video_batches(videos), run.parallel)

        source = {**run.source, "variables": self._variables, "window": self.window, "rate": manifest.rate}
        options = run.config.retrieval
        return MomentEncoder(
            source, run.encode_sentences, moments, run.parallel, options.dtype, options.nms_threshold
        )

    def _frame_moments(self) -> MomentEncoder:
        """The moments of the encoder itself; UserError where it has no sentences."""
        encoder, manifest = self.encoder, self.manifest
        if not encoder.has_text:
            encoder.encode_sentences(["a person"])  # it says what to do
        frames = FrameMoments(math.ceil(self.window * manifest.rate) + 1, self.parallel)

        def moments(contents: Sequence[str]) -> Iterator[EncodedVideo]:
            return frames(
                Window(stored_id(content, start), rows, seconds)
                for content in contents
                for start, rows, seconds in self._parts(content)
            )

        source = {**frames.settings, "encoder": encoder.identity, "window": self.window, "rate": manifest.rate}
        return MomentEncoder(source, encoder.encode_sentences, moments, self.parallel, "float32", _SAME)

    def _windows(self, run: Run, content: str, only: Collection[str] | None = None) -> Iterator[VideoFeatures]:
        """The windows of a video as a run reads them, named by `stored_id`; `only` these."""
        for start, rows, seconds in self._parts(content):
            id = stored_id(content, start)
            if only is None or id in only:
                yield run.encode_video(rows, seconds, id=id)

    def _parts(self, content: str) -> Iterator[tuple[float, np.ndarray, float]]:
        """The windows of a video: second of the start, rows [n,D], length in seconds."""
        manifest = self.manifest
        entry = manifest.by_content()[content]
        rows = read_features(self.path, entry)
        for start, end in windows(entry.duration, self.window):
            first, last = round(start * manifest.rate), round(end * manifest.rate)
            yield start, np.asarray(rows[first : max(last, first + 1)]), end - start

    def _refined(self, run: Run, query: str, k: int, video: str | Collection[str] | None) -> list[Found]:
        """The run's own moments, in the windows where the encoder finds its best ones, else in all of them."""
        entries = {e.id: e for e in self._entries(video)}
        if self.encoder.has_text:
            places = windows_of(self._index().search([query], REFINED, video)[0], entries, self.window)
        else:
            places = every_window(entries.values(), self.window, self.encoder.name)
        contents = dict.fromkeys(map(content_of, places))
        looked_at = [window for c in contents for window in self._windows(run, c, places)]
        names = {e.content: e.id for e in entries.values()}
        threshold = make_protocol(run.config.evaluation).nms_thresholds()[0]
        ids = [window.id for window in looked_at]
        return refined(ids, run.predict_in(looked_at, query, k), names, threshold, k)

    def _entries(self, video: str | Collection[str] | None) -> list[Entry]:
        """The videos of these ids; all for None."""
        entries = self.manifest.videos
        wanted = entries if video is None else [video] if isinstance(video, str) else video
        return [entries[id] for id in wanted]

    def _check_run(self, run: Run) -> None:
        """UserError where the run does not read what the library has."""
        if run.streams:
            raise UserError(
                f"{run.config.model.name} reads {', '.join(run.streams)} beside the frames, which a library of "
                "videos does not have. Give a run of an architecture that reads the video alone."
            )
        if run.config.dataset.feature_dim != self._manifest.dim:
            raise UserError(
                f"The run was trained on features of {run.config.dataset.feature_dim} numbers "
                f"({run.config.dataset.name}), and those of the library {self.path} have {self._manifest.dim} "
                f"({self._manifest.encoder['name']}). Train one on the library: --config=configs/"
                f"{run.config.model.name}.py:library --config.dataset.manual_dir={self.path}"
            )

    def _check_trained_on(self, workdir: Path) -> None:
        """UserError where a run was trained on a library of another encoder, of the same width maybe."""
        theirs = read_data(workdir).get("encoder")
        if theirs and theirs != self._manifest.encoder:
            raise UserError(
                f"The run in {workdir} was trained on a library that {theirs.get('name')} encoded, and "
                f"{self.path} was encoded by {self._manifest.encoder.get('name')}, or by other weights of it. "
                "Vectors of two encoders cannot be compared: train a run on this library."
            )
