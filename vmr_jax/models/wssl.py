"""WSSL: a sentence is localized where a caption of the moment is the sentence again; captions and moments teach
each other.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`. This is the
sentence localizer of WS-DEC (weakly supervised dense event captioning). No copy of the paper was at hand: names
at the right, and "official code" in the file, are those of the authors' program.

  tensor         shape     meaning                                                        official code
  batch.video    [B,T,D]   clip features, not normalised (C3D, every second row)          video_feat
  sentences      [B,L+2]   ids of a start, the words and an end                           sent
  clips, words   [B,*,F]   GRUs of U layers; that of the video adds its input             RNNSeqEncoder
  contexts       [B,2,F]   words by the video's last states, clips by the sentence's      AttentionType0
  mixed          [B,3F]    linear, product and sum of both, two layers                    FeatureMixerType0
  scores         [B,A]     logits of the A anchors, each a centre and a width             predictor
  refinements    [B,A,2]   sigmoids, times 0.3, added to centre and width                 refiner
  caption        [B,L+1,X] log-probabilities of the next word, of the segment             RNNSeqDecoder

Training takes turns. Captions: the segment of the best anchor, with its refinement and some noise, is to make
the sentence likely, and the likeliest words there are to be localized at the same place. Every `turns` turns
that of the localizer: of the captions of all anchors the one nearest to the sentence says which anchor is
right; the generator does not learn. Before both the generator may learn from whole videos.

Letters beyond the usual: A anchors, X classes of words, U layers, Y words of a caption, Z = U F.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.captions import LEAST, CaptionGenerator, StackedEncoder, sentences_of
from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_dense
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.layers.recurrent import last_state
from vmr_jax.layers.sentence_similarity import meteor
from vmr_jax.losses import position_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Weakly Supervised Dense Event Captioning in Videos",
    authors=("Duan", "Huang", "Gan", "Wang", "Zhu", "Huang"),
    venue="NeurIPS",
    year=2018,
    family="reconstruction",
    kind="cycle of captions and localized sentences",
    supervision="weak",
    features="C3D; word vectors learnt with the model",
    official_code="XgDuan/WSDEC@64abf5ee041a (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand.",
        "Turns are counted in updates (`turn_steps`); officially they are epochs.",
        "Captions are compared with the sentence by METEOR without stems, synonyms and paraphrases, computed "
        "from ids; the official program runs METEOR 1.5 in Java.",
        "Both turns have one optimizer and one size of batch. Officially each has momentum of its own, "
        "clipping is of the localizer alone, all but its refinements learn at a tenth of the rate in the turns "
        "of captions, and six videos are a batch in those of the localizer.",
        "The video is encoded once for the sentence and for its caption, with one draw of dropout.",
        "Of all anchors, by their scores, moments are predicted; the official program predicts one.",
        "The input of a video's encoder goes through a linear layer to its output; officially it is added "
        "unchanged where the widths are the same.",
        "Of equal captions the first anchor's is the nearest; a sentence without any word in common is as near "
        "to all.",
    ),
    verified=(
        "Against the official code at this commit, running (Python 2 and PyTorch 0.3 mended: an integer "
        "division, a mask and an assignment of the shape that they are for; METEOR replaced), with small "
        "random weights, videos of 5 to 30 rows, sentences of 3 to 8 words with unknown ones, and rows that "
        "only fill the batch: sentences, moments and the captions of all 75 anchors are the same, logits and "
        "refinements agree to 2.4e-7, and in the turns of whole videos, of the localizer and of captions "
        "losses to 2e-7, gradients to 1e-6 of the largest and running statistics to 1e-7. Padding changes "
        "nothing.",
        "Checkpoints are read as the official program saves them.",
        "The beam search finds the best of all sentences, and METEOR, masks, turns and losses equal "
        "computations by hand.",
        "Gradients do not change when the annotated moments are NaN.",
    ),
)

ANCHORS = np.array(  # official code: ANCHOR_LIST, centres and widths
    [
        *((i / 4, 1 / 2) for i in (1, 2, 3)),
        *((i / 6, 1 / 3) for i in (1, 3, 5)),
        *((i / 16, 1 / 8) for i in range(1, 16, 2)),
        (1 / 2, 1.0),
    ],
    np.float32,
)
NOISE = 0.01  # official code: train_cg
CAPTIONS = 0  # who learns: both, from captions
LOCALIZER = 1  # the localizer
WHOLE_VIDEOS = 2  # the generator


@struct.dataclass
class Outputs:
    """Anchors; while training also what the two parts say of each other."""

    scores: Array  # [B,A] float32
    refinements: Array  # [B,A,2] float32, 0 to `scale`
    caption: Array | None = None  # [B] float32, negative log-likelihood of the sentence
    change: Array | None = None  # [B] float32, mean square between the segments of sentence and caption
    label: Array | None = None  # [B] int32, the anchor whose caption is nearest to the sentence
    turn: Array | None = None  # [] int32, CAPTIONS, LOCALIZER or WHOLE_VIDEOS


class Model(GroundingModel):
    """WSSL. The defaults are those of the official train_final.py.

    Attributes:
      features: F, width of every layer.
      layers: U, number of layers of every GRU.
      embedding: width of a word.
      scale: largest refinement, as a share of the video (official code: regressor_scale).
      slope: steepness per clip of the soft masks at the ends of a segment (official code: softmask_scale).
      dropout: dropout rate of the GRUs and of the mixed features.
      beams: number of beams of the captions of anchors (official code: beam_size).
      caption_words: Y, number of words of such a caption (official code: max_cap_length).
      change_weight: weight of the difference between the segments of a sentence and of its caption.
      whole_steps: number of first updates in which the generator learns from whole videos.
      turn_steps: number of updates of a turn.
      turns: every how many turns it is that of the localizer, beginning with the first (official: alter_step).
      vocab_size: number of words, padding and unknown included.
      dtype: number format of the layers; parameters, states, logits and losses are float32.
    """

    needs_vocabulary = True
    positive = ("layers", "embedding", "beams", "turn_steps", "turns", "scale")

    features: int = 512
    layers: int = 2
    embedding: int = 512
    scale: float = 0.3
    slope: float = 0.1
    dropout: float = 0.3
    beams: int = 3
    caption_words: int = 20
    change_weight: float = 0.01
    whole_steps: int = 0
    turn_steps: int = 313
    turns: int = 5
    vocab_size: int = 2
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the two parts and the counter of updates."""
        sizes = (self.embedding, self.features, self.layers)
        self.localizer = Localizer(self.vocab_size + 1, *sizes, self.scale, self.dropout, self.dtype)
        self.generator = CaptionGenerator(self.vocab_size + 1, *sizes, self.slope, self.dropout, self.dtype)
        self.updates = self.variable("counters", "updates", lambda: jnp.int32(0))

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores the anchors; while training, the parts teach each other as the count of updates says."""
        batch.check()
        index, real = batch.example_index, batch.example_mask
        sentences, mask = sentences_of(batch, self.vocab_size + 1)
        video = self.localizer.encode(batch.video, batch.video_mask, index, train)
        scores, refinements = self.localizer(*video, batch.video_mask, sentences, mask, index, train, real)
        if not train:
            return Outputs(scores, refinements)
        turn = self._turn()
        segment = best_segment(scores, refinements)
        noise = draw_per_example(self.make_rng("dropout"), index, jax.random.uniform, (2,))
        segment = segment + NOISE * (2 * noise - 1)
        whole = jnp.array([0.5, 1.0])[None]
        segment = jnp.where(turn == WHOLE_VIDEOS, whole, segment)

        output, states = self.generator.encode(batch.video, batch.video_mask, index, train)
        context, first = self.generator.segment(output, states, batch.video_mask, segment)
        caption = self.generator.teach(sentences[:, :-1], context, first, index, train)
        wanted = jnp.take_along_axis(caption, sentences[:, 1:, None], axis=2)[..., 0]
        likely = jnp.concatenate([sentences[:, :1], caption.argmax(-1)], axis=1)
        # Running statistics move with the caption in the turns of captions alone.
        moving = real & (turn == CAPTIONS)
        again = self.localizer(*video, batch.video_mask, likely, mask, index, train, moving)
        change = best_segment(*again) - jax.lax.stop_gradient(segment)
        return Outputs(
            scores,
            refinements,
            caption=-jnp.where(mask[:, 1:], wanted, 0.0).sum(-1),
            change=jnp.square(change).mean(-1),
            label=self._labels(batch, turn, sentences, mask),
            turn=turn,
        )

    def _turn(self) -> Array:
        """Who learns in this update; counts it."""
        count = self.updates.value
        if not self.is_initializing():
            self.updates.value = count + 1
        place = (count - self.whole_steps) // self.turn_steps
        turn = jnp.where(place % self.turns == 0, LOCALIZER, CAPTIONS)
        return jnp.where(count < self.whole_steps, WHOLE_VIDEOS, turn)

    def _labels(self, batch: Batch, turn: Array, sentences: Array, mask: Array) -> Array:
        """The anchors [B] whose captions are nearest to the sentences, where the localizer learns; else 0."""

        def nearest(module):
            output, states = module.generator.encode(batch.video, batch.video_mask, batch.example_index, False)
            count = len(ANCHORS)
            rows = [jnp.repeat(x, count, axis=0) for x in (output, states, batch.video_mask)]
            segments = jnp.tile(jnp.asarray(ANCHORS), (batch.size, 1))
            context, first = module.generator.segment(*rows, segments)
            found, found_mask = module.generator.search(context, first, self.caption_words, self.beams)
            wanted, wanted_mask = (jnp.repeat(x, count, axis=0) for x in (sentences[:, 1:-1], mask[:, 2:]))
            likeness = meteor(found, found_mask, wanted, wanted_mask)
            return likeness.reshape(batch.size, count).argmax(1).astype(jnp.int32)

        def none(module):
            del module
            return jnp.zeros(batch.size, jnp.int32)

        if self.is_initializing():
            return none(self)
        return nn.cond(turn == LOCALIZER, nearest, none, self)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'caption', 'change' and 'anchor', each where its part learns (train_cg, build_loss_v1)."""
        del epoch
        turn, label = jnp.asarray(outputs.turn), jnp.asarray(outputs.label)
        real, caption, change = batch.example_mask, jnp.asarray(outputs.caption), jnp.asarray(outputs.change)
        return {
            "caption": Mean.of(caption, real & (turn != LOCALIZER)),
            "change": Mean.of(change, real & (turn == CAPTIONS), self.change_weight),
            "anchor": Mean.of(position_cross_entropy(outputs.scores, label), real & (turn == LOCALIZER)),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the moments of all anchors, best first; the score is the softmax of the logits."""
        refined = outputs.refinements - jnp.array([self.scale / 2, 0.0])[None, None]
        centre, width = jnp.moveaxis(jnp.asarray(ANCHORS)[None] + refined, -1, 0)
        ends = jnp.stack(
            [jnp.maximum(centre - width / 2, 0), jnp.minimum(centre + width / 2, 1 - LEAST)], axis=-1
        )
        spans = ends * batch.duration[:, None, None]
        scores = jax.nn.softmax(outputs.scores)
        return rank(spans, scores, jnp.ones(scores.shape, bool), len(ANCHORS))


def best_segment(scores: Array, refinements: Array) -> Array:
    """Centre and width [B,2] of the best anchor with its refinement, as shares of the video.

    Unlike that of the predicted moment, the refinement of the centre is not brought to a mean of zero (official
    code: forward_diff).
    """
    best = scores.argmax(-1)
    refined = jnp.take_along_axis(refinements, best[:, None, None], axis=1)[:, 0]
    return jnp.asarray(ANCHORS)[best] + refined


class Localizer(nn.Module):
    """Scores and refines the anchors (official code: SentenceLocalizer).

    Attributes:
      classes: X.
      embedding: width of a word.
      features: F, width of every layer.
      layers: U.
      scale: largest refinement.
      dropout: dropout rate of the GRUs and of the mixed features.
      dtype: number format of the layers; logits are float32.
    """

    classes: int
    embedding: int
    features: int
    layers: int
    scale: float
    dropout: float
    dtype: jnp.dtype

    def setup(self):
        """Names the parts; the layers behind the contexts are as PyTorch starts them."""
        sizes = (self.features, self.layers, self.dropout)
        self.video_encoder = StackedEncoder(*sizes, True, self.dtype)
        self.text_encoder = StackedEncoder(*sizes, False, self.dtype)
        self.words = self.param("words", nn.initializers.normal(1.0), (self.classes, self.embedding))
        wide, f = 3 * self.features, self.features

        def linear(features: int, inputs: int, use_bias: bool = True, dtype: Any = None) -> nn.Dense:
            # Submodules that are set in `setup` take the name of their field.
            return torch_dense(features, inputs, dtype or self.dtype, None, use_bias)  # type: ignore[arg-type]

        self.video_attention = linear(self.layers * f, f, False)
        self.text_attention = linear(self.layers * f, f, False)
        self.video_norm = MaskedBatchNorm(dtype=self.dtype)
        self.text_norm = MaskedBatchNorm(dtype=self.dtype)
        self.both = linear(f, 2 * f)
        self.mix_0 = linear(wide, wide, False)
        self.norm_0 = MaskedBatchNorm(dtype=self.dtype)
        self.mix_dropout = Dropout(self.dropout)
        self.mix_1 = linear(wide, wide, False)
        self.norm_1 = MaskedBatchNorm(dtype=self.dtype)
        self.score = linear(len(ANCHORS), wide, dtype=jnp.float32)
        self.refine = linear(2 * len(ANCHORS), wide, dtype=jnp.float32)

    def encode(self, video: Array, mask: Array, example_index: Array, train: bool) -> tuple[Array, Array]:
        """Reads the video: output and states as of `StackedEncoder`."""
        return self.video_encoder(video.astype(self.dtype), mask, example_index, train)

    def __call__(
        self,
        clips: Array,
        clip_states: Array,
        clip_mask: Array,
        sentences: Array,
        mask: Array,
        example_index: Array,
        train: bool,
        counted: Array,
    ) -> tuple[Array, Array]:
        """Scores [B,A] and refinements [B,A,2] of sentences [B,L+2] in the videos that `encode` has read.

        `counted` [B] are the rows of which the batch normalisations take their statistics.
        """
        vectors = self.words[sentences].astype(self.dtype)
        words, word_states = self.text_encoder(vectors, mask, example_index, train)
        text = _attend(self.text_attention(words), words, mask, last_state(clip_states, clip_mask))
        video = _attend(self.video_attention(clips), clips, clip_mask, last_state(word_states, mask))
        text, video = self.text_norm(text, counted, train), self.video_norm(video, counted, train)
        both = self.both(jnp.concatenate([text, video], axis=-1))
        x = jnp.concatenate([both, text * video, text + video], axis=-1)
        x = nn.relu(self.norm_0(self.mix_0(x), counted, train))
        x = self.mix_dropout(x, example_index, train)
        x = nn.relu(self.norm_1(self.mix_1(x), counted, train)).astype(jnp.float32)
        refinements = nn.sigmoid(self.refine(x)) * self.scale
        return self.score(x), refinements.reshape(len(x), len(ANCHORS), 2)


def _attend(keys: Array, values: Array, mask: Array, query: Array) -> Array:
    """The mean [B,F] of values [B,T,F], by keys [B,T,Z] and query [B,Z], the states of U layers."""
    logits = (keys * query[:, None]).sum(-1) / query.shape[-1] ** 0.5
    weights = masked_softmax(logits, mask).astype(values.dtype)
    return jnp.einsum("bt,btf->bf", weights, values)
