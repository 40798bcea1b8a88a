"""CTRL: sliding windows, scored against the sentence and moved to the moment's ends.

Names at the right, and "official code" in the file, are those of the authors' program, which serves TACoS
alone.

  tensor          shape      meaning                                                     official code
  batch.video     [B,T,D]    features of units of 16 frames (C3D fc6), not normalised; clips here
  batch.sentence  [B,D]      f_s before its layer: skip-thought vector of the query      sentence_ph
  windows         [M,2]      the sliding windows of `window_grid`, in clips              sclips
  x               [B,M,3D]   mean of the clips before, in and after a window             visual_featmap_ph
  video           [B,M,E]    v: linear, L2-normalised                                    v2s_lt
  sentence        [B,E]      s: linear, L2-normalised                                    s2s_lt
  fused           [B,M,4E]   [v * s; v + s; v; s]                                        cross_modal_comb
  score, offsets  [B,M,3]    linear with `hidden` outputs, ReLU, linear: cs, t_s, t_e    vs_multilayer

While training M = B: each example draws one window, and every sentence meets every window. A sentence and its
own window are a positive pair of the B x B, the others are negatives; a window may be drawn that has IoU > 0.5
with the moment and of which less than 15% lies outside. An example whose video has no such window, as where the
moment is shorter than all of them, does not count: neither its sentence nor its window is in any pair.
"""

import flax.linen as nn
import jax.numpy as jnp

from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.sentence import SENTENCE_VECTORS, SentenceVector, read_fields
from vmr_jax.layers.sliding_windows import PairNetwork, SlidingWindows, WindowScores, fused_pairs
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch

CARD = Card(
    title="TALL: Temporal Activity Localization via Language Query",
    authors=("Gao", "Sun", "Yang", "Nevatia"),
    venue="ICCV",
    year=2017,
    family="ranking",
    kind="sliding windows",
    supervision="full",
    features="C3D; skip-thoughts",
    official_code="jiyanggao/TALL@3df6794af148 (TensorFlow)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "Windows are no files cut beforehand: they are pooled from the clips, a clip on the border in "
        "proportion. Lengths and strides are in clips; the defaults are the official 64, 128, 256 and 512 "
        "frames every 12, 25, 51 and 102 frames, where a clip is 16 frames.",
        "The official code draws pairs of a window and a sentence, all equally likely; here the sentence is "
        "drawn, as everywhere in this library, then one of its windows.",
        "The official code draws again where a batch would hold a moment twice; here such a pair (same video, "
        "same moment, another sentence) is no negative: it does not count.",
        "Offsets are in clips times `offset_scale`, 16 for the official frames. Moved windows are cut to the "
        "video when they are counted; the official ones may end beyond it, which costs them IoU.",
        "Of equal scores the earlier window is first; in the official code the one whose file is listed later.",
        "Training without regression and with relative offsets is the paper's, on the same windows: the "
        "official code for the first stops at a name that does not exist, and has remains of the second alone.",
        "Word vectors instead of the skip-thought vector (`text`) are ours: the paper tries an LSTM, the code "
        "does not.",
    ),
    verified=(
        "There are 21,600,163 parameters, as the official variables have.",
        "Against the official program at this commit, unmodified, running in Python 2.7 and TensorFlow 0.12, "
        "on files of seven made-up videos of ragged length, padded here: of 1,058 windows the same 212 pairs "
        "with 99 sentences are positive; rows of windows with their context agree to 9e-8 of the largest "
        "number, offsets to teach to 2e-4 of a frame, scores and offsets of all pairs of three batches to "
        "2e-6, both losses to 2e-7, gradients to 6e-6; at test scores agree to 3e-6, all windows of 100 "
        "sentences rank the same, moments differ by 2e-3 of a frame. After NMS, with 7% of the windows moved "
        "to an end before their start, 499 of 500 lists are the same; in the other one an IoU is 4e-6 above "
        "the threshold, which counts as equal here.",
        "From the official initial variables 20 steps of training have the official losses to 2e-5 of theirs, "
        "with TensorFlow's Adam (config.optimizer.name='tf_adam'); with 'adam' up to 6% are between them.",
        "Windows, labels, pair loss and offsets equal computations by hand.",
        "No checkpoint was published.",
    ),
)


Outputs = WindowScores


class Model(SlidingWindows, GroundingModel):
    """CTRL, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      lengths: lengths of the sliding windows, in clips.
      strides: distance from one window to the next, in clips, for each length; the paper's overlap of 80% is a
        fifth of it.
      test_lengths: those of `lengths` that are scored at test.
      context: length of the context on each side, in clips.
      context_windows: 'official' takes as context the window of `context` clips that ends where this one starts
        (starts where it ends) if the grid has it in this video, and else this one itself. 'exact' pools the
        neighbouring clips, however few there are, and the window itself where there are none.
      features: E, width of the common space.
      hidden: width of the hidden layer over a fused pair.
      regression: 'np' (offsets, the paper's best), 'p' (centre and logarithm of the length, relative to the
        window) or 'none' (alignment alone).
      regression_weight: weight of the L1 loss of the offsets (alpha).
      offset_scale: units of an offset in a clip; for 'np' alone.
      positive_iou: IoU with the moment above which a window is positive.
      positive_outside: share of a window outside of the moment (nIoL) below which it is positive.
      text: vector of the query: 'sentence' (comes with the query), 'lstm' or 'mean' of its word vectors.
      lstm_features: width of the LSTM.
      projection_std: standard deviation of the initial weights of the two projections, which are normalised
        afterwards.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      keep: number of windows that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, scores and losses are float32.
    """

    lengths: tuple[float, ...] = (4, 8, 16, 32)
    strides: tuple[float, ...] = (12 / 16, 25 / 16, 51 / 16, 102 / 16)
    test_lengths: tuple[float, ...] = (8, 16)
    context: float = 8
    context_windows: str = "official"
    features: int = 1024
    hidden: int = 1000
    regression: str = "np"
    regression_weight: float = 0.01
    offset_scale: float = 16.0
    positive_iou: float = 0.5
    positive_outside: float = 0.15
    text: str = "sentence"
    lstm_features: int = 1024
    projection_std: float = 1.0
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {
        "context_windows": ("official", "exact"),
        "regression": ("np", "p", "none"),
        "text": SENTENCE_VECTORS,
    }
    method = "CTRL"

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores the drawn windows of the batch while training, else all test windows of each video."""
        batch.check()
        self.check_windows()
        clips = batch.video_mask.sum(-1)
        if train:
            windows, found = self.draw_window(self.make_rng("dropout"), batch, clips)
            columns = windows[:, None]
        else:
            columns = jnp.asarray(self.grid(batch.video.shape[1], test=True))[None]
            columns = jnp.broadcast_to(columns, (batch.size, *columns.shape[1:]))

        # Official code: visual_semantic_infer.
        x = self.pool(batch.video, columns, clips)
        v = l2_normalize(self._projection(x, "video"))
        text = SentenceVector(self.text, self.lstm_features, self.vocab_size, self.dtype, name="text")
        s = l2_normalize(self._projection(text(batch), "sentence"))
        if train:
            v = gather_examples(v).swapaxes(0, 1)  # [1,B,E], the same for every sentence
        width = 1 if self.regression == "none" else 3
        scores = PairNetwork(self.hidden, width, self.dtype, name="alignment")(fused_pairs(v, s))
        offsets = None if self.regression == "none" else scores[..., 1:]
        if not train:
            return Outputs(score=scores[..., 0], offsets=offsets)
        return Outputs(score=scores[..., 0], offsets=offsets, window=windows, found=found)

    def requires(self) -> tuple[str, ...]:
        """Names the sentence vector, unless the text is read from word vectors."""
        return read_fields(self.text)

    # Text, projections, settings.

    def _projection(self, x: Array, name: str) -> Array:
        init = nn.initializers.normal(self.projection_std)
        return nn.Dense(self.features, kernel_init=init, dtype=self.dtype, name=name)(x)
