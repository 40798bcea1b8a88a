"""The convolutions of a sparse 2D map, computed where they matter: twin of the plain form of `MapConvs`.

Candidates fill a part of the map alone: the upper triangle, and of the long moments every second, fourth or
eighth diagonal. The plain form convolves every cell, with a margin as wide as all kernels together. Here each
layer

- keeps only the margin that candidates reach and that reaches candidates (`cropped`),
- convolves bands of rows, each as narrow as the cells that matter (`bands`), and
- takes on the CPU a column more out of each convolution than into it, with which XLA shares few channels
  among all threads.

At 16 x 16 clips and eight 5 x 5 kernels the bands take 4768 cells of a map on a CPU, not 7872; 3840 matter
(`python benchmarks/dead_work.py` prints the like of every architecture).

Letters beyond the usual: k side of a kernel, Z side of a map with its margin, in cells.
"""

import functools
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import on_cpu


def in_bands(
    mask: np.ndarray, weights: list[np.ndarray], kernel: int, whole: bool
) -> tuple[list[np.ndarray], list[Callable]]:
    """The layers of `MapConvs` on smaller maps: what to multiply by after each, and the convolution of each.

    A convolution is called as `jax.lax.conv_general_dilated`; it takes maps of the side of the layer before (at
    first of `mask`) to maps of the side of its layer.

    Args:
      mask: [G,G] bool, the candidates, outside of which the first map is zero.
      weights: of each layer, as `vmr_jax.layers.map2d.map_weights` gives them.
      kernel: k, odd.
      whole: whether all cells of the official maps must be right (for the statistics of a batch), not only
        those that change the result.
    """
    weights = cropped(weights, kernel // 2, whole)
    regions = map_regions(mask, weights, kernel // 2, whole)
    pairs = zip(regions, regions[1:], strict=False)
    return weights, [functools.partial(convolve, source=source, target=target) for source, target in pairs]


def cropped(weights: list[np.ndarray], half: int, whole: bool) -> list[np.ndarray]:
    """The weights of each layer on the maps that are computed: [Z,Z], a margin around the moment map [G,G].

    The margin grows by half = (k - 1) / 2 a layer over the first half of the layers, and shrinks to 0 over the
    second. With `whole` it is the official one, which starts at its largest and only shrinks.
    """
    layers, kept = len(weights), []
    for layer, weight in enumerate(weights, 1):
        # Cells further out than the margin are zero (early layers) or reach no result (late layers).
        surplus = half * (layers - layer) - _margin(layer, layers, half, whole)
        kept.append(weight[surplus : len(weight) - surplus, surplus : len(weight) - surplus])
    return kept


def _margin(layer: int, layers: int, half: int, whole: bool) -> int:
    """Cells kept on every side of the moment map after `layer` of `layers` convolutions."""
    if whole:
        return half * (layers - layer) if layer else 0
    return half * min(layer, layers - layer)


def map_regions(mask: np.ndarray, weights: list[np.ndarray], half: int, whole: bool) -> list[np.ndarray]:
    """The cells that matter before the first and after each layer, on the maps of `cropped` weights: bool.

    They are those that a candidate reaches through the layers before and, unless `whole`, that reach a
    candidate through the layers after. All others are zero before the bias, or change no result.
    """
    regions, layers = [mask, *(weight > 0 for weight in weights)], len(weights)
    if whole:
        return regions
    for layer, region in enumerate(regions):
        around = half * (layers - layer)
        nearby = np.pad(mask, around + _margin(layer, layers, half, whole))
        regions[layer] = region & _windows(nearby, 2 * around + 1).any((-2, -1))
    return regions


def _windows(cells: np.ndarray, size: int) -> np.ndarray:
    """[Z,Z] -> the windows [Z - size + 1,Z - size + 1,size,size]."""
    return np.lib.stride_tricks.sliding_window_view(cells, (size, size))


def convolve(
    x: jax.Array, kernel: jax.Array, *unused, source: np.ndarray, target: np.ndarray, **no_choice
) -> jax.Array:
    """Convolves a map [B,Z,Z,D] with a kernel [k,k,D,F] where it matters -> [B,Z',Z',F], else zero.

    Args:
      x: the map, zero outside of `source`.
      kernel: of odd side.
      unused: strides and padding of `jax.lax.conv_general_dilated`; here 1, and the difference of the sides.
      source: [Z,Z] bool, the cells that may be other than zero.
      target: [Z',Z'] bool, the results that matter.
      no_choice: its other arguments.
    """
    del unused, no_choice
    half = kernel.shape[0] // 2
    size, around, kept = _canvas(source, target, half)
    x = jnp.pad(x, ((0, 0), (around,) * 2, (around,) * 2, (0, 0)))
    forward, backward = on_canvas(source, target, half)
    return band_conv(x, kernel, forward, backward)[:, kept : size - kept, kept : size - kept]


def on_canvas(
    source: np.ndarray, target: np.ndarray, half: int
) -> tuple[tuple["Band", ...], tuple["Band", ...]]:
    """The bands of a convolution and of its gradient; `convolve` has the arguments, half = (k - 1) / 2."""
    size, around, kept = _canvas(source, target, half)
    source, target, height = np.pad(source, around), np.pad(target, kept), band_height()
    return bands(source, target, half, height), bands(target, source, half, height)


def _canvas(source: np.ndarray, target: np.ndarray, half: int) -> tuple[int, int, int]:
    """Side of a canvas in the middle of which both maps lie, and what is around either of them."""
    size = max(len(source), len(target)) + 2 * half
    return size, (size - len(source)) // 2, (size - len(target)) // 2


class Band(NamedTuple):
    """Rows of a map that are convolved at once. All are half-open ranges of one canvas around both maps.

    Attributes:
      rows: rows of the result.
      columns: columns of the result that matter.
      read: columns that are convolved, `columns` among them.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    read: tuple[int, int]


def bands(source: np.ndarray, target: np.ndarray, half: int, height: int) -> tuple[Band, ...]:
    """Splits the cells `target` of a convolution into bands of `height` rows, each as narrow as can be.

    Args:
      source: [Z,Z] bool, the cells that may be other than zero.
      target: [Z,Z] bool, the results that matter.
      half: (kernel - 1) / 2.
      height: rows of a band.
    """
    rows, found = np.flatnonzero(target.any(1)), []
    for first in range(rows[0], rows[-1] + 1, height):
        last = min(first + height, rows[-1] + 1)
        columns = _range(np.asarray(target[first:last].any(0)))
        near = np.asarray(source[first - half : last + half].any(0))
        near[: columns[0] - half] = near[columns[1] + half :] = False
        near[slice(*columns)] = True
        found.append(Band((int(first), int(last)), columns, _range(near)))
    return tuple(found)


def _range(chosen: np.ndarray) -> tuple[int, int]:
    """The shortest half-open range that holds all that are True."""
    places = np.flatnonzero(chosen)
    return int(places[0]), int(places[-1]) + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def band_conv(
    x: jax.Array, kernel: jax.Array, forward: tuple[Band, ...], backward: tuple[Band, ...]
) -> jax.Array:
    """A k x k convolution of the canvas [B,Z,Z,D] that is computed in bands; zero outside of them.

    Args:
      x: [B,Z,Z,D], zero in the outer (k - 1) / 2 cells.
      kernel: [k,k,D,F].
      forward: bands of the result [B,Z,Z,F].
      backward: bands of the gradient with respect to `x`, which is taken as zero outside of them.
    """
    del backward
    return _placed([_band(x, kernel, band) for band in forward], forward, x.shape[1])


def _band_conv_forward(x, kernel, forward, backward):
    return band_conv(x, kernel, forward, backward), (x, kernel)


def _band_conv_backward(forward, backward, saved, gradient):
    x, kernel = saved
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    to_x = _placed([_band(gradient, flipped, band) for band in backward], backward, x.shape[1])
    to_kernel = jnp.zeros_like(kernel)
    for band in forward:
        _, pull = jax.vjp(lambda kernel, band=band: _band(x, kernel, band), kernel)
        to_kernel += pull(gradient[:, slice(*band.rows), slice(*band.columns)])[0]
    return to_x, to_kernel


band_conv.defvjp(_band_conv_forward, _band_conv_backward)


def _band(x: jax.Array, kernel: jax.Array, band: Band) -> jax.Array:
    """The results of one band."""
    half, (first, last), (left, right) = kernel.shape[0] // 2, band.rows, band.read
    y = jax.lax.conv_general_dilated(
        x[:, first - half : last + half, left:right],
        kernel,
        window_strides=(1, 1),
        padding=((0, 0), padding(half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y[:, :, band.columns[0] - left : band.columns[1] - left]


def padding(half: int) -> tuple[int, int]:
    """Columns of zeros on both sides of a band; half = (k - 1) / 2.

    Columns are padded, and cropped after: without any padding XLA's CPU convolution was 3 times slower. With
    more columns out of it than into it all threads share it, else one thread does it alone: with no column to
    spare a step of 2D-TAN on storyboard had a tenth fewer operations and took a tenth longer.
    """
    return (half, half + 1) if on_cpu() else (half, half)


def _placed(pieces: list[jax.Array], of_bands: tuple[Band, ...], size: int) -> jax.Array:
    """The canvas [B,Z,Z,F] that holds each band in its place, else zero."""
    rows = [
        jnp.pad(piece, ((0, 0), (0, 0), (band.columns[0], size - band.columns[1]), (0, 0)))
        for piece, band in zip(pieces, of_bands, strict=True)
    ]
    around = (of_bands[0].rows[0], size - of_bands[-1].rows[1])
    return jnp.pad(jnp.concatenate(rows, axis=1), ((0, 0), around, (0, 0), (0, 0)))


def band_height() -> int:
    """Number of rows that are convolved at once: few on a CPU, where work is what counts, else all."""
    return 8 if on_cpu() else sys.maxsize
