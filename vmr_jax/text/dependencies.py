"""The dependency graph of a sentence: which word hangs from which, and how.

CMIN (Zhang et al., SIGIR 2019) convolves the words of a query along such a graph. Its authors took theirs from
Stanford CoreNLP. Here spaCy parses where an English model is installed; otherwise rules read the graph off the
tags of `vmr_jax.text.tagging` and the noun chunks of `vmr_jax.text.frames`: clauses first, then subjects,
objects, prepositional phrases, and what is within a chunk. Either way the graph is a tree over the words of one
tokeniser. Its relations are those of Universal Dependencies 1 ("on the shelf" hangs from the verb by its noun,
and "on" from "shelf"), but that a copula is the head of its clause, as in spaCy's parses.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from vmr_jax.text.frames import is_governed, is_predicate, noun_chunks, subject_chunk
from vmr_jax.text.lexicon import PREPOSITIONS
from vmr_jax.text.parse import SPACY_MODELS
from vmr_jax.text.tagging import BE, PUNCTUATION, tagged_tokens, textblob_tagger
from vmr_jax.text.tokenize import Token

# id - 1 -> name; 0 is no relation. 1 is a word to itself. The official code of CMIN reads its 40 ids from a
# file: 1, 2, 3 and 40 are as there, the file's others are not known here and are numbered by us. So the weights
# that an official checkpoint has for those may belong to other relations.
RELATIONS = (
    "self", "nsubj", "det", "acl", "acl:relcl", "advcl", "advmod", "amod", "appos", "aux",
    "auxpass", "case", "cc", "cc:preconj", "ccomp", "compound", "compound:prt", "conj", "cop", "csubj",
    "csubjpass", "dep", "det:predet", "dobj", "expl", "iobj", "mark", "mwe", "neg", "nmod",
    "nmod:npmod", "nmod:poss", "nmod:tmod", "nsubjpass", "nummod", "parataxis", "punct", "vocative", "xcomp",
    "discourse",
)  # fmt: skip
SELF = 1
_ID = {name: i + 1 for i, name in enumerate(RELATIONS)}

DIRECT_OBJECT, SUBJECT = _ID["dobj"], _ID["nsubj"]

Arc = tuple[int, str]  # head (-1: the root), relation


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """A parser's words and the tree over them; small arrays, as every sentence of a dataset is kept."""

    spans: np.ndarray  # [n,2] int16 character offsets, in order
    heads: np.ndarray  # [n] int16, -1 for the root
    relations: np.ndarray  # [n] uint8


def dependency_graph(text: str, tokens: Sequence[Token]) -> np.ndarray:
    """Returns the relations between the words of a sentence.

    Args:
      text: the sentence; parsed once per process.
      tokens: words of the sentence by any tokeniser, or the first of them.

    Returns:
      [n,n] int32: entry (i, j) is the relation of the dependent j to its head i, an id of `RELATIONS`; 1 on
      the diagonal, else 0. Every word has one head, but one that has none.
    """
    graph = SELF * np.eye(len(tokens), dtype=np.int32)
    parsed = _parse(text)
    depth = [_depth(parsed.heads, word) for word in range(len(parsed.heads))]
    token_of = [_token_at(span, tokens) for span in parsed.spans]
    top: dict[int, int] = {}  # token -> its word nearest to the root
    for word, token in enumerate(token_of):
        if token >= 0 and depth[word] < depth[top.get(token, word)] or token not in top:
            top[token] = word
    found = {}
    for token in range(len(tokens)):
        head = parsed.heads[top[token]] if token in top else -1
        while head >= 0 and token_of[head] < 0:  # a word that was cut off
            head = parsed.heads[head]
        if head >= 0:
            found[token] = (token_of[head], int(parsed.relations[top[token]]))
    free = [token for token in range(len(tokens)) if token not in found]
    # The root, or what is nearest to it; a token without a letter (a dash between blanks) comes last.
    root = min(free, key=lambda token: depth[top[token]] if token in top else len(depth), default=None)
    for token in range(len(tokens)):
        head, relation = found.get(token, (root, _ID["dep"]))
        if token != root:
            graph[head, token] = relation
    return graph


def _depth(heads: np.ndarray, word: int) -> int:
    """Number of steps from the root."""
    depth = 0
    while heads[word] >= 0:
        word, depth = heads[word], depth + 1
    return depth


def _token_at(span: np.ndarray, tokens: Sequence[Token]) -> int:
    """The first token that shares a character with `span`, or -1."""
    shared = (i for i, token in enumerate(tokens) if token.start < span[1] and token.end > span[0])
    return next(shared, -1)


@functools.lru_cache(maxsize=2**17)
def _parse(text: str) -> _Parsed:
    spans, arcs = _parser()(text)
    return _Parsed(
        np.asarray(spans, np.int16).reshape(-1, 2),
        np.asarray([head for head, _ in arcs], np.int16),
        np.asarray([_ID[relation] for _, relation in arcs], np.uint8),
    )


@functools.cache
def _parser() -> Callable[[str], tuple[list[tuple[int, int]], list[Arc]]]:
    """Text -> character spans of the words, and an arc for each; chosen once per process."""
    try:
        import spacy
    except ImportError:
        return _parse_by_rules
    for model in SPACY_MODELS:
        if spacy.util.is_package(model):
            pipeline = spacy.load(model)
            return lambda text: arcs_of_doc(pipeline(text))
    return _parse_by_rules


# --- spaCy ----------------------------------------------------------------------------------------

# spaCy's labels that are not ours; prepositions are dealt with apart.
_SPACY = {
    "relcl": "acl:relcl", "acomp": "xcomp", "attr": "xcomp", "oprd": "xcomp", "obj": "dobj", "dative": "iobj",
    "intj": "discourse", "npadvmod": "nmod:npmod", "poss": "nmod:poss", "preconj": "cc:preconj",
    "predet": "det:predet", "prt": "compound:prt", "quantmod": "advmod", "pobj": "nmod", "pcomp": "advcl",
    "prep": "advmod", "agent": "advmod",
}  # fmt: skip


def arcs_of_doc(doc) -> tuple[list[tuple[int, int]], list[Arc]]:
    """Reads the tree off a dependency parse (a `spacy.tokens.Doc`), without punctuation.

    A preposition with an object hangs from the object, and the object from what the preposition hung from. Of
    several sentences the roots hang from the first one's.
    """
    words = [token for token in doc if not token.is_space and token.dep_ != "punct"]
    place = {token.i: i for i, token in enumerate(words)}
    root = next((token for token in words if token.head.i == token.i), None)

    def governor(token):
        """The head of a word, past prepositions that have an object and punctuation."""
        head = token.head
        while head.head.i != head.i and (_object(head) is not None or head.i not in place):
            head = head.head
        return head

    arcs = []
    for token in words:
        inner = _object(token)
        if inner is not None:
            arcs.append((place[inner.i], "mark" if inner.dep_ == "pcomp" else "case"))
        elif token.head.i == token.i:
            arcs.append((-1, "dep") if root is None or token is root else (place[root.i], "parataxis"))
        else:
            relation = _SPACY.get(token.dep_, token.dep_)
            head = governor(token)
            arcs.append((place[head.i] if head.i != token.i else -1, relation if relation in _ID else "dep"))
    return [(token.idx, token.idx + len(token)) for token in words], arcs


def _object(token):
    """The object of a preposition, through further ones ("out of the box": box); None for other words."""
    if token.dep_ not in ("prep", "agent", "dative") or token.head.i == token.i:
        return None
    for child in token.children:
        if child.dep_ in ("pobj", "pcomp"):
            return child
    return next((inner for child in token.children if (inner := _object(child)) is not None), None)


# --- rules ----------------------------------------------------------------------------------------

_MARKS = frozenset(
    "after although as because before if once since so that though until when where while".split()
)
_RELATIVE = frozenset("who which that whom".split())
_TIMES = frozenset("day hour minute moment night second time while".split())
_PARTICLES = frozenset("up down on off out in away back over around through along".split())
# Particle before an object -> beginnings of its verbs: "picks up the cup", but "sits on the couch".
_PHRASAL = {
    "up": ("pick", "clean", "wash", "wak", "mak", "fill", "lift", "hold", "fold", "warm", "tid", "set", "pull"),
    "on": ("turn", "switch", "put", "tr"),
    "off": ("turn", "switch", "tak", "took", "pull"),
    "down": ("put", "set", "lay", "lie"),
    "out": ("tak", "took", "pull", "pour"),
    "away": ("put", "throw", "threw", "tak"),
    "back": ("put", "tak", "giv"),
}
_CLAUSE_ENDS = (",", ".", ":", "", "CC", "RB", "IN", "TO")


def _parse_by_rules(text: str) -> tuple[list[tuple[int, int]], list[Arc]]:
    tokens, tags = tagged_tokens(text, textblob_tagger())
    arcs = _Tree(tags).arcs()
    words = [i for i in range(len(tokens)) if not PUNCTUATION.fullmatch(tokens[i].text)]
    place = {i: n for n, i in enumerate(words)}
    place[-1] = -1
    return [(tokens[i].start, tokens[i].end) for i in words], [(place[arcs[i][0]], arcs[i][1]) for i in words]


class _Tree:
    """The tree of one tagged sentence, from the clauses down. A word keeps the first head that it is given."""

    def __init__(self, tags):
        self.t = tags
        self.chunks = noun_chunks(tags)
        self.verbs = [i for i in range(len(tags)) if is_predicate(tags, i)]
        self.head_of_chunk = [a if tags[a] == "PRP" else b - 1 for a, b in self.chunks]
        self.head: dict[int, Arc] = {}
        self.clause = {v: self._clause(v) for v in self.verbs}  # verb -> relation, 'main' for the chief ones
        self.main = [v for v in self.verbs if self.clause[v] in ("main", "conj", "parataxis")]
        self.root = self._root()

    def arcs(self) -> list[Arc]:
        """Head and relation of every word, punctuation included."""
        for v in self.verbs:
            self._subject(v)
        for v in self.verbs:
            self._join(v)
        for c in range(len(self.chunks)):
            self._complement(c)
            self._within(c)
        for i in range(len(self.t)):
            self._rest(i)
        return [self.head.get(i, (self.root if i != self.root else -1, "dep")) for i in range(len(self.t))]

    def attach(self, word: int, head: int | None, relation: str) -> None:
        """Hangs a word from a head, unless it has one or the head hangs from the word."""
        above = head
        while above is not None and above != word:
            above = self.head.get(above, (None,))[0]
        if head is not None and above is None and word not in self.head and word != self.root:
            self.head[word] = (head, relation)

    def _root(self) -> int:
        if self.verbs:
            return (self.main or self.verbs)[0]
        return self.head_of_chunk[0] if self.chunks else 0

    # Clauses.

    def _first(self, v: int) -> int:
        """The position at which the auxiliaries and adverbs before a verb begin."""
        i = v
        while self.t.at(i - 1).startswith(("RB", "MD")) or (
            self.t.at(i - 1).startswith("VB") and i - 1 not in self.verbs
        ):
            i -= 1
        return i

    def _own_subject(self, v: int) -> int | None:
        """The chunk right before a verb that can be its subject, but not through a relative pronoun."""
        if self.t.word(self._first(v) - 1) in _RELATIVE:
            return None
        return subject_chunk(self.t, v, self.chunks)

    def _before(self, v: int) -> int:
        """The position before a clause, its subject included."""
        own = self._own_subject(v)
        return (self._first(v) if own is None else self.chunks[own][0]) - 1

    def _clause(self, v: int) -> str:
        """The relation of a verb to the word it hangs from, 'main' where it hangs from none."""
        t, first, before = self.t, self._first(v), self._before(v)
        bare = first == v or not any(t.at(i).startswith(("VB", "MD")) for i in range(first, v))
        participle = bare and t[v] in ("VBG", "VBN")
        if t.word(first - 1) in _RELATIVE and t.at(first - 2).startswith(("NN", "PRP")):
            return "acl:relcl"
        if t.word(first - 1) == "to":
            return "xcomp"
        if t.word(before) in _MARKS or (participle and t.at(before) == "IN"):
            return "advcl"
        if participle and any(w != v and t[w] not in ("VBG", "VBN") for w in self.verbs):
            if t.at(first - 1).startswith("VB"):
                return "xcomp"
            if any(b == first for _, b in self.chunks):
                return "acl"
            if t.at(before) != "CC":
                return "advcl"
        if any(w < v for w in self.verbs):
            if t.at(before) == "CC":
                return "conj"
            if t.at(before) in (",", "."):
                return "conj" if self._own_subject(v) is None else "parataxis"
            if t[v] == "VB" and self._own_subject(v) is not None:
                return "ccomp"
        return "main"

    def _join(self, v: int) -> None:
        """Hangs a verb from its clause's head, and the word that introduces it from the verb."""
        relation, first, before = self.clause[v], self._first(v), self._before(v)
        left = [w for w in self.verbs if w < v]
        chief = [w for w in left if w in self.main]
        if relation in ("acl", "acl:relcl"):
            end = first if relation == "acl" else first - 1
            noun = next((h for (_, b), h in zip(self.chunks, self.head_of_chunk) if b == end), None)
            self.attach(v, noun, relation)
            if relation == "acl:relcl":
                self.attach(first - 1, v, "nsubj")
        elif relation in ("xcomp", "ccomp"):
            self.attach(v, left[-1] if left else self.root, relation)
            if self.t.word(first - 1) == "to":
                self.attach(first - 1, v, "mark")
        elif relation == "advcl":
            self.attach(v, chief[-1] if chief else self.root, relation)
            if self.t.word(before) in _MARKS or self.t.at(before) == "IN":
                self.attach(before, v, "advmod" if self.t.at(before) == "WRB" else "mark")
        elif v != self.root:
            clauses = [w for w in left if not self.clause[w].startswith("acl")]
            head = clauses[-1] if clauses else self.root
            self.attach(v, head, "parataxis" if relation == "main" else relation)
            if self.t.at(before) == "CC":
                self.attach(before, head, "cc")

    def _subject(self, v: int) -> None:
        relation = "nsubjpass" if self._is_passive(v) else "nsubj"
        if self.clause[v] in ("acl", "acl:relcl"):
            return
        own = self._own_subject(v)
        if own is None and self.clause[v] in ("main", "parataxis"):
            own = self._distant_subject(v)
        if own is not None:
            self.attach(self.head_of_chunk[own], v, relation)

    def _distant_subject(self, v: int) -> int | None:
        """The chunk of a clause that no verb and no preposition governs; it follows the verb after "there"."""
        t = self.t
        if t.at(self._first(v) - 1) == "EX":
            return next((c for c, (a, _) in enumerate(self.chunks) if a > v), None)
        begin = max((w for w in self.main if w < v), default=-1)
        for c in reversed(range(len(self.chunks))):
            a, b = self.chunks[c]
            if begin < a and b <= v and not is_governed(t, a) and t.at(a - 1) not in ("IN", "TO"):
                return c
        return None

    def _is_passive(self, v: int) -> bool:
        words = self.t.words[self._first(v) : v]
        return self.t[v] in ("VBN", "VBD") and any(word in BE for word in words)

    # Chunks.

    def _left_verb(self, i: int) -> int | None:
        return max((v for v in self.verbs if v < i), default=None)

    def _left_chunk(self, i: int) -> int | None:
        """The last chunk that ends at i or before."""
        return max((c for c, (_, b) in enumerate(self.chunks) if b <= i), default=None)

    def _is_particle(self, i: int) -> bool:
        """Whether a word belongs to the verb before it: "picks up the cup", "picks the cup up", "sits down"."""
        t, verb = self.t, self._left_verb(i)
        if t.word(i) not in _PARTICLES or verb is None:
            return t.at(i) == "RP"
        after = i - 1 == verb
        if after and any(a == i + 1 for a, _ in self.chunks):
            return t.word(verb).startswith(_PHRASAL.get(t.word(i), ("",) if t.at(i) == "RP" else ()))
        follows = after or any(b == i and a > verb for a, b in self.chunks)
        return follows and t.at(i + 1) in _CLAUSE_ENDS and t.word(i + 1) != "of"

    def _prepositions(self, start: int) -> list[int]:
        """The prepositions right before a chunk: "out of the box" has two."""
        found, i = [], start - 1
        while (self.t.word(i) in PREPOSITIONS or self.t.at(i) in ("IN", "TO")) and not self._is_particle(i):
            found.append(i)
            i -= 1
        return found

    def _complement(self, c: int) -> None:
        """Hangs a chunk that is no subject from a verb or another chunk."""
        (start, _), noun, t = self.chunks[c], self.head_of_chunk[c], self.t
        if noun in self.head or noun == self.root:
            return
        previous, verb = self._left_chunk(start), self._left_verb(start)
        cases = self._prepositions(start)
        if cases:
            self.attach(noun, self._governor(cases[-1]), "nmod")
            for word in cases:
                self.attach(word, noun, "case")
        elif previous is not None and t.at(start - 1) in ("CC", ",") and self.chunks[previous][1] == start - 1:
            first = self.head_of_chunk[previous]
            while self.head.get(first, (0, ""))[1] == "conj":
                first = self.head[first][0]
            self.attach(noun, first, "conj")
            if t.at(start - 1) == "CC":
                self.attach(start - 1, first, "cc")
        elif t.word(noun) in _TIMES and verb is not None and start - 1 != verb:
            self.attach(noun, verb, "nmod:tmod")
        elif verb is not None:
            self._object(c, noun, verb)

    def _governor(self, preposition: int) -> int | None:
        """The head of a prepositional phrase: the chunk before "of" and a subject, else the verb before."""
        previous, verb = self._left_chunk(preposition), self._left_verb(preposition)
        if previous is not None and self.chunks[previous][1] == preposition:
            noun = self.head_of_chunk[previous]
            subject = self.head.get(noun, (-1, ""))[1].startswith("nsubj") and self.head[noun][0] > preposition
            if self.t.word(preposition) == "of" or subject or not self.verbs:
                return noun
        return self.root if verb is None else verb

    def _object(self, c: int, noun: int, verb: int) -> None:
        objects = [w for w, arc in self.head.items() if arc == (verb, "dobj")]
        if self.t.word(verb) in BE:
            self.attach(noun, verb, "xcomp")
        elif not objects:
            self.attach(noun, verb, "dobj")
        elif c and objects == [self.head_of_chunk[c - 1]] and self.chunks[c - 1][1] == self.chunks[c][0]:
            self.head[objects[0]] = (verb, "iobj")  # "gives the woman a box"
            self.attach(noun, verb, "dobj")
        else:
            self.attach(noun, verb, "dep")

    def _within(self, c: int) -> None:
        """Hangs the words of a chunk from its head, those before 's from the owner."""
        (start, end), t = self.chunks[c], self.t
        owners = [i for i in range(start + 1, end) if t[i] == "POS"]
        for i in owners:
            owned = next((j - 1 for j in owners if j > i), self.head_of_chunk[c])
            self.attach(i - 1, owned, "nmod:poss")
            self.attach(i, i - 1, "case")
        for i in range(start, end):
            head = next((j - 1 for j in owners if j > i), self.head_of_chunk[c])
            if t[i].startswith("JJ") and i == start and t.at(i + 1) in ("DT", "PRP$") and i - 1 in self.verbs:
                self.attach(i, i - 1, "xcomp")  # "pulls open the door"
            elif t[i].startswith("RB") and i + 1 < end:
                self.attach(i, i + 1, "advmod")
            else:
                self.attach(i, head, self._modifier(i))

    def _modifier(self, i: int) -> str:
        tag = self.t[i]
        if tag == "PRP$":
            return "nmod:poss"
        if tag == "PDT" or (self.t.word(i) in ("all", "both", "half") and self.t.at(i + 1) == "DT"):
            return "det:predet"
        kinds = {"DT": "det", "CD": "nummod", "NN": "compound", "JJ": "amod", "VB": "amod"}
        return next((kinds[k] for k in kinds if tag.startswith(k)), "dep")

    # What is left.

    def _rest(self, i: int) -> None:
        t = self.t
        tag, left = t[i], self._left_verb(i)
        right = min((v for v in self.verbs if v > i), default=None)
        near = (
            right if right is not None and self._first(right) <= i else left
        )  # of the verb whose group it is in
        if i in self.verbs:
            return
        if tag.startswith(("VB", "MD")):
            passive = right is not None and t.word(i) in BE and self._is_passive(right)
            self.attach(i, right, "auxpass" if passive else "aux")
        elif t.word(i) in ("not", "n't"):
            self.attach(i, near if near is not None else right, "neg")
        elif self._is_particle(i):
            self.attach(i, left, "compound:prt")
        elif tag.startswith("RB") or tag == "WRB" or tag in ("IN", "TO", "RP"):
            modified = i + 1 if t.at(i + 1).startswith("JJ") and i + 1 not in self.head else near
            self.attach(i, modified if modified is not None else self.root, "advmod")
        elif tag.startswith("JJ"):
            other = next((j for j in (i - 2,) if t.at(i - 1) == "CC" and t.at(j).startswith("JJ")), None)
            if other is not None:
                self.attach(i, other, "conj")
                self.attach(i - 1, other, "cc")
            self.attach(i, left, "xcomp")
        elif tag == "EX":
            self.attach(i, right, "expl")
        elif tag == "PRP$" and all(a != i + 1 for a, _ in self.chunks):
            self.attach(i, left, "dobj")  # "joins her"
        elif tag in ("DT", "PDT", "CD", "PRP$"):
            after = next((h for (a, _), h in zip(self.chunks, self.head_of_chunk) if a > i), None)
            self.attach(i, after, self._modifier(i))
        elif tag == "CC":
            self.attach(i, self.root, "cc")
        elif tag == "UH":
            self.attach(i, self.root, "discourse")
        elif PUNCTUATION.fullmatch(t.word(i)):
            self.attach(i, self.root, "punct")
