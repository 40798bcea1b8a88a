"""Storyboard: the embedded dataset, generated from a seed. A test bed; see README.md."""

import numpy as np

from vmr_jax.data.storyboard.render import SHAPES
from vmr_jax.data.storyboard.translation import translated_word
from vmr_jax.data.storyboard.vectors import SENTENCE_DIM, vectors
from vmr_jax.errors import UserError, user_path
from vmr_jax.input.preparing import prepare_once

_WORD_LENGTH = 6.0  # of a word vector; the words of Charades have a mean of 6.0 in GloVe 6B 300d

# The optional fields of `Batch` that it fills, with their shape in one clip or one query.
MODALITIES = {
    **{name: shape[1:] for name, shape in SHAPES.items() if name != "rgb"},
    "sentence": (SENTENCE_DIM,),
    "translation": (),
    "tree": (),
    "constituents": (),
    "static_words": (),
    "dynamic_words": (),
    "context": (),
}


def prepare(options):
    """Generates the records under `options.data_dir` unless they are there; returns their TFDS builder.

    Args:
      options: has `data_dir`, `seed` (int >= 0) and `train_videos` (int >= 1).

    Raises:
      UserError: the seed or the number of videos is not such an integer.
    """
    for field, least in (("seed", 0), ("train_videos", 1)):
        value = getattr(options, field)
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"config.dataset.{field} is {value!r}; storyboard expects a whole number of at least {least}. "
                "Correct it in the config or on the command line."
            )
    from vmr_jax.data.storyboard.builder import Storyboard, StoryboardConfig

    config = StoryboardConfig.of(options.seed, options.train_videos)
    data_dir = user_path(options.data_dir)
    return prepare_once(lambda: Storyboard(config=config, data_dir=data_dir), data_dir)


def features(options) -> None:
    """Returns None: the features are in the records."""
    del options


def word_vectors(options) -> tuple[list[str], np.ndarray]:
    """Returns every word of the grammar, novel ones too, and vectors [n,50] float32 as long as GloVe's.

    Words of the same meaning have a cosine above 0.8; different meanings are nearly orthogonal. Behind them are
    their translations, whose vectors are related in the same way to each other and not to the first.
    """
    world = vectors(options.seed)
    words = [*world.words, *map(translated_word, world.words)]
    rows = np.concatenate([world.word_vectors, world.translated_vectors])
    return words, rows * np.float32(_WORD_LENGTH)
