"""Settings that nothing would read: refused, because whoever gives one expects it to do something."""

from collections.abc import Collection
from typing import Any

from vmr_jax.errors import UserError

_DECAYS = ("adamw", "bert_adam")  # algorithms that read config.optimizer.weight_decay


def check_nothing_is_ignored(config: Any, required: Collection[str]) -> None:
    """Raises UserError for a setting that this architecture, or this optimiser, does not read.

    Args:
      config: a resolved config.
      required: the optional fields of a batch that the architecture reads, of `GroundingModel.requires`.
    """
    name, text, optimizer = config.model.name, config.text, config.optimizer
    if optimizer.weight_decay and optimizer.name not in _DECAYS:
        raise UserError(
            f"config.optimizer.weight_decay is {optimizer.weight_decay}, and {optimizer.name} does not decay "
            f"weights. Set config.optimizer.name to {' or '.join(_DECAYS)}, or give config.optimizer.l2, the "
            "term that is added to the gradient."
        )
    for field, value, needed, what in (
        ("text.encoder", text.encoder, "subwords", "a text encoder"),
        ("text.sentence_features", text.sentence_features, "sentence", "a vector of the sentence"),
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
