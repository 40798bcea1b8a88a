"""`--mode=export`: the best moments for a sentence as clips, a table, subtitles or a list of cuts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, printable_line, unknown, user_path
from vmr_jax.library import WINDOW, Library
from vmr_jax.modes.index import open_index
from vmr_jax.modes.predict import check_query
from vmr_jax.modes.serve import durations_of
from vmr_jax.retrieval.export import FORMATS, Chosen
from vmr_jax.retrieval.export import export as write
from vmr_jax.retrieval.video_folder import VideoFolder


def export(
    config: Any,
    workdir: Path,
    query: str | None,
    video: str | None,
    top: int,
    uri: str | None,
    videos: str | None,
    format: str | None,
    output: str | None,
    exact: bool,
) -> None:
    """Writes the `top` moments of a run's index.

    Args:
      config: of the run.
      workdir: its folder, with an index.
      query: the sentence.
      video: id of a video; None is all of them.
      top: how many moments.
      uri: as in `open_index`.
      videos: folder of video files named by video id; None has none, and no clip is cut.
      format: one of `FORMATS`.
      output: the file, or a folder; None is 'moments' here.
      exact: clips begin and end with the very frame.
    """
    query, kind = check_query("export", query, top), _format(format)
    files = VideoFolder(Path(videos) if videos else None)
    index = open_index(config, workdir, [query], uri)
    (found,) = index.search([query], k=top, video=video)
    durations = durations_of(config, index.store.videos)
    chosen = [
        Chosen(m.video, m.video, files.find(m.video), max(durations[m.video], m.end), m.start, m.end, m.score,
               None, rank, query)
        for rank, m in enumerate(found, 1)
    ]  # fmt: skip
    _tell(write(chosen, kind, _place(output, kind, top), exact))


def export_library(
    library: str,
    run: str | None,
    query: str | None,
    video: str | None,
    top: int,
    window: float | None,
    encoder_dir: str | None,
    format: str | None,
    output: str | None,
    exact: bool,
) -> None:
    """Writes the `top` moments of a library of videos, as `export`; the other flags are those of its search."""
    query, kind = check_query("export", query, top), _format(format)
    lib = Library(library, encoder_dir=encoder_dir, run=run, window=window or WINDOW)
    hits = lib.search(query, k=top, video=video)
    _tell(lib.export(hits, kind, _place(output, kind, top), exact, query=query))


def _format(given: str | None) -> str:
    if given is None:
        raise UserError(f"--mode=export needs --format=NAME, one of {', '.join(FORMATS)}.")
    if given not in FORMATS:
        raise unknown("--format is", given, FORMATS)
    return given


def _place(output: str | None, kind: str, top: int) -> Path:
    """The file, or the folder of several clips."""
    return user_path(output or ("moments" if kind == "mp4" and top > 1 else f"moments.{kind}"))


def _tell(files: Sequence[Path]) -> None:
    for file in files:
        print(printable_line(str(file)))
