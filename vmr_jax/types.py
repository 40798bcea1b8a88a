"""The three things every part of the library exchanges: `Batch`, `Moments`, `Mean`.

Axis letters, one meaning each, in every docstring and shape assertion of the library:

    B  rows of a batch, (video, query) pairs      T  clips of a video
    L  words of a query                           S  subwords of a query
    C  characters of a word                       D  numbers that describe a clip (its features)
    W  numbers of a word vector                   O  objects in a clip
    V  verbs of a role tree                       N  nouns of a role tree
    A  annotated moments of a query               M  candidate moments of a video
    G  clips along each side of a moment map      K  moments that are returned, best first
    F  width of the layers of a network           E  width of a space shared by video and sentence
    H  attention heads                            P  lengths of the candidates at one clip
    R  clips that are read of a candidate         Y  steps of an episode
    J  sentences of one video                     U  videos of a corpus
    Q  queries of a split                         X  words of the vocabulary

Every padded axis has a mask; True marks what is real. A file that needs another letter defines it at its top.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Tree:
    """A semantic role tree per query: the sentence above its verbs, each verb above its nouns.

    A node is the set of its words. A tree without verbs has all entries False.
    """

    verb_words: Array  # [B,V,L] bool: word l belongs to verb node v
    noun_words: Array  # [B,N,L] bool: word l belongs to noun node n
    edges: Array  # [B,V,N] bool: noun n is an argument of verb v

    @property
    def verb_mask(self) -> Array:
        """[B,V] bool: which verb nodes are real."""
        return self.verb_words.any(-1)

    @property
    def noun_mask(self) -> Array:
        """[B,N] bool: which noun nodes are real."""
        return self.noun_words.any(-1)


@struct.dataclass
class Batch:
    """B (video, query) pairs of one fixed shape. Times are seconds (float32).

    Optional fields are None where the dataset lacks them; `GroundingModel.requires` names the ones
    that an architecture cannot do without.
    """

    video: Array  # [B,T,D] float32 clip features
    video_mask: Array  # [B,T] bool
    duration: Array  # [B] float32, length of the video
    query: Array  # [B,L] int32 vocabulary ids: 0 padding, 1 unknown
    query_vectors: Array  # [B,L,W] float32 word vectors, zeros where unknown or padding
    query_mask: Array  # [B,L] bool
    span: Array  # [B,2] float32, the annotated start and end
    example_mask: Array  # [B] bool, False for rows that only fill the batch
    example_index: Array  # [B] int32, position of the pair in its split
    video_index: Array  # [B] int32, position of the video in its split
    tree: Tree | None = None
    flow: Array | None = None  # [B,T,D] float32, a second visual stream on the same clips
    audio: Array | None = None  # [B,T,D] float32
    objects: Array | None = None  # [B,T,O,D] float32
    object_mask: Array | None = None  # [B,T,O] bool
    subtitles: Array | None = None  # [B,T,W] float32, mean word vector of what is said in the clip
    subtitle_mask: Array | None = None  # [B,T] bool, False where nothing is said
    sentence: Array | None = None  # [B,D] float32, one vector for the whole query
    static_words: Array | None = None  # [B,L] bool: words of the static query (noun chunks)
    dynamic_words: Array | None = None  # [B,L] bool: words of the dynamic query (the others)
    content_words: Array | None = None  # [B,L] bool: nouns, verbs, adjectives, adverbs
    dependencies: Array | None = None  # [B,L,L] int32 relation of column to its head, the row: 1 self, 0 none
    query_chars: Array | None = None  # [B,L,C] int32 ids of the characters: 0 padding, 1 unknown
    subwords: Array | None = None  # [B,S] int32 ids of a text encoder's own tokens, special ones included
    subword_mask: Array | None = None  # [B,S] bool
    subword_static: Array | None = None  # [B,S] bool: of the static query, and the special ones
    subword_dynamic: Array | None = None  # [B,S] bool: of the dynamic query, and the special ones
    windows: Array | None = None  # [B,A,2] float32 seconds, every annotated moment of the query
    window_mask: Array | None = None  # [B,A] bool
    saliency: Array | None = None  # [B,T] float32, annotators' scores of a clip, summed; 0 where irrelevant

    def check(self) -> None:
        """Asserts that ranks and shared axes agree (at trace time; raises AssertionError)."""
        chex.assert_rank([self.video, self.query_vectors], 3)
        b, t, _ = self.video.shape
        _, length, _ = self.query_vectors.shape
        chex.assert_shape(self.video_mask, (b, t))
        chex.assert_shape([self.query, self.query_mask], (b, length))
        chex.assert_shape(self.query_vectors, (b, length, None))
        chex.assert_shape([self.duration, self.example_mask, self.example_index, self.video_index], (b,))
        chex.assert_shape(self.span, (b, 2))
        if self.tree is not None:
            v, n = self.tree.edges.shape[1:]
            chex.assert_shape(self.tree.verb_words, (b, v, length))
            chex.assert_shape(self.tree.noun_words, (b, n, length))
        for stream in (self.flow, self.audio, self.subtitles):
            if stream is not None:
                chex.assert_shape(stream, (b, t, None))
        if self.objects is not None:
            chex.assert_shape(self.objects, (b, t, None, None))
            chex.assert_shape(self.object_mask, self.objects.shape[:3])
        if self.sentence is not None:
            chex.assert_shape(self.sentence, (b, None))
        if self.query_chars is not None:
            chex.assert_shape(self.query_chars, (b, length, None))
        for words in (self.static_words, self.dynamic_words, self.content_words):
            if words is not None:
                chex.assert_shape(words, (b, length))
        if self.dependencies is not None:
            chex.assert_shape(self.dependencies, (b, length, length))
        if self.subwords is not None:
            masks = (self.subword_mask, self.subword_static, self.subword_dynamic)
            chex.assert_equal_shape([self.subwords, *(mask for mask in masks if mask is not None)])
        if self.windows is not None:
            chex.assert_shape(self.windows, (*self.window_mask.shape, 2))
        if self.saliency is not None:
            chex.assert_shape(self.saliency, (b, t))

    @property
    def size(self) -> int:
        """B, the number of rows (real and filling)."""
        return self.example_mask.shape[0]


@struct.dataclass
class Moments:
    """Ranked moments per query, best first. Rows past the last moment have score -inf."""

    spans: Array  # [B,K,2] float32 seconds
    scores: Array  # [B,K] float32

    def check(self) -> None:
        """Asserts the two shapes agree (at trace time; raises AssertionError)."""
        b, k = self.scores.shape
        chex.assert_shape(self.spans, (b, k, 2))


@struct.dataclass
class Mean:
    """A mean that is not yet divided, so that it can be added up over batches and devices."""

    sum: Array  # [] float32
    count: Array  # [] float32

    @classmethod
    def of(cls, values: Array, mask: Array, weight: float = 1.0) -> "Mean":
        """Weighted mean of `values` where `mask` (same shape) is True; others do not count."""
        chex.assert_equal_shape([values, mask])
        values = jnp.where(mask, values.astype(jnp.float32), 0.0)
        return cls(sum=weight * values.sum(), count=mask.sum().astype(jnp.float32))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(sum=self.sum + other.sum, count=self.count + other.count)

    def value(self) -> Array:
        """Sum / count; zero where nothing was counted."""
        return jnp.where(self.count > 0, self.sum / jnp.maximum(self.count, 1.0), 0.0)
