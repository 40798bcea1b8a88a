"""Maxima over many spans of clips from a table of few windows: twin of the plain form of `max_pool_map`."""

import jax
import jax.numpy as jnp
import numpy as np


def span_maxima(clips: jax.Array, first: np.ndarray, last: np.ndarray) -> jax.Array:
    """[B,T,D] -> [B,M,D]: the element-wise maximum over the clips of each span, `first` to `last` [M].

    A span of any length is covered by two windows whose length is a power of two; the maxima of all such
    windows take log2(T) steps. Where several clips share the maximum, the gradient is shared otherwise than in
    the plain form.
    """
    windows, begin = [clips], [0]  # windows[p][:, i] is the max over the 2^p clips from i on
    while 2 ** len(windows) <= clips.shape[1]:
        half = 2 ** (len(windows) - 1)
        begin.append(begin[-1] + windows[-1].shape[1])
        windows.append(jnp.maximum(windows[-1][:, :-half], windows[-1][:, half:]))
    table = jnp.concatenate(windows, axis=1)
    power = np.log2(last - first + 1).astype(int)
    left = np.asarray(begin)[power] + first
    right = np.asarray(begin)[power] + last + 1 - 2**power
    return jnp.maximum(table[:, left], table[:, right])
