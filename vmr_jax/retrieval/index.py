"""`MomentIndex`: what is encoded once, and the two calls of its users, `build` and `search`."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.models.base import DualEncoder
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.search import Searcher
from vmr_jax.retrieval.store import EncodedVideo, MomentStore
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

_MORE = 4  # rows fetched for every moment asked for, as NMS drops some; times as many each time it was too few


class Found(NamedTuple):
    """A moment of the answer."""

    video: str
    start: float  # seconds
    end: float
    score: float


class MomentIndex:
    """Moments of a corpus, searched by sentences.

    Args:
      store: the folder with the moments' vectors.
      encode: sentences -> vectors [Q,D] float32.
      parallel: the devices of the search.
      nms_threshold: of two moments of a video with a higher IoU only the better is returned; 1 keeps all.
    """

    def __init__(
        self,
        store: MomentStore,
        encode: Callable[[Sequence[str]], np.ndarray],
        parallel: Parallel,
        nms_threshold: float = 0.5,
    ):
        self.store, self._encode, self.parallel, self.nms_threshold = store, encode, parallel, nms_threshold
        self._searcher = Searcher(store, parallel)

    @classmethod
    def build(
        cls,
        model: DualEncoder,
        variables: Any,
        videos: Iterable[tuple[Sequence[str], Batch]],
        *,
        path: Path,
        encode: Callable[[Sequence[str]], np.ndarray],
        parallel: Parallel,
        dtype: str = "float32",
        source: dict[str, Any] | None = None,
        nms_threshold: float = 0.5,
    ) -> "MomentIndex":
        """Encodes the moments of videos into a new folder.

        Args:
          model: a `DualEncoder`; UserError for another.
          variables: of the model.
          videos: (ids of the real rows, batch [B]) of which the query fields are not read; a row past the ids
            only fills the batch. B is a multiple of the devices.
          path: the folder, new or empty.
          encode: sentences -> vectors [Q,D], as `query_encoder` makes it.
          parallel: the devices.
          dtype: of the rows on disk and in memory: 'float32', 'bfloat16' or 'int8'.
          source: what the vectors are of, kept in the manifest.
          nms_threshold: of the search.
        """
        encoded = encoded_videos(model, variables, videos, parallel)
        first = next(encoded, None)
        if first is None:
            raise UserError("There is no video to index.")
        store = MomentStore.create(path, first.vectors.shape[1], dtype, source or {})
        store = store.add(_chained(first, encoded))
        return cls(store, encode, parallel, nms_threshold)

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.store)

    def search(self, sentences: Sequence[str], k: int = 10, video: str | None = None) -> list[list[Found]]:
        """The k best moments for each sentence, best first, after temporal NMS within each video.

        Args:
          sentences: the queries.
          k: moments for each; fewer come back where there are no more.
          video: searches this video only; UserError where it is not in the index.
        """
        if k < 1:
            raise UserError(f"k is {k}; it must be at least 1.")
        queries = self._encode(list(sentences))
        if video is not None:
            return [self._in_video(query, k, video) for query in queries]
        fetch = min(_MORE * k, max(self._searcher.count, 1))
        answers: list[list[Found]] = [[] for _ in queries]
        waiting = list(range(len(queries)))
        while waiting and self._searcher.count:
            scores, rows = self._searcher(queries[waiting], fetch)
            for i, s, r in zip(waiting, scores, rows):
                videos, spans = self.store.locate(r)
                answers[i] = suppressed(videos, spans, s, self.nms_threshold, k)
            waiting = [i for i in waiting if len(answers[i]) < k] if fetch < self._searcher.count else []
            fetch = min(fetch * _MORE, self._searcher.count)
        return answers

    def _in_video(self, query: np.ndarray, k: int, video: str) -> list[Found]:
        segment, rows = self.store.rows_of(video)
        scores = segment.vectors[rows].astype(np.float32) @ query
        if segment.scales is not None:
            scores = scores * segment.scales[rows]
        order = np.argsort(-scores, kind="stable")
        spans = segment.spans[rows][order]
        return suppressed([video] * len(order), spans, scores[order], self.nms_threshold, k)

    def add(self, videos: Iterable[EncodedVideo]) -> "MomentIndex":
        """The index with these videos too; one that is there already is replaced."""
        return MomentIndex(self.store.add(videos), self._encode, self.parallel, self.nms_threshold)

    def remove(self, videos: Iterable[str]) -> "MomentIndex":
        """The index without these videos."""
        return MomentIndex(self.store.remove(videos), self._encode, self.parallel, self.nms_threshold)


def encoded_videos(
    model: DualEncoder, variables: Any, videos: Iterable[tuple[Sequence[str], Batch]], parallel: Parallel
) -> Iterator[EncodedVideo]:
    """Encodes batches of videos on the devices, one video at a time; UserError for no `DualEncoder`."""
    if not isinstance(model, DualEncoder):
        raise UserError(
            f"{type(model).__module__.rsplit('.', 1)[-1]} scores a moment together with the query, so moments "
            "cannot be encoded once. Index a dual encoder, such as fvmr."
        )
    encode = parallel.map_examples(lambda v, batch: model.apply(v, batch, method="encode_moments"))
    for ids, batch in videos:
        vectors, spans, mask = encode(variables, parallel.put_batch(batch))
        for video, rows, moments, real in zip(ids, vectors, spans, mask):
            yield EncodedVideo(video, np.asarray(rows[real], np.float32), moments[real])


def _chained(first: EncodedVideo, rest: Iterator[EncodedVideo]) -> Iterator[EncodedVideo]:
    yield first
    yield from rest


def query_encoder(
    model: DualEncoder,
    variables: Any,
    batch_of: Callable[[Sequence[str]], Batch],
    parallel: Parallel,
    size: int,
) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from sentences to vectors [Q,D], compiled once for batches of `size` sentences.

    Args:
      model: the architecture.
      variables: its variables.
      batch_of: sentences -> host batch of as many rows.
      parallel: the devices; `size` is a multiple of their number.
      size: sentences in a batch.
    """
    encode = parallel.map_examples(lambda v, batch: model.apply(v, batch, method="encode_query"))

    def encode_all(sentences: Sequence[str]) -> np.ndarray:
        found = []
        for first in range(0, len(sentences), size):
            part = list(sentences[first : first + size])
            batch = batch_of(part + part[-1:] * (size - len(part)))
            found.append(encode(variables, parallel.put_batch(batch))[: len(part)])
        return np.concatenate(found).astype(np.float32)

    return encode_all


def suppressed(
    videos: Sequence[str], spans: np.ndarray, scores: np.ndarray, threshold: float, k: int
) -> list[Found]:
    """The first k of ranked moments, without those whose IoU with a better one of their video is too high."""
    kept: list[Found] = []
    of_video: dict[str, list[tuple[float, float]]] = {}
    for video, (start, end), score in zip(videos, spans.tolist(), scores.tolist()):
        if len(kept) == k:
            break
        better = of_video.setdefault(video, [])
        if any(_iou(start, end, *other) > threshold + 1e-5 for other in better):
            continue
        better.append((start, end))
        kept.append(Found(video, start, end, score))
    return kept


def _iou(start: float, end: float, other_start: float, other_end: float) -> float:
    overlap = max(0.0, min(end, other_end) - max(start, other_start))
    union = (end - start) + (other_end - other_start) - overlap
    return overlap / union if union > 0 else 0.0
