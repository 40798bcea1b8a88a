"""The 2D temporal map: cell (i, j) is the moment from clip i to clip j, inclusive (2D-TAN, AAAI 2020).

Rows are start clips, columns end clips, G of each. Which cells are candidates, and everything that follows from
it, is computed once in numpy: masks are numpy arrays and static under jit.

Letters beyond the usual: k side of a kernel, Z side of a map with its margin, in cells.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.kernels import kernels_in_use
from vmr_jax.kernels.map_convolution import convolve, in_bands
from vmr_jax.kernels.max_pooling import span_maxima
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.moments import iou, rank
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
    """Returns [G,G] bool, the candidate moments, see `candidate_layers`.

    The paper's settings (16, (16,)), (64, (16, 8, 8)) and (128, (16, 8, 8, 8)) have 136, 1104 and 2548.
    """
    mask = np.zeros((num_clips, num_clips), bool)
    for scale, offset in candidate_layers(num_clips, scale_layers):
        starts = np.arange(0, num_clips - offset, 2**scale)
        mask[starts, starts + offset] = True
    return mask


def cell_spans(num_clips: int, duration: jax.Array) -> jax.Array:
    """[B] seconds -> [B,G,G,2] seconds: cell (i, j) is [i, j + 1] * duration / G."""
    chex.assert_rank(duration, 1)
    start, end = np.meshgrid(np.arange(num_clips), np.arange(1, num_clips + 1), indexing="ij")
    grid = jnp.asarray(np.stack([start, end], -1), jnp.float32)  # [G,G,2]
    return grid[None] * (duration / num_clips)[:, None, None, None]


def iou_map(num_clips: int, span: jax.Array, duration: jax.Array) -> jax.Array:
    """IoU of every cell with the annotated moment: [B,2] and [B] seconds -> [B,G,G]; 0 where j < i."""
    chex.assert_shape(span, (duration.shape[0], 2))
    return iou(cell_spans(num_clips, duration), span[:, None, None, :])


def rank_cells(scores: jax.Array, mask: np.ndarray, duration: jax.Array, k: int = 0) -> Moments:
    """The k best candidates of scores [B,G,G], best first; all of them where k is 0.

    Only cells of `mask` [G,G] are returned. Ties: the earlier start first, then the earlier end.
    """
    chex.assert_shape(scores, (duration.shape[0], *mask.shape))
    rows, columns = np.nonzero(mask)
    return rank_candidates(scores[:, rows, columns], mask, duration, k)


def candidate_spans(mask: np.ndarray, duration: jax.Array) -> jax.Array:
    """Returns [B,M,2] seconds of the candidates `mask` [G,G], row by row, in videos of [B] seconds."""
    rows, columns = np.nonzero(mask)
    return cell_spans(len(mask), duration)[:, rows, columns]


def rank_candidates(scores: jax.Array, mask: np.ndarray, duration: jax.Array, k: int = 0) -> Moments:
    """The k best of scores [B,M] of the candidates `mask` [G,G], best first; all of them where k is 0."""
    spans = candidate_spans(mask, duration)
    return rank(spans, scores, jnp.ones(scores.shape, bool), k or scores.shape[1])


def score_map(scores: jax.Array, mask: np.ndarray) -> jax.Array:
    """Scores [B,M] of the candidates `mask` [G,G] on the map [B,G,G], NaN where there is no candidate."""
    rows, columns = np.nonzero(mask)
    empty = jnp.full((scores.shape[0], *mask.shape), jnp.nan, scores.dtype)
    return empty.at[:, rows, columns].set(scores)


def place_cells(cells: jax.Array, rows: np.ndarray, columns: np.ndarray, num_clips: int) -> jax.Array:
    """[B,M,D] features of M different cells (rows[m], columns[m]) -> the map [B,G,G,D], else zero."""
    empty = jnp.zeros((cells.shape[0], num_clips, num_clips, cells.shape[-1]), cells.dtype)
    return empty.at[:, rows, columns].set(cells, unique_indices=True)


def max_pool_map(clips: jax.Array, mask: np.ndarray) -> jax.Array:
    """[B,G,D] -> [B,G,G,D]: the element-wise max over clips i..j, zero outside `mask` [G,G].

    Diagonal by diagonal (official code: SparsePropMaxPool). `vmr_jax.kernels.max_pooling` takes fewer steps.
    """
    chex.assert_rank(clips, 3)
    num_clips = clips.shape[1]
    chex.assert_shape(mask, (num_clips, num_clips))
    rows, columns = np.nonzero(np.triu(mask))
    if kernels_in_use():
        return place_cells(span_maxima(clips, rows, columns), rows, columns, num_clips)
    longest, diagonals = clips, [clips]  # longest[:, i] is the max over clips i..i + offset
    for offset in range(1, num_clips):
        longest = jnp.maximum(longest[:, :-1], clips[:, offset:])
        diagonals.append(jnp.pad(longest, ((0, 0), (0, offset), (0, 0))))
    cells = jnp.stack(diagonals, axis=1)[:, columns - rows, rows]
    return place_cells(cells, rows, columns, num_clips)


class StackedConvMap(nn.Module):
    """The map of 2D-TAN's "Conv" variant: each diagonal is a convolution of the one before.

    Parameters: 'layer_0' (kernel 1) for single clips, then one layer for every further diagonal of
    `candidate_layers`: kernel 3 with stride 2 where the scale changes, else kernel 2. No activation between.

    Attributes:
      features: F, width of the result.
      scale_layers: number of diagonals at each scale, as in `candidate_mask`.
      dtype: number format of the convolutions and of the result; parameters are float32.
    """

    features: int
    scale_layers: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """[B,G,D] -> [B,G,G,F], zero outside `candidate_mask`."""
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
        return place_cells(
            jnp.concatenate(cells, axis=1), np.concatenate(rows), np.concatenate(columns), num_clips
        )


def check_kernel(kernel: int) -> None:
    """Raises UserError for a kernel of a map convolution that has no middle."""
    if kernel % 2 == 0:
        raise UserError(f"The kernel of the map convolutions is {kernel}; it must be odd (the paper's: 5, 9).")


def map_weights(mask: np.ndarray, kernel: int, layers: int) -> list[np.ndarray]:
    """Weights of the cells after each layer of `MapConvs`: float32 [Z,Z], the map and a margin around it.

    A weight is 1 / c where c > 0, else 0; c is the number of cells under the kernel that are in the mask of
    the layer before. The mask of the layer is c > 0, at first it is `mask` [G,G]. After layer l of L the
    margin on every side is (k - 1) / 2 times L - l cells (official code: get_padded_mask_and_weight).

    Raises UserError for an even kernel, which has no middle.
    """
    check_kernel(kernel)
    weights, valid = [], np.pad(mask, kernel // 2 * layers)
    for _ in range(layers):
        count = np.lib.stride_tricks.sliding_window_view(valid, (kernel, kernel)).sum((-2, -1))
        valid = count > 0
        weights.append((valid / np.maximum(count, 1)).astype(np.float32))
    return weights


class MapConvs(nn.Module):
    """The temporal adjacent network of 2D-TAN: L times x = relu(conv(x)) * weight, kernels k x k.

    The weight divides by the number of valid cells under the kernel, see `map_weights`. As in the official code
    (MapConv), the map is padded by (k - 1) L / 2 cells on every side once, before the first layer, and each
    convolution takes (k - 1) / 2 of them away. `vmr_jax.kernels.map_convolution` computes the same from the
    cells that matter alone.

    MMN has a batch normalisation after each convolution (`norm`). Its statistics are over all cells of these
    maps, those that are no candidates and the padding included.

    Parameters: layer_0, layer_1, ... (kernel [k,k,D,F], bias [F]), and norm_0, norm_1, ... with `norm`.

    Attributes:
      features: F, width of every layer.
      kernel: k, side of the kernels in cells; odd.
      layers: L, number of convolutions.
      dtype: number format of the convolutions and of the result; parameters are float32.
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
        """[B,G,G,D] -> [B,G,G,F]; both are zero outside the candidates `mask` [G,G].

        With `norm`, `real` [B] are the maps that count in the statistics of a batch (`train`); the result of
        the others is zero.
        """
        chex.assert_rank(x, 4)
        chex.assert_shape(mask, x.shape[1:3])
        weights = map_weights(mask, self.kernel, self.layers)
        if kernels_in_use():
            weights, convolutions = in_bands(mask, weights, self.kernel, whole=self.norm and train)
        else:
            around = (self.kernel // 2 * self.layers,) * 2
            x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
            convolutions = [jax.lax.conv_general_dilated] * self.layers
        weights[-1] = weights[-1] * mask
        for layer, (weight, convolution) in enumerate(zip(weights, convolutions, strict=True)):
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                padding="VALID",
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(self.kernel**2 * x.shape[-1]),
                dtype=self.dtype,
                conv_general_dilated=convolution,
                name=f"layer_{layer}",
            )(x)
            if self.norm:
                counted = jnp.broadcast_to(jnp.asarray(real)[:, None, None], x.shape[:3])
                x = MaskedBatchNorm(dtype=self.dtype, name=f"norm_{layer}")(x, counted, train)
            x = nn.relu(x) * jnp.asarray(weight, self.dtype)[None, :, :, None]
        return x


class CandidateConvs(nn.Module):
    """Convolutions of DCM (Yang et al., SIGIR 2021): L times x = relu(conv(x)) at candidates, zero elsewhere.

    Kernels are k x k. Unlike those of `MapConvs`, sums are not divided by the number of candidates under them.

    Parameters: layer_0, layer_1, ... (kernel [k,k,D,F], bias [F]).

    Attributes:
      features: F, width of every layer.
      kernel: k, side of the kernels in cells; odd.
      layers: L, number of convolutions.
      dtype: number format of the convolutions and of the result; parameters are float32.
    """

    features: int
    kernel: int
    layers: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray) -> jax.Array:
        """[B,G,G,D] -> [B,G,G,F]; both are zero outside the candidates `mask` [G,G].

        Raises UserError for an even kernel.
        """
        chex.assert_rank(x, 4)
        chex.assert_shape(mask, x.shape[1:3])
        check_kernel(self.kernel)
        candidates = jnp.asarray(mask, self.dtype)[None, :, :, None]
        banded = functools.partial(convolve, source=mask, target=mask) if kernels_in_use() else None
        for layer in range(self.layers):
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(self.kernel**2 * x.shape[-1]),
                dtype=self.dtype,
                conv_general_dilated=banded,
                name=f"layer_{layer}",
            )(x)
            x = nn.relu(x) * candidates
        return x
