"""The verb of a caption in which the tagger found none: "Rinse figs under water", "Several skiers ski down".

A newspaper lexicon has many short verbs as nouns. Where a whole sentence is left without a verb, one of its
words is taken for it: the one that stands, agrees and looks most like a verb.
"""

from collections.abc import Sequence

from vmr_jax.text.lexicon import PEOPLE, is_form_of

_SUBJECTS = frozenset("i you he she it we they who".split())
_PLURALS = frozenset("people men women children persons".split())
# Verbs of captions that are nouns more often elsewhere; with a verb in the sentence they stay what they are.
_VERBS = frozenset(
    "approach bake beat blend blow blur boil bounce bow braid break brush catch change chase cheer chop "
    "circle clap combine cook cover crack crash crush cut cycle dance dice discard dive dodge drain dress "
    "drill drive drop dry duck dump end enter face fade fall fence fight fill film flash flip float flow "
    "fly fold frost fry garnish grab grate grill hammer hand head heat hit hold juggle jump kayak kick "
    "knead knock land lather laugh leap leave lift light load look lower march mash melt mix move mow nod "
    "open pack paddle paint pan park pass pause peel pick pierce pin place plate play point polish pose "
    "pour practice prepare press process pull punch push put race raft raise rake reach record reel "
    "refill remove repeat reply report rest retrieve return ride rinse roast roll rotate row rub run sail "
    "salt sand say scan scatter score scrape scroll scrub sculpt seal season select separate serve set "
    "sew shake shape share sharpen shave shift shine ship shoot shop shovel show shower shuffle sing sit "
    "skate sketch ski skip slam slap sled sleep slice slide slip slow smack smile smoke snowboard soak "
    "soap soar sort speak speed spin splash split spray spread sprinkle squat squeeze squirt stack stand "
    "start step stir stop strain stretch stroke strum strut style surf sweep swim swing swirl switch "
    "swoop take talk tap tape taste tear tell throw tie tighten tilt toast toss touch trace train trim "
    "trip trot try tube tumble turn twirl twist use vault".split()
)


def likeliest_verb(words: Sequence[str], tags: Sequence[str]) -> int | None:
    """The place of the word that is most likely the verb, None where none is likely; ties: the first.

    Args:
      words: lower-case words and punctuation marks of a sentence.
      tags: their Penn Treebank tags, none of them a verb's.
    """
    points = [_points(words, tags, i) for i in range(len(words))]
    best = max(points, default=0)
    return points.index(best) if best >= 2 else None


def _points(words: Sequence[str], tags: Sequence[str], i: int) -> int:
    """How much word i looks like the verb of its sentence; 0 for what cannot be one."""
    if not tags[i].startswith(("NN", "JJ", "RB")) or not words[i].isalpha() or words[i] in PEOPLE:
        return 0
    known = is_form_of(words[i], _VERBS)
    if tags[i].startswith("RB") and not known:
        return 0
    before = i - 1
    while before >= 0 and tags[before].startswith("RB"):
        before -= 1
    after = tags[i + 1] if i + 1 < len(tags) else ""
    points = 2 * known + (after in ("DT", "PRP$", "PRP", "IN", "TO", "RB", "RP", ".", ""))
    points += 2 * words[i].endswith("ed")
    points -= 3 * (i + 1 < len(words) and words[i + 1] == "of")  # "video clips of adults"
    if before < 0:  # the imperative of a recipe
        return points + (after.startswith(("NN", "JJ")) or after in ("DT", "PRP$"))
    if tags[before] in ("DT", "PRP$", "POS", "CD", "IN", "TO") and before == i - 1:
        return points - 3
    return points + _agreement(words, tags, before, words[i]) - tags[before].startswith("JJ")


def _agreement(words: Sequence[str], tags: Sequence[str], before: int, word: str) -> int:
    """3 after a pronoun that is a subject, 2 after a noun whose number is that of the verb."""
    if words[before] in _SUBJECTS:
        return 3
    if not tags[before].startswith("NN"):
        return 0
    plural = tags[before] == "NNS" or words[before] in _PLURALS
    return 2 * (plural != (word.endswith("s") and not word.endswith("ss")))
