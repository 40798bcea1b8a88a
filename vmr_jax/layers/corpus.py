"""Blocks of architectures that find a video among many, as XML has them (Lei et al., ECCV 2020).

Weights are N(0, 0.02), biases zero, as in BERT. Axes beyond the usual: Z streams of a video (clips and
subtitles).
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, MultiHeadAttention
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.norm import l2_normalize

bert_init = nn.initializers.normal(0.02)


class InputProjection(nn.Module):
    """Layer norm, dropout, a linear layer and ReLU.

    Parameters: norm, linear.

    Attributes:
      features: F, width of the result.
      dropout: dropout rate before the linear layer.
      dtype: number format of the computation.
    """

    features: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Maps [B,T,D] to [B,T,F]."""
        x = Dropout(self.dropout)(bert_norm(x, self.dtype, "norm"), example_index, train)
        return nn.relu(_linear(self.features, x, self.dtype, "linear"))


class LearnedPositions(nn.Module):
    """Adds a learned vector of every place; layer norm and dropout.

    Parameters: table [max_positions,F], norm.

    Attributes:
      max_positions: number of places of the longest input.
      unit: name of the places in an error message, 'clips' or 'words'.
      dropout: dropout rate of the result.
      dtype: number format of the computation.
    """

    max_positions: int
    unit: str
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of [B,T,F]; UserError where T is above max_positions."""
        length = x.shape[1]
        if length > self.max_positions:
            raise UserError(
                f"There are positions for {self.max_positions} {self.unit}, and the batch has {length}. Set "
                "config.input.num_clips and config.text.max_words to no more than config.model.max_clips and "
                "config.model.max_words, or raise these."
            )
        table = self.param("table", bert_init, (self.max_positions, x.shape[-1]))
        x = x + table[None, :length].astype(self.dtype)
        return Dropout(self.dropout)(bert_norm(x, self.dtype, "norm"), example_index, train)


class SelfAttention(nn.Module):
    """The first half of a layer of BERT (Devlin et al., 2019): attention, a linear layer, sum and layer norm.

    Parameters: attention, output, output_norm.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights and before the sum.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of [B,T,F] with mask [B,T]; the result at padding is meaningless."""
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=bert_init, dtype=self.dtype, name="attention"
        )
        y = _linear(self.features, attention(x, x, mask, example_index, train), self.dtype, "output")
        y = Dropout(self.dropout)(y, example_index, train)
        return bert_norm(x + y, self.dtype, "output_norm")


# The score of a video, and its negatives.


def video_scores(queries: jax.Array, videos: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns how well each query fits each video: the mean over streams of the highest cosine with a clip.

    Args:
      queries: [B,Z,F], a vector of each query for each stream.
      videos: [U,Z,T,F], clips of each video.
      mask: [U,T] bool, real clips.

    Returns:
      [B,U] float32 in [-1,1].
    """
    queries, videos = (l2_normalize(x.astype(jnp.float32)) for x in (queries, videos))
    cosine = jnp.einsum("bzf,uztf->buzt", queries, videos)
    return jnp.where(mask[None, :, None, :], cosine, MASKED).max(-1).mean(-1)


def ranked_negative(scores: jax.Array, mask: jax.Array, draws: jax.Array, pool: jax.Array) -> jax.Array:
    """Returns the score of one of the `pool` best negatives of each row, drawn with equal probability.

    Args:
      scores: [B,U] of the queries with all videos (or of videos with all queries).
      mask: [B,U] bool, the negatives.
      draws: [B] uniform in [0,1); 0 is the best negative.
      pool: [] int32; rows with fewer negatives draw from all of them.

    Returns:
      [B]; `MASKED` in rows without a negative.
    """
    chex.assert_equal_shape([scores, mask])
    pool = jnp.minimum(mask.sum(-1), pool)
    # The product can round up to the pool.
    place = jnp.clip(jnp.floor(draws * pool).astype(jnp.int32), 0, jnp.maximum(pool - 1, 0))
    best_first = -jnp.sort(-jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.take_along_axis(best_first, place[:, None], axis=1)[:, 0]


def _linear(features: int, x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.Dense(features, kernel_init=bert_init, dtype=dtype, name=name)(x)


def bert_norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    """Layer normalisation as in BERT, by a layer `name` of the calling module."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)(x)
