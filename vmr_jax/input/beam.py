"""Preparation over Apache Beam: `config.dataset.beam` holds the options of its pipelines.

Two things can take long: parsing the sentences of the annotations, and reading, checking and shortening the
features. Both become pipelines over the videos of TFDS builders, that of `records.py` and the one here.
They leave the same records and the same bytes of the cache as without Beam, on any runner and any number of
workers. Workers need this package and the user's files at the same paths. Apache Beam is imported where it is
used.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.features import FeatureReader, kept_rows
from vmr_jax.input.pipeline import mapped
from vmr_jax.input.preparing import prepare_once

log = logging.getLogger("vmr_jax")

_SPLIT = "videos"


def clips(
    reader: FeatureReader,
    video_ids: Sequence[str],
    feature_dim: int,
    num_clips: int,
    normalize: bool,
    resample: str,
    on_progress: Callable[[int, int], None] | None,
    beam: str,
    folder: Path,
) -> Generator[tuple[str, np.ndarray], None, None]:
    """Yields (id, rows [n,D] as they are kept) of each video in order, as workers have read them.

    Args:
      reader: where the features are; each worker opens it anew.
      video_ids: in the order wanted.
      feature_dim: D that every video must have.
      num_clips: longer videos are shortened to so many rows.
      normalize: whether native rows are L2-normalised.
      resample: `config.input.resample`, which says how.
      on_progress: called with (videos done, videos) after each.
      beam: the pipeline's options.
      folder: for the records in between, which take as much room as what is kept; deleted at the end.

    Raises:
      UserError: for the first video that `read_rows` refuses, as without Beam; for a pipeline that fails.
    """
    read = functools.partial(
        _example,
        reader=reader,
        feature_dim=feature_dim,
        num_clips=num_clips,
        normalize=normalize,
        resample=resample,
    )
    shutil.rmtree(folder, ignore_errors=True)  # of a preparation that was killed
    try:
        log.info("Features of %d videos are read over Apache Beam: %s", len(video_ids), beam)
        builder = prepare_once(lambda: _builder_class()(read, video_ids, folder), folder, beam=beam)
        for done, (video_id, rows) in enumerate(zip(video_ids, _rows(builder, feature_dim), strict=True), 1):
            yield video_id, rows
            if on_progress is not None:
                on_progress(done, len(video_ids))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _example(numbered: tuple[int, str], *, reader: FeatureReader, **settings) -> tuple[int, dict]:
    """Result of a worker for one video: its rows, or the message of the error for who waits for them."""
    number, video_id = numbered
    try:
        return number, {"rows": kept_rows(reader, video_id, **settings).tobytes(), "error": ""}
    except UserError as error:
        return number, {"rows": b"", "error": str(error)}


def _rows(builder, feature_dim: int) -> Iterator[np.ndarray]:
    """The rows [n,D] of each record in order; UserError for the first that holds an error in their place."""
    import tensorflow_datasets as tfds

    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    for row in tfds.as_numpy(builder.as_dataset(split=_SPLIT, read_config=in_order)):
        if row["error"]:
            raise UserError(row["error"].decode())
        yield np.frombuffer(row["rows"], np.float32).reshape(-1, feature_dim)


@functools.cache
def _builder_class():
    """The class is made on demand, so that importing this module does not import TensorFlow."""
    import tensorflow_datasets as tfds

    class PreparedClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """One record per video: its clips, or why there are none."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

        def __init__(self, read: Callable, video_ids: Sequence[str], data_dir: Path):
            self._read, self._video_ids = read, video_ids
            super().__init__(data_dir=data_dir)

        def _info(self):
            text = tfds.features.Text()  # bytes, which are written several times faster than numbers
            return tfds.core.DatasetInfo(
                builder=self,
                description="Clips of videos between Apache Beam and the cache of features.",
                features=tfds.features.FeaturesDict({"rows": text, "error": text}),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {_SPLIT: self._generate_examples()}

        def _generate_examples(self):
            return mapped(self._read, self._video_ids)

    return PreparedClips
