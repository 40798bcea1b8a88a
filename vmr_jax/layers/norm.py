"""Normalisation under masks."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.parallel import sum_over_devices


def l2_normalize(x: jax.Array, axis: int = -1, eps: float = 1e-12) -> jax.Array:
    """Returns x / max(|x|, eps) along `axis`, as torch.nn.functional.normalize; gradients are finite at x = 0.

    The norm is float32 whatever the dtype of x; the result has the dtype of x.
    """
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axis, keepdims=True)
    # The maximum stands inside the root, whose gradient at zero is infinite.
    norm = jnp.sqrt(jnp.maximum(squares, eps**2))
    return (x / norm).astype(x.dtype)


def layer_norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    """Normalises each step [...,F] by a layer `name` of the calling module, 1e-6 added to the variance."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)(x)


def unit_length(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Returns x / (|x| + eps) along the last axis, of inputs: the gradient at x = 0 is not finite."""
    return x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + eps)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the real positions of all devices (Ioffe and Szegedy, 2015).

    Statistics are float32. The running ones live in collection 'batch_stats' as 'mean' and 'var' [F];
    the running variance is the unbiased one, as in PyTorch. A step without a real position leaves them
    alone.

    Attributes:
      momentum: share of the old running statistic that is kept, 1 minus PyTorch's momentum.
      epsilon: number added to the variance.
      dtype: number format of the result.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Normalises [...,F], zero where `mask` [...] is False; by batch statistics while training."""
        chex.assert_shape(mask, x.shape[:-1])
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        real = mask.reshape(-1, 1)
        flat = jnp.where(real, x.reshape(-1, features).astype(jnp.float32), 0.0)
        if train:
            count, total = sum_over_devices((real.sum(dtype=jnp.float32), flat.sum(0)))
            mean = total / jnp.maximum(count, 1.0)
            # Two passes: the difference of E[x^2] and E[x]^2 loses all digits where the mean is large.
            centred = jnp.where(real, flat - mean[None, :], 0.0)
            squares = sum_over_devices(jnp.square(centred).sum(0))
            var = squares / jnp.maximum(count, 1.0)
            if not self.is_initializing():
                unbiased = squares / jnp.maximum(count - 1.0, 1.0)
                running_mean.value = self._moved(running_mean.value, mean, count)
                running_var.value = self._moved(running_var.value, unbiased, count)
        else:
            mean, var = running_mean.value, running_var.value
            centred = flat - mean[None, :]
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        normal = jnp.where(real, centred * factor[None, :] + bias[None, :], 0.0)
        return normal.astype(self.dtype).reshape(x.shape)

    def _moved(self, old: jax.Array, new: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.where(count > 0, self.momentum * old + (1.0 - self.momentum) * new, old)
