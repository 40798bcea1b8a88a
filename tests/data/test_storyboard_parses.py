"""The constituency trees of storyboard: of every sentence, its words in their order, as its grammar says."""

import re

import numpy as np
import pytest
from storyboard_options import questions_of

from vmr_jax.data.storyboard import grammar
from vmr_jax.data.storyboard.splits import SPLITS
from vmr_jax.text.constituency import LABELS, constituents_of


@pytest.mark.parametrize("split", SPLITS)
def test_every_sentence_has_a_tree_that_agrees_with_its_roles(generated, split):
    for _, _, question in questions_of(generated, split):
        sentence = question.sentence
        nodes = constituents_of(sentence.parse, sentence.text)
        assert len(nodes) <= 37  # as README.md says
        assert {node.label for node in nodes} <= set(LABELS)
        assert [node.span for node in nodes if node.label == "NP"] == sentence.static
        assert sum(node.label in ("VBZ", "VBG") for node in nodes) == len(sentence.verbs) + len(
            re.findall(r"\bis\b", sentence.text)
        )


def clause(agent, action, thing, **more):
    return grammar.Clause(agent, action, thing, **more)


def test_trees_by_hand():
    """Of each kind of sentence, with articles, words and forms as the seed has them."""
    opens, closes = clause("man", "open", "door"), clause("man", "close", "box")
    found = {}
    for relation, main, other in (("then", opens, closes), ("before", opens, closes), ("again", opens, None)):
        for seed in range(2500):
            writer = grammar.Writer(np.random.default_rng(seed))
            sentence = writer.write(grammar.Meaning(main, relation, other))
            found[sentence.text] = sentence.parse
    man, door, box = "(NP (DT a) (NN man))", "(NP (DT the) (NN door))", "(NP (DT the) (NN box))"
    for text, tree in {
        "a man is opening the door and then closing the box.": f"(S {man} (VP (VBZ is) (VP (VP (VBG opening) "
        f"{door}) (CC and) (ADVP (RB then)) (VP (VBG closing) {box}))) (. .))",
        "a man opens the door, then closes the box.": f"(S {man} (VP (VP (VBZ opens) {door}) (, ,) (ADVP "
        f"(RB then)) (VP (VBZ closes) {box})) (. .))",
        "a man opens the door before closing the box.": f"(S {man} (VP (VBZ opens) {door} (PP (IN before) "
        f"(S (VP (VBG closing) {box})))) (. .))",
        "a man opens the door again.": f"(S {man} (VP (VBZ opens) {door} (ADVP (RB again))) (. .))",
    }.items():
        assert found[text] == tree
