"""The encoders `clip` and `siglip`: published image-text towers, whose frames and sentences share a space.

Weights, settings and tokeniser come from a folder of the user (`vmr_jax.torch_import.image_text`).

Letters beyond the usual: N frames, D width of a vector, I side of a frame in pixels, Q sentences.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel, on_cpu
from vmr_jax.text.subwords import open_subwords
from vmr_jax.torch_import.image_text import ImageText, Pixels, read_image_text

if TYPE_CHECKING:
    import av
    from PIL import Image

_TOGETHER = 32  # frames, or sentences, of a batch on each device
_ON_CPU = 8  # frames; more only fill the last batch of a video up


class ImageTextEncoder:
    """A `FrameEncoder` of two towers; it computes in bfloat16 where there is an accelerator.

    Args:
      name: 'clip' or 'siglip'.
      folder: with weights, settings and tokeniser, as Hugging Face publishes them; or with OpenAI's files.
      parallel: the devices; None takes one.

    Raises:
      UserError: for files that are missing, damaged or of another network.
    """

    rate = 1.0  # as the published CLIP features of Charades-STA
    has_text = True

    def __init__(self, name: str, folder: Path, parallel: Parallel | None = None):
        self.name = name
        self._parallel = parallel or Parallel("jit", num_devices=1)
        dtype = jnp.float32 if on_cpu() else jnp.bfloat16
        read = read_image_text(name, folder, dtype)
        self._tokenizer = open_subwords(name, folder if folder.is_dir() else folder.parent)
        _check_vocabulary(folder, self._tokenizer.vocab_size, read.text.vocab_size)
        self._towers, self._pixels, self._text = read, read.pixels, read.text
        frames = np.zeros((1, *self._shape), np.uint8)
        vectors = jax.eval_shape(image_vectors(read), read.params["image"], frames)
        self.dim = vectors.shape[1]
        self.identity: dict[str, Any] = {
            "name": name,
            "dim": self.dim,
            "pixels": [*read.pixels[:3], *read.pixels.mean, *read.pixels.std],
            "weights": _digest(read.params),
        }
        self._on_device: dict[str, Any] = {}  # tower -> its parameters and the compiled function

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self._pixels.side, self._pixels.side, 3

    def prepare(self, frame: "av.VideoFrame") -> np.ndarray:
        """An upright frame as the tower reads it, [I,I,3] uint8."""
        from PIL import Image

        return prepared(Image.fromarray(frame.to_ndarray(format="rgb24")), self._pixels)

    def encode(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """Vectors [N,D] float32, not of unit length, of frames [N,I,I,3] uint8; `before` is not read."""
        del before
        params, run = self._image_tower()
        size = (_ON_CPU if on_cpu() else _TOGETHER) * len(self._parallel.devices)
        found = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(frames), size):
            part = frames[first : first + size]
            filled = np.zeros((size, *self._shape), np.uint8)
            filled[: len(part)] = part
            found.append(run(params, self._parallel.put_batch(filled))[: len(part)])
        return np.concatenate(found)

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors [Q,D] float32 of unit length."""
        params, run = self._text_tower()
        found = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(sentences), _TOGETHER):
            part = sentences[first : first + _TOGETHER]
            ids, mask = self._subwords(part, 1 if len(sentences) == 1 else _TOGETHER)
            found.append(np.asarray(run(params, ids, mask))[: len(part)])
        vectors = np.concatenate(found)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _subwords(self, sentences: Sequence[str], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask [rows,S], as long as the tower reads; rows past the sentences are padding."""
        length = self._text.max_positions
        ids, mask = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
        for row, sentence in enumerate(sentences):
            found = self._tokenizer.encode(sentence, length).ids
            ids[row, : len(found)], mask[row, : len(found)] = found, True
        return ids, mask

    def _image_tower(self) -> Any:
        if "image" not in self._on_device:
            params = self._parallel.replicate(self._towers.params["image"])
            self._on_device["image"] = params, self._parallel.map_examples(image_vectors(self._towers))
        return self._on_device["image"]

    def _text_tower(self) -> Any:
        """On the first device alone: a sentence is too little to be shared."""
        if "text" not in self._on_device:
            params = self._parallel.on_first_device(self._towers.params["text"])
            self._on_device["text"] = params, jax.jit(_sentences(self._towers))
        return self._on_device["text"]


def prepared(image: "Image.Image", pixels: Pixels) -> np.ndarray:
    """[I,I,3] uint8 of an image of red, green and blue, as the published processors make it.

    It is resized with the filter's support widened where it gets smaller. CLIP's then loses both ends of its
    longer side; SigLIP's has been squeezed.
    """
    from PIL import Image

    side = pixels.side
    width, height = image.size
    if not pixels.crop:
        return np.array(image.resize((side, side), Image.Resampling(pixels.filter)))
    short = min(width, height)
    width, height = (int(side * x / short) for x in (width, height))
    image = image.resize((width, height), Image.Resampling(pixels.filter))
    left, top = (width - side) // 2, (height - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)))


def image_vectors(towers: ImageText) -> Any:
    """The function of (parameters, frames [N,I,I,3] uint8) that gives vectors [N,D] float32."""

    def run(params: Any, frames: jax.Array) -> jax.Array:
        mean, std = (jnp.float32(x)[None, None, None] for x in (towers.pixels.mean, towers.pixels.std))
        images = (frames.astype(jnp.float32) / 255 - mean) / std
        return jnp.asarray(towers.image.apply({"params": params}, images), jnp.float32)

    return run


def _sentences(towers: ImageText) -> Any:
    """The function of (parameters, subwords, mask [Q,S]) that gives vectors [Q,D] float32."""

    def run(params: Any, subwords: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.asarray(towers.text.apply({"params": params}, subwords, mask)[1], jnp.float32)

    return run


def _digest(params: Any) -> str:
    """Hash of all weights, whatever the form of their file."""
    found = hashlib.sha256()
    for path, x in sorted(flatten_dict(params, sep="/").items()):
        found.update(f"{path} {x.shape} ".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def _check_vocabulary(folder: Path, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise UserError(
            f"{folder}: the tokeniser has {ours:,} subwords, and the weights have vectors of {theirs:,}. The "
            "files are of different models; download all of them from one page."
        )
