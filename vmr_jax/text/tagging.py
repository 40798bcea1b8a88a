"""Parts of speech of a caption: TextBlob's, and rules that put right what a newspaper lexicon gets wrong."""

import functools
import re
import warnings
from collections.abc import Callable

from vmr_jax.text.lexicon import PEOPLE, PREPOSITIONS, is_form_of
from vmr_jax.text.likeliest_verb import likeliest_verb
from vmr_jax.text.tokenize import Token, tokenize

PUNCTUATION = re.compile(r"[.,;:!?()]")

_PRONOUNS = frozenset("i you he she we they who".split())
OBJECT_PRONOUNS = frozenset("me him her us them".split())  # of someone who can act: "sees him jumping"
PRONOUN_LIKE = frozenset("another one other others that this these those which all both each some".split())
_ASPECT = frozenset(
    "about appear appears begin begins began beginning continue continues continued decide decides "
    "decided go goes going proceed proceeds proceeded start starts started starting stop stops stopped "
    "tries try trying tried want wants".split()
)
BE = frozenset("am is are was were be been being 's 're 'm".split())
AUXILIARY = BE | frozenset("has have had having do does did 've".split())
# Actions of captions that a newspaper lexicon may have as nouns or adjectives (most of the 50 most frequent
# verbs of Charades-STA, Otani et al., BMVC 2020, and their like).
_ACTIONS = frozenset(
    "awaken bend carry check chop clap clean click climb close come cook cough cut dance decide dress "
    "drink dry eat empty enter exit fix flip fold get go grab grasp hand hold hug jump kick kiss kneel "
    "laugh lay lean leave lie lift look move open peel pick place play pour proceed pull push put race "
    "reach read rest ride rinse run see shake shut sip sit sleep slice smell smile sneeze snuggle stand "
    "start step stir stop stretch sweep swim switch take talk taste throw tidy toss touch try turn "
    "undress vacuum wake walk wash watch wear wipe work wrap write zoom".split()
)
_ING_NOUNS = frozenset(
    "anything bedding building ceiling clothing evening everything hanging king lightning morning "
    "nothing painting pudding railing ring something spring string thing wedding wing".split()
)
_ING_MODIFIERS = frozenset(
    "changing cleaning cooking cutting dining drawing dressing drying frying ironing laughing living "
    "packing playing rocking sewing shopping sitting sleeping swimming waiting walking washing wrapping".split()
)
_MODIFIED = frozenset(
    "area areas bag bags board cart chair gas gown machine pan paper pool product products rack room "
    "rooms stick supplies supply table".split()
)


class Tagged(list):
    """Penn Treebank tags of `words` (lower-case), read beyond either end as ''."""

    def __init__(self, words: list[str], tags: list[str]):
        super().__init__(tags)
        self.words = words

    def at(self, i: int) -> str:
        return self[i] if 0 <= i < len(self) else ""

    def word(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self) else ""


def _is_action(word: str) -> bool:
    return is_form_of(word, _ACTIONS)


def _is_ing(word: str) -> bool:
    """Whether a word is the -ing form of a verb, as far as it shows."""
    return word.endswith("ing") and len(word) > 4 and word not in _ING_NOUNS


def _clitic_s(t: Tagged, i: int) -> str | None:
    """'s is a verb after a pronoun or before a participle, else possessive."""
    if t.word(i) != "'s":
        return None
    after_pronoun = t.word(i - 1) in _PRONOUNS | {"it", "there", "that"}
    acts = _is_ing(t.word(i + 1)) and t.at(i + 2) in ("DT", "PRP$", "PRP", "IN", ".", "")
    return "VBZ" if after_pronoun or acts or t.at(i + 1) in ("VBG", "DT", "RB") else "POS"


def _relative_that(t: Tagged, i: int) -> str | None:
    """No determiner: "that" before a verb or a pronoun."""
    if t.word(i) == "that" and (t.at(i + 1).startswith(("VB", "MD")) or t.word(i + 1) in _PRONOUNS):
        return "WDT"
    return None


def _pronoun(t: Tagged, i: int) -> str | None:
    """A "her" or "his" that nothing is owned of stands for someone, a last "that" for something: "hugs her"."""
    if t.word(i) == "that" and t.at(i) in ("IN", "WDT") and t.at(i + 1) in ("", ".", ",", "CC", "IN"):
        return "DT"
    if t.word(i) not in ("her", "his"):
        return None
    after = i + 1
    while t.at(after).startswith("RB"):
        after += 1
    owned = t.at(after).startswith(("NN", "JJ", "CD", "VB", "FW")) and (
        after == i + 1 or t.at(after)[:2] != "NN"
    )
    return None if owned or t.at(i) != "PRP$" else "PRP"


def _verb_of_subject(t: Tagged, i: int) -> str | None:
    """A "plural" after a singular at the start of a clause, before what only a verb has beside it.

    "The wrestler approaches the other", "the wrestler approaches and leaves".
    """
    if t.at(i) != "NNS" or not t.word(i).endswith("s") or t.at(i - 1) not in ("NN", "NNP"):
        return None
    has_object = t.at(i + 1) in ("DT", "PRP$", "PRP")
    if not (has_object or (t.at(i + 1) == "CC" and t.at(i + 2) == "VBZ")):
        return None
    start = i - 1
    while t.at(start - 1).startswith(("NN", "JJ", "CD", "DT", "PRP$", "POS", "RB")):
        start -= 1
    # An object or the rest of a prepositional phrase is no subject: "opens the kitchen cabinets and takes".
    return None if t.at(start - 1).startswith("VB") or t.word(start - 1) in PREPOSITIONS else "VBZ"


def _compound_modifier(t: Tagged, i: int) -> str | None:
    """A participle that names a kind of thing: living room, washing machine."""
    return "JJ" if t.word(i) in _ING_MODIFIERS and t.word(i + 1) in _MODIFIED else None


def _after_determiner(t: Tagged, i: int) -> str | None:
    """No verb directly follows "the" or "his": a participle before a noun modifies it, others are nouns."""
    if not t.at(i).startswith(("VB", "MD")):
        return None
    before = i - 1
    while t.at(before).startswith(("JJ", "RB")) and t.word(before) not in PRONOUN_LIKE:
        before -= 1
    if t.at(before) not in ("DT", "PRP$", "POS") or t.word(before) in PRONOUN_LIKE:
        return None
    if before == i - 1 and _is_slip(t, before):
        return None
    if t.at(i) in ("VBG", "VBN", "VBD") and t.at(i + 1).startswith(("NN", "JJ")):
        return "JJ"
    return "NN"


def _is_slip(t: Tagged, i: int) -> bool:
    """Whether an article follows a subject: "person the puts" (for "they"), "person a walks" (and person b)."""
    return t.word(i) in ("the", "a") and (t.word(i - 1) in PEOPLE or t.at(i - 1) == "PRP")


def _noun_like_adjective(t: Tagged, i: int) -> str | None:
    """An adjective with a determiner and without a noun is one: "the remote", "on top of"."""
    if t.word(i) in PEOPLE:
        return "NN"
    if (
        not t.at(i).startswith("JJ")
        or t.word(i) in PRONOUN_LIKE
        or t.at(i + 1).startswith(("NN", "JJ", "VB", "CD"))
    ):
        return None
    if t.at(i - 1) in ("DT", "PRP$") and not (_is_slip(t, i - 1) and _is_action(t.word(i))):
        return "NN"
    return "NN" if t.word(i - 1) in PREPOSITIONS and t.word(i + 1) == "of" else None


def _after_preposition(t: Tagged, i: int) -> str | None:
    """A base form after "in" or "with" is a noun, unless it has an object."""
    after = t.word(i - 1) in ("in", "with", "of", "from", "into", "at", "by", "for")
    return "NN" if after and t.at(i) in ("VB", "VBP") and t.at(i + 1) not in ("DT", "PRP$", "PRP") else None


def _gerund(t: Tagged, i: int) -> str | None:
    """An -ing word that no determiner or adjective introduces is a verb: "person is opening a door"."""
    if not (t.at(i).startswith("NN") and _is_ing(t.word(i))):
        return None
    return None if t.at(i - 1) in ("DT", "PRP$", "JJ", "POS", "CD") else "VBG"


def _after_subject(t: Tagged, i: int) -> str | None:
    """A word after "person" or "they" is an action: "person washes a mirror", "they both undress"."""
    if not t.at(i).startswith(("NN", "JJ")) or t.at(i + 1) in ("VBZ", "VBP", "VBD", "MD"):
        return None
    action = _is_action(t.word(i))
    if t.at(i).startswith("JJ") and not action:
        return None
    before = i - 1
    while t.at(before).startswith("RB") or t.word(before) in ("both", "all", "first") or _is_slip(t, before):
        before -= 1
    if before < i - 1 and not action:
        return None
    if t.word(before) in _PRONOUNS:
        return "VBP"
    return "VBP" if t.word(before) in PEOPLE and (action or t.word(i).endswith(("s", "ed", "nd"))) else None


def _infinitive(t: Tagged, i: int) -> str | None:
    """After "to", an action, or something with an object, or something that begins: a verb."""
    if (
        t.word(i - 1) != "to"
        or t.word(i - 2) in ("next", "close")
        or not t.at(i).startswith(("NN", "JJ", "RB"))
    ):
        return None
    has_object = t.at(i).startswith("NN") and t.at(i + 1) in ("DT", "PRP$", "PRP")
    return "VB" if _is_action(t.word(i)) or has_object or t.word(i - 2) in _ASPECT else None


def _modal(t: Tagged, i: int) -> str | None:
    """A "can" after a subject, and the verb after a modal."""
    if t.word(i) == "can" and (t.word(i - 1) in PEOPLE or t.at(i - 1) == "PRP"):
        return "MD"
    return "VB" if t.at(i - 1) == "MD" and t.at(i).startswith(("NN", "JJ")) else None


def _action(t: Tagged, i: int) -> str | None:
    """An action word at the start of a clause, or in one that has no verb yet."""
    if not t.at(i).startswith(("NN", "JJ")):
        return None
    following = t.at(i + 1)
    if t.at(i) == "NNS" and i == 0 and following in ("DT", "PRP$", "PRP"):
        return "VBZ"  # "encounters another person"
    if not _is_action(t.word(i)):
        return None
    if t.at(i - 1) in ("", ",", ".", "CC", "RB", "WP", "WDT", "WRB"):
        ends = following in ("DT", "PRP$", "PRP", "IN", "RB", "RP", "TO", ".", ",", "")
        return "VBP" if ends or (t.at(i - 1) == "RB" and following.startswith("NN")) else None
    if not t.at(i - 1).startswith("NN") or any(tag.startswith("VB") for tag in t[:i]):
        return None
    if t.at(i).startswith("JJ"):
        return "VBP" if following in ("DT", "PRP$", "NN", "NNS") else None
    return "VBZ" if t.word(i).endswith("s") else None


_RULES = (
    _clitic_s,
    _relative_that,
    _pronoun,
    _compound_modifier,
    _after_determiner,
    _noun_like_adjective,
    _after_preposition,
    _gerund,
    _after_subject,
    _infinitive,
    _modal,
    _action,
    _verb_of_subject,
)


def _tags(words: list[str], tag: Callable[..., str]) -> Tagged:
    """Tags the words with TextBlob and corrects them from left to right; the first rule that applies counts."""
    parsed = str(tag(" ".join(words), tokenize=False)) if words else ""
    tags = Tagged([w.lower() for w in words], [piece.split("/")[1] for piece in parsed.split()])
    for i in range(len(tags)):
        tags[i] = next((new for rule in _RULES if (new := rule(tags, i))), tags[i])
    verb = None if any(tag.startswith("VB") for tag in tags) else likeliest_verb(tags.words, tags)
    if verb is not None:
        tags[verb] = "VBP"
    return tags


@functools.cache
def textblob_tagger() -> Callable[..., str]:
    """TextBlob's tagger, ready: a function of a sentence."""
    with warnings.catch_warnings():
        # TextBlob leaves the file of its lexicon open, once, at the first sentence.
        warnings.simplefilter("ignore", ResourceWarning)
        from textblob.en import parse as tag

        tag("a zqx warms up", tokenize=False)  # opens each of its tables
    return tag


def tagged_tokens(text: str, tag: Callable[..., str]) -> tuple[list[Token], Tagged]:
    """The words and punctuation marks of a sentence, and their tags."""
    marks = [Token(m.group(), m.start(), m.end()) for m in PUNCTUATION.finditer(text)]
    tokens = sorted(tokenize(text, "words") + marks, key=lambda token: token.start)
    return tokens, _tags([text[t.start : t.end].replace("’", "'") for t in tokens], tag)
