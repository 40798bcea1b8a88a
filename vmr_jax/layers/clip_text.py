"""The text tower of CLIP: the text encoder of VDI and of zero-shot search (Radford et al., ICML 2021).

A transformer with causal attention, layer normalisations before each block and the "quick" GELU. Its weights
come in through `vmr_jax.torch_import.text_encoders`; the image tower is `vmr_jax.layers.clip_image`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.pre_norm import PreNormLayer, layer_norm
from vmr_jax.layers.recurrent import last_state
from vmr_jax.layers.text import SubwordEmbedding

EPSILON = 1e-5  # of the layer normalisations of both towers


class ClipText(nn.Module):
    """Maps subwords to the states of all subwords, and to the sentence in the space shared with CLIP's images.

    Attributes:
      vocab_size: number of subwords in CLIP's byte-pair vocabulary.
      features: F, width of the states, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads; CLIP's are 64 wide.
      max_positions: number of subwords in the longest sentence, special tokens included.
      project: E, width of the space shared with images.
      dtype: number format of the computation; parameters are float32.
    """

    vocab_size: int = 49408
    features: int = 512
    layers: int = 12
    heads: int = 8
    max_positions: int = 77
    project: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, subwords: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps [B,S] int32 with begin and end tokens, and mask [B,S], to states [B,S,F] and sentence [B,E].

        The states are those after the last layer normalisation, zero at padding. The sentence is the projected
        state of the last real subword, the end token. Padding is on the right.
        """
        x = SubwordEmbedding(
            self.vocab_size,
            self.features,
            self.max_positions,
            positions_std=0.01,
            dtype=self.dtype,
            name="embedding",
        )(subwords)
        for i in range(self.layers):
            x = clip_layer(self.features, self.heads, self.layers, True, self.dtype, f"layer_{i}")(x, mask)
        states = jnp.where(mask[..., None], layer_norm("norm", EPSILON, self.dtype)(x), 0)
        projection = nn.Dense(
            self.project,
            use_bias=False,
            kernel_init=nn.initializers.normal(self.features**-0.5),
            dtype=self.dtype,
            name="projection",
        )
        return states, projection(last_state(states, mask))


def clip_layer(
    features: int, heads: int, depth: int, causal: bool, dtype: jnp.dtype, name: str
) -> PreNormLayer:
    """A layer of either tower of CLIP; `depth` is the number of layers, by which first weights are scaled."""
    outside = nn.initializers.normal((2 * depth * features) ** -0.5)
    return PreNormLayer(
        features,
        heads,
        hidden=4 * features,
        activation=quick_gelu,
        epsilon=EPSILON,
        causal=causal,
        attention_init=nn.initializers.normal(features**-0.5),
        output_init=outside,
        hidden_init=nn.initializers.normal((2 * features) ** -0.5),
        dtype=dtype,
        name=name,
    )


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of GELU, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)
