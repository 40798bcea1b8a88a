"""The films of a split, as a pure function of (seed, split, position in the split)."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from vmr_jax.data.films.render import FPS, Film, frame_count
from vmr_jax.data.storyboard.scene import Scene, make_scene

SPLITS = ("train", "val", "test")
QUERIES = 8  # a film, less where fewer events are the only ones of their kind
_STREAM = 100  # of the random numbers, beside those of storyboard


def films(seed: int, split: str, videos: int) -> Iterator[Film]:
    """Yields the films of a split in order. A film does not depend on the others, nor on how many there are."""
    for i in range(videos):
        rng = np.random.default_rng([seed, _STREAM + SPLITS.index(split), i])
        scene = make_scene(rng, split, f"{split}_{i:04d}", queries=QUERIES, relational_share=0.0)
        yield Film(_in_frames(scene), rng)


def _in_frames(scene: Scene) -> Scene:
    """The scene as long as its film, which has whole frames; its moments end with it."""
    duration = frame_count(scene.duration) / FPS
    questions = [
        dataclasses.replace(question, span=(question.span[0], min(question.span[1], duration)))
        for question in scene.questions
    ]
    return dataclasses.replace(scene, duration=duration, questions=tuple(questions))
