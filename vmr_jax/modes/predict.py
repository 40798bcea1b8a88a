"""`--mode=predict`: the moments of one video for one sentence; with `--split` those of whole splits."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vmr_jax.errors import UserError, printable
from vmr_jax.input.dataset import Dataset
from vmr_jax.input.queries import check_sentence
from vmr_jax.modes.submit import submit
from vmr_jax.run import Run


def predict(
    config: Any, workdir: Path, video: str | None, query: str | None, top: int, split: str | None = None
) -> None:
    """Prints the `top` moments of `video` for `query`, best first, from the run's best checkpoint.

    With `split` in their place every query of the splits that it names is predicted (`submit`).
    """
    if split is not None:
        if video or query:
            raise UserError("Give --split=NAME for a whole split, or --video=ID and --query; not both.")
        submit(config, workdir, split)
        return
    query = check_query("predict", query, top)
    if not video:
        raise UserError('--mode=predict needs --video=ID, beside --query="a sentence".')
    run = Run.load(workdir, config=config, sentences=[query])
    run.check_words(query)
    dataset = Dataset(config.dataset, config.input)
    found, split = dataset.find(video)
    (moments,) = run.predict(run.read_video(dataset, found), [query], k=top)
    table = Table()
    for column in ("rank", "start (s)", "end (s)", "score"):
        table.add_column(column, justify="right")
    for i, moment in enumerate(moments, 1):
        table.add_row(str(i), f"{moment.start:.2f}", f"{moment.end:.2f}", f"{moment.score:.4f}")
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    asked = printable(f'"{query}" in {video} ({found.duration:.1f} s, split {split})')
    console.print(asked, markup=False)
    console.print(table)


def check_query(mode: str, query: str | None, top: int) -> str:
    """The query; UserError where there is none, where it is over-long, and where no moment is asked for."""
    if not query or not query.strip():
        raise UserError(f'--mode={mode} needs --query="a sentence".')
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1.")
    check_sentence(query)
    return query
