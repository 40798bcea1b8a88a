"""Pretrained word vectors: GloVe text files, or .npz files with `words` and `vectors`."""

import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.files import past_race

_SMALL, _MOST_PACKED = 2**26, 100  # bytes, and times that an .npz of vectors is smaller than its arrays
_MOST = 1e6  # of a number of a vector, either sign; those of GloVe are below 10
_WORD2VEC_HEADER = re.compile(r"\d+ \d+\s*$")


class WordVectors:
    """A table of word vectors; words that it lacks are zeros (as torchtext's GloVe in 2D-TAN).

    Args:
      words: N words. Where one occurs twice, the first row counts.
      vectors: [N,W] float, finite.

    Raises:
      UserError: where the two do not fit together or a number is not finite.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[0] != len(words) or vectors.dtype.kind != "f":
            raise UserError(
                f"Word vectors must be floating-point numbers of shape [words,dimensions]; for {len(words)} "
                f"words they have shape {list(vectors.shape)} and type {vectors.dtype}."
            )
        bad = ~np.isfinite(vectors).all(-1)
        if bad.any():
            raise UserError(
                f'{bad.sum()} of {len(words)} word vectors hold NaN or infinity, first that of "'
                f'{words[int(bad.argmax())]}". Get the file again; GloVe has none.'
            )
        self._vectors = vectors.astype(np.float32)
        self._row = {str(word): i for i, word in reversed(list(enumerate(words)))}

    @property
    def dim(self) -> int:
        """W, the width of a vector."""
        return self._vectors.shape[1]

    def __len__(self) -> int:
        return len(self._row)

    def known(self, token: str) -> bool:
        """Whether the table has this word."""
        return token in self._row

    def lookup(self, tokens: Sequence[str]) -> np.ndarray:
        """Returns [L,W] float32, one row per word of `tokens` [L]; zeros for words that are not known."""
        found = np.zeros((len(tokens), self.dim), np.float32)
        for i, token in enumerate(tokens):
            row = self._row.get(token)
            if row is not None:
                found[i] = self._vectors[row]
        return found


def require_vectors(path: Path) -> None:
    """Raises UserError where no file of word vectors is."""
    if not path.is_file():
        raise UserError(
            f"There are no word vectors at {path} (seen from {Path.cwd()}). The field uses GloVe with 300 "
            "dimensions, of 840B or 6B words: glove.840B.300d.zip or glove.6B.zip from the Stanford "
            '"GloVe: Global Vectors for Word Representation" page. Unzip it and set config.text.vectors to its '
            "glove.840B.300d.txt or glove.6B.300d.txt; or have vectors of the training words learnt, with "
            "config.text.vectors=none and config.text.trainable=True."
        )


def load_word_vectors(path: str | Path, vocabulary: Collection[str] | None = None) -> WordVectors:
    """Reads word vectors from a file.

    Args:
      path: GloVe's text format (a word and its numbers on each line, .txt) or an .npz file with the arrays
        `words` [N] (text) and `vectors` [N,W].
      vocabulary: the words wanted; None keeps all of them. A text file is streamed, and only the rows that are
        wanted are parsed and held.

    Returns:
      The table; it lacks the words of `vocabulary` that the file lacks.

    Raises:
      UserError: for a missing file, an unknown kind, a malformed row (with its line number), NaN or infinity,
        or a file that has none of the words.
    """
    path = user_path(path)
    require_vectors(path)
    if path.suffix == ".txt":
        words, vectors = _read_text(path, vocabulary)
    elif path.suffix == ".npz":
        words, vectors = _read_npz(path, vocabulary)
    else:
        raise UserError(
            f'{path}: word vectors are read from .txt (GloVe) or .npz files, not from "{path.suffix}". '
            "Unpack an archive first, and set config.text.vectors to the file in it."
        )
    if not words:
        raise UserError(
            f"{path} holds no vector of any word that is wanted. Check that it is a file of word vectors in "
            "the language of the annotations."
        )
    try:
        return WordVectors(words, vectors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_text(path: Path, vocabulary: Collection[str] | None) -> tuple[list[str], np.ndarray]:
    wanted = None if vocabulary is None else frozenset(vocabulary)
    words, rows, dim = [], [], None
    with warnings.catch_warnings():
        # NumPy only warns where text does not parse as numbers.
        warnings.simplefilter("error", DeprecationWarning)
        for number, line in _lines(path):
            if dim is None:
                if _WORD2VEC_HEADER.match(line):
                    continue
                dim = len(line.split(" ")) - 1
            # From the right: GloVe 840B has words with blanks in them (". . .").
            word = line.rsplit(" ", dim)[0] if dim else ""
            if wanted is not None and word not in wanted:
                continue
            rows.append(_numbers(line[len(word) :], dim, f"{path}, line {number}"))
            words.append(word)
    return words, np.stack(rows) if rows else np.zeros((0, dim or 0), np.float32)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end)."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n ")
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not UTF-8 text, somewhere after line {number}. Get the file again; a GloVe file "
            "is plain text."
        ) from None


def _numbers(text: str, dim: int, where: str) -> np.ndarray:
    """[dim] float32 from text such as ' 0.1 0.2'."""
    try:
        row = np.fromstring(text, dtype=np.float32, sep=" ")
    except (DeprecationWarning, ValueError):
        row = np.zeros(0, np.float32)
    if not dim or row.shape != (dim,):
        raise UserError(
            f"{where}: expected a word and {dim or 'its'} numbers with single blanks between them. The file "
            "is damaged or cut short; get it again."
        )
    if not np.isfinite(row).all():
        raise UserError(f"{where}: the vector holds NaN or infinity. Get the file again; GloVe has none.")
    if np.abs(row).max() > _MOST:
        most = np.abs(row).max()
        raise UserError(f"{where}: the vector holds {most:.3g}, more than any word's. Get the file again.")
    return row


def _read_npz(path: Path, vocabulary: Collection[str] | None) -> tuple[list[str], np.ndarray]:
    try:
        words, vectors = past_race(lambda: _arrays(path))
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged file
        raise UserError(f"{path} cannot be read as an .npz file of plain arrays: {error}") from None
    if vocabulary is None or vectors.shape[:1] != (len(words),):
        return words, vectors
    wanted = frozenset(vocabulary)
    keep = [i for i, word in enumerate(words) if word in wanted]
    return [words[i] for i in keep], vectors[keep]


def _arrays(path: Path) -> tuple[list[str], np.ndarray]:
    # NumPy leaves a damaged file open that it opened itself.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        absent = {"words", "vectors"} - set(arrays.files)
        if absent:
            raise UserError(
                f"{path} has no array {' and no array '.join(sorted(absent))} (it has: "
                f"{', '.join(arrays.files) or 'none'}). Save it with np.savez(path, words=..., "
                "vectors=...)."
            )
        claimed = sum(member.file_size for member in arrays.zip.infolist())
        if claimed > max(_SMALL, _MOST_PACKED * path.stat().st_size):
            raise UserError(f"{path} claims {claimed:,} bytes, more than it can hold. Get it again.")
        return [str(word) for word in arrays["words"]], arrays["vectors"]
