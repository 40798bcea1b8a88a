"""Constituency trees: the phrases of a sentence, one within another.

They are read from brackets, (S (NP (DT a) (NN man)) (VP (VBZ waves)) (. .)), as the Penn Treebank has them and
constituency parsers write them. No parser is among the dependencies of the package: a sentence without a parse
gets a tree that branches to the right (`right_branching`), of the tags and noun chunks that rules find.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from vmr_jax.text.frames import noun_chunks
from vmr_jax.text.roles import Span
from vmr_jax.text.tagging import Tagged, tagged_tokens, textblob_tagger

# The labels of the Penn Treebank: clauses, phrases, words and punctuation marks. A label has its place, counted
# from 1, as its id; checkpoints depend on the order, that of Sy-Zhang/TCMN-Release.
LABELS = (
    *"ROOT S SBAR SBARQ SINV SQ".split(),
    *"ADJP ADVP CONJP FRAG INTJ LST NAC NP NX PP PRN PRT QP RRC UCP VP WHADJP WHADVP WHAVP WHNP WHPP X".split(),
    *"CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH".split(),
    *"VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB".split(),
    *", '' . -LRB- -RRB- <STOP> `` : $".split(),
)
_ROOT, _ANY = "ROOT", "X"  # the Treebank's label of what has no other
_TRACE = "-NONE-"  # of what stands in no sentence

_PIECE = re.compile(r"\(\s*([^\s()]*)|(\))|([^\s()]+)")
_ESCAPED = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_QUOTES = ('"', "``", "''", "“", "”")
_SUBORDINATING = frozenset("after before until while when where because since although though if as".split())


class Constituent(NamedTuple):
    """A node of a tree: its label, its characters in the sentence, and the place of its parent (root: -1)."""

    label: str
    span: Span
    parent: int


def label_id(label: str) -> int:
    """Returns the id of a label, from 1; without its function tags (NP-SBJ is NP), an unknown one as X."""
    bare = label if label.startswith("-") else re.split(r"[-=|]", label)[0]
    return LABELS.index(bare if bare in LABELS else _ANY) + 1


def constituents_of(brackets: str, text: str) -> tuple[Constituent, ...]:
    """Returns the nodes of a tree, each after its children; the root, the last, has the label ROOT.

    >>> for node in constituents_of("(S (NP (NN somebody)) (VP (VBZ waves)) (. .))", "Somebody waves."):
    ...     print(*node)
    NN (0, 8) 1
    NP (0, 8) 5
    VBZ (9, 14) 3
    VP (9, 14) 5
    . (14, 15) 5
    ROOT (0, 15) -1

    Args:
      brackets: the tree. Traces are left out, with the phrases of nothing else.
      text: its sentence; blanks and case may differ, brackets and quotes may be escaped as in the Treebank.

    Raises:
      ValueError: for what is no tree, or one of other words; the message says what is wrong, for a sentence.
    """
    reader, end = _Reader(), 0

    def placed(word: str) -> Span:
        nonlocal end
        start = end + len(text[end:]) - len(text[end:].lstrip())
        for form in (word, _ESCAPED.get(word, word), *(_QUOTES if word in _QUOTES else ())):
            if text[start : start + len(form)].lower() == form.lower():
                end = start + len(form)
                return start, end
        raise ValueError(f'it has "{word}" where the sentence has "{text[start : start + 20]}"')

    reader.read(brackets, placed)
    if text[end:].strip():
        raise ValueError(f'it ends before "{text[end:].strip()[:20]}"')
    return reader.nodes()


def spoken(brackets: str) -> str:
    """The sentence of a tree as `spelling` has it; ValueError for what is no tree."""
    words: list[str] = []

    def placed(word: str) -> Span:
        words.append(_ESCAPED.get(word, word))
        return len(words) - 1, len(words)

    _Reader().read(brackets, placed)
    return spelling("".join(words))


def spelling(text: str) -> str:
    """A sentence without blanks, in small letters, with quotes of one kind: as of its tree."""
    found = "".join(text.lower().split())
    for quote in _QUOTES:
        found = found.replace(quote, '"')
    return found


class _Phrase:
    """A phrase whose closing bracket is still to come."""

    def __init__(self, label: str):
        self.label, self.children, self.spans = label, list[int](), list[Span]()


class _Reader:
    """Reads brackets from the left; a phrase becomes a node when it is closed."""

    def __init__(self) -> None:
        self._open: list[_Phrase] = []
        self._found: list[tuple[str, Span]] = []
        self._parents: dict[int, int] = {}

    def read(self, brackets: str, placed: Callable[[str], Span]) -> None:
        """Reads one tree; `placed` says where in the sentence its next word is."""
        closed = False
        for piece in _PIECE.finditer(brackets):
            label, close, word = piece.groups()
            if closed:
                raise ValueError(f'after its last bracket there is "{piece.group()}"')
            if label is not None:
                self._open.append(_Phrase(label))
            elif not self._open:
                raise ValueError(f'it begins with "{piece.group()}", not with a bracket')
            elif close:
                self._close()
                closed = not self._open
            elif self._open[-1].label != _TRACE:
                self._open[-1].spans.append(placed(word))
        if not closed:
            raise ValueError("a bracket is not closed")
        if not self._found:
            raise ValueError("it has no word")

    def _close(self) -> None:
        phrase = self._open.pop()
        if not phrase.spans:
            return
        span, place = (phrase.spans[0][0], phrase.spans[-1][1]), len(self._found)
        self._found.append((phrase.label, span))
        self._parents.update(dict.fromkeys(phrase.children, place))
        if self._open:
            self._open[-1].children.append(place)
            self._open[-1].spans.append(span)

    def nodes(self) -> tuple[Constituent, ...]:
        """Returns all that was read; the label of the root is ROOT, whatever the parser calls it."""
        last = len(self._found) - 1
        return tuple(
            Constituent(_ROOT if i == last else label, span, self._parents.get(i, -1))
            for i, (label, span) in enumerate(self._found)
        )


def shortened(nodes: tuple[Constituent, ...], most: int) -> tuple[Constituent, ...]:
    """The tree without its last words, and the phrases of nothing else, so that it has at most `most` nodes."""
    kept = list(nodes)
    while len(kept) > most:
        parents = {node.parent for node in kept}
        leaves = [i for i in range(len(kept)) if i not in parents]
        if len(leaves) == 1:  # one in the other, the last of them the root
            parents_above = [*range(1, most), -1]
            return tuple(node._replace(parent=p) for node, p in zip(kept[-most:], parents_above))
        place = leaves[-1]
        while True:  # a node without children, and those above it that are left without one
            above = kept.pop(place).parent - 1
            kept = [node._replace(parent=node.parent - (node.parent > place)) for node in kept]
            if any(node.parent == above for node in kept):
                break
            place = above
    return tuple(kept)


# --- without a parser -----------------------------------------------------------------------------


def right_branching(text: str) -> tuple[Constituent, ...]:
    """Returns a tree of the sentence in which every word, or noun chunk, stands beside all that follows.

    Words have the tags of `vmr_jax.text.tagging`, noun chunks are NP, and a phrase has the label of what it
    begins with: a noun chunk S, a verb VP, a preposition PP, "before" and its like SBAR, else X. It is no
    parse: where a phrase ends nobody has found out.
    """
    tokens, tags = tagged_tokens(text, textblob_tagger())
    chunks = dict(noun_chunks(tags))
    nodes: list[Constituent] = []
    units: list[tuple[int, str]] = []  # place of the node, label of the phrase that begins with it
    i = 0
    while i < len(tokens):
        end = chunks.get(i, i + 1)
        words = [Constituent(tags[j], (tokens[j].start, tokens[j].end), -1) for j in range(i, end)]
        if i in chunks:
            whole = Constituent("NP", (words[0].span[0], words[-1].span[1]), -1)
            words = [*(word._replace(parent=len(nodes) + len(words)) for word in words), whole]
        nodes += words
        units.append((len(nodes) - 1, "S" if i in chunks else _phrase_label(tags, i)))
        i = end
    below = units[-1][0] if units else -1
    for place, label in reversed(units[:-1]):
        for child in (place, below):
            nodes[child] = nodes[child]._replace(parent=len(nodes))
        nodes.append(Constituent(label, (nodes[place].span[0], nodes[below].span[1]), -1))
        below = len(nodes) - 1
    if nodes:
        nodes[-1] = nodes[-1]._replace(label=_ROOT)
    return tuple(nodes)


def _phrase_label(tags: Tagged, i: int) -> str:
    if tags[i].startswith(("VB", "MD")):
        return "VP"
    if tags.word(i) in _SUBORDINATING:
        return "SBAR"
    return "PP" if tags[i] in ("IN", "TO") else _ANY
