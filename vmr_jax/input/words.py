"""The words of a dataset: its vocabulary and their vectors."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset, Split
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors, load_word_vectors


def build_vocabulary(split: Split, tokenizer: str) -> list[str]:
    """Returns the sorted words of a split's queries; word i has id i + 2 (0 padding, 1 unknown)."""
    return sorted({token.text for q in split.queries for token in tokenize(q.text, tokenizer)})


def open_word_vectors(config, dataset: Dataset, sentences: Sequence[str] | None = ()) -> WordVectors | None:
    """Opens `config.text.vectors`, or the dataset's own vectors where that is empty.

    Of a file only the words of the dataset and of `sentences` (a user's queries) are kept in memory; where
    `sentences` is None, as any may come, all of its words are (GloVe 6B with 300 dimensions: 0.5 GB). Returns
    None where `config.text.features` takes the place of word vectors. 'none' has no word, for architectures
    that learn their vectors from random ones.
    """
    if config.text.features:
        return None
    if config.text.vectors == "none":
        return WordVectors([], np.zeros((0, config.text.dim), np.float32))
    if config.text.vectors:
        wanted = None
        if sentences is not None:
            every = itertools.chain(dataset.sentences(), sentences)
            wanted = {token.text for text in every for token in tokenize(text, config.text.tokenizer)}
        vectors = load_word_vectors(Path(config.text.vectors).expanduser(), wanted)
    elif dataset.word_vectors_of_dataset is not None:
        vectors = WordVectors(*dataset.word_vectors_of_dataset)
    else:
        raise UserError(
            f"config.text.vectors is empty and {dataset.options.name} brings no word vectors of its own. "
            "Set it to a GloVe file: glove.6B.300d.txt, or an .npz with `words` and `vectors`."
        )
    if vectors.dim != config.text.dim:
        raise UserError(
            f"The word vectors in {config.text.vectors or dataset.options.name} have {vectors.dim} "
            f"dimensions; config.text.dim says {config.text.dim}. Set it to {vectors.dim} or bring other "
            "vectors."
        )
    return vectors
