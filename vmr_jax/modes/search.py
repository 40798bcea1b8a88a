"""`--mode=search`: the best moments for a sentence, of a run's index or of a library of videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmr_jax.errors import printable_line
from vmr_jax.library import WINDOW, Library
from vmr_jax.modes.index import open_index
from vmr_jax.modes.predict import check_query
from vmr_jax.retrieval.calibration import no_match
from vmr_jax.retrieval.hits import Hit
from vmr_jax.retrieval.index import Found


def search(
    config, workdir: Path, query: str | None, video: str | None, top: int, uri: str | None = None
) -> None:
    """Prints the `top` moments for `query` in the corpus, or in `video` alone; `uri` as in `open_index`."""
    query = check_query("search", query, top)
    (found,) = open_index(config, workdir, [query], uri).search([query], k=top, video=video)
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    console.print(f'"{printable_line(query)}" in {printable_line(video or "all videos")}', markup=False)
    console.print(_table(found))


def search_library(
    library: str,
    run: str | None,
    query: str | None,
    video: str | None,
    top: int,
    window: float | None,
    encoder_dir: str | None,
) -> None:
    """Prints the `top` moments for `query` in a library of videos, or in one `video` of it.

    Args:
      library: its folder.
      run: folder of a trained run, whose moments take the place of the encoder's own scores.
      query: the sentence.
      video: id of a video; None is all of them.
      top: how many moments.
      window: seconds; longer videos are searched in parts; None is the default of `Library`.
      encoder_dir: folder of the encoder's weights, where it is no longer the one of the library.
    """
    query = check_query("search", query, top)
    lib = Library(library, encoder_dir=encoder_dir, run=run, window=window or WINDOW)
    hits = lib.search(query, k=top, video=video)
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    console.print(f'"{printable_line(query)}" in {printable_line(video or str(lib))}', markup=False)
    console.print(_hits(hits))
    if line := no_match([hit.confidence for hit in hits]):
        console.print(line, markup=False)
    if calibration := lib.calibration(within=video is not None):
        console.print(str(calibration), markup=False)


def _hits(hits: Sequence[Hit]) -> Table:
    """As `_table`, with the confidence where scores are calibrated, else the lead over the next one."""
    calibrated = any(hit.confidence is not None for hit in hits)
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("video")
    for column in ("start (s)", "end (s)", "score", "confidence" if calibrated else "lead"):
        table.add_column(column, justify="right")
    for hit in hits:
        sure = f"{hit.confidence:.0%}" if hit.confidence is not None else f"{hit.gap:.4f}"
        numbers = f"{hit.start:.2f}", f"{hit.end:.2f}", f"{hit.score:.4f}", sure
        table.add_row(str(hit.rank), Text(printable_line(hit.video)), *numbers)
    return table


def _table(found: Sequence[Found]) -> Table:
    table = Table()
    columns: dict[str, Literal["left", "right"]] = {
        "rank": "right",
        "video": "left",
        "start (s)": "right",
        "end (s)": "right",
    }
    for column, justify in columns.items():
        table.add_column(column, justify=justify)
    table.add_column("score", justify="right")
    for i, moment in enumerate(found, 1):
        span = f"{moment.start:.2f}", f"{moment.end:.2f}"
        table.add_row(
            str(i), Text(printable_line(moment.video)), *span, f"{moment.score:.4f}"
        )  # never as markup
    return table
