"""Causes that would stop a run, found from config and losses alone, before data are read or a folder is made.

`fit` asks first, and `--mode=check` asks the same.
"""

import functools
import importlib.util
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vmr_jax import models
from vmr_jax.errors import UserError, user_path
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.input.dataset import check_resample
from vmr_jax.input.parses import check_parses
from vmr_jax.input.queries import FIRST_WORD
from vmr_jax.models.base import abstract_variables, first_difference
from vmr_jax.parallel import Parallel
from vmr_jax.text.tokenize import tokenize
from vmr_jax.text.vectors import require_vectors
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.clock import seconds_of
from vmr_jax.training.experiment import check_groups, make_model, small_spec
from vmr_jax.training.ignored import check_nothing_is_ignored
from vmr_jax.training.init_from import check_init_from
from vmr_jax.training.ranges import check_ranges
from vmr_jax.training.step import LossFunction, initial_state, make_step

_PATHS = (  # of config.text
    "vocabulary",
    "features",
    "translation_features",
    "sentence_features",
    "encoder_dir",
)


def check_config(
    config: ml_collections.ConfigDict,
    losses: Mapping[str, LossFunction] | None = None,
    *,
    resumes: bool = False,
) -> None:
    """Raises UserError for the first setting that would stop the run, however late.

    Args:
      config: resolved and locked.
      losses: further terms of the objective, as in `fit`.
      resumes: whether the run has a checkpoint of its own, so that `config.init_from` is not read again.
    """
    check_losses(losses)
    check_ranges(config)
    parallel = Parallel(config.parallel, config.num_devices)
    parallel.check_batch_size(config.batch_size, "config.batch_size")
    _check_numbers(config)
    _check_durations(config)
    model = make_model(config, FIRST_WORD)
    check_groups(config, model, parallel)
    check_resample(config.input.resample)
    tokenize("", config.text.tokenizer)  # refuses an unknown one
    check_nothing_is_ignored(config, model)
    evaluator = Evaluator(config, model, parallel)
    check_selection(config.evaluation, evaluator.protocol)
    _check_paths(config)
    if not resumes:
        check_init_from(config, parallel)
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "config.tensorboard needs tensorboardX, which is not installed: pip install tensorboardX, "
            "or set config.tensorboard to False."
        )
    _check_step(config, parallel, model, evaluator, losses or {})


def check_losses(losses: Any) -> None:
    """Raises UserError for what is no mapping of names to functions (outputs, batch, *, epoch)."""
    if losses is None:
        return
    if not isinstance(losses, Mapping):
        raise UserError(
            f"losses is of type {type(losses).__name__}; expected is a dict of name -> function, such as "
            "losses={'mine': function}."
        )
    for name, function in losses.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"losses names {name!r}; a name is a word, such as 'mine', logged as train/mine.")
        try:
            inspect.signature(function).bind(None, None, epoch=None)
        except (TypeError, ValueError) as error:
            raise UserError(
                f'The loss "{name}" cannot be called as function(outputs, batch, epoch=...): {error}. It needs '
                "the parameters (outputs, batch, *, epoch)."
            ) from None


def _check_durations(config: ml_collections.ConfigDict) -> None:
    for field in ("train_for", "evaluate_every", "log_every"):
        optimizer_lib.duration(config[field], 1, f"config.{field}")
    seconds_of(config.checkpoint_every, "config.checkpoint_every")


def _check_paths(config: ml_collections.ConfigDict) -> None:
    """Files of the user's that would be opened only after the data were prepared."""
    vectors = config.text.vectors
    if vectors and vectors != "none" and not config.text.features:
        require_vectors(user_path(vectors))
    check_parses(config.text.parses)
    for field in _PATHS:
        value = config.text[field]
        if value and not user_path(value).exists():
            raise UserError(
                f"config.text.{field} is {value}, which is no file or folder (seen from {Path.cwd()}). "
                "Correct the path."
            )


def _check_step(
    config: ml_collections.ConfigDict,
    parallel: Parallel,
    model: models.GroundingModel,
    evaluator: Evaluator,
    losses: Mapping[str, LossFunction],
) -> None:
    """Builds the optimiser; traces step and prediction of what is not of this library."""
    spec = small_spec(config, model, parallel)
    own = config.model.name not in models.architectures()
    variables = _described(config.model.name, own, "__call__", lambda: abstract_variables(model, spec))
    if own and config.text.trainable:
        _check_words_are_learnt(config.model.name, model, variables, spec)
    schedule = optimizer_lib.learning_rate(config.optimizer, 1, 1)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 1)
    if own or losses:
        state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
        step = make_step(model, optimizer, schedule, 1, config.seed, losses)
        _described(config.model.name, own, "loss", lambda: jax.eval_shape(step, state, spec))
    if own:
        predict = functools.partial(evaluator.protocol.score_batch, model)
        _described(config.model.name, own, "predict", lambda: jax.eval_shape(predict, variables, spec))


def _check_words_are_learnt(name: str, model: Any, variables: Any, spec: Any) -> None:
    """UserError where a class of the user's makes no parameters of the words that it is told to learn.

    Words without a vector would be zeros then, in every sentence.
    """
    wider = model.clone(vocab_size=model.vocab_size + 1)
    if first_difference(variables, abstract_variables(wider, spec)) is None:
        raise UserError(
            f"config.text.trainable trains word vectors, and {name} has no parameters for its vocab_size: "
            "its sentences would stay what config.text.vectors gives. Leave config.text.trainable out, or take "
            "vmr_jax.layers.text.WordEmbedding(self.vocab_size)(batch), [B,L,W], for batch.query_vectors."
        )


def _check_numbers(options: Any, at: str = "config") -> None:
    """UserError for a field that is NaN: no comparison refuses one."""
    for field, value in options.items():
        if isinstance(value, ml_collections.ConfigDict):
            _check_numbers(value, f"{at}.{field}")
        elif any(isinstance(number, float) and math.isnan(number) for number in jax.tree.leaves(value)):
            raise UserError(f"{at}.{field} is {value}; it must be a number.")


def _described(name: str, own: bool, method: str, trace: Any) -> Any:
    """The result of a trace; an error in a class of the user's as one that names the class."""
    try:
        return trace()
    except UserError:
        raise
    except Exception as error:
        if not own:
            raise
        what = str(error).strip().split("\n")[0] or "no message"
        if isinstance(error, NotImplementedError):
            what = f"{what}: the method is missing"
        raise UserError(
            f"The {method} of {name} fails on a batch of shapes alone, {type(error).__name__}: {what}. Correct "
            "the class; vmr_jax.create and a batch of a split show the whole traceback."
        ) from error
