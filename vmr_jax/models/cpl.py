"""CPL: several Gaussians over the video; the right one is that from which the sentence is completed best.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`.

Tensors (F = `features`; K = `proposals`; R = `rows`; X = `vocab_size`; Z = the weightings of the frames: K
proposals in evaluation; in training K more at the left and K at the right of them, the negatives, and the whole
video, the reference; the names at the right are the official code's):

    batch.video  [B,T,D]      clip features, not normalised; officially averaged to 200 rows
    batch.query  [B,L]        words; those that the vocabulary lacks are left out of the sentence
    clips        [B,T+1,F]    a linear layer of the clips and, behind them, of a learnt
                              vector, which sees all clips and which no clip sees      `frame_fc`, `pred_vec`
    words        [B,L+1,F]    start vector and word vectors, a linear layer; then
                              sinusoidal positions                                     `word_fc`
    center,width [B,K]        of the proposals: sigmoid of a linear layer at the vector
                              behind the clips                                         `fc_gauss`
    frames       [B,R,F]      R clips of the video, evenly spaced                      `props_feat`
    weights      [B,Z,R]      how much each frame counts in every attention to it      `gauss_weight`
    word_logits  [B,Z,L+1,X]  of the next word, given the words before it (a third are
                              hidden) and the weighted frames                          `fc_comp`
    nll          [B,Z]        label-smoothed, mean over the words and the end          `cal_nll_loss`

Two stacks of layers, one for clips and one for words, place the proposals and complete the sentence, as in SCN:
the output of one is the memory of the other. Self-attention is causal.

The loss is of the proposal of the lowest nll, and of the reference: both shall complete the sentence; the
proposal shall do so better than the reference and than its own negatives; and the proposals shall differ.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.completion import (
    Reading,
    completion_loss,
    hidden_words,
    known_words,
    sample_whole,
    shorter_than_longest,
)
from vmr_jax.layers.gaussians import bell_over_clips, peaked_bells, spans_of
from vmr_jax.layers.linear import torch_linear
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Weakly Supervised Temporal Sentence Grounding with Gaussian-based Contrastive Proposal Learning",
    authors=("Zheng", "Huang", "Chen", "Peng", "Liu"),
    venue="CVPR",
    year=2022,
    family="reconstruction",
    kind="several learnable Gaussian proposals, negatives beside them",
    supervision="weak",
    features="I3D, C3D; GloVe",
    official_code="minghangz/cpl@cb7562a19590 (PyTorch)",
    ours=(
        "Evaluation hides the likeliest words, content words before others and the first before the later "
        "ones, so that it is deterministic. The official code draws them, so that its numbers change with the "
        "seed and the size of a batch (`random_evaluation` draws them from the query's position in its split).",
        "The end of the sentence is predicted for every sentence; in the official code, where a sentence's "
        "loss and so the order of its proposals depend on the longest one of its batch, it is for all but the "
        "longest (`official_padding`).",
        "The negatives come nearer at every update, not once an epoch.",
        "With votes the moment of most votes comes first and the others follow by their loss; officially R@5 "
        "keeps the five of the lowest loss, whether or not it is among them.",
        "Words that the vocabulary lacks are left out after the sentence is cut to `config.text.max_words`, "
        "officially before.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, two equal proposals, "
        "videos of 25 to 201 rows and sentences with unknown words, with official_padding=True, without and "
        "with five padded clips and a row that only fills the batch: rows, Gaussians and word logits to 1e-6, "
        "every term of the loss to 1e-6, gradients to 1e-6 of the largest; in evaluation the losses, the best "
        "moment, that of most votes in both ways and the first five to 1e-6, ties included.",
        "Checkpoints of the official code are imported.",
        "Gradients do not change when the annotated moments are NaN.",
    ),
)


@struct.dataclass
class Outputs:
    """The proposals, their weights of the frames, and completions of the sentence."""

    center: jax.Array  # [B,K] float32, a share of the video
    width: jax.Array  # [B,K]
    gaussians: jax.Array  # [B,K,R] float32
    word_logits: jax.Array  # [B,Z,L+1,X] float32


class Model(GroundingModel):
    """CPL. The defaults are those of ActivityNet Captions (`config/activitynet` of the official code).

    Attributes:
      features: F, width of every layer.
      hidden: width inside the feed-forward networks.
      heads: number of attention heads.
      layers: number of layers of each of the two stacks.
      proposals: K, number of Gaussians.
      rows: R, number of clips from which the sentence is completed (official code: a quarter of the 200).
      sigma: number of standard deviations in the width of a proposal, in half that of a negative.
      min_width: width below which a Gaussian becomes no narrower; the moment does.
      gamma: exponent of the share of the training that is done, with which negatives move from the ends of the
        video towards the proposal; 0: they are there at once (Charades-STA: 0.5).
      ramp_updates: number of updates after which the negatives are at their last place (official code: all of
        the 30 epochs; the default is that of Charades-STA).
      hide_one_in: number of words of which one is hidden, rounded down, but one at least (`_mask_words`).
      content_weight: logit of hiding a noun, verb, adjective or adverb; that of another word is 1.
      random_evaluation: whether the words that evaluation hides are drawn, see the card.
      smoothing: share of the target that is spread over all words.
      whole_margin: margin to the loss from the whole video (`margin_1`).
      side_margin: margin to the losses from the negatives (`margin_2`).
      rank_weight: weight of the ranking losses (`alpha_1`; Charades-STA: 1).
      diversity_weight: weight of the diversity loss (`alpha_2`; Charades-STA: 5).
      self_overlap: overlap of a Gaussian with itself that the diversity loss wants (`lambda`; Charades-STA:
        0.146).
      votes: how proposals vote for the best moment by their IoU with it, 'none' (by the loss alone), 'equal'
        (ActivityNet Captions) or 'near_first', weighted by their IoU with the first one (Charades-STA).
      dropout: dropout rate of the inputs and of the output of every sub-layer.
      official_padding: whether the longest sentences of a batch do not predict their end, see the card.
      vocab_size: X, number of words of the training split, padding and unknown included.
      dtype: number format of the layers; parameters, Gaussians, logits and loss are float32.
    """

    features: int = 256
    hidden: int = 512
    heads: int = 4
    layers: int = 3
    proposals: int = 8
    rows: int = 50
    sigma: float = 9.0
    min_width: float = 0.01
    gamma: float = 0.0
    ramp_updates: float = 9960.0
    hide_one_in: int = 3
    content_weight: float = 2.0
    random_evaluation: bool = False
    smoothing: float = 0.1
    whole_margin: float = 0.1
    side_margin: float = 0.15
    rank_weight: float = 2.0
    diversity_weight: float = 0.1
    self_overlap: float = 0.13
    votes: str = "none"
    dropout: float = 0.1
    official_padding: bool = False
    vocab_size: int = 2
    dtype: jnp.dtype = jnp.float32

    choices = {"votes": ("none", "equal", "near_first")}
    needs_vocabulary = True
    positive: ClassVar[tuple[str, ...]] = ("proposals", "sigma", "min_width", "ramp_updates")

    def requires(self) -> tuple[str, ...]:
        """Names the words that are hidden more often."""
        return ("content_words",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Places the proposals and completes the sentence from each; in training, from their negatives too."""
        batch.check()
        batch = known_words(batch, self.vocab_size)
        updates = self.variable("counters", "updates", lambda: jnp.int32(0))
        reading = Reading(self, self._with_last(batch.video), batch, train)
        seen = jnp.pad(batch.video_mask, ((0, 0), (0, 1)))
        last = reading.states(seen)[:, -1].astype(jnp.float32)
        # Center and width of one proposal are neighbours (official code: `fc_gauss`).
        places = jax.nn.sigmoid(torch_linear(2 * self.proposals, last, jnp.float32, "gaussians"))
        center, width = jnp.moveaxis(places.reshape(-1, self.proposals, 2), -1, 0)

        gaussians = peaked_bells(center, self._deviation(width), self.rows)
        weights = gaussians
        if train:
            sides = self._sides(center, width, updates.value)
            weights = jnp.concatenate([gaussians, *sides, jnp.ones_like(gaussians[:, :1])], axis=1)
        hidden = self._hidden(batch, train)
        frames = sample_whole(reading.clips[:, :-1], batch.video_mask, self.rows)[:, None]
        frames = jnp.broadcast_to(frames, (*weights.shape[:2], *frames.shape[2:]))
        if train and not self.is_initializing():
            updates.value = updates.value + 1
        logits = reading.complete(frames, hidden, weights)
        return Outputs(center=center, width=width, gaussians=gaussians, word_logits=logits)

    def _with_last(self, video: jax.Array) -> jax.Array:
        """Returns [B,T+1,D], the learnt vector behind the clips [B,T,D]."""
        vector = jnp.broadcast_to(
            self.param("proposal_vector", nn.initializers.zeros, video.shape[-1:])[None, None],
            (video.shape[0], 1, video.shape[-1]),
        )
        return jnp.concatenate([video, vector.astype(video.dtype)], axis=1)

    def _sides(self, center: jax.Array, width: jax.Array, updates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the negatives [B,K,R] at the left and at the right of proposals [B,K].

        Each reaches from its end of the video up to a share of what is left beside the proposal. Source:
        `negative_proposal_mining` of the official code.
        """
        share = 0.5 * jnp.minimum((updates + 1) / self.ramp_updates, 1.0) ** self.gamma
        left = jnp.maximum(center - width / 2, 0.0) * share
        right = jnp.maximum(1 - center - width / 2, 0.0) * share  # from the end of the video
        return (
            peaked_bells(left, 2 * self._deviation(left), self.rows),
            peaked_bells(1 - right, 2 * self._deviation(right), self.rows),
        )

    def _deviation(self, width: jax.Array) -> jax.Array:
        return jnp.maximum(width, self.min_width) / self.sigma

    def _hidden(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,L] bool, the words that are hidden: drawn in training, the likeliest in evaluation."""
        key = None
        if train and not self.is_initializing():
            key = self.make_rng("dropout")
        elif self.random_evaluation:
            key = jax.random.key(0)
        return hidden_words(key, batch, self.content_weight, self.hide_one_in, at_least=1)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'positive' and 'whole', the completion from the best proposal and from the reference (`rec_loss` of
        the official code); 'above_whole', 'above_left' and 'above_right', its ranking, and 'diversity'
        (`ivc_loss`).
        """
        del epoch
        nll, count = self._completion_loss(outputs, batch), self.proposals
        best = jnp.argmin(nll[:, :count], axis=1)[:, None]
        positive, left, right = (
            jnp.take_along_axis(part, best, axis=1)[:, 0] for part in jnp.split(nll[:, : 3 * count], 3, axis=1)
        )
        whole = nll[:, -1]

        def above(other, margin):
            return Mean.of(nn.relu(positive - other + margin), batch.example_mask, self.rank_weight)

        return {
            "positive": Mean.of(positive, batch.example_mask, 0.5),
            "whole": Mean.of(whole, batch.example_mask, 0.5),
            "above_whole": above(whole, self.whole_margin),
            "above_left": above(left, self.side_margin),
            "above_right": above(right, self.side_margin),
            "diversity": Mean.of(self._overlap(outputs), batch.example_mask, self.diversity_weight),
        }

    def _overlap(self, outputs: Outputs) -> jax.Array:
        """Returns [B], the squared distance of the products of all pairs of Gaussians from lambda I."""
        shares = outputs.gaussians / outputs.gaussians.sum(-1, keepdims=True)
        products = jnp.einsum("bkr,bjr->bkj", shares, shares)
        return ((products - self.self_overlap * jnp.eye(self.proposals)[None]) ** 2).sum((1, 2))

    def _completion_loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns [B,Z]."""
        batch = known_words(batch, self.vocab_size)
        ends: Any = shorter_than_longest(batch) if self.official_padding else True
        return completion_loss(outputs.word_logits, batch.query, batch.query_mask, self.smoothing, ends)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Ranks the proposals by exp(-nll) of the sentence; with votes, that of most votes gets 1 more."""
        scores = jnp.exp(-self._completion_loss(outputs, batch)[:, : self.proposals])
        spans = spans_of(outputs.center, outputs.width) * batch.duration[:, None, None]
        moments = rank(spans, scores, jnp.ones(scores.shape, bool), self.proposals)
        if self.votes == "none":
            return moments
        overlaps = iou(moments.spans[:, :, None], moments.spans[:, None])  # [B,K,K]
        voices = overlaps[:, :1] if self.votes == "near_first" else jnp.ones_like(overlaps[:, :1])
        elected = jnp.argmax((overlaps * voices).sum(-1), axis=1)
        first = jax.nn.one_hot(elected, self.proposals)
        return rank(moments.spans, moments.scores + first, jnp.ones(first.shape, bool), self.proposals)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the Gaussian of the lowest loss at the middle of every clip: 'clips' [B,T]."""
        nll = self._completion_loss(outputs, batch)[:, : self.proposals]
        best = jnp.argmin(nll, axis=1)[:, None]
        center, width = (jnp.take_along_axis(x, best, axis=1)[:, 0] for x in (outputs.center, outputs.width))
        return {"clips": bell_over_clips(center, self._deviation(width), batch.video_mask)}
