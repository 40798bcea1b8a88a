"""CAL: the clips of a moment are aligned with the sentence one by one, and the moment is their mean distance.

Names at the right, and "official code" in the file, are those of the authors' program.

  tensor       shape       meaning                                               official code
  batch.video  [B,T,D]     features of clips of 3 s, not normalised
  windows      [M]         first and last clip: windows of several lengths that  SlidingWindowMSRSS
                           slide over the video
  clips        [B,T,2D]    [clip; mean of the video], each L2-normalised         VisualRepresentationSMCN
  endpoints    [B,M,2]     start and end of the moment, as parts of the video    TemporalEndpointFeature
  v            [B,M,T,E]   clips of each moment: linear with `hidden` outputs,   visual_encoder
                           ReLU, linear, dropout
  t            [B,E]       LSTM over word vectors, last state, linear            encode_query
  distance     [B,M]       mean of |v - t|^2 over the clips; the smallest wins   pool_compared_snippets

A sentence has two negatives: another segment of its video (intra) and the same seconds of another one (inter).

With endpoints='none' or 'clip' (start and end of the clip itself) a clip is encoded once for all moments that
it is in. Either way the mean distance is |mean v - t|^2 + variance of v, a dot product, so that all moments of
a corpus can be ranked, exactly, by an index.

distance='chamfer' is the authors' later variant (CALChamfer): every state of the LSTM is a vector t [B,L,E],
and the distance is that of two sets, the mean over the clips of the nearest word plus the mean over the words
of the nearest clip. It is no dot product.
"""

import dataclasses
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.corpus import clip_seconds, span_labels
from vmr_jax.layers.draws import annotated_moment, random_segments, uniform_choice
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import symmetric_uniform
from vmr_jax.layers.norm import l2_normalize, unit_length
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Temporal Localization of Moments in Video Collections with Natural Language",
    authors=("Escorcia", "Soldan", "Sivic", "Ghanem", "Russell"),
    venue="CoRR",
    year=2019,
    family="corpus",
    kind="metric space of clips, sliding windows (dual encoder)",
    supervision="full",
    features="ResNet-152; GloVe",
    official_code="escorciav/moments-retrieval@fb792de6f18f (PyTorch)",
    ours=(
        "The other video is drawn from the batch, not from the data set; a sentence without one does not count "
        "in that term. Importance sampling by a first ranking is left out.",
        "A negative in the own video is the first of 32 random segments that overlaps little; the official "
        "code draws until there is one.",
        "The ends of a segment have a tolerance of 1e-4 clips, where the official code subtracts 1e-6 s: with "
        "NumPy 2, which rounds that off, it takes a clip too many.",
        "NMS keeps an overlap that equals the threshold, the official code does not. Its momentum, Caffe's, "
        "keeps the learning rate of each gradient; ours follows the current one.",
        "Left out are the second stage of the paper, context of a few clips, more layers, the loss of single "
        "clips, and LSTMs of two directions; no training of CALChamfer was published, ours is that of CAL.",
    ),
    verified=(
        "Against the official code at this commit, running with its own data set and proposals (and scalars of "
        "NumPy 1), random weights, five videos padded to one length: the distances of all windows, with all "
        "endpoints and of both variants, and those of drawn triplets to 3e-7 of the largest, losses to 6e-7, "
        "gradients to 1e-6, every place of the ranked lists; with NMS at a threshold 3e-5 lower too.",
        "The lists of windows of 140 videos and five settings are the same, and the 21 segments of DiDeMo.",
        "In the corpus all distances and dot products equal the official ones to 4e-7 of the largest.",
        "Checkpoints are imported.",
        "On `storyboard` the right video of 150 is among the first ten for 84.72% of the test queries.",
    ),
)

_TRIES = 32  # random segments of which the first with a low IoU is the negative; the official code never stops
_AT_ONCE = 8  # windows whose clips are encoded at once


@struct.dataclass
class Outputs:
    """Distances, float32: [B,3] to the moment and its negatives while training, else [B,M] to all windows."""

    distances: Array
    has_intra: Any = None  # [B] bool, whether the video has another segment; None at test
    has_inter: Any = None  # [B] bool, whether the batch has another video


@struct.dataclass
class Encoded:
    """The windows of a video, without the query: what each distance needs.

    Of the mean distance the mean of the clips [B,M,E] and their variance [B,M]; of the Chamfer distance the
    clips [B,M,T,E], or [B,1,T,E] where all windows share them, and which are in a window [B,M,T].
    """

    vectors: Array
    variance: Any
    inside: Any
    spans: Array  # [B,M,2] seconds
    mask: Array  # [B,M] bool


class Model(GroundingModel, CorpusRetriever, DualEncoder):
    """CAL, with the defaults of the official code and the windows of its README for Charades-STA.

    Attributes:
      distance: distance of moment and sentence, 'mean' of the clips or 'chamfer', of clips and words.
      endpoints: temporal endpoints beside the features of a clip, of the 'moment', of the 'clip', or 'none'.
      moments: 'windows' draws one of the annotated moments of a query in each step; 'span' is the one to learn.
      negatives: negatives in the own video, random 'segments' or random 'windows' of those that are searched.
      global_context: whether the mean of the whole video is a part of the input.
      clip_seconds: length of a clip in seconds; 0: equal parts that cover the video.
      unit: number of clips of the shortest window.
      scales: lengths of the windows, as multiples of the shortest.
      stride: steps of a window as a share of its length, rounded to multiples of the shortest, at least one.
      hidden: width of the hidden layer of the clips' network.
      features: E, width of the common space.
      lstm_features: width of the LSTM.
      dropout: share of numbers of an embedded clip that dropout sets to zero.
      unit_vectors: whether embedded clips and sentences are L2-normalised.
      margin: margin of both losses, a difference of distances.
      intra_weight: weight of the loss with another segment of the same video.
      inter_weight: weight of the loss with the same segment of another video.
      negative_iou: IoU with the moment below which a segment of its video is a negative.
      init_bound: bound of the initial weights, uniform in [-init_bound, init_bound]; biases start at 0.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of windows that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, distances and losses are float32.
    """

    positive: ClassVar[tuple[str, ...]] = ("scales", "unit", "negative_iou")

    distance: str = "mean"
    endpoints: str = "moment"
    moments: str = "windows"
    negatives: str = "segments"
    global_context: bool = True
    clip_seconds: float = 3.0
    unit: int = 1
    scales: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    stride: float = 0.3
    hidden: int = 500
    features: int = 100
    lstm_features: int = 1000
    dropout: float = 0.3
    unit_vectors: bool = False
    margin: float = 0.1
    intra_weight: float = 0.5
    inter_weight: float = 0.2
    negative_iou: float = 0.35
    init_bound: float = 0.08
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {
        "distance": ("mean", "chamfer"),
        "endpoints": ("moment", "clip", "none"),
        "moments": ("windows", "span"),
        "negatives": ("segments", "windows"),
    }

    def setup(self):
        """Names the networks."""
        kernel_init, zeros = symmetric_uniform(self.init_bound), nn.initializers.zeros
        self.clips = ClipEncoder(self.hidden, self.features, self.init_bound, self.dtype)
        self.drop = Dropout(self.dropout)
        self.words = WordEmbedding(self.vocab_size, self.dtype)
        self.lstm = LSTM(self.lstm_features, dtype=self.dtype, kernel_init=kernel_init, bias_init=zeros)
        self.sentence_output = nn.Dense(self.features, kernel_init=kernel_init, dtype=self.dtype)

    def requires(self) -> tuple[str, ...]:
        """Names the annotated moments, where one is drawn from them."""
        return ("windows",) if self.moments == "windows" else ()

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Measures the distances to the moment and its negatives while training, else to all windows."""
        batch.check()
        if not train:
            return Outputs(self._distances(*self._sentence(batch), self.encode_videos(batch)))
        segments, other, has_intra, has_inter = self._triplets(batch)
        v, inside = self._triplet_clips(batch, segments, other)
        v = self._unit(self.drop(v, batch.example_index, train))
        t, words = self._sentence(batch)
        if self.distance == "chamfer":
            return Outputs(chamfer(v, inside, t, words), has_intra, has_inter)
        return Outputs(masked_mean(jnp.square(v - t[:, None, None]).sum(-1), inside), has_intra, has_inter)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'intra' and 'inter', max(0, margin + d(moment) - d(negative)) (IntraInterMarginLoss)."""
        del epoch
        own, real = outputs.distances[:, 0], batch.example_mask
        intra, inter = (jnp.maximum(self.margin + own - outputs.distances[:, place], 0.0) for place in (1, 2))
        return {
            "intra": Mean.of(intra, outputs.has_intra & real, self.intra_weight),
            "inter": Mean.of(inter, outputs.has_inter & real, self.inter_weight),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the windows of the video, nearest first; the score is the negative distance."""
        _, _, spans, real = self._windows(batch)
        return rank(spans, -outputs.distances, real, self.keep or spans.shape[1])

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns 'map' [B,T,T], the exponential of the negative distance of each window, NaN elsewhere."""
        first, last, _, real = self._windows(batch)
        score = jnp.where(real, jnp.exp(-outputs.distances), -1.0)
        empty = jnp.full((*batch.video_mask.shape, batch.video_mask.shape[1]), -1.0)
        # A window that is none may be cut to another, which then counts.
        picture = empty.at[jnp.arange(batch.size)[:, None], first, last].max(score)
        return {"map": jnp.where(picture < 0, jnp.nan, picture)}

    # The corpus.

    def encode_videos(self, batch: Batch) -> Encoded:
        """Encodes the windows of videos so that they can be found; reads no query field."""
        first, last, spans, real = self._windows(batch)
        inside = _inside(first, last, batch.video_mask.shape[1])
        rows, ends = self._rows(batch.video, batch.video_mask)[:, None], self._ends(batch, spans)
        reduce = self._mean_of if self.distance == "mean" else lambda v, _: v
        if self.endpoints == "moment":
            found = self.clips.of_many(rows, ends, inside, reduce)
        else:
            found = reduce(self.clips(rows, ends), inside)
        if self.distance == "chamfer":
            return Encoded(found, None, inside, spans, real)
        return Encoded(found[..., :-1], found[..., -1], None, spans, real)

    def _mean_of(self, v: Array, inside: Array) -> Array:
        """Returns mean and variance [B,M,E+1] of the clips [B,1,T,E] inside of moments, `inside` [B,M,T]."""
        v = self._unit(v.astype(jnp.float32))[:, 0]
        weight = inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)
        mean = jnp.einsum("bmt,bte->bme", weight, v)
        square = jnp.einsum("bmt,bt->bm", weight, jnp.square(v).sum(-1))
        variance = square - jnp.square(mean).sum(-1)
        return jnp.concatenate([mean, variance[..., None]], axis=-1)

    def score_videos(self, batch: Batch, videos: Encoded) -> Array:
        """Returns [B,U], the negative distance of the best window of each video; reads no video field."""
        t, words = self._sentence(batch)

        def best(video: Encoded) -> Array:
            one = jax.tree.map(lambda x: x[None], video)
            return jnp.where(video.mask[None], -self._distances(t, words, one), -jnp.inf).max(-1)

        return jax.lax.map(best, videos).T

    def localize(self, batch: Batch, videos: Encoded, video_mask: Array, duration: Array) -> Moments:
        """Returns windows of query b in video b, scored by their distance to the best; reads no video field."""
        del video_mask, duration  # the windows were cut to the video when it was encoded
        distances = self._distances(*self._sentence(batch), videos)
        nearest = jnp.where(videos.mask, distances, jnp.inf).min(-1, keepdims=True)
        return rank(videos.spans, nearest - distances, videos.mask, self.keep or distances.shape[1])

    def encode_moments(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns vectors [B,M,E+2], spans [B,M,2] and mask [B,M]; the dot product is the negative distance.

        Reads no query field. Raises UserError for distance='chamfer'.
        """
        self._check_product()
        videos = self.encode_videos(batch)
        own = jnp.square(videos.vectors).sum(-1) + videos.variance
        parts = [2 * videos.vectors, -own[..., None], -jnp.ones_like(own)[..., None]]
        return jnp.concatenate(parts, -1), videos.spans, videos.mask & batch.example_mask[:, None]

    def encode_query(self, batch: Batch) -> Array:
        """Returns vectors [B,E+2], (t, 1, |t|^2); reads the words alone. Raises as `encode_moments`."""
        self._check_product()
        t, _ = self._sentence(batch)
        square = jnp.square(t).sum(-1, keepdims=True)
        return jnp.concatenate([t, jnp.ones_like(square), square], axis=-1)

    def _check_product(self) -> None:
        if self.distance == "chamfer":
            raise UserError(
                "The Chamfer distance of CAL is no dot product, so its moments cannot be indexed. Train with "
                "config.model.distance='mean', or evaluate with the protocol 'corpus', which needs no index."
            )

    # Windows.

    def windows(self, num_clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns first clip, length, and length of the next shorter window from that first clip (0: none).

        Each is [M], sorted (official code: SlidingWindowMSRSS).
        """
        lengths: dict[int, set[int]] = {}
        for scale in self.scales:
            step = max(round(scale * self.stride), 1) * self.unit
            for first in range(0, num_clips, step):
                lengths.setdefault(first, set()).add(scale * self.unit)
        found = []
        for first in sorted(lengths):
            shorter = 0
            for length in sorted(lengths[first]):
                if first + shorter < num_clips:
                    found.append((first, length, shorter))
                shorter = length
        first, length, shorter = np.array(found).T
        return first, length, shorter

    def _windows(self, batch: Batch) -> tuple[Array, Array, Array, Array]:
        """Returns first and last clips [B,M], spans [B,M,2] in seconds, and which are of the video [B,M].

        A window that is longer than the rest of the video is cut, unless a shorter one is cut to the same.
        """
        first, length, shorter = (jnp.asarray(x)[None] for x in self.windows(batch.video_mask.shape[1]))
        count = batch.video_mask.sum(-1)[:, None]
        last = jnp.minimum(first + length, count) - 1
        first = jnp.broadcast_to(first, last.shape)
        seconds = clip_seconds(batch.duration, batch.video_mask, self.clip_seconds)[:, None, None]
        spans = jnp.minimum(jnp.stack([first, last + 1], -1) * seconds, batch.duration[:, None, None])
        return first, last, spans, first + shorter < count

    # Negatives.

    def _triplets(self, batch: Batch) -> tuple[Array, Array, Array, Array]:
        """Draws [B,3,2] seconds, the moment and its negatives, and the example [B] whose video has the last.

        The last two [B] say whether there was one (official `_negative_intra_sampling` and `_inter_`).
        """
        moment_key, intra_key, inter_key, place_key = jax.random.split(self.make_rng("dropout"), 4)
        own = annotated_moment(moment_key, batch, self.moments, "CAL")
        intra, has_intra = self._other_segment(intra_key, batch, own)
        rows = (batch.example_mask, batch.video_index, batch.duration)
        all_real, all_videos, all_durations = gather_examples(rows)
        eligible = all_real[None] & (all_videos[None] != batch.video_index[:, None])
        other, has_inter = uniform_choice(inter_key, batch.example_index, eligible)
        duration = jnp.take(all_durations, other)
        anywhere = random_segments(place_key, batch.example_index, duration, 1)[:, 0]
        inter = jnp.where((duration < batch.duration)[:, None], anywhere, own)
        return jnp.stack([own, intra, inter], axis=1), other, has_intra, has_inter

    def _other_segment(self, key: Array, batch: Batch, own: Array) -> tuple[Array, Array]:
        """Draws a segment [B,2] that overlaps little with the moment [B,2], and whether there was any."""
        key, window_key = jax.random.split(key)
        tries = random_segments(key, batch.example_index, batch.duration, _TRIES)
        low = iou(tries, own[:, None]) < self.negative_iou
        segment = jnp.take_along_axis(tries, low.argmax(-1)[:, None, None], axis=1)[:, 0]
        if self.negatives == "segments":
            return segment, low.any(-1)
        _, _, spans, real = self._windows(batch)
        eligible = real & (iou(spans, own[:, None]) < self.negative_iou)
        place, there = uniform_choice(window_key, batch.example_index, eligible)
        window = jnp.take_along_axis(spans, place[:, None, None], axis=1)[:, 0]
        return jnp.where(there[:, None], window, segment), there | low.any(-1)

    def _triplet_clips(self, batch: Batch, segments: Array, other: Array) -> tuple[Array, Array]:
        """Returns clips [B,3,T,E] of the videos of segments [B,3,2], and which are inside of them [B,3,T]."""
        everyone = gather_examples((batch.video, batch.video_mask, batch.duration))
        video, mask, duration = (jnp.take(x, other, axis=0) for x in everyone)
        others = dataclasses.replace(batch, video=video, video_mask=mask, duration=duration)
        rows, ends, inside = [], [], []
        for place, videos in enumerate((batch, batch, others)):
            segment = segments[:, place]
            seconds = clip_seconds(videos.duration, videos.video_mask, self.clip_seconds)
            first, last = span_labels(segment / seconds[:, None], videos.video_mask.sum(-1), late_end=False)
            inside.append(_inside(first[:, None], last[:, None], videos.video_mask.shape[1]))
            if place != 1:  # the first two are of the same video
                rows.append(self._rows(videos.video, videos.video_mask))
            ends.append(self._ends(videos, segment[:, None]))
        stacked = jnp.stack([rows[0], rows[0], rows[1]], axis=1)
        v = self.clips(stacked, jnp.concatenate(ends, axis=1))
        return v.astype(jnp.float32), jnp.concatenate(inside, axis=1)

    # Networks.

    def _rows(self, video: Array, mask: Array) -> Array:
        """Returns [B,T,2D], clips and the mean of the video, of unit length (official `_local_feature`)."""
        clips = jnp.where(mask[..., None], video.astype(jnp.float32), 0.0)
        rows = unit_length(clips, 1e-6)
        if not self.global_context:
            return rows
        context = unit_length(clips.sum(1) / jnp.maximum(mask.sum(-1), 1)[:, None], 1e-5)
        return jnp.concatenate([rows, jnp.broadcast_to(context[:, None], rows.shape)], axis=-1)

    def _ends(self, batch: Batch, spans: Array) -> Array:
        """Returns endpoints, [B,M,1,2] of moments [B,M,2], or [B,1,T,2] of the clips, or of width 0."""
        duration = batch.duration[:, None, None, None]
        if self.endpoints == "moment":
            return spans[:, :, None] / duration
        if self.endpoints == "none":
            return jnp.zeros((batch.size, 1, 1, 0))
        clip = jnp.arange(batch.video_mask.shape[1])
        seconds = clip_seconds(batch.duration, batch.video_mask, self.clip_seconds)
        return jnp.stack([clip, clip + 1], axis=-1)[None, None] * seconds[:, None, None, None] / duration

    def _sentence(self, batch: Batch) -> tuple[Array, Array]:
        """Returns t, [B,E] of the sentence or [B,L,E] of its words (Chamfer), float32, and the mask [B,L]."""
        states = self.lstm(self.words(batch), batch.query_mask)
        if self.distance == "mean":
            states = last_state(states, batch.query_mask)
        return self._unit(self.sentence_output(states).astype(jnp.float32)), batch.query_mask

    def _unit(self, x: Array) -> Array:
        return l2_normalize(x) if self.unit_vectors else x

    def _distances(self, t: Array, words: Array, videos: Encoded) -> Array:
        """Returns [B,M], distances of sentences t and windows of B videos, or of one for all."""
        if self.distance == "mean":
            return jnp.square(videos.vectors - t[:, None]).sum(-1) + videos.variance
        shared = videos.vectors.shape[1] == 1

        def of_window(m: Array) -> Array:
            v = videos.vectors[:, 0 if shared else m]
            v = self._unit(v.astype(jnp.float32))
            return chamfer(v[:, None], videos.inside[:, m, None], t, words)[:, 0]

        return jax.lax.map(of_window, jnp.arange(videos.inside.shape[1])).T


class ClipEncoder(nn.Module):
    """The two layers of the clips' network (official code: visual_encoder); fields as of the model.

    Parameters: hidden_kernel, hidden_bias, output_kernel, output_bias. The hidden layer is computed in two
    parts, of the clips and of the endpoints, so that many moments share the first.
    """

    hidden: int
    features: int
    init_bound: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, rows: Array, ends: Array, many: Any = None) -> Array:
        """Returns [B,M,T,E] of clips [B,M,T,2D] and endpoints [B,M,1,2] or [B,1,T,2]; see `of_many`."""
        uniform, zeros = symmetric_uniform(self.init_bound), nn.initializers.zeros
        width = rows.shape[-1]
        shape = (width + ends.shape[-1], self.hidden)
        kernel = self.param("hidden_kernel", uniform, shape).astype(self.dtype)
        bias = self.param("hidden_bias", zeros, (self.hidden,)).astype(self.dtype)[None, None, None]
        output = self.param("output_kernel", uniform, (self.hidden, self.features)).astype(self.dtype)
        output_bias = self.param("output_bias", zeros, (self.features,)).astype(self.dtype)[None, None, None]
        of_rows = rows.astype(self.dtype) @ kernel[:width] + bias

        def encode(ends: Array) -> Array:
            hidden = nn.relu(of_rows + ends.astype(self.dtype) @ kernel[width:])
            return hidden @ output + output_bias

        return encode(ends) if many is None else many(encode)

    def of_many(self, rows: Array, ends: Array, inside: Array, reduce: Any) -> Array:
        """Returns [B,M,...], what is kept of the clips of each moment, by a few moments at a time.

        Args:
          rows: [B,1,T,2D], clips that the moments share.
          ends: [B,M,1,2], endpoints of the moments.
          inside: [B,M,T], which clips are in which.
          reduce: function of the encoded clips [B,1,T,E] and `inside` [B,1,T] of one moment.
        """

        def many(encode):
            def one(moment):
                ends, inside = moment
                return reduce(encode(ends[:, None]), inside[:, None])[:, 0]

            by_moment = ends.swapaxes(0, 1), inside.swapaxes(0, 1)
            return jax.lax.map(one, by_moment, batch_size=_AT_ONCE).swapaxes(0, 1)

        return self(rows, ends, many)


# Segments and distances.


def _inside(first: Array, last: Array, num_clips: int) -> Array:
    """Returns [B,M,T] bool, the clips from first [B,M] to last [B,M]."""
    clip = jnp.arange(num_clips)[None, None]
    return (clip >= first[..., None]) & (clip <= last[..., None])


def masked_mean(x: Array, mask: Array) -> Array:
    """Returns the mean of x [...,T] over mask [...,T]; zero where there is nothing."""
    return jnp.where(mask, x, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def chamfer(v: Array, inside: Array, t: Array, words: Array) -> Array:
    """Returns [B,M], distances of sets of clips and of words (official code: DoubleMaskedChamferDistance).

    Args are the clips v [B,M,T,E], or [1,M,T,E], those of each set [B,M,T], words t [B,L,E] and their mask.
    """
    chex.assert_rank([v, t], [4, 3])
    squares = jnp.square(v).sum(-1)[..., None] + jnp.square(t).sum(-1)[:, None, None]
    pairs = squares - 2 * jnp.einsum("bmte,ble->bmtl", jnp.broadcast_to(v, (len(t), *v.shape[1:])), t)
    both = inside[..., None] & words[:, None, None]
    pairs = jnp.where(both, pairs, -MASKED)
    of_clips = masked_mean(pairs.min(-1), jnp.broadcast_to(inside, pairs.shape[:-1]))
    of_words = masked_mean(pairs.min(-2), jnp.broadcast_to(words[:, None], (*pairs.shape[:2], words.shape[1])))
    return of_clips + of_words
