"""The numbers that settings can be; a width of 0 or a threshold in percent is refused before data are read."""

import math
import re
from collections.abc import Callable
from typing import Any

from vmr_jax.errors import UserError, is_number

_MOST = 2**31 - 1  # what an array can have entries

_AT_LEAST = {  # whole numbers
    "num_devices": 0,
    "patience": 0,
    "dataset.feature_dim": 1,
    "dataset.train_videos": 1,
    "evaluation.corpus_videos": 1,
    "evaluation.keep": 1,
    "input.num_clips": 1,
    "input.queries_per_video": 1,
    "text.dim": 1,
    "text.max_nodes": 1,
    "text.max_nouns": 0,
    "text.max_subwords": 1,
    "text.max_verbs": 0,
    "text.max_words": 1,
    "text.sentence_dim": 0,
}
_BETWEEN = {  # the least and the most
    "dataset.feature_stride": (0, math.inf),
    "evaluation.nms_margin": (0, 1),
    "evaluation.nms_threshold": (0, math.inf),
    "optimizer.b1": (0, 1),
    "optimizer.b2": (0, 1),
    "optimizer.decay_by": (0, math.inf),
    "optimizer.eps": (0, math.inf),
    "retrieval.nms_threshold": (0, math.inf),
    "retrieval.recall": (0, 1),
}


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


_LISTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "evaluation.top_n": (_is_rank, "whole numbers of at least 1, such as (1, 5)"),
    "evaluation.corpus_top_n": (_is_rank, "whole numbers of at least 1, such as (1, 10, 100)"),
    "evaluation.thresholds": (
        lambda value: is_number(value) and 0 <= value <= 1,
        "IoUs from 0 to 1, such as (0.3, 0.5, 0.7)",
    ),
    "evaluation.splits": (lambda value: isinstance(value, str), "names of splits, such as ('val', 'test')"),
}


def check_ranges(config: Any) -> None:
    """Raises UserError for the first number that no run can go with; a field that a config lacks is none."""
    for field, least in _AT_LEAST.items():
        value = _value(config, field)
        if value is not None and not least <= value <= _MOST:
            raise UserError(f"config.{field} is {value}; it must be from {least} to {_MOST:,}.")
    for field, (least, most) in _BETWEEN.items():
        value = _value(config, field)
        if value is not None and not (is_number(value) and least <= value <= most):
            wanted = f"from {least} to {most}" if most < math.inf else "not negative, and finite"
            raise UserError(f"config.{field} is {value}; it must be {wanted}.")
    for field, (is_one, wanted) in _LISTS.items():
        values = _value(config, field)
        if values is not None and not all(map(is_one, values)):
            raise UserError(f"config.{field} is {values}; it must hold {wanted}.")


def check_rules(rules: Any) -> None:
    """Raises UserError for what is no rule of `config.optimizer.rules`: (path regex, multiplier[, when])."""
    for rule in rules:
        parts = rule if isinstance(rule, (tuple, list)) else ()
        number = len(parts) in (2, 3) and is_number(parts[1])
        if not (number and isinstance(parts[0], str) and isinstance(parts[-1], (str, int, float))):
            raise UserError(
                f"config.optimizer.rules has {rule!r}; a rule is a regex of parameter paths, a multiplier of "
                "the learning rate and, where wanted, when: ('words/.*', 0.1, 'from 4 epochs')."
            )
        check_regex("config.optimizer.rules", parts[0])


def check_regex(field: str, pattern: str) -> None:
    """Raises UserError for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f'{field} has "{pattern}", which is no regular expression: {error}.') from None


def _value(config: Any, field: str) -> Any:
    """The value of a field by its path; None where there is no such field."""
    for name in field.split("."):
        config = None if config is None else config.get(name)
    return config
