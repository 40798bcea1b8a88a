"""XML's line of architectures, as far as they agree: clips find the video, start and end the moment in it.

Letters beyond the usual: Z streams of a video (clips and subtitles).
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vmr_jax.layers.corpus import (
    InputProjection,
    PairRule,
    SelfAttention,
    clip_index,
    clip_seconds,
    compare_examples,
    ranking_hinges,
    span_labels,
    video_scores,
)
from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.losses import position_cross_entropy
from vmr_jax.types import Batch, Mean, Moments


class EncodedVideos(Protocol):
    """Videos without a query, [B,...].

    Attributes:
      retrieval: [B,Z,T,F] float32, by whose clips a video is found.
      unit_clips: the same as unit vectors.
      mask: [B,T] bool.
    """

    @property
    def retrieval(self) -> jax.Array: ...

    @property
    def unit_clips(self) -> jax.Array: ...

    @property
    def mask(self) -> jax.Array: ...


class StartEndRetriever:
    """Labels, losses, prediction and the corpus, of an architecture that encodes queries and videos apart.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      streams: streams of a video that are read, 'both', 'video' or 'subtitles'.
      dropout: dropout rate of the attentions.
      input_dropout: dropout rate before and after the first linear layers.
      dtype: number format of the layers.
      clip_seconds: length of a clip in seconds; 0: equal parts that cover the video.
      margin: margin of the hinge losses that rank videos and queries.
      span_weight: weight of the cross-entropy of start and end.
      video_scale: factor of the score of a video in that of a moment.
      keep: number of moments that are ranked in a video.
    """

    features: int
    heads: int
    streams: str
    dropout: float
    input_dropout: float
    dtype: jnp.dtype
    clip_seconds: float
    margin: float
    span_weight: float
    video_scale: float
    keep: int

    # What XML and ReLoCL have in common of their layers.

    def _input(self) -> InputProjection:
        return InputProjection(self.features, self.input_dropout, self.dtype)

    def _encoder(self) -> SelfAttention:
        return SelfAttention(self.features, self.heads, self.dropout, self.dtype)

    def requires(self) -> tuple[str, ...]:
        """Names the subtitles, where they are read."""
        return () if self.streams == "video" else ("subtitles",)

    # What each architecture has.

    @property
    def _rule(self) -> PairRule:
        """Which clips may be start and end of a predicted moment."""
        raise NotImplementedError

    @property
    def _late(self) -> bool:
        """Whether the end that is learnt is the clip after the moment."""
        raise NotImplementedError

    def _queries(self, batch: Batch, train: bool) -> jax.Array:
        """Returns a vector of the query for each stream, [B,Z,F] float32."""
        raise NotImplementedError

    def encode_videos(self, batch: Batch) -> Any:
        """Encodes videos so that they can be found; reads no query field."""
        raise NotImplementedError

    def _start_end(self, queries: jax.Array, videos: Any) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of queries [B,Z,F] in their videos."""
        raise NotImplementedError

    # Losses.

    def _draws(self, index: jax.Array, train: bool, count: int = 2) -> jax.Array:
        """Returns draws [B,count] of the example alone; zeros, the hardest negative, at evaluation."""
        if not train:
            return jnp.zeros((*index.shape, count))
        key = self.make_rng("dropout")  # type: ignore[attr-defined]  # of the Flax module
        return draw_per_example(key, index, jax.random.uniform, (count,))

    def _losses(self, outputs: Any, clips: jax.Array, batch: Batch, pool: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of 'start' and 'end'; the own 'video' and the own 'query' before another, as hinge.

        Source of the last two: official `get_video_level_loss`, over the examples of all devices.

        Args:
          outputs: logits `start` and `end` [B,T], `queries` [B,Z,F] and `draws` [B,2].
          clips: [B,Z,T,F], by which a video is found.
          batch: the examples.
          pool: [] int32, the number of best negatives that are drawn from.
        """
        start, end = self._labels(batch)
        compared = compare_examples(outputs.queries, clips, batch)
        behind_video, behind_query = ranking_hinges(compared, outputs.draws, self.margin, pool)
        real = batch.example_mask
        ranked = real & compared.others.any(-1)
        return {
            "start": Mean.of(position_cross_entropy(outputs.start, start), real, self.span_weight),
            "end": Mean.of(position_cross_entropy(outputs.end, end), real, self.span_weight),
            "video": Mean.of(behind_video, ranked),
            "query": Mean.of(behind_query, ranked),
        }

    def _labels(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        seconds = self._clip_seconds(batch.duration, batch.video_mask)
        return span_labels(batch.span / seconds[:, None], batch.video_mask.sum(-1), self._late)

    def _clip_seconds(self, duration: jax.Array, mask: jax.Array) -> jax.Array:
        return clip_seconds(duration, mask, self.clip_seconds)

    # Inference.

    def _moments(self, start, end, mask, duration) -> Moments:
        """Returns the best pairs of start and end that the rule allows, in seconds."""
        seconds = self._clip_seconds(duration, mask)
        return self._rule.moments(start, end, mask, duration, seconds, self.keep)

    def predict(self, outputs: Any, batch: Batch) -> Moments:
        """Returns moments of the own video; the score is the logarithm of p(start) p(end)."""
        return self._moments(outputs.start, outputs.end, batch.video_mask, batch.duration)

    def score_videos(self, batch: Batch, videos: EncodedVideos) -> jax.Array:
        """Returns [B,U], r times `video_scale`; reads no video field."""
        queries = self._queries(batch, train=False)
        return self.video_scale * video_scores(queries, videos.retrieval, videos.mask)

    def localize(self, batch: Batch, videos: Any, video_mask: jax.Array, duration: jax.Array) -> Moments:
        """Returns moments of query b in video b, with log p(start) p(end); reads no video field."""
        start, end = self._start_end(self._queries(batch, train=False), videos)
        return self._moments(start, end, video_mask, duration)

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the clips: vectors [B,T,Z F], spans [B,T,2] in seconds and mask [B,T]; reads no query field.

        Filling rows of the batch have an all-False mask.
        """
        seconds = self._clip_seconds(batch.duration, batch.video_mask)
        return clip_index(self.encode_videos(batch).unit_clips, batch, seconds)

    def encode_query(self, batch: Batch) -> jax.Array:
        """Returns vectors [B,Z F]; the dot product with a clip is the mean cosine over the streams."""
        queries = l2_normalize(self._queries(batch, train=False))
        return queries.reshape(len(queries), -1) / queries.shape[1]

    def explain(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Returns the probability of every moment relative to the best: 'map' [B,T,T]."""
        return {"map": self._rule.picture(outputs.start, outputs.end, batch.video_mask)}
