"""`--mode=index` encodes the moments of a run's dataset; `--mode=search` asks them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vmr_jax.errors import UserError
from vmr_jax.experiment import Experiment
from vmr_jax.input import filled_batches
from vmr_jax.predict import asked_example, check_query
from vmr_jax.retrieval.index import Found, MomentIndex, query_encoder
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.types import Batch

INDEX = "index"  # folder of the run


def index(config, workdir: Path) -> None:
    """Encodes every video of the run's dataset into WORKDIR/index, in place of an older index."""
    experiment = Experiment(config, workdir)
    variables, position = experiment.best_variables(workdir)
    unfinished, path = workdir / f"{INDEX}.unfinished", workdir / INDEX
    shutil.rmtree(unfinished, ignore_errors=True)
    videos = _videos(experiment)
    with _progress(sum(len(ids) for _, _, ids in videos)) as advance:
        built = MomentIndex.build(
            experiment.model,
            variables,
            _batches(experiment, videos, config.evaluation.batch_size, advance),
            path=unfinished,
            encode=_encoder(experiment, variables),
            parallel=experiment.parallel,
            dtype=config.retrieval.dtype,
            source=_source(config, position),
            nms_threshold=config.retrieval.nms_threshold,
        )
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(
        f"{len(built):,} moments of {len(built.store.videos):,} videos in {path} ({size / 2**20:.1f} MiB, "
        f"{built.store.dtype} rows of {built.store.dim}). Ask it with: python launch.py --mode=search "
        f'--workdir={workdir} --query="..."'
    )


def open_index(config, workdir: Path, sentences: Sequence[str] = ()) -> MomentIndex:
    """The index of a run with its model; UserError where it is of another checkpoint.

    Args:
      config: of the run.
      workdir: its folder.
      sentences: queries that will be asked, whose word vectors are read.
    """
    store = MomentStore.open(workdir / INDEX)
    experiment = Experiment(config, workdir, sentences=sentences)
    variables, position = experiment.best_variables(workdir)
    if store.manifest["source"] != _source(config, position):
        raise UserError(
            f"{store.path} was built from {store.manifest['source']}, and the run's checkpoint is "
            f"{_source(config, position)}. Build it again with: python launch.py --mode=index "
            f"--workdir={workdir}"
        )
    encode = _encoder(experiment, variables)
    return MomentIndex(store, encode, experiment.parallel, config.retrieval.nms_threshold)


def search(config, workdir: Path, query: str | None, video: str | None, top: int) -> None:
    """Prints the `top` moments for `query` in the corpus, or in `video` alone."""
    query = check_query("search", query, top)
    (found,) = open_index(config, workdir, [query]).search([query], k=top, video=video)
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    console.print(f'"{query}" in {video or "all videos"}', markup=False)
    console.print(_table(found))


def _table(found: Sequence[Found]) -> Table:
    table = Table()
    for column, justify in (("rank", "right"), ("video", "left"), ("start (s)", "right"), ("end (s)", "right")):
        table.add_column(column, justify=justify)
    table.add_column("score", justify="right")
    for i, moment in enumerate(found, 1):
        span = f"{moment.start:.2f}", f"{moment.end:.2f}"
        table.add_row(str(i), moment.video, *span, f"{moment.score:.4f}")
    return table


def _source(config, position: dict) -> dict:
    """What an index is of: the architecture, the data, and the step of the checkpoint."""
    return {"model": config.model.name, "dataset": config.dataset.name, "step": int(position["step"])}


def _videos(experiment: Experiment) -> list[tuple[str, np.ndarray, list[str]]]:
    """(split, a query of each of its videos, their ids); a video of several splits comes once."""
    seen: set[str] = set()
    found = []
    for name in experiment.dataset.split_names:
        split = experiment.dataset.split(name)
        owners, first = np.unique(split.owner, return_index=True)
        ids = [split.videos[v].id for v in owners]
        new = [i for i, video in enumerate(ids) if video not in seen]
        seen.update(ids)
        found.append((name, first[new], [ids[i] for i in new]))
    return [part for part in found if part[2]]


def _batches(
    experiment: Experiment, videos, size: int, advance: Callable[[int], None]
) -> Iterator[tuple[list[str], Batch]]:
    for name, rows, ids in videos:
        loader, done = experiment.loader(name), 0
        for batch_rows in filled_batches(rows, size):
            part = ids[done : done + size]
            yield part, loader.batch(batch_rows)
            done += len(part)
            advance(len(part))


def _encoder(experiment: Experiment, variables) -> Callable[[Sequence[str]], np.ndarray]:
    """Sentences -> vectors, a row a device at a time."""
    loader = experiment.loader(experiment.dataset.split_names[0])
    video = loader.split.videos[0]  # its clips are not read

    def batch_of(sentences: Sequence[str]) -> Batch:
        rows = [asked_example(experiment, loader, sentence, video) for sentence in sentences]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    size = len(experiment.parallel.devices)
    return query_encoder(experiment.model, variables, batch_of, experiment.parallel, size)


class _progress:
    """A bar over videos; nothing where output is not a terminal."""

    def __init__(self, total: int):
        console = Console()
        columns = (
            TextColumn("index {task.completed:.0f}/{task.total:.0f} videos"),
            BarColumn(),
            TextColumn("ETA"),
        )
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("index", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        return lambda count: self._bar.advance(self._task, count)

    def __exit__(self, *error) -> None:
        self._bar.stop()
