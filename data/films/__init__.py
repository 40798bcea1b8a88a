"""Films: the embedded dataset with pictures, rendered as mp4 files from a seed. A test bed; see README.md."""

from pathlib import Path

import numpy as np

from vmr_jax.data import storyboard
from vmr_jax.data.storyboard.vectors import SENTENCE_DIM
from vmr_jax.errors import UserError, user_path
from vmr_jax.input.preparing import prepare_once

# The optional fields of `Batch` that it fills, with their shape in one clip or one query.
MODALITIES = {
    "sentence": (SENTENCE_DIM,),
    "tree": (),
    "constituents": (),
    "static_words": (),
    "dynamic_words": (),
}


def prepare(options):
    """Renders and encodes the films under `options.data_dir` unless they are there; returns their TFDS builder.

    Args:
      options: has `data_dir`, `seed` (int >= 0), `train_videos` and `test_videos` (int >= 1; the latter is the
        number of val too).

    Raises:
      UserError: the seed or a number of videos is not such an integer.
    """
    for field, least in (("seed", 0), ("train_videos", 1), ("test_videos", 1)):
        value = getattr(options, field)
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"config.dataset.{field} is {value!r}; films expects a whole number of at least {least}. "
                "Correct it in the config or on the command line."
            )
    from vmr_jax.data.films.builder import Films, FilmsConfig

    config = FilmsConfig.of(options.seed, options.train_videos, options.test_videos)
    data_dir = user_path(options.data_dir)
    return prepare_once(lambda: Films(config=config, data_dir=data_dir), data_dir)


def files(options, split: str) -> list[Path]:
    """The mp4 files of a split that was prepared, in order."""
    from vmr_jax.data.films.builder import videos_folder

    count = options.train_videos if split == "train" else options.test_videos
    folder = videos_folder(user_path(options.data_dir), options.seed)
    return [folder / f"{split}_{i:04d}.mp4" for i in range(count)]


def features(options) -> None:
    """Returns None: the features are in the records."""
    del options


def word_vectors(options) -> tuple[list[str], np.ndarray]:
    """The words and vectors of storyboard of the same seed; see there."""
    return storyboard.word_vectors(options)
