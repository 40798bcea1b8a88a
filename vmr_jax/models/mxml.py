"""mXML: XML in two languages at once, with common encoders and close vectors for what means the same.

Tensors (F = `features`; Z = the number of streams of a video, clips and subtitles; N = the number of pairs of
vectors that mean the same; U videos of a batch or corpus; the names at the right are the official code's):

    batch.query_vectors         [B,L,W]    token features of the query, English RoBERTa
    batch.translation           [B,L,W]    of the same query in the second language, Chinese RoBERTa
    batch.video                 [B,T,D]    features of clips of 1.5 s; at most 100, shorter videos are padded
    batch.subtitles             [B,T,W]    features of the words said in each clip
    batch.translated_subtitles  [B,T,W]    of the same in the second language
  in each language
    words                       [B,L,F]    linear layer; positions and self-attention
                                           of both languages                  `query_encoder`
    queries                     [B,Z,F]    mean of the words for each stream, by
                                           modular attention                  `get_modularized_queries`
    retrieval                   [B,Z,T,F]  each stream: as the words          `video_feat1`, `sub_feat1`
    localization                [B,Z,T,F]  two self-attentions more           `video_feat2`, `sub_feat2`
    r                           [B,U]      highest cosine of query and clip in
                                           `retrieval`, mean of the streams   `get_video_level_scores`
    start, end                  [B,T]      logits: convolutions over the mean
                                           dot product with `localization`    `get_merged_st_ed_prob`
  between the languages
    meaning                     [B,N,F]    `queries`, and the means over the clips of the subtitles in
                                           `retrieval` and `localization`     `neighbor_embeddings`

The positions and self-attentions are the same modules in both languages; the linear layers before them, the
modular attention, the linear layers of the query and the convolutions are each language's own. Without its
second language this is XML without attention between the streams.

The neighbourhood loss: among the vectors of the batch in the other language, the one of the same query or
subtitles has the highest cosine, by a margin, in both directions.

One language answers (`language`); an evaluation may choose the other. A moment of the corpus has the score
exp(20 r) p(start) p(end), here its logarithm, and the clips are a dual encoder, as in XML.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.corpus import (
    EVERY_NEGATIVE,
    STREAMS,
    ConvSE,
    Encoded,
    InputProjection,
    LearnedPositions,
    ModularPool,
    PairRule,
    SelfAttention,
    bert_init,
    compare_vectors,
    ranking_hinges,
    stream_rows,
    stream_similarity,
)
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.start_end_retriever import StartEndRetriever
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="mTVR: Multilingual Moment Retrieval in Videos",
    authors=("Lei", "Berg", "Bansal"),
    venue="ACL",
    year=2021,
    family="corpus",
    kind="start and end clip in two languages (dual encoder of clips)",
    supervision="full",
    features="ResNet, I3D; RoBERTa subtitles and queries in English and Chinese",
    official_code="jayleicn/mTVRetrieval@61cf445aebc2 (PyTorch)",
    ours=(
        "ConvSE reads the similarity of padded clips as zero, so that padding does not matter; in the official "
        "code the logits of the last two clips depend on it (official_padding=True).",
        "The checkpoint is selected in the language that answers, by R@1 at IoU .7; the official code selects "
        "by the sum over both languages and both IoUs.",
        "The second language is a translation of the same query: the official code can also train on two "
        "independent loaders, without neighbourhood.",
        "A video with more clips than T is averaged to T longer ones; the official code drops the rest.",
        "Of equally probable moments the earlier and shorter comes first, in the official code the later and "
        "longer. Its list of 200 is filled up with impossible moments of probability 0; ours ends.",
        "Predicted times are cut to the video.",
        "Left out is what the official command leaves off: attention between the streams, common input layers, "
        "predictors and modular attention, and the options that XML's card names.",
    ),
    verified=(
        "Against the official code at this commit, running, from its own data set and collation on files like "
        "those of mTVR, with random weights, videos of 7 to 16 clips, official_padding=True, both streams or "
        "one: every loss term of both languages and the neighbourhood loss (also of hard negatives) to 3e-7, "
        "all gradients to 2e-7, the number of parameters and all labels.",
        "In each language the official inference finds the same: the order of videos, every moment of a video "
        "and the first 100 of a corpus and their order, with log scores to 2e-6. Normalised rows agree to "
        "4e-6.",
        "Outputs and the neighbourhood loss equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the official code are imported; the copies of common encoders must be equal.",
        "Each language is XML without attention between the streams, of the same parameters.",
        "On `storyboard` the right video of 150 is among the first ten for 96.43% of the test queries.",
    ),
)

LANGUAGES = ("query", "translation")  # by the field of a batch that has the words
OF_SUBTITLES = 2  # encodings of the subtitles whose means are compared


@struct.dataclass
class InLanguage:
    """Logits in the query's own video, and the vectors that are compared, in one language."""

    start: jax.Array  # [B,T] float32, -1e30 at padding
    end: jax.Array  # [B,T]
    queries: jax.Array  # [B,Z,F] float32
    retrieval: jax.Array  # [B,Z,T,F] unit vectors, float32
    meaning: jax.Array  # [B,N,F] float32
    draws: jax.Array  # [B,2] uniform in [0,1): which negative video and which negative query


@struct.dataclass
class Outputs:
    """Both languages, and the draws of the neighbourhood."""

    query: InLanguage
    translation: InLanguage
    draws: jax.Array  # [B,2 N] uniform in [0,1): which negatives of each pair, in both directions


class Model(StartEndRetriever, GroundingModel, CorpusRetriever, DualEncoder):
    """mXML. The defaults are those of the official command.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      streams: streams of a video that are read, 'both', 'video' or 'subtitles'.
      language: the language that answers, 'query' or 'translation'; both are trained.
      tied: whether both languages have the same positions and self-attentions.
      neighbour_weight: weight of the neighbourhood loss.
      conv_kernel: number of clips that ConvSE sees at once.
      max_clips: number of clips that have a position.
      max_words: number of words that have a position.
      clip_seconds: length of a clip in seconds; 0: equal parts that cover the video.
      shortest: number of clips of the shortest moment that is predicted; the official min_pred_l plus one.
      longest: number of clips of the longest moment that is predicted; 0: any.
      late_end: whether the end that is learnt is the clip after the moment, the official code's rule; predicted
        moments, which include their end, are then a clip late. Else the moment's last clip is learnt.
      margin: margin of the hinge losses.
      span_weight: weight of the cross-entropy of start and end.
      hard_epochs: 0-based epochs from which on negatives are drawn from the hardest alone.
      hard_pools: number of these hardest negatives, from each of those epochs on.
      video_scale: factor of r in the score of a moment.
      official_padding: whether padding matters as in the official code, see the card.
      dropout: dropout rate of the attentions.
      input_dropout: dropout rate before and after the first linear layers.
      keep: number of moments that are ranked in a video; 200 go into NMS in the official program.
      dtype: number format of the layers; parameters, scores, logits and losses are float32.
    """

    choices = {"streams": STREAMS, "language": LANGUAGES}
    of_evaluation: ClassVar[tuple[str, ...]] = ("language",)

    features: int = 256
    heads: int = 4
    streams: str = "both"
    language: str = "query"
    tied: bool = True
    neighbour_weight: float = 1.0
    conv_kernel: int = 5
    max_clips: int = 100
    max_words: int = 30
    clip_seconds: float = 1.5
    shortest: int = 3
    longest: int = 16
    late_end: bool = True
    margin: float = 0.1
    span_weight: float = 0.01
    hard_epochs: tuple[int, ...] = (10, 20, 30)
    hard_pools: tuple[int, ...] = (20, 10, 5)
    video_scale: float = 20.0
    official_padding: bool = False
    dropout: float = 0.1
    input_dropout: float = 0.1
    keep: int = 200
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; raises UserError for pools that do not fit."""
        if len(self.hard_epochs) != len(self.hard_pools):
            raise UserError(
                f"config.model.hard_epochs of mXML has {len(self.hard_epochs)} epochs and hard_pools "
                f"{len(self.hard_pools)} numbers; give one number for each epoch."
            )
        self.encoders = self._encoders()
        if not self.tied:
            self.other_encoders = self._encoders()
        encoders = (self.encoders, self.encoders if self.tied else self.other_encoders)
        self.languages = {name: self._language(shared) for name, shared in zip(LANGUAGES, encoders)}

    def _encoders(self) -> "Encoders":
        return Encoders(
            self.features,
            self.heads,
            self.streams,
            self.max_clips,
            self.max_words,
            self.dropout,
            self.input_dropout,
            self.dtype,
        )

    def _language(self, encoders: "Encoders") -> "Language":
        return Language(
            encoders,
            self.features,
            self.streams,
            self.conv_kernel,
            self.input_dropout,
            self.dtype,
            self.official_padding,
        )

    def requires(self) -> tuple[str, ...]:
        """Names the translation, and the subtitles of both languages where they are read."""
        subtitles = () if self.streams == "video" else ("subtitles", "translated_subtitles")
        return ("translation", *subtitles)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Finds start and end in each query's own video, in both languages.

        Raises UserError where clips or words have no position, or the batch lacks the second language, or
        subtitles that are read.
        """
        batch.check()
        found, draws = {}, self._draws(batch.example_index, train, 2 * (len(LANGUAGES) + self._pairs))
        for place, language in enumerate(LANGUAGES):
            network, said = self.languages[language], in_language(batch, language)
            queries, (videos, subtitles) = network.queries(said, train), network.videos(said, train)
            start, end = network.start_end(queries, videos)
            meaning = jnp.concatenate([queries, subtitles], axis=1)
            own = draws[:, 2 * place : 2 * place + 2]
            found[language] = InLanguage(start, end, queries, videos.retrieval, meaning, own)
        return Outputs(**found, draws=draws[:, 2 * len(LANGUAGES) :])

    @property
    def _pairs(self) -> int:
        """N, the vectors that are compared between the languages."""
        return len(STREAMS[self.streams]) + (0 if self.streams == "video" else OF_SUBTITLES)

    # Losses.

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """XML's losses in each language, of the second one as 'translated_...'; 'neighbours' between them."""
        pool = jnp.int32(EVERY_NEGATIVE)
        for first, size in zip(self.hard_epochs, self.hard_pools):
            pool = jnp.where(epoch < first, pool, size)
        query, translation = outputs.query, outputs.translation
        translated = self._losses(translation, translation.retrieval, batch, pool)
        return {
            **self._losses(query, query.retrieval, batch, pool),
            **{f"translated_{name}": term for name, term in translated.items()},
            "neighbours": self._neighbours(outputs, batch, pool),
        }

    def _neighbours(self, outputs: Outputs, batch: Batch, pool: jax.Array) -> Mean:
        """Of every pair, hinges in both directions (official `compute_neighbor_constraint_loss`)."""
        behind, ranked = jnp.zeros(batch.size), batch.example_mask
        for n in range(self._pairs):
            pair = outputs.translation.meaning[:, n], outputs.query.meaning[:, n]
            compared = compare_vectors(*pair, batch)
            both = ranking_hinges(compared, outputs.draws[:, 2 * n : 2 * n + 2], self.margin, pool)
            behind, ranked = behind + sum(both), ranked & compared.others.any(-1)
        return Mean.of(behind, ranked, self.neighbour_weight)

    @property
    def _late(self) -> bool:
        return self.late_end

    # Inference, in the language that answers; the rest is `StartEndRetriever`'s.

    @property
    def _rule(self) -> PairRule:
        return PairRule(self.shortest, self.longest)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments of the own video; the score is the logarithm of p(start) p(end)."""
        return super().predict(getattr(outputs, self.language), batch)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the probability of every moment relative to the best: 'map' [B,T,T]."""
        return super().explain(getattr(outputs, self.language), batch)

    def encode_videos(self, batch: Batch) -> Encoded:
        """Encodes videos so that they can be found; reads no query field."""
        said = in_language(batch, self.language)
        return self.languages[self.language].videos(said, train=False)[0]

    def _queries(self, batch: Batch, train: bool) -> jax.Array:
        return self.languages[self.language].queries(in_language(batch, self.language), train)

    def _start_end(self, queries: jax.Array, videos: Encoded) -> tuple[jax.Array, jax.Array]:
        return self.languages[self.language].start_end(queries, videos)


def in_language(batch: Batch, language: str) -> Batch:
    """The batch with words and subtitles of a language in the fields of the first."""
    if language == "query":
        return batch
    said: dict = dict(query_vectors=batch.translation, query_mask=batch.translation_mask)
    said.update(subtitles=batch.translated_subtitles, subtitle_mask=batch.video_mask)
    return dataclasses.replace(batch, **said)


class Encoders(nn.Module):
    """Positions and self-attentions, which both languages have in common; fields as of the model."""

    features: int
    heads: int
    streams: str
    max_clips: int
    max_words: int
    dropout: float
    input_dropout: float
    dtype: jnp.dtype

    def setup(self):
        """Names the parts."""
        names = STREAMS[self.streams]
        self.query_positions = LearnedPositions(self.max_words, "words", self.input_dropout, self.dtype)
        self.query_encoder = self._encoder()
        self.clip_positions = LearnedPositions(self.max_clips, "clips", self.input_dropout, self.dtype)
        self.first = {name: self._encoder() for name in names}
        self.second = {name: self._encoder() for name in names}
        self.third = {name: self._encoder() for name in names}

    def _encoder(self) -> SelfAttention:
        return SelfAttention(self.features, self.heads, self.dropout, self.dtype)

    def words(self, x: jax.Array, mask: jax.Array, index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,L,F] of words [B,L,F]."""
        return self.query_encoder(self.query_positions(x, index, train), mask, index, train)

    def clips(
        self, name: str, x: jax.Array, mask: jax.Array, index: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns two encodings [B,T,F] of a stream [B,T,F], for retrieval and localization."""
        first = self.first[name](self.clip_positions(x, index, train), mask, index, train)
        second = self.second[name](first, mask, index, train)
        return first, self.third[name](second, mask, index, train)


class Language(nn.Module):
    """A language: what it has alone, around the encoders; the other fields are as of the model."""

    encoders: Encoders
    features: int
    streams: str
    conv_kernel: int
    input_dropout: float
    dtype: jnp.dtype
    official_padding: bool

    def setup(self):
        """Names the parts."""
        names = STREAMS[self.streams]
        self.query_input = self._input()
        self.pool = ModularPool(len(names))
        self.inputs = {name: self._input() for name in names}
        self.query_linear = {name: nn.Dense(self.features, kernel_init=bert_init) for name in names}
        self.boundaries = ConvSE(self.conv_kernel, not self.official_padding)

    def _input(self) -> InputProjection:
        return InputProjection(self.features, self.input_dropout, self.dtype)

    def queries(self, batch: Batch, train: bool) -> jax.Array:
        """Returns a vector of the query for each stream, [B,Z,F] float32."""
        if batch.query_vectors is None:
            raise UserError(
                "mXML reads the query in a second language, and this batch has no translation. Choose a data "
                "set that has one, such as storyboard or mTVR."
            )
        index, mask = batch.example_index, batch.query_mask
        words = self.query_input(l2_normalize(batch.query_vectors).astype(self.dtype), index, train)
        return self.pool(self.encoders.words(words, mask, index, train), mask)

    def videos(self, batch: Batch, train: bool) -> tuple[Encoded, jax.Array]:
        """Returns videos, and what their subtitles mean, [B,2,F] float32, or [B,0,F] where none are read."""
        index, mask = batch.example_index, batch.video_mask
        first, last = {}, {}
        for name, rows in stream_rows(batch, self.streams, "mXML").items():
            x = self.inputs[name](rows.astype(self.dtype), index, train)
            first[name], last[name] = self.encoders.clips(name, x, mask, index, train)
        retrieval, localization = (jnp.stack(list(x.values()), axis=1) for x in (first, last))
        retrieval = retrieval.astype(jnp.float32)
        said = [x["subtitles"] for x in (first, last) if "subtitles" in x]
        means = [mean_of_clips(x.astype(jnp.float32), mask) for x in said]
        meaning = jnp.stack(means, axis=1) if means else jnp.zeros((batch.size, 0, self.features))
        return Encoded(l2_normalize(retrieval), localization, mask), meaning

    def start_end(self, queries: jax.Array, videos: Encoded) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of queries [B,Z,F] in their videos (official `get_merged_st_ed_prob`)."""
        linears = [self.query_linear[name] for name in STREAMS[self.streams]]
        return self.boundaries(stream_similarity(linears, queries, videos.localization), videos.mask)


def mean_of_clips(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,F], the mean of real clips [B,T,F] (official `pool_ctx_embeddings`); zeros where none is."""
    total = jnp.where(mask[..., None], x, 0.0).sum(1)
    return total / jnp.maximum(mask.sum(1), 1)[:, None]
