"""Constituency trees: read from brackets, cut, and made without a parser."""

import pytest

from vmr_jax.text.constituency import (
    LABELS,
    constituents_of,
    label_id,
    right_branching,
    shortened,
    spelling,
    spoken,
)

TEXT = 'The girl (in "red") doesn\'t wave.'
BRACKETS = """( (S (NP-SBJ (NP (DT the) (NN girl)) (-LRB- -LRB-) (PP (IN in) (`` ``) (JJ red) ('' ''))
  (-RRB- -RRB-)) (VP (VBZ does) (RB n't) (VP (VB wave) (NP (-NONE- *T*)))) (. .)))"""


def words_of(nodes, text):
    return [(node.label, text[slice(*node.span)]) for node in nodes]


def test_a_tree_of_the_treebank_is_placed_in_its_sentence():
    nodes = constituents_of(BRACKETS, TEXT)
    # Children before parents. The trace is gone with its NP; the root, without a label there, is ROOT.
    assert words_of(nodes, TEXT) == [
        ("DT", "The"),
        ("NN", "girl"),
        ("NP", "The girl"),
        ("-LRB-", "("),
        ("IN", "in"),
        ("``", '"'),
        ("JJ", "red"),
        ("''", '"'),
        ("PP", 'in "red"'),
        ("-RRB-", ")"),
        ("NP-SBJ", 'The girl (in "red")'),
        ("VBZ", "does"),
        ("RB", "n't"),
        ("VB", "wave"),
        ("VP", "wave"),
        ("VP", "doesn't wave"),
        (".", "."),
        ("S", TEXT),
        ("ROOT", TEXT),
    ]
    assert [node.parent for node in nodes] == [
        2, 2, 10, 10, 8, 8, 8, 8, 10, 10, 17, 15, 15, 14, 15, 17, 17, 18, -1,
    ]  # fmt: skip
    assert spoken(BRACKETS) == spelling(TEXT) == 'thegirl(in"red")doesn\'twave.'


def test_ids_of_labels():
    assert len(set(LABELS)) == 73 and label_id("ROOT") == 1 and label_id("$") == 73
    assert label_id("NP-SBJ=2") == label_id("NP") and label_id("-LRB-") == LABELS.index("-LRB-") + 1
    assert label_id("HYPH") == label_id("") == label_id("X")


@pytest.mark.parametrize(
    "brackets, message",
    [
        ("(S (NN a)", "a bracket is not closed"),
        ("a", 'it begins with "a", not with a bracket'),
        ("(S (NN a)) (S (NN b))", r'after its last bracket there is "\(S"'),
        ("(S (NP))", "it has no word"),
        ("(S (NN b))", 'it has "b" where the sentence has "a man"'),
        ("(S (NN a))", 'it ends before "man"'),
    ],
)
def test_what_is_wrong_is_said(brackets, message):
    with pytest.raises(ValueError, match=message):
        constituents_of(brackets, "a man")


def test_long_trees_lose_their_last_words():
    text = "a man waves ."
    nodes = constituents_of("(S (NP (DT a) (NN man)) (VP (VBZ waves)) (. .))", text)
    assert shortened(nodes, 7) == nodes
    # Without the full stop there are six nodes; without "waves" its VP is gone too.
    assert words_of(shortened(nodes, 6), text)[3:] == [("VBZ", "waves"), ("VP", "waves"), ("ROOT", text)]
    cut = shortened(nodes, 5)
    assert words_of(cut, text) == [("DT", "a"), ("NN", "man"), ("NP", "a man"), ("ROOT", text)]
    assert [node.parent for node in cut] == [2, 2, 3, -1]
    # Of one word the phrases next to it go.
    one = constituents_of("(S (VP (VP (VB wave))))", "wave")
    assert [(node.label, node.parent) for node in shortened(one, 2)] == [("VP", 1), ("ROOT", -1)]


def test_a_tree_without_a_parser_branches_to_the_right():
    text = "A man waves before the girl sits."
    nodes = right_branching(text)
    expected = "(S (NP (DT A) (NN man)) (VP (VBP waves) (SBAR (IN before) (S (NP (DT the) (NN girl)) "
    expected += "(VP (VBZ sits) (. .))))))"
    assert sorted(words_of(nodes, text)) == sorted(words_of(constituents_of(expected, text), text))
    for i, node in enumerate(nodes[:-1]):
        above = nodes[node.parent]
        assert i < node.parent and above.span[0] <= node.span[0] and node.span[1] <= above.span[1]
    assert nodes[-1] == ("ROOT", (0, len(text)), -1)
    assert right_branching("quickly") == (("ROOT", (0, 7), -1),)
