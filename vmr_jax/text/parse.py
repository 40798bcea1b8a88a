"""Who does what in a caption: predicates, their arguments, noun chunks; and its content words.

FVMR (Gao & Xu, ICCV 2021) hangs the arguments of a sentence below its predicates; VDI (Luo et al., CVPR
2023) splits a query into its noun chunks and the rest. Both papers took these from trained parsers. Here
spaCy does it where an English model is installed; otherwise TextBlob's lexicon tags the words, a few rules
put right what a newspaper lexicon gets wrong about captions (vmr_jax/text/tagging.py), and frames are read off
around the verbs (vmr_jax/text/frames.py).

The rules, measured: of the 9,959 different sentences of Charades-STA 17 get no verb, and nearly all of those
have none; of the 18,227 sentences of TACoS 0.15%, of the 71,957 of ActivityNet Captions 0.23%. Of 2,055
verb-noun pairs that Charades-CG lists, the verb is found in 99.7%, the noun in 98.4%, and the noun as an
argument of the verb in 95.7%; many of the misses are errors of that list (it came from a parser too).
"""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import NamedTuple

from vmr_jax.text.frames import content_of_caption, roles_of_caption
from vmr_jax.text.roles import Roles, Span, is_content, roles_of_chunks
from vmr_jax.text.tagging import textblob_tagger

SPACY_MODELS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg")
RULES_VERSION = 2  # raise it when a rule changes, so that prepared datasets are made again


def parse(text: str) -> Roles:
    """Returns the predicates, arguments and noun chunks of a sentence.

    Their number is not limited here; a record keeps the first `vmr_jax.input.schema.MAX_VERBS` and so on, of
    which `config.text.max_verbs` and `max_nouns` are read.
    """
    return _backend().parse(text)


def content_words(text: str) -> tuple[Span, ...]:
    """Returns the nouns, verbs, adjectives and adverbs of a sentence, in order.

    They are the words that SCN (Lin et al., AAAI 2020) prefers to hide: those with NN, VB, JJ or RB in their
    Penn Treebank tag. Auxiliaries and wh-adverbs are among them, pronouns, modals and numbers are not.
    """
    return _backend().content_words(text)


def parser_name() -> str:
    """Names the parser in use, with its version: it goes into the log and the key of prepared datasets."""
    return _backend().name


class _Backend(NamedTuple):
    """A parser and its name: spaCy, or TextBlob with rules."""

    name: str
    parse: Callable[[str], Roles]
    content_words: Callable[[str], tuple[Span, ...]]


@functools.cache
def _backend() -> _Backend:
    """Returns the parser, which is chosen once per process."""
    try:
        import spacy
    except ImportError:
        return _textblob_backend()
    for model in SPACY_MODELS:
        if spacy.util.is_package(model):
            return _spacy_backend(spacy.load(model), model)
    return _textblob_backend()


# --- spaCy ----------------------------------------------------------------------------------------


def _spacy_backend(pipeline, model: str) -> _Backend:
    return _Backend(
        f"spacy {model} {pipeline.meta['version']}",
        lambda text: roles_of_doc(pipeline(text)),
        lambda text: content_of_doc(pipeline(text)),
    )


def content_of_doc(doc) -> tuple[Span, ...]:
    """Reads the content words off the tags of a `spacy.tokens.Doc`."""
    return tuple((t.idx, t.idx + len(t)) for t in doc if is_content(t.tag_))


def roles_of_doc(doc) -> Roles:
    """Reads the roles off a dependency parse (a `spacy.tokens.Doc`).

    Predicates are the verbs, and the copula where it heads its clause. A chunk is an argument of the nearest
    verb above it; a verb without a subject has that of the verb it hangs from.
    """
    chunks = list(doc.noun_chunks)
    verbs = [t for t in doc if t.pos_ == "VERB" or (t.pos_ == "AUX" and t.dep_ not in ("aux", "auxpass"))]
    index = {t.i: v for v, t in enumerate(verbs)}
    subject: dict[int, int] = {}  # verb -> chunk
    edges = set()
    for c, chunk in enumerate(chunks):
        head = next((a.i for a in chunk.root.ancestors if a.i in index), None)
        if head is not None:
            edges.add((index[head], c))
            if chunk.root.dep_ in ("nsubj", "nsubjpass") and chunk.root.head.i == head:
                subject[index[head]] = c
    for v, verb in enumerate(verbs):
        above = (index[a.i] for a in (verb, *verb.ancestors) if a.i in index)
        owner = next((a for a in above if a in subject), None)
        if owner is not None:
            edges.add((v, subject[owner]))
    return roles_of_chunks(
        [(t.idx, t.idx + len(t)) for t in verbs], edges, [(c.start_char, c.end_char) for c in chunks]
    )


# --- TextBlob -------------------------------------------------------------------------------------


def _textblob_backend() -> _Backend:
    tag = textblob_tagger()
    version = importlib.metadata.version("textblob")
    return _Backend(
        f"textblob {version} + rules {RULES_VERSION}",
        lambda text: roles_of_caption(text, tag),
        lambda text: content_of_caption(text, tag),
    )
