"""`FrameEncoder`: turns frames, and where it can sentences, into vectors; and the list of those there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vmr_jax.errors import UserError, unknown
from vmr_jax.parallel import Parallel

if TYPE_CHECKING:
    import av

ENCODERS = ("pixels", "clip", "siglip")


class FrameEncoder(Protocol):
    """A fixed map from frames to vectors.

    Letters beyond the usual: N frames, H, W their height and width, D width of a vector, Q sentences.

    Attributes:
      name: one of `ENCODERS`.
      identity: JSON that tells it from every other encoder: name, sizes, hash of the weights. Vectors are
        compared only where it is equal.
      rate: frames per second that are encoded.
      dim: D.
      has_text: whether sentences have vectors in the same space.
    """

    name: str
    identity: dict[str, Any]
    rate: float
    dim: int
    has_text: bool

    def prepare(self, frame: "av.VideoFrame") -> np.ndarray:
        """An upright frame at exactly the encoder's size, [H,W,3] uint8; called in several threads."""

    def encode(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """Vectors [N,D] float32 of successive frames [N,H,W,3] uint8; one compiled shape, whatever N.

        Args:
          frames: from `prepare`, `rate` a second.
          before: the frame before the first of them, [H,W,3], for what moves; None at the start of a video.
        """

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors [Q,D] float32 of unit length; UserError where `has_text` is False."""


def open_encoder(name: str, folder: Path | None, parallel: Parallel | None = None) -> FrameEncoder:
    """Opens an encoder.

    Args:
      name: one of `ENCODERS`.
      folder: with its weights; None for 'pixels', which has none.
      parallel: the devices; None takes one.

    Raises:
      UserError: for an unknown name, and for weights that are missing or damaged.
    """
    if name not in ENCODERS:
        raise unknown("There is no frame encoder", name, ENCODERS)
    if name == "pixels":
        from vmr_jax.video.pixels import Pixels

        if folder is not None:
            raise UserError(f"The encoder pixels is a fixed function, without weights; {folder} is not read.")
        return Pixels()
    from vmr_jax.video.image_text import ImageTextEncoder

    if folder is None:
        raise UserError(
            f"The encoder {name} needs its published weights: give the folder with them, --encoder_dir=DIR "
            '(encoder_dir="DIR" in Python). docs/library.md says where they are.'
        )
    return ImageTextEncoder(name, folder, parallel)
