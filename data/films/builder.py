"""The TFDS builder of films; imported only when its records are prepared or read."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from vmr_jax.data.films.encode import encoded
from vmr_jax.data.films.timelines import SPLITS, films
from vmr_jax.data.storyboard.generate import scene_record
from vmr_jax.data.storyboard.vectors import SENTENCE_DIM
from vmr_jax.input import schema
from vmr_jax.input.dataset import progress
from vmr_jax.video.pixels import Pixels

VERSION = "1.0.0"  # of the pictures; a change of them needs a new one
RECORDS = "1.1.0"  # of the records, which hold the sentences; likewise


@dataclasses.dataclass(eq=False)
class FilmsConfig(tfds.core.BuilderConfig):
    """Seed and sizes. All are in the name, so that two settings never share prepared files."""

    seed: int = 0
    train_videos: int = 400
    test_videos: int = 80

    @classmethod
    def of(cls, seed: int, train_videos: int, test_videos: int) -> "FilmsConfig":
        """Returns the config of a seed and numbers of films."""
        encoder = Pixels().identity
        name = f"seed{seed}_train{train_videos}_test{test_videos}_{encoder['name']}{encoder['version']}"
        return cls(name=name, seed=seed, train_videos=train_videos, test_videos=test_videos)


class Films(tfds.core.GeneratorBasedBuilder):
    """Rendered films with queries, generated from a seed. A test bed, not a benchmark."""

    VERSION = tfds.core.Version(RECORDS)
    url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Rendered films for moment retrieval, a test bed: see data/films/README.md.",
            features=schema.feature_spec({"pixels": (None, Pixels.dim)}, SENTENCE_DIM, parsed=True),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        count = config.train_videos if split == "train" else config.test_videos
        folder = videos_folder(Path(self._data_dir_root), config.seed)
        with progress(f"films of {split}") as on_progress:
            rows = encoded(films(config.seed, split, count), folder, Pixels())
            for i, (film, pixels) in enumerate(rows):
                on_progress(i, count)
                yield i, scene_record(film.scene, {"pixels": pixels}, config.seed, whole=False)


def videos_folder(data_dir: Path, seed: int) -> Path:
    """The folder of the mp4 files of a seed; those of fewer films are among those of more."""
    return data_dir / "films" / f"videos_seed{seed}_{VERSION}"
