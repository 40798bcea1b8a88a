"""Two modalities, each under a gate that the other one sets."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.linear import torch_linear


class CrossGate(nn.Module):
    """Clips and the words that they attend to, side by side (official code of CMIN and RTBPN: CrossGate).

    Parameters: words, clips, linear layers without bias, whose sigmoid is the gate that they set.

    Attributes:
      features: F, width of either modality.
      dtype: number format of the result.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, attended: jax.Array) -> jax.Array:
        """Clips [B,T,F] and the words that they attend to [B,T,F] -> [B,T,2F]."""

        def gate(x, name):
            return jax.nn.sigmoid(torch_linear(self.features, x, self.dtype, name, use_bias=False))

        return jnp.concatenate([clips * gate(attended, "words"), attended * gate(clips, "clips")], axis=-1)
