"""Who does what in a caption: predicates, their arguments, noun chunks; and its content words.

FVMR (Gao & Xu, ICCV 2021) hangs the arguments of a sentence below its predicates; VDI (Luo et al., CVPR
2023) splits a query into its noun chunks and the rest. Both papers took these from trained parsers. Here
spaCy does it where an English model is installed; otherwise TextBlob's lexicon tags the words, a few rules
put right what a newspaper lexicon gets wrong about captions, and frames are read off around the verbs.

The rules, measured on Charades-STA: of 9,959 different sentences 23 get no verb, and most of those have none.
Of 2,055 verb-noun pairs that Charades-CG lists, the verb is found in 99.7%, the noun in 98.4%, and the noun as
an argument of the verb in 95.7%; many of the misses are errors of that list (it came from a parser too).
"""

import dataclasses
import functools
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vmr_jax.text.tokenize import Token, tokenize

Span = tuple[int, int]

SPACY_MODELS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg")
RULES_VERSION = 1  # raise it when a rule changes, so that prepared datasets are made again


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


def parse(text: str) -> Roles:
    """Returns the predicates, arguments and noun chunks of a sentence.

    Their number is not limited here; a record keeps the first `vmr_jax.input.schema.MAX_VERBS` and so on.
    """
    return _backend().parse(text)


def content_words(text: str) -> tuple[Span, ...]:
    """Returns the nouns, verbs, adjectives and adverbs of a sentence, in order.

    They are the words that SCN (Lin et al., AAAI 2020) prefers to hide: those with NN, VB, JJ or RB in their
    Penn Treebank tag. Auxiliaries and wh-adverbs are among them, pronouns, modals and numbers are not.
    """
    return _backend().content_words(text)


def parser_name() -> str:
    """Names the parser in use, with its version: it goes into the log and the key of prepared datasets."""
    return _backend().name


class _Backend(NamedTuple):
    """What reads a sentence: spaCy or TextBlob with rules."""

    name: str
    parse: Callable[[str], Roles]
    content_words: Callable[[str], tuple[Span, ...]]


@functools.cache
def _backend() -> _Backend:
    """Chosen once per process."""
    try:
        import spacy
    except ImportError:
        return _textblob_backend()
    for model in SPACY_MODELS:
        if spacy.util.is_package(model):
            return _spacy_backend(spacy.load(model), model)
    return _textblob_backend()


# --- spaCy ----------------------------------------------------------------------------------------


def _spacy_backend(pipeline, model: str) -> _Backend:
    return _Backend(
        f"spacy {model} {pipeline.meta['version']}",
        lambda text: roles_of_doc(pipeline(text)),
        lambda text: content_of_doc(pipeline(text)),
    )


def content_of_doc(doc) -> tuple[Span, ...]:
    """Reads the content words off the tags of a `spacy.tokens.Doc`."""
    return tuple((t.idx, t.idx + len(t)) for t in doc if _is_content(t.tag_))


def _is_content(tag: str) -> bool:
    """Whether a Penn Treebank tag is that of a noun, verb, adjective or adverb."""
    return any(part in tag for part in ("NN", "VB", "JJ", "RB"))


def roles_of_doc(doc) -> Roles:
    """Reads the roles off a dependency parse (a `spacy.tokens.Doc`).

    Predicates are the verbs, and the copula where it heads its clause. A chunk is an argument of the nearest
    verb above it; a verb without a subject has that of the verb it hangs from.
    """
    chunks = list(doc.noun_chunks)
    verbs = [t for t in doc if t.pos_ == "VERB" or (t.pos_ == "AUX" and t.dep_ not in ("aux", "auxpass"))]
    index = {t.i: v for v, t in enumerate(verbs)}
    subject: dict[int, int] = {}  # verb -> chunk
    edges = set()
    for c, chunk in enumerate(chunks):
        head = next((a.i for a in chunk.root.ancestors if a.i in index), None)
        if head is not None:
            edges.add((index[head], c))
            if chunk.root.dep_ in ("nsubj", "nsubjpass") and chunk.root.head.i == head:
                subject[index[head]] = c
    for v, verb in enumerate(verbs):
        above = (index[a.i] for a in (verb, *verb.ancestors) if a.i in index)
        owner = next((a for a in above if a in subject), None)
        if owner is not None:
            edges.add((v, subject[owner]))
    return _roles([(t.idx, t.idx + len(t)) for t in verbs], edges, [(c.start_char, c.end_char) for c in chunks])


def _roles(verbs: Sequence[Span], edges: set[tuple[int, int]], chunks: Sequence[Span]) -> Roles:
    """Assembles `Roles`; `edges` index `chunks`. Chunks that belong to no verb are no arguments."""
    arguments = sorted({c for _, c in edges})
    place = {c: n for n, c in enumerate(arguments)}
    return Roles(
        verbs=tuple(verbs),
        nouns=tuple(chunks[c] for c in arguments),
        edges=tuple(sorted((v, place[c]) for v, c in edges)),
        chunks=tuple(chunks),
    )


# --- TextBlob: tags -------------------------------------------------------------------------------


@functools.cache
def textblob_tagger() -> Callable[..., str]:
    """TextBlob's tagger, ready: a function of a sentence."""
    with warnings.catch_warnings():
        # TextBlob leaves the file of its lexicon open, once, at the first sentence.
        warnings.simplefilter("ignore", ResourceWarning)
        from textblob.en import parse as tag

        tag("a zqx warms up", tokenize=False)  # opens each of its tables
    return tag


def _textblob_backend() -> _Backend:
    tag = textblob_tagger()
    version = importlib.metadata.version("textblob")
    return _Backend(
        f"textblob {version} + rules {RULES_VERSION}",
        lambda text: _frames(text, tag),
        lambda text: _content(text, tag),
    )


_PUNCTUATION = re.compile(r"[.,;:!?()]")

_PEOPLE = frozenset(
    "person persons people man men woman women guy guys girl girls boy boys lady ladies child children "
    "kid kids someone somebody individual individuals".split()
)
_PRONOUNS = frozenset("i you he she we they who".split())
_PRONOUN_LIKE = frozenset("another one other others that this these those which all both each some".split())
_PREPOSITIONS = frozenset(
    "about above across against along among around at behind below beneath beside besides between "
    "beyond by down for from in inside into like near of off on onto out outside over past through to "
    "toward towards under underneath up upon with within without".split()
)
_ASPECT = frozenset(
    "about appear appears begin begins began beginning continue continues continued decide decides "
    "decided go goes going proceed proceeds proceeded start starts started starting stop stops stopped "
    "tries try trying tried want wants".split()
)
_BE = frozenset("am is are was were be been being 's 're 'm".split())
_AUXILIARY = _BE | frozenset("has have had having do does did 've".split())
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


class _Tagged(list):
    """Penn Treebank tags of `words` (lower-case), read beyond either end as ''."""

    def __init__(self, words: list[str], tags: list[str]):
        super().__init__(tags)
        self.words = words

    def at(self, i: int) -> str:
        return self[i] if 0 <= i < len(self) else ""

    def word(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self) else ""


def _is_action(word: str) -> bool:
    """Whether a word is a form of one of `_ACTIONS` (base, -s, -ed)."""
    stems = [word]
    for ending in ("s", "es", "d", "ed"):
        if word.endswith(ending):
            stems.append(word[: -len(ending)])
    if word.endswith(("ies", "ied")):
        stems.append(word[:-3] + "y")
    return any(stem in _ACTIONS for stem in stems)


def _is_ing(word: str) -> bool:
    """Whether a word is the -ing form of a verb, as far as it shows."""
    return word.endswith("ing") and len(word) > 4 and word not in _ING_NOUNS


def _clitic_s(t: _Tagged, i: int) -> str | None:
    """'s is a verb after a pronoun or before a participle, else possessive."""
    if t.word(i) != "'s":
        return None
    after_pronoun = t.word(i - 1) in _PRONOUNS | {"it", "there", "that"}
    acts = _is_ing(t.word(i + 1)) and t.at(i + 2) in ("DT", "PRP$", "PRP", "IN", ".", "")
    return "VBZ" if after_pronoun or acts or t.at(i + 1) in ("VBG", "DT", "RB") else "POS"


def _relative_that(t: _Tagged, i: int) -> str | None:
    """No determiner: "that" before a verb or a pronoun."""
    if t.word(i) == "that" and (t.at(i + 1).startswith(("VB", "MD")) or t.word(i + 1) in _PRONOUNS):
        return "WDT"
    return None


def _compound_modifier(t: _Tagged, i: int) -> str | None:
    """Living room, washing machine."""
    return "JJ" if t.word(i) in _ING_MODIFIERS and t.word(i + 1) in _MODIFIED else None


def _after_determiner(t: _Tagged, i: int) -> str | None:
    """No verb directly follows "the" or "his": a participle before a noun modifies it, others are nouns."""
    if not t.at(i).startswith(("VB", "MD")):
        return None
    before = i - 1
    while t.at(before).startswith(("JJ", "RB")) and t.word(before) not in _PRONOUN_LIKE:
        before -= 1
    if t.at(before) not in ("DT", "PRP$", "POS") or t.word(before) in _PRONOUN_LIKE:
        return None
    if before == i - 1 and _is_slip(t, before):
        return None
    if t.at(i) in ("VBG", "VBN", "VBD") and t.at(i + 1).startswith(("NN", "JJ")):
        return "JJ"
    return "NN"


def _is_slip(t: _Tagged, i: int) -> bool:
    """Whether an article follows a subject: "person the puts" (for "they"), "person a walks" (and person b)."""
    return t.word(i) in ("the", "a") and (t.word(i - 1) in _PEOPLE or t.at(i - 1) == "PRP")


def _noun_like_adjective(t: _Tagged, i: int) -> str | None:
    """An adjective with a determiner and without a noun is one: "the remote", "on top of"."""
    if t.word(i) in _PEOPLE:
        return "NN"
    if (
        not t.at(i).startswith("JJ")
        or t.word(i) in _PRONOUN_LIKE
        or t.at(i + 1).startswith(("NN", "JJ", "VB", "CD"))
    ):
        return None
    if t.at(i - 1) in ("DT", "PRP$") and not (_is_slip(t, i - 1) and _is_action(t.word(i))):
        return "NN"
    return "NN" if t.word(i - 1) in _PREPOSITIONS and t.word(i + 1) == "of" else None


def _after_preposition(t: _Tagged, i: int) -> str | None:
    """A base form after "in" or "with" is a noun, unless it has an object."""
    after = t.word(i - 1) in ("in", "with", "of", "from", "into", "at", "by", "for")
    return "NN" if after and t.at(i) in ("VB", "VBP") and t.at(i + 1) not in ("DT", "PRP$", "PRP") else None


def _gerund(t: _Tagged, i: int) -> str | None:
    """An -ing word that no determiner or adjective introduces is a verb: "person is opening a door"."""
    if not (t.at(i).startswith("NN") and _is_ing(t.word(i))):
        return None
    return None if t.at(i - 1) in ("DT", "PRP$", "JJ", "POS", "CD") else "VBG"


def _after_subject(t: _Tagged, i: int) -> str | None:
    """What follows "person" or "they" acts: "person washes a mirror", "they both undress"."""
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
    return "VBP" if t.word(before) in _PEOPLE and (action or t.word(i).endswith(("s", "ed", "nd"))) else None


def _infinitive(t: _Tagged, i: int) -> str | None:
    """After "to", an action, or something with an object, or something that begins: a verb."""
    if (
        t.word(i - 1) != "to"
        or t.word(i - 2) in ("next", "close")
        or not t.at(i).startswith(("NN", "JJ", "RB"))
    ):
        return None
    has_object = t.at(i).startswith("NN") and t.at(i + 1) in ("DT", "PRP$", "PRP")
    return "VB" if _is_action(t.word(i)) or has_object or t.word(i - 2) in _ASPECT else None


def _modal(t: _Tagged, i: int) -> str | None:
    """A "can" after a subject, and the verb after a modal."""
    if t.word(i) == "can" and (t.word(i - 1) in _PEOPLE or t.at(i - 1) == "PRP"):
        return "MD"
    return "VB" if t.at(i - 1) == "MD" and t.at(i).startswith(("NN", "JJ")) else None


def _action(t: _Tagged, i: int) -> str | None:
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
    _compound_modifier,
    _after_determiner,
    _noun_like_adjective,
    _after_preposition,
    _gerund,
    _after_subject,
    _infinitive,
    _modal,
    _action,
)


def _tags(words: list[str], tag: Callable[..., str]) -> _Tagged:
    """Tags the words with TextBlob and corrects them from left to right; the first rule that applies counts."""
    parsed = str(tag(" ".join(words), tokenize=False)) if words else ""
    tags = _Tagged([w.lower() for w in words], [piece.split("/")[1] for piece in parsed.split()])
    for i in range(len(tags)):
        tags[i] = next((new for rule in _RULES if (new := rule(tags, i))), tags[i])
    return tags


# --- TextBlob: chunks and frames --------------------------------------------------------------------


def _tagged_tokens(text: str, tag: Callable[..., str]) -> tuple[list[Token], _Tagged]:
    """The words and punctuation marks of a sentence, and their tags."""
    marks = [Token(m.group(), m.start(), m.end()) for m in _PUNCTUATION.finditer(text)]
    tokens = sorted(tokenize(text, "words") + marks, key=lambda token: token.start)
    return tokens, _tags([text[t.start : t.end].replace("’", "'") for t in tokens], tag)


def _content(text: str, tag: Callable[..., str]) -> tuple[Span, ...]:
    tokens, tags = _tagged_tokens(text, tag)
    return tuple((token.start, token.end) for token, found in zip(tokens, tags) if _is_content(found))


def _frames(text: str, tag: Callable[..., str]) -> Roles:
    tokens, tags = _tagged_tokens(text, tag)
    chunks = _chunks(tags)
    verbs = [i for i in range(len(tags)) if _is_predicate(tags, i)]
    return _roles(
        [(tokens[i].start, tokens[i].end) for i in verbs],
        _edges(tags, verbs, chunks),
        [(tokens[a].start, tokens[b - 1].end) for a, b in chunks],
    )


def _is_predicate(t: _Tagged, i: int) -> bool:
    """A verb that is no auxiliary: no be, have or do right before another verb."""
    if not t[i].startswith("VB"):
        return False
    after = i + 1
    while t.at(after).startswith("RB"):
        after += 1
    return not (t.word(i) in _AUXILIARY and t.at(after).startswith("VB"))


def _chunks(t: _Tagged) -> list[tuple[int, int]]:
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
        if last is None and end > i and t.word(end - 1) in _PRONOUN_LIKE:
            last = end - 1
        if last is not None:
            chunks.append((i, last + 1))
            i = last + 1
        else:
            i = max(end, i + 1)
    return chunks


def _continues_chunk(t: _Tagged, start: int, i: int) -> bool:
    """Whether word i belongs to the chunk that began at `start`."""
    if t.at(i) in ("DT", "PRP$"):
        # "person the closet": a determiner after a noun begins the next chunk; "all the" does not.
        return not any(tag.startswith("NN") for tag in t[start:i])
    if t.at(i).startswith("RB"):
        return i > start and t.at(start) in ("DT", "PRP$") and t.at(i + 1).startswith("JJ")
    return t.at(i).startswith(("NN", "JJ")) or t.at(i) in ("CD", "POS")


def _edges(t: _Tagged, verbs: list[int], chunks: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Verb-centred frames: (verb, chunk) index pairs.

    The subject is the chunk right before the verb, unless that is the object of another word; a verb
    without one shares the subject of the verb before it. All other chunks are arguments of the nearest verb on
    their left, of the first verb where there is none.
    """
    if not verbs:
        return set()
    edges, subject, subjects = set(), None, set()
    for v, at in enumerate(verbs):
        own = _subject(t, at, chunks)
        if own is not None:
            subjects.add(own)
        elif v == 0 and chunks and chunks[0][1] <= at:
            own = 0
        subject = own if own is not None else subject
        if subject is not None:
            edges.add((v, subject))
    for c, (start, _) in enumerate(chunks):
        if c in subjects and not _is_governed(t, start):
            continue
        left = [v for v, at in enumerate(verbs) if at < start]
        edges.add((left[-1] if left else 0, c))
    return edges


def _subject(t: _Tagged, verb: int, chunks: list[tuple[int, int]]) -> int | None:
    """The chunk that ends right before a verb and its auxiliaries and adverbs, if it can be its subject."""
    before = verb
    while t.at(before - 1).startswith(("RB", "MD", "WDT", "WP")) or (
        t.word(before - 1) in _AUXILIARY and t.at(before - 1).startswith("VB")
    ):
        before -= 1
    for c, (start, end) in enumerate(chunks):
        if end == before:
            person = t.word(end - 1) in _PEOPLE
            prepositional = t.word(start - 1) in _PREPOSITIONS
            return c if not _is_governed(t, start) or (person and not prepositional) else None
    return None


def _is_governed(t: _Tagged, start: int) -> bool:
    """Whether a chunk is the object of the verb or preposition right before it."""
    return t.at(start - 1).startswith("VB") or t.word(start - 1) in _PREPOSITIONS
