"""Settings that nothing would read: refused, because whoever gives one expects it to do something."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vmr_jax.configs.datasets import evaluation_defaults
from vmr_jax.errors import UserError
from vmr_jax.models import GroundingModel

_DECAYS = ("adamw", "bert_adam")  # algorithms that read config.optimizer.weight_decay


def check_nothing_is_ignored(config: Any, model: GroundingModel) -> None:
    """Raises UserError for a setting that this architecture, or this optimiser, does not read.

    Args:
      config: a resolved config.
      model: the architecture that the config describes.
    """
    name, text, optimizer = config.model.name, config.text, config.optimizer
    required = model.requires()
    if optimizer.weight_decay and optimizer.name not in _DECAYS:
        raise UserError(
            f"config.optimizer.weight_decay is {optimizer.weight_decay}, and {optimizer.name} does not decay "
            f"weights. Set config.optimizer.name to {' or '.join(_DECAYS)}, or give config.optimizer.l2, the "
            "term that is added to the gradient."
        )
    for field, value, reads in _idle(config):
        raise UserError(f"config.{field} is {value}, which is read only {reads}. Leave it out, or set that.")
    if text.trainable and "subwords" in required:
        raise UserError(
            f"config.text.trainable trains word vectors, and {name} with these settings reads a text "
            "encoder in place of them. Leave one of the two out."
        )
    if text.trainable and model.needs_vocabulary:
        raise UserError(
            f"config.text.trainable trains word vectors, and {name} with these settings keeps those of the "
            "data as they are. Leave it out."
        )
    for field, value, needed, what in (
        ("text.encoder", text.encoder, "subwords", "a text encoder"),
        ("text.sentence_features", text.sentence_features, "sentence", "a vector of the sentence"),
        ("text.translation_features", text.translation_features, "translation", "a second language"),
        ("text.parses", text.parses, "constituents", "constituency trees"),
        *(
            (f"dataset.streams.{stream}", value, stream, "this stream")
            for stream, value in config.dataset.get("streams", {}).items()
        ),
    ):
        if value and needed not in required:
            raise UserError(
                f"config.{field} is given, and {name} with these settings does not read {what}. Leave it out, "
                "or choose the setting of config.model that reads it."
            )


def _idle(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Settings that another setting makes idle: field, value, and where it would be read."""
    optimizer, evaluation = config.optimizer, config.evaluation
    if optimizer.decay_at and optimizer.schedule != "step":
        yield "optimizer.decay_at", optimizer.decay_at, "with config.optimizer.schedule='step'"
    if optimizer.clip_each and not optimizer.clip_norm:
        yield "optimizer.clip_each", True, "with a config.optimizer.clip_norm above 0"
    if optimizer.warmup_from and optimizer.warmup.split()[0] in ("0", "0.0"):
        yield "optimizer.warmup_from", optimizer.warmup_from, "with a config.optimizer.warmup"
    if evaluation.protocol != "corpus":
        usual = evaluation_defaults(config.dataset.name)
        for field in ("corpus_videos", "corpus_top_n"):
            if tuple(np.atleast_1d(evaluation[field])) != tuple(np.atleast_1d(usual[field])):
                yield f"evaluation.{field}", evaluation[field], "with config.evaluation.protocol='corpus'"
