"""Parts of architectures that find a video among many, as XML has them (Lei et al., ECCV 2020).

Weights are N(0, 0.02), biases zero, as in BERT. Letters beyond the usual: Z streams of a video (clips and
subtitles). U are the videos of a corpus, or of the batches of all devices. M are moments, E is their width.
"""

import dataclasses
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, MultiHeadAttention, masked_softmax
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.examples import own_rows
from vmr_jax.layers.init import torch_default_kernel
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.moments import rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch, Moments

bert_init = nn.initializers.normal(0.02)
# The streams of a video that are read, by the option that names them.
STREAMS = {"both": ("video", "subtitles"), "video": ("video",), "subtitles": ("subtitles",)}
EVERY_NEGATIVE = 2**31 - 1  # as the number of best negatives, see `ranked_negative`
_GRID = 1e-4  # clips; a moment that ends on the grid must not reach into the next clip by rounding


def stream_rows(batch: Batch, streams: str, owner: str) -> dict[str, jax.Array]:
    """Returns the rows of each stream, [B,T,D] of clips or [B,T,W] of subtitles, these of unit length.

    Args:
      batch: the videos.
      streams: a key of `STREAMS`.
      owner: name of the architecture, for the error message.

    Raises:
      UserError: where subtitles are read and the batch has none.
    """
    rows = {"video": batch.video}
    if streams != "video":
        if batch.subtitles is None or batch.subtitle_mask is None:
            raise UserError(
                f"{owner} reads subtitles, and this batch has none. Choose a data set that has them, or set "
                "config.model.streams='video'."
            )
        said = jnp.where(batch.subtitle_mask[..., None], batch.subtitles, 0.0)
        rows["subtitles"] = l2_normalize(said)
    return {name: rows[name] for name in STREAMS[streams]}


# Layers.


class InputProjection(nn.Module):
    """Layer norm, dropout, a linear layer and ReLU.

    Parameters: norm, linear.

    Attributes:
      features: F, width of the result.
      dropout: dropout rate before the linear layer.
      dtype: number format of the computation.
    """

    features: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Maps [B,T,D] to [B,T,F]."""
        x = Dropout(self.dropout)(bert_norm(x, self.dtype, "norm"), example_index, train)
        return nn.relu(_linear(self.features, x, self.dtype, "linear"))


class LearnedPositions(nn.Module):
    """Adds a learned vector of every place; layer norm and dropout.

    Parameters: table [max_positions,F], norm.

    Attributes:
      max_positions: number of places of the longest input.
      unit: name of the places in an error message, 'clips' or 'words'.
      dropout: dropout rate of the result.
      dtype: number format of the computation.
    """

    max_positions: int
    unit: str
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of [B,T,F]; UserError where T is above max_positions."""
        length = x.shape[1]
        if length > self.max_positions:
            raise UserError(
                f"There are positions for {self.max_positions} {self.unit}, and the batch has {length}. Set "
                "config.input.num_clips and config.text.max_words to no more than config.model.max_clips and "
                "config.model.max_words, or raise these."
            )
        table = self.param("table", bert_init, (self.max_positions, x.shape[-1]))
        x = x + table[None, :length].astype(self.dtype)
        return Dropout(self.dropout)(bert_norm(x, self.dtype, "norm"), example_index, train)


class SelfAttention(nn.Module):
    """The first half of a layer of BERT (Devlin et al., 2019): attention, a linear layer, sum and layer norm.

    Parameters: attention, output, output_norm.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights and before the sum.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of [B,T,F] with mask [B,T]; the result at padding is meaningless."""
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=bert_init, dtype=self.dtype, name="attention"
        )
        y = _linear(self.features, attention(x, x, mask, example_index, train), self.dtype, "output")
        y = Dropout(self.dropout)(y, example_index, train)
        return bert_norm(x + y, self.dtype, "output_norm")


class ModularPool(nn.Module):
    """Pools the words once for each stream, with learned attention (official `get_modularized_queries`).

    Parameter: logits [F,Z].

    Attributes:
      streams: Z, number of streams.
    """

    streams: int

    @nn.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns [B,Z,F] float32 of words [B,L,F] with mask [B,L]."""
        words = words.astype(jnp.float32)
        logits = nn.Dense(self.streams, use_bias=False, kernel_init=bert_init, name="logits")(words)
        return jnp.einsum("blz,blf->bzf", masked_softmax(logits, mask[..., None], axis=1), words)


class CrossAttention(nn.Module):
    """Attention of one stream to another of the same clips, without an output layer; sum and layer norm.

    Parameters: attention, cross_norm.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights.
      dtype: number format of the computation.
      padding_sees_all: whether padded clips attend to every clip, padded ones too (the official codes);
        else to the real ones.
    """

    features: int
    heads: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    padding_sees_all: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, other: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool
    ) -> jax.Array:
        """Returns [B,T,F] of a stream [B,T,F], the other stream [B,T,F] and the mask [B,T] of both."""
        chex.assert_equal_shape([x, other])
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=bert_init, dtype=self.dtype, name="attention"
        )
        y = attention(x, other, mask, example_index, train)
        if self.padding_sees_all:
            every = attention(x, other, jnp.ones_like(mask), example_index, train)
            y = jnp.where(mask[..., None], y, every)
        return bert_norm(x + y, self.dtype, "cross_norm")


class ConvSE(nn.Module):
    """Logits of the first and the last clip: two convolutions over the similarity of query and clips.

    Parameters: start, end (kernels [kernel,1,1], without bias).

    Attributes:
      kernel: number of clips that a logit sees, odd.
      mask_similarity: whether the similarity of padded clips is read as 0, like what is beyond the last one.
        The official codes read it as it is, and so depend on the padding.
    """

    kernel: int = 5
    mask_similarity: bool = True

    @nn.compact
    def __call__(self, similarity: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of start and end, float32, of a similarity [B,T]; `MASKED` at padding."""
        chex.assert_equal_shape([similarity, mask])
        similarity = similarity.astype(jnp.float32)
        if self.mask_similarity:
            similarity = jnp.where(mask, similarity, 0.0)

        def logits(name):
            conv = nn.Conv(1, (self.kernel,), use_bias=False, kernel_init=torch_default_kernel, name=name)
            return jnp.where(mask, conv(similarity[..., None])[..., 0], MASKED)

        return logits("start"), logits("end")


def stream_similarity(linears: Sequence[nn.Dense], queries: jax.Array, localization: jax.Array) -> jax.Array:
    """Returns [B,T], dot products of clips and a linear layer of the query for each stream, their mean.

    Args:
      linears: a layer for each stream.
      queries: [B,Z,F].
      localization: [B,Z,T,F].
    """
    linear = jnp.stack([layer(queries[:, z]) for z, layer in enumerate(linears)], axis=1)
    return jnp.einsum("bzf,bztf->bzt", linear, localization.astype(jnp.float32)).mean(1)


@struct.dataclass
class Encoded:
    """A video, without the query: one encoding by which it is found, and one in which the moment is."""

    retrieval: jax.Array  # [B,Z,T,F], unit vectors, float32
    localization: jax.Array  # [B,Z,T,F]
    mask: jax.Array  # [B,T] bool

    @property
    def unit_clips(self) -> jax.Array:
        """[B,Z,T,F], `retrieval`."""
        return self.retrieval


# The score of a video, and its negatives.


def video_scores(queries: jax.Array, videos: jax.Array, mask: jax.Array, *, cosine: bool = True) -> jax.Array:
    """Returns how well each query fits each video: the mean over streams of the highest cosine with a clip.

    Args:
      queries: [B,Z,F], a vector of each query for each stream.
      videos: [U,Z,T,F], clips of each video.
      mask: [U,T] bool, real clips.
      cosine: False for the dot product instead.

    Returns:
      [B,U] float32; cosines are in [-1,1].
    """
    queries, videos = queries.astype(jnp.float32), videos.astype(jnp.float32)
    if cosine:
        queries, videos = l2_normalize(queries), l2_normalize(videos)
    fit = jnp.einsum("bzf,uztf->buzt", queries, videos)
    return jnp.where(mask[None, :, None, :], fit, MASKED).max(-1).mean(-1)


@struct.dataclass
class Comparison:
    """Scores of the examples of this device (rows) with the U examples of all devices."""

    of_videos: jax.Array  # [B,U] float32, of the row's query with all videos
    of_queries: jax.Array  # [B,U] of the row's video with all queries
    same: jax.Array  # [B,U] bool, the row's own example
    others: jax.Array  # [B,U] bool, other real examples


def compare_examples(queries: jax.Array, videos: jax.Array, batch: Batch, *, cosine: bool = True) -> Comparison:
    """Compares queries [B,Z,F] and clips [B,Z,T,F] of a batch, over all devices, by `video_scores`."""
    all_queries, all_videos, mask = gather_examples((queries, videos, batch.video_mask))
    same, real = own_rows(batch)
    of_videos = video_scores(queries, all_videos, mask, cosine=cosine)
    of_queries = video_scores(all_queries, videos, batch.video_mask, cosine=cosine).T
    return Comparison(of_videos, of_queries, same, ~same & real[None, :])


def compare_vectors(one: jax.Array, other: jax.Array, batch: Batch) -> Comparison:
    """Compares two vectors [B,F] of each example by their cosine: `one` with every `other`, and the reverse."""
    one, other = l2_normalize(one.astype(jnp.float32)), l2_normalize(other.astype(jnp.float32))
    all_ones, all_others = gather_examples((one, other))
    same, real = own_rows(batch)
    return Comparison(one @ all_others.T, other @ all_ones.T, same, ~same & real[None, :])


def ranking_hinges(
    compared: Comparison, draws: jax.Array, margin: float, pool: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns [B] hinge of a negative video and [B] of a negative query, see `ranked_negative`.

    Args:
      compared: the scores.
      draws: [B,2] uniform in [0,1), of the video and of the query.
      margin: margin of the hinge.
      pool: [] int32, the number of best negatives that are drawn from.
    """

    def hinge(scores, draw):
        positive = jnp.where(compared.same, scores, 0.0).sum(-1)
        return nn.relu(margin + ranked_negative(scores, compared.others, draw, pool) - positive)

    return hinge(compared.of_videos, draws[:, 0]), hinge(compared.of_queries, draws[:, 1])


def ranked_negative(scores: jax.Array, mask: jax.Array, draws: jax.Array, pool: jax.Array) -> jax.Array:
    """Returns the score of one of the `pool` best negatives of each row, drawn with equal probability.

    Args:
      scores: [B,U] of the queries with all videos (or of videos with all queries).
      mask: [B,U] bool, the negatives.
      draws: [B] uniform in [0,1); 0 is the best negative.
      pool: [] int32; rows with fewer negatives draw from all of them.

    Returns:
      [B]; `MASKED` in rows without a negative.
    """
    chex.assert_equal_shape([scores, mask])
    pool = jnp.minimum(mask.sum(-1), pool)
    # The product can round up to the pool.
    place = jnp.clip(jnp.floor(draws * pool).astype(jnp.int32), 0, jnp.maximum(pool - 1, 0))
    best_first = -jnp.sort(-jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.take_along_axis(best_first, place[:, None], axis=1)[:, 0]


def moment_contrast(
    moments: jax.Array, queries: jax.Array, own: jax.Array, labels: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Tells the moments of a query from those of other videos, and the query from those of other videos.

    Logits are dot products, as a search ranks the moments of all videos by them. Of the own video the share of
    its moments counts by their labels, that of the best one fully. Other videos are those in the batches of all
    devices, each as often as it has a query there.

    Args:
      moments: [B,M,E] moments of each query's video.
      queries: [B,E].
      own: [B,M] logits of each query with the moments of its video.
      labels: [B,M] from 0 to 1, how well they fit.
      batch: the examples.

    Returns:
      Cross-entropies [B] of the moments, and [B] of the query of the best moment.
    """
    chex.assert_equal_shape([own, labels])
    all_moments, all_queries, video, real = gather_examples(
        (moments, queries, batch.video_index, batch.example_mask)
    )
    other = (batch.video_index[:, None] != video[None]) & real[None]  # [B,U]
    best = labels.argmax(-1)
    counted = jnp.maximum(labels, jax.nn.one_hot(best, labels.shape[1]))
    elsewhere = jnp.einsum("be,ume->bum", queries, all_moments, precision="highest")
    elsewhere = jnp.where(other[:, :, None], elsewhere, MASKED)
    every = jnp.logaddexp(jax.nn.logsumexp(own, axis=1), jax.nn.logsumexp(elsewhere, axis=(1, 2)))
    rows = jnp.arange(len(best))
    chosen = own[rows, best]
    asked = jnp.einsum("ue,be->bu", all_queries, moments[rows, best], precision="highest")
    askers = jnp.logaddexp(chosen, jax.nn.logsumexp(jnp.where(other, asked, MASKED), axis=1))
    return every - jax.nn.logsumexp(own, axis=1, b=counted), askers - chosen


def _linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.Dense(features, kernel_init=bert_init, dtype=dtype, name=name)(x)


def bert_norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    """Layer normalisation as in BERT, by a layer `name` of the calling module."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)(x)


# The grid of clips.


def clip_seconds(duration: jax.Array, mask: jax.Array, seconds: float) -> jax.Array:
    """Returns the length [B] of a clip, of videos [B] in seconds with real clips `mask` [B,T].

    It is `seconds`; the clips of a video that is longer by more than one clip were averaged and cover it. With
    `seconds` = 0 they always cover it.
    """
    count, covering = jnp.maximum(mask.sum(-1), 1), clip_length(duration, mask)
    return jnp.where(duration > (count + 1) * seconds, covering, seconds) if seconds else covering


def span_labels(span: jax.Array, count: jax.Array, late_end: bool) -> tuple[jax.Array, jax.Array]:
    """Returns clips [B] to learn as start and end, of moments [B,2] in clips and the number of clips [B].

    The start is the clip in which the moment starts. The end is the clip in which it ends, or with `late_end`
    the one after it, as in the official code (`get_st_ed_label`).
    """
    last = count - 1
    start = jnp.floor(span[:, 0] + _GRID).astype(jnp.int32)
    end = jnp.ceil(span[:, 1] - _GRID).astype(jnp.int32)
    start = jnp.clip(start, 0, last)
    return start, jnp.clip(end if late_end else end - 1, start, last)


# Moments from their start and end.


@dataclasses.dataclass(frozen=True)
class PairRule:
    """Which clips may be the start and end of a moment, and its time.

    Attributes:
      shortest: number of clips of the shortest moment.
      longest: number of clips of the longest moment; 0: any.
      end_inside: whether the end is the last clip of the moment; else it is the clip after it.
    """

    shortest: int
    longest: int
    end_inside: bool = True

    def pairs(self, start: jax.Array, end: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
        """Scores all pairs of a start and one of P ends, of logits [B,T] and the mask [B,T] of clips.

        Returns:
          First and last clips [T,P] of moments, their log-probabilities [B,T,P] and whether they are
          possible [B,T,P].
        """
        length, inside = mask.shape[1], int(self.end_inside)
        more = jnp.arange(self.shortest - inside, (self.longest or length) + 1 - inside)
        first = jnp.broadcast_to(jnp.arange(length)[:, None], (length, more.shape[0]))
        place = first + more[None, :]
        reached = jnp.minimum(place, length - 1)
        scores = jax.nn.log_softmax(start)[:, :, None] + jax.nn.log_softmax(end)[:, reached]
        possible = mask[:, :, None] & mask[:, reached] & (place < length)[None]
        return first, place - (1 - inside), scores, possible

    def moments(self, start, end, mask: jax.Array, duration, seconds, keep: int) -> Moments:
        """Returns the `keep` most probable moments of logits [B,T]; duration and length of a clip are [B]."""
        first, last, scores, possible = self.pairs(start, end, mask)
        spans = jnp.stack([first, last + 1], axis=-1).reshape(1, -1, 2) * seconds[:, None, None]
        spans = jnp.minimum(spans, duration[:, None, None])
        flat = (scores.shape[0], -1)
        return rank(spans, scores.reshape(flat), possible.reshape(flat), keep)

    def picture(self, start: jax.Array, end: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns [B,T,T], the probability of moments relative to the best; NaN where there is none."""
        first, last, scores, possible = self.pairs(start, end, mask)
        best = jnp.where(possible, scores, MASKED).max((1, 2), keepdims=True)
        relative = jnp.where(possible, jnp.exp(jnp.minimum(scores - best, 0.0)), jnp.nan)
        empty = jnp.full((*mask.shape, mask.shape[1]), jnp.nan)
        return empty.at[:, first, last].set(relative, mode="drop")


def clip_index(features: jax.Array, batch: Batch, seconds: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the clips of unit features [B,Z,T,F]: vectors [B,T,Z F], spans [B,T,2] in seconds, mask [B,T].

    Filling rows of the batch have an all-False mask. `seconds` [B] is the length of a clip.
    """
    vectors = features.transpose(0, 2, 1, 3).reshape(*batch.video_mask.shape, -1)
    clip = jnp.arange(batch.video_mask.shape[1])
    spans = jnp.stack([clip, clip + 1], axis=-1)[None] * seconds[:, None, None]
    real = batch.video_mask & batch.example_mask[:, None]
    return vectors, jnp.minimum(spans, batch.duration[:, None, None]), real
