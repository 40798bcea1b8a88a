"""FIAN: query and video attend to each other in turn, and windows are scored by all that is in them.

  tensor       shape      meaning                                                     symbol of the paper
  batch.video  [B,T,D]    clip features                                               V
  words        [B,L,F]    BiGRU over word vectors                                     h_q, Eq. 1-3
  clips        [B,T,F]    linear, self-attention, BiGRU                               h_v, Section 3.2
  sentence_1   [B,L,F]    the words, having seen the clips                            Q^(1), Eq. 9
  video_1      [B,T,F]    the clips, having seen these words                          V^(1), Eq. 9
  video_2      [B,T,F]    the clips, having seen the words                            V^(2), Eq. 10
  sentence_2   [B,L,F]    the words, having seen these clips                          Q^(2), Eq. 10
  fused        [B,T,2F]   both videos, and both sentences under a gate                M, Eq. 11-14
  context      [B,T,F]    BiGRU                                                       M^, Section 3.4
  logits       [B,M]      of the windows of all sizes, the candidates                 cs_j, Section 3.4
  offsets      [B,M,2]    clips to add to the begin and the end of a window           delta_j, Section 3.4

F = 512 (d_h). T is n_v, L is n_q.

The ablations of tables 4 to 6:

  FIAN-Soft     attention='soft', branches='video_query', fusion='concat'
  FIAN-CMA      attention='cma', branches='video_query', fusion='concat'
  FIAN-VQ       branches='video_query', fusion='concat'
  FIAN-VQMA     branches='video_query'                        the second branch alone: V^(2), Q^(2)
  FIAN-QVMA     branches='query_video'                        the first branch alone: Q^(1), V^(1)
  FIAN-Concat   fusion='concat'                               [V^(1), V^(2)]
  FIAN-Matrix   fusion='matrix'                               [V^(1), V^(2), V^(1) - V^(2), V^(1) * V^(2)]
  FIAN-TGN      localization='tgn'
  FIAN-CMIN     localization='cmin'
  stride size   stride='1', 'k/8', 'k/4', 'k/2'               k is the size of a window

The settings of Section 4.3 (tau = .55 in all):

  data set              T    windows                       stride  heads  weight  learning rate  batch
  ActivityNet Captions  200  16, 32, 64, 96, 128, 160, 192 k/4     8      .001    8e-4           128
  TACoS                 200  8, 16, 32, 64                 k/8     8      .005    4e-4           64
  Charades-STA          64   16, 24, 32, 40                k/8     4      .005    4e-4           64

A moment much shorter than the smallest window has no positive window: on TACoS one below 4.4 of 200 clips.
"""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.anchors import AnchorHead, Scored, frame_anchors, half_open, legal_anchors, rank_anchors
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import Attention
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Fine-grained Iterative Attention Network for Temporal Language Localization in Videos",
    authors=("Qu", "Tang", "Zou", "Cheng", "Dong", "Zhou", "Xu"),
    venue="ACM MM",
    year=2020,
    family="ranking",
    kind="content-oriented windows",
    supervision="full",
    features="C3D, I3D; GloVe",
    equations=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),
    sections=("3.2", "3.3", "3.4", "3.5", "4.3"),
    ours=(
        "No official code is known, and no number of the paper is claimed to be reproduced.",
        "Each direction of a BiGRU has F/2 units (the paper's hidden dimension of 512 is read as that of "
        "both); dropout .2 follows every BiGRU; weights start as PyTorch's do, those of the attention Glorot "
        "uniform.",
        "The self-attention of the video is one multi-head layer with residual and layer normalisation.",
        "The linear layers of an attention have biases; the gate's weights are tied, as the paper says it did "
        "(Eq. 6), its two biases are not; the feed-forward network has 1024 hidden units; the four encoders "
        "share nothing.",
        "The biases b_1 and b_2 of Eq. 11 have a number for each clip (the paper: for each word, which does "
        "not fit); padded words are zero there, and longer queries are cut at `max_words`.",
        "A window is the clips [a, b), and the moment keeps its exact place between them, which IoU and "
        "offsets count; windows beyond a shorter video's last clip do not count; the stride is at least 1, "
        "rounded down.",
        "A batch without a positive window has no positive terms.",
        "Soft attention is additive; the heads of TGN and CMIN score candidates of the same sizes at single "
        "clips (those that end there, without offsets; those around it), and learn by FIAN's own losses.",
    ),
    verified=(
        "The encoder equals an independent computation in numpy.",
        "Windows, gate and losses equal computations by hand.",
        "Every ablation of tables 4 to 6 runs.",
    ),
)


@struct.dataclass
class Outputs:
    """Predictions for all candidates, in the order of `Model.candidates`; meaningless beyond the last clip."""

    logits: jax.Array  # [B,M] float32
    offsets: jax.Array | None  # [B,M,2] float32, clips; None for TGN's head


class Model(GroundingModel):
    """FIAN, with the settings of Section 4.3 for TACoS; our choices are in `CARD.ours`.

    Attributes:
      num_clips: T, largest number of clips of a video (n_v); videos may have fewer.
      max_words: L, largest number of words of a query (n_q); queries may have fewer.
      windows: sizes of the windows, in clips (theta_k).
      stride: distance between windows of one size (theta_s): a number of clips such as '1', or a share of the
        size such as 'k/8'.
      features: F, width of every layer; even, a multiple of `heads`.
      heads: number of attention heads of every attention (n of Eq. 5).
      hidden: width of the hidden layer of the feed-forward networks.
      attention: attention of the encoders: 'cga' (the paper's), 'cma' (without the information gate) or 'soft'.
      branches: 'both', or one of them: 'video_query' (V^(2), Q^(2)), 'query_video' (Q^(1), V^(1)).
      fusion: 'gate' adds the sentences to the videos; 'concat' and 'matrix' leave the sentences out.
      localization: 'content' (the paper's), or the head of 'tgn' or 'cmin'.
      positive_iou: IoU above which a candidate is positive (tau).
      boundary_weight: weight of the boundary loss (alpha of Eq. 18).
      dropout: share of numbers that dropout sets to zero after every BiGRU.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      keep: number of moments that `predict` returns; 0 for all candidates, which the paper ranks (Section 3.5).
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    num_clips: int = 200
    max_words: int = 20
    windows: tuple[int, ...] = (8, 16, 32, 64)
    stride: str = "k/8"
    features: int = 512
    heads: int = 8
    hidden: int = 1024
    attention: str = "cga"
    branches: str = "both"
    fusion: str = "gate"
    localization: str = "content"
    positive_iou: float = 0.55
    boundary_weight: float = 0.005
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {
        "attention": ("cga", "cma", "soft"),
        "branches": ("both", "video_query", "query_video"),
        "fusion": ("gate", "concat", "matrix"),
        "localization": ("content", "tgn", "cmin"),
    }

    def candidates(self, num_clips: int) -> np.ndarray:
        """Returns [M,2] float32, first and last clip of every candidate, for videos of `num_clips` rows."""
        if self.localization == "content":
            return content_windows(num_clips, self.windows, self.stride)
        align = "end" if self.localization == "tgn" else "centre"
        return frame_anchors(num_clips, self.windows, align)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores and refines every candidate; UserError for an unknown option, too many clips or words."""
        batch.check()
        self._check(batch)
        index, clip_mask, word_mask = batch.example_index, batch.video_mask, batch.query_mask

        def recur(x, mask, name):
            states = GRU(self.features // 2, bidirectional=True, dtype=self.dtype, name=name)(x, mask)
            return Dropout(self.dropout)(states, index, train)

        # Section 3.2: representations of language and video.
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        words = recur(words, word_mask, "query")  # Eq. 1-3
        clips = torch_linear(self.features, batch.video.astype(self.dtype), self.dtype, "projection")
        attend = Attention(self.features, self.heads, dtype=self.dtype, name="self_attention")
        attended = attend(clips, clips, clips, clip_mask, index, train)
        clips = recur(_norm(clips + attended, self.dtype, "self_attention_norm"), clip_mask, "clips")

        # Sections 3.3 and 3.4: iterative attention, localization.
        videos, sentences = self._interact(clips, words, clip_mask, word_mask)
        context = recur(self._fuse(videos, sentences, word_mask), clip_mask, "fusion")
        scored = self._head()(context)
        return Outputs(logits=scored.logits, offsets=scored.offsets)

    def _check(self, batch: Batch) -> None:
        if self.fusion == "matrix" and self.branches != "both":
            raise UserError(
                "config.model.fusion='matrix' compares the videos of two branches, and config.model.branches "
                f"is '{self.branches}'. Set it to 'both', or the fusion to 'concat'."
            )
        if min(self.windows) > batch.video.shape[1]:
            raise UserError(
                f"The smallest window has {min(self.windows)} clips, and the videos have "
                f"{batch.video.shape[1]}. Set config.model.windows to smaller ones, or config.input.num_clips "
                "to more clips."
            )
        sizes = (
            ("clips", batch.video.shape[1], self.num_clips, "config.model.num_clips, config.input.num_clips"),
            ("words", batch.query.shape[1], self.max_words, "config.model.max_words, config.text.max_words"),
        )
        for what, length, limit, fields in sizes:
            if length > limit:
                raise UserError(
                    f"The batch has {length} {what}, and FIAN has weights for {limit}. Make these equal: "
                    f"{fields}."
                )

    def _interact(self, clips, words, clip_mask, word_mask):
        """Returns the videos [B,T,F] and, for the gate, the sentences [B,L,F] of the branches (Eq. 9, 10)."""

        def encode(name, queries, values, mask):
            encoder = Encoder(self.heads, self.hidden, self.attention, self.dtype, name=name)
            return encoder(queries, values, mask)

        videos, sentences = [], []
        if self.branches != "video_query":  # Eq. 9
            sentences.append(encode("sentence_1", words, clips, clip_mask))
            videos.append(encode("video_1", clips, sentences[0], word_mask))
        if self.branches != "query_video":  # Eq. 10
            videos.append(encode("video_2", clips, words, word_mask))
            if self.fusion == "gate":
                sentences.append(encode("sentence_2", words, videos[-1], clip_mask))
        return videos, sentences

    def _fuse(self, videos, sentences, word_mask):
        """Returns the features of all branches at every clip, [B,T,*] (Section 3.3.3)."""
        video = jnp.concatenate(videos, axis=-1)  # Eq. 12
        if self.fusion == "concat":
            return video
        if self.fusion == "matrix":
            first, second = videos
            return jnp.concatenate([video, first - second, first * second], axis=-1)
        stretched = [
            Stretch(self.num_clips, self.max_words, self.dtype, name=f"stretch_{i}")(
                sentence, word_mask, video.shape[1]
            )
            for i, sentence in enumerate(sentences)
        ]
        sentence = jnp.concatenate(stretched, axis=-1)  # Eq. 12
        ratio = jax.nn.sigmoid(torch_linear(sentence.shape[-1], sentence, self.dtype, "filter"))  # Eq. 13
        return _norm(video + ratio * sentence, self.dtype, "fusion_norm")  # Eq. 14

    def _head(self) -> nn.Module:
        if self.localization == "content":
            return ContentHead(self.windows, self.stride, name="head")
        return AnchorHead(len(self.windows), regress=self.localization == "cmin", name="head")

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns the terms of Eq. 18: 'positive_alignment', 'negative_alignment' and 'boundary'."""
        del epoch
        candidates = half_open(self.candidates(batch.video.shape[1]))  # [M,2]
        counted = self._legal(batch) & batch.example_mask[:, None]
        scale = batch.video_mask.sum(-1) / batch.duration
        moment = (batch.span * scale[:, None])[:, None]  # [B,1,2] clips
        overlap = iou(candidates[None], moment)
        positive = overlap > self.positive_iou  # tau, Section 3.5
        errors = binary_cross_entropy(outputs.logits, overlap)  # Eq. 15
        terms = {  # Eq. 16
            "positive_alignment": Mean.of(errors, positive & counted),
            "negative_alignment": Mean.of(errors, ~positive & counted),
        }
        if outputs.offsets is not None:
            error = optax.losses.huber_loss(outputs.offsets, moment - candidates[None]).sum(-1)  # Eq. 17
            terms["boundary"] = Mean.of(error, positive & counted, self.boundary_weight)
        return terms

    def _legal(self, batch: Batch) -> jax.Array:
        return legal_anchors(self.candidates(batch.video.shape[1]), batch.video_mask)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the refined candidates (or the `keep` best), best first; scores are sigmoids of logits."""
        candidates = jnp.asarray(self.candidates(batch.video.shape[1]))[None]
        offsets = jnp.zeros((batch.size, 1, 1)) if outputs.offsets is None else outputs.offsets
        return rank_anchors(
            outputs.logits,
            candidates + offsets,
            self._legal(batch),
            batch.duration,
            batch.video_mask,
            self.keep,
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the score of every candidate at its first and last clip: 'map' [B,T,T], NaN elsewhere."""
        num_clips = batch.video.shape[1]
        candidates = np.clip(self.candidates(num_clips), 0, num_clips - 1)
        first, last = np.ceil(candidates[:, 0]).astype(int), np.floor(candidates[:, 1]).astype(int)
        scores = jnp.where(self._legal(batch), jax.nn.sigmoid(outputs.logits), -1.0)
        picture = jnp.full((batch.size, num_clips, num_clips), -1.0).at[:, first, last].max(scores)
        return {"map": jnp.where(picture >= 0, picture, jnp.nan)}


# Section 3.3: the iterative attention module.


class Encoder(nn.Module):
    """The Q-V encoder (Eq. 8): what queries get from values, added to them, and a feed-forward network.

    Queries are the clips and values the words, or the other way round.
    """

    heads: int
    hidden: int
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, queries: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
        """Queries [B,T,F], values [B,L,F] and the mask of the values [B,L] -> [B,T,F]."""
        features = queries.shape[-1]
        chex.assert_shape(values, (*mask.shape, features))
        if self.attention == "soft":
            attended = AdditiveAttention(features, self.dtype, name="attention")(queries, values, mask)
        else:
            no_example = jnp.zeros(queries.shape[0], jnp.int32)  # nothing is drawn
            attend = Attention(features, self.heads, dtype=self.dtype, name="attention")  # CMA, Eq. 4, 5
            attended = attend(queries, values, values, mask, no_example, False)
        if self.attention == "cga":
            attended = InformationGate(self.dtype, name="gate")(queries, attended)
        x = _norm(queries + attended, self.dtype, "attention_norm")
        y = nn.relu(torch_linear(self.hidden, x, self.dtype, "hidden"))  # FFN, Eq. 7
        return _norm(x + torch_linear(features, y, self.dtype, "output"), self.dtype, "output_norm")


class InformationGate(nn.Module):
    """Lets through of the attended values what fits the query (Eq. 6), with tied weights.

    Parameters: query (W_q), attended (W_v) [F,F]; gate_bias (b^g), bias (b^i) [F].
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, queries: jax.Array, attended: jax.Array) -> jax.Array:
        """Queries [B,T,F] and what they attended to [B,T,F] -> [B,T,F]."""
        features = queries.shape[-1]

        def project(x, name):
            init = torch_default_kernel
            return nn.Dense(features, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(x)

        def bias(name):
            return self.param(name, nn.initializers.zeros, (features,)).astype(self.dtype)[None, None]

        information = project(queries, "query") + project(attended, "attended")
        return jax.nn.sigmoid(information + bias("gate_bias")) * (information + bias("bias"))


class Stretch(nn.Module):
    """A linear layer along time, from the words to the clips (Eq. 11).

    Parameters: kernel (W_1, W_2) [num_clips,max_words], bias (b_1, b_2) [num_clips].
    """

    num_clips: int
    max_words: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: jax.Array, mask: jax.Array, clips: int) -> jax.Array:
        """[B,L,F], mask [B,L] and the number of clips T -> [B,T,F]."""
        kernel = self.param("kernel", self._init, (self.num_clips, self.max_words))
        bias = self.param("bias", torch_bias(self.max_words), (self.num_clips,))
        kernel, bias = (x[:clips].astype(self.dtype) for x in (kernel, bias))
        words = jnp.where(mask[..., None], words, 0)
        return jnp.einsum("tl,blf->btf", kernel[:, : words.shape[1]], words) + bias[None, :, None]

    @staticmethod
    def _init(key, shape, dtype=jnp.float32):
        """Draws the transpose of a matrix that starts as PyTorch's."""
        return torch_default_kernel(key, shape[::-1], dtype).T


# Section 3.4: the localization module.


def window_stride(window: int, stride: str) -> int:
    """Returns the clips between windows of one size; `stride` is a number or, as 'k/8', a share of the size."""
    match = re.fullmatch(r"(k/)?([1-9]\d*)", stride)
    if not match:
        raise UserError(
            f"config.model.stride is '{stride}'; write a number of clips, such as '1', or a share of the "
            "window's size k, such as 'k/8'."
        )
    return max(1, window // int(match[2])) if match[1] else int(match[2])


def content_windows(num_clips: int, windows: tuple[int, ...], stride: str) -> np.ndarray:
    """Returns [M,2] float32, first and last clip of the windows within `num_clips`, size by size."""
    found = []
    for window in windows:
        first = np.arange(0, num_clips - window + 1, window_stride(window, stride))
        found.append(np.stack([first, first + window - 1], axis=-1))
    return np.concatenate(found).astype(np.float32)


class ContentHead(nn.Module):
    """The content-oriented strategy: two convolutions for every size of windows, which see the whole window.

    Parameters: score_K and offset_K for each size K.
    """

    windows: tuple[int, ...]
    stride: str

    @nn.compact
    def __call__(self, clips: jax.Array) -> Scored:
        """Scores the windows of clips [B,T,F], in the order of `content_windows`; float32."""
        clips = clips.astype(jnp.float32)
        fitting = [window for window in self.windows if window <= clips.shape[1]]
        logits = [self._conv(1, window, "score")(clips)[..., 0] for window in fitting]
        offsets = [self._conv(2, window, "offset")(clips) for window in fitting]
        return Scored(logits=jnp.concatenate(logits, axis=1), offsets=jnp.concatenate(offsets, axis=1))

    def _conv(self, outputs: int, window: int, name: str) -> nn.Conv:
        return nn.Conv(
            outputs,
            (window,),
            strides=window_stride(window, self.stride),
            padding="VALID",
            kernel_init=torch_default_kernel,
            name=f"{name}_{window}",
        )


def _norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    # PyTorch's epsilon; the paper names none.
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)(x)
