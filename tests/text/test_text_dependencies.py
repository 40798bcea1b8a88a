"""Dependency graphs: sentences by hand, what every graph must satisfy, agreement with exact roles, spaCy."""

import numpy as np
import pytest

from vmr_jax.data.storyboard.generate import generate
from vmr_jax.text import dependencies
from vmr_jax.text.dependencies import RELATIONS, arcs_of_doc, dependency_graph
from vmr_jax.text.parse import parser_name
from vmr_jax.text.tokenize import tokenize

rules_only = pytest.mark.skipif(parser_name().startswith("spacy"), reason="a spaCy model parses here")


def written(text, style="words"):
    """'dependent:relation:head ...' of a sentence, the root without the last two."""
    tokens = tokenize(text, style)
    graph = dependency_graph(text, tokens)
    found = []
    for j, token in enumerate(tokens):
        heads = [i for i in range(len(tokens)) if i != j and graph[i, j]]
        found.append(":".join([token.text, *(f"{RELATIONS[graph[i, j] - 1]}:{tokens[i].text}" for i in heads)]))
    return " ".join(found)


def test_forty_relations_of_which_the_official_ones_are_in_place():
    assert len(RELATIONS) == len(set(RELATIONS)) == 40
    assert [RELATIONS[i - 1] for i in (1, 2, 3, 40)] == ["self", "nsubj", "det", "discourse"]


def test_rows_are_heads_and_columns_dependents():
    text = "person opens the door"
    # person <-nsubj- opens -dobj-> door -det-> the; 2 nsubj, 24 dobj, 3 det, 1 on the diagonal.
    expected = [[1, 0, 0, 0], [2, 1, 0, 24], [0, 0, 1, 0], [0, 0, 3, 1]]
    graph = dependency_graph(text, tokenize(text))
    assert graph.dtype == np.int32
    np.testing.assert_array_equal(graph, expected)


@rules_only
@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "a person is putting a red book on the shelf.",
            "a:det:person person:nsubj:putting is:aux:putting putting a:det:book red:amod:book "
            "book:dobj:putting on:case:shelf the:det:shelf shelf:nmod:putting",
        ),
        # A clause before the main one, of which it is no subject.
        (
            "before closing the window, a woman opens a fridge.",
            "before:mark:closing closing:advcl:opens the:det:window window:dobj:closing a:det:woman "
            "woman:nsubj:opens opens a:det:fridge fridge:dobj:opens",
        ),
        # Particles: before an object, after it, without one; "on" before the couch is a preposition.
        (
            "person picks up the cup",
            "person:nsubj:picks picks up:compound:prt:picks the:det:cup cup:dobj:picks",
        ),
        (
            "a man opens the box, then turns the light on.",
            "a:det:man man:nsubj:opens opens the:det:box box:dobj:opens then:advmod:turns turns:conj:opens "
            "the:det:light light:dobj:turns on:compound:prt:turns",
        ),
        (
            "they sit down on the couch",
            "they:nsubj:sit sit down:compound:prt:sit on:case:couch the:det:couch couch:nmod:sit",
        ),
        # Who sits is said once, and it is they who eat.
        (
            "a person sitting on a couch eats food.",
            "a:det:person person:nsubj:eats sitting:acl:person on:case:couch a:det:couch couch:nmod:sitting "
            "eats food:dobj:eats",
        ),
        (
            "the man who wears a hat quickly runs.",
            "the:det:man man:nsubj:runs who:nsubj:wears wears:acl:relcl:man a:det:hat hat:dobj:wears "
            "quickly:advmod:runs runs",
        ),
        (
            "person starts to open door",
            "person:nsubj:starts starts to:mark:open open:xcomp:starts door:dobj:open",
        ),
        (
            "the door is opened by a man.",
            "the:det:door door:nsubjpass:opened is:auxpass:opened opened by:case:man a:det:man man:nmod:opened",
        ),
        (
            "the man gives the woman a bag of chips",
            "the:det:man man:nsubj:gives gives the:det:woman woman:iobj:gives a:det:bag bag:dobj:gives "
            "of:case:chips chips:nmod:bag",
        ),
        (
            "there is a dog and a cat in the room.",
            "there:expl:is is a:det:dog dog:nsubj:is and:cc:dog a:det:cat cat:conj:dog in:case:room "
            "the:det:room room:nmod:is",
        ),
        (
            "she opens the other person's lunch box and they do n't laugh.",
            "she:nsubj:opens opens the:det:person other:amod:person person:nmod:poss:box 's:case:person "
            "lunch:compound:box box:dobj:opens and:cc:opens they:nsubj:laugh do:aux:laugh n't:neg:laugh "
            "laugh:conj:opens",
        ),
        # Without a verb the first noun is the root.
        ("a box in the kitchen", "a:det:box box in:case:kitchen the:det:kitchen kitchen:nmod:box"),
    ],
)
def test_graphs_of_captions(text, expected):
    assert written(text) == expected


def is_tree(graph):
    """Whether every word but one has one head, and no word is above itself."""
    arcs = (graph > 0) & ~np.eye(len(graph), dtype=bool)
    above = arcs
    for _ in range(len(graph)):
        above = above @ arcs
    return sorted(arcs.sum(0)) == [0] * min(1, len(graph)) + [1] * (len(graph) - 1) and not above.any()


@pytest.mark.parametrize("style", ["words", "whitespace"])
@pytest.mark.parametrize(
    "text",
    [
        'He’s "quoting" 3 [things] — ok/not_ok; émigré\'s naïve $5.00, e.g. this.\nSecond line?',
        "日本 person opens ドア",
        "THE PERSON OPENS A DOOR - AND LEAVES",
        "a a a a the the person person",
        "is was is be been being have has",
        "to to to open open open and and with with of of that who",
        "opens a kitchen/bathroom door, oh, slowly; the woman's man's box who sits",
        "?",
        "the",
    ],
)
def test_every_word_hangs_from_one_other(text, style):
    tokens = tokenize(text, style)
    graph = dependency_graph(text, tokens)
    assert graph.shape == (len(tokens), len(tokens)) and (np.diag(graph) == 1).all()
    assert ((graph == 1) == np.eye(len(tokens), dtype=bool)).all() and graph.max(initial=1) <= 40
    assert is_tree(graph) or not tokens


def test_words_that_are_cut_off_leave_a_tree():
    text = "the woman with the red hat on her head near the window finally sits down."
    tokens = tokenize(text)
    whole = dependency_graph(text, tokens)
    for n in range(1, len(tokens)):
        graph = dependency_graph(text, tokens[:n])
        assert is_tree(graph)
        # What hangs from a word that is kept still does.
        kept = whole[:n, :n] > 0
        np.testing.assert_array_equal(graph[kept], whole[:n, :n][kept])


def test_punctuation_stays_on_its_word():
    # "door." is one word of this tokeniser; "closet/door" is one of its words and two of the parser's.
    assert written("person opens door.", "whitespace") == "person:nsubj:opens opens door.:dobj:opens"
    assert written("opens closet/door", "whitespace") == "opens closet/door:dobj:opens"


def test_a_sentence_is_parsed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        dependencies, "_parser", lambda: lambda text: calls.append(text) or ([(0, 1)], [(-1, "dep")])
    )
    text = "a sentence that no other test has"
    first, second = (dependency_graph(text, tokenize(text)) for _ in range(2))
    dependencies._parse.cache_clear()
    assert calls == [text]
    np.testing.assert_array_equal(first, second)


@rules_only
def test_arguments_of_storyboard_hang_from_their_verbs():
    """The grammar's own roles: the last word of a noun chunk is one arc below its verb, or two (a subject)."""
    close = total = 0
    for scene, _ in (pair for pair, _ in zip(generate(0, "test", 1), range(25))):
        for question in scene.questions:
            sentence = question.sentence
            tokens = tokenize(sentence.text)
            graph = dependency_graph(sentence.text, tokens)
            assert is_tree(graph)
            arcs = (graph > 1) | (graph > 1).T
            near = arcs | (arcs.astype(int) @ arcs > 0)
            verb = [next(i for i, t in enumerate(tokens) if t.start == a) for a, _ in sentence.verbs]
            noun = [next(i for i, t in enumerate(tokens) if t.end == b) for _, b in sentence.nouns]
            found = [near[verb[v], noun[n]] for v, n in sentence.edges]
            close, total = close + sum(found), total + len(found)
    assert total > 200 and close / total > 0.98, (close, total)


def test_tree_of_a_spacy_parse():
    spacy = pytest.importorskip("spacy")
    words = ["A", "man", "walks", "out", "of", "the", "room", "before", "sitting", "and", "is", "happy", "."]
    heads = [1, 2, 2, 2, 3, 6, 4, 2, 7, 2, 2, 10, 2]
    labels = "det nsubj ROOT prep prep det pobj prep pcomp cc conj acomp punct".split()
    doc = spacy.tokens.Doc(spacy.blank("en").vocab, words=words, heads=heads, deps=labels)
    spans, arcs = arcs_of_doc(doc)
    assert [doc.text[a:b] for a, b in spans] == words[:-1]
    # "out" and "of" hang from the room, the room from "walks"; so does "sitting", which "before" marks.
    expected = [
        (1, "det"), (2, "nsubj"), (-1, "dep"), (6, "case"), (6, "case"), (6, "det"), (2, "nmod"), (8, "mark"),
        (2, "advcl"), (2, "cc"), (2, "conj"), (10, "xcomp"),
    ]  # fmt: skip
    assert arcs == expected
