"""Parts of QANet (Yu et al., ICLR 2018) that architectures of the span family share, as VSLNet has them."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MultiHeadAttention, masked_softmax
from vmr_jax.layers.depthwise import depthwise_conv
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.norm import layer_norm
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.types import Batch

_xavier = nn.initializers.xavier_uniform()
# How tables of positions and of characters start: as in the TensorFlow code of VSLNet, and in its PyTorch port.
TABLE_INITS: dict[str, Initializer] = {"glorot": _xavier, "normal": nn.initializers.normal(1.0)}


def check_reads(owner: str, batch: Batch, max_positions: int) -> None:
    """Raises UserError for more clips or words than there are positions, and for words without characters.

    Args:
      owner: name of the architecture, for the message.
      batch: the batch that it is to read.
      max_positions: number of clips and words that have a position.
    """
    longest = max(batch.video.shape[1], batch.query.shape[1])
    if longest > max_positions:
        raise UserError(
            f"{owner} has positions for {max_positions} clips and words, and the batch has {longest}. "
            "Set config.input.num_clips and config.text.max_words to no more, or raise max_positions."
        )
    if batch.query_chars is None:
        raise UserError(f"{owner} reads the characters of the query, and this batch has none (query_chars).")


class FeatureEncoder(nn.Module):
    """Positions, convolutions, one block of self-attention (QANet, Yu et al., ICLR 2018); for both modalities.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      conv_layers: number of depthwise-separable convolutions.
      conv_kernel: kernel size of these convolutions.
      max_positions: number of steps that have a position.
      dropout: dropout rate of every sub-layer.
      dtype: number format of the layers.
      attend: whether the block of self-attention follows the convolutions.
      positions_init: how the table of positions starts.
    """

    features: int
    heads: int
    conv_layers: int
    conv_kernel: int
    max_positions: int
    dropout: float
    dtype: jnp.dtype
    attend: bool = True
    positions_init: Initializer = _xavier

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        convolved: jax.Array | None = None,
        alike: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,F] with mask [B,T]; the result at padding is meaningless.

        Convolutions see the steps of `convolved` [B,T] or [1,T] (None: of the mask), and zeros elsewhere; steps
        of `alike` attend to its others alike, see `MultiHeadAttention`.
        """
        convolved = mask if convolved is None else convolved

        def drop(y):
            return Dropout(self.dropout)(y, example_index, train)

        positions = self.param("positions", self.positions_init, (self.max_positions, self.features))
        x = x + positions[None, : x.shape[1]].astype(self.dtype)
        for i in range(self.conv_layers):
            y = jnp.where(convolved[..., None], layer_norm(x, self.dtype, f"conv_norm_{i}"), 0)
            depthwise = depthwise_conv(self.features, self.conv_kernel, self.dtype, f"depthwise_{i}")
            y = xavier_linear(self.features, depthwise(y), self.dtype, f"pointwise_{i}")
            x = x + drop(nn.relu(y))
        if not self.attend:
            return x
        y = drop(layer_norm(x, self.dtype, "attention_norm"))
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, dtype=self.dtype, name="attention"
        )
        x = x + drop(attention(y, y, mask, example_index, train, alike=alike))
        y = drop(layer_norm(x, self.dtype, "output_norm"))
        return x + drop(xavier_linear(self.features, y, self.dtype, "output"))


SPAN_PREDICTORS = ("rnn", "transformer")


def conditioned_states(
    predictor: str,
    encoder: Callable[[], FeatureEncoder],
    fused: jax.Array,
    mask: jax.Array,
    example_index: jax.Array,
    train: bool,
    convolved: jax.Array | None = None,
    fast: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """States [B,T,F] of the start and, given them, of the end, by layers of the calling module.

    Source: VSLNet, official `ConditionedPredictor`.

    Args:
      predictor: one of `SPAN_PREDICTORS`.
      encoder: makes the encoder of the kind 'transformer'.
      fused: clips [B,T,F] that know the query.
      mask: [B,T].
      example_index: [B] of the rows.
      train: whether dropout is on.
      convolved: as `FeatureEncoder` takes it.
      fast: whether the recurrent networks compute by the twin of `LSTM`.
    """
    dtype = fused.dtype
    if predictor == "rnn":
        lstm = functools.partial(LSTM, fused.shape[-1], dtype=dtype, fast=fast)
        start = lstm(name="start_lstm")(fused, mask)
        return start, lstm(name="end_lstm")(start, mask)
    shared = encoder()
    start = shared(fused, mask, example_index, train, convolved)
    end = shared(start, mask, example_index, train, convolved)
    return layer_norm(start, dtype, "start_norm"), layer_norm(end, dtype, "end_norm")


class ContextQueryAttention(nn.Module):
    """The query seen from each clip and the video seen from the query (BiDAF, Seo et al., ICLR 2017).

    Attributes:
      features: F, width of the result.
      dropout: dropout rate of clips and words before they are compared.
      dtype: number format of the layers; similarity and softmax are float32.
      use_bias: whether the last layer has a bias.
    """

    features: int
    dropout: float
    dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, video, query, video_mask, query_mask, example_index, train: bool) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] and words [B,L,F] with their masks."""
        clip_weight, word_weight = (self.param(n, _xavier, (self.features, 1)) for n in ("clip", "word"))
        product_weight = self.param("product", _xavier, (1, 1, self.features))
        v = Dropout(self.dropout)(video, example_index, train).astype(jnp.float32)
        q = Dropout(self.dropout)(query, example_index, train).astype(jnp.float32)
        similarity = (
            v @ clip_weight
            + (q @ word_weight).swapaxes(1, 2)
            + jnp.einsum("btf,blf->btl", v * product_weight, q)
        )
        over_words = masked_softmax(similarity, query_mask[:, None, :]).astype(self.dtype)
        over_clips = masked_softmax(similarity, video_mask[:, :, None], axis=1).astype(self.dtype)
        attended = jnp.einsum("btl,blf->btf", over_words, query)
        back = jnp.einsum("btl,bsl,bsf->btf", over_words, over_clips, video)
        joined = jnp.concatenate([video, attended, video * attended, video * back], axis=-1)
        return xavier_linear(self.features, joined, self.dtype, "linear", self.use_bias)


class QueryConcat(nn.Module):
    """The query, pooled by attention, beside every clip (official `WeightedPool` and `CQConcatenate`).

    Attributes:
      features: F, width of the result.
      dtype: number format of the layers; the softmax is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, query: jax.Array, query_mask: jax.Array) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] and words [B,L,F] with mask [B,L]."""
        weight = self.param("weight", _xavier, (self.features, 1))
        attention = masked_softmax((query.astype(jnp.float32) @ weight)[..., 0], query_mask).astype(self.dtype)
        pooled = jnp.einsum("bl,blf->bf", attention, query)
        pooled = jnp.broadcast_to(pooled[:, None], clips.shape)
        return xavier_linear(self.features, jnp.concatenate([clips, pooled], axis=-1), self.dtype, "linear")
