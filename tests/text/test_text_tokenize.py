"""Tokenisers: fixed sentences, offsets, errors."""

import pathlib

import pytest

from vmr_jax.configs.fvmr import get_config
from vmr_jax.errors import UserError
from vmr_jax.text.tokenize import Token, tokenize

CHARADES = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/charades_sta"


def _texts(sentence, style):
    return [token.text for token in tokenize(sentence, style)]


@pytest.mark.parametrize(
    "sentence, whitespace, words",
    [
        # 2D-TAN lower-cases and splits at blanks: the full stop stays on its word.
        ("person turn a light on.", "person turn a light on.", "person turn a light on"),
        ("  The\tdoor, it OPENS!\n", "the door, it opens!", "the door it opens"),
        # Clitics as GloVe has them (Penn Treebank): 's, n't, 're.
        ("The person's phone isn't on", "the person's phone isn't on", "the person 's phone is n't on"),
        ("they’re in; can't", "they’re in; can't", "they 're in ca n't"),
        ("walk-in closet/3rd_floor", "walk-in closet/3rd_floor", "walk in closet 3rd floor"),
        ("'sits' the parents' café", "'sits' the parents' café", "sits the parents café"),
        ("... ?", "... ?", ""),
        ("", "", ""),
    ],
)
def test_words_of_fixed_sentences(sentence, whitespace, words):
    assert _texts(sentence, "whitespace") == whitespace.split()
    assert _texts(sentence, "words") == words.split()


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("Person opens the door.", "person opens the door"),
        ("a. b, then c. \n", "a. b, then c"),  # only the last full stop goes; commas stay
        ("he waits..", "he waits."),
        ("no stop", "no stop"),
    ],
)
def test_whitespace_no_stop_drops_one_final_full_stop(sentence, expected):
    assert _texts(sentence, "whitespace_no_stop") == expected.split()


def test_treebank_keeps_punctuation_marks_and_hyphens():
    found = _texts("The man's well-lit \"room\" isn't (so) big, a_b -- no.", "treebank")
    assert " ".join(found) == "the man 's well-lit \" room \" is n't ( so ) big , a _ b - - no ."


def test_default_style_is_words():
    assert tokenize("On.") == [Token("on", 0, 2)]


@pytest.mark.parametrize("style", ["whitespace", "whitespace_no_stop", "words", "treebank"])
@pytest.mark.parametrize("sentence", ["A man's dog -- isn’t İN the\u00a0room, 2 times.", "x", " a  b "])
def test_offsets_point_at_the_word_and_are_in_order(style, sentence):
    tokens = tokenize(sentence, style)
    assert tokens
    last = 0
    for token in tokens:
        assert last <= token.start < token.end <= len(sentence)
        assert sentence[token.start : token.end].lower().replace("’", "'") == token.text.replace("’", "'")
        last = token.end


def test_unknown_style_names_the_nearest():
    with pytest.raises(UserError, match='Did you mean "words"'):
        tokenize("a", "word")


def test_no_punctuation_deletes_it_and_keeps_the_places():
    found = tokenize('A man\'s "dog", - well-fed.', "no_punctuation")
    assert [token.text for token in found] == ["a", "mans", "dog", "wellfed"]
    assert [(token.start, token.end) for token in found] == [(0, 1), (2, 7), (8, 14), (17, 26)]


def test_alphanumeric_parts_at_everything_else():
    found = tokenize("A man's 2nd dog, well_fed - a café.", "alphanumeric")
    # Official: what is no ASCII letter, digit or blank becomes a blank.
    assert [token.text for token in found] == ["a", "man", "s", "2nd", "dog", "well", "fed", "a", "caf"]
    assert found[2] == ("s", 6, 7)


@pytest.mark.skipif(not CHARADES.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("style,longest", [("words", 11), ("no_punctuation", 10), ("whitespace_no_stop", 10)])
def test_no_sentence_of_charades_sta_is_cut(style, longest):
    # 14 sentences have eleven words, a clitic among them: "person 's".
    files = [CHARADES / f"charades_sta_{split}.txt" for split in ("train", "test")]
    sentences = [line.split("##")[1] for path in files for line in path.read_text().splitlines()]
    lengths = [len(tokenize(sentence, style)) for sentence in sentences]
    assert len(lengths) == 16_128 and max(lengths) == longest <= get_config("charades_sta").text.max_words
    assert sum(length > 10 for length in lengths) == (14 if style == "words" else 0)
