"""XML: the video and the moment in it, from one encoding of the sentence and one of each video (ConvSE).

Tensors (F = `features`; Z = the number of streams of a video, clips and subtitles; U videos of a batch or
corpus; the names at the right are the official code's):

    batch.video          [B,T,D]    features of clips of 1.5 s; at most 100, shorter videos are padded
    batch.subtitles      [B,T,W]    features of the words said in each clip, rows L2-normalised; silence is zero
    batch.query_vectors  [B,L,W]    token features of RoBERTa (or word vectors), each L2-normalised; at most 30
    words                [B,L,F]    linear layer, positions, self-attention    `encode_query`
    queries              [B,Z,F]    mean of the words for each stream, by
                                    modular attention                          `get_modularized_queries`
    retrieval            [B,Z,T,F]  each stream: as the words                  `cross_encode_context`
    localization         [B,Z,T,F]  attention of each stream to the other,
                                    self-attention                             `cross_context_encoder`
    r                    [B,U]      highest cosine of query and clip in
                                    `retrieval`, mean of the streams           `get_video_level_scores`
    similarity           [B,T]      dot product of a linear layer of the
                                    query with `localization`, mean likewise   `get_merged_st_ed_prob`
    start, end           [B,T]      logits: a convolution over the similarity  ConvSE

Query and video meet only in the last three rows, so videos are encoded once. A moment of the corpus has the
score exp(20 r) p(start) p(end), here its logarithm. With one stream, or with `cross_attention=False`, a third
self-attention takes the place of the attention to the other stream.

The stage that finds the video is a dual encoder of clips, [B,T,Z F]: the dot product of clip and query is the
mean of their cosines over the streams. With one stream the highest of a video is its r. With two it is at most
r, which takes the best clip of each stream.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError, unknown
from vmr_jax.layers.attention import MASKED, MultiHeadAttention, masked_softmax
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.corpus import (
    InputProjection,
    LearnedPositions,
    SelfAttention,
    bert_init,
    bert_norm,
    ranked_negative,
    video_scores,
)
from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.init import torch_default_kernel
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import position_cross_entropy
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval",
    authors=("Lei", "Yu", "Berg", "Bansal"),
    venue="ECCV",
    year=2020,
    family="corpus",
    kind="start and end clip (dual encoder of clips)",
    supervision="full",
    features="ResNet, I3D; RoBERTa subtitles and queries",
    official_code="jayleicn/TVRetrieval@d99a9ea7e724 (PyTorch)",
    ours=(
        "ConvSE reads the similarity of padded clips as zero, so that padding does not matter; in the official "
        "code the logits of the last two clips depend on it (official_padding=True): with small random weights "
        "they are up to 0.1 apart, and without padding equal.",
        "A video with more clips than T is averaged to T longer ones; the official code drops the rest.",
        "Of equally probable moments the earlier and shorter comes first, in the official code the later and "
        "longer. Its list of 200 is filled up with impossible moments of probability 0; ours ends.",
        "Predicted times are cut to the video.",
        "Left out are the start and end of clips as features ('tef'), two unmerged predictors, recurrent and "
        "convolutional encoders, and pooling without modular attention.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 7 to 16 clips "
        "and official_padding=True, one stream or both, with or without the attention between them: logits of "
        "start and end to 2e-6, losses (also of hard negatives) to 3e-7, all gradients to 1e-7. The labels of "
        "15,000 moments are the same by both rules of the end, and so are all moments and their order for five "
        "settings of length and number, and the first 50 of a corpus; normalised rows agree to 6e-7.",
        "Outputs equal those of a PyTorch reference to 5e-5.",
        "Checkpoints of the official code are imported, with one stream or both.",
        "On `storyboard` the right video of 150 is among the first ten for 97.96% of the test queries.",
    ),
)
STREAMS = {"both": ("video", "subtitles"), "video": ("video",), "subtitles": ("subtitles",)}
_GRID = 1e-4  # clips; a moment that ends on the grid must not reach into the next clip by rounding


@struct.dataclass
class Encoded:
    """A video, without the query."""

    retrieval: jax.Array  # [B,Z,T,F], unit vectors, float32
    localization: jax.Array  # [B,Z,T,F]
    mask: jax.Array  # [B,T] bool


@struct.dataclass
class Outputs:
    """Logits in the query's own video, and the vectors that are compared with other examples of the batch."""

    start: jax.Array  # [B,T] float32, `MASKED` at padding
    end: jax.Array  # [B,T]
    queries: jax.Array  # [B,Z,F] float32
    retrieval: jax.Array  # [B,Z,T,F]
    draws: jax.Array  # [B,2] uniform in [0,1): which negative video and which negative query


class Model(GroundingModel, CorpusRetriever, DualEncoder):
    """XML. The defaults are the paper's; those of losses and decoding are of the official code's options.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      streams: streams of a video that are read, 'both', 'video' or 'subtitles'.
      cross_attention: whether each of both streams attends to the other.
      conv_kernel: number of clips that ConvSE sees at once.
      max_clips: number of clips that have a position.
      max_words: number of words that have a position.
      clip_seconds: length of a clip in seconds; 0: equal parts that cover the video.
      shortest: number of clips of the shortest moment that is predicted; the official min_pred_l plus one.
      longest: number of clips of the longest moment that is predicted; 0: any.
      late_end: whether the end that is learnt is the clip after the moment, the official code's rule; predicted
        moments, which include their end, are then a clip late. Else the moment's last clip is learnt.
      margin: margin of the hinge losses that rank videos and queries.
      span_weight: weight of the cross-entropy of start and end.
      hard_epoch: 0-based epoch from which on negatives are drawn from the hardest alone.
      hard_pool: number of these hardest negatives.
      video_scale: factor of r in the score of a moment.
      official_padding: whether padding matters as in the official code, see the card.
      dropout: dropout rate of the attentions.
      input_dropout: dropout rate before and after the first linear layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that are ranked in a video; 200 go into NMS in the official program.
      dtype: number format of the layers; parameters, scores, logits and losses are float32.
    """

    features: int = 256
    heads: int = 4
    streams: str = "both"
    cross_attention: bool = True
    conv_kernel: int = 5
    max_clips: int = 100
    max_words: int = 30
    clip_seconds: float = 1.5
    shortest: int = 3
    longest: int = 16
    late_end: bool = True
    margin: float = 0.1
    span_weight: float = 0.01
    hard_epoch: int = 20
    hard_pool: int = 20
    video_scale: float = 20.0
    official_padding: bool = False
    dropout: float = 0.1
    input_dropout: float = 0.1
    vocab_size: int = 0
    keep: int = 200
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; raises UserError for unknown `streams`."""
        if self.streams not in STREAMS:
            raise unknown("config.model.streams of XML is", self.streams, STREAMS)
        names = STREAMS[self.streams]
        self.word_vectors = WordEmbedding(self.vocab_size)
        self.query_input = self._input()
        self.query_positions = LearnedPositions(self.max_words, "words", self.input_dropout, self.dtype)
        self.query_encoder = self._encoder()
        self.pool = ModularPool(len(names))
        self.clip_positions = LearnedPositions(self.max_clips, "clips", self.input_dropout, self.dtype)
        self.inputs = {name: self._input() for name in names}
        self.first = {name: self._encoder() for name in names}
        self.second = {name: self._encoder() for name in names}
        if self._crosses:
            self.cross = {
                name: CrossAttention(self.features, self.heads, self.dropout, self.dtype, self.official_padding)
                for name in names
            }
        else:
            self.third = {name: self._encoder() for name in names}
        self.query_linear = {
            name: nn.Dense(self.features, kernel_init=nn.initializers.normal(0.02)) for name in names
        }
        self.boundaries = ConvSE(self.conv_kernel, not self.official_padding)

    @property
    def _crosses(self) -> bool:
        return self.cross_attention and self.streams == "both"

    def _input(self) -> InputProjection:
        return InputProjection(self.features, self.input_dropout, self.dtype)

    def _encoder(self) -> SelfAttention:
        return SelfAttention(self.features, self.heads, self.dropout, self.dtype)

    def requires(self) -> tuple[str, ...]:
        """Names the subtitles, where they are read."""
        return () if self.streams == "video" else ("subtitles",)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Finds start and end in each query's own video.

        Raises UserError where clips or words have no position, or subtitles are read and the batch has none.
        """
        batch.check()
        queries, videos = self._queries(batch, train), self._videos(batch, train)
        start, end = self._start_end(queries, videos)
        return Outputs(start, end, queries, videos.retrieval, self._draws(batch.example_index, train))

    def _queries(self, batch: Batch, train: bool) -> jax.Array:
        """Returns a vector of the query for each stream, [B,Z,F] float32."""
        index, mask = batch.example_index, batch.query_mask
        words = l2_normalize(self.word_vectors(batch)).astype(self.dtype)
        words = self.query_positions(self.query_input(words, index, train), index, train)
        return self.pool(self.query_encoder(words, mask, index, train), mask)

    def _videos(self, batch: Batch, train: bool) -> Encoded:
        index, mask = batch.example_index, batch.video_mask
        first = {}
        for name, rows in self._rows(batch).items():
            x = self.inputs[name](rows.astype(self.dtype), index, train)
            x = self.clip_positions(x, index, train)
            first[name] = self.first[name](x, mask, index, train)
        second = {}
        for name, x in first.items():
            if self._crosses:
                other = first["subtitles" if name == "video" else "video"]
                second[name] = self.second[name](
                    self.cross[name](x, other, mask, index, train), mask, index, train
                )
            else:
                x = self.second[name](x, mask, index, train)
                second[name] = self.third[name](x, mask, index, train)
        retrieval = jnp.stack(list(first.values()), axis=1).astype(jnp.float32)
        return Encoded(l2_normalize(retrieval), jnp.stack(list(second.values()), axis=1), mask)

    def _rows(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns the rows of each stream, [B,T,D] or [B,T,W]."""
        rows = {"video": batch.video}
        if self.streams != "video":
            if batch.subtitles is None:
                raise UserError(
                    "XML reads subtitles, and this batch has none. Choose a data set that has them, or set "
                    "config.model.streams='video'."
                )
            said = jnp.where(batch.subtitle_mask[..., None], batch.subtitles, 0.0)
            rows["subtitles"] = l2_normalize(said)
        return {name: rows[name] for name in STREAMS[self.streams]}

    def _start_end(self, queries: jax.Array, videos: Encoded) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of queries [B,Z,F] in their videos (official `get_merged_st_ed_prob`)."""
        linear = jnp.stack(
            [self.query_linear[name](queries[:, z]) for z, name in enumerate(STREAMS[self.streams])], axis=1
        )
        similarity = jnp.einsum("bzf,bztf->bzt", linear, videos.localization.astype(jnp.float32))
        return self.boundaries(similarity.mean(1), videos.mask)

    def _draws(self, index: jax.Array, train: bool) -> jax.Array:
        """Returns draws [B,2] that depend on the example alone; zeros, the hardest negative, at evaluation."""
        if not train:
            return jnp.zeros((*index.shape, 2))
        return draw_per_example(self.make_rng("dropout"), index, jax.random.uniform, (2,))

    # Losses.

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of 'start' and 'end'; the own 'video' and the own 'query' before another, as hinge."""
        start, end = self._labels(batch)
        behind_video, behind_query, ranked = self._behind(outputs, batch, epoch)
        real = batch.example_mask
        return {
            "start": Mean.of(position_cross_entropy(outputs.start, start), real, self.span_weight),
            "end": Mean.of(position_cross_entropy(outputs.end, end), real, self.span_weight),
            "video": Mean.of(behind_video, ranked),
            "query": Mean.of(behind_query, ranked),
        }

    def _labels(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        seconds = clip_seconds(batch.duration, batch.video_mask, self.clip_seconds)
        return span_labels(batch.span / seconds[:, None], batch.video_mask.sum(-1), self.late_end)

    def _behind(self, outputs: Outputs, batch: Batch, epoch: jax.Array) -> tuple[jax.Array, ...]:
        """Returns [B] hinge of a negative video, [B] of a negative query, and the mask [B] of rows with any.

        Source: official `get_video_level_loss`, over the examples of all devices.
        """
        own = (outputs.queries, outputs.retrieval, batch.video_mask, batch.example_index, batch.example_mask)
        queries, videos, mask, index, real = gather_examples(own)
        same = (batch.example_index[:, None] == index[None, :]) & real[None, :]
        others = ~same & real[None, :]
        pool = jnp.where(epoch < self.hard_epoch, others.shape[1], self.hard_pool)
        of_videos = video_scores(outputs.queries, videos, mask)
        of_queries = video_scores(
            queries, outputs.retrieval, batch.video_mask
        ).T  # [B,B'], rows are local videos

        def hinge(scores, draws):
            positive = jnp.where(same, scores, 0.0).sum(-1)
            return nn.relu(self.margin + ranked_negative(scores, others, draws, pool) - positive)

        ranked = batch.example_mask & others.any(-1)
        return hinge(of_videos, outputs.draws[:, 0]), hinge(of_queries, outputs.draws[:, 1]), ranked

    # Inference.

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments of the own video; the score is the logarithm of p(start) p(end)."""
        return self._moments(outputs.start, outputs.end, batch.video_mask, batch.duration)

    def encode_videos(self, batch: Batch) -> Encoded:
        """Encodes videos so that they can be found; reads no query field."""
        return self._videos(batch, train=False)

    def score_videos(self, batch: Batch, videos: Encoded) -> jax.Array:
        """Returns [B,U], 20 r; reads no video field."""
        queries = self._queries(batch, train=False)
        return self.video_scale * video_scores(queries, videos.retrieval, videos.mask)

    def localize(self, batch: Batch, videos: Encoded, video_mask: jax.Array, duration: jax.Array) -> Moments:
        """Returns moments of query b in video b, with log p(start) p(end); reads no video field."""
        start, end = self._start_end(self._queries(batch, train=False), videos)
        return self._moments(start, end, video_mask, duration)

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the clips: vectors [B,T,Z F], spans [B,T,2] in seconds and mask [B,T]; reads no query field.

        Filling rows of the batch have an all-False mask.
        """
        retrieval = self._videos(batch, train=False).retrieval  # [B,Z,T,F]
        vectors = retrieval.transpose(0, 2, 1, 3).reshape(*batch.video_mask.shape, -1)
        clip = jnp.arange(batch.video_mask.shape[1])
        seconds = clip_seconds(batch.duration, batch.video_mask, self.clip_seconds)[:, None, None]
        spans = jnp.stack([clip, clip + 1], axis=-1)[None] * seconds
        real = batch.video_mask & batch.example_mask[:, None]
        return vectors, jnp.minimum(spans, batch.duration[:, None, None]), real

    def encode_query(self, batch: Batch) -> jax.Array:
        """Returns vectors [B,Z F]; the dot product with a clip is the mean cosine over the streams."""
        queries = l2_normalize(self._queries(batch, train=False))
        return queries.reshape(len(queries), -1) / queries.shape[1]

    def _moments(self, start, end, mask, duration) -> Moments:
        """Returns the best pairs of start and end, of `shortest` to `longest` clips, in seconds."""
        first, last, scores, possible = self._pairs(start, end, mask)
        seconds = clip_seconds(duration, mask, self.clip_seconds)[:, None, None]
        spans = jnp.stack([first, last + 1], axis=-1).reshape(1, -1, 2) * seconds
        spans = jnp.minimum(spans, duration[:, None, None])
        flat = (scores.shape[0], -1)
        return rank(spans, scores.reshape(flat), possible.reshape(flat), self.keep)

    def _pairs(self, start, end, mask):
        """Returns first and last clips [T,P], their log-probabilities and whether they are moments [B,T,P]."""
        length = mask.shape[1]
        more = jnp.arange(self.shortest - 1, self.longest or length)  # clips after the first, P of them
        first = jnp.broadcast_to(jnp.arange(length)[:, None], (length, more.shape[0]))
        last = first + more[None, :]
        reached = jnp.minimum(last, length - 1)
        scores = jax.nn.log_softmax(start)[:, :, None] + jax.nn.log_softmax(end)[:, reached]
        possible = mask[:, :, None] & mask[:, reached] & (last < length)[None]
        return first, last, scores, possible

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the probability of every moment relative to the best: 'map' [B,T,T]."""
        mask = batch.video_mask
        clip = jnp.arange(mask.shape[1])
        clips = clip[None, :] - clip[:, None] + 1
        possible = (clips >= self.shortest) & (clips <= (self.longest or mask.shape[1]))
        possible = possible[None] & mask[:, :, None] & mask[:, None, :]
        scores = jax.nn.log_softmax(outputs.start)[:, :, None] + jax.nn.log_softmax(outputs.end)[:, None, :]
        best = jnp.where(possible, scores, MASKED).max((1, 2), keepdims=True)
        return {"map": jnp.where(possible, jnp.exp(jnp.minimum(scores - best, 0.0)), jnp.nan)}


# Layers.


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
      padding_sees_all: whether padded clips attend to every clip, padded ones too (the official code of XML);
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
        The official code of XML reads it as it is, and so depends on the padding.
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
