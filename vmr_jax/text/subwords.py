"""Sentences become the subwords of a pretrained text encoder, each with its place in the sentence.

Three tokenisers, read from the files that are published with the weights: WordPiece of BERT and DistilBERT
(uncased), the byte-pair encoding of CLIP, and Gemma's SentencePiece for SigLIP 2. Places are character
offsets, so that noun chunks (character spans) fit the subwords. Names of special tokens in a sentence ("[SEP]")
are ordinary text.
"""

import abc
import gzip
import itertools
import os
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.files import parsed

Span = tuple[int, int]
NO_SPAN = (0, 0)  # of the special tokens


class Subwords(NamedTuple):
    """The subwords of a sentence, the special tokens included."""

    ids: tuple[int, ...]  # [S] rows of the vocabulary
    spans: tuple[Span, ...]  # [S] text[start:end] is where the subword comes from; (0, 0) for special tokens


class _Char(NamedTuple):
    """A character of the normalised sentence (or a byte of it), and the place that it comes from."""

    text: str
    start: int
    end: int


class SubwordTokenizer(abc.ABC):
    """A vocabulary, and how sentences are cut into it.

    Args:
      vocabulary: subword -> id, the ids 0..n-1.
      begin: the subword that every sentence begins with; '': none.
      end: the subword that every sentence ends with.
    """

    def __init__(self, vocabulary: dict[str, int], begin: str, end: str):
        self._ids = vocabulary
        self._begin = [(vocabulary[begin], NO_SPAN)] if begin else []
        self._end = [(vocabulary[end], NO_SPAN)]

    @property
    def vocab_size(self) -> int:
        """Number of subwords, special ones included."""
        return len(self._ids)

    def encode(self, text: str, limit: int) -> Subwords:
        """Cuts a sentence into at most `limit` subwords; a longer sentence loses its end, not the end token.

        Raises UserError where `limit` has no room for the special tokens.
        """
        special = len(self._begin + self._end)
        if limit < special:
            need = "two special tokens alone need 2" if special == 2 else "special token alone needs 1"
            raise UserError(
                f"config.text.max_subwords is {limit}, but the {need}. Set it to the longest sentence that "
                "matters, special tokens included; CLIP reads up to 77, SigLIP 64."
            )
        pieces = [*self._begin, *self._pieces(text)[: limit - special], *self._end]
        return Subwords(tuple(i for i, _ in pieces), tuple(span for _, span in pieces))

    @abc.abstractmethod
    def _pieces(self, text: str) -> list[tuple[int, Span]]:
        """(id, place) of every subword, without the special tokens."""


def open_subwords(kind: str, folder: str | os.PathLike) -> SubwordTokenizer:
    """Reads the tokeniser of a text encoder.

    Args:
      kind: 'distilbert', 'clip' or 'siglip'.
      folder: holds the published files: vocab.txt for DistilBERT; for CLIP vocab.json and merges.txt (Hugging
        Face), or bpe_simple_vocab_16e6.txt.gz (OpenAI); tokenizer.model for SigLIP 2.

    Raises:
      UserError: for an unknown kind, and for files that are missing, damaged or of another tokeniser.
    """
    if kind not in _KINDS:
        raise unknown("There is no text encoder", kind, _KINDS)
    return _KINDS[kind](user_path(folder))


# --- WordPiece --------------------------------------------------------------------------------------

UNKNOWN = "[UNK]"
LONGEST_WORD = 100  # characters; a longer word is unknown, as in BERT
# Blocks of Chinese characters, which BERT takes one by one.
_CJK = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece(SubwordTokenizer):
    """Uncased WordPiece (Devlin et al., NAACL 2019): the longest subwords that fit, from left to right."""

    def __init__(self, vocabulary: dict[str, int]):
        super().__init__(vocabulary, "[CLS]", "[SEP]")

    def _pieces(self, text: str) -> list[tuple[int, Span]]:
        return [piece for word in _bert_words(text) for piece in self._cut(word)]

    def _cut(self, word: list[_Char]) -> list[tuple[int, Span]]:
        text = "".join(c.text for c in word)
        unknown = [(self._ids[UNKNOWN], (word[0].start, word[-1].end))]
        if len(text) > LONGEST_WORD:
            return unknown
        pieces, start = [], 0
        while start < len(text):
            prefix = "##" if start else ""
            fitting = (end for end in range(len(text), start, -1) if prefix + text[start:end] in self._ids)
            end = next(fitting, None)
            if end is None:
                return unknown
            span = (word[start].start, word[end - 1].end)
            pieces.append((self._ids[prefix + text[start:end]], span))
            start = end
        return pieces


def _bert_words(text: str) -> list[list[_Char]]:
    """Lower-case words without accents; punctuation and Chinese characters are words of one character."""
    words: list[list[_Char]] = [[]]
    for place, original in enumerate(text):
        if _is_blank(original):
            words.append([])
            continue
        if original == "\ufffd" or unicodedata.category(original)[0] == "C":
            continue  # a control character
        for c in _bert_characters(original):
            char = _Char(c, place, place + 1)
            if _is_punctuation(c) or _is_cjk(original):
                words += [[char], []]
            else:
                words[-1].append(char)
    return [word for word in words if word]


def _is_blank(c: str) -> bool:
    return c in "\t\n\r" or (c.isspace() and unicodedata.category(c) != "Cc")


def _bert_characters(original: str) -> str:
    """A character without its accents, in lower case."""
    decomposed = unicodedata.normalize("NFD", original)
    return "".join(c.lower() for c in decomposed if unicodedata.category(c) != "Mn")


def _is_punctuation(c: str) -> bool:
    """BERT counts all symbols of ASCII as punctuation."""
    return unicodedata.category(c)[0] == "P" or (c.isascii() and c.isprintable() and not c.isalnum())


def _is_cjk(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in _CJK)


def _read_wordpiece(folder: Path) -> WordPiece:
    file = folder / "vocab.txt"
    subwords = _text(file, "distilbert").removesuffix("\n").split("\n")
    vocabulary = {subword.removesuffix("\r"): i for i, subword in enumerate(subwords)}
    absent = [name for name in ("[CLS]", "[SEP]", UNKNOWN) if name not in vocabulary]
    if absent or len(vocabulary) != len(subwords):
        why = f"it lacks {', '.join(absent)}" if absent else "some subwords stand in it twice"
        raise UserError(
            f"{file} is not the WordPiece vocabulary of a BERT (one subword a line): {why}. Download vocab.txt "
            "again from the page of the text encoder."
        )
    cased = next((x for x in vocabulary if x != x.lower() and not x.startswith("[")), None)
    if cased:
        raise UserError(
            f'{file} is the vocabulary of a cased BERT: it has "{cased}". Use the files of an uncased model, '
            "such as distilbert-base-uncased."
        )
    return WordPiece(vocabulary)


# --- Byte pairs -------------------------------------------------------------------------------------

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"  # closes the last subword of a word
MERGES = 48_894  # of the lines of OpenAI's file that CLIP uses
_CLITICS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_STRAIGHT = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("“”„‟", '"'))


def _byte_symbols() -> dict[int, str]:
    """A printable character for every byte, in the order of the vocabulary.

    Bytes that are printable in Latin-1 stand for themselves and come first; the others are the characters from
    256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    return symbols | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTES = _byte_symbols()


class BytePairs(SubwordTokenizer):
    """Byte-pair encoding of CLIP (Sennrich et al., ACL 2016; on bytes: Radford et al., 2019).

    Lower case, typographic quotes made straight, characters composed (NFC). OpenAI's code also repairs text
    of a wrong encoding and HTML entities, with a library of its own; here both stay as they are.
    """

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]):
        super().__init__(vocabulary, BEGIN, END)
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[str]] = {}

    def _pieces(self, text: str) -> list[tuple[int, Span]]:
        pieces = []
        for word in _clip_words(_clip_characters(text)):
            chars = [_Char(_BYTES[b], c.start, c.end) for c in word for b in c.text.encode()]
            first = 0
            for subword in self._cut("".join(c.text for c in chars)):
                last = first + len(subword.removesuffix(WORD_END))
                pieces.append((self._ids[subword], (chars[first].start, chars[last - 1].end)))
                first = last
        return pieces

    def _cut(self, word: str) -> list[str]:
        """The subwords of one word of byte symbols; words come again and again."""
        if word not in self._known:
            self._known[word] = self._merge([*word[:-1], word[-1] + WORD_END])
        return self._known[word]

    def _merge(self, parts: list[str]) -> list[str]:
        """Joins the pair of the lowest rank, everywhere, until no pair is in the list of merges."""
        while len(parts) > 1:
            pair = min(zip(parts, parts[1:]), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                found = tuple(parts[i : i + 2]) == pair
                joined.append("".join(pair) if found else parts[i])
                i += 2 if found else 1
            parts = joined
        return parts


def _clip_characters(text: str) -> list[_Char]:
    """Lower-case characters with straight quotes; one with the accents that follow it is composed."""
    chars, start = [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        composed = unicodedata.normalize("NFC", text[start:end]).translate(_STRAIGHT)
        chars += [_Char(c, start, end) for c in composed.lower()]
        start = end
    return chars


def _clip_words(chars: list[_Char]) -> list[list[_Char]]:
    """Clitics, runs of letters, single digits, runs of anything else but blanks."""
    words, start = [], 0
    while start < len(chars):
        end = start + _clip_word_length(chars, start)
        if not chars[start].text.isspace():
            words.append(chars[start:end])
        start = end
    return words


def _clip_word_length(chars: list[_Char], start: int) -> int:
    ahead = "".join(c.text for c in chars[start : start + 3])
    clitic = next((clitic for clitic in _CLITICS if ahead.startswith(clitic)), "")
    kind = _kind(chars[start].text)
    if clitic or kind == "N":
        return len(clitic) or 1
    return len(list(itertools.takewhile(lambda c: _kind(c.text) == kind, chars[start:])))


def _kind(c: str) -> str:
    """'L' letter, 'N' number, ' ' blank, '' else."""
    if c.isspace():
        return " "
    category = unicodedata.category(c)[0]
    return category if category in "LN" else ""


def _read_byte_pairs(folder: Path) -> BytePairs:
    openai = folder / "bpe_simple_vocab_16e6.txt.gz"
    if openai.is_file():
        merges = _merges(_unzipped(openai), openai)[:MERGES]
        symbols = list(_BYTES.values())
        subwords = [*symbols, *(c + WORD_END for c in symbols), *("".join(pair) for pair in merges), BEGIN, END]
        return BytePairs({subword: i for i, subword in enumerate(subwords)}, merges)
    file = folder / "merges.txt"
    merges = _merges(_text(file, "clip"), file)
    vocabulary = _json_vocabulary(folder / "vocab.json")
    needed = [BEGIN, END, *_BYTES.values(), *(c + WORD_END for c in _BYTES.values())]
    absent = [x for x in (*needed, *("".join(pair) for pair in merges)) if x not in vocabulary]
    if absent:
        raise UserError(
            f"{folder}: vocab.json lacks {len(absent)} subwords that CLIP and merges.txt have, first "
            f'"{absent[0]}". The two files are not of one CLIP model; download both again.'
        )
    return BytePairs(vocabulary, merges)


def _merges(text: str, file: Path) -> list[tuple[str, str]]:
    """Reads the pairs after the first line, which names the version."""
    lines = text.removesuffix("\n").split("\n")[1:]
    found = [line.removesuffix("\r").split(" ") for line in lines]
    wrong = next((number for number, pair in enumerate(found, 2) if len(pair) != 2 or not all(pair)), None)
    pairs = [(pair[0], pair[-1]) for pair in found]
    if wrong or not pairs or not any(pair[1].endswith(WORD_END) for pair in pairs):
        where = f"line {wrong} is not a pair" if wrong else f'no pair ends in "{WORD_END}"'
        raise UserError(
            f"{file} is not the list of CLIP's byte pairs (a line for the version, then two subwords a line): "
            f"{where}. Download it again from the page of the text encoder."
        )
    return pairs


def _json_vocabulary(file: Path) -> dict[str, int]:
    try:
        vocabulary = parsed(_text(file, "clip"))
    except ValueError:
        vocabulary = None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else None
    if ids is None or not all(isinstance(i, int) for i in ids) or sorted(ids) != list(range(len(ids))):
        raise UserError(
            f"{file} is not a vocabulary: expected is one JSON object of subwords with the ids 0 to n - 1. "
            "Download it again from the page of the text encoder."
        )
    return vocabulary


# --- SentencePiece ----------------------------------------------------------------------------------

_SPACE = "\u2581"  # stands for a blank in the pieces
_PROBE = "  "  # Gemma keeps blanks as they are, and puts none before the first word


class SentencePieces(SubwordTokenizer):
    """Gemma's byte-pair encoding in lower case, as SigLIP 2 reads it (Tschannen et al., 2025).

    The published tokenizer_config.json names a tokeniser that keeps capitals, which SigLIP 2 never saw.

    Args:
      processor: a `sentencepiece.SentencePieceProcessor` of Gemma's tokenizer.model.
    """

    def __init__(self, processor: Any):
        self._processor = processor
        vocabulary = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
        super().__init__(vocabulary, begin="", end=processor.id_to_piece(processor.eos_id()))

    def _pieces(self, text: str) -> list[tuple[int, Span]]:
        chars = [_Char(c, i, i + 1) for i, original in enumerate(text) for c in original.lower()]
        places = [c for c in chars for _ in c.text.encode()]  # of each byte
        pieces, first = [], 0
        for number in self._processor.encode("".join(c.text for c in chars)):
            last = first
            if self._processor.is_byte(number):
                last += 1
            else:
                for _ in self._processor.id_to_piece(number):
                    last += len(places[last].text.encode())
            pieces.append((number, (places[first].start, places[last - 1].end)))
            first = last
        return pieces


def _read_sentence_pieces(folder: Path) -> SentencePieces:
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "The tokeniser of SigLIP needs the package sentencepiece. Install it: pip install 'vmr_jax[video]'."
        ) from None
    file = folder / "tokenizer.model"
    content = _bytes(file, "siglip")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError):
        raise UserError(
            f"{file} is not a SentencePiece model. Download it again from the page of the text encoder (a file "
            "of a hundred bytes is a Git LFS pointer)."
        ) from None
    pieces = "".join(processor.encode(_PROBE, out_type=str))
    if (
        pieces != _PROBE.replace(" ", _SPACE)
        or processor.pad_id() != 0
        or not processor.is_byte(processor.piece_to_id("<0x00>"))
    ):
        raise UserError(
            f"{file} is a SentencePiece model, but not Gemma's, which SigLIP 2 reads: padding with the id 0, a "
            "piece for every byte, blanks as they are. The first SigLIP has another tokeniser; use SigLIP 2's."
        )
    return SentencePieces(processor)


def _unzipped(file: Path) -> str:
    try:
        return gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise UserError(f"{file} is damaged or no gzip file of text. Download it again.") from None


def _text(file: Path, kind: str) -> str:
    try:
        return _bytes(file, kind).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text. Download it again.") from None


def _bytes(file: Path, kind: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise UserError(
            f"There is no {file}. The text encoder {kind} needs {_FILES[kind]} in config.text.encoder_dir; "
            "they are published with its weights."
        ) from None


_FILES = {
    "distilbert": "vocab.txt (of distilbert-base-uncased)",
    "clip": "vocab.json and merges.txt (of clip-vit-base-patch32), or OpenAI's bpe_simple_vocab_16e6.txt.gz,",
    "siglip": "tokenizer.model (Gemma's, which lies beside tokenizer.json in siglip2-base-patch16-224)",
}
_KINDS = {"distilbert": _read_wordpiece, "clip": _read_byte_pairs, "siglip": _read_sentence_pieces}
