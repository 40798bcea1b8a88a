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
    I  cells along each side of a frame           Z  nodes of a constituency tree

Every padded axis has a mask; True marks what is real. A file that needs another letter, or another meaning of
one, defines it at its top.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError, unknown

Array = jax.Array

# Axes whose length is a field's own: streams differ in the numbers that describe a clip, or a word.
_OWN_AXES = ("D", "W")


class FieldInfo(NamedTuple):
    """All that the library knows of a field of `Batch`; specs, checks, cuts and padding derive from it.

    Attributes:
      axes: letters of the axes, the first is B; a digit is a length.
      dtype: of the numbers.
      of: 'video', 'query', 'pair' (of both, such as an annotation) or 'row' (of the batch).
      mask: name of the field that says which entries are real; '' where every entry is, or where the field is a
        mask itself.
      source: where an optional field comes from: 'stream' (features of the clips, in the dataset), 'records'
        (the dataset's records), 'sentence' (follows from any sentence), 'annotation' (from the annotated
        moments), 'features' (from how the features become clips); '' for the fields that every batch has.
      optional: the field is None unless it is asked for.
    """

    axes: str
    dtype: Any
    of: str
    mask: str
    source: str
    optional: bool

    @property
    def has_vectors(self) -> bool:
        """Whether its entries are vectors, of features or of words; else each is a number or a flag."""
        return self.axes[-1] in _OWN_AXES


def _array(axes: str, dtype: Any, of: str, *, mask: str = "", source: str = "", optional: bool = False) -> Any:
    info = FieldInfo(axes, dtype, of, mask, source, optional or bool(source))
    default = {"default": None} if info.optional else {}
    return struct.field(metadata={"info": info}, **default)


@struct.dataclass
class Tree:
    """A semantic role tree per query: the sentence above its verbs, each verb above its nouns.

    A node is the set of its words. A tree without verbs has all entries False.

    >>> words = np.eye(3, dtype=bool)[None]  # verb 0 is word 0, nouns 0 and 1 are words 1 and 2
    >>> tree = Tree(verb_words=words[:, :1], noun_words=words[:, 1:], edges=np.ones((1, 1, 2), bool))
    >>> tree.verb_mask.tolist(), tree.noun_mask.tolist()
    ([[True]], [[True, True]])
    """

    verb_words: Array = _array("BVL", bool, "query")  # word l belongs to verb node v
    noun_words: Array = _array("BNL", bool, "query")  # word l belongs to noun node n
    edges: Array = _array("BVN", bool, "query")  # noun n is an argument of verb v

    @property
    def verb_mask(self) -> Array:
        """[B,V] bool: which verb nodes are real."""
        return self.verb_words.any(-1)

    @property
    def noun_mask(self) -> Array:
        """[B,N] bool: which noun nodes are real."""
        return self.noun_words.any(-1)


@struct.dataclass
class Constituents:
    """The constituency tree of each query: a node for each word and each phrase, children before parents.

    A node without children is a word or a punctuation mark; node 0 always is one. So 0 is nobody's parent and
    means none: it stands at the root, which is the last real node, and at padding.

    >>> tree = Constituents(
    ...     parents=np.int32([[2, 2, 0, 0]]),
    ...     labels=np.int32([[31, 40, 8, 0]]),
    ...     words=np.bool_([[[1, 0], [0, 1], [1, 1], [0, 0]]]),
    ... )
    >>> tree.mask.tolist(), tree.root.tolist(), tree.leaves.tolist()
    ([[True, True, True, False]], [2], [[True, True, False, False]])
    """

    parents: Array = _array("BZ", np.int32, "query")  # the node above node z
    labels: Array = _array("BZ", np.int32, "query")  # ids in `vmr_jax.text.constituency`, 0 padding
    words: Array = _array("BZL", bool, "query")  # word l belongs to node z

    @property
    def mask(self) -> Array:
        """[B,Z] bool: which nodes are real."""
        return self.labels > 0

    @property
    def root(self) -> Array:
        """[B] int32: the node above all others; 0 where there is no node."""
        return jnp.maximum(jnp.asarray(self.mask).sum(-1) - 1, 0)

    @property
    def leaves(self) -> Array:
        """[B,Z] bool: the nodes without children."""
        node = jnp.arange(self.parents.shape[1])
        has_child = (self.parents[:, :, None] == node[None, None]).any(1) & (node > 0)[None]
        return jnp.asarray(self.mask) & ~has_child


@struct.dataclass
class Batch:
    """B (video, query) pairs of one fixed shape. Times are seconds (float32); padding is 0 (False).

    Optional fields are None where the dataset lacks them; `GroundingModel.requires` names the ones that an
    architecture cannot do without. A field says here, and nowhere else, what it is (`FieldInfo`).
    """

    video: Array = _array("BTD", np.float32, "video", mask="video_mask")  # features of the clips
    video_mask: Array = _array("BT", bool, "video")
    duration: Array = _array("B", np.float32, "video")  # length of the video in seconds
    query: Array = _array("BL", np.int32, "query", mask="query_mask")  # vocabulary ids: 0 padding, 1 unknown
    # Word vectors, zeros where a word is unknown.
    query_vectors: Array = _array("BLW", np.float32, "query", mask="query_mask")
    query_mask: Array = _array("BL", bool, "query")
    span: Array = _array("B2", np.float32, "pair")  # annotated start and end, seconds
    example_mask: Array = _array("B", bool, "row")  # False for rows that only fill the batch
    example_index: Array = _array("B", np.int32, "row")  # position of the pair in its split
    video_index: Array = _array("B", np.int32, "row")  # position of the video in its split
    tree: Tree | None = _array("B", bool, "query", source="records")
    constituents: Constituents | None = _array("B", bool, "query", source="records")
    # The first row of the features that a clip is made of (`vmr_jax.input.features.first_rows`); None: every
    # clip is a row.
    clip_rows: Array | None = _array("BT", np.int32, "video", mask="video_mask", source="features")
    # A second visual stream on the same clips, sound, and objects in the clips.
    flow: Array | None = _array("BTD", np.float32, "video", mask="video_mask", source="stream")
    audio: Array | None = _array("BTD", np.float32, "video", mask="video_mask", source="stream")
    objects: Array | None = _array("BTOD", np.float32, "video", mask="object_mask", source="stream")
    object_mask: Array | None = _array("BTO", bool, "video", optional=True)
    # Which of the objects are people.
    persons: Array | None = _array("BTO", bool, "video", mask="object_mask", source="stream")
    # What a captioner makes of a clip (the state of its encoder); how sure classifiers are of each class of
    # things and of each activity in it.
    captions: Array | None = _array("BTD", np.float32, "video", mask="video_mask", source="stream")
    object_scores: Array | None = _array("BTD", np.float32, "video", mask="video_mask", source="stream")
    activity_scores: Array | None = _array("BTD", np.float32, "video", mask="video_mask", source="stream")
    # What is seen in each cell of a frame, rows of cells from the top, cells of a row from the left.
    grid: Array | None = _array("BTIID", np.float32, "video", mask="video_mask", source="stream")
    # The mean word vector of what is said in a clip; the mask is False where nothing is said.
    subtitles: Array | None = _array("BTW", np.float32, "video", mask="subtitle_mask", source="stream")
    subtitle_mask: Array | None = _array("BT", bool, "video", optional=True)
    # A second language: word vectors of the query in it, and what is said in a clip, zeros where nothing is.
    translation: Array | None = _array("BLW", np.float32, "query", mask="translation_mask", source="records")
    translation_mask: Array | None = _array("BL", bool, "query", optional=True)
    translated_subtitles: Array | None = _array("BTW", np.float32, "video", mask="video_mask", source="stream")
    sentence: Array | None = _array("BD", np.float32, "query", source="records")  # one vector for the query
    # Words of the static query (noun chunks), of the dynamic query (the others), and words of content (nouns,
    # verbs, adjectives, adverbs).
    static_words: Array | None = _array("BL", bool, "query", source="records")
    dynamic_words: Array | None = _array("BL", bool, "query", source="records")
    content_words: Array | None = _array("BL", bool, "query", source="sentence")
    # Relation of the column's word to its head, the row's: 1 itself, 0 none.
    dependencies: Array | None = _array("BLL", np.int32, "query", source="sentence")
    query_chars: Array | None = _array("BLC", np.int32, "query", source="sentence")  # 0 padding, 1 unknown
    # Ids of a text encoder's own tokens, special ones included; which of them belong to the static and to the
    # dynamic query, the special ones to both.
    subwords: Array | None = _array("BS", np.int32, "query", mask="subword_mask", source="sentence")
    subword_mask: Array | None = _array("BS", bool, "query", source="sentence")
    subword_static: Array | None = _array("BS", bool, "query", source="sentence")
    subword_dynamic: Array | None = _array("BS", bool, "query", source="sentence")
    # Every annotated moment of the query, seconds.
    windows: Array | None = _array("BA2", np.float32, "pair", mask="window_mask", source="annotation")
    window_mask: Array | None = _array("BA", bool, "pair", optional=True)
    # The moment to which the sentence relates its own ("before she jumps"), seconds; 0 where there is none.
    context: Array | None = _array("B2", np.float32, "pair", source="records")
    # Scores of the annotators for a clip, summed; 0 where it is irrelevant.
    saliency: Array | None = _array("BT", np.float32, "pair", mask="video_mask", source="records")

    @classmethod
    def of(cls, **given: Any) -> "Batch":
        """A host batch of what is at hand; the rest is filled in.

        A value is an array with the axes of its field, or a list with one array for each row, without the axis
        B, which may differ in length and are padded. Masks that are not given are True where the lists reach,
        and everywhere in an array. Where they are not given, `duration` is one second a clip, `span` the whole
        video, `query` unknown words; `example_index` and `video_index` count the rows.

        >>> import numpy as np
        >>> batch = Batch.of(video=[np.ones((3, 4)), np.ones((5, 4))], query_vectors=np.ones((2, 6, 8)))
        >>> batch.video.shape, batch.video_mask.sum(1).tolist(), batch.duration.tolist()
        ((2, 5, 4), [3, 5], [3.0, 5.0])

        Raises:
          UserError: for an unknown field, and for rows or axes that do not agree.
        """
        infos = fields_of(Batch)
        for name in given:
            if name not in infos:
                raise unknown("A batch has no field", name, infos)
        fields: dict[str, Any] = {}
        for name, value in given.items():
            if value is None or name in TREES:
                if value is not None and not isinstance(value, TREES[name]):
                    raise UserError(f"{name} is {value!r}; expected is a vmr_jax.{TREES[name].__name__}.")
                fields[name] = value
                continue
            fields[name], mask = _stacked(name, infos[name], value)
            if infos[name].mask and mask is not None:
                fields.setdefault(infos[name].mask, mask)
        _fill(fields, infos)
        batch = cls(**fields)
        try:
            batch.check()
        except AssertionError as error:
            raise UserError(f"The fields of the batch do not agree: {error}") from None
        return batch

    def entries(self) -> Iterator[tuple[str, FieldInfo, Any]]:
        """Yields (name, what it is, array) of the fields that are there; those of a tree as 'tree.NAME'."""
        for name, info in fields_of(Batch).items():
            value = getattr(self, name)
            if value is not None and name in TREES:
                for part, of_part in fields_of(TREES[name]).items():
                    yield f"{name}.{part}", of_part, getattr(value, part)
            elif value is not None:
                yield name, info, value

    def check(self) -> None:
        """Asserts that ranks and shared axes agree (at trace time; raises AssertionError)."""
        lengths: dict[str, int] = {}
        for name, info, value in self.entries():
            shape = tuple(value.shape)
            if len(shape) != len(info.axes):
                raise AssertionError(f"{name} has the shape {shape}; its axes are [{','.join(info.axes)}].")
            for letter, length in zip(info.axes, shape):
                expected = int(letter) if letter.isdigit() else lengths.get(letter, length)
                if letter not in _OWN_AXES and length != expected:
                    axes = ",".join(info.axes)
                    raise AssertionError(f"{name} [{axes}] is {shape}; {letter} is {expected} elsewhere.")
                lengths[letter] = length

    def map(self, function: Callable[[FieldInfo, Any], Any]) -> "Batch":
        """The batch of function(what it is, array) for every array."""
        changed: dict[str, Any] = {}
        for name, info in fields_of(Batch).items():
            value = getattr(self, name)
            if value is not None and name in TREES:
                parts = fields_of(TREES[name]).items()
                changed[name] = TREES[name](**{part: function(of, getattr(value, part)) for part, of in parts})
            else:
                changed[name] = None if value is None else function(info, value)
        return Batch(**changed)

    def cut(self, **lengths: int) -> "Batch":
        """The first entries along axes, named by their letters: `cut(T=1, L=8)`."""

        def shorter(info: FieldInfo, value: Any) -> Any:
            return value[tuple(slice(lengths.get(letter)) for letter in info.axes)]

        return self.map(shorter)

    def pad(self, **more: int) -> "Batch":
        """The host batch with as many more entries along axes, which are padding: `pad(T=3, L=2)`."""

        def longer(info: FieldInfo, value: Any) -> Any:
            return np.pad(value, [(0, more.get(letter, 0)) for letter in info.axes])

        return self.map(longer)

    @property
    def size(self) -> int:
        """B, the number of rows (real and filling)."""
        return self.example_mask.shape[0]

    def __repr__(self) -> str:
        """A table: a line for each field that is there, with its axes, shape and dtype."""
        lines = ["Batch"]
        for name, info, value in self.entries():
            axes = f"[{','.join(info.axes)}]"
            shape, dtype = getattr(value, "shape", value), getattr(value, "dtype", "")
            lines.append(f"  {name:<16} {axes:<10} {shape!s:<18} {dtype}".rstrip())
        return "\n".join(lines)


# The fields of a batch that are trees, and of what arrays they are made.
TREES: dict[str, Any] = {"tree": Tree, "constituents": Constituents}


@functools.cache
def fields_of(kind: type) -> dict[str, FieldInfo]:
    """Name -> what it is, of the fields of `Batch` or of a tree, in their order."""
    return {field.name: field.metadata["info"] for field in dataclasses.fields(kind)}


def fields_from(*sources: str) -> tuple[str, ...]:
    """Names of the optional fields of `Batch` that come from one of the sources, see `FieldInfo.source`."""
    return tuple(name for name, info in fields_of(Batch).items() if info.source in sources)


def with_masks(names: Sequence[str]) -> tuple[str, ...]:
    """The fields, and the optional masks that belong to them."""
    infos = fields_of(Batch)
    masks = [infos[name].mask for name in names if infos[name].mask and infos[name].mask not in _ALWAYS]
    return tuple(dict.fromkeys([*names, *masks]))


_ALWAYS = ("video_mask", "query_mask")  # masks that every batch has


def _stacked(name: str, info: FieldInfo, value: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The array of a field, and where the rows of a list reach along the second axis (None for an array)."""
    if not isinstance(value, (list, tuple)) or (value and np.ndim(value[0]) == 0):
        array = _converted(name, info, value)
        if array.ndim != len(info.axes):
            raise UserError(
                f"{name} has the shape {array.shape}; expected are the axes [{','.join(info.axes)}]."
            )
        return array, None
    if not value:
        raise UserError(f"{name} is an empty list; give one array for each row of the batch.")
    rows = [_converted(name, info, row) for row in value]
    if any(row.ndim != len(info.axes) - 1 for row in rows):
        raise UserError(
            f"A row of {name} has the shape {next(r.shape for r in rows if r.ndim != len(info.axes) - 1)}; "
            f"expected are the axes [{','.join(info.axes[1:])}]."
        )
    for letter, lengths in zip(info.axes[1:], zip(*(row.shape for row in rows))):
        if letter in _OWN_AXES and len(set(lengths)) > 1:
            raise UserError(
                f"The rows of {name} have {', '.join(map(str, lengths))} numbers ({letter}); one is meant."
            )
    longest = np.max([row.shape for row in rows], axis=0)
    filled = np.zeros((len(rows), *longest), info.dtype)
    for row, place in zip(rows, filled):
        place[tuple(map(slice, row.shape))] = row
    reach = np.arange(longest[0]) < np.asarray([len(row) for row in rows])[:, None]
    if info.mask and len(fields_of(Batch)[info.mask].axes) > 2:
        return filled, None  # of the objects in a clip nobody knows which are real
    return filled, reach


def _converted(name: str, info: FieldInfo, value: Any) -> np.ndarray:
    """The array of a value in the numbers of its field; UserError where it holds others."""
    try:
        return np.asarray(value, info.dtype)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name} is nothing that an array of {np.dtype(info.dtype).name} holds: {error}. Give an array, or "
            "a list with one for each row."
        ) from None


def _fill(fields: dict[str, Any], infos: Mapping[str, FieldInfo]) -> None:
    """Adds what every batch has, and the masks of the optional fields that are there."""
    sized = next((value for value in fields.values() if isinstance(value, np.ndarray)), None)
    if sized is None:
        raise UserError("Give Batch.of at least one array, such as video=[rows of features of each video].")
    size = len(sized)
    fields.setdefault("video", np.zeros((size, 1, 1), np.float32))
    fields.setdefault("video_mask", np.ones(fields["video"].shape[:2], bool))
    words = next(
        (fields[name].shape[1] for name in ("query_vectors", "query", "query_mask") if name in fields), 1
    )
    fields.setdefault("query_mask", np.ones((size, words), bool))
    fields.setdefault("query", fields["query_mask"].astype(np.int32))  # 1 is the unknown word
    fields.setdefault("query_vectors", np.zeros((size, words, 1), np.float32))
    fields.setdefault("duration", fields["video_mask"].sum(1).astype(np.float32))
    whole = np.stack([np.zeros_like(fields["duration"]), fields["duration"]], axis=1)
    fields.setdefault("span", whole)
    fields.setdefault("example_mask", np.ones(size, bool))
    fields.setdefault("example_index", np.arange(size, dtype=np.int32))
    fields.setdefault("video_index", np.arange(size, dtype=np.int32))
    for name in with_masks([name for name in fields if fields[name] is not None]):
        if name not in fields:
            owner = next(other for other in fields if infos[other].mask == name)
            fields[name] = np.ones(fields[owner].shape[: len(infos[name].axes)], bool)


@struct.dataclass
class Moments:
    """Ranked moments per query, best first. Rows past the last moment have score -inf.

    >>> found = Moments(spans=np.array([[[2.0, 5.0], [0.0, 9.0]]]), scores=np.array([[0.9, 0.3]]))
    >>> found.check()
    """

    spans: Array  # [B,K,2] float32 seconds
    scores: Array  # [B,K] float32

    def check(self) -> None:
        """Asserts the two shapes agree (at trace time; raises AssertionError)."""
        b, k = self.scores.shape
        chex.assert_shape(self.spans, (b, k, 2))


@struct.dataclass
class Mean:
    """A mean that is not yet divided, so that it can be added up over batches and devices.

    >>> losses, real = np.array([1.0, 3.0, 99.0]), np.array([True, True, False])
    >>> float(Mean.of(losses, real).value())
    2.0
    """

    sum: Array  # [] float32
    count: Array  # [] float32

    @classmethod
    def of(cls, values: Array, mask: Array | np.ndarray, weight: float | Array = 1.0) -> "Mean":
        """Weighted mean of `values` where `mask` (same shape) is True; others do not count."""
        chex.assert_equal_shape([values, mask])
        values = jnp.where(mask, values.astype(jnp.float32), 0.0)
        return cls(sum=weight * values.sum(), count=mask.sum().astype(jnp.float32))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(sum=self.sum + other.sum, count=self.count + other.count)

    def value(self) -> Array:
        """Sum / count; zero where nothing was counted."""
        return jnp.where(self.count > 0, self.sum / jnp.maximum(self.count, 1.0), 0.0)
