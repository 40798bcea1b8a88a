"""ReLoCL: the encoders of XML, a layer deeper, that learn by contrast of videos and of clips too (ReLoCLNet).

Tensors (F = `features`; Z = the number of streams of a video, clips and subtitles; U videos of a batch or
corpus; the names at the right are the official code's):

    batch.video          [B,T,D]    features of clips of 1.5 s; at most 128, shorter videos are padded
    batch.subtitles      [B,T,W]    features of the words said in each clip, rows L2-normalised; silence is zero
    rows                 [B,T,D+2]  clips, and words [B,T,W+2], with the start and end of each clip as parts of
                                    the video                                  `tef_feat`
    batch.query_vectors  [B,L,W]    token features of RoBERTa (or word vectors), each L2-normalised; at most 30
    words                [B,L,F]    linear layer, positions, self-attention twice   `encode_query`
    queries              [B,Z,F]    mean of the words for each stream, by
                                    modular attention                          `get_modularized_queries`
    middle               [B,Z,T,F]  linear layer, positions, self-attention, attention to the
                                    other stream, self-attention               `mid_x_video_feat`
    features             [B,Z,T,F]  a third self-attention                     `x_video_feat`, `x_sub_feat`
    r                    [B,U]      highest cosine of query and clip in
                                    `features`, mean of the streams            `get_video_level_scores`
    similarity           [B,T]      dot product of a linear layer of the
                                    query with `features`, mean likewise       `get_merged_score`
    start, end           [B,T]      logits, convolutions over the similarity   `get_merged_st_ed_prob`

Query and video meet only in the last three rows, so videos are encoded once. A moment of the corpus has the
score exp(30 r) p(start) p(end), here its logarithm. XML finds the video by its first layer and the moment by
its last one; here both read the last, and the contrast trains the layer in between:

- VideoCL: among all videos and all queries of the batch, the own pair has the highest dot product of the query
  with its best clip (MIL-NCE);
- FrameCL: within the video, the clips of the moment have a higher dot product with the query than the others
  (a bound of mutual information by the Jensen-Shannon divergence).

The stage that finds the video is a dual encoder of clips, [B,T,Z F]: the dot product of clip and query is the
mean of their cosines over the streams. With one stream the highest of a video is its r. With two it is at most
r, which takes the best clip of each stream.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import clip_bounds
from vmr_jax.layers.corpus import (
    EVERY_NEGATIVE,
    STREAMS,
    Comparison,
    ConvSE,
    CrossAttention,
    LearnedPositions,
    ModularPool,
    PairRule,
    bert_init,
    compare_examples,
    stream_rows,
    stream_similarity,
)
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.start_end_retriever import StartEndRetriever
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean

CARD = Card(
    title="Video Corpus Moment Retrieval with Contrastive Learning",
    authors=("Zhang", "Sun", "Jing", "Nan", "Zhen", "Zhou", "Goh"),
    venue="SIGIR",
    year=2021,
    family="corpus",
    kind="start and end clip, contrast of videos and clips (dual encoder of clips)",
    supervision="full",
    features="ResNet, I3D; RoBERTa subtitles and queries",
    official_code="26hzhang/ReLoCLNet@56cb666ce516 (PyTorch)",
    ours=(
        "The convolution reads the similarity of padded clips as zero, so that padding does not matter; in the "
        "official code, which pads to 128, the logits of the last two clips depend on it "
        "(official_padding=True): with random weights they are up to 0.4 apart.",
        "In a video of more than 128 clips, which are averaged to 128, labels and predicted times are those of "
        "the longer clips; the official code goes on to count 1.5 s for each.",
        "With one stream, which the official code does not have, the attention to the other is left out.",
        "Of equally probable moments the earlier and shorter comes first; the official sort keeps no order. "
        "Its list of 200 is filled up with impossible moments of probability 0; ours ends.",
        "The end that is learnt is the clip after the moment, or the last one of the video, so that no "
        "predicted moment has a video's last clip; end_inside=True learns the moment's last clip instead.",
        "Predicted times are cut to the video.",
    ),
    verified=(
        "Against the official code at this commit, running with its own data set and collation, with random "
        "weights, videos of 2 to 128 clips padded to 128 and official_padding=True: vectors, logits and scores "
        "of videos to 4e-7, every loss term (also of hard negatives) to 2e-7, all gradients to 1e-7.",
        "The labels of 15,000 moments are the same, the rows of videos of 100 to 699 clips to 3e-7, and the "
        "first 50 moments of a corpus and their order; lists of 200 moments in a video differ where "
        "probabilities are 1e-6 apart.",
        "Outputs and contrast equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the official code are imported.",
        "On `storyboard` the right video of 150 is among the first ten for 98.47% of the test queries.",
    ),
)


@struct.dataclass
class Encoded:
    """A video, without the query."""

    features: jax.Array  # [B,Z,T,F] float32
    mask: jax.Array  # [B,T] bool

    @property
    def retrieval(self) -> jax.Array:
        """[B,Z,T,F], `features`: they find video and moment."""
        return self.features

    @property
    def unit_clips(self) -> jax.Array:
        """[B,Z,T,F], `features` as unit vectors."""
        return l2_normalize(self.features)


@struct.dataclass
class Outputs:
    """Logits in the query's own video, and the vectors that are compared with other examples of the batch."""

    start: jax.Array  # [B,T] float32, -1e30 at padding
    end: jax.Array  # [B,T]
    queries: jax.Array  # [B,Z,F] float32
    middle: jax.Array  # [B,Z,T,F] float32, for the contrast
    features: jax.Array  # [B,Z,T,F] float32, for the hinge losses
    draws: jax.Array  # [B,2] uniform in [0,1): which negative video and which negative query


class Model(StartEndRetriever, GroundingModel, CorpusRetriever, DualEncoder):
    """ReLoCLNet. The defaults are those of the official code's options and command.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      streams: streams of a video that are read, 'both', 'video' or 'subtitles'.
      endpoints: whether the start and end of a clip, as parts of the video, are two more features of a stream.
      conv_kernel: number of clips that a logit of start or end sees.
      max_clips: number of clips that have a position.
      max_words: number of words that have a position.
      clip_seconds: length of a clip in seconds; 0: equal parts that cover the video.
      shortest: number of clips of the shortest moment that is predicted; the official min_pred_l.
      longest: number of clips of the longest moment that is predicted, 0 for any; the official max_pred_l less
        one.
      end_inside: whether the end that is learnt and predicted is the last clip of the moment; the official code
        learns the clip after it.
      margin: margin of the hinge losses that rank videos and queries.
      span_weight: weight of the cross-entropy of start and end.
      frame_weight: weight of FrameCL, the contrast of clips within a video.
      video_weight: weight of VideoCL, the contrast of videos and queries.
      hard_epoch: 0-based epoch from which on negatives are drawn from the hardest alone.
      hard_pool: number of these hardest negatives.
      video_scale: factor of r in the score of a moment; the official q2c_alpha.
      official_padding: whether padding matters as in the official code, see the card.
      dropout: dropout rate of the attentions.
      input_dropout: dropout rate before and after the first linear layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that are ranked in a video; the official max_before_nms.
      dtype: number format of the layers; parameters, scores, logits and losses are float32.
    """

    features: int = 384
    heads: int = 8
    streams: str = "both"
    endpoints: bool = True
    conv_kernel: int = 5
    max_clips: int = 128
    max_words: int = 30
    clip_seconds: float = 1.5
    shortest: int = 2
    longest: int = 15
    end_inside: bool = False
    margin: float = 0.1
    span_weight: float = 0.01
    frame_weight: float = 0.03
    video_weight: float = 0.03
    hard_epoch: int = 20
    hard_pool: int = 20
    video_scale: float = 30.0
    official_padding: bool = False
    dropout: float = 0.1
    input_dropout: float = 0.1
    vocab_size: int = 0
    keep: int = 200
    dtype: jnp.dtype = jnp.float32

    choices = {"streams": STREAMS}

    def setup(self):
        """Names the parts."""
        names = STREAMS[self.streams]
        self.word_vectors = WordEmbedding(self.vocab_size)
        self.query_input = self._input()
        self.query_positions = LearnedPositions(self.max_words, "words", self.input_dropout, self.dtype)
        self.query_first = self._encoder()
        self.query_second = self._encoder()
        self.pool = ModularPool(len(names))
        self.clip_positions = LearnedPositions(self.max_clips, "clips", self.input_dropout, self.dtype)
        self.inputs = {name: self._input() for name in names}
        self.first = {name: self._encoder() for name in names}
        self.second = {name: self._encoder() for name in names}
        self.third = {name: self._encoder() for name in names}
        if self.streams == "both":
            self.cross = {
                name: CrossAttention(self.features, self.heads, self.dropout, self.dtype, self.official_padding)
                for name in names
            }
        self.query_linear = {name: nn.Dense(self.features, kernel_init=bert_init) for name in names}
        self.boundaries = ConvSE(self.conv_kernel, not self.official_padding)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Finds start and end in each query's own video.

        Raises UserError where clips or words have no position, or subtitles are read and the batch has none.
        """
        batch.check()
        queries = self._queries(batch, train)
        middle, videos = self._videos(batch, train)
        start, end = self._start_end(queries, videos)
        draws = self._draws(batch.example_index, train)
        return Outputs(start, end, queries, middle, videos.features, draws)

    def _queries(self, batch: Batch, train: bool) -> jax.Array:
        """Returns a vector of the query for each stream, [B,Z,F] float32 (official `encode_query`)."""
        index, mask = batch.example_index, batch.query_mask
        words = l2_normalize(self.word_vectors(batch)).astype(self.dtype)
        words = self.query_positions(self.query_input(words, index, train), index, train)
        for encoder in (self.query_first, self.query_second):
            words = encoder(words, mask, index, train)
        return self.pool(words, mask)

    def _videos(self, batch: Batch, train: bool) -> tuple[jax.Array, Encoded]:
        """Returns the layer of the contrast, [B,Z,T,F], and the last one (official `encode_context`)."""
        index, mask = batch.example_index, batch.video_mask
        x = {}
        for name, rows in self._rows(batch).items():
            rows = self.inputs[name](rows.astype(self.dtype), index, train)
            x[name] = self.first[name](self.clip_positions(rows, index, train), mask, index, train)
        if self.streams == "both":
            other = {"video": x["subtitles"], "subtitles": x["video"]}
            x = {name: self.cross[name](x[name], other[name], mask, index, train) for name in x}
        middle = {name: self.second[name](x[name], mask, index, train) for name in x}
        last = {name: self.third[name](middle[name], mask, index, train) for name in x}
        return _stacked(middle), Encoded(_stacked(last), mask)

    def _rows(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns the rows of each stream, [B,T,D+2] or [B,T,W+2] with `endpoints`; zero at padding."""
        rows = stream_rows(batch, self.streams, "ReLoCL")
        if not self.endpoints:
            return rows
        ends = clip_bounds(batch.video_mask)
        return {name: jnp.concatenate([x.astype(jnp.float32), ends], axis=-1) for name, x in rows.items()}

    def _start_end(self, queries: jax.Array, videos: Encoded) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of queries [B,Z,F] in their videos (official `get_merged_st_ed_prob`)."""
        linears = [self.query_linear[name] for name in STREAMS[self.streams]]
        similarity = stream_similarity(linears, queries, videos.features)
        return self.boundaries(similarity, videos.mask)

    # Losses.

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of 'start' and 'end', hinges of 'video' and 'query', contrast of 'clips' and 'videos'.

        Sources: official `get_video_level_loss`, `batch_video_query_loss` and `MILNCELoss`, over the examples
        of all devices.
        """
        pool = jnp.where(epoch < self.hard_epoch, EVERY_NEGATIVE, self.hard_pool)
        terms = self._losses(outputs, outputs.features, batch, pool)
        contrasted = compare_examples(outputs.queries, outputs.middle, batch, cosine=False)
        fit = jnp.einsum("bzf,bztf->bzt", outputs.queries, outputs.middle)
        start, end = self._labels(batch)
        clip = jnp.arange(fit.shape[2])[None]
        inside = (clip >= start[:, None]) & (clip <= end[:, None])
        real = batch.example_mask
        return {
            **terms,
            "clips": Mean.of(clip_contrast(fit, inside, batch.video_mask), real, self.frame_weight),
            "videos": Mean.of(pair_contrast(contrasted), real, self.video_weight),
        }

    @property
    def _late(self) -> bool:
        return not self.end_inside

    @property
    def _rule(self) -> PairRule:
        return PairRule(self.shortest, self.longest, self.end_inside)

    # Inference; the rest is `StartEndRetriever`'s.

    def encode_videos(self, batch: Batch) -> Encoded:
        """Encodes videos so that they can be found; reads no query field."""
        return self._videos(batch, train=False)[1]


def _stacked(streams: dict[str, jax.Array]) -> jax.Array:
    """Returns [B,Z,T,F] float32 of streams [B,T,F]."""
    return jnp.stack(list(streams.values()), axis=1).astype(jnp.float32)


# Contrast.


def clip_contrast(fit: jax.Array, inside: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B], by how little the clips of the moment fit better than the others, mean over streams.

    The difference of the two expectations of the Jensen-Shannon bound, of the other clips and of the moment's
    (official `batch_video_query_loss`). An expectation over no clips is zero.

    Args:
      fit: [B,Z,T], dot products of query and clips.
      inside: [B,T] bool, clips of the moment.
      mask: [B,T] bool, real clips.
    """

    def mean(values, where):
        where = jnp.broadcast_to(where[:, None], values.shape)
        return jnp.where(where, values, 0.0).sum(-1) / jnp.maximum(where.sum(-1), 1)

    moment = mean(jnp.log(2.0) - nn.softplus(-fit), inside & mask)
    others = mean(nn.softplus(fit) - jnp.log(2.0), ~inside & mask)
    return (others - moment).mean(1)


def pair_contrast(compared: Comparison) -> jax.Array:
    """Returns [B], -log of the own pair's share among the pairs of its query and those of its video.

    The own pair is counted in both (official `MILNCELoss`).
    """
    real = compared.same | compared.others
    scores = jnp.concatenate([compared.of_videos, compared.of_queries], axis=1)
    scores = jnp.where(jnp.concatenate([real, real], axis=1), scores, MASKED)
    own = jnp.where(compared.same, compared.of_videos, 0.0).sum(-1)
    return jax.nn.logsumexp(scores, axis=1) - own
