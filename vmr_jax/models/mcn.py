"""MCN: moments and sentences in one space, ranked by their distance.

Names at the right, and "official code" in the file, are those of the authors' program.

  tensor       shape       meaning                                               official code
  batch.video  [B,T,D]     features of the chunks, not normalised; T = 6 chunks of 5 s on DiDeMo
  batch.flow   [B,T,D]     the same of optical flow, for the second network
  segments     [M]         first and last chunk: (0,0) ... (T-1,T-1), then       possible_segments
                           all (i,j), i < j; 21 of 6 chunks
  inputs       [B,M,2D+2]  [global context; segment; first / T; last / T],       feature_process_context
                           two L2-normalised means
  v            [B,M,E]     linear with `hidden` outputs, ReLU, linear, dropout   image_model_two_layer
  t            [B,E]       LSTM over word vectors, last state, linear            language_model_lstm_no_embed
  distance     [B,M]       |v - t|^2; the smallest wins                          euclidean_distance

RGB and flow have networks of their own, which share nothing but the negatives that are drawn; their distances
are added up at test (`fusion`). Both are trained at once, by the sum of their losses: the gradients are those
of two trainings, except that clipping by the global norm, where the config has it, measures both together.

A sentence has two negatives: another segment of its video (intra), and the same segment of another video
(inter), with the temporal endpoints (TEF) of its own.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.draws import annotated_moment, uniform_choice
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import symmetric_uniform
from vmr_jax.layers.norm import unit_length
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Localizing Moments in Video with Natural Language",
    authors=("Hendricks", "Wang", "Shechtman", "Sivic", "Darrell", "Russell"),
    venue="ICCV",
    year=2017,
    family="ranking",
    kind="metric space, dual encoder",
    supervision="full",
    features="VGG and flow; GloVe",
    official_code="LisaAnne/LocalizingMoments@b6a555c81345 (Caffe)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "The other video is drawn from the batch, not from the data set. A sentence with no other video in its "
        "batch that is long enough does not count in that term, nor one of a video of a single segment in the "
        "other term.",
        "The moment of a sentence is the segment with the highest IoU (of several, the first). On DiDeMo it is "
        "the moment itself.",
        "Zero vectors stand for missing chunks, as there. The mean of the global context leaves them out, the "
        "official one counts them; brought to unit length both are the same.",
        "In a padded batch T is the number of real chunks, and segments end before it.",
        "Sentences are padded at their end, not at their beginning, and the LSTM sees their words alone either "
        "way (the official one also runs over the padding of a query of one word).",
        "A word outside the official list of 6,833 has its GloVe vector, there zeros: 115 of the 61,685 words "
        "of DiDeMo's val and test.",
        "Momentum follows the current learning rate; Caffe's keeps that of each gradient, which is felt in the "
        "steps after it falls.",
        "Gates are in PyTorch's order; as in Caffe there is one bias.",
    ),
    verified=(
        "Against the official program at this commit, running in Python 2.7: its data layer, builder of "
        "networks, evaluation and late fusion as they are, and the networks that it writes in Caffe itself "
        "(BVLC/caffe at 9b891540183d, built for CPUs), fed with the arrays of the data layer. Small widths, "
        "random weights, no dropout, made-up videos with and without missing chunks, sentences of 2 to 60 "
        "words: inputs of the moments and of both negatives to 2.4e-7, loss terms of both streams to 7e-7, "
        "gradients to 2.1e-6 of the largest; six steps of its solver, gradients clipped, weights to 9e-7; "
        "distances of all segments of 40 sentences to 6e-7, ranked the same with fusion of 0, 1/4, 1/2 and 1.",
        "The words of 8,201 sentences of DiDeMo's val and test are the same, and Rank@1, Rank@5 and mIoU of "
        "shuffled rankings with their annotations.",
        "Segments, distances and negatives equal computations by hand.",
        "The dot products of the two encoders equal the distances.",
        "Official checkpoints (Caffe) are not read.",
    ),
)

TRIPLET = ("positive", "intra", "inter")  # the order of the segments that a sentence meets in training


@struct.dataclass
class Outputs:
    """Squared distances, float32, of each stream ('rgb', 'flow').

    While training they are [B,3], to the sentence's own moment and its two negatives; at test [B,M], to all
    segments of the video.
    """

    distances: dict[str, Array]
    has_intra: Array | None = None  # [B] bool, whether the video has another segment; None at test
    has_inter: Array | None = None  # [B] bool, whether the batch has another video for it


class Model(GroundingModel, DualEncoder):
    """MCN, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      streams: 'fused' (two networks, RGB and flow) or 'video' (one, on `batch.video`).
      fusion: weight of the distance of RGB at test (lambda); that of flow has the rest.
      moments: 'windows' draws one of the annotated moments of a query in each step; 'span' is the one to learn.
      max_length: number of chunks of the longest segment; 0 for all segments.
      global_context: whether the mean of the whole video is a part of the input.
      endpoints: whether the temporal endpoints (TEF) are a part of the input.
      hidden: width of the hidden layer of the video's network.
      features: E, width of the common space.
      lstm_features: width of the LSTM.
      dropout: share of numbers of an embedded segment that dropout sets to zero.
      margin: margin of both losses, a difference of squared distances.
      intra_weight: weight of the loss with another segment of the same video.
      inter_weight: weight of the loss with the same segment of another video.
      init_bound: bound of the initial weights, uniform in [-init_bound, init_bound]; biases start at 0.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        paper's).
      keep: number of segments that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, distances and losses are float32.
    """

    streams: str = "fused"
    fusion: float = 0.5
    moments: str = "windows"
    max_length: int = 0
    global_context: bool = True
    endpoints: bool = True
    hidden: int = 500
    features: int = 100
    lstm_features: int = 1000
    dropout: float = 0.3
    margin: float = 0.1
    intra_weight: float = 0.5
    inter_weight: float = 0.2
    init_bound: float = 0.08
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"streams": ("fused", "video"), "moments": ("windows", "span")}

    def setup(self):
        """Names the networks."""
        self.rgb = self._network()
        if self.streams == "fused":
            self.flow = self._network()

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Measures the distances to the moment and its negatives while training, else to all segments."""
        batch.check()
        if not train:
            first, last = self._all_segments(batch)
            endpoints = segment_endpoints(first, last, _chunks(batch))
            return Outputs(distances=self._distances(batch, self._inputs(batch, first, last, endpoints), train))
        own, intra, other, has_intra, has_inter = self._triplets(batch)
        inputs = self._triplet_inputs(batch, own, intra, other)
        return Outputs(
            distances=self._distances(batch, inputs, train), has_intra=has_intra, has_inter=has_inter
        )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'rgb_intra', 'rgb_inter' and those of flow: max(0, margin + d(moment) - d(negative)).

        Official code: ranking_loss.
        """
        del epoch
        drawn = {"intra": outputs.has_intra, "inter": outputs.has_inter}
        weights = {"intra": self.intra_weight, "inter": self.inter_weight}
        terms = {}
        for stream, distance in outputs.distances.items():
            own = distance[:, 0]
            for place, name in enumerate(TRIPLET[1:], 1):
                hinge = jnp.maximum(self.margin + own - distance[:, place], 0.0)
                terms[f"{stream}_{name}"] = Mean.of(hinge, drawn[name] & batch.example_mask, weights[name])
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the segments of the video, nearest first; the score is the negative distance."""
        first, last = self._all_segments(batch)
        spans, real = segment_spans(first, last, batch), last < _chunks(batch)[:, None]
        return rank(spans, -self._fused(outputs), real, self.keep or spans.shape[1])

    def requires(self) -> tuple[str, ...]:
        """Names flow where it is fused, and the annotated moments where one is drawn from them."""
        flow = ("flow",) if self.streams == "fused" else ()
        return (*flow, *(("windows",) if self.moments == "windows" else ()))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns 'map' [B,T,T], the exponential of the negative distance of each segment, NaN elsewhere."""
        first, last = self._all_segments(batch)
        score = jnp.where(last < _chunks(batch)[:, None], jnp.exp(-self._fused(outputs)), jnp.nan)
        num_chunks = batch.video.shape[1]
        empty = jnp.full((batch.size, num_chunks, num_chunks), jnp.nan)
        return {"map": empty.at[:, *self.segments(num_chunks)].set(score)}

    # Two encoders.

    def encode_moments(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns vectors [B,M,E+2] of each stream, side by side, spans [B,M,2] in seconds and mask [B,M].

        Reads the video, its mask and duration.

        The dot product with a query's is -|v - t|^2 = 2 v.t - |v|^2 - |t|^2, of both streams by their weights.
        """
        first, last = self._all_segments(batch)
        inputs = self._inputs(batch, first, last, segment_endpoints(first, last, _chunks(batch)))
        parts = []
        for stream, network in self._networks().items():
            v = network.video(inputs[stream], batch.example_index, train=False)
            square = jnp.square(v).sum(-1, keepdims=True)
            part = jnp.concatenate([2 * v, -square, -jnp.ones_like(square)], axis=-1)
            parts.append(self._weights()[stream] * part)
        real = (last < _chunks(batch)[:, None]) & batch.example_mask[:, None]
        return jnp.concatenate(parts, axis=-1), segment_spans(first, last, batch), real

    def encode_query(self, batch: Batch) -> Array:
        """Returns vectors [B,E+2] of each stream, side by side: (t, 1, |t|^2); reads the words alone."""
        parts = []
        for network in self._networks().values():
            t = network.sentence(batch)
            square = jnp.square(t).sum(-1, keepdims=True)
            parts.append(jnp.concatenate([t, jnp.ones_like(square), square], axis=-1))
        return jnp.concatenate(parts, axis=-1)

    # Segments.

    def segments(self, num_chunks: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns first and last chunk of the M segments: single chunks, then others by their start."""
        first, last = np.triu_indices(num_chunks)
        if self.max_length:
            kept = last - first < self.max_length
            first, last = first[kept], last[kept]
        order = np.argsort(last > first, kind="stable")
        return first[order], last[order]

    def _all_segments(self, batch: Batch) -> tuple[Array, Array]:
        """`segments` as [B,M] each."""
        return tuple(
            jnp.broadcast_to(jnp.asarray(x)[None], (batch.size, len(x)))
            for x in self.segments(batch.video.shape[1])
        )

    def _triplets(self, batch: Batch):
        """Draws the moment [B] and the negatives of a sentence: another segment [B], another example [B].

        The last two results [B] say whether there was another segment and another example.
        """
        moment_key, intra_key, inter_key = jax.random.split(self.make_rng("dropout"), 3)
        first, last = self._all_segments(batch)
        real = last < _chunks(batch)[:, None]
        overlap = iou(segment_spans(first, last, batch), self._moment(batch, moment_key)[:, None])
        own = jnp.where(real, overlap, -1.0).argmax(-1)
        others = real & (jnp.arange(first.shape[1])[None] != own[:, None])
        intra, has_intra = uniform_choice(intra_key, batch.example_index, others)

        end = jnp.take_along_axis(last, own[:, None], axis=1)
        rows = (batch.example_mask, batch.video_index, _chunks(batch))
        all_real, all_videos, all_chunks = gather_examples(rows)
        eligible = all_real[None] & (all_videos[None] != batch.video_index[:, None]) & (end < all_chunks[None])
        other, has_inter = uniform_choice(inter_key, batch.example_index, eligible)
        return own, intra, other, has_intra, has_inter

    def _moment(self, batch: Batch, key: Array) -> Array:
        """Returns [B,2] seconds, the moment that a sentence is to find in this step."""
        return annotated_moment(key, batch, self.moments, "MCN")

    # Inputs of the networks.

    def _inputs(self, batch: Batch, first: Array, last: Array, endpoints: Array) -> dict[str, Array]:
        """Returns [B,M,2D+2] of each stream, for segments from `first` [B,M] to `last` [B,M]."""
        return {
            stream: self._features(rows, batch.video_mask, first, last, endpoints)
            for stream, rows in self._streams(batch).items()
        }

    def _triplet_inputs(self, batch: Batch, own: Array, intra: Array, other: Array) -> dict[str, Array]:
        """Returns [B,3,2D+2] of each stream: the moment, another segment, its place in another video."""
        every = self._all_segments(batch)
        first, last = (jnp.take_along_axis(x, jnp.stack([own, intra], axis=1), axis=1) for x in every)
        endpoints = segment_endpoints(first, last, _chunks(batch))
        inside = self._inputs(batch, first, last, endpoints)
        everyone = gather_examples((self._streams(batch), batch.video_mask))
        streams, mask = jax.tree.map(lambda x: jnp.take(x, other, axis=0), everyone)
        place = first[:, :1], last[:, :1], endpoints[:, :1]
        return {
            stream: jnp.concatenate([inside[stream], self._features(rows, mask, *place)], axis=1)
            for stream, rows in streams.items()
        }

    def _features(self, rows: Array, mask: Array, first: Array, last: Array, endpoints: Array) -> Array:
        """Chunks [B,T,D], their mask, segments [B,M] and their endpoints [B,M,2] -> [B,M,2D+2].

        Official code: feature_process_context.
        """
        parts = [segment_means(rows, first, last)]
        if self.global_context:
            context = global_mean(rows, mask)[:, None]
            parts = [jnp.broadcast_to(context, parts[0].shape), *parts]
        if self.endpoints:
            parts = [*parts, endpoints]
        return jnp.concatenate(parts, axis=-1)

    def _streams(self, batch: Batch) -> dict[str, Array]:
        if self.streams == "video":
            return {"rgb": batch.video}
        if batch.flow is None:
            raise UserError(
                "MCN fuses RGB with flow, and this batch has no flow. Use a dataset that has it, or set "
                "streams='video' for one network."
            )
        return {"rgb": batch.video, "flow": batch.flow}

    # Networks.

    def _network(self) -> "Network":
        return Network(
            self.hidden,
            self.features,
            self.lstm_features,
            self.dropout,
            self.init_bound,
            self.vocab_size,
            self.dtype,
        )

    def _networks(self) -> dict[str, "Network"]:
        return {"rgb": self.rgb, "flow": self.flow} if self.streams == "fused" else {"rgb": self.rgb}

    def _weights(self) -> dict[str, float]:
        return {"rgb": self.fusion, "flow": 1 - self.fusion} if self.streams == "fused" else {"rgb": 1.0}

    def _distances(self, batch: Batch, inputs: dict[str, Array], train: bool) -> dict[str, Array]:
        """Returns |v - t|^2 [B,M] of each stream (official code: euclidean_distance)."""
        found = {}
        for stream, network in self._networks().items():
            v = network.video(inputs[stream], batch.example_index, train)
            found[stream] = jnp.square(v - network.sentence(batch)[:, None]).sum(-1)
        return found

    def _fused(self, outputs: Outputs) -> Array:
        """Returns [B,M], the distances of both streams by their weights (official code: late_fusion.py)."""
        fused: Any = sum(weight * outputs.distances[stream] for stream, weight in self._weights().items())
        return fused


class Network(nn.Module):
    """The two towers of one stream.

    Official code: image_model_two_layer, language_model_lstm_no_embed.
    """

    hidden: int
    features: int
    lstm_features: int
    dropout: float
    init_bound: float
    vocab_size: int
    dtype: jnp.dtype

    def setup(self):
        """Names the layers."""
        kernel_init, zeros = symmetric_uniform(self.init_bound), nn.initializers.zeros
        self.video_hidden = nn.Dense(self.hidden, kernel_init=kernel_init, dtype=self.dtype)
        self.video_output = nn.Dense(self.features, kernel_init=kernel_init, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        self.words = WordEmbedding(self.vocab_size, self.dtype)
        self.lstm = LSTM(
            self.lstm_features,
            dtype=self.dtype,
            kernel_init=kernel_init,
            bias_init=zeros,
            recurrent_bias=False,
        )
        self.sentence_output = nn.Dense(self.features, kernel_init=kernel_init, dtype=self.dtype)

    def video(self, inputs: Array, example_index: Array, train: bool) -> Array:
        """Returns v [B,M,E] float32 of inputs [B,M,2D+2]; dropout is on the result."""
        hidden = nn.relu(self.video_hidden(inputs.astype(self.dtype)))
        return self.drop(self.video_output(hidden).astype(jnp.float32), example_index, train)

    def sentence(self, batch: Batch) -> Array:
        """Returns t [B,E] float32 of the words."""
        states = self.lstm(self.words(batch), batch.query_mask)
        return self.sentence_output(last_state(states, batch.query_mask)).astype(jnp.float32)


def segment_means(rows: Array, first: Array, last: Array) -> Array:
    """Returns [B,M,D], the mean of the chunks [B,T,D] of segments [B,M], both ends included, of unit length."""
    chex.assert_equal_shape([first, last])
    chunk = jnp.arange(rows.shape[1])[None, None]
    inside = (chunk >= first[..., None]) & (chunk <= last[..., None])
    total = jnp.einsum("bmt,btd->bmd", inside.astype(jnp.float32), rows.astype(jnp.float32))
    return unit_length(total / (last - first + 1)[..., None])


def global_mean(rows: Array, mask: Array) -> Array:
    """Returns [B,D], the mean of the real chunks [B,T,D] that are not zero, of unit length."""
    there = mask & jnp.any(rows != 0, axis=-1)
    total = jnp.where(there[..., None], rows.astype(jnp.float32), 0.0).sum(1)
    return unit_length(total / jnp.maximum(there.sum(-1), 1)[:, None])


def segment_endpoints(first: Array, last: Array, chunks: Array) -> Array:
    """Returns the temporal endpoint feature [B,M,2] of segments [B,M]: first and last chunk, over all [B]."""
    return jnp.stack([first, last], axis=-1) / jnp.maximum(chunks, 1)[:, None, None]


def segment_spans(first: Array, last: Array, batch: Batch) -> Array:
    """Returns [B,M,2] seconds of segments [B,M]."""
    seconds = batch.duration / jnp.maximum(_chunks(batch), 1)
    return jnp.stack([first, last + 1], axis=-1) * seconds[:, None, None]


def _chunks(batch: Batch) -> Array:
    """Returns [B], number of real chunks."""
    return jnp.asarray(batch.video_mask).sum(-1)
