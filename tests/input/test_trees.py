"""Trees that a user brings, and how many verbs and nouns of any tree are read."""

import json

import numpy as np
import pytest

from vmr_jax.configs.fvmr import get_config
from vmr_jax.errors import UserError
from vmr_jax.input.annotations import Sentence
from vmr_jax.input.queries import QueryReader, asked_query, check_text
from vmr_jax.input.records import query_of
from vmr_jax.input.trees import user_tree
from vmr_jax.text.parse import parse
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors

TEXT = "The wrestler approaches and leaves while the man beats his drum"
TREE = [
    {"verb": "beats", "arguments": ["the man", "his drum"]},
    {"verb": "approaches", "arguments": ["The wrestler"]},
    {"verb": [28, 34], "arguments": [[0, 12]]},
]


def test_a_tree_of_figure_2_by_words_and_by_places():
    found = user_tree(json.loads(json.dumps(TREE)), TEXT, "here")
    cut = [[TEXT[slice(*span)] for span in spans] for spans in (found.verbs, found.nouns)]
    # Verbs and nouns in the order of the sentence; the wrestler, named twice, is one node.
    assert cut == [["approaches", "leaves", "beats"], ["The wrestler", "the man", "his drum"]]
    assert found.edges == ((0, 0), (1, 0), (2, 1), (2, 2))


@pytest.mark.parametrize(
    "tree, message",
    [
        ("beats", "is no list of phrases such as"),
        ([{"arguments": ["the man"]}], "is no list of phrases such as"),
        ([{"verb": "beat"}], "names 'beat', which is no part of the sentence"),  # a part of a word is none
        ([{"verb": "beats", "arguments": [[5, 500]]}], r"names \[5, 500\], which is no part"),
    ],
)
def test_what_is_no_tree_is_told(tree, message):
    with pytest.raises(UserError, match=f"train.jsonl, line 3.*{message}"):
        user_tree(tree, TEXT, "train.jsonl, line 3")


def test_the_users_tree_takes_the_place_of_the_parsed_one():
    roles = user_tree([{"verb": "beats", "arguments": ["his drum"]}], TEXT, "here")
    own = query_of(Sentence("q", TEXT, (0.0, 1.0), roles=roles))
    parsed = query_of(Sentence("q", TEXT, (0.0, 1.0)))
    assert (len(own.verbs), len(own.nouns), own.edges) == (1, 1, ((0, 0),))
    assert len(parsed.verbs) == 3 and own.static == parsed.static  # the noun chunks are the parser's


@pytest.mark.parametrize("verbs, nouns", [(4, 6), (2, 1), (12, 16)])
def test_so_many_verbs_and_nouns_are_read(verbs, nouns):
    config = get_config()
    config.text.max_verbs, config.text.max_nouns = verbs, nouns
    vectors = WordVectors(["man"], np.ones((1, 50), np.float32))
    read = QueryReader(config, [], vectors, ("tree",))
    tree = read(asked_query(TEXT, 9.0, "words"), tokenize(TEXT, "words"))["tree"]
    assert tree.edges.shape == (verbs, nouns)
    roles = parse(TEXT)
    kept = [(v, n) for v, n in roles.edges if v < verbs and n < nouns]
    assert [tuple(edge) for edge in np.argwhere(tree.edges)] == kept
    assert tree.verb_words.any(-1).sum() == min(verbs, 3)


def test_more_than_records_hold_cannot_be_read():
    config = get_config()
    config.text.max_verbs = 13
    with pytest.raises(UserError, match="config.text.max_verbs is 13; trees are kept with 1 to 12"):
        check_text(config, ("tree",))
