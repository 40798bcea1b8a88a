"""`--mode=ingest`: a library of videos follows a folder of files; what cannot be read is named at the end."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vmr_jax.errors import UserError, printable_line, user_path
from vmr_jax.library import Library
from vmr_jax.parallel import Parallel
from vmr_jax.video.ingest import Outcome, Report
from vmr_jax.video.ingest import Progress as OnProgress

log = logging.getLogger("vmr_jax")

_LOOK = 2.0  # seconds between two looks at a folder that is watched
_SPEAK = 10.0  # seconds between two lines where the output is no terminal


def ingest(
    videos: str | None,
    library: str | None,
    encoder: str | None,
    encoder_dir: str | None,
    watch: bool,
    beam: str | None,
) -> None:
    """Brings a library to what a folder of video files holds; only what is new or has changed is encoded.

    Args:
      videos: the folder; or a file, which is added.
      library: folder of the library, made where there is none.
      encoder: of the frames; None is that of the library, 'pixels' for a new one.
      encoder_dir: folder of its weights.
      watch: goes on until Ctrl-C, and takes in what comes.
      beam: options of Apache Beam, over which the files are encoded; None encodes them here.
    """
    if not videos or not library:
        raise UserError("--mode=ingest needs --videos=FOLDER and --library=DIR.")
    source = user_path(videos)
    if watch and not source.is_dir():
        raise UserError(f"--videos={videos} is no folder, and only a folder can be watched.")
    lib = Library(library, encoder=encoder, encoder_dir=encoder_dir, parallel=Parallel("jit"))
    encode = None
    if beam is not None:
        from vmr_jax.video.beam import EncodeOverBeam

        encode = EncodeOverBeam(lib.path, lib.encoder, encoder_dir, beam)
    told: set[Outcome] | None = None  # what could not be read at the look before
    while True:
        with _progress() as on_progress:
            change = lib.update if source.is_dir() else lib.add
            report = change(source, encode=encode, on_progress=on_progress)
        unreadable = [outcome for outcome in report.of("unreadable") if outcome not in (told or ())]
        if told is None or unreadable or report.of("added", "changed", "moved", "removed"):
            _print(lib, report, unreadable)
        if not watch:
            return
        told = {*report.of("unreadable")}
        time.sleep(_LOOK)


def _print(lib: Library, report: Report, unreadable: Sequence[Outcome]) -> None:
    """The counts, and a table of the files that could not be read."""
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    if unreadable:
        what = "1 file is" if len(unreadable) == 1 else f"{len(unreadable):,} files are"
        table = Table(title=f"{what} not in the library", title_justify="left")
        table.add_column("file", overflow="fold")
        table.add_column("because", overflow="fold")
        for outcome in unreadable:
            table.add_row(Text(printable_line(outcome.file)), Text(printable_line(outcome.reason)))
        console.print(table)
    console.print(f"{report}. {lib!r}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar for each file on a terminal; elsewhere a line every few seconds."""
    console = Console()
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    tasks: dict[str, object] = {}
    spoken = time.monotonic()

    def on_progress(file: str, done: float, of: float) -> None:
        nonlocal spoken
        name = printable_line(Path(file).name)
        if not console.is_terminal:
            if time.monotonic() - spoken > _SPEAK:
                spoken = time.monotonic()
                log.info("%s: %.0f of %.0f s", name, done, of)
            return
        bars.start()
        task = tasks.get(file)
        if task is None:
            task = tasks[file] = bars.add_task(name, total=of)
        bars.update(task, completed=done)  # type: ignore[arg-type]
        if done >= of:
            bars.remove_task(tasks.pop(file))  # type: ignore[arg-type]

    try:
        yield on_progress
    finally:
        if console.is_terminal:
            bars.stop()
