"""The datasets under their names in TFDS: `tfds.load("storyboard")`, `tfds.load("charades_sta/vgg")`.

For programs of TFDS alone. Runs read the same annotations and features another way: their records leave the
features out, which stay in the user's files, and are named by the content of the annotations.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import tensorflow_datasets as tfds

from vmr_jax.configs import common, datasets
from vmr_jax.input import records, schema
from vmr_jax.input.dataset import dataset_module
from vmr_jax.input.features import read_rows
from vmr_jax.models import GroundingModel


@dataclasses.dataclass(eq=False)
class VideosConfig(tfds.core.BuilderConfig):
    """A feature variant of a dataset, with a version or convention where it is not the first: 'c3d_tall'.

    Attributes:
      options: as they stand in the argument of a config, ('c3d', 'tall').
      settings: fields of `config.dataset` that are to differ from what the options give.
    """

    options: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class AnnotatedVideos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One record per video: its id, duration, queries, and its features `rows` [n,D] as the user has them.

    Args:
      settings: fields of `config.dataset`, such as {"features": "mine.h5", "feature_dim": 768}. The records of
        other settings are kept apart.
      **builder: what every TFDS builder takes.
    """

    VERSION = tfds.core.Version(records.VERSION)
    url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

    def __init__(self, *, settings: Mapping[str, Any] | None = None, config: Any = None, **builder):
        if settings:
            config = _with_settings(self.builder_configs[config or self.BUILDER_CONFIGS[0].name], settings)
        super().__init__(config=config, **builder)

    @property
    def _source(self) -> records.Source:
        return dataset_module(self.name).SOURCE

    def _options(self) -> ml_collections.ConfigDict:
        config = common.base(GroundingModel)
        datasets.manual_dataset(config, self.name, self.builder_config.options)
        config.dataset.update(self.builder_config.settings)
        return config.dataset

    def _info(self) -> tfds.core.DatasetInfo:
        rows = {"rows": (None, self._options().feature_dim)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._source.title,
            features=schema.feature_spec(rows, saliency_clips=self._source.saliency_clips),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        options = self._options()
        options.manual_dir = str(dl_manager.manual_dir)
        found = records.read(self._source, options)
        reader = records.open_manual_features(options)
        return {
            name: self._generate_examples(videos, reader, options.feature_dim)
            for name, videos in found.splits.items()
        }

    def _generate_examples(self, videos, reader, feature_dim: int):
        for number, video in enumerate(videos):
            rows = read_rows(reader, video.id, feature_dim, normalize=False)
            yield number, records.video_record(video, {"rows": rows})


class Datasets:
    """The provider that TFDS asks for a builder by name; see `tfds.core.registered.DatasetBuilderProvider`."""

    def has_dataset(self, name: str) -> bool:
        """Whether the name is a dataset of this library."""
        return name in datasets.DATASETS

    def get_builder_cls(self, name: str) -> type[tfds.core.GeneratorBasedBuilder]:
        """The builder of a dataset."""
        embedded = {"storyboard": _storyboard, "films": _films}
        return embedded[name]() if name in embedded else _annotated(name)


@functools.cache
def _storyboard() -> type[tfds.core.GeneratorBasedBuilder]:
    from vmr_jax.data.storyboard.builder import Storyboard, StoryboardConfig

    class Default(Storyboard, skip_registration=True):  # type: ignore[call-arg]
        """With the seed and the size of the configs."""

        name = "storyboard"
        BUILDER_CONFIGS = [StoryboardConfig.of(0, 900)]

    return Default


@functools.cache
def _films() -> type[tfds.core.GeneratorBasedBuilder]:
    from vmr_jax.data.films.builder import Films, FilmsConfig

    class Default(Films, skip_registration=True):  # type: ignore[call-arg]
        """With the seed and the sizes of the configs."""

        name = "films"
        BUILDER_CONFIGS = [FilmsConfig.of(0, 400, 80)]

    return Default


@functools.cache
def _annotated(name: str) -> type[AnnotatedVideos]:
    readme = Path(__file__).parent / name / "README.md"
    fields = {
        "__doc__": AnnotatedVideos.__doc__,
        "__module__": __name__,
        "name": name,
        "BUILDER_CONFIGS": _configs(name),
        "MANUAL_DOWNLOAD_INSTRUCTIONS": readme.read_text(encoding="utf-8"),
    }
    return type(name, (AnnotatedVideos,), fields, skip_registration=True)


def _configs(name: str) -> list[VideosConfig]:
    """Every feature variant with every choice of the dataset; what is the default has no part in the name."""
    groups = datasets.CHOICES.get(name, {}).values()
    variants = datasets.FEATURES[name]
    configs = []
    for variant, *choices in itertools.product(variants or ("features",), *groups):
        named = [choice for choice, group in zip(choices, groups, strict=True) if choice != group[0]]
        options = (*(variant,) * bool(variants), *choices)
        title = f"features {variant}" + "".join(f", {choice}" for choice in choices)
        configs.append(VideosConfig(name="_".join([variant, *named]), description=title, options=options))
    return configs


def _with_settings(config: VideosConfig, settings: Mapping[str, Any]) -> VideosConfig:
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]
    return VideosConfig(
        name=f"{config.name}_{digest}",
        description=config.description,
        options=config.options,
        settings=settings,
    )


tfds.core.registered.add_dataset_builder_provider(Datasets(), index=0)
