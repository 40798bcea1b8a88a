"""What every mode needs: a config becomes devices, data, vocabulary, model and loaders."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vmr_jax import input as input_lib
from vmr_jax import models
from vmr_jax.checkpoint import Checkpoints
from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.writer import plain, write_json

log = logging.getLogger("vmr_jax")

CONFIG, VOCABULARY, BEST, CHECKPOINTS = "config.json", "vocabulary.json", "best", "checkpoints"


def make_model(config, vocab_size: int = 0) -> models.GroundingModel:
    """Builds the architecture of `config.model`; `vocab_size` > 0 where word vectors are trained."""
    fields = {k: v for k, v in config.model.items() if k != "name"}
    return models.create(config.model.name, **fields, vocab_size=vocab_size, dtype=jnp.dtype(config.dtype))


def initial_variables(model, batch, seed: int) -> dict[str, Any]:
    """Initial variables from a batch or its spec, as host arrays; a function of (model, shapes, seed)."""
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    variables = jax.jit(lambda key: model.init(key, batch, train=True))(jax.random.key(seed))
    return jax.tree.map(np.asarray, variables)


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the resolved config of a run; UserError where the folder holds none."""
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no {CONFIG}, so it is not the --workdir of a run. Give the folder that a "
            "training run printed at its end, or train first with --config."
        )
    config = ml_collections.ConfigDict(_tuples(json.loads(path.read_text(encoding="utf-8"))))
    return config.lock()


def config_as_dict(config) -> dict[str, Any]:
    """The config as plain JSON types."""
    return plain(config.to_dict())


def _tuples(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


class Experiment:
    """A config, opened.

    Attributes:
      config: resolved and locked.
      parallel: the devices.
      dataset: prepared, features checked.
      vocabulary: training words.
      model: the architecture.
    """

    def __init__(self, config, workdir: Path | None = None, sentences: Sequence[str] = ()):
        """Opens everything; the vocabulary is read from `workdir` where a run has left one.

        Args:
          config: the resolved config.
          workdir: folder of the run.
          sentences: queries beyond the dataset's, whose word vectors will be asked for.
        """
        self.config = config
        self.parallel = Parallel(config.parallel, config.num_devices)
        self.parallel.check_batch_size(config.batch_size, "config.batch_size")
        self.parallel.check_batch_size(config.evaluation.batch_size, "config.evaluation.batch_size")
        make_model(config)  # a wrong name or hyper-parameter shows before any data is read
        self.dataset = input_lib.Dataset(config.dataset, config.input)
        self.vocabulary = self._open_vocabulary(workdir)
        self.vectors = input_lib.open_word_vectors(config, self.dataset, sentences)
        self.model = make_model(config, len(self.vocabulary) + 2 if config.text.trainable else 0)
        input_lib.check_fields(config, self.model.requires())
        self._loaders: dict[str, input_lib.Loader] = {}

    def _open_vocabulary(self, workdir: Path | None) -> list[str]:
        if workdir is not None and (workdir / VOCABULARY).is_file():
            return json.loads((workdir / VOCABULARY).read_text(encoding="utf-8"))
        vocabulary = input_lib.build_vocabulary(self.dataset.split("train"), self.config.text.tokenizer)
        if workdir is not None:
            write_json(workdir / VOCABULARY, vocabulary)
        return vocabulary

    def loader(self, split: str) -> input_lib.Loader:
        """The loader of a split, made once."""
        if split not in self._loaders:
            self._loaders[split] = input_lib.Loader(
                self.config,
                self.dataset,
                self.dataset.split(split),
                self.vocabulary,
                self.vectors,
                self.model.requires(),
            )
        return self._loaders[split]

    def evaluation_splits(self) -> list[str]:
        """The splits of `config.evaluation.splits`, all but train where that is empty."""
        named = list(self.config.evaluation.splits)
        for name in named:
            self.dataset.split(name)
        return named or [name for name in self.dataset.split_names if name != "train"]

    def initial_variables(self) -> dict[str, Any]:
        """Initial variables from the shapes of a batch and `config.seed`."""
        spec = input_lib.batch_spec(self.config, len(self.parallel.devices), self.model.requires())
        return initial_variables(self.model, spec, self.config.seed)

    def best_variables(self, workdir: Path) -> tuple[Any, dict[str, Any]]:
        """The variables of the best step, on every device, and their position."""
        abstract = self.parallel.abstract(self.initial_variables())
        best = Checkpoints(workdir / BEST, keep=1)
        restored = best.restore(abstract)
        best.close()
        if restored is None:
            raise UserError(
                f"{workdir / BEST} holds no checkpoint: no evaluation of this run has finished yet. Let it "
                "train on (the training command resumes it), or give another --workdir."
            )
        return restored
