"""Noun chunks and verb-centred frames, read off the tags of a caption."""

from collections.abc import Callable

from vmr_jax.text.lexicon import PEOPLE, PREPOSITIONS
from vmr_jax.text.roles import Roles, Span, is_content, roles_of_chunks
from vmr_jax.text.tagging import AUXILIARY, OBJECT_PRONOUNS, PRONOUN_LIKE, Tagged, tagged_tokens


def content_of_caption(text: str, tag: Callable[..., str]) -> tuple[Span, ...]:
    """Reads the content words off the tags that `tag`, of `textblob_tagger`, gives."""
    tokens, tags = tagged_tokens(text, tag)
    return tuple((token.start, token.end) for token, found in zip(tokens, tags) if is_content(found))


def roles_of_caption(text: str, tag: Callable[..., str]) -> Roles:
    """Reads the roles off the tags that `tag`, of `textblob_tagger`, gives."""
    tokens, tags = tagged_tokens(text, tag)
    chunks = noun_chunks(tags)
    verbs = [i for i in range(len(tags)) if is_predicate(tags, i)]
    return roles_of_chunks(
        [(tokens[i].start, tokens[i].end) for i in verbs],
        _edges(tags, verbs, chunks),
        [(tokens[a].start, tokens[b - 1].end) for a, b in chunks],
    )


def is_predicate(t: Tagged, i: int) -> bool:
    """A verb that is no auxiliary: no be, have or do right before another verb."""
    if not t[i].startswith("VB"):
        return False
    after = i + 1
    while t.at(after).startswith("RB"):
        after += 1
    return not (t.word(i) in AUXILIARY and t.at(after).startswith("VB"))


def noun_chunks(t: Tagged) -> list[tuple[int, int]]:
    """Word ranges of the noun chunks: determiners, numbers and adjectives up to the last noun; or a pronoun."""
    chunks, i = [], 0
    while i < len(t):
        if t[i] == "PRP":
            chunks.append((i, i + 2 if t.word(i + 1) in ("all", "both", "each") else i + 1))
            i = chunks[-1][1]
            continue
        end = i
        while _continues_chunk(t, i, end):
            end += 1
        last = max((k for k in range(i, end) if t[k].startswith("NN")), default=None)
        if last is None and end > i and t.word(end - 1) in PRONOUN_LIKE:
            last = end - 1
        if last is not None:
            chunks.append((i, last + 1))
            i = last + 1
        else:
            i = max(end, i + 1)
    return chunks


def _continues_chunk(t: Tagged, start: int, i: int) -> bool:
    """Whether word i belongs to the chunk that began at `start`."""
    if t.at(i) in ("DT", "PRP$"):
        # "person the closet": a determiner after a noun begins the next chunk; "all the" does not.
        return not any(tag.startswith("NN") for tag in t[start:i])
    if t.at(i).startswith("RB"):
        return i > start and t.at(start) in ("DT", "PRP$") and t.at(i + 1).startswith("JJ")
    return t.at(i).startswith(("NN", "JJ")) or t.at(i) in ("CD", "POS")


def _edges(t: Tagged, verbs: list[int], chunks: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Verb-centred frames: (verb, chunk) index pairs.

    The subject is the chunk right before the verb, unless that is the object of another word; a verb
    without one shares the subject of the verb before it. All other chunks are arguments of the nearest verb on
    their left, of the first verb where there is none.
    """
    if not verbs:
        return set()
    edges, subject, subjects = set(), None, set()
    for v, at in enumerate(verbs):
        own = subject_chunk(t, at, chunks)
        if own is not None:
            subjects.add(own)
        elif v == 0 and chunks and chunks[0][1] <= at:
            own = 0
        subject = own if own is not None else subject
        if subject is not None:
            edges.add((v, subject))
    for c, (start, _) in enumerate(chunks):
        if c in subjects and not is_governed(t, start):
            continue
        left = [v for v, at in enumerate(verbs) if at < start]
        edges.add((left[-1] if left else 0, c))
    return edges


def subject_chunk(t: Tagged, verb: int, chunks: list[tuple[int, int]]) -> int | None:
    """The chunk that ends right before a verb and its auxiliaries and adverbs, if it can be its subject."""
    before = verb
    while t.at(before - 1).startswith(("RB", "MD", "WDT", "WP")) or (
        t.word(before - 1) in AUXILIARY and t.at(before - 1).startswith("VB")
    ):
        before -= 1
    for c, (start, end) in enumerate(chunks):
        if end == before:
            person = t.word(end - 1) in PEOPLE | OBJECT_PRONOUNS
            prepositional = t.word(start - 1) in PREPOSITIONS
            return c if not is_governed(t, start) or (person and not prepositional) else None
    return None


def is_governed(t: Tagged, start: int) -> bool:
    """Whether a chunk is the object of the verb or preposition right before it."""
    return t.at(start - 1).startswith("VB") or t.word(start - 1) in PREPOSITIONS
