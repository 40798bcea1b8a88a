"""The content of the dataset as a pure function of (seed, split, position in the split)."""

from collections.abc import Iterator

import numpy as np

from vmr_jax.data.storyboard.render import render
from vmr_jax.data.storyboard.scene import Scene, make_scene
from vmr_jax.data.storyboard.splits import SPLITS
from vmr_jax.data.storyboard.translation import translate
from vmr_jax.data.storyboard.vectors import Vectors, vectors
from vmr_jax.input import schema

# Videos per split; those of train are `options.train_videos`.
VIDEOS = {
    "val": 100,
    "test": 150,
    "test_novel_word": 60,
    "test_novel_composition": 60,
    "test_shifted_position": 60,
}


def generate(seed: int, split: str, train_videos: int) -> Iterator[tuple[Scene, dict[str, np.ndarray]]]:
    """Yields the scenes of a split in order, each with its features (see `render`).

    A video does not depend on the others, so `train_videos` changes no test video.
    """
    world = vectors(seed)
    for i in range(train_videos if split == "train" else VIDEOS[split]):
        rng = np.random.default_rng([seed, 1 + SPLITS.index(split), i])
        scene = make_scene(rng, split, f"{split}_{i:04d}")
        yield scene, render(scene, world, rng)


def scene_record(scene: Scene, arrays: dict[str, np.ndarray], seed: int, whole: bool = True) -> dict:
    """Returns the record (see `vmr_jax.input.schema`) of a scene and its features.

    Queries that are not `whole`, those of films, have one language and no moments to which theirs are related.
    """
    world = vectors(seed)
    queries = [_query(f"{scene.video}_{k}", q, world, whole) for k, q in enumerate(scene.questions)]
    return schema.record(scene.video, scene.duration, queries, f"storyboard, {scene.video}", arrays)


def _query(qid: str, question, world: Vectors, whole: bool) -> schema.Query:
    sentence = question.sentence
    return schema.Query(
        qid=qid,
        text=sentence.text,
        span=question.span,
        verbs=sentence.verbs,
        nouns=sentence.nouns,
        edges=sentence.edges,
        static=sentence.static,
        sentence=world.sentence(sentence.text),
        translation=translate(sentence.text) if whole else "",
        parse=sentence.parse,
        context=(question.context or (0.0, 0.0)) if whole else None,
    )
