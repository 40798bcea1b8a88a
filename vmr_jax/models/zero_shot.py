"""Zero-shot: moments of several lengths, compared with the sentence by a frozen image-text encoder.

A baseline of the field: nobody has trained it on moments, so it says what a pretrained space of images and
sentences finds by itself. A moment is the mean of the vectors of its frames, and its score the cosine with the
vector of the sentence. Frames come as features of the dataset; the sentence through the text tower of the same
encoder (`text='clip'` or 'siglip', weights of `config.text.encoder_dir`), or as a vector of the dataset.

Training moves two numbers, a scale and a bias, that turn the cosine into the probability which the report
shows. They change no order, and so no measure.

  tensor            shape      meaning                                                          official name
  batch.video       [B,T,D]    features of the frames, in the encoder's space                   image_features
  frames            [B,T,E]    the same, of unit length, zero where there is nothing
  moments           [B,M,E]    mean over the frames of each moment, of unit length
  sentence          [B,E]      vector of the sentence, of unit length                           text_features
  cosine            [B,M]      score of a moment
  clip_cosine       [B,T]      score of a frame: what the protocol 'highlights' ranks
  logits            [B,M]      scale * cosine + bias                                            logits_per_text

E = D, the width of the features. The moments of each length begin at every quarter of it, up to the first that
reaches the end of the video, which is cut there; lengths go up to the first that is as long as the video. A
video has the M moments of T frames; those past its own frames are masked.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.siglip import SiglipText
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Learning Transferable Visual Models From Natural Language Supervision",
    authors=(
        "Radford", "Kim", "Hallacy", "Ramesh", "Goh", "Agarwal", "Sastry", "Askell", "Mishkin", "Clark",
        "Krueger", "Sutskever",
    ),
    venue="ICML",
    year=2021,
    family="ranking",
    kind="frozen image-text encoder, sliding windows (dual encoder)",
    supervision="none",
    features="CLIP or SigLIP 2, with the text tower of the same encoder",
    official_code="openai/CLIP@d05afc4 (PyTorch)",
    ours=(
        "The paper compares images with sentences; what is compared here, moments of several lengths as means "
        "of their frames, is ours, and no number of a paper is claimed.",
        "The lengths double and the moments begin at every quarter of their length, so that an annotated "
        "moment has one of nearly its length and place.",
        "The sentence is read as it is, without a template such as those of the paper for names of classes.",
        "Frames count alike whatever the length of their vectors; the mean has unit length again.",
        "The scale and the bias of the probability are fitted to whether a moment has an IoU of 0.5 with the "
        "annotated one; the official logits have a scale alone, which is not read.",
        "With stream='subtitles' and text='sentence' it compares what is said with the sentence: so it runs on "
        "the embedded test bed, whose features have no text tower.",
    ),
    verified=(
        "Image and text tower of CLIP equal the official code, running with the same random weights, within "
        "1e-5 of the largest number; both towers of CLIP and of SigLIP 2 equal those of the library "
        "`transformers`, at full size too.",
        "Scores equal a computation moment by moment in numpy.",
    ),
)  # fmt: skip


@struct.dataclass
class Outputs:
    """Scores of moments and frames; those of masked moments and padded frames mean nothing."""

    cosine: Array  # [B,M] float32
    clip_cosine: Array  # [B,T] float32
    logits: Array  # [B,M] float32, of the probability
    clip_logits: Array  # [B,T] float32


class Probability(nn.Module):
    """The logit of a cosine: two numbers. The official `logit_scale` is of a choice among images."""

    @nn.compact
    def __call__(self, cosine: Array) -> Array:
        """Returns scale * cosine + bias, of the shape of the cosine."""
        scale = self.param("scale", nn.initializers.constant(10.0), ())
        return scale * cosine + self.param("bias", nn.initializers.constant(-4.0), ())


class Model(GroundingModel, DualEncoder):
    """Defaults: CLIP ViT-B/32. Nothing is trained but the two numbers of the probability.

    Attributes:
      text: source of the sentence's vector: 'clip' or 'siglip', a text tower over the subwords; 'sentence', the
        vector in the batch.
      stream: features that are compared with it, 'video' or 'subtitles' (what is said).
      lengths: numbers of frames of the moments, rising.
      overlap: share of its length by which a moment overlaps the next one of that length, below 1.
      iou: IoU with the annotated moment from which on a moment counts as right, for the probability.
      text_features: width of the states of the text tower.
      text_layers: number of layers of the text tower.
      text_heads: number of attention heads of the text tower.
      text_hidden: width inside the feed-forward networks of SigLIP's text tower; CLIP's are 4 `text_features`.
      text_vocab: number of subwords in the vocabulary of the text tower.
      text_positions: number of subwords in the longest sentence.
      dtype: number format of the text tower; vectors and scores are float32.
    """

    choices = {"text": ("clip", "siglip", "sentence"), "stream": ("video", "subtitles")}
    shared_by_heads = {"text_heads": "text_features"}

    text: str = "clip"
    stream: str = "video"
    lengths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    overlap: float = 0.75
    iou: float = 0.5
    text_features: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_hidden: int = 2048
    text_vocab: int = 49408
    text_positions: int = 77
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; raises UserError for settings that make no sense."""
        _check_lengths(self.lengths, self.overlap)
        self.probability = Probability()

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every moment and frame. Official `forward`: the product of both, each divided by its norm."""
        del train
        batch.check()
        frames, sentence = self._frames(batch), self.encode_query(batch)
        if frames.shape[-1] != sentence.shape[-1]:
            raise UserError(
                f"The {self.stream} has {frames.shape[-1]} numbers a clip, and the vector of the sentence has "
                f"{sentence.shape[-1]}: they are not of one encoder. Give both of the same."
            )
        moments = self._means(frames)
        cosine = jnp.einsum("bme,be->bm", moments, sentence, precision="highest")
        of_clips = jnp.einsum("bte,be->bt", frames, sentence, precision="highest")
        return Outputs(cosine, of_clips, self.probability(cosine), self.probability(of_clips))

    def encode_moments(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns unit vectors [B,M,E], spans [B,M,2] in seconds, mask [B,M]. Reads no parameter."""
        spans, mask = self._windows(batch)
        return self._means(self._frames(batch)), spans, mask & batch.example_mask[:, None]

    def encode_query(self, batch: Batch) -> Array:
        """Returns the unit vector [B,E] of the sentence; official `encode_text`, divided by its norm."""
        if self.text == "sentence":
            return l2_normalize(self._given(batch, "sentence").astype(jnp.float32))
        subwords, mask = (self._given(batch, name) for name in ("subwords", "subword_mask"))
        return l2_normalize(self._tower(subwords, mask, batch.video.shape[-1]).astype(jnp.float32))

    @nn.compact
    def _tower(self, subwords: Array, mask: Array, space: int) -> Array:
        """Returns [B,E] of subwords [B,S]: the text tower, into the space of frames of `space` numbers."""
        sizes = (self.text_vocab, self.text_features, self.text_layers, self.text_heads)
        if self.text == "clip":
            tower: nn.Module = ClipText(*sizes, self.text_positions, space, self.dtype, name="text_encoder")
        else:
            tower = SiglipText(
                *sizes, self.text_hidden, self.text_positions, space, self.dtype, name="text_encoder"
            )
        return tower(subwords, mask)[1]

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'probability', the cross-entropy of a moment's logit; only scale and bias can lower it."""
        del epoch
        spans, mask = self._windows(batch)
        right = moments_lib.iou(spans, batch.span[:, None]) >= self.iou
        real = mask & batch.example_mask[:, None]
        return {"probability": Mean.of(binary_cross_entropy(outputs.logits, right), real)}

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns all moments, best first, with their cosines."""
        spans, mask = self._windows(batch)
        return moments_lib.rank(spans, outputs.cosine, mask, outputs.cosine.shape[1])

    def requires(self) -> tuple[str, ...]:
        """Names the sentence's subwords or vector, and the subtitles where they are compared."""
        sentence = "sentence" if self.text == "sentence" else "subwords"
        return (sentence,) if self.stream == "video" else (sentence, self.stream)

    def saliency(self, outputs: Outputs, batch: Batch) -> Array:
        """Returns [B,T], the cosines of the frames."""
        del batch
        return outputs.clip_cosine

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns 'clips' [B,T], the probabilities of the frames."""
        return {"clips": jnp.where(batch.video_mask, nn.sigmoid(outputs.clip_logits), jnp.nan)}

    def _frames(self, batch: Batch) -> Array:
        """Returns unit vectors [B,T,E]; official: `encode_image`, divided by its norm. Zero at padding."""
        rows, mask = self._given(batch, self.stream), batch.video_mask
        if self.stream == "subtitles":
            mask = mask & self._given(batch, "subtitle_mask")
        return l2_normalize(jnp.where(mask[..., None], rows.astype(jnp.float32), 0.0))

    def _given(self, batch: Batch, name: str) -> Array:
        """Returns a field of the batch; UserError where it is not there."""
        field = getattr(batch, name)
        if field is None:
            raise UserError(
                f"zero_shot with text={self.text!r} and stream={self.stream!r} reads {name}, and this batch "
                "has none. Use a dataset that has it, or change these settings."
            )
        return field

    def _means(self, frames: Array) -> Array:
        """Returns the means [B,M,E] of unit vectors [B,T,E] over each moment, made unit vectors again."""
        place, (first, last, _) = np.arange(frames.shape[1]), self._places(frames)
        inside = (place >= first[:, None]) & (place < last[:, None])  # [M,T]
        sums = jnp.einsum("mt,bte->bme", inside.astype(np.float32), frames, precision="highest")
        return l2_normalize(sums)

    def _windows(self, batch: Batch) -> tuple[Array, Array]:
        """Returns the spans [B,M,2] in seconds of the moments, cut at the end of the video, and their mask."""
        first, last, before = self._places(batch.video)
        count = batch.video_mask.sum(-1)[:, None]
        mask = jnp.asarray(before)[None] < count
        ends = jnp.broadcast_arrays(first[None], jnp.minimum(last[None], count))
        spans = jnp.stack(ends, axis=-1) * clip_length(batch.duration, batch.video_mask)[:, None, None]
        return spans.astype(jnp.float32), mask

    def _places(self, clips: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns `windows` of clips [B,T,...]."""
        return windows(clips.shape[1], self.lengths, self.overlap)


@functools.lru_cache(maxsize=64)
def windows(clips: int, lengths: tuple[int, ...], overlap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The moments of a video of `clips` frames, by length and place.

    Args:
      clips: T, number of frames.
      lengths: of the moments, in frames, rising.
      overlap: share of its length by which a moment overlaps the next.

    Returns:
      [M] each: the first frame; the frame after the last one; and the end of the moment before it (of the first
      of a length: that of the first of the length before). A video that ends there has no need of it.
    """
    found = []
    for shorter, length in zip((0, *lengths), lengths):
        step = max(1, round(length * (1 - overlap)))
        starts = range(0, max(clips + step - length, 1), step)  # the last one is the first that reaches the end
        found += [(start, start + length, start + length - step if start else shorter) for start in starts]
    first, last, before = np.array([moment for moment in found if moment[2] < clips], np.int32).T
    return first, last, before


def _check_lengths(lengths: tuple[int, ...], overlap: float) -> None:
    if not lengths or min(lengths) < 1 or sorted(set(lengths)) != list(lengths):
        raise UserError(f"lengths of zero_shot is {lengths}; give rising numbers of frames, such as (2, 4, 8).")
    if not 0 <= overlap < 1:
        raise UserError(f"overlap of zero_shot is {overlap}; it is a share from 0 to below 1.")
