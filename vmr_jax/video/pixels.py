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
    """Colours, places, texture and motion of frames as vectors [N,304]; a `FrameEncoder`."""

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
        pixels = np.concatenate([previous, frames])
        channels = np.moveaxis(pixels, -1, 0).astype(np.float32) / 255  # [3,N+1,H,W]
        now, last = channels[:, 1:], channels[:, :-1]
        grey = channels.mean(0)
        change = np.abs(now - last).mean(0)
        change = np.where(change > _STILL, change, np.float32(0))
        down, right = (np.gradient(grey[1:], axis=axis) for axis in (1, 2))
        groups = [
            np.stack([_colours(now[:, n], change[n]) for n in range(len(frames))]),
            np.moveaxis(_cells(now) - 0.5, 0, -1),
            _GAIN * np.moveaxis(_cells(_directed(down, right)), 0, -1),
            _GAIN * np.moveaxis(_motion(change, grey[1:] - grey[:-1], down, right), 0, -1),
        ]
        return np.concatenate([group.reshape(len(frames), -1) for group in groups], axis=1, dtype=np.float32)

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """UserError: pixels know no words."""
        raise UserError(
            "The encoder pixels has no text tower, so a sentence alone finds nothing. Train on the features of "
            "the library and give the run (--run=DIR), or ingest with --encoder=clip or siglip."
        )


def _colours(frame: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Square roots [2,64] of the shares of colours: of all pixels, and of those weighted by their change.

    A pixel counts for the eight colours that it lies between, the more the nearer it is.

    Args:
      frame: [3,H,W], from 0 to 1.
      change: [H,W], from 0 to 1.
    """
    pixels = frame.reshape(3, 1, -1) * np.float32(_LEVELS - 1)
    levels = np.arange(_LEVELS, dtype=np.float32)[:, None]
    red, green, blue = np.maximum(1 - np.abs(pixels - levels), 0)  # [4,P] each, 1 at a level, 0 at the next
    of_two = (red[:, None] * green).reshape(_LEVELS**2, -1)
    counts = [of_two @ weighted.T for weighted in (blue, blue * change.ravel())]
    return np.sqrt(np.stack(counts).reshape(2, -1) / pixels.shape[-1])


def _cells(maps: np.ndarray) -> np.ndarray:
    """Means [...,4,4] of maps [...,64,64] in each cell."""
    size = SIDE // CELLS
    rows = maps.reshape(*maps.shape[:-2], CELLS, size, SIDE).mean(-2)
    return rows.reshape(*rows.shape[:-1], CELLS, size).mean(-1)


def _directed(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[4,N,H,W]: the strength of the gradient, shared between the two nearest of four directions of edges."""
    strength = np.hypot(down, right)
    angle = np.arctan2(down, right) % np.pi / np.pi * _DIRECTIONS  # [0,4)
    apart = np.abs(angle - np.arange(_DIRECTIONS, dtype=np.float32)[:, None, None, None])
    apart = np.minimum(apart, _DIRECTIONS - apart)
    return strength * np.maximum(1 - apart, 0)


def _motion(change: np.ndarray, brighter: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[4,N,4,4]: for each cell the change, its root mean square, and the normal flow down and to the right.

    Args:
      change: [N,H,W], of the colour.
      brighter: [N,H,W], signed, of the brightness.
      down: [N,H,W], gradient of the brightness.
      right: likewise.
    """
    flow = _cells(np.stack([-brighter * down, -brighter * right]))
    moved = np.stack([_cells(change), np.sqrt(_cells(change**2))])
    return np.concatenate([moved, np.sign(flow) * np.sqrt(np.abs(flow))])
