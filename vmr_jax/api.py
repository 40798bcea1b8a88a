"""The library's verbs on top of what `launch.py` does: a dataset, training and evaluation from Python.

What they do is the command's own path: the config that `configs/NAME.py` makes for the dataset, the loop of
`--mode=train`, the folder that it leaves, the numbers of `--mode=evaluate`.
"""

import importlib
import logging
import numbers
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from vmr_jax import models
from vmr_jax.config import checked_settings, default_workdir, override
from vmr_jax.errors import UserError, check_count, unknown, user_path
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.input import dataset as input_dataset
from vmr_jax.models.base import GroundingModel
from vmr_jax.run import Run
from vmr_jax.training import fit as training
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.step import LossFunction
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")


class Dataset:
    """A dataset of the library, or your own (`jsonl`), as a run reads it.

    >>> data = Dataset("storyboard", train_videos=20)
    >>> [split.name for split in data][:3]
    ['train', 'val', 'test']
    >>> batch = next(iter(data.split("val")))
    >>> batch.video.shape[1:]
    (32, 64)

    Attributes:
      name: of a folder of `data/`, whose README says which files it needs.
      features: a feature variant of the dataset ('vgg'), or the path of a file or folder; '' is the default.
    """

    def __init__(
        self,
        name: str,
        *,
        features: str = "",
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        """Describes the dataset; nothing is read before it is used.

        Args:
          name: of the dataset.
          features: a feature variant or a path.
          settings: fields of the config by their path, such as {'text.vectors': 'glove.6B.300d.txt',
            'input.num_clips': 64}; they hold whatever the architecture.
          **options: fields of `config.dataset`: manual_dir, feature_dim, convention, version, split_file, ...

        Raises:
          UserError: for an unknown dataset, option or field, with the nearest name.
        """
        from vmr_jax.configs import datasets

        self.name, self.features = name, features
        input_dataset.dataset_module(name)  # refuses an unknown name
        variants = datasets.FEATURES.get(name, {})
        self._options = [features] if features in variants else []
        if features and name in datasets.EMBEDDED:
            raise UserError(f'{name} has features of its own; features="{features}" is of other datasets.')
        self._settings = checked_settings(settings)
        if features and features not in variants:
            self._settings["dataset.features"] = features
        for field, value in options.items():
            allowed = datasets.CHOICES.get(name, {}).get(field, (value,))
            if value not in allowed:
                raise unknown(f"config.dataset.{field} is", value, allowed)
            if value in datasets.DATASETS[name]:  # a convention or a version: it decides on more than a field
                self._options.append(value)
            else:
                self._settings[f"dataset.{field}"] = str(value) if isinstance(value, Path) else value
        self._opened: dict[str, input_dataset.Dataset] = {}
        self.config_for(GroundingModel)  # refuses an unknown option

    def __repr__(self) -> str:
        """One line; the sizes of the splits stand in it once the data have been read."""
        variant = ", ".join(part for part in (self.name, self.features) if part)
        if not self._opened:
            return f"Dataset({variant})"
        opened = next(iter(self._opened.values()))
        splits = "; ".join(_sizes(opened.split(name)) for name in opened.split_names)
        return f"Dataset({variant}: {splits})"

    def config_for(self, model: str | type[GroundingModel] | GroundingModel) -> ml_collections.ConfigDict:
        """The config of an architecture on this dataset, unlocked.

        Args:
          model: the name of an architecture or a class, with the settings of its config for this dataset; or a
            model, whose hyper-parameters are kept.
        """
        kind = type(model) if isinstance(model, GroundingModel) else models.model_class(model)
        config = self._config_of(kind)
        if isinstance(model, GroundingModel):
            for field in models.model_fields(kind):
                config.model[field] = getattr(model, field)
        override(config, self._settings)
        return config

    def _config_of(self, kind: type[GroundingModel]) -> ml_collections.ConfigDict:
        from vmr_jax.configs import common, datasets

        name = models.model_name(kind)
        if name in models.architectures():
            return importlib.import_module(f"vmr_jax.configs.{name}").get_config(
                ",".join([self.name, *self._options])
            )
        config = common.base(name)
        if self.name in datasets.EMBEDDED:
            datasets.embedded(config, self.name)
        else:
            datasets.manual_dataset(config, self.name, tuple(self._options))
        return config

    def opened(self, config: Any) -> input_dataset.Dataset:
        """The prepared dataset, its features shaped as `config.input` asks; prepared once for each shape."""
        key = config.input.to_json_best_effort() + config.dataset.to_json_best_effort()
        if key not in self._opened:
            self._opened[key] = input_dataset.Dataset(config.dataset, config.input)
        return self._opened[key]

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that hold queries."""
        return self.opened(self.config_for(GroundingModel)).split_names

    def split(self, name: str) -> "Split":
        """A split; UserError with the nearest name where there is none."""
        self.opened(self.config_for(GroundingModel)).split(name)
        return Split(self, name)

    def __iter__(self) -> Iterator["Split"]:
        return (Split(self, name) for name in self.split_names)


class Split:
    """The queries of one split of a dataset.

    >>> split = Dataset("storyboard", train_videos=20).split("test")
    >>> len(split), split.queries[0].text
    (589, 'a girl is giving the phone to the man in the office.')
    >>> video, query = split.pairs[0]
    >>> 0 <= query.span[0] < query.span[1] <= video.duration
    True

    Attributes:
      data: the dataset.
      name: of the split.
    """

    def __init__(self, data: Dataset, name: str):
        self.data, self.name = data, name

    def __repr__(self) -> str:
        return f"Split({self.data.name}, {_sizes(self._split)})"

    @property
    def _split(self) -> input_dataset.Split:
        return self.data.opened(self.data.config_for(GroundingModel)).split(self.name)

    @property
    def queries(self) -> list[Any]:
        """The sentences with their moments, see `vmr_jax.input.schema.Query`."""
        return self._split.queries

    @property
    def videos(self) -> list[input_dataset.Video]:
        """The videos, see `vmr_jax.input.dataset.Video`."""
        return self._split.videos

    @property
    def pairs(self) -> list[tuple[input_dataset.Video, Any]]:
        """Each query with its video, in order: (video, query)."""
        split = self._split
        return [(split.videos[owner], query) for owner, query in zip(split.owner, split.queries)]

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def batches(
        self, batch_size: int = 32, *, model: Any = GroundingModel, seed: int | None = None, epochs: int = 1
    ) -> Iterator[Batch]:
        """Yields host batches, the bytes that a run of the architecture would read.

        Args:
          batch_size: B, number of rows; the last batch is filled up with masked rows.
          model: the architecture that they are for: its config shapes them, its fields are filled.
          seed: the order of training, which depends on the seed alone; None is every query once, in order.
          epochs: number of passes over the split in the order of training.
        """
        check_count(batch_size, "batch_size")
        check_count(epochs, "epochs")
        if not (seed is None or isinstance(seed, numbers.Integral)):
            raise UserError(f"seed is {seed!r}; it must be a whole number, or None.")
        config = self.data.config_for(model)
        loader = Experiment(config, dataset=self.data.opened(config)).loader(self.name)
        if seed is None:
            return loader.evaluation_batches(batch_size)
        steps = epochs * loader.steps_per_epoch(batch_size)
        return loader.training_batches(seed, 0, steps, batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


def _sizes(split: input_dataset.Split) -> str:
    return f"{split.name} {len(split.queries):,} queries of {len(split.videos):,} videos"


def fit(
    model: str | type[GroundingModel] | GroundingModel,
    data: Dataset,
    *,
    losses: Mapping[str, LossFunction] | None = None,
    train_for: str | None = None,
    workdir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Trains as `launch.py` does, or resumes; evaluates, writes the report, and opens the run.

    >>> data = Dataset("storyboard", train_videos=20)
    >>> run = fit("ctrl", data, train_for="2 steps", workdir=tmp / "run")
    >>> run.step
    2

    Args:
      model: the name of an architecture or a class, with the settings of its config for this dataset; or a
        model, whose hyper-parameters are kept.
      data: the dataset.
      losses: name -> function of (outputs, batch, *, epoch) that returns a `Mean`: terms that are added to
        those of the model.
      train_for: duration, such as '20 epochs' or '500 steps'; None is the config's.
      workdir: folder of the run; None is runs/MODEL_DATASET.
      settings: further fields of the config by their path, such as {'optimizer.learning_rate': 1e-3}.

    Raises:
      KeyboardInterrupt: after Ctrl-C, when the step is finished and saved; the same call goes on from there.
      UserError: for whatever would stop the run, before it starts.
    """
    if not isinstance(data, Dataset):
        raise UserError(f"Give fit a vmr_jax.Dataset, not {data!r}: fit(model, Dataset('storyboard')).")
    config = data.config_for(model)
    if config.model.name.startswith("__main__:"):
        log.warning(
            "%s is a class of the program that runs: vmr_jax.load finds it only where __main__ defines it. "
            "Put it into a file of its own to load the run anywhere.",
            config.model.name.removeprefix("__main__:"),
        )
    trained = {} if train_for is None else {"train_for": train_for}
    override(config, trained | checked_settings(settings))
    if workdir is None:
        workdir = default_workdir(config)
    workdir = user_path(workdir)
    training.fit(config.lock(), workdir, losses=losses)
    return Run.load(workdir)


def evaluate(run: Run, split: Split) -> dict[str, float]:
    """The metrics of a run on a split, in percent, by the run's protocol.

    >>> metrics = evaluate(run, Dataset("storyboard", train_videos=20).split("val"))
    >>> 0 <= metrics["R@1,IoU=0.5"] <= 100
    True

    Raises:
      UserError: where the dataset lacks what the architecture reads, or has features of another width.
    """
    if not (isinstance(run, Run) and isinstance(split, Split)):
        raise UserError("Give evaluate a run and a split: evaluate(load(DIR), Dataset(NAME).split('test')).")
    config = run.config.copy_and_resolve_references().unlock()
    own = split.data.config_for(run.model)
    if own.dataset.feature_dim != config.dataset.feature_dim:
        raise UserError(
            f"The run reads features of {config.dataset.feature_dim} numbers, and those of {split.data.name} "
            f"have {own.dataset.feature_dim}. Evaluate on the features that it was trained with."
        )
    config.dataset = own.dataset
    dataset = split.data.opened(config)
    experiment = Experiment(config, dataset=dataset, vocabulary=run.vocabulary)
    parallel = experiment.parallel
    evaluator = Evaluator(config, run.model, parallel)
    return evaluator.metrics(parallel.replicate(run.variables), experiment.loader(split.name))


load = Run.load
