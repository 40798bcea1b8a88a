"""Constituency trees of the sentences: the dataset's, those that a user brings, and as arrays of a batch."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.input import schema
from vmr_jax.input.text_files import text_of
from vmr_jax.text.constituency import (
    Constituent,
    constituents_of,
    label_id,
    right_branching,
    shortened,
    spelling,
    spoken,
)
from vmr_jax.text.tokenize import Token
from vmr_jax.types import Constituents

RIGHT_BRANCHING = "right_branching"  # the value of config.text.parses that asks for no parser
_REMEMBERED = 2**17  # sentences


class Parses:
    """The trees of sentences: of the user's files first, then the dataset's, else `right_branching`.

    Args:
      files: `config.text.parses`, paths with commas between them, '' for none; or `RIGHT_BRANCHING`, in
        place of the dataset's trees too. A file holds trees in brackets, each from a new line on, in any order:
        they are known by their words.

    Raises:
      UserError: for a file that cannot be read or holds something else, naming file and line.
    """

    def __init__(self, files: str):
        self._made = files == RIGHT_BRANCHING
        self._found: dict[str, str] = {}
        for path in parse_files(files):
            self._found.update(read_parses(path))
        self._remembered = functools.lru_cache(maxsize=_REMEMBERED)(_nodes)

    def has(self, query: schema.Query) -> bool:
        """Whether there is a parse of the sentence."""
        return bool(self._brackets(query)) or self._made

    def nodes(self, query: schema.Query) -> tuple[Constituent, ...]:
        """The tree of the sentence; UserError where its words cannot be found in it."""
        try:
            return self._remembered(self._brackets(query), query.text)
        except ValueError as error:  # such as a quote within a word, which the parser spells otherwise
            raise UserError(
                f'The parse of "{query.text}" ({query.qid}) is not of these words: {error}. Correct the tree '
                "in config.text.parses, or take it out: the sentence then gets one that branches to the right."
            ) from None

    def _brackets(self, query: schema.Query) -> str:
        return "" if self._made else self._found.get(spelling(query.text), query.parse)


def _nodes(brackets: str, text: str) -> tuple[Constituent, ...]:
    return constituents_of(brackets, text) if brackets else right_branching(text)


def parse_files(files: str) -> list[Path]:
    """The paths in `config.text.parses`."""
    names = files.split(",") if files not in ("", RIGHT_BRANCHING) else []
    return [user_path(name.strip()) for name in names]


def check_parses(files: str) -> None:
    """Raises UserError for `config.text.parses` that names a file that is not there."""
    for path in parse_files(files):
        if not path.is_file():
            raise UserError(
                f"config.text.parses is {files}, and there is no file {path} (seen from {Path.cwd()}). It is a "
                "file of the sentences' constituency trees in brackets, as parsers write them: give yours, or "
                f"'{RIGHT_BRANCHING}' for trees that are made without a parser."
            )


def read_parses(path: Path) -> dict[str, str]:
    """The trees of a file by their sentences (`vmr_jax.text.constituency.spelling`)."""
    found = {}
    for line, brackets in _trees(text_of(path)):
        try:
            found[spoken(brackets)] = brackets
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}: no tree in brackets, such as (S (NP (NN somebody)) (VP (VBZ waves))): "
                f"{error}. Correct the file; it holds trees and nothing else."
            ) from None
    if not found:
        raise UserError(f"{path} holds no tree. It is config.text.parses; get it again, or name another file.")
    return found


def _trees(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line from 1 and the text of each tree; they may go over several lines."""
    first, depth = 0, 0
    lines: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if not lines:
            first = number
        lines.append(line)
        depth += line.count("(") - line.count(")")
        if depth <= 0:
            yield first, "\n".join(lines)
            depth, lines = 0, []
    if lines:
        yield first, "\n".join(lines)


def constituents(
    nodes: tuple[Constituent, ...], tokens: Sequence[Token], max_words: int, max_nodes: int
) -> Constituents:
    """The unbatched arrays of a tree over the words of one tokeniser, of its first words (`shortened`)."""
    nodes = shortened(nodes, max_nodes)
    parents, labels = np.zeros(max_nodes, np.int32), np.zeros(max_nodes, np.int32)
    words = np.zeros((max_nodes, max_words), bool)
    parents[: len(nodes)] = [max(node.parent, 0) for node in nodes]
    labels[: len(nodes)] = [label_id(node.label) for node in nodes]
    spans = np.asarray([node.span for node in nodes]).reshape(-1, 2)
    places = np.asarray([(token.start, token.end) for token in tokens[:max_words]]).reshape(-1, 2)
    overlap = (spans[:, None, 0] < places[None, :, 1]) & (spans[:, None, 1] > places[None, :, 0])
    words[: len(nodes), : len(places)] = overlap
    arrays: dict[str, Any] = {"parents": parents, "labels": labels, "words": words}
    return Constituents(**arrays)
