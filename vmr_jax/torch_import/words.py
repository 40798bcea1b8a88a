"""Word vectors that belong to an official checkpoint become a file of word vectors, by a command."""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from vmr_jax.errors import UserError


def save_words(path: str, words: Sequence[str], vectors: np.ndarray) -> None:
    """Writes words and their vectors [words,W] as `config.text.vectors` reads them, and says so."""
    np.savez(path, words=np.array(words), vectors=vectors)
    print(f"{len(words)} words and their vectors of {vectors.shape[1]} numbers are in {path}.")


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main` with the arguments of the command; a `UserError` is one line, and the exit status 1."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
