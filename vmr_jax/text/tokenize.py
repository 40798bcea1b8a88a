"""Sentences become words, each with its place in the sentence.

Places are character offsets, so that a semantic role tree (character spans) fits the words of any style.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from vmr_jax.errors import UserError, nearest


class Token(NamedTuple):
    """A word: its lower-case text, and text[start:end] of the sentence that it came from."""

    text: str
    start: int
    end: int


_APOSTROPHE = "['’]"
_WHITESPACE = re.compile(r"\S+")
# In this order: the stem before n't, n't itself, the other clitics, runs of letters and digits.
_WORDS = re.compile(
    rf"[^\W_]+?(?=n{_APOSTROPHE}t\b)"
    rf"|n{_APOSTROPHE}t\b"
    rf"|(?<=[^\W_]){_APOSTROPHE}(?:s|re|ll|ve|d|m)\b"
    r"|[^\W_]+",
    re.IGNORECASE,
)


def _whitespace(text: str) -> list[Token]:
    """2D-TAN: what stands between blanks, punctuation included ("door." is not "door")."""
    return [Token(m.group().lower(), m.start(), m.end()) for m in _WHITESPACE.finditer(text)]


def _whitespace_no_stop(text: str) -> list[Token]:
    """2D-TAN on Charades-STA, where it drops the final full stop before it splits."""
    return _whitespace(re.sub(r"\.\s*\Z", "", text))


def _words(text: str) -> list[Token]:
    """Runs of letters and digits; clitics apart, as GloVe has them: person 's, do n't, they 're."""
    return [Token(m.group().lower().replace("’", "'"), m.start(), m.end()) for m in _WORDS.finditer(text)]


STYLES: dict[str, Callable[[str], list[Token]]] = {
    "whitespace": _whitespace,
    "whitespace_no_stop": _whitespace_no_stop,
    "words": _words,
}


def tokenize(text: str, style: str = "words") -> list[Token]:
    """Splits a sentence into words.

    Args:
      text: the sentence.
      style: 'words' (lower-case runs of letters and digits, punctuation dropped, clitics split off as in the
        Penn Treebank and so in GloVe), 'whitespace' (2D-TAN, Zhang et al. 2020: lower-case, split at blanks,
        punctuation stays on its word) or 'whitespace_no_stop' (the same after one final full stop is dropped,
        2D-TAN's reading of Charades-STA).

    Returns:
      The words in order; empty for a sentence without any.

    Raises:
      UserError: for an unknown style, naming the nearest.
    """
    if style not in STYLES:
        raise UserError(
            f'There is no tokeniser "{style}".{nearest(style, STYLES)} Known: {", ".join(STYLES)}. '
            "Set config.text.tokenizer to one of them."
        )
    return STYLES[style](text)
