"""Gemma's SentencePiece of SigLIP 2, by hand and against the tokeniser of the transformers library."""

import random

import pytest
import sentencepiece
from image_text_folder import SIGLIP_VOCABULARY, sentence_pieces

from vmr_jax.errors import UserError
from vmr_jax.text.subwords import open_subwords


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    (folder / "tokenizer.model").write_bytes(sentence_pieces())
    return folder


@pytest.fixture(scope="module")
def siglip(folder):
    return open_subwords("siglip", folder)


@pytest.fixture(scope="module")
def processor(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def pieces(processor):
    """The number of a piece."""
    return processor.piece_to_id


@pytest.mark.parametrize(
    "text, expected, spans",
    [
        # Words with the blank before them; capitals are not read.
        ("A Man opens", ["a", "▁man", "▁opens"], [(0, 1), (1, 5), (5, 11)]),
        ("the  door", ["t", "he", "▁", "▁door"], None),  # of two blanks the first stays alone
        # 中 is the bytes E4 B8 AD, all of them at its place; é is a piece, and "z" is its byte 7A.
        ("é 中z", ["é", "▁", "<0xE4>", "<0xB8>", "<0xAD>", "<0x7A>"], [(0, 1), (1, 2), *[(2, 3)] * 3, (3, 4)]),
        # A capital I with a dot becomes two characters, i and a dot of the bytes CC 87.
        ("İ", ["i", "<0xCC>", "<0x87>"], [(0, 1)] * 3),
        ("", [], []),
    ],
)
def test_by_hand(siglip, pieces, text, expected, spans):
    found = siglip.encode(text, 64)
    if spans is not None:
        assert found.spans == (*spans, (0, 0))
        assert found.ids == (*map(pieces, expected), 1)  # the end token is 1, and there is none at the begin
    else:
        assert found.ids[-3:] == (pieces("▁"), pieces("▁door"), 1)
    assert siglip.vocab_size == SIGLIP_VOCABULARY


def test_the_name_of_a_special_token_is_text(siglip):
    ids = siglip.encode("<eos> <pad>", 64).ids
    assert ids[-1] == 1 and not {0, 1, 2} & set(ids[:-1])


def test_a_long_sentence_keeps_its_end_token(siglip, pieces):
    assert siglip.encode("a man opens the door", 3).ids == (pieces("a"), pieces("▁man"), 1)
    assert siglip.encode("a man", 1).ids == (1,)
    with pytest.raises(UserError, match="max_subwords is 0, but the special token alone needs 1"):
        siglip.encode("a", 0)


def test_as_transformers(siglip, processor):
    """With the pieces and merges that the library itself reads off a SentencePiece model."""
    transformers = pytest.importorskip("transformers")
    from transformers.convert_slow_tokenizer import generate_merges

    vocabulary = {processor.id_to_piece(i): i for i in range(SIGLIP_VOCABULARY)}
    scores = [(piece, processor.get_score(i)) for piece, i in vocabulary.items()]
    merges = generate_merges(vocabulary, scores)
    theirs = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges)
    draw = random.Random(0)
    words = "a man Opens the door é 中 İx 2024 <b> sofa\ttwo  blanks don't ▁x 🎈 ΣΑΣ n\u0303".split(" ")
    words = [word or " " for word in words]
    for _ in range(200):
        text = " ".join(draw.choices(words, k=draw.randrange(1, 9)))
        found = siglip.encode(text, 64)
        assert found.ids[:-1] == tuple(theirs(text, add_special_tokens=False)["input_ids"][:63]), text
        # The places cover the sentence from left to right, without a gap.
        assert [start for start, _ in found.spans[:-1]] == sorted(start for start, _ in found.spans[:-1])
        assert found.spans[0][0] == 0 and found.spans[-2][1] == len(text)


@pytest.mark.parametrize(
    "settings",
    [{"add_dummy_prefix": True}, {"byte_fallback": False, "vocab_size": 80}, {"pad_id": -1, "vocab_size": 300}],
)
def test_another_model_is_refused(tmp_path, settings):
    (tmp_path / "tokenizer.model").write_bytes(sentence_pieces(**settings))
    with pytest.raises(UserError, match="but not Gemma's, which SigLIP 2 reads"):
        open_subwords("siglip", tmp_path)


def test_what_is_no_model_is_explained(tmp_path):
    with pytest.raises(UserError, match="There is no .*tokenizer.model.*Gemma's, which lies beside"):
        open_subwords("siglip", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        open_subwords("siglip", tmp_path)
