"""Chosen moments as files: clips, tables, subtitles and lists of cuts for editing programs.

mp4      a clip each, copied from the key frame before its start, or exact
csv      a table; no cell of it is one that a spreadsheet would run
json     the same as {"query", "moments"}
srt      subtitles that show the query during each moment, a file for each video
vtt      the same as WebVTT
edl      a list of cuts (CMX3600), fcpxml one of Final Cut Pro
"""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vmr_jax.errors import UserError, printable_line, unknown
from vmr_jax.files import disk_error, write_whole
from vmr_jax.retrieval import edit_lists
from vmr_jax.video import clips

FORMATS = {
    "mp4": "video/mp4",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "edl": "text/plain; charset=utf-8",
    "fcpxml": "application/xml; charset=utf-8",
}  # and the media types
_RUN = "=+-@\t\r＝＋－＠"  # with which a cell begins that a spreadsheet may take for a formula
_COLUMNS = ("rank", "video", "title", "start", "end", "length", "score", "confidence", "query")


class Chosen(NamedTuple):
    """A moment that is exported.

    Attributes:
      video: id of its video.
      title: of the video.
      file: of the video; None where there is none here.
      duration: of the video, in seconds.
      start: in seconds.
      end: in seconds.
      score: None where it is not known, as of a moment that was made by hand.
      confidence: from 0 to 1; None where it is not known.
      rank: 1 is best; None where it is not known.
      query: the sentence that found it, or ''.
    """

    video: str
    title: str
    file: Path | None
    duration: float
    start: float
    end: float
    score: float | None = None
    confidence: float | None = None
    rank: int | None = None
    query: str = ""


def export(
    moments: Sequence[Chosen],
    kind: str,
    path: Path,
    exact: bool = False,
    stopped: Callable[[], bool] = bool,
    places: bool = True,
) -> list[Path]:
    """Writes moments in one of the `FORMATS`, each file whole or not at all.

    Args:
      moments: in the order in which they are written.
      kind: one of `FORMATS`.
      path: the file; a folder for what needs one file each: clips of several moments, subtitles of several
        videos.
      exact: clips are encoded anew, from the very frame; else copied from the key frame before.
      stopped: is asked while clips are cut; True stops with an InterruptedError.
      places: lists of cuts name the place of a video on this machine; else its name alone.

    Returns:
      The files.

    Raises:
      UserError: for an unknown format, no moment, a video without file where clips are cut, and a full disk.
    """
    if kind not in FORMATS:
        raise unknown("There is no format", kind, FORMATS)
    if not moments:
        raise UserError("There is no moment to export. Choose at least one.")
    for moment in moments:
        if not 0 <= moment.start < moment.end:
            raise UserError(
                f'The moment from {moment.start:g} to {moment.end:g} s of "{moment.video}" has no length.'
            )
    if kind == "mp4":
        return _clips(moments, path, exact, stopped)
    if kind in ("srt", "vtt"):
        return _subtitles(moments, kind, path)
    if kind in ("edl", "fcpxml"):
        title = _title(moments)
        content = getattr(edit_lists, kind)(title, [_cut(moment, places) for moment in moments])
    else:
        content = {"csv": table, "json": document}[kind](moments)
    return [_written(path, content)]


def _written(path: Path, content: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from None
    if path.is_dir():
        raise UserError(f"{path} is a folder, and one file is to be written. Give the name of a file.")
    write_whole(path, content)
    return path


def _title(moments: Sequence[Chosen]) -> str:
    return moments[0].query or "Moments"


# --- clips ----------------------------------------------------------------------------------------


def _clips(moments: Sequence[Chosen], path: Path, exact: bool, stopped: Callable[[], bool]) -> list[Path]:
    files = [_file(moment) for moment in moments]
    single = len(moments) == 1 and path.suffix.lower() == ".mp4"
    folder = path.parent if single else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    written = []
    for i, (moment, file) in enumerate(zip(moments, files), 1):
        target = path if single else path / f"{i:02d}_{clip_name(moment)}.mp4"
        written.append(clips.cut(file, moment.start, moment.end, target, exact, stopped).path)
    return written


def _file(moment: Chosen) -> Path:
    if moment.file is None:
        raise UserError(f'There is no file of the video "{moment.video}" here, so no clip can be cut from it.')
    return moment.file


def clip_name(moment: Chosen) -> str:
    """A name for a file of a moment, without suffix."""
    return f"{file_name(moment.title)}_{moment.start:.1f}-{moment.end:.1f}s"


def file_name(text: str) -> str:
    """A text as the name of a file on every system: never a path, hidden, or longer than 80 characters."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._-")[:80] or "video"


# --- tables ---------------------------------------------------------------------------------------


def table(moments: Sequence[Chosen]) -> str:
    """As CSV (RFC 4180), times in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for moment in moments:
        writer.writerow(["" if value is None else _cell(value) for value in _row(moment)])
    return out.getvalue()


def _row(moment: Chosen) -> tuple[str | float | None, ...]:
    times = round(moment.start, 3), round(moment.end, 3), round(moment.end - moment.start, 3)
    return (
        moment.rank, moment.video, moment.title, *times, moment.score, moment.confidence, moment.query,
    )  # fmt: skip


def _cell(value: str | float) -> str | float:
    """A text that a spreadsheet would run gets an apostrophe before it, which it shows as text."""
    if not isinstance(value, str):
        return value
    line = printable_line(value)
    return f"'{line}" if line.lstrip().startswith(tuple(_RUN)) else line


def document(moments: Sequence[Chosen]) -> str:
    """As JSON; `query` is null where the moments were found by several sentences."""
    queries = {moment.query for moment in moments}
    rows = [dict(zip(_COLUMNS, _row(moment))) for moment in moments]
    query = queries.pop() if len(queries) == 1 else None
    return json.dumps({"query": query, "moments": rows}, indent=2, ensure_ascii=False) + "\n"


# --- subtitles ------------------------------------------------------------------------------------


def _subtitles(moments: Sequence[Chosen], kind: str, path: Path) -> list[Path]:
    """A file for each video, as times are those of a video; a player finds one of the same name by itself."""
    of_video: dict[str, list[Chosen]] = {}
    for moment in moments:
        of_video.setdefault(moment.video, []).append(moment)
    write = {"srt": srt, "vtt": vtt}[kind]
    if len(of_video) == 1 and not path.is_dir():
        return [_written(path, write(moments))]
    names: dict[str, int] = {}
    written = []
    for mine in of_video.values():
        name = mine[0].file.stem if mine[0].file else file_name(mine[0].title)
        names[name] = names.get(name, 0) + 1
        again = f"_{names[name]}" if names[name] > 1 else ""
        written.append(_written(path / f"{name}{again}.{kind}", write(mine)))
    return written


def srt(moments: Sequence[Chosen]) -> str:
    """As SubRip."""
    cues = [
        f"{i}\n{_clock(moment.start, ',')} --> {_clock(moment.end, ',')}\n{_said(moment).replace('-->', '→')}\n"
        for i, moment in enumerate(sorted(moments, key=lambda moment: moment.start), 1)
    ]
    return "\n".join(cues)


def vtt(moments: Sequence[Chosen]) -> str:
    """As WebVTT."""
    cues = [
        f"{_clock(moment.start, '.')} --> {_clock(moment.end, '.')}\n"
        f"{html.escape(_said(moment), quote=False)}\n"
        for moment in sorted(moments, key=lambda moment: moment.start)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _said(moment: Chosen) -> str:
    rank = "" if moment.rank is None else f" {moment.rank}"
    return printable_line(moment.query.strip()) or f"Moment{rank}"


def _clock(seconds: float, point: str) -> str:
    thousandths = round(1000 * seconds)
    whole, rest = divmod(thousandths, 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{rest:03d}"


# --- cuts -----------------------------------------------------------------------------------------


def _cut(moment: Chosen, places: bool) -> edit_lists.Cut:
    source = moment.file.name if moment.file else moment.video
    known = {source: moment.file.absolute().as_uri()} if moment.file and places else {}
    return edit_lists.Cut(
        name=f"{moment.title} {moment.start:.1f}-{moment.end:.1f} s",
        source=source,
        address=edit_lists.address_of(source, known),
        start=moment.start,
        end=moment.end,
        length=moment.duration,
        rate=clips.frame_rate(moment.file) if moment.file else edit_lists.RATES[2],
        note=moment.query,
    )
