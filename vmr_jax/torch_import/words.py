"""Word vectors that belong to an official checkpoint become a file of word vectors, by a command."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import read_json
from vmr_jax.torch_import import read_checkpoint, tensors_of


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


# --- vectors in the checkpoint itself ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Where an official program keeps its words.

    Attributes:
      program: name of the architecture, for messages.
      key: official name of the tensor [X,W] of their vectors.
      special: words without a meaning (padding, unknown, start, end), which are the first rows.
    """

    program: str
    key: str
    special: tuple[str, ...]


def word_vectors(
    vocabulary: Vocabulary, checkpoint: str | Path, words: str | Path
) -> tuple[list[str], np.ndarray]:
    """Reads the words of an official vocabulary and their vectors [words,W] of an official checkpoint.

    The special words are left out.

    Raises:
      UserError: for a file that is missing or of another kind, and where the two do not belong together.
    """
    ids = _ids(vocabulary, Path(words))
    table = tensors_of(read_checkpoint(checkpoint)).get(vocabulary.key)
    if table is None:
        raise UserError(
            f"{checkpoint} has no {vocabulary.key}. It is not a checkpoint of {vocabulary.program}'s official "
            "code."
        )
    if len(table) != len(ids):
        raise UserError(
            f"{checkpoint} has vectors of {len(table)} words and {words} has {len(ids)}. Take the "
            "vocabulary that this checkpoint was trained with."
        )
    first = len(vocabulary.special)
    return sorted(ids, key=ids.__getitem__)[first:], np.array(table[first:], np.float32)


def _ids(vocabulary: Vocabulary, path: Path) -> dict[str, int]:
    """Word -> row, from the json of the official preprocessing."""
    special = vocabulary.special
    try:
        ids = read_json(path)["wtoi"]
        in_order = sorted(ids, key=ids.__getitem__)
        whole = sorted(ids.values()) == list(range(len(ids))) and tuple(in_order[: len(special)]) == special
    except FileNotFoundError:
        raise UserError(f"There is no vocabulary at {path}. Check the path.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(
            f"{path} is no vocabulary of {vocabulary.program}'s official code: a json file with a field wtoi, "
            f"which gives {', '.join(special)} and all words the numbers from 0 on."
        )
    return ids


def write_words(vocabulary: Vocabulary, arguments: Sequence[str]) -> None:
    """Writes the word vectors of CHECKPOINT and VOCABULARY to WORDS.npz; `arguments` are these three."""
    if len(arguments) != 3:
        module = f"vmr_jax.torch_import.{vocabulary.program.lower()}"
        raise UserError(f"Use: python -m {module} CHECKPOINT VOCABULARY.json WORDS.npz")
    checkpoint, words, path = arguments
    save_words(path, *word_vectors(vocabulary, checkpoint, words))
