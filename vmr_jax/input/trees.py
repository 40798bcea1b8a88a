"""Semantic role trees that a user brings, in the place of those that the parser of the package makes."""

import re
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.text.roles import Roles, Span


def user_tree(tree: Any, text: str, where: str) -> Roles:
    """Reads [{"verb": "beats", "arguments": ["the man", "his drum"]}, ...] of a sentence.

    Args:
      tree: a phrase for each verb. A verb or an argument is a part of the sentence: its text, of which the
        first place counts, or [start, end], characters of the sentence, the end exclusive. Equal arguments of
        two verbs are one node.
      text: the sentence, without blanks around it.
      where: file and line.

    Raises:
      UserError: for another form, and for a part that is not in the sentence.
    """
    if not isinstance(tree, list) or not all(isinstance(phrase, dict) and "verb" in phrase for phrase in tree):
        raise UserError(
            f'{where}: "tree" is no list of phrases such as {{"verb": "beats", "arguments": ["the man"]}}. '
            "Correct it, or leave the field out: the sentence is parsed then."
        )
    phrases = sorted(
        (_span(phrase["verb"], text, where), [_span(part, text, where) for part in phrase.get("arguments", [])])
        for phrase in tree
    )
    nouns = sorted({noun for _, arguments in phrases for noun in arguments})
    edges = {(v, nouns.index(noun)) for v, (_, arguments) in enumerate(phrases) for noun in arguments}
    return Roles(verbs=tuple(verb for verb, _ in phrases), nouns=tuple(nouns), edges=tuple(sorted(edges)))


def _span(part: Any, text: str, where: str) -> Span:
    """Character offsets of a part of the sentence."""
    if isinstance(part, str) and part.strip():
        match = re.search(rf"(?<!\w){re.escape(part.strip())}(?!\w)", text, re.IGNORECASE)
        if match:
            return match.span()
    elif isinstance(part, list) and len(part) == 2 and all(type(place) is int for place in part):
        if 0 <= part[0] < part[1] <= len(text):
            return part[0], part[1]
    raise UserError(
        f'{where}: "tree" names {part!r}, which is no part of the sentence "{text}". Write words of it as they '
        "stand there, or [start, end] in characters."
    )
