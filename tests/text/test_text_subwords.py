"""Subwords by hand from tiny vocabularies, and against the tokenisers of the transformers library."""

import gzip
import json
import random

import pytest

from vmr_jax.errors import UserError
from vmr_jax.text.subwords import open_subwords

# Row i has the id i.
WORD_PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a man ##s walk ##ing ' s . cafe 1 ##2 ##3 , ##t - in ##i 中 # b ##b t"
).split()
ID = {subword: i for i, subword in enumerate(WORD_PIECES)}

# The pair on line i (from 0) gets the id 512 + i: before it there are 256 bytes, with and without </w>.
MERGES = ["c a", "t h", "th e</w>", "ca t</w>", "' s</w>", "n '", "i n</w>", "' t</w>"]
BEGIN, END = 512 + len(MERGES), 513 + len(MERGES)


def byte(c, last=False):
    """The id of a printable ASCII character: '!' is 0; 256 more where it ends a word."""
    return ord(c) - ord("!") + 256 * last


def byte_symbols():
    """CLIP's characters for bytes, in the order of their ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same tokenisers in all three forms."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("distilbert", "hugging_face", "openai")}
    (folders["distilbert"] / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n", encoding="utf-8")
    merges = "#version: 0.2\n" + "\n".join(MERGES) + "\n"
    (folders["hugging_face"] / "merges.txt").write_text(merges, encoding="utf-8")
    symbols = byte_symbols()
    subwords = [*symbols, *(s + "</w>" for s in symbols), *(merge.replace(" ", "") for merge in MERGES)]
    vocabulary = {s: i for i, s in enumerate([*subwords, "<|startoftext|>", "<|endoftext|>"])}
    (folders["hugging_face"] / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    zipped = gzip.compress(merges.encode())
    (folders["openai"] / "bpe_simple_vocab_16e6.txt.gz").write_bytes(zipped)
    return folders


@pytest.fixture(scope="module")
def bert(folders):
    return open_subwords("distilbert", folders["distilbert"])


@pytest.fixture(scope="module", params=["hugging_face", "openai"])
def clip(request, folders):
    return open_subwords("clip", folders[request.param])


@pytest.mark.parametrize(
    "text, pieces, spans",
    [
        (
            "A man's WALKING.",
            "a man ' s walk ##ing .",
            [(0, 1), (2, 5), (5, 6), (6, 7), (8, 12), (12, 15), (15, 16)],
        ),
        # The longest piece first: "mans" is man + ##s; what no piece fits is unknown as a whole.
        ("mans manx  123", "man ##s [UNK] 1 ##2 ##3", [(0, 3), (3, 4), (5, 9), (11, 12), (12, 13), (13, 14)]),
        # Accents go, in one character or in two (then the place is that of the letter).
        ("Café cafe\u0301", "cafe cafe", [(0, 4), (5, 9)]),
        # A Chinese character is a word, a control character nothing, any blank a blank.
        ("a中a a\u200bb", "a 中 a a ##b", [(0, 1), (1, 2), (2, 3), (4, 5), (6, 7)]),
        ("in\u00a0a\tb\u2003s", "in a b s", [(0, 2), (3, 4), (5, 6), (7, 8)]),
        # ASCII symbols count as punctuation; names of special tokens are text.
        ("b#b [SEP]", "b # b [UNK] [UNK] [UNK]", [(0, 1), (1, 2), (2, 3), (4, 5), (5, 8), (8, 9)]),
        # Dotted capital I: its dot is an accent.
        ("İN", "in", [(0, 2)]),
        ("b" * 100, "b" + " ##b" * 99, [(i, i + 1) for i in range(100)]),
        ("b" * 101, "[UNK]", [(0, 101)]),
        ("", "", []),
        ("  ", "", []),
    ],
)
def test_word_pieces(bert, text, pieces, spans):
    ids = tuple(ID[piece] for piece in pieces.split())
    assert bert.encode(text, 200) == ((ID["[CLS]"], *ids, ID["[SEP]"]), ((0, 0), *spans, (0, 0)))
    assert bert.vocab_size == len(WORD_PIECES)


THE, CAT, S, IN = 514, 515, 516, 518  # rows of MERGES


@pytest.mark.parametrize(
    "text, ids, spans",
    [
        # c a t</w> -> ca t</w> -> cat</w>; t h e</w> -> th e</w> -> the</w>.
        ("The CAT's in", [THE, CAT, S, IN], [(0, 3), (4, 7), (7, 9), (10, 12)]),
        # "ca t" is no merge where t does not end the word.
        ("cats", [512, byte("t"), byte("s", True)], [(0, 2), (2, 3), (3, 4)]),
        # A typographic apostrophe is a straight one: a clitic of its own; digits are single.
        ("cat’s 12", [CAT, S, byte("1", True), byte("2", True)], [(0, 3), (3, 5), (6, 7), (7, 8)]),
        # No clitic here: the apostrophe belongs to a run of punctuation ("!'", not "'s"), then comes "s".
        (
            "a!'s",
            [byte("a", True), byte("!"), byte("'", True), byte("s", True)],
            [(0, 1), (1, 2), (2, 3), (3, 4)],
        ),
        ("n't", [byte("n", True), 519], [(0, 1), (1, 3)]),
        # é is the bytes C3 A9, which are the 128th (94 + 12 before "®", then C3 - AE) and the 103rd printable
        # characters; both are at its place. In two characters it is composed first.
        ("é e\u0301", [127, 102 + 256] * 2, [(0, 1), (0, 1), (2, 4), (2, 4)]),
        ("the\n\u00a0the", [THE, THE], [(0, 3), (5, 8)]),
        ("", [], []),
    ],
)
def test_byte_pairs(clip, text, ids, spans):
    assert clip.encode(text, 77) == ((BEGIN, *ids, END), ((0, 0), *spans, (0, 0)))
    assert clip.vocab_size == 514 + len(MERGES)


def test_a_long_sentence_keeps_its_last_special_token(bert, clip):
    assert bert.encode("a man walking in", 4).ids == tuple(ID[x] for x in ("[CLS]", "a", "man", "[SEP]"))
    assert clip.encode("the cat's in", 4) == ((BEGIN, THE, CAT, END), ((0, 0), (0, 3), (4, 7), (0, 0)))
    assert clip.encode("the cat", 2).ids == (BEGIN, END)
    with pytest.raises(UserError, match="max_subwords is 1, but the two special"):
        bert.encode("a", 1)


def test_clip_uses_the_first_merges_of_openais_longer_list(tmp_path):
    # The first of the two last pairs is the last that counts; its id is 512 + 48893.
    pairs = [f"{a} {b}" for a in byte_symbols() for b in byte_symbols()][: 48_894 - 1] + ["t h</w>", "c a</w>"]
    text = "version\n" + "\n".join(pairs) + "\n"
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    tokenizer = open_subwords("clip", tmp_path)
    assert tokenizer.vocab_size == 49_408
    assert tokenizer.encode("th ca", 9).ids == (49_406, 49_405, byte("c"), byte("a", True), 49_407)


def damaged(folder, name, content):
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.txt", b"[CLS]\n[SEP]\na\n", r"lacks \[UNK\]"),
        ("vocab.txt", b"[CLS]\n[SEP]\n[UNK]\na\na\n", "stand in it twice"),
        ("vocab.txt", b"[CLS]\n[SEP]\n[UNK]\nMan\n", 'of a cased BERT: it has "Man"'),
        ("vocab.txt", b"\xff\xfe", "is not UTF-8"),
        ("other.txt", b"", "There is no .*vocab.txt.*distilbert needs vocab.txt"),
    ],
)
def test_foreign_word_pieces_are_refused(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        open_subwords("distilbert", damaged(tmp_path, name, content))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("merges.txt", b"#version\nc a\nc\n", "merges.txt .*line 3 is not a pair"),
        ("merges.txt", b"#version\nc a\n", 'no pair ends in "</w>"'),  # GPT-2's, for example
        ("merges.txt", b"", 'no pair ends in "</w>"'),
        ("merges.txt", b"#version\nx y\nz z</w>\n", 'lacks 2 subwords .* first "xy"'),
        ("vocab.json", b'{"a": 0, "b": 2}', "vocab.json is not a vocabulary"),
        ("vocab.json", b'["a"]', "vocab.json is not a vocabulary"),
        ("vocab.json", b"{", "vocab.json is not a vocabulary"),
        ("vocab.json", b'{"a": 0}', "lacks .* subwords .* first .*startoftext"),
        (
            "bpe_simple_vocab_16e6.txt.gz",
            gzip.compress(b"#v\na b</w>\n", mtime=0)[:-9],
            "is damaged or no gzip",
        ),
        ("bpe_simple_vocab_16e6.txt.gz", b"version https://git-lfs", "is damaged or no gzip"),
    ],
)
def test_foreign_byte_pairs_are_refused(folders, tmp_path, name, content, message):
    for file in folders["hugging_face"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=message):
        open_subwords("clip", damaged(tmp_path, name, content))


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*merges.txt.*clip needs vocab.json and merges.txt"):
        open_subwords("clip", tmp_path)
    with pytest.raises(UserError, match='no text encoder "bert".* Did you mean "distilbert"'):
        open_subwords("bert", tmp_path)


ODD = [
    "A man's dog isn't in   the\u00a0room; 2019 café they'll 🙂",
    "don''t 's 'sit 'Re I'VE we'd  you'll",
    "İstanbul ẞ ÇA ΟΔΟΣ ñ",
    "3,000.5$ <b>x</b> a_b-c/d & it's'nt (in)",
    "中文 ab中c한국어 ｆｕｌｌ",
    "a\tb\nc\x0bd\x00e\ufffdf\u200bg",
    "²½Ⅷ ¼x … — “in” ‘a’",
    "",
    " ",
    "x" * 101,
]
LETTERS = "abcsthein XYZ'.,!?-  \t0123éñß\u00a0ΑΣσİ中한🙂²_$<>\"\u2028\u200d…—"


def odd_sentences():
    rng = random.Random(0)
    return ODD + ["".join(rng.choices(LETTERS, k=rng.randint(0, 25))) for _ in range(300)]


def their_subwords(tokenizer, text):
    found = tokenizer(text, return_offsets_mapping=True)
    spans = [tuple(span) for span in found["offset_mapping"]]
    return tuple(found["input_ids"]), ((0, 0), *spans[1:-1], (0, 0))


def test_word_pieces_are_those_of_transformers(bert, folders):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizerFast(str(folders["distilbert"] / "vocab.txt"))
    for text in odd_sentences():
        assert bert.encode(text, 10_000) == their_subwords(theirs, text), text


def test_byte_pairs_are_those_of_transformers(folders):
    transformers = pytest.importorskip("transformers")
    ours = open_subwords("clip", folders["hugging_face"])
    files = (str(folders["hugging_face"] / name) for name in ("vocab.json", "merges.txt"))
    theirs = transformers.CLIPTokenizerFast(*files)
    # Typographic quotes are made straight by OpenAI's code and ours, not by transformers.
    straight = str.maketrans("“”‘’", "\"\"''")
    for text in odd_sentences():
        assert ours.encode(text, 10_000) == their_subwords(theirs, text.translate(straight)), text
