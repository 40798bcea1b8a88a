"""The parts that every mode needs: a config becomes devices, data, vocabulary, model and loaders."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax import models
from vmr_jax.config import CONFIG, load_config
from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.files import read_json, write_json
from vmr_jax.input import dataset as input_lib
from vmr_jax.input.loader import Loader, groups_of_batch
from vmr_jax.input.queries import FIRST_WORD
from vmr_jax.input.spec import batch_spec, check_fields
from vmr_jax.input.words import build_vocabulary, open_word_vectors
from vmr_jax.models.base import abstract_variables, first_difference, initializer
from vmr_jax.parallel import Parallel
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.ignored import check_nothing_is_ignored
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

VOCABULARY, DATA, BEST, CHECKPOINTS = "vocabulary.json", "data.json", "best", "checkpoints"
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of the computation


def make_model(config, vocab_size: int = 0) -> models.GroundingModel:
    """Builds the architecture of `config.model`.

    Args:
      config: the resolved config.
      vocab_size: of the training vocabulary, padding and unknown included; 0 where it is not known. It reaches
        the architectures that need it, and those whose word vectors are trained.
    """
    fields = {k: v for k, v in config.model.items() if k != "name"}
    if models.create(config.model.name, **fields).needs_vocabulary:
        vocab_size = max(vocab_size, FIRST_WORD)
    elif not config.text.trainable:
        vocab_size = 0
    if config.dtype not in DTYPES:
        raise unknown("config.dtype is", config.dtype, DTYPES)
    dtype = jnp.dtype(config.dtype)
    if vocab_size:  # a class of one's own needs these two fields only where they are not the usual ones
        fields["vocab_size"] = vocab_size
    if dtype != jnp.float32:
        fields["dtype"] = dtype
    return models.create(config.model.name, **fields)


def initial_variables(model, batch, seed: int) -> dict[str, Any]:
    """Initial variables from a batch or its spec, as host arrays; a function of (model, shapes, seed)."""
    batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
    return jax.tree.map(np.asarray, initializer(model)(jax.random.key(seed), batch))


def with_text_encoder(config, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables with the published weights of `config.text.encoder_dir` at 'params/text_encoder'."""
    if not config.text.encoder_dir:
        return variables
    from vmr_jax.torch_import.text_encoders import initial_text_encoder

    found = initial_text_encoder(config.text.encoder, user_path(config.text.encoder_dir))
    params = variables["params"]
    _check_encoder(config, params.get("text_encoder", {}), found)
    return {**variables, "params": {**params, "text_encoder": found}}


def _check_encoder(config, ours, theirs) -> None:
    """Raises UserError where the published weights are not those of the architecture's text encoder."""
    other = first_difference(ours, theirs)
    if other is not None:
        raise UserError(
            f"The weights in {config.text.encoder_dir} do not fit {config.model.name}: text_encoder/{other[0]} "
            f"is {other[2]} in them and {other[1]} in the config. Set the fields of config.model that "
            "describe the text encoder, or give the folder that they describe."
        )


def read_vocabulary(path: Path) -> list[str]:
    """Words in the order of their ids, from 2 on: a JSON list, or a JSON object of word -> id.

    Of an object the ids 0 and 1 are padding and the unknown word and are left out.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} (config.text.vocabulary) cannot be read as JSON: {error}.") from None
    if isinstance(content, dict):
        content = [word for word, index in sorted(content.items(), key=lambda item: item[1]) if index > 1]
    if not isinstance(content, list) or not all(isinstance(word, str) for word in content):
        raise UserError(
            f"{path} (config.text.vocabulary) holds no vocabulary. Expected is a JSON list of words in the "
            "order of their ids, from 2 on, or a JSON object of word -> id."
        )
    return content


def check_groups(config, model: models.GroundingModel, parallel: Parallel) -> None:
    """Raises UserError where the rows of one video would not stay on one device."""
    rows = config.input.queries_per_video
    expected = getattr(model, "queries_per_video", rows)
    if rows != expected:
        raise UserError(
            f"config.input.queries_per_video is {rows}, and {config.model.name} reads "
            f"{expected} (config.model.queries_per_video). Give both the same number."
        )
    if rows > 1:
        groups = groups_of_batch(config.batch_size, rows)
        parallel.check_batch_size(groups, "config.batch_size / config.input.queries_per_video")


def small_spec(config, model: models.GroundingModel, parallel: Parallel) -> Batch:
    """The spec of the smallest batch of the devices: where all ask with it, a model is traced once."""
    rows = len(parallel.devices) * max(config.input.queries_per_video, 1)
    return batch_spec(config, rows, model.requires())


class Experiment:
    """A config, opened.

    Attributes:
      config: resolved and locked.
      parallel: the devices.
      dataset: prepared, features checked.
      vocabulary: training words.
      model: the architecture.
    """

    def __init__(
        self,
        config,
        workdir: Path | None = None,
        sentences: Sequence[str] | None = (),
        *,
        dataset: input_lib.Dataset | None = None,
        vocabulary: list[str] | None = None,
    ):
        """Opens everything; the vocabulary is read from `workdir` where a run has left one. Writes nothing.

        Args:
          config: the resolved config.
          workdir: folder of the run.
          sentences: queries beyond the dataset's, whose word vectors will be asked for; None: any may come.
          dataset: the dataset of the config, where it is open already.
          vocabulary: training words of a run; None reads or builds them.
        """
        self.config = config
        self.parallel = Parallel(config.parallel, config.num_devices)
        self.parallel.check_batch_size(config.batch_size, "config.batch_size")
        self.parallel.check_batch_size(config.evaluation.batch_size, "config.evaluation.batch_size")
        make_model(config)  # a wrong name or hyper-parameter shows before any data is read
        self.dataset = dataset or input_lib.Dataset(config.dataset, config.input)
        self.vocabulary = self._open_vocabulary(workdir) if vocabulary is None else vocabulary
        self.vectors = open_word_vectors(config, self._sentences(sentences))
        self.model = make_model(config, len(self.vocabulary) + FIRST_WORD)
        check_fields(config, self.model.requires())
        check_nothing_is_ignored(config, self.model)
        check_groups(config, self.model, self.parallel)
        self._loaders: dict[str, Loader] = {}

    def _sentences(self, asked: Sequence[str] | None) -> Iterable[str] | None:
        return None if asked is None else itertools.chain(self.dataset.sentences(), asked)

    def _open_vocabulary(self, workdir: Path | None) -> list[str]:
        begun = workdir is not None and (workdir / CONFIG).is_file()
        if workdir is not None and begun and (workdir / VOCABULARY).is_file():
            return read_run_vocabulary(workdir)
        if self.config.text.vocabulary:
            vocabulary = read_vocabulary(user_path(self.config.text.vocabulary))
        else:
            vocabulary = build_vocabulary(self.dataset.split("train"), self.config.text.tokenizer)
        if workdir is not None and begun:
            check_words(workdir, vocabulary)
        return vocabulary

    def write_vocabulary(self, workdir: Path) -> None:
        """Writes the training words to the folder of a run, where they are not there."""
        if not ((workdir / CONFIG).is_file() and (workdir / VOCABULARY).is_file()):
            write_json(workdir / VOCABULARY, self.vocabulary)

    def loader(self, split: str) -> Loader:
        """The loader of a split, made once."""
        if split not in self._loaders:
            self._loaders[split] = Loader(
                self.config,
                self.dataset,
                self.dataset.split(split),
                self.vocabulary,
                self.vectors,
                self.model.requires(),
            )
        return self._loaders[split]

    def evaluation_splits(self) -> list[str]:
        """The splits of `config.evaluation.splits`, all with moments but train where that is empty."""
        named = list(self.config.evaluation.splits)
        for name in named:
            self.dataset.split(name)
        return named or [name for name in self.dataset.labelled_splits if name != "train"]

    def initial_variables(self) -> dict[str, Any]:
        """Initial variables from the shapes of a batch and the seed, and a published text encoder."""
        return with_text_encoder(self.config, initial_variables(self.model, self._spec(), self.config.seed))

    def abstract_variables(self) -> dict[str, Any]:
        """Their shapes and dtypes; nothing is computed."""
        return abstract_variables(self.model, self._spec())

    def _spec(self) -> Batch:
        return small_spec(self.config, self.model, self.parallel)

    def best_variables(self, workdir: Path) -> tuple[Any, dict[str, Any]]:
        """The variables of the best step, on every device, and their position."""
        return restore_best(workdir, self.parallel.abstract(self.abstract_variables()))


def read_run_vocabulary(workdir: Path) -> list[str]:
    """The training words of a run; UserError where the file is missing, damaged, or changed since it began."""
    path = workdir / VOCABULARY
    restore = "Restore it from a copy of the run, or delete it: training and --mode=evaluate make it anew."
    try:
        words = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}, the words of the run, cannot be read ({error}). {restore}") from None
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise UserError(f"{path} holds no list of words. {restore}")
    check_words(workdir, words)
    return words


def check_words(workdir: Path, words: Sequence[str]) -> None:
    """Raises UserError where a run has begun with other words than these."""
    try:
        recorded = read_json(workdir / DATA)["vocabulary"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # of version 0.1, or damaged, which `identity.read_data` says
    if recorded != digest_of_words(words):
        raise UserError(
            f"{workdir / VOCABULARY} does not hold the words with which the run began, so that their vectors "
            "would be those of other words. Restore it from a copy of the run, or delete it where the training "
            "annotations are those of its beginning: --mode=evaluate makes it anew."
        )


def digest_of_words(words: Sequence[str]) -> str:
    """A digest of words and their order."""
    return hashlib.sha256("\0".join(words).encode(errors="surrogatepass")).hexdigest()[:24]


class Best(NamedTuple):
    """The best checkpoint of a run, opened without its data."""

    config: Any
    model: models.GroundingModel
    variables: dict[str, Any]
    vocabulary: list[str]  # training words
    step: int  # at which it was saved


def open_best(workdir: Path, parallel: Parallel, config: Any = None) -> Best:
    """Opens the best checkpoint of a run; `config` is its own where none is given.

    Raises:
      UserError: where the folder holds no run, or the run no checkpoint yet.
    """
    config = config or load_config(workdir)
    vocabulary = read_run_vocabulary(workdir)
    model = make_model(config, len(vocabulary) + FIRST_WORD)
    abstract = abstract_variables(model, small_spec(config, model, parallel))
    variables, position = restore_best(workdir, parallel.abstract(abstract))
    return Best(config, model, variables, vocabulary, int(position["step"]))


def restore_best(workdir: Path, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """The variables of the best step of a run, and their position.

    Args:
      workdir: folder of the run.
      abstract: shapes, dtypes and shardings of the variables.

    Raises:
      UserError: where the run has no checkpoint yet, or one of another architecture or size.
    """
    best = Checkpoints(workdir / BEST, keep=1, changes=False)
    restored = best.restore(abstract)
    best.close()
    if restored is None:
        raise UserError(
            f"{workdir / BEST} holds no checkpoint: no evaluation of this run has finished yet. Let it "
            "train on (the training command resumes it), or give another --workdir."
        )
    return restored
