"""`--mode=predict --split=NAME[,NAME]`: the moments of whole splits, as the dataset's server takes them.

    python launch.py --mode=predict --workdir=DIR --split=val,test

The files go to DIR/submission. A split need not be annotated.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, unknown
from vmr_jax.evaluation import submission
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.input.dataset import Dataset, Split, dataset_module
from vmr_jax.input.loader import Loader
from vmr_jax.training.experiment import Experiment

FOLDER = "submission"  # of the run


def submit(config: Any, workdir: Path, splits: str) -> None:
    """Predicts every query of the named splits with the best checkpoint, and writes the submission.

    Args:
      config: of the run.
      workdir: its folder.
      splits: names with commas between them.

    Raises:
      UserError: for an unknown split, and where the run does not predict what the form asks for.
    """
    module = dataset_module(config.dataset.name)
    without_video = getattr(module, "WITHOUT_VIDEO", {})
    names = [name.strip() for name in splits.split(",")]
    apart = {name: without_video[name](config.dataset) for name in names if name in without_video}
    sentences = [query.text for split in apart.values() for query in split.queries]
    experiment = Experiment(config, workdir, sentences=sentences)
    for name in names:
        if name not in (*experiment.dataset.split_names, *apart):
            known = [*experiment.dataset.split_names, *without_video]
            raise unknown(f"The dataset {config.dataset.name} has no split", name, known)
    evaluator = Evaluator(config, experiment.model, experiment.parallel)
    variables, _ = experiment.best_variables(workdir)
    for name in names:
        loader, videos = _apart(experiment, apart[name]) if name in apart else (experiment.loader(name), None)
        if name in apart and config.evaluation.protocol != "corpus":
            raise UserError(
                f"The videos of the queries of {name} are not told, so that they are to be found. Predict it "
                "with a run of config.evaluation.protocol='corpus'."
            )
        numbers = getattr(module, "video_numbers", None)
        path = submission.write_split(
            workdir / FOLDER,
            config.dataset.name,
            loader.split,
            evaluator.written(variables, loader, videos),
            numbers and numbers(config.dataset, name),
            own=name not in apart,
        )
        print(f"{name}: {len(loader):,} queries in {path}")
    packed, missing = submission.pack(workdir / FOLDER, config.dataset.name)
    if packed:
        print(f"to submit: {packed}")
    elif missing:
        print(f"The server takes it together with {' and '.join(missing)}: predict the other split too.")


class _Native:
    """Videos that the cache of a dataset does not hold, read from the user's files one by one."""

    def __init__(self, dataset: Dataset):
        self.features = self.clips = dataset.features


def _apart(experiment: Experiment, split: Split) -> tuple[Loader, Loader]:
    """The loader of a split whose videos are of no query, and one with a query of each video."""
    source: Any = _Native(experiment.dataset)
    every = dataclasses.replace(
        split,
        queries=split.queries[:1] * len(split.videos),
        owner=np.arange(len(split.videos), dtype=np.int32),
    )
    queries, videos = (
        Loader(
            experiment.config,
            source,
            part,
            experiment.vocabulary,
            experiment.vectors,
            experiment.model.requires(),
        )
        for part in (split, every)
    )
    return queries, videos
