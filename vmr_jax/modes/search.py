"""`--mode=search`: the best moments of an index for a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmr_jax.errors import printable_line
from vmr_jax.modes.index import open_index
from vmr_jax.modes.predict import check_query
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
