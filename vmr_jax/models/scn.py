"""SCN: the right moment is the one from which the hidden words of the sentence can be completed.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`.

Tensors (F = `features`; P = the number of `widths`; M = T P candidate moments, the paper's proposals; Z = the
number of `rewards`, the candidates that are chosen, the paper's K; R = `rows`; X = `vocab_size`; the names at
the right are the official code's):

    batch.video  [B,T,D]      clip features, not normalised; officially averaged to 200 rows
    batch.query  [B,L]        words; those that the vocabulary lacks are left out of the sentence
    clips        [B,T,F]      a linear layer; without positions                        `frame_fc`
    words        [B,L+1,F]    start vector and word vectors, a linear layer; then
                              sinusoidal positions                                     `word_fc`
    scores       [B,M]        sigmoid of a linear layer: the candidates of P widths that
                              end after clip t                                         `fc_props`
    chosen       [B,Z]        candidates of high score and low overlap; early in
                              training some at random                                  `_select_proposals`
    frames       [B,Z,R,F]    R clips of each                                    `_generate_proposals_feat`
    word_logits  [B,Z,L+1,X]  of the next word, given the words before it (a third are
                              hidden) and the frames                                   `fc_comp`
    nll          [B,Z]        label-smoothed, mean over the words and the end          `cal_nll_loss`

Two stacks of layers, one for clips and one for words, serve both branches: the output of one is the memory of
the other. Every self-attention is causal, that over clips too: a score sees the clips up to the candidate's
end.

The loss: the nll of all Z; and a ranking, the rewards 0, 0.5, 1 from the highest to the lowest nll times the
logarithm of the softmax over the Z scores.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.completion import (
    Reading,
    completion_loss,
    hidden_words,
    known_words,
    sample,
)
from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.linear import torch_linear
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Weakly-Supervised Video Moment Retrieval via Semantic Completion Network",
    authors=("Lin", "Zhao", "Zhang", "Wang", "Liu"),
    venue="AAAI",
    year=2020,
    family="reconstruction",
    kind="completion of hidden words",
    supervision="weak",
    features="C3D; GloVe",
    official_code="ikuinen/semantic_completion_network@a375889d711c (PyTorch)",
    ours=(
        "The end of the sentence is predicted for every sentence; in the official code, where a sentence's "
        "loss depends on the longest one of its batch, it is for all but the longest (see `predict_end`).",
        "Words that the vocabulary lacks are left out after the sentence is cut to `config.text.max_words`, "
        "officially before.",
        "The share of random picks falls at every update, not once an epoch.",
        "The official metrics add one second to the intersection and to the union; ours do not.",
        "With `candidates` > 1 the completion of the sentence, not the score, ranks the moments, as in later "
        "work on the same network (CPL, Zheng et al., CVPR 2022); this is not in the paper.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 25 to 97 rows "
        "and sentences with unknown words: rows, scores, choices, word logits, losses, gradients and the best "
        "moment agree to 1e-6.",
        "Checkpoints of the official code are imported.",
        "Gradients do not change when the annotated moments are NaN.",
    ),
)


@struct.dataclass
class Outputs:
    """Scores of all candidates, and completions from the chosen ones; None where none is completed."""

    scores: jax.Array  # [B,M] float32 in (0, 1), 0 where there is no candidate
    chosen: jax.Array | None  # [B,Z] int32, positions along M
    word_logits: jax.Array | None  # [B,Z,L+1,X] float32, position l predicts word l


class Model(GroundingModel):
    """SCN. The defaults are those of ActivityNet Captions (the official code's only config).

    Attributes:
      features: F, width of every layer (`hidden_size` of the official code).
      hidden: width inside the feed-forward networks.
      heads: number of attention heads.
      layers: number of layers of each of the two stacks.
      widths: widths of the P candidates that end after a clip, as shares of the video (`_generate_props`).
      rewards: rewards of the Z chosen candidates, from the highest to the lowest completion loss.
      max_iou: IoU with the last pick from which on a candidate is no further pick (tau of `_train_one_epoch`).
      random_start: share of random picks at the first update (`_train_one_epoch`, as the next).
      random_updates: number of updates in which that share falls to 1/e.
      rows: R, number of clips that are read of a candidate (official code: `_generate_proposals_feat`).
      hide_one_in: number of words of which one is hidden, rounded down.
      content_weight: logit of hiding a noun, verb, adjective or adverb; that of another word is 1.
      smoothing: share of the target that is spread over all words.
      predict_end: whether the end of the sentence is predicted, too.
      rank_weight: weight of the ranking loss.
      dropout: dropout rate of the inputs and of the output of every sub-layer.
      candidates: number of candidates that `predict` ranks by the completion of the sentence, without hidden
        words, chosen as in training without chance. 1: the paper's way, all candidates by their score.
      vocab_size: X, number of words of the training split, padding and unknown included.
      keep: number of candidates that `predict` ranks, 0 for all.
      dtype: number format of the layers; parameters, scores, logits and loss are float32.
    """

    features: int = 256
    hidden: int = 512
    heads: int = 4
    layers: int = 3
    widths: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    rewards: tuple[float, ...] = (0.0, 0.5, 1.0)
    max_iou: float = 0.65
    random_start: float = 0.5
    random_updates: float = 2000.0
    rows: int = 16
    hide_one_in: int = 3
    content_weight: float = 2.0
    smoothing: float = 0.1
    predict_end: bool = True
    rank_weight: float = 1.0
    dropout: float = 0.1
    candidates: int = 1
    vocab_size: int = 2
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    needs_vocabulary = True

    def requires(self) -> tuple[str, ...]:
        """Names the words that are hidden more often."""
        return ("content_words",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate; completes the sentence from Z of them, or from `candidates` in evaluation."""
        batch.check()
        batch = known_words(batch, self.vocab_size)
        updates = self.variable("counters", "updates", lambda: jnp.int32(0))
        reading = Reading(self, batch.video, batch, train)
        states = reading.states(batch.video_mask)
        logits = torch_linear(len(self.widths), states.astype(jnp.float32), jnp.float32, "scores")
        spans, real = proposals(batch.video_mask, self.widths)
        scores = jnp.where(real, jax.nn.sigmoid(logits).reshape(real.shape), 0.0)
        if self.candidates == 1 and not (train or self.is_initializing()):
            return Outputs(scores=scores, chosen=None, word_logits=None)

        picks = self._picks(updates.value, batch.example_index, train)
        chosen = select(scores, spans, real, picks, self.max_iou)
        hidden = self._hidden(batch, train)
        frames = sample(reading.clips, jnp.take_along_axis(spans, chosen[..., None], axis=1), self.rows)
        if train and not self.is_initializing():
            updates.value = updates.value + 1
        return Outputs(scores=scores, chosen=chosen, word_logits=reading.complete(frames, hidden))

    def _picks(self, updates: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns the place [B,Z] in [0, 1) of each pick by score; 0, the best, unless it is random."""
        if not train:
            return jnp.zeros((*example_index.shape, self.candidates))
        shape = (len(self.rewards),)
        share = self.random_start * jnp.exp(-updates / self.random_updates)
        coin = draw_per_example(self.make_rng("dropout"), example_index, jax.random.uniform, shape)
        place = draw_per_example(self.make_rng("dropout"), example_index, jax.random.uniform, shape)
        return jnp.where(coin < share, place, 0.0)

    def _hidden(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L] bool, the words that are hidden; none where `train` is False."""
        if not train:
            return jnp.zeros_like(batch.query_mask)
        return hidden_words(self.make_rng("dropout"), batch, self.content_weight, self.hide_one_in)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'completion' of all chosen candidates, and their ranking by it, 'rank' (`weakly_supervised_loss`)."""
        del epoch
        nll = self._completion_loss(outputs, batch)
        reward = rewards_of(nll, self.rewards)
        scores = jnp.take_along_axis(outputs.scores, outputs.chosen, axis=1)
        counted = jnp.broadcast_to(batch.example_mask[:, None], nll.shape)
        return {
            "completion": Mean.of(nll, counted),
            "rank": Mean.of(-reward * jax.nn.log_softmax(scores), counted, self.rank_weight),
        }

    def _completion_loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns [B,Z], of the words that were completed."""
        batch = known_words(batch, self.vocab_size)
        return completion_loss(
            outputs.word_logits, batch.query, batch.query_mask, self.smoothing, self.predict_end
        )

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Ranks all candidates by their score, or some by exp(-nll) of the sentence."""
        spans, scores, ranked = self._ranked(outputs, batch)
        seconds = clip_length(batch.duration, batch.video_mask)[:, None, None]
        count = ranked.shape[1]
        return rank(spans * seconds, scores, ranked, min(self.keep or count, count))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the number that the candidates are ranked by: 'map' [B,T,T]."""
        spans, scores, ranked = self._ranked(outputs, batch)
        size, length = batch.video_mask.shape
        rows = jnp.arange(size)[:, None]
        starts = jnp.where(ranked, spans[..., 0], length)  # a place that `drop` leaves out
        pictures = jnp.full((size, length, length), jnp.nan)
        return {"map": pictures.at[rows, starts, spans[..., 1] - 1].set(scores, mode="drop")}

    def _ranked(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns clips [B,M,2] of all candidates, their scores [B,M], and which are ranked [B,M]."""
        spans, real = proposals(batch.video_mask, self.widths)
        if outputs.chosen is None:
            return spans, outputs.scores, real
        nll = self._completion_loss(outputs, batch)
        rows = jnp.arange(real.shape[0])[:, None]
        scores = jnp.zeros(real.shape).at[rows, outputs.chosen].set(jnp.exp(-nll))  # some are chosen twice
        return spans, scores, real & (scores > 0)


# Proposal generation.


def proposals(clip_mask: jax.Array, widths: tuple[float, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns first and end clip (exclusive) [B,M,2] of all candidates, and which [B,M] lie in the video.

    Those that end after the same clip are neighbours. A width is rounded down to clips, to one at least.
    """
    size, length = clip_mask.shape
    count = clip_mask.sum(-1)[:, None]
    width = jnp.maximum((jnp.asarray(widths, jnp.float32)[None] * count).astype(jnp.int32), 1)  # [B,P]
    end = jnp.broadcast_to(1 + jnp.arange(length)[None, :, None], (size, length, len(widths)))
    start = end - width[:, None]
    real = (start >= 0) & clip_mask[:, :, None]
    flat = (size, length * len(widths))
    return jnp.stack([start.reshape(flat), end.reshape(flat)], axis=-1), real.reshape(flat)


def select(scores: jax.Array, spans: jax.Array, real: jax.Array, picks: jax.Array, max_iou: float) -> jax.Array:
    """Returns positions [B,Z] of the chosen among M candidates (`_select_proposals`).

    The candidates are sorted by score. Before every pick but the first, those go that overlap the last one by
    `max_iou` or more, if more than two remain; what has gone stays away.

    Args:
      scores: [B,M], of the candidates.
      spans: [B,M,2] clips.
      real: [B,M] bool, candidates in the video.
      picks: [B,Z] in [0, 1): the place of each pick among what is left, 0 is the best.
      max_iou: bound of (intersection + 1) / (hull + 1), in clips.
    """
    order = jnp.argsort(-jnp.where(real, scores, -jnp.inf), axis=1)
    left = jnp.take_along_axis(real, order, axis=1)
    spans = jnp.take_along_axis(spans, order[..., None], axis=1)
    chosen: list[jax.Array] = []
    for k in range(picks.shape[1]):
        if k:
            last = jnp.take_along_axis(spans, chosen[-1][:, None, None], axis=1)
            apart = left & (clip_iou(spans, last) < max_iou)
            left = jnp.where(apart.sum(1, keepdims=True) > 2, apart, left)
        count = left.sum(1)
        # The product can round up to the count.
        place = jnp.minimum(jnp.floor(picks[:, k] * count).astype(count.dtype), count - 1)
        chosen.append(jnp.argmax(jnp.cumsum(left, axis=1) > place[:, None], axis=1))
    return jnp.take_along_axis(order, jnp.stack(chosen, axis=1), axis=1)


def clip_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns (intersection + 1) / (hull + 1) of clip spans [...,2], 0 where they are apart by a clip or more.

    Source: `calculate_IoU_batch` of the official code.
    """
    start, end = jnp.maximum(a[..., 0], b[..., 0]), jnp.minimum(a[..., 1], b[..., 1])
    hull = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    return jnp.maximum(end - start + 1, 0) / (hull + 1)


def rewards_of(nll: jax.Array, rewards: tuple[float, ...]) -> jax.Array:
    """Returns [B,Z], the first of the rewards for the highest loss [B,Z], the last for the lowest."""
    place = jnp.argsort(jnp.argsort(-nll, axis=1), axis=1)
    return jnp.asarray(rewards, jnp.float32)[place]
