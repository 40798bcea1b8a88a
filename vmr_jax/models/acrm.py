"""ACRM: every clip attends to the words, is multiplied with them, and three heads find start, end and inside.

Names at the right, and "official code" in the file, are those of the authors' program, a fork of TMLGA's, whose
checkpoints `vmr_jax.torch_import` reads. The paper was not at hand: its equations have no numbers here.

  tensor             shape     meaning                                                         official code
  batch.video        [B,T,D]   feature rows, not normalised
  clips              [B,T,F]   BiLSTM; linear, tanh                                            ACRM_video
  words              [B,L,2E]  BiLSTM                                                          tail_df
  attended           [B,T,F]   the words as each clip weighs them; linear, tanh                InteractorwoLSTM,
                                                                                               head_df
  states             [B,T,2E]  BiLSTM over the product of clip and attended words              rnn_localization
  start, end,        [B,T]     logits of the first and of the last clip, and of clips inside,  starting, ending,
  inside                       each by two linear layers with a tanh between                   intering

F = 512, E = 256. Moments are ranked by the product of the probabilities of both ends; those of the clips inside
are learned and not read.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.span import explain_pairs, rank_pairs
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Frame-wise Cross-modal Matching for Video Moment Retrieval",
    authors=("Tang", "Zhu", "Liu", "Gao", "Cheng"),
    venue="TMM",
    year=2021,
    family="span",
    kind="frame-wise attention to words, clips inside",
    supervision="full",
    features="I3D, C3D; GloVe",
    official_code="tanghaoyu258/ACRM-for-moment-retrieval@362117659901 (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand. The published program evaluates and "
        "does not train: its optimiser is that of its configs, its schedule that of a function that nobody "
        "calls, the clipping of gradients that of TMLGA.",
        "The softmax is over the real clips and words. The official one takes padded ones for zeros and "
        "divides by what is left, so that tiny probabilities differ.",
        "Both ends of a label are floored on Charades-STA (labels='floor'), there in rows of the features, of "
        "which the official program then reads every third; elsewhere the end is rounded up.",
        "Rows beyond config.input.num_clips are averaged.",
        "Words without a vector are zero; officially they have fixed random ones (Charades-STA) or that of "
        "some other word.",
        "The L2 term is in the gradient when that is clipped.",
        "The official program predicts one moment; here all pairs are ranked.",
    ),
    verified=(
        "Against the official code at this commit, running, with random weights, four videos of 4 to 23 rows "
        "and queries of 3 to 8 words in one batch, moments at both borders among them: labels are the same, "
        "probabilities agree to 3e-7 of their size, the losses to 1e-7, gradients to 2e-7 (with weights three "
        "times as large 3e-6, 1e-7 and 4e-6), and the best moment is the same; alone and in a padded batch a "
        "video has the same result to 1.5e-7, officially too.",
        "6,782,467 parameters on Charades-STA with I3D: the official 6,784,518 without two layers that it does "
        "not use and two biases of its attention without effect of their own.",
        "Whole models, as the official program saves them, are imported.",
    ),
)

_FLOOR = 1e-13  # added to every probability (official `masked_softmax`)


@struct.dataclass
class Outputs:
    """Logits of each clip, [B,T] float32, `MASKED` at padded clips."""

    start: Array
    end: Array
    inside: Array


class Model(GroundingModel):
    """ACRM, with the settings of the official code for ActivityNet Captions and TACoS.

    Attributes:
      features: F, width of clips and attended words.
      recurrent_features: E, units of the LSTMs in each direction; half of F.
      head_features: width of the hidden layer of each head.
      query_bias: whether the LSTM of the words has biases (official: not on Charades-STA).
      fusion: 'product' of clip and attended words, or their absolute 'difference' (official code: CROSS_COS,
        CROSS_SUB).
      inside_weight: weight of the loss of the clips inside.
      labels: 'ceil' rounds the end of a moment up in clips, 'floor' down, as officially on Charades-STA.
      dropout: dropout rate behind every LSTM.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the official).
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    features: int = 512
    recurrent_features: int = 256
    head_features: int = 256
    query_bias: bool = True
    fusion: str = "product"
    inside_weight: float = 1.0
    labels: str = "ceil"
    dropout: float = 0.5
    keep: int = 100
    longest_share: float = 1.0
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"fusion": ("product", "difference"), "labels": ("ceil", "floor")}
    of_evaluation = ("longest_share",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start, as end and as inside."""
        batch.check()

        def read(x, mask, name, use_bias=True):
            lstm = LSTM(
                self.recurrent_features,
                bidirectional=True,
                dtype=self.dtype,
                use_bias=use_bias,
                fast=True,
                name=name,
            )
            return Dropout(self.dropout)(lstm(x, mask), batch.example_index, train)

        mask = batch.video_mask
        clips = read(batch.video.astype(self.dtype), mask, "video_lstm")
        clips = jnp.tanh(torch_linear(self.features, clips, self.dtype, "clips"))
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        words = read(words, batch.query_mask, "query_lstm", self.query_bias)
        across = AdditiveAttention(2 * self.recurrent_features, self.dtype, name="attention")
        attended = across(clips, words, batch.query_mask)
        attended = jnp.tanh(torch_linear(self.features, attended, self.dtype, "attended"))

        fused = clips * attended if self.fusion == "product" else jnp.abs(clips - attended)
        states = read(fused, mask, "lstm", use_bias=False)
        logits = {}
        for name in ("start", "end", "inside"):
            hidden = jnp.tanh(torch_linear(self.head_features, states, self.dtype, f"{name}_hidden"))
            x = torch_linear(1, hidden.astype(jnp.float32), jnp.float32, name)[..., 0]
            logits[name] = jnp.where(mask, x, MASKED)
        return Outputs(**logits)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """'start', 'end': minus the log of a clip's probability; 'inside': the sum of those of the moment.

        Official code: max_boundary and max_inter. The sum is divided by the last clip less the first.
        """
        del epoch
        mask, real = batch.video_mask, batch.example_mask
        first, last = end_clips(batch.span, batch.duration, mask, self.labels)

        def surprise(logits):
            return -jnp.log(masked_softmax(logits, mask) + _FLOOR)

        def at(logits, clip):
            return jnp.take_along_axis(surprise(logits), clip[:, None], axis=1)[:, 0]

        place = jnp.arange(mask.shape[1])[None]
        moment = (place >= first[:, None]) & (place <= last[:, None])
        inside = jnp.where(moment, surprise(outputs.inside), 0.0).sum(-1) / jnp.maximum(last - first, 1)
        return {
            "start": Mean.of(at(outputs.start, first), real),
            "end": Mean.of(at(outputs.end, last), real),
            "inside": Mean.of(inside, real, self.inside_weight),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        return rank_pairs(
            outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns probabilities relative to the best: of pairs, 'map' [B,T,T], and inside, 'clips' [B,T]."""
        inside = masked_softmax(outputs.inside, batch.video_mask)
        highest = jnp.maximum(inside.max(-1, keepdims=True), 1e-30)
        return {
            "map": explain_pairs(outputs.start, outputs.end, batch.video_mask, self.longest_share),
            "clips": jnp.where(batch.video_mask, inside / highest, jnp.nan),
        }


def end_clips(span: Array, duration: Array, mask: Array, labels: str) -> tuple[Array, Array]:
    """Returns the clips [B] at which moments [B,2], in seconds, start and end.

    The end is rounded up to a whole clip, or down with 'floor'.
    """
    count = mask.sum(1)
    place = span / duration[:, None] * count[:, None]
    first = jnp.floor(place[:, 0])
    last = jnp.ceil(place[:, 1]) if labels == "ceil" else jnp.floor(place[:, 1])
    highest = jnp.maximum(count - 1, 0)
    first, last = (jnp.clip(x.astype(jnp.int32), 0, highest) for x in (first, last))
    return first, last
