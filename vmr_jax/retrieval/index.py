"""`MomentIndex`: moments that are encoded once, and the two calls of its users, `build` and `search`."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from vmr_jax.errors import UserError, check_count, unknown
from vmr_jax.evaluation import metrics
from vmr_jax.input.queries import check_sentences
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.milvus import COLLECTION, MilvusStore
from vmr_jax.retrieval.segments import EncodedVideo, check_dtype
from vmr_jax.retrieval.store import MomentStore, Ranked
from vmr_jax.types import Batch

_WORDS = 4
_MORE = 4  # rows fetched for every moment asked for, as NMS drops some; times as many each time it was too few


class Found(NamedTuple):
    """A moment of the answer."""

    video: str
    start: float  # seconds
    end: float
    score: float


class Searcher(Protocol):
    """The part that ranks the moments of a store."""

    def top(self, queries: np.ndarray, k: int, videos: Collection[str] | None = None) -> list[Ranked]:
        """The k best moments for each of queries [Q,E], of all videos or of these; fewer where that is all."""

    def of_video(self, query: np.ndarray, video: str) -> Ranked:
        """The moments of a video for a query [E], at most `Store.most`; UserError where it is not there."""


class Store(Protocol):
    """The keeper of the moments: a folder (`store.MomentStore`) or a collection (`milvus.MilvusStore`).

    Attributes:
      dim: E, width of the vectors.
      source: origin of the vectors: architecture, data and step of the checkpoint.
      where: name of the folder or collection, for messages.
      videos: ids of the videos.
      most: number of moments that one search can rank.
    """

    @property
    def dim(self) -> int: ...

    @property
    def source(self) -> dict[str, Any]: ...

    @property
    def where(self) -> str: ...

    @property
    def videos(self) -> list[str]: ...

    @property
    def most(self) -> int: ...

    def __len__(self) -> int:
        """Number of moments."""

    def searcher(self, parallel: Parallel, recall: float = 1.0) -> Searcher:
        """The part that ranks the moments, on these devices, and with this `recall`, where it is done here."""

    def add(self, videos: Iterable[EncodedVideo]) -> "Store":
        """The store with these videos too; one that is there already is replaced."""

    def remove(self, videos: Iterable[str]) -> "Store":
        """The store without these videos; UserError names the first that is not there."""


class MomentIndex:
    """Moments of a corpus, searched by sentences; `Run.index` makes one.

    >>> videos = [run.encode_video(np.ones((40, 64)), duration=31.0, id="talk")]
    >>> index = run.index(videos, tmp / "index")
    >>> [found.video for found in index.search(["a person opens the door"], k=2)[0]]
    ['talk', 'talk']

    Args:
      store: the moments' vectors.
      encode: sentences -> vectors [Q,E] float32.
      parallel: the devices of the search.
      nms_threshold: IoU above which only the better of two moments of a video is returned; 1 keeps all.
      video_of: stored id -> id of the video of which that is a part, in whose seconds its moments are; None
        where every stored id is a video.
      recall: the share of the best moments that is to be found, on average; below 1 a TPU may search a folder
        faster (`retrieval.search.Searcher`).
    """

    def __init__(
        self,
        store: Store,
        encode: Callable[[Sequence[str]], np.ndarray],
        parallel: Parallel,
        nms_threshold: float = 0.5,
        video_of: Callable[[str], str] | None = None,
        recall: float = 1.0,
    ):
        if not 0 < recall <= 1:
            raise UserError(f"config.retrieval.recall is {recall}; it must be above 0 and at most 1.")
        self.store, self._encode, self.parallel, self.nms_threshold = store, encode, parallel, nms_threshold
        self._searcher, self._video_of, self._recall = store.searcher(parallel, recall), video_of, recall
        self._parts: dict[str, list[str]] = {}  # video -> stored ids
        if video_of is not None:
            for stored in store.videos:
                self._parts.setdefault(video_of(stored), []).append(stored)

    @classmethod
    def build(
        cls,
        model: GroundingModel,
        variables: Any,
        videos: Iterable[tuple[Sequence[str], Batch]],
        *,
        path: Path | None = None,
        uri: str | None = None,
        collection: str = COLLECTION,
        owner: str = "",
        encode: Callable[[Sequence[str]], np.ndarray],
        parallel: Parallel,
        dtype: str = "float32",
        source: dict[str, Any] | None = None,
        nms_threshold: float = 0.5,
    ) -> "MomentIndex":
        """Encodes the moments of videos into a new folder, or into a new collection in Milvus.

        Args:
          model: a `DualEncoder`; UserError for another.
          variables: parameters and statistics of the model.
          videos: (ids of the real rows, batch [B]) of which the query fields are not read; a row past the ids
            only fills the batch. B is a multiple of the devices.
          path: the folder, new or empty.
          uri: in place of `path`: a Milvus server ('http://HOST:19530') or file of Milvus Lite ('FILE.db').
          collection: a new name there.
          owner: mark that the collection gets, without which `retrieval.pointer.drop` leaves it alone.
          encode: sentences -> vectors [Q,E], as `query_encoder` makes it.
          parallel: the devices.
          dtype: number format of the rows, one of `segments.FORMATS`; float32 in Milvus.
          source: origin of the vectors, kept in the manifest.
          nms_threshold: IoU above which the worse of two moments of a video is dropped by the search.
        """
        if (path is None) == (uri is None):
            raise UserError("Give MomentIndex.build either the path of a folder or the uri of Milvus.")
        check_encoder(model)
        check_dtype(dtype)
        encoded = encoded_videos(model, variables, videos, parallel)
        first = next(encoded, None)
        if first is None:
            raise UserError("There is no video to index.")
        settings, encoded = (first.vectors.shape[1], dtype, source or {}), itertools.chain([first], encoded)
        if path is not None:
            store: Any = MomentStore.create(path, *settings).add(encoded)
        elif uri is not None:
            store = MilvusStore.build(uri, collection, *settings, encoded, owner)
        return cls(store, encode, parallel, nms_threshold)

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.store)

    def __repr__(self) -> str:
        store = self.store
        counts = f"{len(store):,} moments, {len(store.videos):,} videos"
        return f"MomentIndex({counts}, {store.dim} numbers a moment, {store.where})"

    def search(
        self, sentences: Sequence[str], k: int = 10, video: str | Collection[str] | None = None
    ) -> list[list[Found]]:
        """The k best moments for each sentence, best first, after temporal NMS within each video.

        Args:
          sentences: the queries.
          k: number of moments for each; fewer come back where there are no more.
          video: searches this video only, UserError where it is not in the index; or those of several ids that
            are there; None searches all.
        """
        check_sentences(sentences)
        check_count(k)
        if not (video is None or isinstance(video, (str, Collection))):
            raise UserError(f"video is {video!r}; it must be the id of a video, several ids, or None for all.")
        queries = self._encode(list(sentences))
        if queries.shape[1] != self.store.dim:
            raise UserError(
                f"The model encodes a sentence as {queries.shape[1]} numbers, and the moments in "
                f"{self.store.where} have {self.store.dim}. Ask with the model that the index was built with."
            )
        if isinstance(video, str):
            return [self._best(self._of_video(query, video), k) for query in queries]
        only = None if video is None else self._stored(video)
        answers: list[list[Found]] = [[] for _ in queries]
        waiting, fetch = list(range(len(queries))), min(_MORE * k, self.store.most)
        while waiting:
            ranked = self._searcher.top(queries[waiting], fetch, only)
            for i, of_query in zip(waiting, ranked):
                answers[i] = self._best(of_query, k)
            # Where fewer came than were fetched, there are no more.
            more = [len(of_query.scores) == fetch for of_query in ranked]
            waiting = [i for i, is_more in zip(waiting, more) if is_more and len(answers[i]) < k]
            fetch = min(_MORE * fetch, self.store.most)
        return answers

    def _stored(self, videos: Collection[str]) -> Collection[str]:
        """The stored ids of videos."""
        if self._video_of is None:
            return videos
        return [stored for video in videos for stored in self._parts.get(video, ())]

    def _of_video(self, query: np.ndarray, video: str) -> Ranked:
        """The moments of a video for a query [E], those of all its parts together."""
        if self._video_of is None:
            return self._searcher.of_video(query, video)
        if video not in self._parts:
            raise unknown(f"{self.store.where} has no video", video, self._parts)
        parts = [self._searcher.of_video(query, stored) for stored in self._parts[video]]
        scores = np.concatenate([part.scores for part in parts])
        order = np.argsort(-scores, kind="stable")
        ids = [stored for part in parts for stored in part.videos]
        spans = np.concatenate([part.spans for part in parts])
        return Ranked([ids[i] for i in order], spans[order], scores[order])

    def _best(self, ranked: Ranked, k: int) -> list[Found]:
        """The k best after NMS; UserError where there are fewer because the store ranks no more."""
        if not np.isfinite(ranked.scores).all():
            raise UserError(
                f"{self.store.where} gives scores that are not finite: its vectors are damaged. Build it again."
            )
        videos = ranked.videos if self._video_of is None else [*map(self._video_of, ranked.videos)]
        found = suppressed(videos, ranked.spans, ranked.scores, self.nms_threshold, k)
        if len(found) < k and len(ranked.scores) == self.store.most:
            raise UserError(
                f"k is {k:,}, and {self.store.where} ranks at most {self.store.most:,} moments, of which "
                f"{len(found):,} are left where no two of a video have an IoU above {self.nms_threshold}. Ask "
                "for fewer."
            )
        return found

    def add(self, videos: Iterable[EncodedVideo]) -> "MomentIndex":
        """The index with these videos too; one that is there already is replaced."""
        return self._of(self.store.add(videos))

    def remove(self, videos: Iterable[str]) -> "MomentIndex":
        """The index without these videos."""
        return self._of(self.store.remove(videos))

    def _of(self, store: Store) -> "MomentIndex":
        settings = self.parallel, self.nms_threshold, self._video_of, self._recall
        return MomentIndex(store, self._encode, *settings)


def check_encoder(model: GroundingModel) -> None:
    """UserError for an architecture whose moments cannot be encoded without a sentence."""
    if not isinstance(model, DualEncoder):
        raise UserError(
            f"{type(model).__module__.rsplit('.', 1)[-1]} scores a moment together with the query, so moments "
            "cannot be encoded once. Index a dual encoder, such as fvmr."
        )
    names = ("encode_moments", "encode_query")
    if missing := [name for name in names if getattr(type(model), name) is getattr(DualEncoder, name)]:
        raise UserError(
            f"{type(model).__name__} is a DualEncoder without {' and '.join(missing)}, which an index needs. "
            "Write what vmr_jax.models.DualEncoder describes."
        )


def encoded_videos(
    model: GroundingModel, variables: Any, videos: Iterable[tuple[Sequence[str], Batch]], parallel: Parallel
) -> Iterator[EncodedVideo]:
    """Encodes batches of videos on the devices, one video at a time; UserError for no `DualEncoder`."""
    check_encoder(model)
    encode = parallel.map_examples(lambda v, batch: model.apply(v, batch, method="encode_moments"))
    for ids, batch in videos:
        vectors, spans, mask = encode(variables, parallel.put_batch(batch))
        for video, rows, moments, real in zip(ids, vectors, spans, mask):
            yield EncodedVideo(video, np.asarray(rows[real], np.float32), moments[real])


def query_encoder(
    model: GroundingModel,
    variables: Any,
    batch_of: Callable[[Sequence[str]], Batch],
    parallel: Parallel,
    size: int,
) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from sentences to vectors [Q,D], compiled for few shapes.

    It runs on the first device: a sentence is too little to be shared, and sharing it would take longer.

    Args:
      model: the architecture.
      variables: parameters and statistics of the model.
      batch_of: sentences -> host batch of as many rows.
      parallel: the devices.
      size: number of sentences in a batch, at most; a power of two.
    """
    encode = jax.jit(lambda v, batch: model.apply(v, batch, method="encode_query"))
    variables = parallel.on_first_device(variables)

    def encode_all(sentences: Sequence[str]) -> np.ndarray:
        found = []
        for first in range(0, len(sentences), size):
            part = list(sentences[first : first + size])
            rows = 1 << (len(part) - 1).bit_length()
            batch = batch_of(part + part[-1:] * (rows - len(part)))
            found.append(np.asarray(encode(variables, only_query(batch)))[: len(part)])
        return np.concatenate(found).astype(np.float32)

    return encode_all


def only_query(batch: Batch) -> Batch:
    """A host batch without what `encode_query` never reads: one clip, and no more words than the longest query.

    Their number is a multiple of four, so that few shapes are compiled.
    """
    words, subwords = (_longest(mask) for mask in (batch.query_mask, batch.subword_mask))
    return dataclasses.replace(batch.cut(T=1, L=words, S=subwords), tree=None, constituents=None)


def _longest(mask: Any) -> int:
    """The longest row of a mask [B,L], rounded up to a multiple of `_WORDS`; 0 of none."""
    return 0 if mask is None else -(-int(mask.sum(1).max()) // _WORDS) * _WORDS


def suppressed(
    videos: Sequence[str], spans: np.ndarray, scores: np.ndarray, threshold: float, k: int
) -> list[Found]:
    """The first k of ranked moments, without those whose IoU with a better one of their video is too high."""
    kept: list[Found] = []
    of_video: dict[str, list[np.ndarray]] = {}
    for video, span, score in zip(videos, spans, scores):
        if len(kept) == k:
            break
        better = of_video.setdefault(video, [])
        if better and metrics.iou(span, np.stack(better)).max() > threshold + 1e-5:
            continue
        better.append(span)
        start, end = span.tolist()
        kept.append(Found(video, start, end, score.item()))
    return kept
