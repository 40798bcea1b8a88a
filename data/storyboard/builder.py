"""The TFDS builder of storyboard; imported only when its records are prepared or read."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vmr_jax.data.storyboard.generate import generate, scene_record
from vmr_jax.data.storyboard.render import SHAPES
from vmr_jax.data.storyboard.splits import SPLITS
from vmr_jax.data.storyboard.vectors import SENTENCE_DIM
from vmr_jax.input import schema


@dataclasses.dataclass(eq=False)
class StoryboardConfig(tfds.core.BuilderConfig):
    """Seed and size. Both are in the name, so that two settings never share prepared files."""

    seed: int = 0
    train_videos: int = 900

    @classmethod
    def of(cls, seed: int, train_videos: int) -> "StoryboardConfig":
        """Returns the config of a seed and a number of training videos."""
        return cls(name=f"seed{seed}_train{train_videos}", seed=seed, train_videos=train_videos)


class Storyboard(tfds.core.GeneratorBasedBuilder):
    """Synthetic videos with queries, generated from a seed. A test bed, not a benchmark.

    A change of content needs a new VERSION, or else prepared files of the old content would be reused.
    """

    VERSION = tfds.core.Version("1.9.0")
    RELEASE_NOTES = {
        "1.0.0": "First content.",
        "1.1.0": "People give things to each other.",
        "1.2.0": "Queries have windows and tags.",
        "1.3.0": "There is room for trees of 12 verbs and 16 nouns.",
        "1.4.0": "Frames have cells.",
        "1.5.0": "There is a second language.",
        "1.6.0": "Sentences have constituency trees.",
        "1.7.0": "It is told which objects are people.",
        "1.8.0": "Queries have the moment to which they relate theirs.",
        "1.9.0": "Clips have captions, and scores of things and of activities.",
    }
    url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Synthetic moment retrieval, a test bed: see data/storyboard/README.md.",
            features=schema.feature_spec(SHAPES, SENTENCE_DIM, translated=True, parsed=True, related=True),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        for i, (scene, arrays) in enumerate(generate(config.seed, split, config.train_videos)):
            yield i, scene_record(scene, arrays, config.seed)
