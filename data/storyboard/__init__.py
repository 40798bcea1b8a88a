"""Storyboard: the embedded dataset, generated from a seed. A test bed; see README.md."""

import contextlib
import io
import logging
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError

SPLITS = (
    "train",
    "val",
    "test",
    "test_novel_word",
    "test_novel_composition",
    "test_shifted_position",
)
TEST_SPLITS = SPLITS[2:]

# Optional fields of `Batch`, with their shape in a clip or a query.
MODALITIES = {
    "flow": (32,),
    "audio": (16,),
    "objects": (4, 32),
    "subtitles": (32,),
    "sentence": (32,),
    "tree": (),
    "static_words": (),
    "dynamic_words": (),
}


def prepare(options):
    """Generates the records under `options.data_dir` unless they are there; returns their TFDS builder.

    Records are written to a folder of another name, which is renamed when it is complete: a killed
    preparation is never read. Of two at the same time, the first to finish stays.

    Args:
      options: has `data_dir`, `seed` (int >= 0) and `train_videos` (int >= 1).

    Raises:
      UserError: a seed or a size that is not such an integer.
    """
    for field, least in (("seed", 0), ("train_videos", 1)):
        value = getattr(options, field)
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"config.dataset.{field} of storyboard is {value!r}; it must be a whole number of at least "
                f"{least}. Correct it."
            )
    from data.storyboard.builder import Storyboard, StoryboardConfig

    config = StoryboardConfig.of(options.seed, options.train_videos)
    data_dir = Path(options.data_dir).expanduser()
    with _quiet():
        builder = Storyboard(config=config, data_dir=data_dir)
        if not builder.data_path.exists():
            builder.download_and_prepare()
    return builder
