"""TGA: the sentence's attention over the windows of a video makes its vector, and ranks the windows.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`. The names at the
right are the official code's:

  tensor        shape         meaning                                               official code
  batch.video   [B,T,D]       units: rows of L2-normalised features                 c3d_features
  windows       [B,M,D]       means of 8 units, then of 16, that do not overlap     block_reduce
  words         [B,L+2,W]     start vector, word vectors, end vector                `embed`
  query         [B,E]         q: GRU over the words, last state, of unit length     `txt_enc`
  z             [B,M,E]       linear layer on the windows                           `ws1`
  logits        [B,M]         z . q                                                 cross_attention
  attention     [B,M]         softmax over the windows of the video                 attn_weights
  video         [B,E]         linear layer on the attended z, of unit length        `fc`

The loss is the hinge of both directions between the videos and the sentences of a batch. The attention is a
constant to it: `ws1` learns through the values alone. At test the windows are ranked by the attention, which
ranks as the dot product z . q does: TGA is a dual encoder.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.examples import own_rows
from vmr_jax.layers.init import symmetric_uniform
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import GRU, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Weakly Supervised Video Moment Retrieval From Text Queries",
    authors=("Mithun", "Paul", "Roy-Chowdhury"),
    venue="CVPR",
    year=2019,
    family="ranking",
    kind="text-guided attention, dual encoder",
    supervision="weak",
    features="C3D; word vectors learnt with the model",
    official_code="niluthpol/weak_supervised_video_moment@97fa2c052ef9 (PyTorch)",
    ours=(
        "The official code has the loss but no training program: optimizer, batch and margin are the defaults "
        "of VSE++, on which it is built, or ours.",
        "The loss is a mean over the sentences of a batch; the official sum is it times their number, which "
        "matters to the clipping of gradients alone.",
        "All parameters learn. In the official class the layer on the windows is not among those of the "
        "optimizer; an optimizer rule (('window/.*', 0.0), ('.*', 1.0)) holds it still.",
        "`learnt_attention` lets the gradient through the attention. Officially it is a constant, so that "
        "nothing brings z, which makes it, near to the sentence: on the test bed it then ranks worse than the "
        "training prior.",
        "Word vectors start at those of the batch (GloVe) and are fine-tuned with config.text.trainable; the "
        "official ones start at random.",
        "A window is the time of its rows and ends with the video. `official_windows` decodes as the official "
        "program does, which takes the last one or two of the short windows for the first long ones, adds "
        "windows without attention where there are fewer than ten, and lets windows end after the video.",
        "The metrics compare times; the official ones whole frames, one added to intersection and hull.",
        "DiDeMo's 21 segments are not offered: no code shows how the paper encodes them.",
    ),
    verified=(
        "Against the official code at this commit, running (one wrong name mended), with small random weights, "
        "videos of 16 to 90 units, sentences of 2 to 6 words with unknown ones, and both kinds of negatives: "
        "rows, attention, encodings and losses agree to 1e-6, gradients to 2e-6, and the ten windows of five "
        "videos of its own evaluation are the same.",
        "The hinge and the decoding of windows equal computations by hand.",
        "Gradients do not change when the annotated moments are NaN.",
    ),
)

LEAST = 10  # windows that the official program ranks


@struct.dataclass
class Outputs:
    """Both encodings, and the attention that ranks the windows."""

    attention: jax.Array  # [B,M] float32, zero at padding
    video: jax.Array  # [B,E] float32, of unit length
    query: jax.Array  # [B,E] float32, of unit length


class Model(GroundingModel, DualEncoder):
    """TGA. Sizes are the defaults of the official code's embeddings; our choices are in `CARD.ours`.

    Attributes:
      features: E, width of the common space and of the GRU (official code: embed_size).
      layers: number of layers of the GRU (official code: num_layers).
      window_rows: numbers of rows of the windows, a tuple with a number for each scale.
      whole_windows: whether the last window of a scale is divided by the rows that it has, not by those of a
        whole window, as the official code divides.
      official_windows: whether `predict` decodes windows as the official program does, see `CARD.ours`.
      margin: margin of the hinge, a difference of cosines.
      hardest: whether the most violating negative alone counts, not the sum over all (official code:
        max_violation).
      learnt_attention: whether the loss has a gradient through the attention; officially it is a constant.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      keep: number of windows that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, encodings and losses are float32.
    """

    features: int = 1024
    layers: int = 1
    window_rows: tuple[int, ...] = (8, 16)
    whole_windows: bool = False
    official_windows: bool = False
    margin: float = 0.1
    hardest: bool = False
    learnt_attention: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the layers; raises UserError for scales that the official program could not decode."""
        if self.official_windows and (len(self.window_rows), self.window_rows[-1]) != (
            2,
            2 * self.window_rows[0],
        ):
            raise UserError(
                f"official_windows decodes two scales, the second twice as long as the first; window_rows is "
                f"{self.window_rows}. Set window_rows to (8, 16), or official_windows to False."
            )
        bound = math.sqrt(6 / (2 * self.features))  # official code: that of `fc`, for both layers
        dense = {"kernel_init": symmetric_uniform(bound), "dtype": self.dtype}
        self.window = nn.Dense(self.features, **dense)
        self.output = nn.Dense(self.features, **dense)
        self.words = Words(self.vocab_size, self.dtype)
        self.gru = GRU(self.features, self.layers, dtype=self.dtype)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Encodes both, the video by the attention of its own sentence."""
        batch.check()
        z, mask = self._encoded_windows(batch)
        query = self.encode_query(batch)
        logits = jnp.einsum("bme,be->bm", z, query)
        # A row that only fills the batch may have no window.
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        attention = jnp.where(mask, jax.nn.softmax(logits), 0.0)
        if not self.learnt_attention:
            attention = jax.lax.stop_gradient(attention)
        attended = jnp.einsum("bm,bme->be", attention, z)
        video = l2_normalize(self.output(attended.astype(self.dtype)).astype(jnp.float32))
        return Outputs(attention=attention, video=video, query=query)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns the hinge with the other sentences, 'sentences', and with the other videos, 'videos'.

        Official code: ContrastiveLoss. Sentences of the same video are negatives too.
        """
        del epoch
        videos, queries = outputs.video, outputs.query
        all_videos, all_queries = gather_examples((videos, queries))
        same, all_real = own_rows(batch)
        own = (videos * queries).sum(-1)
        others = all_real[None] & ~same
        return {
            "sentences": self._hinge(videos @ all_queries.T - own[:, None], others, batch.example_mask),
            "videos": self._hinge(queries @ all_videos.T - own[:, None], others, batch.example_mask),
        }

    def _hinge(self, excess: jax.Array, others: jax.Array, real: jax.Array) -> Mean:
        """Mean over the rows [B] of the sum, or the largest, of max(0, margin + excess [B,B]) of the others."""
        cost = jnp.where(others, jnp.maximum(self.margin + excess, 0.0), 0.0)
        return Mean.of(cost.max(-1) if self.hardest else cost.sum(-1), real)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Ranks the windows by their attention."""
        spans, mask = self._spans(batch)
        scores = outputs.attention
        if self.official_windows:
            spans, mask = self._official_spans(batch)
            scores = jnp.pad(scores, ((0, 0), (0, LEAST)))
        return rank(spans, scores, mask, self.keep or spans.shape[1])

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns 'clips' [B,T]: the attention of the shortest window of a clip, beside the largest."""
        count = math.ceil(batch.video.shape[1] / self.window_rows[0])
        attention = outputs.attention[:, :count]
        share = attention / jnp.maximum(attention.max(-1, keepdims=True), 1e-12)
        clips = jnp.repeat(share, self.window_rows[0], axis=1)[:, : batch.video.shape[1]]
        return {"clips": jnp.where(batch.video_mask, clips, jnp.nan)}

    # Two encoders.

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns z [B,M,E], spans [B,M,2] in seconds and mask [B,M]."""
        z, mask = self._encoded_windows(batch)
        return z, self._spans(batch)[0], mask & batch.example_mask[:, None]

    def encode_query(self, batch: Batch) -> jax.Array:
        """Returns q [B,E] of unit length."""
        words, mask = self.words(batch)
        state = last_state(self.gru(words, mask), mask)
        return l2_normalize(state.astype(jnp.float32))

    # Windows.

    def _encoded_windows(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns z [B,M,E] float32 and the mask [B,M] of windows with a real row."""
        means = [
            window_means(batch.video, batch.video_mask, rows, self.whole_windows) for rows in self.window_rows
        ]
        z = self.window(jnp.concatenate(means, axis=1).astype(self.dtype)).astype(jnp.float32)
        return z, self._spans(batch)[1]

    def _places(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """First row and number of rows [M] of the windows of T rows, scale by scale."""
        starts = [np.arange(0, length, rows) for rows in self.window_rows]
        sizes = [np.full(len(first), rows) for first, rows in zip(starts, self.window_rows, strict=True)]
        return np.concatenate(starts), np.concatenate(sizes)

    def _spans(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns spans [B,M,2] in seconds, which end with the video, and which windows are real [B,M]."""
        first, size = (jnp.asarray(x)[None] for x in self._places(batch.video.shape[1]))
        count = batch.video_mask.sum(1)[:, None]
        ends = jnp.minimum(first + size, count)
        spans = jnp.stack([jnp.broadcast_to(first, ends.shape), ends], axis=-1)
        return spans * clip_length(batch.duration, batch.video_mask)[:, None, None], first < count

    def _official_spans(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns spans [B,M+10,2] in seconds as the official program decodes them, and which are real.

        It counts the real windows through, and takes place i for a short one where i < floor(2n / 3) - 1. Only
        of two scales, the second twice as long as the first (official code: t2i).
        """
        short, long = self.window_rows
        real = self._spans(batch)[1]
        total = real.sum(1)[:, None]
        place = jnp.concatenate([jnp.cumsum(real, axis=1) - 1, total + jnp.arange(LEAST)[None]], axis=1)
        limit = 2 * total // 3 - 1
        first = jnp.where(place < limit, short * place, long * (place - limit))
        size = jnp.where(place < limit, short, long)
        seconds = clip_length(batch.duration, batch.video_mask)[:, None, None]
        spans = jnp.stack([first, first + size], axis=-1) * seconds
        extra = jnp.broadcast_to(total + jnp.arange(LEAST)[None] < LEAST, (batch.size, LEAST))
        return spans, jnp.concatenate([real, extra], axis=1)


def window_means(video: jax.Array, mask: jax.Array, rows: int, whole: bool) -> jax.Array:
    """Means [B,ceil(T/rows),D] of windows of `rows` rows of [B,T,D], one after the other.

    The last window of a video has fewer rows. Its sum is divided by `rows` (official code: block_reduce pads
    with zeros), or where `whole` by their number.
    """
    size, length, width = video.shape
    video = jnp.where(mask[..., None], video, 0.0)
    more = -length % rows
    blocks = jnp.pad(video, ((0, 0), (0, more), (0, 0))).reshape(size, -1, rows, width)
    if not whole:
        return blocks.mean(2)
    count = jnp.pad(mask, ((0, 0), (0, more))).reshape(size, -1, rows).sum(2)
    return blocks.sum(2) / jnp.maximum(count, 1)[..., None]


class Words(nn.Module):
    """Word vectors between a start and an end, which are learnt, as that of all words without a vector is.

    Attributes:
      learnt_attention: whether the loss has a gradient through the attention; officially it is a constant.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps those of the batch fixed.
      dtype: number format of the result.
    """

    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns words [B,L+2,W] and their mask [B,L+2]."""
        # Official code: init_weights, of all words.
        shape = (3, batch.query_vectors.shape[-1])
        special = self.param("special", symmetric_uniform(0.1), shape).astype(self.dtype)
        start, end, unknown = (x[None, None] for x in special)
        known = jnp.any(batch.query_vectors != 0, axis=-1, keepdims=True)
        words = WordEmbedding(self.vocab_size, self.dtype, name="table")(batch)
        words = jnp.pad(jnp.where(known, words, unknown), ((0, 0), (1, 1), (0, 0)))
        place = jnp.arange(words.shape[1])[None, :, None]
        last = batch.query_mask.sum(1)[:, None, None] + 1
        words = jnp.where(place == 0, start, jnp.where(place == last, end, words))
        return words, place[..., 0] <= last[..., 0]
