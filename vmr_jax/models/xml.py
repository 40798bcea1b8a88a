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

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.corpus import (
    EVERY_NEGATIVE,
    STREAMS,
    ConvSE,
    CrossAttention,
    Encoded,
    LearnedPositions,
    ModularPool,
    PairRule,
    bert_init,
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


@struct.dataclass
class Outputs:
    """Logits in the query's own video, and the vectors that are compared with other examples of the batch."""

    start: jax.Array  # [B,T] float32, -1e30 at padding
    end: jax.Array  # [B,T]
    queries: jax.Array  # [B,Z,F] float32
    retrieval: jax.Array  # [B,Z,T,F]
    draws: jax.Array  # [B,2] uniform in [0,1): which negative video and which negative query


class Model(StartEndRetriever, GroundingModel, CorpusRetriever, DualEncoder):
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

    choices = {"streams": STREAMS}

    def setup(self):
        """Names the parts."""
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
        self.query_linear = {name: nn.Dense(self.features, kernel_init=bert_init) for name in names}
        self.boundaries = ConvSE(self.conv_kernel, not self.official_padding)

    @property
    def _crosses(self) -> bool:
        return self.cross_attention and self.streams == "both"

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
        for name, rows in stream_rows(batch, self.streams, "XML").items():
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

    def _start_end(self, queries: jax.Array, videos: Encoded) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of queries [B,Z,F] in their videos (official `get_merged_st_ed_prob`)."""
        linears = [self.query_linear[name] for name in STREAMS[self.streams]]
        similarity = stream_similarity(linears, queries, videos.localization)
        return self.boundaries(similarity, videos.mask)

    # Losses.

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of 'start' and 'end'; the own 'video' and the own 'query' before another, as hinge."""
        pool = jnp.where(epoch < self.hard_epoch, EVERY_NEGATIVE, self.hard_pool)
        return self._losses(outputs, outputs.retrieval, batch, pool)

    @property
    def _late(self) -> bool:
        return self.late_end

    @property
    def _rule(self) -> PairRule:
        return PairRule(self.shortest, self.longest)

    # Inference; the rest is `StartEndRetriever`'s.

    def encode_videos(self, batch: Batch) -> Encoded:
        """Encodes videos so that they can be found; reads no query field."""
        return self._videos(batch, train=False)
