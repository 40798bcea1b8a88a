"""The TFDS builder of storyboard; imported only when records are prepared or read."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data import schema
from data.storyboard import SPLITS
from data.storyboard.render import SHAPES, render
from data.storyboard.scene import Scene, make_scene
from data.storyboard.vectors import SENTENCE_DIM, vectors

VIDEOS = {
    "val": 100,
    "test": 150,
    "test_novel_word": 60,
    "test_novel_composition": 60,
    "test_shifted_position": 60,
}


@dataclasses.dataclass(eq=False)
class StoryboardConfig(tfds.core.BuilderConfig):
    """Seed and size; both are in the name, so that two settings never share prepared files."""

    seed: int = 0
    train_videos: int = 900

    @classmethod
    def of(cls, seed: int, train_videos: int) -> "StoryboardConfig":
        """Returns the config of a seed and a number of training videos."""
        return cls(name=f"seed{seed}_train{train_videos}", seed=seed, train_videos=train_videos)


class Storyboard(tfds.core.GeneratorBasedBuilder):
    """Synthetic videos with queries, generated from a seed. A test bed, not a benchmark.

    Content is a pure function of the seed: a video depends on (seed, split, position in the split) alone,
    so the test splits stay the same when `train_videos` changes. A change of content needs a new VERSION,
    or else prepared files of the old content would be reused.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First content."}
    url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Synthetic moment retrieval, a test bed: see data/storyboard/README.md.",
            features=schema.feature_spec(SHAPES, SENTENCE_DIM),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        for i, (scene, arrays) in enumerate(generate(config.seed, split, config.train_videos)):
            yield i, _record(scene, arrays, config.seed)


def generate(
    seed: int, split: str, train_videos: int
) -> Iterator[tuple[Scene, dict[str, np.ndarray]]]:
    """Yields every scene of a split with its features (see `render`)."""
    world = vectors(seed)
    count = train_videos if split == "train" else VIDEOS[split]
    for i in range(count):
        rng = np.random.default_rng([seed, 1 + SPLITS.index(split), i])
        scene = make_scene(rng, split, f"{split}_{i:04d}")
        yield scene, render(scene, world, rng)


def _record(scene: Scene, arrays: dict[str, np.ndarray], seed: int) -> dict:
    queries = [
        schema.Query(
            qid=f"{scene.video}_{k}",
            text=question.sentence.text,
            span=question.span,
            verbs=question.sentence.verbs,
            nouns=question.sentence.nouns,
            edges=question.sentence.edges,
            static=question.sentence.static,
            sentence=vectors(seed).sentence(question.sentence.text),
        )
        for k, question in enumerate(scene.questions)
    ]
    return schema.record(scene.video, scene.duration, queries, f"storyboard, {scene.video}", arrays)
