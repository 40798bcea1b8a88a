"""Frames a second through CLIP's image tower, ViT-B/32 at random weights: items of `accelerator.py`.

As in ingestion, frames go from host memory to the device and vectors come back; nothing is decoded.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from items import Best, Line, Prepared, Size, spread
from training_steps import random_variables

from vmr_jax.layers.clip_image import ClipImage
from vmr_jax.torch_import.image_text import BICUBIC, ImageText, Pixels
from vmr_jax.video.image_text import image_vectors

PIXELS = Pixels(224, True, BICUBIC, (0.5,) * 3, (0.25,) * 3)


@dataclasses.dataclass
class Frames:
    """Frames a second in one dtype."""

    dtype: str
    size: Size
    best: Best
    seconds: float

    def __post_init__(self):
        self.key = (
            "frames",
            "CLIP ViT-B/32" if not self.size.tower else "small tower",
            "224 x 224",
            self.dtype,
        )

    def prepare(self) -> Prepared:
        """The tower, for each number of frames at once."""
        tower = ClipImage(**self.size.tower, dtype=jnp.dtype(self.dtype))
        frames = np.zeros((1, PIXELS.side, PIXELS.side, 3), np.uint8)
        shapes = jax.eval_shape(tower.init, jax.random.key(0), frames.astype(np.float32))
        params = jax.device_put(random_variables(shapes)["params"])
        run = jax.jit(image_vectors(ImageText(tower, tower, {}, PIXELS)))
        programs = [run.lower(params, np.repeat(frames, count, 0)) for count in self.size.frames]
        return Prepared(programs, functools.partial(self._lines, params))

    def _lines(self, params: Any, compiled: Sequence[Any]) -> list[Line]:
        """Frames a second for each number of frames at once."""
        lines = []
        for count, run in zip(self.size.frames, compiled, strict=True):
            rng = np.random.default_rng(0)
            frames = rng.integers(0, 256, (count, PIXELS.side, PIXELS.side, 3), np.uint8)
            seconds: list[float] = []
            np.asarray(run(params, frames))
            while len(seconds) < 3 or sum(seconds) < self.seconds:
                start = time.perf_counter()
                np.asarray(run(params, frames))
                seconds.append(time.perf_counter() - start)
            cost = run.cost_analysis()
            counts = (cost["flops"], cost["bytes accessed"])
            line = {"quantity": f"{count} at once", "unit": "frames/s", **spread(seconds, count, rate=True)}
            lines.append(line | self.best.parts(float(np.median(seconds)), *counts, self.dtype))
        return lines
