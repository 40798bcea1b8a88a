"""`--mode=index` encodes the moments of a run's dataset, for `--mode=search` and `--mode=serve`."""

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset, Video, progress
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import milvus, pointer
from vmr_jax.retrieval.index import MomentIndex, check_encoder
from vmr_jax.retrieval.segments import check_dtype
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.run import Run, VideoFeatures
from vmr_jax.training.owner import owned

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

    Raises:
      UserError: before a video is read, for an architecture that cannot be indexed and for impossible rows; and
        where another process owns the folder.
    """
    run, dtype = _open_run(config, workdir), dtype or config.retrieval.dtype
    check_encoder(run.model)
    check_dtype(dtype)
    if uri is not None:
        uri = milvus.resolved(uri)
        milvus.check_dtype(dtype)
    with owned(workdir, "index"):
        _replace(run, Dataset(config.dataset, config.input), workdir, dtype, uri)


def _replace(run: Run, dataset: Dataset, workdir: Path, dtype: str, uri: str | None) -> None:
    """Builds the new index beside the older one, and puts it in its place."""
    path, unfinished, aside = (workdir / f"{INDEX}{end}" for end in ("", ".unfinished", _ASIDE))
    _discard(unfinished, uri)
    if path.exists():
        _discard(aside, uri)
    place: dict[str, Any] = {"path": unfinished}
    if uri is not None:
        of = re.sub(r"\W", "_", f"{run.config.model.name}_{run.config.dataset.name}")
        place = {"uri": uri, "collection": f"{of}_{secrets.token_hex(4)}", "owner": secrets.token_hex(16)}
        pointer.point(unfinished, **place, source=run.source)
    videos = _videos(dataset)
    with progress("index") as on_progress:
        built = run.index(_read(run, dataset, videos, on_progress), dtype=dtype, **place)
    if path.exists():
        path.rename(aside)
    unfinished.rename(path)
    _discard(aside, uri)
    size = sum(file.stat().st_size for file in path.iterdir())
    where = f"{path} ({size / 2**20:.1f} MiB)" if uri is None else built.store.where
    address = "" if uri is None else f" --uri={uri}"
    print(
        f"{len(built):,} moments of {len(videos):,} videos in {where}, {dtype} rows of {built.store.dim}. Ask "
        f'it with: python launch.py --mode=search --workdir={workdir}{address} --query="..."'
    )


def _discard(folder: Path, uri: str | None) -> None:
    """Deletes the folder of an index, and its collection where that is in Milvus at the address of the user."""
    if (folder / pointer.POINTER).exists():
        pointer.drop(folder, uri)
    shutil.rmtree(folder, ignore_errors=True)


def open_index(
    config: Any, workdir: Path, sentences: Sequence[str] | None = (), uri: str | None = None
) -> MomentIndex:
    """The index of a run with its model; UserError where it is of another checkpoint, or can have none.

    It refuses a sentence of which the run knows no word.

    Args:
      config: of the run.
      workdir: its folder.
      sentences: queries that will be asked, whose word vectors are read; None: any may come.
      uri: of an index in Milvus the address, which a folder alone is not trusted to name; None is the
        environment variable MILVUS_URI.
    """
    run = _open_run(config, workdir, sentences)
    check_encoder(run.model)
    store = _open_store(workdir, uri)
    if store.source != run.source:
        raise UserError(
            f"{store.where} was built from {store.source}, and the run's checkpoint is {run.source}. Build it "
            f"again with: python launch.py --mode=index --workdir={workdir}"
        )

    def encode(asked: Sequence[str]) -> np.ndarray:
        for sentence in dict.fromkeys(asked):
            run.check_words(sentence)
        return run.encode_sentences(asked)

    options = config.retrieval
    return MomentIndex(store, encode, run.parallel, options.nms_threshold, recall=options.recall)


def _open_run(config: Any, workdir: Path, sentences: Sequence[str] | None = ()) -> Run:
    parallel = Parallel(config.parallel, config.num_devices)
    return Run.load(workdir, config=config, sentences=sentences, parallel=parallel)


def _open_store(workdir: Path, uri: str | None = None) -> MomentStore | milvus.MilvusStore:
    path, aside = workdir / INDEX, workdir / f"{INDEX}{_ASIDE}"
    if aside.exists() and not path.exists():  # a new index was to take its place, and the process died
        path = aside
    if (path / pointer.POINTER).exists():
        return pointer.follow(path, uri)
    if uri is not None:
        raise UserError(
            f"--uri={uri} is an address of Milvus, and the index of {workdir} is in {path}. Leave it out."
        )
    return MomentStore.open(path)


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
