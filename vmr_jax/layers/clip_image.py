"""The image tower of CLIP, a vision transformer (Radford et al., ICML 2021; Dosovitskiy et al., ICLR 2021).

Its weights come in through `vmr_jax.torch_import.image_text`; the text tower is `vmr_jax.layers.clip_text`.

Axes beyond the usual: I side of a square image in pixels, Z patches of an image.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.clip_text import EPSILON, clip_layer
from vmr_jax.layers.pre_norm import Patches, every_step, layer_norm


class ClipImage(nn.Module):
    """Maps images to vectors of the space shared with CLIP's sentences. Defaults: ViT-B/32.

    Parameters: class_vector, which stands before the patches and is read at the end; positions, one for it and
    one for each patch.

    Attributes:
      patch: side of a patch in pixels.
      features: F, width of the states, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads; CLIP's are 64 wide.
      project: E, width of the space shared with sentences.
      dtype: number format of the computation; parameters are float32.
    """

    patch: int = 32
    features: int = 768
    layers: int = 12
    heads: int = 12
    project: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B,I,I,3], normalised as in training, to vectors [B,E] that are not of unit length."""
        std = nn.initializers.normal(self.features**-0.5)
        x = Patches(self.features, self.patch, use_bias=False, dtype=self.dtype, name="patches")(images)
        first = self.param("class_vector", std, (1, 1, self.features)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.features)), x], axis=1)
        x = x + self.param("positions", std, (1, *x.shape[1:])).astype(self.dtype)
        x = layer_norm("input_norm", EPSILON, self.dtype)(x)
        mask = every_step(x)
        for i in range(self.layers):
            x = clip_layer(self.features, self.heads, self.layers, False, self.dtype, f"layer_{i}")(x, mask)
        image = layer_norm("norm", EPSILON, self.dtype)(x[:, 0])
        return nn.Dense(self.project, use_bias=False, kernel_init=std, dtype=self.dtype, name="projection")(
            image
        )
