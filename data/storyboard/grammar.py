"""The grammar of storyboard: its concepts, the words for them, and sentences about events.

A sentence is written from a `Meaning`. The grammar places every word itself, so the semantic role tree,
the noun chunks and the constituency tree of a sentence are exact, not parsed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

ANYONE = "person"  # the agent of a clause that fits any agent


@dataclasses.dataclass(frozen=True)
class Noun:
    """A concept with the nouns for it; `novel` ones occur in the split test_novel_word alone."""

    words: tuple[str, ...]
    novel: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Verb:
    """One way to name an action: 'picks', 'picking' and the particle 'up' (or none)."""

    third: str
    gerund: str
    particle: str = ""


@dataclasses.dataclass(frozen=True)
class Action:
    """An action: its verbs, the objects it is done to, whether it is heard."""

    verbs: tuple[Verb, ...]
    novel: tuple[Verb, ...]
    objects: tuple[str, ...]
    sounds: bool = False


AGENTS = {
    "man": Noun(("man", "guy"), ("gentleman", "fellow")),
    "woman": Noun(("woman", "lady"), ("female",)),
    "boy": Noun(("boy", "kid"), ("lad",)),
    "girl": Noun(("girl", "schoolgirl"), ("lass",)),
    ANYONE: Noun(("person", "individual"), ("human",)),
}

OBJECTS = {
    "door": Noun(("door", "doorway"), ("gate",)),
    "window": Noun(("window", "windowpane"), ("casement",)),
    "cupboard": Noun(("cupboard", "cabinet"), ("closet",)),
    "fridge": Noun(("fridge", "refrigerator"), ("icebox",)),
    "box": Noun(("box", "carton"), ("crate",)),
    "laptop": Noun(("laptop", "computer"), ("netbook",)),
    "book": Noun(("book", "paperback"), ("textbook",)),
    "cup": Noun(("cup", "mug"), ("teacup",)),
    "bag": Noun(("bag", "backpack"), ("rucksack",)),
    "towel": Noun(("towel", "cloth"), ("rag",)),
    "pillow": Noun(("pillow", "cushion"), ("bolster",)),
    "phone": Noun(("phone", "telephone"), ("smartphone",)),
    "lamp": Noun(("lamp", "light"), ("lantern",)),
    "television": Noun(("television", "tv"), ("telly",)),
}

PLACES = {
    "kitchen": Noun(("kitchen",), ("kitchenette",)),
    "bedroom": Noun(("bedroom",), ("bedchamber",)),
    "bathroom": Noun(("bathroom", "washroom"), ("lavatory",)),
    "garage": Noun(("garage",), ("carport",)),
    "office": Noun(("office", "study"), ("workroom",)),
}

_OPENABLE = ("door", "window", "cupboard", "fridge", "box", "laptop", "book", "bag")
_PORTABLE = ("box", "laptop", "book", "cup", "bag", "towel", "pillow", "phone")
_ELECTRIC = ("laptop", "phone", "lamp", "television")

ACTIONS = {
    "open": Action(
        (Verb("opens", "opening"), Verb("pulls", "pulling", "open")),
        (Verb("unlatches", "unlatching"),),
        _OPENABLE,
        sounds=True,
    ),
    "close": Action(
        (Verb("closes", "closing"), Verb("shuts", "shutting")),
        (Verb("seals", "sealing"),),
        _OPENABLE,
        sounds=True,
    ),
    "pick up": Action(
        (Verb("picks", "picking", "up"), Verb("lifts", "lifting", "up")),
        (Verb("hoists", "hoisting", "up"),),
        _PORTABLE,
    ),
    "put down": Action(
        (Verb("puts", "putting", "down"), Verb("sets", "setting", "down")),
        (Verb("lays", "laying", "down"),),
        _PORTABLE,
        sounds=True,
    ),
    "carry": Action(
        (Verb("carries", "carrying"), Verb("hauls", "hauling")), (Verb("lugs", "lugging"),), _PORTABLE
    ),
    "throw": Action(
        (Verb("throws", "throwing"), Verb("tosses", "tossing")),
        (Verb("hurls", "hurling"),),
        ("box", "book", "cup", "bag", "towel", "pillow"),
        sounds=True,
    ),
    "hold": Action(
        (Verb("holds", "holding"), Verb("grips", "gripping")),
        (Verb("clutches", "clutching"),),
        ("laptop", "book", "cup", "bag", "towel", "pillow", "phone", "lamp"),
    ),
    "wash": Action(
        (Verb("washes", "washing"), Verb("cleans", "cleaning")),
        (Verb("scrubs", "scrubbing"),),
        ("door", "window", "cupboard", "fridge", "cup", "bag", "towel", "lamp"),
        sounds=True,
    ),
    "turn on": Action(
        (Verb("turns", "turning", "on"), Verb("switches", "switching", "on")),
        (Verb("flicks", "flicking", "on"),),
        _ELECTRIC,
        sounds=True,
    ),
    "turn off": Action(
        (Verb("turns", "turning", "off"), Verb("switches", "switching", "off")),
        (Verb("flicks", "flicking", "off"),),
        _ELECTRIC,
    ),
    "fix": Action(
        (Verb("fixes", "fixing"), Verb("repairs", "repairing")),
        (Verb("mends", "mending"),),
        ("door", "window", "cupboard", "fridge", *_ELECTRIC),
        sounds=True,
    ),
    "watch": Action(
        (Verb("watches", "watching"), Verb("looks", "looking", "at")),
        (Verb("observes", "observing"),),
        ("door", "window", "box", "book", *_ELECTRIC),
    ),
}

# The one action with two people in it: "a man gives a box to a woman" has the words of its reverse.
GIVE = "give"
ACTIONS[GIVE] = Action(
    (Verb("gives", "giving"), Verb("hands", "handing")), (Verb("passes", "passing"),), _PORTABLE
)

OPPOSITE = {"open": "close", "pick up": "put down", "turn on": "turn off"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}

# Pairs of action and object that occur in test_novel_composition alone.
HELD_OUT = (
    ("open", "book"),
    ("close", "bag"),
    ("pick up", "pillow"),
    ("put down", "phone"),
    ("carry", "cup"),
    ("throw", "towel"),
    ("hold", "lamp"),
    ("wash", "window"),
    ("turn on", "television"),
    ("turn off", "lamp"),
    ("fix", "door"),
    ("watch", "laptop"),
    (GIVE, "laptop"),
)
PAIRS = tuple(
    (action, thing) for action, a in ACTIONS.items() for thing in a.objects if (action, thing) not in HELD_OUT
)

RELATIONS = ("before", "after", "then", "again")
FUNCTION_WORDS = ("a", "an", "the", "is", "in", "to", "and", "at")


def _verb_groups() -> dict[str, list[str]]:
    groups = {"pull": ["pulls", "pulling"]}
    for action, entry in ACTIONS.items():
        name = action.split()[0]
        # "turns on" and "turns off" share their verb; "pulls open" shares "open" with "opens".
        words = groups.setdefault(name, [])
        for verb in (*entry.verbs, *entry.novel):
            if verb.third != "pulls":
                words.extend(w for w in (verb.third, verb.gerund) if w not in words)
            if verb.particle and verb.particle not in FUNCTION_WORDS:
                particles = groups.setdefault(verb.particle, [])
                if verb.particle not in particles:
                    particles.append(verb.particle)
    return groups


def word_groups() -> dict[str, tuple[str, ...]]:
    """Groups of words that mean the same, inflections included; each word is in one group."""
    groups: dict[str, tuple[str, ...]] = {}
    for nouns in (AGENTS, OBJECTS, PLACES):
        groups |= {name: (*noun.words, *noun.novel) for name, noun in nouns.items()}
    groups |= {name: tuple(words) for name, words in _verb_groups().items()}
    groups |= {word: (word,) for word in RELATIONS}
    return groups


def novel_words() -> frozenset[str]:
    """The words of test_novel_word that no other split uses."""
    nouns = [w for kind in (AGENTS, OBJECTS, PLACES) for noun in kind.values() for w in noun.novel]
    verbs = [w for action in ACTIONS.values() for v in action.novel for w in (v.third, v.gerund)]
    return frozenset(nouns + verbs)


def choice(rng: np.random.Generator, options: Sequence | np.ndarray):
    """Returns one of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


@dataclasses.dataclass(frozen=True)
class Clause:
    """The contents of a clause about an event.

    `agent` may be ANYONE; `recipient` is None unless the action is GIVE; `place` may be None (not said).
    """

    agent: str
    action: str
    object: str
    recipient: str | None = None
    place: str | None = None


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The question of a sentence: `main`, its place in time given by `relation` to `other`.

    relation '' or 'again' has no `other`; 'again' is the second of two; 'then' is both, one after the
    other.
    """

    main: Clause
    relation: str = ""
    other: Clause | None = None

    @property
    def both(self) -> tuple[Clause, Clause]:
        """`main` and `other`, of a relation that has both."""
        if self.other is None:
            raise ValueError(f"the relation '{self.relation}' has no other clause")
        return self.main, self.other


@dataclasses.dataclass
class Sentence:
    """A text under construction, with character spans (end exclusive) of its parts.

    Its constituency tree grows from the left: `pieces` are the finished ones, a label and what is in it each.
    """

    text: str = ""
    verbs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    nouns: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    edges: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    static: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    pieces: list[list] = dataclasses.field(default_factory=list)

    def add(self, words: str, *tags: str) -> tuple[int, int]:
        """Appends words after a space, each with its tag of the Penn Treebank; returns where they lie."""
        start = len(self.text) + bool(self.text)
        self.text = f"{self.text} {words}" if self.text else words
        self.pieces += [[tag, word] for tag, word in zip(tags, words.split(), strict=True)]
        return start, len(self.text)

    def mark(self, sign: str) -> None:
        """Appends a punctuation mark, which is its own tag."""
        self.text += sign
        self.pieces.append([sign, sign])

    def group(self, label: str, first: int, last: int | None = None) -> None:
        """Makes one phrase of the pieces from `first` on, up to `last`, exclusive."""
        self.pieces[first:last] = [[label, *self.pieces[first:last]]]

    def attach(self) -> None:
        """Puts the last piece at the end of the verb phrase before it."""
        piece, phrase = self.pieces.pop(), self.pieces[-1]
        while phrase[-1][0] == "VP":
            phrase = phrase[-1]
        phrase.append(piece)

    @property
    def parse(self) -> str:
        """The tree of a finished sentence in brackets."""
        return _in_brackets(self.pieces[0])


def _in_brackets(piece: list) -> str:
    parts = " ".join(part if isinstance(part, str) else _in_brackets(part) for part in piece[1:])
    return f"({piece[0]} {parts})"


class Writer:
    """Writes sentences.

    Args:
      rng: chooses among paraphrases.
      novel: whether to use novel words: then half of the content words are novel, and at least one verb
        or object of every sentence.
    """

    def __init__(self, rng: np.random.Generator, novel: bool = False):
        self.rng, self.novel = rng, novel
        self._novel_cores = 0

    def write(self, meaning: Meaning) -> Sentence:
        """Returns a lower-case sentence with a final full stop."""
        writers = {"before": self._relative, "after": self._relative, "then": self._sequence}
        writer = writers.get(meaning.relation, self._plain)
        while True:
            self._novel_cores = 0
            sentence = Sentence()
            writer(sentence, meaning)
            if self._novel_cores or not self.novel:
                sentence.mark(".")
                sentence.group("S", 0)
                return sentence

    def _plain(self, sentence: Sentence, meaning: Meaning) -> None:
        """'a man opens the door in the kitchen', 'in the kitchen, a man opens the door', '... again'."""
        clause = meaning.main
        place_first = self._chance(0.3)
        place = None
        if clause.place is not None and place_first:
            place = self._place(sentence, clause.place)
            sentence.mark(",")
        verb, _ = self._finite(sentence, clause)
        if clause.place is not None and not place_first:
            place = self._place(sentence, clause.place)
            sentence.attach()
        if place is not None:
            sentence.edges.append((verb, place))
        if meaning.relation == "again":
            sentence.add("again", "RB")
            sentence.group("ADVP", -1)
            sentence.attach()

    def _relative(self, sentence: Sentence, meaning: Meaning) -> None:
        """'X before Y' or 'before Y, X'; Y is a gerund ('before closing it') only where agents agree."""
        main, other = meaning.both
        gerund = main.agent == other.agent and self._chance(0.6)
        if self._chance(0.4):
            other_verb = self._subordinate(sentence, meaning.relation, other, gerund)
            sentence.mark(",")
            _, agent = self._finite(sentence, main)
        else:
            _, agent = self._finite(sentence, main)
            other_verb = self._subordinate(sentence, meaning.relation, other, gerund)
            sentence.attach()
        if gerund:
            sentence.edges.append((other_verb, agent))

    def _sequence(self, sentence: Sentence, meaning: Meaning) -> None:
        """'X and then Y' or 'X, then Y'; the agent of Y is mostly left out where it is that of X."""
        main, other = meaning.both
        progressive = self._chance(0.35)
        _, agent = self._finite(sentence, main, progressive)
        if self._chance(0.5):
            sentence.add("and then", "CC", "RB")
        else:
            sentence.mark(",")
            sentence.add("then", "RB")
        sentence.group("ADVP", -1)
        if main.agent == other.agent and self._chance(0.7):
            # "a man is opening the door and then closing the window": the auxiliary is shared.
            verb = self._bare(sentence, other, gerund=progressive)
            sentence.edges.append((verb, agent))
            self._share_agent(sentence, progressive)
        else:
            sentence.group("S", 0, 2)
            self._finite(sentence, other, definite=True)
            sentence.group("S", -2)

    def _share_agent(self, sentence: Sentence, progressive: bool) -> None:
        """Makes one verb phrase of two and what joins them, which follow the agent."""
        if progressive:
            _, auxiliary, first = sentence.pieces[1]
            sentence.pieces[1:2] = [auxiliary, first]
            sentence.group("VP", 2)
        sentence.group("VP", 1)

    def _finite(
        self, sentence: Sentence, clause: Clause, progressive: bool | None = None, definite: bool = False
    ) -> tuple[int, int]:
        """'a man opens the door' or 'a man is opening the door'; returns its verb and agent index."""
        if progressive is None:
            progressive = self._chance(0.35)
        article = "the" if definite or self._chance(0.35) else "a"
        agent = self._noun(sentence, article, self._word(AGENTS[clause.agent]))
        if progressive:
            sentence.add("is", "VBZ")
        verb = self._bare(sentence, clause, gerund=progressive)
        if progressive:
            sentence.group("VP", -2)
        sentence.edges.append((verb, agent))
        return verb, agent

    def _subordinate(self, sentence: Sentence, relation: str, clause: Clause, gerund: bool) -> int:
        """'before closing the door' or 'before the man closes the door'; returns its verb index."""
        first = len(sentence.pieces)
        sentence.add(relation, "IN")
        if gerund:
            verb = self._bare(sentence, clause, gerund=True)
        else:
            verb, _ = self._finite(sentence, clause, definite=True)
        sentence.group("S", first + 1)
        sentence.group("PP" if gerund else "SBAR", first)
        return verb

    def _bare(self, sentence: Sentence, clause: Clause, gerund: bool) -> int:
        """'opens the door' or 'opening the door', without an agent; returns its verb index."""
        first = len(sentence.pieces)
        word = self._word(ACTIONS[clause.action])
        start, end = sentence.add(word.gerund if gerund else word.third, "VBG" if gerund else "VBZ")
        if word.particle:
            preposition = word.particle in FUNCTION_WORDS  # "looks at"
            _, end = sentence.add(word.particle, "IN" if preposition else "RP")
            if not preposition:
                sentence.group("PRT", -1)
        sentence.verbs.append((start, end))
        verb = len(sentence.verbs) - 1
        article = "a" if self._chance(0.25) else "the"
        sentence.edges.append((verb, self._noun(sentence, article, self._word(OBJECTS[clause.object]))))
        if sentence.pieces[-2][0] == "IN":
            sentence.group("PP", -2)
        if clause.recipient is not None:
            sentence.add("to", "TO")
            recipient = self._noun(sentence, "the", self._word(AGENTS[clause.recipient]))
            sentence.edges.append((verb, recipient))
            sentence.group("PP", -2)
        sentence.group("VP", first)
        return verb

    def _place(self, sentence: Sentence, name: str) -> int:
        sentence.add("in", "IN")
        noun = self._noun(sentence, "the", self._word(PLACES[name]))
        sentence.group("PP", -2)
        return noun

    def _noun(self, sentence: Sentence, article: str, word: str) -> int:
        """Adds a noun chunk; the chunk is static, its noun is a node of the tree."""
        if article == "a" and word[0] in "aeiou":
            article = "an"
        start, end = sentence.add(f"{article} {word}", "DT", "NN")
        sentence.group("NP", -2)
        sentence.static.append((start, end))
        sentence.nouns.append((end - len(word), end))
        return len(sentence.nouns) - 1

    def _word(self, entry: Noun | Action):
        """Chooses a noun (str) or a `Verb` of a concept."""
        known = entry.words if isinstance(entry, Noun) else entry.verbs
        if self.novel and self._chance(0.5):
            self._novel_cores += entry in OBJECTS.values() or entry in ACTIONS.values()
            return choice(self.rng, entry.novel)
        return choice(self.rng, known)

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)
