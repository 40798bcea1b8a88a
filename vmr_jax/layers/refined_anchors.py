"""Anchors around every clip that are scored and refined: what CMIN and CSMGAN, a fork of its program, share."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.anchors import AnchorHead, Scored, frame_anchors, legal_anchors, rank_anchors, refine
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.transformer import Attention
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.types import Batch, Mean, Moments


class AnchorOutputs(Protocol):
    """Predictions for all anchors, in the order of `frame_anchors`.

    Attributes:
      logits: [B,M] float32.
      offsets: [B,M,2] float32, in clips.
    """

    @property
    def logits(self) -> jax.Array: ...

    @property
    def offsets(self) -> jax.Array: ...


class AnchorRefiner:
    """Video encoder, head, alignment loss and moments of an architecture.

    Attributes:
      widths: widths of the anchors around every clip, in clips.
      features: F, width of the GRUs' outputs; even.
      attention_layers: number of layers of the video's self-attention.
      heads: number of attention heads.
      band: number of clips that the self-attention sees on either side of a clip.
      projection: width of a linear layer before the video's encoder; 0 leaves it out.
      dropout: dropout rate of the input and after every attention layer and GRU.
      keep: number of moments that `predict` returns; 0 for all anchors.
      dtype: number format of the layers.
    """

    # Heads share the width of the dataset's features, or `projection`: see `check_heads`.
    shared_by_heads: ClassVar[Mapping[str, str]] = {}

    widths: tuple[float, ...]
    features: int
    attention_layers: int
    heads: int
    band: int
    projection: int
    dropout: float
    keep: int
    dtype: jnp.dtype

    def anchors(self, num_clips: int) -> np.ndarray:
        """Returns [M,2] first and last clip of every anchor of a video of `num_clips` rows."""
        return frame_anchors(num_clips, self.widths)

    def _legal(self, batch: Batch) -> jax.Array:
        """Returns [B,M] bool, the anchors that lie in the video."""
        return legal_anchors(self.anchors(batch.video.shape[1]), batch.video_mask)

    # Layers of the calling module.

    def _drop(self, x: jax.Array, batch: Batch, train: bool) -> jax.Array:
        return Dropout(self.dropout)(x, batch.example_index, train)

    def _recur(self, x: jax.Array, mask: jax.Array, batch: Batch, train: bool, name: str) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,D], which a GRU reads in both directions."""
        gru = GRU(self.features // 2, bidirectional=True, dtype=self.dtype, name=name)
        return self._drop(gru(x, mask), batch, train)

    def _read_video(self, batch: Batch, train: bool) -> jax.Array:
        """Returns [B,T,F] (official VideoEncoder): layers 'projection', 'attention_0', ..., 'clips'."""
        clips = self._drop(batch.video.astype(self.dtype), batch, train)
        if self.projection:
            clips = torch_linear(self.projection, clips, self.dtype, "projection")
        for i in range(self.attention_layers):
            attend = Attention(
                clips.shape[-1], self.heads, dtype=self.dtype, band=self.band, name=f"attention_{i}"
            )
            seen = attend(clips, clips, clips, batch.video_mask, batch.example_index, train)
            clips = clips + self._drop(seen, batch, train)
        return self._recur(clips, batch.video_mask, batch, train, "clips")

    def _score(self, fused: jax.Array) -> Scored:
        """Logits and offsets of the anchors, of clips [B,T,F]; layer 'head'."""
        return AnchorHead(len(self.widths), name="head")(fused)

    # Loss and moments.

    def _alignment(self, outputs: AnchorOutputs, labels: jax.Array, batch: Batch) -> Mean:
        """The cross-entropy of all anchors with labels [B,M].

        An anchor that is not legal has score and label zero: it costs nothing, and counts in the mean.
        """
        errors = jnp.where(self._legal(batch), binary_cross_entropy(outputs.logits, labels), 0.0)
        real = jnp.repeat(batch.video_mask, len(self.widths), axis=1) & batch.example_mask[:, None]
        return Mean.of(errors, real)

    def _refined(self, outputs: AnchorOutputs, batch: Batch) -> jax.Array:
        """Returns [B,M,2], first and last clip of the refined anchors."""
        return refine(self.anchors(batch.video.shape[1]), outputs.offsets)

    def predict(self, outputs: AnchorOutputs, batch: Batch) -> Moments:
        """Returns the refined anchors, best first; the score is the sigmoid of the logit."""
        refined = self._refined(outputs, batch)
        legal = self._legal(batch)
        return rank_anchors(outputs.logits, refined, legal, batch.duration, batch.video_mask, self.keep)

    def explain(self, outputs: AnchorOutputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the best score among the anchors around a clip: 'clips' [B,T], NaN where there is none."""
        scores = jnp.where(self._legal(batch), jax.nn.sigmoid(outputs.logits), -1.0)
        best = scores.reshape(*batch.video_mask.shape, -1).max(-1)
        return {"clips": jnp.where(best >= 0, best, jnp.nan)}
