"""Object-evidence: MML, CTRL's windows with captions, things and activities, against words and their verbs.

Names at the right, and "official code" in the file, are those of the authors' program.

  tensor                  shape      meaning                                              official code
  batch.video             [B,T,D]    features of units of 16 frames (C3D fc6); clips here
  batch.captions          [B,T,D]    states of a captioner's encoder; L2-normalised here
  batch.object_scores     [B,T,D]    how sure it is that each class of things is there
  batch.activity_scores   [B,T,D]    probabilities of activities
  batch.sentence          [B,D]      mean of BERT's states
  x                       [B,M,3D]   mean of the clips (features beside captions) before,
                                     in and after a window                                visual_feature_train
  concepts                [B,M,D]    mean of both scores in a window                      softmax_train
  verb_object             [B,2W]     vectors of a verb and of its direct object           VP_embed_train
  v, s                    [B,*,E]    linear of x and of the sentence, L2-normalised       v2s_lt, s2s_lt
  p, a                    [B,*,E]    linear of concepts and verb_object, L2-normalised    soft2s_lt, VP2s_lt
  fused                   [B,M,F]    [v * s; v + s; v; s] and [p * a; p + a; p; a], each
                                     L2-normalised                                        cross_modal_train
  score, offsets          [B,M,3]    linear with `hidden` outputs, ReLU, linear           fc1, fc2

There are two spaces of a width E, `features` and `action_features`. While training M = B, as in CTRL: each
example draws one window, and every sentence meets every window.
"""

import flax.linen as nn
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.draws import uniform_choice
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.sliding_windows import PairNetwork, SlidingWindows, WindowScores, fused_pairs
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples
from vmr_jax.text.dependencies import DIRECT_OBJECT, SUBJECT
from vmr_jax.types import Array, Batch

CARD = Card(
    title="Video Moment Localization using Object Evidence and Reverse Captioning",
    authors=("Vidanapathirana", "Pandhre", "Raychaudhuri", "Khurana"),
    venue="ArXiv",
    year=2020,
    family="ranking",
    kind="sliding windows, several kinds of evidence",
    supervision="full",
    features="C3D; captions, segmentation, activities; BERT, GloVe",
    official_code="madhawav/MML@84424dd1a11a (PyTorch)",
    ours=(
        "Windows are those of CTRL here, pooled from the clips and drawn for a sentence; the official lists of "
        "windows are files. At test the official program multiplies the score by that of a proposal network, "
        "whose windows nobody but its authors has.",
        "Where a batch holds a moment twice, the two sentences are no negatives of each other; they are there.",
        "Verb and object are read off the dependencies of the sentence: a verb with its direct object, else "
        "the verb of a subject alone. Of several pairs one is drawn while training; at test it is the first, "
        "where the official program draws too.",
        "The official factor of captions is applied behind the layer that reads them, so that it does nothing; "
        "there is none here.",
        "A window that is shorter than a unit of the scores reads the unit that begins in it; the official "
        "program stops there.",
    ),
    verified=(
        "25,308,451 parameters with all evidence, as in the official code.",
        "Against the official code at this commit, running under Python 3 (print statements, xrange and "
        "divisions of integers put right, dropout off), with random weights and two factors of the scores "
        "of things, on files of six made-up videos of ragged length, padded here: rows of windows with "
        "their context, concepts and pairs of verb and object agree to 1e-7, scores and offsets of all "
        "pairs to 2e-6, both losses to 1e-7 and gradients to 6e-7 of their size; at test all windows rank "
        "the same, moments differ by 3e-5 of a frame, and NMS keeps the same ones.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-4.",
        "Checkpoints are imported as the official program saves them, with the numbers that stand beside "
        "the tensors.",
    ),
)

Outputs = WindowScores


class Model(SlidingWindows, GroundingModel):
    """MML, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      lengths: lengths of the sliding windows, in clips (CTRL's).
      strides: distance from one window to the next, in clips, for each length.
      test_lengths: those of `lengths` that are scored at test.
      context: length of the context on each side, in clips; a window whose video does not have all of it is its
        own context.
      features: E, width of the space of video and sentence.
      action_features: width of the space of concepts and of verb and object.
      hidden: width of the hidden layer over a fused pair.
      use_captions: whether captions stand beside the features of the clips.
      use_objects: whether scores of things stand beside those of activities.
      object_dropout: dropout rate of the scores of things.
      object_scale: factor of the scores of things, which have length 1 before.
      score_clips: clips that a row of scores covers, from its own on; 2 are the official 32 frames.
      regression_weight: weight of the L1 loss of the offsets.
      offset_scale: units of an offset in a clip, 16 for frames.
      positive_iou: IoU with the moment above which a window is positive.
      positive_outside: share of a window outside of the moment (nIoL) below which it is positive.
      projection_std: standard deviation of the initial weights of the four projections.
      keep: number of windows that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, scores and losses are float32.
    """

    lengths: tuple[float, ...] = (4, 8, 16, 32)
    strides: tuple[float, ...] = (12 / 16, 25 / 16, 51 / 16, 102 / 16)
    test_lengths: tuple[float, ...] = (8, 16)
    context: float = 8
    features: int = 1024
    action_features: int = 300
    hidden: int = 1000
    use_captions: bool = True
    use_objects: bool = True
    object_dropout: float = 0.5
    object_scale: float = 0.005
    score_clips: float = 2.0
    regression_weight: float = 0.01
    offset_scale: float = 16.0
    positive_iou: float = 0.5
    positive_outside: float = 0.15
    projection_std: float = 1.0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    method = "MML"
    context_windows = "whole"  # official `feat_exists`
    regression = "np"

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores the drawn windows of the batch while training, else all test windows of each video."""
        batch.check()
        self.check_windows()
        clips = batch.video_mask.sum(-1)
        windows = found = None
        if train:
            windows, found = self.draw_window(self.make_rng("dropout"), batch, clips)
            columns = windows[:, None]
        else:
            columns = jnp.asarray(self.grid(batch.video.shape[1], test=True))[None]
            columns = jnp.broadcast_to(columns, (batch.size, *columns.shape[1:]))

        x = self.pool(self._seen(batch), columns, clips)
        v = self._projection(self.features, x, "video")
        s = self._projection(self.features, self._required(batch, "sentence"), "sentence")
        things, activities = self.concepts(batch, columns)
        if things is not None:
            things = Dropout(self.object_dropout, name="object_dropout")(things, batch.example_index, train)
            activities = jnp.concatenate([self.object_scale * things, activities], axis=-1)
        p = self._projection(self.action_features, activities, "concepts")
        a = self._projection(self.action_features, self.verb_object(batch, train), "verb_object")
        if train:  # [1,B,*], the same for every sentence
            v, p = (x.swapaxes(0, 1) for x in gather_examples((v, p)))
        fused = jnp.concatenate([l2_normalize(fused_pairs(v, s)), l2_normalize(fused_pairs(p, a))], -1)
        scores = PairNetwork(self.hidden, 3, self.dtype, name="alignment")(fused)
        return Outputs(score=scores[..., 0], offsets=scores[..., 1:], window=windows, found=found)

    def requires(self) -> tuple[str, ...]:
        """Names the sentence vector, its dependencies, the scores, and the captions."""
        optional = {"captions": self.use_captions, "object_scores": self.use_objects}
        return ("sentence", "dependencies", "activity_scores", *(name for name in optional if optional[name]))

    def verb_object(self, batch: Batch, train: bool) -> Array:
        """Returns [B,2W], the vectors of a verb and of its direct object; zeros for what there is not.

        Official code: `__getitem__` and `load_movie_slidingclip`, which read pairs from a file.
        """
        relation = self._required(batch, "dependencies")
        words = batch.query_mask[:, :, None] & batch.query_mask[:, None, :]
        pairs = words & (relation == DIRECT_OBJECT)  # [B,L,L], verb and object
        alone = words & (relation == SUBJECT)
        found = pairs.any((1, 2))
        pairs = jnp.where(found[:, None, None], pairs, alone)
        flat = pairs.reshape(batch.size, -1)
        if train:
            place = uniform_choice(self.make_rng("dropout"), batch.example_index, flat)[0]
        else:
            place = flat.argmax(-1)
        count = relation.shape[1]

        def vector(word: Array, there: Array) -> Array:
            row = jnp.take_along_axis(batch.query_vectors, word[:, None, None], axis=1)[:, 0]
            return jnp.where(there[:, None], row, 0.0)

        verb, thing = vector(place // count, flat.any(-1)), vector(place % count, found)
        return jnp.concatenate([verb, thing], axis=-1)

    def _seen(self, batch: Batch) -> Array:
        """Returns [B,T,D], features of the clips and captions beside them (`read_unit_level_feats`)."""
        if not self.use_captions:
            return batch.video
        return jnp.concatenate([batch.video, l2_normalize(self._required(batch, "captions"))], axis=-1)

    def concepts(self, batch: Batch, windows: Array) -> tuple[Array | None, Array]:
        """Returns [B,M,D], mean scores of things, of length 1, and of activities in windows [B,M,2].

        Official code: `read_unit_level_softmax`. Without `use_objects` those of things are None.
        """
        start, end = windows[..., :1], windows[..., 1:]
        units = jnp.concatenate([start, jnp.maximum(end - (self.score_clips - 1), start + 1)], axis=-1)
        activities = self.mean_of(self._required(batch, "activity_scores"), units)
        if not self.use_objects:
            return None, activities
        return l2_normalize(self.mean_of(self._required(batch, "object_scores"), units)), activities

    def _projection(self, width: int, x: Array, name: str) -> Array:
        """Returns [...,F] of length 1."""
        init = nn.initializers.normal(self.projection_std)
        return l2_normalize(nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)(x))

    def _required(self, batch: Batch, field: str) -> Array:
        value = getattr(batch, field)
        if value is None:
            raise UserError(f"object_evidence reads batch.{field}, and this batch has none. Give it.")
        return value
