"""CNM: a Gaussian over the video, from which the sentence is completed better than from all or from the rest.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`.

Tensors (F = `features`; R = `rows`; X = `vocab_size`; Z = the three masks, with the paper's names: the Gaussian
(positive), the whole video (hard negative), the rest of it (easy negative); the names at the right are the
official code's):

    batch.video  [B,T,D]      clip features, not normalised; officially averaged to 200 rows
    batch.query  [B,L]        words; those that the vocabulary lacks are left out of the sentence
    clips        [B,T,F]      a linear layer; without positions                        `frame_fc`
    words        [B,L+1,F]    start vector and word vectors, a linear layer; then
                              sinusoidal positions                                     `word_fc`
    center,width [B]          of the Gaussian: sigmoid of a linear layer at the last
                              clip, which has seen all of them and the words           `fc_mask_gen`
    frames       [B,R,F]      R clips of the video, evenly spaced                      `props_feat`
    masks        [B,Z,R]      how much each frame counts in every attention to it      `gauss_weight`
    word_logits  [B,Z,L+1,X]  of the next word, given the words before it (a third are
                              hidden) and the frames under the mask                    `fc_rec`
    nll          [B,Z]        label-smoothed, mean over the words and the end          `cal_nll_loss`

Two stacks of layers, one for clips and one for words, are both the generator of the mask and the reconstructor
of the sentence, as in SCN: the output of one is the memory of the other. Self-attention is causal.

Training takes two passes with draws of their own. In the first, all parameters but the generator's last layer
learn to complete the sentence from the Gaussian and from the whole video; in the second that layer alone learns
that the Gaussian does better than the whole video and better than the rest.
"""

from collections.abc import Mapping
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
from vmr_jax.layers.gaussians import bell_over_clips, bells, spans_of
from vmr_jax.layers.linear import torch_linear
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Weakly Supervised Video Moment Localization with Contrastive Negative Sample Mining",
    authors=("Zheng", "Huang", "Chen", "Liu"),
    venue="AAAI",
    year=2022,
    family="reconstruction",
    kind="a learnable Gaussian mask, its complement as negative",
    supervision="weak",
    features="I3D, C3D, CLIP; GloVe",
    official_code="minghangz/cnm@5ccb192fa216 (PyTorch)",
    ours=(
        "Both parts are updated at once, each by the gradient of its own loss. The official code updates the "
        "reconstructor first and then runs the batch again, so that the generator's loss is of the new "
        "reconstructor; this order on one batch cannot be expressed by one update of all parameters.",
        "Clipping counts the norm of both gradients; officially each step counts the other part's last "
        "gradient, as it was after its own clipping.",
        "The end of the sentence is predicted for every sentence; in the official code, where a sentence's "
        "loss depends on the longest one of its batch, it is for all but the longest (`official_padding`).",
        "Words that the vocabulary lacks are left out after the sentence is cut to `config.text.max_words`, "
        "officially before.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 25 to 201 "
        "rows and sentences with unknown words, with official_padding=True, without and with five padded clips "
        "and a row that only fills the batch: rows, Gaussians, moments and word logits to 3e-7 of the largest, "
        "both losses to 2e-6, the gradients of each of them to 4e-6.",
        "Two steps on one batch, as in the official code: after the first, at a learning rate of 4e-4, the "
        "generator's gradient was another by 8% on these small networks, which is how far one joint update "
        "departs from it.",
        "Checkpoints of the official code are imported.",
        "Gradients do not change when the annotated moments are NaN.",
    ),
)
GENERATOR = "mask_generator"  # the layer that the second loss trains
POSITIVE = 0  # along Z
HARD = 1
EASY = 2


@struct.dataclass
class Outputs:
    """The Gaussian; in training, completions of the sentence in both passes."""

    center: jax.Array  # [B] float32, a share of the video
    width: jax.Array  # [B]
    reconstructed: jax.Array | None  # [B,2,L+1,X] float32, first pass, without the easy negative
    contrasted: jax.Array | None  # [B,3,L+1,X] float32, second pass


class Model(GroundingModel):
    """CNM. The defaults are those of ActivityNet Captions (`config/activitynet` of the official code).

    Attributes:
      features: F, width of every layer.
      hidden: width inside the feed-forward networks.
      heads: number of attention heads.
      layers: number of layers of each of the two stacks.
      rows: R, number of clips from which the sentence is completed (official code: a quarter of the 200).
      sharpness: factor of the squared distance to the center, in widths (alpha; Charades-STA: 5.5).
      max_width: largest width of the Gaussian, as a share of the video (Charades-STA: 0.45).
      min_width: width below which the Gaussian becomes no narrower; the moment does.
      hide_one_in: number of words of which one is hidden, rounded down, but one at least (`_mask_words`).
      content_weight: logit of hiding a noun, verb, adjective or adverb; that of another word is 1.
      smoothing: share of the target that is spread over all words.
      hard_margin: margin to the loss from the whole video (`beta_1`).
      easy_margin: margin to the loss from the rest of the video (`beta_2`).
      dropout: dropout rate of the inputs and of the output of every sub-layer.
      official_padding: whether the longest sentences of a batch do not predict their end, see the card.
      vocab_size: X, number of words of the training split, padding and unknown included.
      dtype: number format of the layers; parameters, Gaussian, logits and loss are float32.
    """

    features: int = 256
    hidden: int = 512
    heads: int = 4
    layers: int = 3
    rows: int = 50
    sharpness: float = 5.0
    max_width: float = 1.0
    min_width: float = 0.1
    hide_one_in: int = 3
    content_weight: float = 2.0
    smoothing: float = 0.1
    hard_margin: float = 0.1
    easy_margin: float = 0.15
    dropout: float = 0.1
    official_padding: bool = False
    vocab_size: int = 2
    dtype: jnp.dtype = jnp.float32

    needs_vocabulary = True
    positive: ClassVar[tuple[str, ...]] = ("sharpness", "max_width", "min_width")

    def requires(self) -> tuple[str, ...]:
        """Names the words that are hidden more often."""
        return ("content_words",)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Places the Gaussian; completes the sentence in training, once for each of the two losses."""
        batch.check()
        batch = known_words(batch, self.vocab_size)
        if not train or self.is_initializing():
            center, width, _ = self._pass(batch, train, EASY if self.is_initializing() else None)
            return Outputs(center=center, width=width, reconstructed=None, contrasted=None)
        center, width, reconstructed = _training(lambda name: name != GENERATOR)(self, batch, train, HARD)
        _, _, contrasted = _training(lambda name: name == GENERATOR)(self, batch, train, EASY)
        return Outputs(center=center, width=width, reconstructed=reconstructed, contrasted=contrasted)

    @nn.compact
    def _pass(
        self, batch: Batch, train: bool, last: int | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns center [B], width [B] and logits [B,Z,L+1,X] from the masks up to `last`, None for none."""
        clip_mask = batch.video_mask
        reading = Reading(self, batch.video, batch, train)
        states = reading.states(clip_mask)
        final = jnp.maximum(clip_mask.sum(-1) - 1, 0)[:, None, None]
        state = jnp.take_along_axis(states, final, axis=1)[:, 0].astype(jnp.float32)
        center, width = jax.nn.sigmoid(torch_linear(2, state, jnp.float32, GENERATOR)).T
        width = width * self.max_width
        if last is None:
            return center, width, None

        key = self.make_rng("dropout") if train and not self.is_initializing() else None
        hidden = hidden_words(key, batch, self.content_weight, self.hide_one_in, at_least=1)
        masks = self._masks(center, width)[:, : last + 1]
        frames = sample_whole(reading.clips, clip_mask, self.rows)[:, None]
        frames = jnp.broadcast_to(frames, (*masks.shape[:2], *frames.shape[2:]))
        logits = reading.complete(frames, hidden, masks)
        return center, width, logits

    def _masks(self, center: jax.Array, width: jax.Array) -> jax.Array:
        """Returns [B,3,R], weights of the frames: the Gaussian, the whole video, the rest of it.

        Source: `generate_gauss_weight` of the official code, exp(-alpha (u - c)^2 / w^2).
        """
        gaussian = bells(center, self._deviation(width), self.rows)
        return jnp.stack([gaussian, jnp.ones_like(gaussian), 1 - gaussian], axis=1)

    def _deviation(self, width: jax.Array) -> jax.Array:
        return jnp.maximum(width, self.min_width) / (2 * self.sharpness) ** 0.5

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'positive' and 'hard', the completion that the first pass learns (`rec_loss` of the official code);
        'above_hard' and 'above_easy', the ranking that the second one learns (`ivc_loss`).
        """
        del epoch
        batch = known_words(batch, self.vocab_size)
        ends = shorter_than_longest(batch) if self.official_padding else True

        def nll(logits: Any) -> jax.Array:
            return completion_loss(logits, batch.query, batch.query_mask, self.smoothing, ends)

        first, second = nll(outputs.reconstructed), nll(outputs.contrasted)
        above_hard = nn.relu(second[:, POSITIVE] - second[:, HARD] + self.hard_margin)
        above_easy = nn.relu(second[:, POSITIVE] - second[:, EASY] + self.easy_margin)
        return {
            "positive": Mean.of(first[:, POSITIVE], batch.example_mask),
            "hard": Mean.of(first[:, HARD], batch.example_mask),
            "above_hard": Mean.of(above_hard, batch.example_mask),
            "above_easy": Mean.of(above_easy, batch.example_mask),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """The one moment of the Gaussian, with the score 1."""
        spans = spans_of(outputs.center, outputs.width) * batch.duration[:, None]
        return Moments(spans=spans[:, None], scores=jnp.ones((spans.shape[0], 1)))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the Gaussian at the middle of every clip: 'clips' [B,T]."""
        return {"clips": bell_over_clips(outputs.center, self._deviation(outputs.width), batch.video_mask)}


def _training(learns) -> Any:
    """`Model._pass` in which the gradient stops at all parameters but those of which `learns(name)` is true."""

    def stop(variables: Mapping[str, Any]) -> Mapping[str, Any]:
        params = {
            name: x if learns(name) else jax.lax.stop_gradient(x) for name, x in variables["params"].items()
        }
        return {**variables, "params": params}

    return nn.map_variables(Model._pass, "params", trans_in_fn=stop)
