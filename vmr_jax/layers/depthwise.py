"""A convolution over time that leaves the features apart (Chollet, CVPR 2017)."""

import flax.linen as nn
import jax.numpy as jnp

from vmr_jax.kernels import kernels_in_use
from vmr_jax.kernels.depthwise_convolution import shifted_products


def depthwise_conv(features: int, kernel_size: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    """A layer `name` of the calling module, [B,T,F] -> [B,T,F]: a kernel over time for every feature, no bias.

    Beyond both ends are zeros; an even kernel sees one step more behind than before. Parameters: kernel
    [kernel_size,1,F], Glorot uniform at first.

    Args:
      features: F, features of each step.
      kernel_size: steps that a kernel sees.
      dtype: number format of the products; parameters are float32.
      name: name of the layer.
    """
    before = (kernel_size - 1) // 2
    return nn.Conv(
        features,
        (kernel_size,),
        padding=((before, kernel_size - 1 - before),),
        feature_group_count=features,
        use_bias=False,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=dtype,
        conv_general_dilated=shifted_products if kernels_in_use() else None,
        name=name,
    )
