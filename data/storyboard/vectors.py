"""The fixed random vectors of a seed: of words, and of concepts in each modality."""

import functools
import re

import numpy as np

from vmr_jax.data.storyboard.grammar import (
    ACTIONS,
    AGENTS,
    ANYONE,
    FUNCTION_WORDS,
    OBJECTS,
    PLACES,
    word_groups,
)

WORD_DIM = 50
SENTENCE_DIM = 32
RGB_DIM, FLOW_DIM, AUDIO_DIM, OBJECT_DIM, SUBTITLE_DIM = 64, 32, 16, 32, SENTENCE_DIM
CELL_DIM = 16
PHASES = 3  # start, middle, end

_SYNONYM_SPREAD = 0.35  # length of a word's own part beside the unit vector it shares with its synonyms


class Vectors:
    """All vectors of a seed. Concept tables map a name to a float64 unit vector.

    Attributes:
      words: every word of the grammar.
      word_vectors: [n,WORD_DIM] float32, unit length, row i of words[i].
      translated_vectors: [n,WORD_DIM] float32 likewise of their translations, in a space of their own.
      appearance: {kind: {name: [RGB_DIM]}} for kind agent, action, object, recipient,
        place; a person looks different as the recipient.
      phases: {action: [PHASES,RGB_DIM]}, how an action looks at its start, middle and end.
      motion, motion_phases: the same of actions in FLOW_DIM.
      sounds: {action: [PHASES,AUDIO_DIM]} of the actions that are heard.
      entities: {name: [OBJECT_DIM]} of agents and objects as a detector sees them.
      use, pose: {action: [OBJECT_DIM]}, what an action adds to its object and to its agent.
      receiving: [OBJECT_DIM], what it adds to its recipient.
      cells: {name: [CELL_DIM]} of agents, objects and actions in a part of a frame.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 0])
        agents = [name for name in AGENTS if name != ANYONE]
        self.words, self.word_vectors = _word_vectors(rng)
        self._row = {word: i for i, word in enumerate(self.words)}
        self._projection = rng.normal(size=(WORD_DIM, SENTENCE_DIM)) / np.sqrt(SENTENCE_DIM)
        self.translated_vectors = _word_vectors(np.random.default_rng([seed, 0, 1]))[1]
        kinds = {"agent": agents, "action": ACTIONS, "object": OBJECTS, "recipient": agents, "place": PLACES}
        self.appearance = {kind: _table(rng, names, RGB_DIM) for kind, names in kinds.items()}
        self.phases = _table(rng, ACTIONS, PHASES, RGB_DIM)
        self.motion = _table(rng, ACTIONS, FLOW_DIM)
        self.motion_phases = _table(rng, ACTIONS, PHASES, FLOW_DIM)
        self.sounds = _table(rng, [name for name, a in ACTIONS.items() if a.sounds], PHASES, AUDIO_DIM)
        self.entities = _table(rng, [*agents, *OBJECTS], OBJECT_DIM)
        self.use = _table(rng, ACTIONS, OBJECT_DIM)
        self.pose = _table(rng, ACTIONS, OBJECT_DIM)
        self.receiving = _unit(rng.normal(size=OBJECT_DIM))
        self.cells = _table(rng, [*agents, *OBJECTS, *ACTIONS], CELL_DIM)

    def sentence(self, text: str) -> np.ndarray:
        """[SENTENCE_DIM] float32: the projected sum of the vectors of a text's content words."""
        return self._project(content_words(text), self.word_vectors).sum(0).astype(np.float32)

    def said(self, words: list[str], translated: bool = False) -> np.ndarray:
        """[SUBTITLE_DIM] float32: the projected mean of the vectors of what is said, or of its translation."""
        table = self.translated_vectors if translated else self.word_vectors
        return self._project(words, table).mean(0).astype(np.float32)

    def _project(self, words: list[str], table: np.ndarray) -> np.ndarray:
        rows = table[[self._row[word] for word in words]].astype(np.float64)
        return rows @ self._projection


@functools.lru_cache(maxsize=4)
def vectors(seed: int) -> Vectors:
    """Returns the vectors of a seed (kept for a few seeds)."""
    return Vectors(seed)


def words_of(text: str) -> list[str]:
    """The words of a sentence of the grammar, without punctuation."""
    return re.findall("[a-z]+", text)


def content_words(text: str) -> list[str]:
    """The words of a sentence that are not function words."""
    return [word for word in words_of(text) if word not in FUNCTION_WORDS]


def _word_vectors(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Synonyms share a direction (cosine > 0.8); the directions of different groups are orthogonal.

    Function words have directions of their own, which are random.
    """
    groups = list(word_groups().values())
    directions = list(np.linalg.qr(rng.normal(size=(WORD_DIM, WORD_DIM)))[0][: len(groups)])
    groups += [(word,) for word in FUNCTION_WORDS]
    directions += [_unit(rng.normal(size=WORD_DIM)) for _ in FUNCTION_WORDS]
    words, rows = [], []
    for direction, group in zip(directions, groups, strict=True):
        for word in group:
            own = rng.normal(size=WORD_DIM)
            own -= (own @ direction) * direction
            words.append(word)
            rows.append(_unit(direction + _SYNONYM_SPREAD * _unit(own)))
    return words, np.asarray(rows, np.float32)


def _table(rng: np.random.Generator, names, *shape: int) -> dict[str, np.ndarray]:
    """A random unit vector, or rows of them, for each name."""
    return {name: _unit(rng.normal(size=shape)) for name in names}


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
