"""`--mode=index` encodes the moments of a run's dataset, for `--mode=search` and `--mode=serve`."""

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset, Video, progress
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import milvus
from vmr_jax.retrieval.index import MomentIndex
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.run import Run, VideoFeatures

INDEX = "index"  # folder of the run
_ASIDE = ".old"  # behind the name of the folder that is being replaced


def index(config: Any, workdir: Path, dtype: str | None, uri: str | None) -> None:
    """Encodes every video of the run's dataset into WORKDIR/index, in place of an older index.

    The older one answers until the new one is whole. An index in Milvus is a collection of a new name, to
    which WORKDIR/index points.

    Args:
      config: of the run.
      workdir: its folder.
      dtype: of the rows; None is `config.retrieval.dtype`.
      uri: a Milvus server or Lite file in place of a folder.
    """
    run, dtype = _open_run(config, workdir), dtype or config.retrieval.dtype
    dataset = Dataset(config.dataset, config.input)
    path, unfinished, aside = (workdir / f"{INDEX}{end}" for end in ("", ".unfinished", _ASIDE))
    _discard(unfinished)
    if path.exists():
        _discard(aside)
    place: dict[str, Any] = {"path": unfinished}
    if uri is not None:
        of = re.sub(r"\W", "_", f"{config.model.name}_{config.dataset.name}")
        name = f"{of}_{secrets.token_hex(4)}"
        place = {"uri": milvus.resolved(uri), "collection": name}
        milvus.point(unfinished, **place, source=run.source)
    videos = _videos(dataset)
    with progress("index") as on_progress:
        built = run.index(_read(run, dataset, videos, on_progress), dtype=dtype, **place)
    if path.exists():
        path.rename(aside)
    unfinished.rename(path)
    _discard(aside)
    size = sum(file.stat().st_size for file in path.iterdir())
    where = f"{path} ({size / 2**20:.1f} MiB)" if uri is None else built.store.where
    print(
        f"{len(built):,} moments of {len(videos):,} videos in {where}, {dtype} rows of {built.store.dim}. Ask "
        f'it with: python launch.py --mode=search --workdir={workdir} --query="..."'
    )


def _discard(folder: Path) -> None:
    """Deletes the folder of an index, and its collection where that is in Milvus."""
    if (folder / milvus.POINTER).exists():
        milvus.drop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def open_index(config: Any, workdir: Path, sentences: Sequence[str] | None = ()) -> MomentIndex:
    """The index of a run with its model; UserError where it is of another checkpoint.

    Args:
      config: of the run.
      workdir: its folder.
      sentences: queries that will be asked, whose word vectors are read; None: any may come.
    """
    store = _open_store(workdir)
    run = _open_run(config, workdir, sentences)
    if store.source != run.source:
        raise UserError(
            f"{store.where} was built from {store.source}, and the run's checkpoint is {run.source}. Build it "
            f"again with: python launch.py --mode=index --workdir={workdir}"
        )
    return MomentIndex(store, run.encode_sentences, run.parallel, config.retrieval.nms_threshold)


def _open_run(config: Any, workdir: Path, sentences: Sequence[str] | None = ()) -> Run:
    parallel = Parallel(config.parallel, config.num_devices)
    return Run.load(workdir, config=config, sentences=sentences, parallel=parallel)


def _open_store(workdir: Path) -> MomentStore | milvus.MilvusStore:
    path, aside = workdir / INDEX, workdir / f"{INDEX}{_ASIDE}"
    if aside.exists() and not path.exists():  # a new index was to take its place, and the process died
        path = aside
    return milvus.follow(path) if (path / milvus.POINTER).exists() else MomentStore.open(path)


def _videos(dataset: Dataset) -> list[Video]:
    """The videos of every split; a video of several splits comes once."""
    every = (video for name in dataset.split_names for video in dataset.split(name).videos)
    return list({video.id: video for video in every}.values())


def _read(
    run: Run, dataset: Dataset, videos: Sequence[Video], on_progress: Callable[[int, int], None]
) -> Iterator[VideoFeatures]:
    """Their features; `on_progress` hears how many videos are done, and of how many."""
    for i, video in enumerate(videos):
        yield run.read_video(dataset, video)
        on_progress(i + 1, len(videos))
