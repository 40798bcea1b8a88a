"""What finds a video among many, and a moment in it: the blocks of XML (Lei et al., ECCV 2020).

Weights are N(0, 0.02), biases zero, as in BERT. S is the number of streams of a video: clips and subtitles.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, MultiHeadAttention, masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_default_kernel
from vmr_jax.layers.norm import l2_normalize

_bert = nn.initializers.normal(0.02)


class InputProjection(nn.Module):
    """Layer norm, dropout, a linear layer and ReLU.

    Parameters: norm, linear.

    Attributes:
      features: F, width of the result.
      dropout: before the linear layer.
      dtype: of the computation.
    """

    features: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """[B,T,D] -> [B,T,F]."""
        x = Dropout(self.dropout)(_norm(x, self.dtype, "norm"), example_index, train)
        return nn.relu(_linear(self.features, x, self.dtype, "linear"))


class LearnedPositions(nn.Module):
    """Adds a learned vector of every place; layer norm and dropout.

    Parameters: table [max_positions,F], norm.

    Attributes:
      max_positions: the longest input.
      what: of which there are that many, for the message.
      dropout: of the result.
      dtype: of the computation.
    """

    max_positions: int
    what: str
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """[B,T,F] -> [B,T,F]; UserError where T is above max_positions."""
        length = x.shape[1]
        if length > self.max_positions:
            raise UserError(
                f"There are positions for {self.max_positions} {self.what}, and the batch has {length}. Set "
                "config.input.num_clips and config.text.max_words to no more than config.model.max_clips and "
                "config.model.max_words, or raise these."
            )
        table = self.param("table", _bert, (self.max_positions, x.shape[-1]))
        x = x + table[None, :length].astype(self.dtype)
        return Dropout(self.dropout)(_norm(x, self.dtype, "norm"), example_index, train)


class SelfAttention(nn.Module):
    """The first half of a layer of BERT (Devlin et al., 2019): attention, a linear layer, sum and layer norm.

    Parameters: attention, output, output_norm.

    Attributes:
      features: F, a multiple of `heads`.
      heads: of the attention.
      dropout: of the attention weights and before the sum.
      dtype: of the computation.
    """

    features: int
    heads: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """[B,T,F] and mask [B,T] -> [B,T,F]; the result at padding is meaningless."""
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=_bert, dtype=self.dtype, name="attention"
        )
        y = _linear(self.features, attention(x, x, mask, example_index, train), self.dtype, "output")
        y = Dropout(self.dropout)(y, example_index, train)
        return _norm(x + y, self.dtype, "output_norm")


class CrossAttention(nn.Module):
    """Attention of one stream to another of the same clips, without an output layer; sum and layer norm.

    Parameters: attention, cross_norm.

    Attributes:
      features: F, a multiple of `heads`.
      heads: of the attention.
      dropout: of the attention weights.
      dtype: of the computation.
      padding_sees_all: whether padded clips attend to every clip, padded ones too (the official code of XML);
        else to the real ones.
    """

    features: int
    heads: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    padding_sees_all: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, other: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool
    ) -> jax.Array:
        """[B,T,F], the other stream [B,T,F] and the mask [B,T] of both -> [B,T,F]."""
        chex.assert_equal_shape([x, other])
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=_bert, dtype=self.dtype, name="attention"
        )
        y = attention(x, other, mask, example_index, train)
        if self.padding_sees_all:
            every = attention(x, other, jnp.ones_like(mask), example_index, train)
            y = jnp.where(mask[..., None], y, every)
        return _norm(x + y, self.dtype, "cross_norm")


class ModularPool(nn.Module):
    """Pools the words once for each stream, with learned attention.

    Parameter: logits [F,S].

    Attributes:
      streams: S.
    """

    streams: int

    @nn.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """[B,L,F] and mask [B,L] -> [B,S,F], float32."""
        words = words.astype(jnp.float32)
        logits = nn.Dense(self.streams, use_bias=False, kernel_init=_bert, name="logits")(words)
        return jnp.einsum("bls,blf->bsf", masked_softmax(logits, mask[..., None], axis=1), words)


class ConvSE(nn.Module):
    """Logits of the first and the last clip: two convolutions over the similarity of query and clips.

    Parameters: start, end (kernels [kernel,1,1], without bias).

    Attributes:
      kernel: clips that a logit sees, odd.
      mask_similarity: whether the similarity of padded clips is read as 0, like what is beyond the last one.
        The official code of XML reads it as it is, and so depends on the padding.
    """

    kernel: int = 5
    mask_similarity: bool = True

    @nn.compact
    def __call__(self, similarity: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B,T] and mask [B,T] -> logits [B,T] of start and end, float32, `MASKED` at padding."""
        chex.assert_equal_shape([similarity, mask])
        similarity = similarity.astype(jnp.float32)
        if self.mask_similarity:
            similarity = jnp.where(mask, similarity, 0.0)

        def logits(name):
            conv = nn.Conv(1, (self.kernel,), use_bias=False, kernel_init=torch_default_kernel, name=name)
            return jnp.where(mask, conv(similarity[..., None])[..., 0], MASKED)

        return logits("start"), logits("end")


# The score of a video, and its negatives.


def video_scores(queries: jax.Array, videos: jax.Array, mask: jax.Array) -> jax.Array:
    """How well each query fits each video: the mean over streams of the highest cosine with a clip.

    Args:
      queries: [B,S,F].
      videos: [C,S,T,F].
      mask: [C,T] bool, real clips.

    Returns:
      [B,C] float32 in [-1,1].
    """
    queries, videos = (l2_normalize(x.astype(jnp.float32)) for x in (queries, videos))
    cosine = jnp.einsum("bsf,cstf->bcst", queries, videos)
    return jnp.where(mask[None, :, None, :], cosine, MASKED).max(-1).mean(-1)


def ranked_negative(scores: jax.Array, mask: jax.Array, draws: jax.Array, pool: jax.Array) -> jax.Array:
    """The score of a random one of the `pool` best negatives of each row, all with the same probability.

    Args:
      scores: [B,N].
      mask: [B,N] bool, the negatives.
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
    return nn.Dense(features, kernel_init=_bert, dtype=dtype, name=name)(x)


def _norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)(x)
