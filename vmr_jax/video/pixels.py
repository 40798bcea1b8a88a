"""The encoder `pixels`: coarse colour, texture and motion of a frame, a fixed function without weights.

It is the embedded default, for tests and test beds: it knows colours and movements, and nothing of what they
are.

A frame has 64 x 64 pixels, each channel from 0 to 1. A vector has 304 numbers, in five groups of like lengths:

  colours   64   share of the frame of each of 4 x 4 x 4 colours, its square root
  changed   64   the same of the pixels that differ from the frame before, weighted by how much
  places    48   mean colour of each of 4 x 4 cells, about the middle of the range
  texture   64   in each cell the gradients of four directions
  motion    64   in each cell how much has changed, and which way the brightness has moved (normal flow)

Letters beyond the usual: N frames, P pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmr_jax.errors import UserError

if TYPE_CHECKING:
    import av

SIDE = 64  # pixels
CELLS = 4  # a side
_LEVELS = 4  # of a channel
_DIRECTIONS = 4
_STILL = 0.02  # change of a pixel below which it is noise of the codec
_GAIN = 4.0  # of gradients and changes, which are small beside colours


class Pixels:
    """See the file; a `FrameEncoder`."""

    name = "pixels"
    rate = 4.0
    dim = 2 * _LEVELS**3 + CELLS**2 * (3 + _DIRECTIONS + 4)
    has_text = False

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"name": self.name, "version": 1, "side": SIDE, "dim": self.dim}

    def prepare(self, frame: "av.VideoFrame") -> np.ndarray:
        """[64,64,3] uint8, each pixel the mean of those that it covers."""
        return frame.reformat(SIDE, SIDE, "rgb24", interpolation="AREA").to_ndarray()

    def encode(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """Vectors [N,D] float32 of frames [N,64,64,3] uint8; nothing has moved before the first of a video."""
        previous = frames[:1] if before is None else before[None]
        pixels = np.concatenate([previous, frames]).astype(np.float32) / 255
        now, last = pixels[1:], pixels[:-1]
        grey = pixels.mean(-1)
        change = np.abs(now - last).mean(-1)
        change = np.where(change > _STILL, change, 0.0)
        down, right = (np.gradient(grey[1:], axis=axis) for axis in (1, 2))
        groups = [
            _colours(now, np.ones_like(change)),
            _colours(now, change),
            (_cells(now) - 0.5).reshape(len(frames), -1),
            _GAIN * _cells(_directed(down, right)).reshape(len(frames), -1),
            _GAIN * _motion(change, grey[1:] - grey[:-1], down, right),
        ]
        return np.concatenate(groups, axis=1).astype(np.float32)

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """UserError: pixels know no words."""
        raise UserError(
            "The encoder pixels has no text tower, so a sentence alone finds nothing. Train on the features of "
            "the library and give the run (--run=DIR), or ingest with --encoder=clip or siglip."
        )


def _colours(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Square roots [N,64] of the shares of colours; a pixel counts for the levels that it lies between.

    Args:
      pixels: [N,H,W,3] from 0 to 1.
      weights: [N,H,W], from 0 to 1 each.
    """
    levels = np.linspace(0, 1, _LEVELS, dtype=np.float32)
    near = np.maximum(1 - np.abs(pixels[..., None] - levels) * (_LEVELS - 1), 0)  # [N,H,W,3,levels]
    red, green, blue = (near[..., i, :].reshape(len(pixels), -1, _LEVELS) for i in range(3))  # [N,P,levels]
    red = red * weights.reshape(len(pixels), -1, 1)
    both = (red[..., :, None] * green[..., None, :]).reshape(*red.shape[:2], -1)  # [N,P,16]
    shares = both.transpose(0, 2, 1) @ blue / red.shape[1]  # [N,16,levels]
    return np.sqrt(shares).reshape(len(pixels), -1)


def _cells(maps: np.ndarray) -> np.ndarray:
    """Means [N,4,4,...] of maps [N,64,64,...] in each cell."""
    size = SIDE // CELLS
    return maps.reshape(len(maps), CELLS, size, CELLS, size, *maps.shape[3:]).mean((2, 4))


def _directed(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[N,H,W,4]: the strength of the gradient, shared between the two nearest of four directions of edges."""
    strength = np.hypot(down, right)
    angle = np.arctan2(down, right) % np.pi / np.pi * _DIRECTIONS  # [0,4)
    apart = np.abs(angle[..., None] - np.arange(_DIRECTIONS, dtype=np.float32))
    apart = np.minimum(apart, _DIRECTIONS - apart)
    return strength[..., None] * np.maximum(1 - apart, 0)


def _motion(change: np.ndarray, brighter: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[N,64]: for each cell the change, its root mean square, and the normal flow down and to the right.

    Args:
      change: [N,H,W], of the colour.
      brighter: [N,H,W], signed, of the brightness.
      down: [N,H,W], gradient of the brightness.
      right: likewise.
    """
    flow = np.stack([-brighter * down, -brighter * right], -1)
    cells = [_cells(change)[..., None], np.sqrt(_cells(change**2))[..., None]]
    cells.append(np.sign(_cells(flow)) * np.sqrt(np.abs(_cells(flow))))
    return np.concatenate(cells, -1).reshape(len(change), -1)
