"""A layer of an LSTM in one loop for all its directions, its derivative written out: twin of the plain scan.

In the loop there is only what one step needs of the step before:

- all gates are one tanh, since sigmoid(x) = (tanh(x / 2) + 1) / 2; a logistic function is slower by a division;
- the derivatives of the gates are taken for all steps at once, before the loop that goes back; and
- the gradients of the kernels are one product over all steps after it, not a sum in the loop.

Letters beyond the usual: N number of directions, 1 or 2; G = 4F, the gates i, f, g, o side by side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Direction = tuple[jax.Array, jax.Array, jax.Array]  # input kernel [D,G], recurrent kernel [F,G], bias [G]


def lstm(x: jax.Array, mask: jax.Array, directions: list[Direction], dtype: jnp.dtype) -> jax.Array:
    """[B,L,D] with right-padded mask [B,L] -> states [B,L,N * F] of each direction, float32, zero at padding.

    The second direction, if there is one, reads from the end. `dtype` is that of the products.
    """
    turns = [slice(None), slice(None, None, -1)][: len(directions)]
    steps, real = x.swapaxes(0, 1), mask.T[..., None]
    real = jnp.stack([real[turn] for turn in turns], axis=1)
    states = _states(tuple(steps[turn] for turn in turns), tuple(directions), real, dtype)
    states = jnp.where(real, states, 0.0)
    outputs = [states[turn, i] for i, turn in enumerate(turns)]
    return jnp.concatenate(outputs, axis=-1).swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _states(
    x: tuple[jax.Array, ...], directions: tuple[Direction, ...], real: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """The states [L,N,B,F] of each direction from its inputs [L,B,D] in the order of reading.

    Where `real` [L,N,B,1] is False a step leaves the state alone.
    """
    return _forward(x, directions, real, dtype)[0]


def _forward(x, directions, real, dtype):
    features = len(directions[0][1])
    scale = np.repeat(np.float32([0.5, 0.5, 1.0, 0.5]), features)[None, None]  # powers of two round nothing
    projected = tuple(
        (_product(a, kernel, dtype) + bias[None, None]) * scale
        for a, (kernel, _, bias) in zip(x, directions, strict=True)
    )
    recurrent = jnp.stack([kernel for _, kernel, _ in directions]) * scale

    def step(states, inputs):
        projected, real = inputs
        h, c = states
        curves = jnp.tanh(jnp.stack(projected) + _product(h, recurrent, dtype))
        i, f, g, o = _gates(curves)
        new_c = f * c + i * g
        c, h = jnp.where(real, new_c, c), jnp.where(real, o * jnp.tanh(new_c), h)
        return (h, c), (h, c, curves)

    zeros = jnp.zeros((len(x), x[0].shape[1], features), jnp.float32)
    _, (h, c, curves) = jax.lax.scan(step, (zeros, zeros), (projected, real))
    return h, (x, directions, real, h, c, curves)


def _backward(dtype, saved, gradient):
    x, directions, real, h, c, curves = saved
    i, f, g, o = _gates(curves)
    level = jnp.tanh(c)
    # What a gate before its curve is to the cell (i, f, g) or to the state (o).
    slopes = g * i * (1 - i), _before(c) * f * (1 - f), i * (1 - g * g), level * o * (1 - o)
    slopes = jnp.where(real, jnp.concatenate(slopes, axis=-1), 0.0)
    to_cell, kept = jnp.where(real, o * (1 - level * level), 0.0), jnp.where(real, f, 1.0)
    recurrent = jnp.stack([kernel.T for _, kernel, _ in directions])

    def step(gradients, inputs):
        of_h, of_c = gradients
        outside, slopes, to_cell, kept, real = inputs
        of_h = of_h + outside
        of_c = of_c + of_h * to_cell
        of_gates = jnp.concatenate([of_c, of_c, of_c, of_h], axis=-1) * slopes
        back = _product(of_gates, recurrent, dtype)
        return (back + jnp.where(real, 0.0, of_h), of_c * kept), tuple(of_gates)

    zeros = jnp.zeros_like(h[0])
    inputs = gradient, slopes, to_cell, kept, real
    _, of_gates = jax.lax.scan(step, (zeros, zeros), inputs, reverse=True)
    h = _before(h)
    to_x, to_directions = [], []
    for n, (kernel, _, _) in enumerate(directions):
        to_x.append(_product(of_gates[n], kernel.T, dtype).astype(x[n].dtype))
        to_kernels = (_over_steps(a, of_gates[n], dtype) for a in (x[n], h[:, n]))
        to_directions.append((*to_kernels, of_gates[n].sum((0, 1))))
    return tuple(to_x), tuple(to_directions), None


_states.defvjp(_forward, _backward)


def _gates(curves: jax.Array) -> tuple[jax.Array, ...]:
    """i, f, g and o from their tanh [...,G]."""
    i, f, g, o = jnp.split(curves, 4, axis=-1)
    return 0.5 * i + 0.5, 0.5 * f + 0.5, g, 0.5 * o + 0.5


def _before(states: jax.Array) -> jax.Array:
    """The state before each step: [L,...] a step later, zero at first."""
    return jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])


def _product(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A product in `dtype`, its result float32."""
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype)).astype(jnp.float32)


def _over_steps(x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[L,B,D] and [L,B,G] -> [D,G], summed over steps and examples."""
    return jnp.einsum("lbd,lbg->dg", x.astype(dtype), y.astype(dtype)).astype(jnp.float32)
