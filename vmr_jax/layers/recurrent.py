"""LSTM and GRU over right-padded sequences, with PyTorch's parameters and equations.

The input projection is one matrix product over all time steps; only the recurrent one is in the scan.
Padding leaves the state alone, so a backward direction starts at the last real step; outputs there are
zero.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from vmr_jax.kernels import kernels_in_use
from vmr_jax.kernels.recurrent import lstm as fast_lstm
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import symmetric_uniform


@dataclasses.dataclass(frozen=True)
class _Cell:
    """The parts in which one kind of recurrent network differs from the other."""

    gates: int  # blocks of width F in a projection
    states: int  # vectors [B,F] carried from step to step, the first of which is the output
    step: Callable  # states, projected input, projected output [B,gates * F] -> states


def _lstm_step(states, inputs, recurrent):
    """Gates in the order i, f, g, o; states (h, c)."""
    i, f, g, o = jnp.split(inputs + recurrent, 4, axis=-1)
    c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_step(states, inputs, recurrent):
    """Gates in the order r, z, n; states (h,)."""
    input_r, input_z, input_n = jnp.split(inputs, 3, axis=-1)
    recurrent_r, recurrent_z, recurrent_n = jnp.split(recurrent, 3, axis=-1)
    z = jax.nn.sigmoid(input_z + recurrent_z)
    # The reset gate comes after the recurrent product and its bias, as in PyTorch and cuDNN.
    n = jnp.tanh(input_n + jax.nn.sigmoid(input_r + recurrent_r) * recurrent_n)
    return ((1.0 - z) * n + z * states[0],)


class Weights(NamedTuple):
    """Of one layer in one direction; F units, `gates` blocks of which lie side by side."""

    input_kernel: jax.Array  # [D,gates * F]
    recurrent_kernel: jax.Array  # [F,gates * F]
    input_bias: jax.Array  # [gates * F]
    recurrent_bias: jax.Array  # [gates * F]


class _Direction(nn.Module):
    """The parameters of one layer in one direction.

    Attributes:
      cell: kind of the network.
      features: F, number of units.
      kernel_init: initialiser of both kernels; None: PyTorch's.
      bias_init: initialiser of the biases; None: PyTorch's.
      recurrent_bias: whether there is a second bias, that of the recurrent product.
      use_bias: whether there are any.
    """

    cell: _Cell
    features: int
    kernel_init: Initializer | None
    bias_init: Initializer | None
    recurrent_bias: bool
    use_bias: bool

    @nn.compact
    def __call__(self, inputs: int) -> Weights:
        """Of a layer that reads `inputs` features; a bias that is not there is zero."""
        width = self.cell.gates * self.features
        uniform = symmetric_uniform(1 / math.sqrt(self.features))
        kernel_init, bias_init = self.kernel_init or uniform, self.bias_init or uniform
        input_kernel = self.param("input_kernel", kernel_init, (inputs, width))
        recurrent_kernel = self.param("recurrent_kernel", kernel_init, (self.features, width))

        def bias(name, present):
            return self.param(name, bias_init, (width,)) if present else jnp.zeros(width, jnp.float32)

        input_bias = bias("input_bias", self.use_bias)
        recurrent_bias = bias("recurrent_bias", self.use_bias and self.recurrent_bias)
        return Weights(input_kernel, recurrent_kernel, input_bias, recurrent_bias)


def _scan(
    cell: _Cell, weights: Weights, x: jax.Array, mask: jax.Array, dtype: jnp.dtype, reverse: bool
) -> jax.Array:
    """One layer in one direction, maps [B,L,D] with mask [B,L] to [B,L,F]; `reverse` reads from the end."""

    def project(x, kernel, bias):
        """Products in `dtype`; gates and states are float32."""
        product = jnp.dot(x.astype(dtype), kernel.astype(dtype))
        return product.astype(jnp.float32) + jnp.expand_dims(bias, range(x.ndim - 1))

    def step(states, inputs):
        projected, real = inputs
        recurrent = project(states[0], weights.recurrent_kernel, weights.recurrent_bias)
        new = cell.step(states, projected, recurrent)
        states = tuple(jnp.where(real, n, old) for n, old in zip(new, states, strict=True))
        return states, jnp.where(real, states[0], 0.0)

    features = len(weights.recurrent_kernel)
    start = (jnp.zeros((x.shape[0], features), jnp.float32),) * cell.states
    inputs = project(x, weights.input_kernel, weights.input_bias).swapaxes(0, 1), mask.T[..., None]
    _, outputs = jax.lax.scan(step, start, inputs, reverse=reverse)
    return outputs.swapaxes(0, 1).astype(dtype)


class _Recurrent(nn.Module):
    """Layers of one kind, in one direction or both.

    Attributes:
      features: F, number of units in each direction.
      layers: number of layers.
      bidirectional: whether a second network reads from the end, beside the first.
      dtype: number format of the matrix products and of the result; gates and states are float32.
      dropout: dropout rate between layers, while training.
      kernel_init: initialiser of both kernels; None: PyTorch's.
      bias_init: initialiser of both biases; None: PyTorch's.
      recurrent_bias: whether there are two biases; else one, the input's, as in Caffe and TensorFlow.
      use_bias: whether there are any.
    """

    features: int
    layers: int = 1
    bidirectional: bool = False
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    recurrent_bias: bool = True
    use_bias: bool = True

    cell: ClassVar[_Cell]

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, example_index: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Maps [B,L,D] with right-padded mask [B,L] to [B,L,F], or [B,L,2F] if bidirectional; zero at padding.

        `example_index` [B] is needed for dropout, which is applied to what a layer passes to the next.
        """
        chex.assert_rank(x, 3)
        chex.assert_shape(mask, x.shape[:2])
        start = (self.kernel_init, self.bias_init, self.recurrent_bias, self.use_bias)
        ends = ("", "_reverse") if self.bidirectional else ("",)
        for layer in range(self.layers):
            if layer and self.dropout and train:
                x = Dropout(self.dropout, name=f"dropout_{layer}")(x, jnp.asarray(example_index), train)
            weights = [
                _Direction(self.cell, self.features, *start, name=f"layer_{layer}{end}")(x.shape[-1])
                for end in ends
            ]
            x = self._read(weights, x, mask)
        return x

    def _read(self, weights: list[Weights], x: jax.Array, mask: jax.Array) -> jax.Array:
        """One layer, from the weights of each direction."""
        outputs = [_scan(self.cell, each, x, mask, self.dtype, reverse=i > 0) for i, each in enumerate(weights)]
        return jnp.concatenate(outputs, axis=-1)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), parameters as torch.nn.LSTM.

    Per layer and direction ('layer_0', 'layer_0_reverse', ...): input_kernel [D,4F], recurrent_kernel
    [F,4F], input_bias and recurrent_bias [4F], gates in the order i, f, g, o, all U(-1/sqrt(F), 1/sqrt(F))
    at first, unless `kernel_init` and `bias_init` say otherwise. Gates and states are float32; `dtype` is that
    of the matrix products and of the result.

    Attributes:
      fast: whether layers compute by their twin in `vmr_jax.kernels.recurrent`, which rounds otherwise: other
        architectures keep the plain form, with which their figures of the test bed were taken.
    """

    fast: bool = False

    cell = _Cell(gates=4, states=2, step=_lstm_step)

    def _read(self, weights: list[Weights], x: jax.Array, mask: jax.Array) -> jax.Array:
        """One layer, from the weights of each direction."""
        if not (self.fast and kernels_in_use()):
            return super()._read(weights, x, mask)
        directions = [(w.input_kernel, w.recurrent_kernel, w.input_bias + w.recurrent_bias) for w in weights]
        return fast_lstm(x, mask, directions, self.dtype).astype(self.dtype)


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al., 2014), parameters as torch.nn.GRU.

    As `LSTM`, with 3F instead of 4F, gates in the order r, z, n, the reset gate after the recurrent
    product.
    """

    cell = _Cell(gates=3, states=1, step=_gru_step)


class GRUCell(nn.Module):
    """One step of a `GRU`, for a state that is fed back from outside: parameters as torch.nn.GRUCell.

    input_kernel [D,3F], recurrent_kernel [F,3F], input_bias and recurrent_bias [3F], as in `GRU`.

    Attributes:
      features: F, number of units.
      dtype: number format of the matrix products; gates and state are float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the next state [B,F] float32 of a state [B,F] float32 and an input [B,D]."""
        chex.assert_rank([state, x], 2)
        uniform = symmetric_uniform(1 / math.sqrt(self.features))
        width = 3 * self.features

        def project(y, name):
            kernel = self.param(f"{name}_kernel", uniform, (y.shape[-1], width))
            bias = self.param(f"{name}_bias", uniform, (width,))
            product = jnp.dot(y.astype(self.dtype), kernel.astype(self.dtype))
            return product.astype(jnp.float32) + bias[None]

        return _gru_step((state,), project(x, "input"), project(state, "recurrent"))[0]


def first_state(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,F], the first step of [B,L,F] with right-padded mask [B,L]; zero where nothing is real."""
    chex.assert_shape(mask, x.shape[:2])
    return jnp.where(mask[:, :1], x[:, 0], 0)


def last_state(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,F], the last real step of [B,L,F] with right-padded mask [B,L]; zero where nothing is real."""
    chex.assert_shape(mask, x.shape[:2])
    last = jnp.maximum(mask.sum(1) - 1, 0)
    state = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return jnp.where(mask[:, :1], state, 0)


def mean_state(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,F], the mean of [B,L,F] over the steps of mask [B,L], in float32; zero without any."""
    chex.assert_shape(mask, x.shape[:2])
    total = jnp.where(mask[..., None], x.astype(jnp.float32), 0.0).sum(1)
    return (total / jnp.maximum(mask.sum(1), 1)[:, None]).astype(x.dtype)
