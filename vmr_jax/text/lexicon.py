"""Words of captions that several rules know, and the forms of their verbs."""

from collections.abc import Collection

PEOPLE = frozenset(
    "person persons people man men woman women guy guys girl girls boy boys lady ladies child children "
    "kid kids someone somebody individual individuals".split()
)
PREPOSITIONS = frozenset(
    "about above across against along among around at behind below beneath beside besides between "
    "beyond by down for from in inside into like near of off on onto out outside over past through to "
    "toward towards under underneath up upon with within without".split()
)


def is_form_of(word: str, verbs: Collection[str]) -> bool:
    """Whether a word is a form of one of the verbs (base, -s, -ed)."""
    stems = [word]
    for ending in ("s", "es", "d", "ed"):
        if word.endswith(ending):
            stems.append(word[: -len(ending)])
            stems += [stems[-1][:-1]] if stems[-1][-2:-1] == stems[-1][-1:] else []  # chopped
    if word.endswith(("ies", "ied")):
        stems.append(word[:-3] + "y")
    return any(stem in verbs for stem in stems)
