"""Clips of a video: their length, and the G clips along each side of a moment map that T clips become."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.linear import torch_linear


def clip_length(duration: jax.Array, video_mask: jax.Array) -> jax.Array:
    """Seconds [B] of a clip, where the real clips of mask [B,T] are equal parts of videos of [B] seconds."""
    return duration / jnp.maximum(video_mask.sum(-1), 1)


def clip_bounds(mask: jax.Array) -> jax.Array:
    """Where each clip begins and ends, as shares of the video: mask [B,T] -> [B,T,2], zero at padding."""
    count = jnp.maximum(mask.sum(-1), 1)[:, None]
    begin = jnp.arange(mask.shape[1])[None, :] / count
    ends = jnp.stack([begin, begin + 1 / count], axis=-1)
    return jnp.where(mask[..., None], ends, 0.0)


def centered(video: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns clips [B,T,D] less the mean of their video, over the root mean square of what that leaves.

    Padded clips of mask [B,T] count for neither, and become 0; so does a video whose clips are all the same.
    The result is float32.
    """
    real = mask[..., None]
    count = jnp.maximum(mask.sum(1), 1)[:, None, None]
    video = jnp.where(real, video.astype(jnp.float32), 0.0)
    left = jnp.where(real, video - video.sum(1, keepdims=True) / count, 0.0)
    square = jnp.square(left).sum((1, 2), keepdims=True) / (count * video.shape[-1])
    return left * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def average_clips(video: jax.Array, video_mask: jax.Array, num_clips: int) -> jax.Array:
    """Averages equal windows of clips: [B,T,D] and mask [B,T] -> [B,G,D]; a window without real clips is 0.

    The average is taken in float32: a window can hold many clips. The result has the dtype of `video`.

    Raises UserError where T is not a multiple of G.
    """
    chex.assert_rank(video, 3)
    chex.assert_shape(video_mask, video.shape[:2])
    b, t, width = video.shape
    if t % num_clips:
        raise UserError(
            f"The video has {t} clips (rows of features), which {num_clips} map clips "
            "(num_clips of the architecture) cannot share equally. Resample the videos to a multiple "
            f"of {num_clips} clips in the configuration of the data, or change num_clips."
        )
    clips = jnp.where(video_mask[..., None], video.astype(jnp.float32), 0.0)
    clips = clips.reshape(b, num_clips, -1, width).sum(2)
    count = video_mask.reshape(b, num_clips, -1).sum(2)[..., None]
    return (clips / jnp.maximum(count, 1)).astype(video.dtype)


class ClipPool(nn.Module):
    """Projects every clip, then averages equal windows of clips: T rows become G map clips.

    The frame layer of 2D-TAN (Zhang et al., AAAI 2020, section 3.2; official code: a 1x1 convolution,
    ReLU, average pooling with kernel and stride T/G). Initialised as PyTorch's convolution.

    Attributes:
      features: F, width of the result.
      num_clips: G, number of windows.
      activation: function applied before the average; None for a linear projection.
      dtype: number format of the computation; parameters are float32.
    """

    features: int
    num_clips: int
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, video: jax.Array, video_mask: jax.Array) -> jax.Array:
        """Returns [B,G,F] from clips [B,T,D] and their mask [B,T]; a window without real clips is 0.

        Raises UserError where T is not a multiple of G.
        """
        clips = torch_linear(self.features, video, self.dtype, "linear")
        if self.activation is not None:
            clips = self.activation(clips)
        return average_clips(clips, video_mask, self.num_clips)
