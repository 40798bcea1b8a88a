"""The query part of a batch: ids, vectors and masks of the words, and what optional fields a sentence gives."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, user_path
from vmr_jax.input import schema
from vmr_jax.input.features import FeatureReader, open_features, read_rows
from vmr_jax.input.parses import Parses, constituents
from vmr_jax.text.dependencies import dependency_graph
from vmr_jax.text.parse import content_words, parse
from vmr_jax.text.subwords import open_subwords
from vmr_jax.text.tokenize import Token, characters, tokenize
from vmr_jax.text.vectors import WordVectors
from vmr_jax.types import TREES, Batch, Tree, fields_of, with_masks

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2  # vocabulary ids
MAX_QUERY = 1000  # characters of a sentence that a user asks
_REMEMBERED = 2**17  # sentences: of a dataset all, of what a server is asked the latest

_SUBWORDS = tuple(name for name, info in fields_of(Batch).items() if "S" in info.axes)
_TRANSLATED = with_masks(("translation",))  # whose words are their own
# Those with an entry for every word of the tokeniser.
_OF_WORDS = (
    *TREES,
    *(n for n, i in fields_of(Batch).items() if i.optional and "L" in i.axes and n not in _TRANSLATED),
)


class QueryReader:
    """Turns annotated sentences into the query fields of `Batch`.

    Args:
      config: the resolved config; reads `config.text`.
      vocabulary: training words in the order of their ids, from `FIRST_WORD` on.
      vectors: word vectors; None where `config.text.features` takes their place.
      fields: optional `Batch` fields to fill.
    """

    def __init__(
        self, config: Any, vocabulary: Sequence[str], vectors: WordVectors | None, fields: Sequence[str]
    ):
        self.options, self.fields = config.text, with_masks(fields)
        self.vectors: Any = vectors  # None only where `config.text.features` takes their place
        self._ids = {word: i + FIRST_WORD for i, word in enumerate(vocabulary)}
        check_text(config, fields)
        self._features = _opened(self.options, "features")
        self._sentences = _opened(self.options, "sentence_features")
        self._translations = _opened(self.options, "translation_features")
        self._parses = Parses(self.options.parses if "constituents" in self.fields else "")
        self._subwords: Any = None
        if "subwords" in self.fields:
            tokenizer = open_subwords(self.options.encoder, user_path(self.options.encoder_dir))
            self._subwords = functools.lru_cache(maxsize=_REMEMBERED)(tokenizer.encode)

    def tokens(self, query: schema.Query) -> list[Token]:
        """The words of a sentence, at most `config.text.max_words` of which `__call__` reads."""
        return tokenize(query.text, self.options.tokenizer)

    def unknown(self, query: schema.Query) -> list[Token]:
        """The words without a vector and, where words are learnt, not among those of training: zeros."""
        if self.vectors is None or self._subwords is not None:
            return []
        learnt = self._ids if self.options.trainable else {}
        tokens = self.tokens(query)[: self.options.max_words]
        return [token for token in tokens if not self.vectors.known(token.text) and token.text not in learnt]

    def is_parsed(self, query: schema.Query) -> bool:
        """Whether the constituency tree of a sentence is a parse, of the dataset or of the user's file."""
        return self._parses.has(query)

    def __call__(self, query: schema.Query, tokens: Sequence[Token]) -> dict[str, Any]:
        """The query fields of one unbatched example."""
        limit = self.options.max_words
        tokens = tokens[:limit]
        vectors = self._vectors(query, tokens)
        filled, mask = _filled(vectors, limit)
        ids = np.zeros(limit, np.int32)
        ids[: len(vectors)] = UNKNOWN
        if self._features is None:
            ids[: len(tokens)] = [self._ids.get(token.text, UNKNOWN) for token in tokens]
        return {
            "query": ids,
            "query_vectors": filled,
            "query_mask": mask,
            **{
                name: self._field(name, query, tokens)
                for name in self.fields
                if fields_of(Batch)[name].of == "query" and fields_of(Batch)[name].optional
            },
        }

    def _vectors(self, query: schema.Query, tokens: Sequence[Token]) -> np.ndarray:
        """[n,W] of the words, or of the tokens of the features that stand for them."""
        if self._features is None:
            return self.vectors.lookup([token.text for token in tokens])
        return _rows_of(self._features, query.qid, self.options.dim)

    def _translation(self, query: schema.Query) -> np.ndarray:
        """[n,W] of the words of the second language, likewise."""
        if self._translations is not None:
            return _rows_of(self._translations, query.qid, self.options.dim)
        if self.vectors is None:
            raise UserError(
                "The architecture reads a second language, and config.text.features has the tokens of one. Set "
                "config.text.translation_features to those of the other."
            )
        words = tokenize(query.translation, self.options.tokenizer)
        return self.vectors.lookup([token.text for token in words])

    def _sentence(self, query: schema.Query) -> np.ndarray:
        if self._sentences is None:
            if query.sentence is None:
                raise UserError(
                    f'The architecture reads one vector of the sentence, and "{query.text}" has none. Only '
                    "annotated sentences can be asked, whose vectors are in the dataset or in "
                    "config.text.sentence_features."
                )
            return query.sentence
        return _rows_of(self._sentences, query.qid, self.options.sentence_dim).mean(0)

    def _field(self, name: str, query: schema.Query, tokens: Sequence[Token]) -> Any:
        limit = self.options.max_words
        if name == "sentence":
            return self._sentence(query)
        if name in _TRANSLATED:
            return _filled(self._translation(query), limit)[_TRANSLATED.index(name)]
        if name == "tree":
            return _tree(query, tokens, limit, self.options.max_verbs, self.options.max_nouns)
        if name == "constituents":
            return constituents(self._parses.nodes(query), tokens, limit, self.options.max_nodes)
        if name == "static_words":
            return word_mask(query.static, tokens, limit)
        if name == "dynamic_words":
            return ~word_mask(query.static, tokens, limit) & (np.arange(limit) < len(tokens))
        if name == "content_words":
            return word_mask(_content_words(query.text), tokens, limit)
        if name == "dependencies":
            graph, found = np.zeros((limit, limit), np.int32), _dependencies(query.text, tuple(tokens))
            graph[: len(tokens), : len(tokens)] = found
            return graph
        if name == "query_chars":
            return characters(tokens, self.options.characters, limit)
        return self._subword_field(name, query)

    def _subword_field(self, name: str, query: schema.Query) -> np.ndarray:
        limit = self.options.max_subwords
        found = self._subwords(query.text, limit)
        real = np.arange(limit) < len(found.ids)
        if name == "subword_mask":
            return real
        if name == "subwords":
            ids = np.zeros(limit, np.int32)
            ids[: len(found.ids)] = found.ids
            return ids
        special = [start == end for start, end in found.spans]
        static = [_overlaps(span, query.static) for span in found.spans]
        wanted = static if name == "subword_static" else [not word for word in static]
        mask = np.zeros(limit, bool)
        mask[: len(special)] = np.logical_or(special, wanted)
        return mask


_content_words = functools.lru_cache(maxsize=_REMEMBERED)(content_words)
_dependencies = functools.lru_cache(maxsize=_REMEMBERED)(dependency_graph)


def check_text(config, fields: Sequence[str]) -> None:
    """Raises UserError where `config.text` cannot give the optional `fields`."""
    options = config.text
    if options.features:
        aligned = [name for name in fields if name in _OF_WORDS]
        if aligned:
            raise UserError(
                f"config.text.features replaces words by tokens of its own, and {config.model.name} needs "
                f"{', '.join(aligned)}, which follow the words. Set config.text.features to '' and bring word "
                "vectors."
            )
    for name, most in (("max_verbs", schema.MAX_VERBS), ("max_nouns", schema.MAX_NOUNS)):
        if not 0 < options[name] <= most:
            raise UserError(f"config.text.{name} is {options[name]}; trees are kept with 1 to {most}.")
    if options.max_nodes < 1:
        raise UserError(f"config.text.max_nodes is {options.max_nodes}; a tree has at least one node.")
    if "subwords" in fields and not (options.encoder and options.encoder_dir):
        raise UserError(
            f"{config.model.name} reads the subwords of a text encoder. Set config.text.encoder to "
            "'distilbert' or 'clip', and config.text.encoder_dir to the folder with its vocabulary and weights."
        )


def _opened(options: Any, field: str) -> FeatureReader | None:
    path = options[field]
    return open_features(path, options.feature_key, f"config.text.{field}") if path else None


def _rows_of(reader: FeatureReader, qid: str, width: int) -> np.ndarray:
    """The rows [n,width] of a query, filed under its id or, as Moment-DETR does, under 'qid' and the id."""
    name = next((name for name in (qid, f"qid{qid}") if name in reader), None)
    if name is None:
        raise UserError(
            f'{reader.path} has no features of the query "{qid}".{reader.spelling(qid)} Only annotated '
            "sentences whose features were extracted can be read with it."
        )
    return read_rows(reader, name, width, normalize=False)


def _filled(vectors: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The first of the vectors [n,W] as [limit,W], zeros behind them, and the mask [limit] of those there."""
    filled = np.zeros((limit, vectors.shape[1]), np.float32)
    filled[: len(vectors)] = vectors[:limit]
    return filled, np.arange(limit) < len(vectors)


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and span[1] > start for start, end in others)


def word_mask(spans: Sequence[tuple[int, int]], tokens: Sequence[Token], limit: int) -> np.ndarray:
    """[limit] bool: the words that overlap one of the character spans."""
    mask = np.zeros(limit, bool)
    mask[: len(tokens)] = [_overlaps((token.start, token.end), spans) for token in tokens[:limit]]
    return mask


def _tree(query: schema.Query, tokens: Sequence[Token], limit: int, max_verbs: int, max_nouns: int) -> Tree:
    """The unbatched semantic role tree over the words of one tokeniser, of the first verbs and nouns."""

    def nodes(spans, size):
        masks = np.zeros((size, limit), bool)
        for i, span in enumerate(spans[:size]):
            masks[i] = word_mask([span], tokens, limit)
        return masks

    verbs, nouns = nodes(query.verbs, max_verbs), nodes(query.nouns, max_nouns)
    edges: Any = np.zeros((max_verbs, max_nouns), bool)
    for verb, noun in query.edges:
        if verb >= max_verbs or noun >= max_nouns:
            continue
        edges[verb, noun] = verbs[verb].any() and nouns[noun].any()
    return Tree(verb_words=verbs, noun_words=nouns, edges=edges)


def asked_query(text: str, duration: float, tokenizer: str) -> schema.Query:
    """A sentence that nobody annotated, about a video of `duration` seconds, with its roles and noun chunks.

    Its words are looked up in both languages, of which a model that has two answers in one.

    Raises:
      UserError: where there is no sentence, it is over-long, or it has no word for the tokeniser.
    """
    check_sentence(text)
    if not tokenize(text, tokenizer):
        raise UserError(f'The query "{text}" has no word for the tokeniser "{tokenizer}".')
    roles = _roles(text)
    return schema.Query(
        qid="query",
        text=text,
        translation=text,
        span=(0.0, duration),
        verbs=roles.verbs[: schema.MAX_VERBS],
        nouns=roles.nouns[: schema.MAX_NOUNS],
        edges=[(v, n) for v, n in roles.edges if v < schema.MAX_VERBS and n < schema.MAX_NOUNS],
        static=roles.chunks[: schema.MAX_SPANS],
    )


def check_sentences(sentences: Any) -> None:
    """Raises UserError for what is no list of sentences: a single sentence, a set, a generator, which ends."""
    ordered = isinstance(sentences, (Sequence, np.ndarray)) and not isinstance(sentences, str)
    if not ordered or not all(isinstance(sentence, str) for sentence in sentences):
        raise UserError("Give a list of sentences, such as ['a person opens the door'].")


def check_sentence(text: Any) -> None:
    """Raises UserError for a sentence that is no text, empty or over-long."""
    if not isinstance(text, str):
        raise UserError(f"The query is {text!r}; expected is a sentence, such as 'a person opens the door'.")
    if not text.strip():
        raise UserError("The query is empty. Write a sentence that describes the moment.")
    if len(text) > MAX_QUERY:
        raise UserError(f"The query has {len(text)} characters; at most {MAX_QUERY} are read.")


_roles = functools.lru_cache(maxsize=1024)(parse)
