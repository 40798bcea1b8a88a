"""`--mode=index` encodes the moments of a run's dataset; `--mode=search` asks them."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import progress
from vmr_jax.input.loader import filled_batches
from vmr_jax.modes.predict import asked_example
from vmr_jax.retrieval import milvus
from vmr_jax.retrieval.index import MomentIndex, query_encoder
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.training.experiment import Experiment
from vmr_jax.types import Batch

INDEX = "index"  # folder of the run
_QUERIES = 32  # sentences that are encoded at once
_ASIDE = ".old"  # behind the name of the folder that is being replaced


def index(config, workdir: Path, dtype: str | None, uri: str | None) -> None:
    """Encodes every video of the run's dataset into WORKDIR/index, in place of an older index.

    The older one answers until the new one is whole. An index in Milvus is a collection of a new name, to
    which WORKDIR/index points.

    Args:
      config: of the run.
      workdir: its folder.
      dtype: of the rows; None is `config.retrieval.dtype`.
      uri: a Milvus server or Lite file in place of a folder.
    """
    experiment = Experiment(config, workdir)
    variables, position = experiment.best_variables(workdir)
    source, dtype = _source(config, position), dtype or config.retrieval.dtype
    path, unfinished, aside = (workdir / f"{INDEX}{end}" for end in ("", ".unfinished", _ASIDE))
    _discard(unfinished)
    if path.exists():
        _discard(aside)
    place: dict[str, Any] = {"path": unfinished}
    if uri is not None:
        name = f"{config.model.name}_{config.dataset.name}_{secrets.token_hex(4)}"
        place = {"uri": milvus.resolved(uri), "collection": name}
        milvus.point(unfinished, **place, source=source)
    videos = _videos(experiment)
    count = sum(len(ids) for _, _, ids in videos)
    with progress("index") as on_progress:
        built = MomentIndex.build(
            experiment.model,
            variables,
            _batches(experiment, videos, config.evaluation.batch_size, on_progress),
            **place,
            encode=_encoder(experiment, variables),
            parallel=experiment.parallel,
            dtype=dtype,
            source=source,
            nms_threshold=config.retrieval.nms_threshold,
        )
    if path.exists():
        path.rename(aside)
    unfinished.rename(path)
    _discard(aside)
    size = sum(file.stat().st_size for file in path.iterdir())
    where = f"{path} ({size / 2**20:.1f} MiB)" if uri is None else built.store.where
    print(
        f"{len(built):,} moments of {count:,} videos in {where}, {dtype} rows of {built.store.dim}. Ask it "
        f'with: python launch.py --mode=search --workdir={workdir} --query="..."'
    )


def _discard(folder: Path) -> None:
    """Deletes the folder of an index, and its collection where that is in Milvus."""
    if (folder / milvus.POINTER).exists():
        milvus.drop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def open_index(config, workdir: Path, sentences: Sequence[str] = ()) -> MomentIndex:
    """The index of a run with its model; UserError where it is of another checkpoint.

    Args:
      config: of the run.
      workdir: its folder.
      sentences: queries that will be asked, whose word vectors are read.
    """
    store = _open_store(workdir)
    experiment = Experiment(config, workdir, sentences=sentences)
    variables, position = experiment.best_variables(workdir)
    if store.source != _source(config, position):
        raise UserError(
            f"{store.where} was built from {store.source}, and the run's checkpoint is "
            f"{_source(config, position)}. Build it again with: python launch.py --mode=index "
            f"--workdir={workdir}"
        )
    encode = _encoder(experiment, variables)
    return MomentIndex(store, encode, experiment.parallel, config.retrieval.nms_threshold)


def _open_store(workdir: Path) -> MomentStore | milvus.MilvusStore:
    path, aside = workdir / INDEX, workdir / f"{INDEX}{_ASIDE}"
    if aside.exists() and not path.exists():  # a new index was to take its place, and the process died
        path = aside
    return milvus.follow(path) if (path / milvus.POINTER).exists() else MomentStore.open(path)


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
    experiment: Experiment, videos, size: int, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[list[str], Batch]]:
    """Batches of videos with their ids; `on_progress` hears how many videos are done, and of how many."""
    done, total = 0, sum(len(ids) for _, _, ids in videos)
    for name, rows, ids in videos:
        loader = experiment.loader(name)
        for first, batch_rows in zip(range(0, len(ids), size), filled_batches(rows, size)):
            part = ids[first : first + size]
            yield part, loader.batch(batch_rows)
            done += len(part)
            on_progress(done, total)


def _encoder(experiment: Experiment, variables) -> Callable[[Sequence[str]], np.ndarray]:
    """Sentences -> vectors."""
    loader = experiment.loader(experiment.dataset.split_names[0])
    video = loader.split.videos[0]  # its clips are not read

    def batch_of(sentences: Sequence[str]) -> Batch:
        rows = [asked_example(experiment, loader, sentence, video) for sentence in sentences]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    return query_encoder(experiment.model, variables, batch_of, experiment.parallel, _QUERIES)
