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

import itertools
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
        pixels = np.concatenate([previous, frames]).astype(np.float32) / 255
        now, last = pixels[1:], pixels[:-1]
        grey = pixels.mean(-1)
        change = np.abs(now - last).mean(-1)
        change = np.where(change > _STILL, change, 0.0)
        down, right = (np.gradient(grey[1:], axis=axis) for axis in (1, 2))
        nearest = _nearest(now)
        groups = [
            _colours(nearest, np.ones_like(change)),
            _colours(nearest, change),
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


def _nearest(pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The eight colours that each pixel lies between: positions [N,P] in N x 64 numbers, and shares [N,P].

    Args:
      pixels: [N,H,W,3] from 0 to 1.
    """
    levels = pixels.reshape(len(pixels), -1, 3) * np.float32(_LEVELS - 1)  # [N,P,3]
    below = np.minimum(levels.astype(np.int32), _LEVELS - 2)
    above = levels - below
    shares = np.stack([1 - above, above])  # [2,N,P,3]
    frame = np.arange(len(pixels), dtype=np.int32)[:, None]
    first = ((frame * _LEVELS + below[..., 0]) * _LEVELS + below[..., 1]) * _LEVELS + below[..., 2]
    return [
        (
            first + (red * _LEVELS + green) * _LEVELS + blue,
            shares[red, ..., 0] * shares[green, ..., 1] * shares[blue, ..., 2],
        )
        for red, green, blue in itertools.product((0, 1), repeat=3)
    ]


def _colours(nearest: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> np.ndarray:
    """Square roots [N,64] of the shares of colours; a pixel counts for the levels that it lies between.

    Args:
      nearest: of `_nearest`.
      weights: [N,H,W], from 0 to 1 each.
    """
    pixels = weights.reshape(len(weights), -1)
    counts = np.zeros(len(weights) * _LEVELS**3)
    for position, share in nearest:
        counts += np.bincount(position.ravel(), (share * pixels).ravel(), len(counts))
    return np.sqrt(counts.reshape(len(weights), -1) / pixels.shape[1])


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
