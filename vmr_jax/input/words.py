"""The words of a dataset: its vocabulary and their vectors."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.input.dataset import Split, dataset_module
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors, load_word_vectors


def build_vocabulary(split: Split, tokenizer: str) -> list[str]:
    """Returns the sorted words of a split's queries; word i has id i + 2 (0 padding, 1 unknown)."""
    return sorted({token.text for q in split.queries for token in tokenize(q.text, tokenizer)})


def open_word_vectors(config: Any, sentences: Iterable[str] | None) -> WordVectors | None:
    """Opens `config.text.vectors`, or the dataset's own vectors where that is empty.

    Args:
      config: the resolved config; reads `config.text` and `config.dataset`.
      sentences: of a file only their words are kept in memory; None, as any may come, keeps all words (GloVe 6B
        with 300 dimensions: 0.5 GB).

    Returns:
      None where `config.text.features` takes the place of word vectors. 'none' has no word, for architectures
      that learn their vectors from random ones.

    Raises:
      UserError: where there are no vectors, or of another width than `config.text.dim`.
    """
    if config.text.features:
        return None
    if config.text.vectors == "none":
        return WordVectors([], np.zeros((0, config.text.dim), np.float32))
    if config.text.vectors:
        wanted = None
        if sentences is not None:
            wanted = {token.text for text in sentences for token in tokenize(text, config.text.tokenizer)}
        vectors = load_word_vectors(user_path(config.text.vectors), wanted)
    elif (own := dataset_module(config.dataset.name).word_vectors(config.dataset)) is not None:
        vectors = WordVectors(*own)
    else:
        raise UserError(
            f"config.text.vectors is empty and {config.dataset.name} brings no word vectors of its own. "
            "Set it to a GloVe file: glove.6B.300d.txt, or an .npz with `words` and `vectors`."
        )
    if vectors.dim != config.text.dim:
        raise UserError(
            f"The word vectors in {config.text.vectors or config.dataset.name} have {vectors.dim} "
            f"dimensions; config.text.dim says {config.text.dim}. Set it to {vectors.dim} or bring other "
            "vectors."
        )
    return vectors
