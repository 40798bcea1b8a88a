"""Both towers of SigLIP 2 at a fixed resolution (Tschannen et al., 2025; SigLIP: Zhai et al., ICCV 2023).

Transformers that normalise first, with the tanh form of GELU. Their weights come in through
`vmr_jax.torch_import.image_text`. The variants "NaFlex", of any resolution, are other networks.

Axes beyond the usual: I side of a square image in pixels, Z patches of an image.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MultiHeadAttention
from vmr_jax.layers.pre_norm import Patches, PreNormLayer, every_step, layer_norm, no_draws
from vmr_jax.layers.text import SubwordEmbedding

EPSILON = 1e-6  # of the layer normalisations
PADDING = 0  # id of the subword that fills a sentence up
_gelu = functools.partial(nn.gelu, approximate=True)


class SiglipImage(nn.Module):
    """Maps images to vectors of the space shared with SigLIP's sentences. Defaults: base, patches of 16 pixels.

    Parameter positions: one for each patch.

    Attributes:
      patch: side of a patch in pixels.
      features: F, width of the states and of the shared space, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      dtype: number format of the computation; parameters are float32.
    """

    patch: int = 16
    features: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B,I,I,3], normalised as in training, to vectors [B,F] that are not of unit length."""
        x = Patches(self.features, self.patch, use_bias=True, dtype=self.dtype, name="patches")(images)
        init = nn.initializers.normal(self.features**-0.5)
        x = x + self.param("positions", init, (1, *x.shape[1:])).astype(self.dtype)
        mask = every_step(x)
        for i in range(self.layers):
            x = _layer(self.features, self.heads, self.hidden, self.dtype, f"layer_{i}")(x, mask)
        x = layer_norm("norm", EPSILON, self.dtype)(x)
        return _AttentionPool(self.features, self.heads, self.hidden, self.dtype, name="pool")(x)


class _AttentionPool(nn.Module):
    """A learned vector, the probe, attends to the patches; a feed-forward network is added to what it reads.

    Attributes:
      features: F, width of the states, a multiple of `heads`.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B,F] of patches [B,Z,F]."""
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, self.features))
        probe = jnp.broadcast_to(probe.astype(self.dtype), (len(x), 1, self.features))
        attention = MultiHeadAttention(self.features, self.heads, dtype=self.dtype, name="attention")
        read = attention(probe, x, every_step(x), no_draws(x), train=False)
        read = self._dense(self.features, "output")(read[:, 0])
        y = self._dense(self.hidden, "hidden")(layer_norm("norm", EPSILON, self.dtype)(read))
        return read + self._dense(self.features, "feed_forward")(_gelu(y))

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name=name)


class SiglipText(nn.Module):
    """Maps subwords to the states of all places, and to the sentence in the space shared with images.

    There is no mask: every place is read, and the last one, which padding fills in all but the longest
    sentences, is the sentence.

    Attributes:
      vocab_size: number of subwords in Gemma's vocabulary.
      features: F, width of the states, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      max_positions: number of places, to which every sentence is filled up.
      project: E, width of the space shared with images.
      dtype: number format of the computation; parameters are float32.
    """

    vocab_size: int = 256_000
    features: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    max_positions: int = 64
    project: int = 768
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, subwords: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps [B,S] int32 with the end token, and mask [B,S], to states [B,S,F] and sentence [B,E].

        The states are zero where the mask is False. Neither depends on how far S is padded. Raises UserError
        where S is above max_positions.
        """
        length = subwords.shape[1]
        if length > self.max_positions:
            raise UserError(
                f"The queries have {length} subwords, but SigLIP's text tower has only {self.max_positions} "
                f"places. Set config.text.max_subwords to {self.max_positions} or less."
            )
        filled = jnp.where(mask, subwords, PADDING)
        filled = jnp.pad(filled, ((0, 0), (0, self.max_positions - length)), constant_values=PADDING)
        x = SubwordEmbedding(
            self.vocab_size, self.features, self.max_positions, dtype=self.dtype, name="embedding"
        )(filled)
        for i in range(self.layers):
            x = _layer(self.features, self.heads, self.hidden, self.dtype, f"layer_{i}")(x, every_step(x))
        x = layer_norm("norm", EPSILON, self.dtype)(x)
        states = jnp.where(mask[..., None], x[:, :length], 0)
        return states, nn.Dense(self.project, dtype=self.dtype, name="projection")(x[:, -1])


def _layer(features: int, heads: int, hidden: int, dtype: jnp.dtype, name: str) -> PreNormLayer:
    return PreNormLayer(features, heads, hidden, _gelu, EPSILON, dtype=dtype, name=name)
