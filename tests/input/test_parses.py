"""Constituency trees in a batch: of the user's files, of the dataset, and without a parser."""

import logging

import numpy as np
import pytest

from vmr_jax.configs.acrm import get_config
from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.loader import Loader
from vmr_jax.input.parses import Parses, check_parses, constituents, read_parses
from vmr_jax.input.queries import asked_query, check_text
from vmr_jax.input.schema import Query
from vmr_jax.input.spec import batch_spec
from vmr_jax.text.constituency import constituents_of, label_id, right_branching
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import WordVectors

TEXT = "A man waves."
BRACKETS = "(S (NP (DT a)\n  (NN man))\n(VP (VBZ waves)) (. .))"
OTHER = "(S (NP (NN nobody)) (VP (VBZ sits)) (. .))"


@pytest.fixture
def parses(tmp_path):
    path = tmp_path / "parses.txt"
    path.write_text(f"{OTHER}\n\n{BRACKETS}\n")
    return path


def test_trees_are_found_by_their_words(parses):
    assert list(read_parses(parses)) == ["nobodysits.", "amanwaves."]
    query = asked_query(TEXT, 9.0, "words")
    assert Parses(str(parses)).nodes(query) == constituents_of(BRACKETS, TEXT)
    assert not Parses("").has(query) and Parses("").nodes(query) == right_branching(TEXT)
    # The dataset's own tree, in the place of which the user's comes.
    own = Query("q", TEXT, (0, 1), parse="(S (NP (DT a) (NN man)) (VBZ waves) (. .))")
    assert len(Parses("").nodes(own)) == 6 and len(Parses(str(parses)).nodes(own)) == 7
    assert Parses("right_branching").nodes(own) == right_branching(TEXT)
    assert Parses("right_branching").has(query)


def test_a_tree_whose_words_are_spelt_otherwise_is_named(tmp_path):
    """Its spelling is that of the sentence, and a quote within a word is not looked for in other forms."""
    path = tmp_path / "parses.txt"
    path.write_text("(S (NP (CD 5''-wide) (NN door)))")
    query = Query("q7", '5"-wide door', (0, 1))
    assert Parses(str(path)).has(query)
    with pytest.raises(UserError, match=r'door" \(q7\) is not of these words: it has "5..-wide"'):
        Parses(str(path)).nodes(query)


def test_arrays_of_a_tree_by_hand():
    # DT NN NP VBZ VP . ROOT; the tokeniser has three words and no full stop.
    tree = constituents(constituents_of(BRACKETS, TEXT), tokenize(TEXT, "words"), 4, 9)
    assert tree.parents.tolist() == [2, 2, 6, 4, 6, 6, 0, 0, 0]
    labels = [label_id(x) for x in ("DT", "NN", "NP", "VBZ", "VP", ".", "ROOT")]
    assert tree.labels.tolist() == [*labels, 0, 0]
    words = [[0], [1], [0, 1], [2], [2], [], [0, 1, 2], [], []]
    assert [np.flatnonzero(row).tolist() for row in tree.words] == words
    # At most two words are read, and six nodes: those of the words that are not read have none.
    cut = constituents(constituents_of(BRACKETS, TEXT), tokenize(TEXT, "words"), 2, 6)
    assert cut.parents.tolist() == [2, 2, 5, 4, 5, 0]
    assert [np.flatnonzero(row).tolist() for row in cut.words] == [[0], [1], [0, 1], [], [], [0, 1]]


@pytest.mark.parametrize(
    "content, message",
    [
        (f"{OTHER}\n(S (NN a)))", r'line 2: no tree in brackets.*there is "\)"'),
        (f"{OTHER}\n{BRACKETS[:-1]}", "line 2: .* a bracket is not closed"),
        ("", "parses.txt holds no tree"),
    ],
)
def test_files_that_hold_something_else(parses, content, message):
    parses.write_text(content)
    with pytest.raises(UserError, match=message):
        read_parses(parses)


def loader_of(parses, sentences):
    config = get_config("charades_sta,i3d")
    config.text.parses, config.text.dim, config.text.max_nodes = str(parses), 5, 9
    queries = [Query(f"q{i}", text, (0, 1)) for i, text in enumerate(sentences)]
    split = Split("train", [Video("v", 9.0, {})], queries, np.zeros(len(queries), np.int32))
    return Loader(config, None, split, [], WordVectors(["a"], np.zeros((1, 5))), ("constituents",)), config


def test_sentences_without_a_parse_are_counted(parses, caplog):
    with caplog.at_level(logging.WARNING, "vmr_jax"):
        loader_of(parses, [TEXT, "Nobody sits."])
    assert not caplog.records
    loader_of(parses, [TEXT, "Nobody waves."])
    assert "train: 1 of 2 sentences, such as q1, have no parse" in caplog.text
    with pytest.raises(UserError, match=r'1 sentences of train none has a parse .* "Nobody waves." \(q0\)'):
        loader_of(parses, ["Nobody waves."])


def test_absent_trees_are_named_before_training(parses):
    _, config = loader_of(parses, [TEXT])
    shapes = batch_spec(config, 2, ("constituents",)).constituents
    assert shapes.words.shape == (2, 9, config.text.max_words) and shapes.labels.shape == (2, 9)
    config.text.parses = ""
    with pytest.raises(
        UserError, match=r'needs "constituents".*charades_sta.*set config\.text\.parses to a file'
    ):
        batch_spec(config, 2, ("constituents",))
    check_parses("")
    check_parses(f"{parses}, {parses}")
    with pytest.raises(UserError, match=r"there is no file absent.txt .* or 'right_branching' for trees"):
        check_parses(f"{parses},absent.txt")
    config.text.max_nodes = 0
    with pytest.raises(UserError, match=r"config.text.max_nodes is 0"):
        check_text(config, ())
