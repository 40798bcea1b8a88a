"""Who does what in a sentence, as character offsets."""

import dataclasses
from collections.abc import Sequence

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Roles:
    """The roles in one sentence; spans are character offsets, end exclusive, in sentence order.

    Attributes:
      verbs: predicates, one word each, without auxiliaries.
      nouns: arguments, a noun chunk each; empty where there is no verb.
      edges: (index in verbs, index in nouns): the noun is an argument of the verb.
      chunks: noun chunks (the static query of VDI).
    """

    verbs: tuple[Span, ...] = ()
    nouns: tuple[Span, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    chunks: tuple[Span, ...] = ()


def roles_of_chunks(verbs: Sequence[Span], edges: set[tuple[int, int]], chunks: Sequence[Span]) -> Roles:
    """Assembles `Roles`; `edges` index `chunks`. Chunks that belong to no verb are no arguments."""
    arguments = sorted({c for _, c in edges})
    place = {c: n for n, c in enumerate(arguments)}
    return Roles(
        verbs=tuple(verbs),
        nouns=tuple(chunks[c] for c in arguments),
        edges=tuple(sorted((v, place[c]) for v, c in edges)),
        chunks=tuple(chunks),
    )


def is_content(tag: str) -> bool:
    """Whether a Penn Treebank tag is that of a noun, verb, adjective or adverb."""
    return any(part in tag for part in ("NN", "VB", "JJ", "RB"))
