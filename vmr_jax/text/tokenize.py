"""Sentences become words, each with its place in the sentence.

Places are character offsets, so that a semantic role tree (character spans) fits the words of any style.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vmr_jax.errors import unknown


class Token(NamedTuple):
    """A word: its lower-case text, and text[start:end] of the sentence that it came from."""

    text: str
    start: int
    end: int


_APOSTROPHE = "['’]"
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_WHITESPACE = re.compile(r"\S+")
# In this order: the stem before n't, n't itself, the other clitics, runs of letters and digits.
_PARTS = (
    rf"[^\W_]+?(?=n{_APOSTROPHE}t\b)|n{_APOSTROPHE}t\b|(?<=[^\W_]){_APOSTROPHE}(?:s|re|ll|ve|d|m)\b|[^\W_]+"
)
_WORDS = re.compile(_PARTS, re.IGNORECASE)
_TREEBANK = re.compile(rf"[^\W_]+(?:-[^\W_]+)+|{_PARTS}|\S", re.IGNORECASE)


def _whitespace(text: str) -> list[Token]:
    """2D-TAN: the text between blanks, punctuation included ("door." is not "door")."""
    return [Token(m.group().lower(), m.start(), m.end()) for m in _WHITESPACE.finditer(text)]


def _whitespace_no_stop(text: str) -> list[Token]:
    """2D-TAN on Charades-STA, where it drops the final full stop before it splits."""
    return _whitespace(re.sub(r"\.\s*\Z", "", text))


def _no_punctuation(text: str) -> list[Token]:
    """LGI: the text between blanks, without its ASCII punctuation ("man's" is "mans")."""
    bare = (Token(token.text.translate(_WITHOUT_PUNCTUATION), *token[1:]) for token in _whitespace(text))
    return [token for token in bare if token.text]


def _alphanumeric(text: str) -> list[Token]:
    """MCN: runs of ASCII letters and digits; clitics are words without their apostrophe ("man", "s")."""
    return _found(_ALPHANUMERIC, text)


def _words(text: str) -> list[Token]:
    """Runs of letters and digits; clitics apart, as GloVe has them: person 's, do n't, they 're."""
    return _found(_WORDS, text)


def _treebank(text: str) -> list[Token]:
    """As a constituency parser has them: walk-in is one word, and every punctuation mark is one."""
    return _found(_TREEBANK, text)


def _found(pattern: re.Pattern, text: str) -> list[Token]:
    return [Token(m.group().lower().replace("’", "'"), m.start(), m.end()) for m in pattern.finditer(text)]


STYLES: dict[str, Callable[[str], list[Token]]] = {
    "whitespace": _whitespace,
    "whitespace_no_stop": _whitespace_no_stop,
    "no_punctuation": _no_punctuation,
    "alphanumeric": _alphanumeric,
    "words": _words,
    "treebank": _treebank,
}


def tokenize(text: str, style: str = "words") -> list[Token]:
    """Splits a sentence into words.

    Args:
      text: the sentence.
      style: 'words' (lower-case runs of letters and digits, punctuation dropped, clitics split off as in the
        Penn Treebank and so in GloVe), 'whitespace' (2D-TAN, Zhang et al. 2020: lower-case, split at blanks,
        punctuation stays on its word), 'whitespace_no_stop' (the same after one final full stop is dropped,
        2D-TAN's reading of Charades-STA), 'no_punctuation' (LGI, Mun et al. 2020: the same after all ASCII
        punctuation is deleted), 'alphanumeric' (MCN, Hendricks et al. 2017: lower-case runs of ASCII letters
        and digits) or 'treebank' (as 'words', but hyphenated words are whole, and punctuation marks are words).

    Returns:
      The words in order; empty for a sentence without any.

    Raises:
      UserError: for an unknown style, naming the nearest.
    """
    if style not in STYLES:
        raise unknown("There is no tokeniser", style, STYLES, "Set config.text.tokenizer to one of them.")
    return STYLES[style](text)


CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789'-"  # of a lower-case word; id = position + 2
FIRST_CHARACTER = 2  # ids below are padding and any other character
MAX_CHARACTERS = 16  # of a word


def characters(tokens: Sequence[Token], alphabet: str, words: int) -> np.ndarray:
    """Returns [words, MAX_CHARACTERS] int32 ids: 0 padding, 1 a character that `alphabet` lacks."""
    ids = np.zeros((words, MAX_CHARACTERS), np.int32)
    for row, token in zip(ids, tokens):
        text = token.text[:MAX_CHARACTERS]
        row[: len(text)] = [alphabet.find(c) + FIRST_CHARACTER if c in alphabet else 1 for c in text]
    return ids
