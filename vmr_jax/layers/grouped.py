"""Convolutions in groups of features, as products."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.init import torch_bias, torch_default_kernel


class GroupedConv(nn.Module):
    """A convolution whose features are in groups that do not see each other, as torch.nn.Conv1d(groups=...).

    Parameters: kernel [size, width, groups * width], bias [groups * width].

    Attributes:
      groups: number of groups.
      width: features of each group.
      size: number of steps that it reads, odd; the middle one is the step itself.
      dtype: number format of the result.
    """

    groups: int
    width: int
    size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,T,...,groups * width] -> the same shape; zeros stand before the first and after the last step."""
        features = self.groups * self.width
        kernel = self.param("kernel", torch_default_kernel, (self.size, self.width, features))
        bias = self.param("bias", torch_bias(self.size * self.width), (features,))
        around = [(0, 0)] * x.ndim
        around[1] = (self.size // 2,) * 2
        padded = jnp.pad(x, around).reshape(x.shape[0], -1, *x.shape[2:-1], self.groups, self.width)
        steps = [padded[:, i : i + x.shape[1]] for i in range(self.size)]
        # A product for each group, which CPUs do faster than a grouped convolution.
        parts = kernel.reshape(self.size, self.width, self.groups, self.width).astype(self.dtype)
        y = jnp.einsum("k...gi,kigo->...go", jnp.stack(steps), parts).reshape(x.shape)
        return y + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
