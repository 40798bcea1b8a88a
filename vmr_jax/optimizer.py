"""The optimiser of a config: schedule, clipping, and rules by parameter path."""

import re
from typing import Any

import flax
import jax
import optax

from vmr_jax.errors import UserError, nearest

_ALGORITHMS = ("adam", "adamw", "sgd")
_SCHEDULES = ("constant", "cosine", "linear", "step")


def duration(text: str, steps_per_epoch: int, field: str) -> int:
    """Turns '300 steps' or '8 epochs' (fractions allowed) into steps; UserError names `field`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*", str(text))
    if not match:
        raise UserError(f"{field} is \"{text}\"; write a number and a unit, such as '300 steps' or '8 epochs'.")
    amount = float(match[1])
    return round(amount if match[2].startswith("step") else amount * steps_per_epoch)


def learning_rate(options, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The schedule of `config.optimizer`: warm-up to `learning_rate`, then `schedule` to the end."""
    if options.schedule not in _SCHEDULES:
        raise UserError(
            f'config.optimizer.schedule is "{options.schedule}".{nearest(options.schedule, _SCHEDULES)} '
            f"Known: {', '.join(_SCHEDULES)}."
        )
    peak = options.learning_rate
    warmup = duration(options.warmup, steps_per_epoch, "config.optimizer.warmup")
    rest = max(total_steps - warmup, 1)
    if options.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif options.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, rest)
    elif options.schedule == "linear":
        main = optax.linear_schedule(peak, 0.0, rest)
    else:
        at = [duration(d, steps_per_epoch, "config.optimizer.decay_at") for d in options.decay_at]
        main = optax.piecewise_constant_schedule(peak, {max(s - warmup, 0): options.decay_by for s in at})
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def make_optimizer(options, schedule: optax.Schedule, params: Any) -> optax.GradientTransformation:
    """Builds the optimiser of `config.optimizer`.

    `options.rules` is a sequence of (path regex, learning-rate multiplier); the first whose regex matches
    the whole of 'a/b/kernel' holds, 0 freezes. A parameter that no rule covers is a UserError.
    """
    paths = flax.traverse_util.flatten_dict(params, sep="/")
    labels = {path: _rule_of(path, options.rules) for path in paths}
    transforms = {
        index: _one_optimizer(options, schedule, multiplier)
        for index, (_, multiplier) in enumerate(options.rules)
        if index in labels.values()
    }
    label_tree = flax.traverse_util.unflatten_dict(labels, sep="/")
    optimizer = optax.multi_transform(transforms, label_tree)
    if options.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)
    return optimizer


def _one_optimizer(options, schedule, multiplier: float) -> optax.GradientTransformation:
    if multiplier == 0:
        return optax.set_to_zero()

    def rate(step):
        return multiplier * schedule(step)

    if options.name == "adam":
        return optax.adam(rate, options.b1, options.b2)
    if options.name == "adamw":
        return optax.adamw(
            rate,
            options.b1,
            options.b2,
            weight_decay=options.weight_decay,
            mask=lambda params: _decayed(params, options.no_decay),
        )
    if options.name == "sgd":
        return optax.sgd(rate, momentum=options.b1)
    raise UserError(
        f'config.optimizer.name is "{options.name}".{nearest(options.name, _ALGORITHMS)} '
        f"Known: {', '.join(_ALGORITHMS)}."
    )


def _decayed(params: Any, exempt: str) -> Any:
    """True for every parameter whose path the regex `exempt` does not match."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not re.fullmatch(exempt, "/".join(str(key.key) for key in path)), params
    )


def _rule_of(path: str, rules) -> int:
    for index, (pattern, _) in enumerate(rules):
        if re.fullmatch(pattern, path):
            return index
    raise UserError(
        f"No rule in config.optimizer.rules covers the parameter {path}. Add one, or end the rules with "
        "('.*', 1.0)."
    )
