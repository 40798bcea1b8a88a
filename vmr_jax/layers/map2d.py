"""The 2D temporal map: cell (i, j) is the moment from clip i to clip j, inclusive (2D-TAN, AAAI 2020).

N is clips per side. Rows are start clips, columns end clips. Which cells are candidates, and everything
that follows from it, is computed once in numpy: masks are numpy arrays and static under jit.
"""

import functools
import sys
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import on_cpu
from vmr_jax.types import Moments


def candidate_layers(num_clips: int, scale_layers: tuple[int, ...]) -> list[tuple[int, int]]:
    """The diagonals of the map that hold candidates, shortest first: (scale s, offset j - i).

    The longer a moment, the coarser its grid (2D-TAN, "sparse sampling"): `scale_layers[s]` diagonals that are
    2^s apart, on which i is a multiple of 2^s. For (16, 8, 8) the offsets are 0,1..15 at scale 0, then
    17,19..31, then 35,39..63.

    Raises UserError where there is no candidate, or one that is longer than the video.
    """
    diagonals, offset = [], -1
    for scale, layers in enumerate(scale_layers):
        for _ in range(layers):
            offset += 2**scale
            diagonals.append((scale, offset))
    if not 0 <= offset < num_clips:
        raise UserError(
            f"scale_layers {tuple(scale_layers)} makes candidates of up to {offset + 1} clips, but the map has "
            f"num_clips={num_clips}. The longest, the sum of layers * 2^scale, must be between 1 and "
            f"num_clips: use for example scale_layers=({num_clips},)."
        )
    return diagonals


def candidate_mask(num_clips: int, scale_layers: tuple[int, ...]) -> np.ndarray:
    """[N,N] bool: the candidate moments, see `candidate_layers`.

    The paper's settings (16, (16,)), (64, (16, 8, 8)) and (128, (16, 8, 8, 8)) have 136, 1104 and 2548.
    """
    mask = np.zeros((num_clips, num_clips), bool)
    for scale, offset in candidate_layers(num_clips, scale_layers):
        starts = np.arange(0, num_clips - offset, 2**scale)
        mask[starts, starts + offset] = True
    return mask


def cell_spans(num_clips: int, duration: jax.Array) -> jax.Array:
    """[B] seconds -> [B,N,N,2] seconds: cell (i, j) is [i, j + 1] * duration / N."""
    chex.assert_rank(duration, 1)
    start, end = np.meshgrid(np.arange(num_clips), np.arange(1, num_clips + 1), indexing="ij")
    grid = jnp.asarray(np.stack([start, end], -1), jnp.float32)  # [N,N,2]
    return grid[None] * (duration / num_clips)[:, None, None, None]


def iou_map(num_clips: int, span: jax.Array, duration: jax.Array) -> jax.Array:
    """IoU of every cell with the annotated moment: [B,2] and [B] seconds -> [B,N,N]; 0 where j < i."""
    chex.assert_shape(span, (duration.shape[0], 2))
    return iou(cell_spans(num_clips, duration), span[:, None, None, :])


def rank_cells(scores: jax.Array, mask: np.ndarray, duration: jax.Array, k: int = 0) -> Moments:
    """The k best candidates of scores [B,N,N], best first; all of them where k is 0.

    Only cells of `mask` [N,N] are returned. Ties: the earlier start first, then the earlier end.
    """
    num_clips = mask.shape[0]
    chex.assert_shape(scores, (duration.shape[0], num_clips, num_clips))
    rows, columns = np.nonzero(mask)
    spans = cell_spans(num_clips, duration)[:, rows, columns]
    candidates = scores[:, rows, columns]
    return rank(spans, candidates, jnp.ones(candidates.shape, bool), k or len(rows))


def place_cells(cells: jax.Array, rows: np.ndarray, columns: np.ndarray, num_clips: int) -> jax.Array:
    """[B,M,D] features of M different cells (rows[m], columns[m]) -> the map [B,N,N,D], else zero."""
    empty = jnp.zeros((cells.shape[0], num_clips, num_clips, cells.shape[-1]), cells.dtype)
    return empty.at[:, rows, columns].set(cells, unique_indices=True)


def max_pool_map(clips: jax.Array, mask: np.ndarray) -> jax.Array:
    """[B,N,D] -> [B,N,N,D]: the element-wise max over clips i..j, zero outside `mask` [N,N].

    A span of any length is covered by two windows whose length is a power of two; the maxima of all such
    windows take log2(N) steps.
    """
    chex.assert_rank(clips, 3)
    num_clips = clips.shape[1]
    chex.assert_shape(mask, (num_clips, num_clips))
    windows, first = [clips], [0]  # windows[p][:, i] is the max over the 2^p clips from i on
    while 2 ** len(windows) <= num_clips:
        half = 2 ** (len(windows) - 1)
        first.append(first[-1] + windows[-1].shape[1])
        windows.append(jnp.maximum(windows[-1][:, :-half], windows[-1][:, half:]))
    table = jnp.concatenate(windows, axis=1)
    rows, columns = np.nonzero(np.triu(mask))
    power = np.log2(columns - rows + 1).astype(int)
    left = np.asarray(first)[power] + rows
    right = np.asarray(first)[power] + columns + 1 - 2**power
    return place_cells(jnp.maximum(table[:, left], table[:, right]), rows, columns, num_clips)


class StackedConvMap(nn.Module):
    """The map of 2D-TAN's "Conv" variant: each diagonal is a convolution of the one before.

    Parameters: 'layer_0' (kernel 1) for single clips, then one layer for every further diagonal of
    `candidate_layers`: kernel 3 with stride 2 where the scale changes, else kernel 2. No activation between.

    Attributes:
      features: width of the result.
      scale_layers: diagonals at each scale, as in `candidate_mask`.
      dtype: of the convolutions and of the result.
    """

    features: int
    scale_layers: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """[B,N,D] -> [B,N,N,features], zero outside `candidate_mask`."""
        chex.assert_rank(clips, 3)
        num_clips = clips.shape[1]
        x, previous = clips, 0
        cells, rows, columns = [], [], []
        for layer, (scale, offset) in enumerate(candidate_layers(num_clips, self.scale_layers)):
            kernel = 1 if layer == 0 else 3 if scale > previous else 2
            x = nn.Conv(
                self.features,
                (kernel,),
                strides=2 if kernel == 3 else 1,
                padding="VALID",
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(kernel * x.shape[-1]),
                dtype=self.dtype,
                name=f"layer_{layer}",
            )(x)
            starts = np.arange(0, num_clips - offset, 2**scale)
            chex.assert_axis_dimension(x, 1, len(starts))
            cells.append(x)
            rows.append(starts)
            columns.append(starts + offset)
            previous = scale
        cells = jnp.concatenate(cells, axis=1)
        return place_cells(cells, np.concatenate(rows), np.concatenate(columns), num_clips)


def map_weights(mask: np.ndarray, kernel: int, layers: int, whole: bool = False) -> list[np.ndarray]:
    """What `MapConvs` multiplies by after each layer: float32 [N + 2m,N + 2m], m cells around the map.

    A weight is 1 / c where c > 0, else 0; c is the number of cells under the kernel that are in the mask of
    the layer before. The mask of the layer is c > 0, at first it is `mask` [N,N]. The margin m grows by
    (kernel - 1) / 2 a layer over the first half of the layers, and shrinks to 0 over the second; with `whole`
    it is that of the official code, which starts at its largest and only shrinks.

    Raises UserError for an even kernel, which has no middle.
    """
    if kernel % 2 == 0:
        raise UserError(f"The kernel of the map convolutions is {kernel}; it must be odd (the paper's: 5, 9).")
    half = kernel // 2
    weights, valid = [], np.pad(mask, half * layers)
    for layer in range(1, layers + 1):
        count = _windows(valid, kernel).sum((-2, -1))
        valid = count > 0
        weight = (valid / np.maximum(count, 1)).astype(np.float32)
        # Cells further out than the margin are zero (early layers) or reach no result (late layers).
        surplus = half * (layers - layer) - _margin(layer, layers, half, whole)
        kept = slice(surplus, len(weight) - surplus)
        weights.append(weight[kept, kept])
    return weights


def _windows(cells: np.ndarray, size: int) -> np.ndarray:
    """[M,M] -> the windows [M - size + 1,M - size + 1,size,size]."""
    return np.lib.stride_tricks.sliding_window_view(cells, (size, size))


def _margin(layer: int, layers: int, half: int, whole: bool) -> int:
    """Cells kept on every side of the N x N map after `layer` of `layers` convolutions."""
    if whole:
        return half * (layers - layer) if layer else 0
    return half * min(layer, layers - layer)


def map_regions(mask: np.ndarray, kernel: int, layers: int, whole: bool = False) -> list[np.ndarray]:
    """The cells that matter before the first and after each layer, on the maps of `map_weights`: bool.

    They are those that a candidate reaches through the layers before and, unless `whole`, that reach a
    candidate through the layers after. All others are zero before the bias, or change no result.
    """
    regions = [mask, *(weight > 0 for weight in map_weights(mask, kernel, layers, whole))]
    if whole:
        return regions
    half = kernel // 2
    for layer, region in enumerate(regions):
        around = half * (layers - layer)
        margin = _margin(layer, layers, half, whole)
        regions[layer] = region & _windows(np.pad(mask, around + margin), 2 * around + 1).any((-2, -1))
    return regions


class Band(NamedTuple):
    """Rows of a map that are convolved at once. All are half-open ranges of one canvas around both maps.

    Attributes:
      rows: of the result.
      columns: of the result, those that matter.
      read: columns that are convolved, `columns` among them.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    read: tuple[int, int]


def bands(source: np.ndarray, target: np.ndarray, half: int, height: int) -> tuple[Band, ...]:
    """Splits the cells `target` of a convolution into bands of `height` rows, each as narrow as can be.

    Args:
      source: [M,M] bool, the cells that may be other than zero.
      target: [M,M] bool, the results that matter.
      half: (kernel - 1) / 2.
      height: rows of a band.
    """
    rows, found = np.flatnonzero(target.any(1)), []
    for first in range(rows[0], rows[-1] + 1, height):
        last = min(first + height, rows[-1] + 1)
        columns = _range(target[first:last].any(0))
        near = source[first - half : last + half].any(0)
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
    """A k x k convolution of the canvas [B,M,M,D] that is computed in bands; zero outside of them.

    Args:
      x: [B,M,M,D], zero in the outer (k - 1) / 2 cells.
      kernel: [k,k,D,F].
      forward: bands of the result [B,M,M,F].
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
    # Columns are padded, and cropped after: without any padding XLA's CPU convolution was 3 times slower. With
    # more columns out of it than into it all threads share one of few channels, else one thread does it alone.
    padding = (half, half + 1) if on_cpu() else (half, half)
    y = jax.lax.conv_general_dilated(
        x[:, first - half : last + half, left:right],
        kernel,
        window_strides=(1, 1),
        padding=((0, 0), padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y[:, :, band.columns[0] - left : band.columns[1] - left]


def _placed(pieces: list[jax.Array], of_bands: tuple[Band, ...], size: int) -> jax.Array:
    """The canvas [B,size,size,F] that holds each band in its place, else zero."""
    rows = [
        jnp.pad(piece, ((0, 0), (0, 0), (band.columns[0], size - band.columns[1]), (0, 0)))
        for piece, band in zip(pieces, of_bands, strict=True)
    ]
    around = (of_bands[0].rows[0], size - of_bands[-1].rows[1])
    return jnp.pad(jnp.concatenate(rows, axis=1), ((0, 0), around, (0, 0), (0, 0)))


def band_height() -> int:
    """Rows that `MapConvs` convolves at once: few on a CPU, where work is what counts, else all."""
    return 8 if on_cpu() else sys.maxsize


class MapConv(nn.Module):
    """One of the convolutions of `MapConvs`. Parameters: kernel [k,k,D,F] and bias [F]."""

    features: int
    kernel: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, source: np.ndarray, target: np.ndarray) -> jax.Array:
        """A map [B,n,n,D], its cells `source` [n,n], and those of the result `target` [m,m] -> [B,m,m,F]."""
        chex.assert_shape(x, (None, *source.shape, None))
        half, width = self.kernel // 2, x.shape[-1]
        kernel = self.param("kernel", torch_default_kernel, (self.kernel, self.kernel, width, self.features))
        bias = self.param("bias", torch_bias(self.kernel**2 * width), (self.features,))
        # Both maps lie in the middle of one canvas.
        size = max(len(source), len(target)) + 2 * half
        around = (size - len(source)) // 2
        source, kept = np.pad(source, around), (size - len(target)) // 2
        target = np.pad(target, kept)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (around,) * 2, (around,) * 2, (0, 0)))
        height = band_height()
        forward, backward = bands(source, target, half, height), bands(target, source, half, height)
        y = band_conv(x, kernel.astype(self.dtype), forward, backward)
        y = y[:, kept : size - kept, kept : size - kept]
        return y + bias.astype(self.dtype)[None, None, None]


class MapConvs(nn.Module):
    """The temporal adjacent network of 2D-TAN: L times x = relu(conv(x)) * weight, kernels k x k.

    The weight divides by the number of valid cells under the kernel, see `map_weights`. The official code
    pads the first layer by (k - 1) L / 2 on every side and the others not at all. This gives the same result
    from the cells that matter alone (`map_regions`): at N=16, k=5, L=8 the bands of `band_height` take 4768
    cells on a CPU, not 7872.

    MMN has a batch normalisation after each convolution (`norm`). Its statistics are over all cells of the
    official code's maps, those that are no candidates and the padding included; where no candidate reaches,
    a convolution is its bias.

    Attributes:
      features: width of every layer.
      kernel: k, odd.
      layers: L.
      dtype: of the convolutions and of the result.
      norm: whether a batch normalisation stands between convolution and ReLU.
    """

    features: int
    kernel: int
    layers: int
    dtype: jnp.dtype = jnp.float32
    norm: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: np.ndarray, real: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """[B,N,N,D] -> [B,N,N,features]; both are zero outside the candidates `mask` [N,N].

        With `norm`, `real` [B] are the maps that count in the statistics of a batch (`train`); the result of
        the others is zero.
        """
        chex.assert_rank(x, 4)
        chex.assert_shape(mask, x.shape[1:3])
        whole = self.norm and train
        weights = map_weights(mask, self.kernel, self.layers, whole)
        weights[-1] = weights[-1] * mask
        regions = map_regions(mask, self.kernel, self.layers, whole)
        for layer, weight in enumerate(weights):
            conv = MapConv(self.features, self.kernel, self.dtype, name=f"layer_{layer}")
            x = conv(x, regions[layer], regions[layer + 1])
            if self.norm:
                counted = jnp.broadcast_to(real[:, None, None], x.shape[:3])
                x = MaskedBatchNorm(dtype=self.dtype, name=f"norm_{layer}")(x, counted, train)
            x = nn.relu(x) * jnp.asarray(weight, self.dtype)[None, :, :, None]
        return x
