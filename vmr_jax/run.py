"""A trained run that can be asked: a sentence goes from text to batch, model and moments, in this file.

Needs the folder of the run and the word vectors that it names; no dataset, no TensorFlow.
"""

import dataclasses
import functools
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError, check_count, unknown, user_path
from vmr_jax.evaluation.protocols import make_protocol
from vmr_jax.input.dataset import Dataset, Video
from vmr_jax.input.examples import Examples
from vmr_jax.input.features import check_rows, joined_rows, normalize_rows
from vmr_jax.input.queries import QueryReader, asked_query, check_sentence, check_sentences
from vmr_jax.input.spec import batch_spec
from vmr_jax.input.words import open_word_vectors
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import MomentIndex, query_encoder
from vmr_jax.retrieval.milvus import COLLECTION
from vmr_jax.text.parse import content_words
from vmr_jax.training.experiment import open_best
from vmr_jax.types import Batch, fields_from, fields_of

log = logging.getLogger("vmr_jax")

_T = TypeVar("_T")
_AUXILIARIES = {"is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "does", "do", "did"}
_VIDEOS = "Give a list of videos, each from encode_video(features, duration=...)."
_TOGETHER = 32  # sentences, or videos, in a batch at most; a power of two


class Moment(NamedTuple):
    """An answer: a moment of the video, in seconds, and its score, of which more is better.

    >>> Moment(start=2.5, end=7.0, score=0.8).end
    7.0
    """

    start: float
    end: float
    score: float


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """A video as a run reads it: feature rows of every stream, normalised as in training.

    >>> video = run.encode_video(np.ones((40, 64)), duration=31.0, id="talk")
    >>> video.id, video.streams["video"].shape
    ('talk', (40, 64))

    Attributes:
      id: name of the video.
      duration: length in seconds.
      streams: name of the stream -> rows [n,...] float32; 'video' is always there.
    """

    id: str
    duration: float
    streams: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {rows.shape}" for name, rows in self.streams.items())
        return f"VideoFeatures({self.id!r}, {self.duration:g} s: {rows})"


class Run:
    """A trained model with all that it needs to answer.

    >>> video = run.encode_video(np.ones((40, 64)), duration=31.0)
    >>> for start, end, score in run.predict(video, ["a person opens the door"], k=2)[0]:
    ...     assert 0 <= start < end <= 31

    Attributes:
      config: the resolved config of the run.
      model: the architecture.
      variables: what `model.apply` takes.
      step: training step of the checkpoint.
      vocabulary: training words, in the order of their ids from 2 on.
    """

    def __init__(
        self,
        config: Any,
        model: GroundingModel,
        variables: Any,
        vocabulary: Sequence[str],
        step: int = 0,
        sentences: Iterable[str] | None = None,
        parallel: Parallel | None = None,
    ):
        """Puts the parts together; `load` reads them from a folder.

        Args:
          config: the resolved config.
          model: the architecture.
          variables: its variables.
          vocabulary: training words.
          step: training step of the variables.
          sentences: of a file of word vectors only the words of training and of these sentences are read; None
            reads all.
          parallel: the devices; None takes one.
        """
        self.config, self.model, self.step = config, model, step
        self.vocabulary = list(vocabulary)
        self.parallel = parallel or Parallel("jit", num_devices=1)
        self.variables = self.parallel.replicate(variables)
        self._sentences = sentences
        self._compiled: dict[tuple[str, int], Callable] = {}

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.variables.get("params", {}))
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        config = self.config
        return f"Run({config.model.name} on {config.dataset.name}, step {self.step:,}, {count:,} parameters)"

    def fingerprint(self) -> str:
        """Hash of the variables."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(self.variables):
            found.update(np.ascontiguousarray(leaf).tobytes())
        return found.hexdigest()

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        *,
        config: Any = None,
        sentences: Iterable[str] | None = None,
        parallel: Parallel | None = None,
    ) -> "Run":
        """Opens the best checkpoint of a run.

        >>> vmr.load(workdir).step == run.step
        True

        Args:
          workdir: folder of the run.
          config: the config of the run with other settings of evaluation or retrieval; None is its own.
          sentences: of a file of word vectors only the words of training and of these sentences are read; None,
            as any may be asked, reads all of them at the first question.
          parallel: the devices; None takes one, which is fastest for few questions.

        Raises:
          UserError: where the folder holds no run, or the run no checkpoint yet.
        """
        parallel = parallel or Parallel("jit", num_devices=1)
        best = open_best(user_path(workdir), parallel, config)
        return cls(*best, sentences, parallel)

    @functools.cached_property
    def examples(self) -> Examples:
        """Makes the examples that the model reads, of any sentence and any `VideoFeatures`."""
        fields = self.model.requires()
        asked = self._sentences
        vectors = open_word_vectors(
            self.config, None if asked is None else itertools.chain(self.vocabulary, asked)
        )
        return Examples(self.config, QueryReader(self.config, self.vocabulary, vectors, fields), fields, _rows)

    # --- videos -----------------------------------------------------------------------------------

    def encode_video(
        self, features: Any, duration: float, *, id: str = "video", **streams: Any
    ) -> VideoFeatures:
        """Reads the features of a video of your own, as the run read those of its dataset.

        Args:
          features: [rows,D] array of any length, evenly spread over the video; a tuple of arrays with as many
            rows where the run's features are several sources side by side (`config.dataset.features`).
          duration: length of the video in seconds.
          id: name of the video, for an index.
          **streams: rows of the further streams that the architecture reads (flow, audio, objects, subtitles
            and others); flags, such as which objects are persons, are 1 and 0.

        Raises:
          UserError: for another width than the run's, numbers that are not finite, a missing stream, and a
            duration that is no positive number.
        """
        if not isinstance(id, str):
            raise UserError(f"The id of the video is {id!r}; expected is its name, as text.")
        number = isinstance(duration, (int, float, np.integer, np.floating)) and not isinstance(duration, bool)
        if not (number and np.isfinite(duration) and duration > 0):
            raise UserError(f"The duration of {id} is {duration!r}; give the length in seconds, a number.")
        for name in streams:
            if name not in self.streams:
                raise unknown("This run reads no stream", name, self.streams)
        where = f"The video {id}" if id != "video" else "The video"
        given = features if isinstance(features, tuple) else (features,)
        parts = check_rows(
            [np.asarray(part) for part in given],
            self.config.dataset.feature_dim,
            where,
            do="Give features like those that the run was trained with.",
        )
        _check_sources(self.config, parts, where)
        read = {"video": joined_rows(parts, self.config.input.normalize)}
        for name in self.streams:
            if streams.get(name) is None:
                raise UserError(
                    f"This run reads the stream {name} too. Give encode_video(features, duration, {name}=rows)."
                )
            rows = np.asarray(streams[name], np.float32)
            # As in training: streams of files are normalised, those in the records of a dataset are not.
            normalized = name in self.config.dataset.get("streams", {}) and fields_of(Batch)[name].has_vectors
            read[name] = normalize_rows(rows) if normalized and self.config.input.normalize else rows
        return VideoFeatures(id, float(duration), read)

    def read_video(self, dataset: Dataset, video: Video) -> VideoFeatures:
        """The features of a video of a prepared dataset."""
        streams = {name: dataset.clips(video, name) for name in ("video", *self.streams)}
        return VideoFeatures(video.id, video.duration, streams)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams beside the features of the clips that the architecture reads."""
        return tuple(name for name in fields_from("stream") if name in self.model.requires())

    # --- questions --------------------------------------------------------------------------------

    def batch(self, video: VideoFeatures, sentences: Sequence[str], rows: int = 0) -> Batch:
        """The host batch of a video with each sentence.

        Args:
          video: from `encode_video`.
          sentences: the queries.
          rows: B, at least the number of sentences; rows past them only fill the batch.
        """
        check_sentences(sentences)
        if not len(sentences):
            raise UserError("There is no sentence; a batch has a row for each. Give at least one.")
        tokenizer = self.config.text.tokenizer
        queries = [asked_query(sentence, video.duration, tokenizer) for sentence in sentences]
        record = Video(video.id, video.duration, dict(video.streams))
        made = [self.examples(query, record, self.examples.tokens(query)) for query in queries]
        made += made[-1:] * (rows - len(made))
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
        return dataclasses.replace(batch, example_mask=np.arange(len(made)) < len(queries))

    def predict(self, video: VideoFeatures, sentences: Sequence[str], k: int = 5) -> list[list[Moment]]:
        """The best moments of a video for each sentence, after the run's non-maximum suppression.

        Sentences are padded to few sizes of batch, each of which is compiled once.

        Args:
          video: from `encode_video`.
          sentences: the queries, in English.
          k: number of moments for each at most.

        Returns:
          For each sentence its moments, best first; fewer than k where the model has no more.
        """
        check_sentences(sentences)
        if not isinstance(video, VideoFeatures):
            raise UserError("Give predict a video from encode_video(features, duration=...).")
        check_count(k)
        answers: list[list[Moment]] = []
        for part in _parts(sentences):
            batch = self.batch(video, part, self._rows(len(part)))
            answers += self._moments(batch, [video.duration] * len(part), k)
        return answers

    def predict_in(self, videos: Sequence[VideoFeatures], sentence: str, k: int = 5) -> list[list[Moment]]:
        """The best moments of each of several videos for one sentence, as `predict` finds them one by one.

        Args:
          videos: from `encode_video`.
          sentence: the query, in English.
          k: number of moments of each video at most.
        """
        check_sentence(sentence)
        _check_videos(videos)
        check_count(k)
        answers: list[list[Moment]] = []
        for part in _parts(videos):
            rows = [self.batch(video, [sentence]) for video in part]
            nothing: Any = np.zeros(1, bool)
            filling = dataclasses.replace(rows[-1], example_mask=nothing)
            rows += [filling] * (self._rows(len(part)) - len(part))
            batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
            answers += self._moments(batch, [video.duration for video in part], k)
        return answers

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of a sentence that mean nothing to the run, as it has no vector of them."""
        query = asked_query(sentence, 1.0, self.config.text.tokenizer)
        return [token.text for token in self.examples.unknown(query)]

    def check_words(self, sentence: str) -> None:
        """UserError where no word that says something means anything to the run; names those that do not."""
        unread = self.unknown_words(sentence)
        words = [sentence[start:end].lower() for start, end in content_words(sentence)]
        if all(word in unread for word in words if word not in _AUXILIARIES) and unread:
            raise UserError(
                f'The run knows no word of "{sentence}" that says something: it has no vector of '
                f"{', '.join(unread)}. Use other words, or a run with more word vectors (config.text.vectors)."
            )
        if unread:
            log.warning("The run has no vector of %s, which is not searched for.", ", ".join(unread))

    def _moments(self, batch: Batch, durations: Sequence[float], k: int) -> list[list[Moment]]:
        """The k best moments of the first rows of a batch, which have these durations."""
        spans, scores = self._ranked(_bucket(k))(self.variables, self.parallel.put_batch(batch))
        return [
            [
                Moment(*map(float, (*span, score)))
                for span, score in zip(np.clip(row, 0.0, duration), of_row)
                if np.isfinite(score)
            ][:k]
            for row, of_row, duration in zip(spans, scores, durations)
        ]

    def _rows(self, count: int) -> int:
        """Rows of a batch for `count` sentences: a power of two, or a multiple of it that all devices share."""
        return math.lcm(_bucket(count), len(self.parallel.devices))

    def _ranked(self, k: int) -> Callable:
        """The compiled function of (variables, batch) that gives at most k spans [B,K,2] and scores [B,K]."""
        threshold = make_protocol(self.config.evaluation).nms_thresholds()[0]

        def ranked(variables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            outputs = self.model.apply(variables, batch, train=False)
            found = self.model.predict(outputs, batch)
            kept = moments_lib.nms(found, threshold, min(k, found.scores.shape[1]))
            return kept.spans, kept.scores

        return self._once(("predict", k), lambda: self.parallel.map_examples(ranked))

    def _once(self, key: tuple[str, int], make: Callable[[], Callable]) -> Callable:
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    # --- a corpus ---------------------------------------------------------------------------------

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors [Q,E] float32 of sentences, whose dot product with a moment's is its score; dual encoders."""
        check_sentences(sentences)
        if not self.is_dual_encoder:
            raise UserError(
                f"{self.config.model.name} scores a moment together with the sentence, which has no vector of "
                "its own. Only dual encoders encode sentences alone, such as fvmr."
            )
        nothing = VideoFeatures("none", 1.0, {name: self._empty(name) for name in ("video", *self.streams)})
        if not len(sentences):
            return self.encode_sentences(["someone"])[:0]
        encode = self._once(
            ("sentences", 0),
            lambda: query_encoder(
                self.model,
                self.variables,
                lambda part: self.batch(nothing, part),
                self.parallel,
                _TOGETHER,
            ),
        )
        return encode(sentences)

    def _empty(self, stream: str) -> np.ndarray:
        """One row of zeros, of a video that is not read."""
        spec = batch_spec(self.config, 1, self.model.requires())
        return np.zeros((1, *getattr(spec, stream).shape[2:]), np.float32)

    def index(
        self,
        videos: Iterable[VideoFeatures],
        path: str | Path | None = None,
        *,
        dtype: str | None = None,
        uri: str | None = None,
        collection: str = COLLECTION,
        owner: str = "",
    ) -> MomentIndex:
        """Encodes every moment of videos once, so that sentences can be searched in all of them.

        Args:
          videos: from `encode_video`, each with an id of its own.
          path: the folder of the index, new or empty.
          dtype: of the vectors on disk: 'float32', 'bfloat16' or 'int8', or two of them, as 'int8+float32': the
            best hundred are ranked again by the second; None is `config.retrieval.dtype`.
          uri: in place of the folder a Milvus server, or a file of Milvus Lite.
          collection: a new name there.
          owner: mark that the collection gets, without which `retrieval.pointer.drop` leaves it alone.

        Raises:
          UserError: for an architecture whose score is no dot product.
        """
        return MomentIndex.build(
            self.model,
            self.variables,
            self.video_batches(videos),
            path=None if path is None else user_path(path),
            uri=uri,
            collection=collection,
            owner=owner,
            encode=self.encode_sentences,
            parallel=self.parallel,
            dtype=dtype or self.config.retrieval.dtype,
            source=self.source,
            nms_threshold=self.config.retrieval.nms_threshold,
        )

    def video_batches(self, videos: Iterable[VideoFeatures]) -> Iterator[tuple[list[str], Batch]]:
        """Batches of videos with their ids; the sentence of each row is not read."""
        size = math.lcm(self.config.evaluation.batch_size, len(self.parallel.devices))
        if not isinstance(videos, Iterable):
            raise UserError(_VIDEOS)
        source = iter(videos)
        while part := list(itertools.islice(source, size)):
            _check_videos(part)
            rows = [self.batch(video, ["someone"]) for video in part]
            nothing: Any = np.zeros(1, bool)
            filling = dataclasses.replace(rows[-1], example_mask=nothing)
            rows += [filling] * (size - len(rows))
            yield [video.id for video in part], jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)

    @property
    def source(self) -> dict[str, Any]:
        """States of which run an index is: the architecture, the data and the step of the checkpoint."""
        return {"model": self.config.model.name, "dataset": self.config.dataset.name, "step": self.step}

    @property
    def is_dual_encoder(self) -> bool:
        """Whether moments can be encoded without the sentence, and so be indexed."""
        return isinstance(self.model, DualEncoder)


def _check_videos(videos: Any) -> None:
    """UserError for what are no videos that a run has read."""
    listed = isinstance(videos, Sequence) and not isinstance(videos, str)
    if not listed or not all(isinstance(video, VideoFeatures) for video in videos):
        raise UserError(_VIDEOS)


def _rows(video: Video, stream: str) -> np.ndarray:
    return video.embedded[stream]


def _check_sources(config: Any, parts: Sequence[np.ndarray], where: str) -> None:
    """Sources side by side are normalised each for itself, so they must come apart."""
    named = config.dataset.features
    sources = named.split(",") if isinstance(named, str) else list(named)
    if config.input.normalize and len(parts) != len(sources):
        raise UserError(
            f"{where}: the run's features are {len(sources)} sources side by side ({', '.join(sources)}), and "
            f"{len(parts)} came. Give a tuple of arrays, one for each source, in this order."
        )


def _parts(many: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for first in range(0, len(many), _TOGETHER):
        yield many[first : first + _TOGETHER]


def _bucket(count: int) -> int:
    """The next power of two."""
    return 1 << (int(count) - 1).bit_length()
