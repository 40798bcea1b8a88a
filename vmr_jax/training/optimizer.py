"""The optimiser of a config: schedule, clipping, and rules by parameter path."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vmr_jax.errors import UserError, unknown
from vmr_jax.training.ranges import check_regex, check_rules

_ALGORITHMS = ("adam", "adamw", "bert_adam", "tf_adam", "sgd")
_SCHEDULES = ("constant", "cosine", "linear", "step", "inverse_sqrt")


def duration(text: str, steps_per_epoch: int, field: str) -> int:
    """Turns '300 steps' or '8 epochs' (fractions allowed) into steps; UserError names `field`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*", str(text))
    if not match:
        raise UserError(f"{field} is \"{text}\"; write a number and a unit, such as '300 steps' or '8 epochs'.")
    amount = float(match[1])
    return round(amount if match[2].startswith("step") else amount * steps_per_epoch)


def learning_rate(options: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The schedule of `config.optimizer`: warm-up from `warmup_from` to `learning_rate`, then `schedule`.

    'cosine' and 'linear' reach zero at the end; 'inverse_sqrt' is learning_rate * sqrt(warmup / step) (Vaswani
    et al., 2017; UserError without a warm-up).
    """
    if options.schedule not in _SCHEDULES:
        raise unknown("config.optimizer.schedule is", options.schedule, _SCHEDULES)
    for field in ("learning_rate", "warmup_from", "weight_decay", "l2", "clip_norm", "clip_value"):
        if not 0 <= options[field] < math.inf:
            raise UserError(
                f"config.optimizer.{field} is {options[field]}; it must not be negative, and finite."
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
    elif options.schedule == "inverse_sqrt":
        main = _inverse_sqrt(peak, warmup)
    else:
        at = [duration(d, steps_per_epoch, "config.optimizer.decay_at") for d in options.decay_at]
        main = optax.piecewise_constant_schedule(peak, {max(s - warmup, 0): options.decay_by for s in at})
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(options.warmup_from, peak, warmup), main], [warmup])


def _inverse_sqrt(peak: float, warmup: int) -> optax.Schedule:
    """Of the steps after the warm-up."""
    if not warmup:
        raise UserError(
            "config.optimizer.schedule='inverse_sqrt' falls from the end of a warm-up, but "
            "config.optimizer.warmup is 0. Set it, such as '400 steps'."
        )
    # join_schedules asks for steps before the end of the warm-up too.
    return lambda step: peak * jnp.sqrt(warmup / jnp.maximum(step + warmup, 1))


def make_optimizer(
    options: ml_collections.ConfigDict, schedule: optax.Schedule, params: Any, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Builds the optimiser of `config.optimizer`.

    `options.rules` is a sequence of (path regex, learning-rate multiplier[, when]); the first whose regex
    matches the whole of 'a/b/kernel' holds, 0 freezes. `when` says at which steps these parameters and their
    moments change: 'from 4 epochs', or 'phase 0 of 2, 200 steps' (in every second block of 200 steps, the
    first one included). A parameter that no rule covers is a UserError.
    """
    check_rules(options.rules)
    check_regex("config.optimizer.no_decay", options.no_decay)
    paths = flax.traverse_util.flatten_dict(params, sep="/")
    labels = {path: _rule_of(path, options.rules) for path in paths}
    transforms = {
        index: _one_optimizer(options, schedule, rule, steps_per_epoch)
        for index, rule in enumerate(options.rules)
        if index in labels.values()
    }
    label_tree = flax.traverse_util.unflatten_dict(labels, sep="/")
    before = _without_state(optax.chain(_l2(options), *_clipping(options)))
    return optax.chain(before, optax.multi_transform(transforms, label_tree))


def _without_state(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same updates with one form of state, so that a run can go on with clipping or l2 changed."""
    return optax.stateless(lambda updates, params: transform.update(updates, transform.init(params), params)[0])


def _l2(options: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The gradient of l2/2 |parameter|^2, part of the loss; weight decay stands apart from it."""
    if not options.l2:
        return optax.identity()
    return optax.add_decayed_weights(options.l2, mask=lambda params: _decayed(params, options.no_decay))


def _clipping(options: ml_collections.ConfigDict) -> list[optax.GradientTransformation]:
    clips = []
    if options.clip_value:
        clips.append(optax.clip(options.clip_value))
    if options.clip_norm and options.clip_each:
        clips.append(_clip_each_norm(options.clip_norm))
    elif options.clip_norm:
        clips.append(optax.clip_by_global_norm(options.clip_norm))
    return clips


def _clip_each_norm(limit: float) -> optax.GradientTransformation:
    """Clips every parameter's gradient by its own norm."""

    def clip(gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, limit / jnp.maximum(jnp.linalg.norm(gradient.ravel()), 1e-12))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def _one_optimizer(
    options: ml_collections.ConfigDict, schedule: optax.Schedule, rule: Sequence[Any], steps_per_epoch: int
) -> optax.GradientTransformation:
    _, multiplier, *when = rule
    if multiplier == 0:
        return optax.set_to_zero()
    direction = _direction(options)
    if when:
        direction = optax.conditionally_mask(direction, _active(when[0], steps_per_epoch))
    # The rate stands outside, so that the schedule goes on while parameters are frozen.
    return optax.chain(direction, optax.scale_by_learning_rate(lambda step: multiplier * schedule(step)))


def _direction(options: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The update for a learning rate of 1."""
    decay = optax.add_decayed_weights(
        options.weight_decay, mask=lambda params: _decayed(params, options.no_decay)
    )
    if options.name == "adam":
        return optax.scale_by_adam(options.b1, options.b2, options.eps)
    if options.name == "adamw":
        return optax.chain(optax.scale_by_adam(options.b1, options.b2, options.eps), decay)
    if options.name == "bert_adam":
        return optax.chain(_scale_by_bert_adam(options.b1, options.b2, options.eps), decay)
    if options.name == "tf_adam":
        return _scale_by_tf_adam(options.b1, options.b2, options.eps)
    if options.name == "sgd":
        return optax.trace(options.b1)
    raise unknown("config.optimizer.name is", options.name, _ALGORITHMS)


def _scale_by_bert_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction, as BERT was trained (Devlin et al., 2019)."""

    def init(params: Any) -> tuple[Any, Any]:
        return optax.tree.zeros_like(params), optax.tree.zeros_like(params)

    def update(updates: Any, state: tuple[Any, Any], params: Any = None) -> tuple[Any, tuple[Any, Any]]:
        del params
        first = optax.tree.update_moment(updates, state[0], b1, 1)
        second = optax.tree.update_moment(updates, state[1], b2, 2)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), first, second), (first, second)

    return optax.GradientTransformation(init, update)


def _scale_by_tf_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as TensorFlow 1 computes it: `eps` is added before the bias of the second moment is corrected.

    In the first step it counts as eps / sqrt(1 - b2), thirty times as much, which holds small gradients back.
    """

    def init(params: Any) -> tuple[jax.Array, Any, Any]:
        return jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)

    def update(updates: Any, state: tuple[jax.Array, Any, Any], params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state[0])
        first = optax.tree.update_moment(updates, state[1], b1, 1)
        second = optax.tree.update_moment(updates, state[2], b2, 2)
        factor = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        found = jax.tree.map(lambda m, v: factor * m / (jnp.sqrt(v) + eps), first, second)
        return found, (count, first, second)

    return optax.GradientTransformation(init, update)


def _active(when: str, steps_per_epoch: int) -> Callable[[jax.Array], jax.Array]:
    """The condition, a function of the step, that a rule's `when` describes; else UserError."""
    field = "`when` of a rule in config.optimizer.rules"
    later = re.fullmatch(r"from (.+)", when)
    if later:
        start = duration(later[1], steps_per_epoch, field)
        return lambda step: step >= start
    phase = re.fullmatch(r"phase (\d+) of (\d+), (.+)", when)
    if phase and int(phase[1]) < int(phase[2]):
        index, count, block = int(phase[1]), int(phase[2]), duration(phase[3], steps_per_epoch, field)
        return lambda step: (step // block) % count == index
    raise UserError(f"{field} is \"{when}\"; write 'from 4 epochs' or 'phase 0 of 2, 200 steps'.")


def _decayed(params: Any, exempt: str) -> Any:
    """True for every parameter whose path the regex `exempt` does not match."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not re.fullmatch(exempt, "/".join(str(key.key) for key in path)), params
    )


def _rule_of(path: str, rules: Iterable[Sequence[Any]]) -> int:
    for index, (pattern, *_) in enumerate(rules):
        if re.fullmatch(pattern, path):
            return index
    raise UserError(
        f"No rule in config.optimizer.rules covers the parameter {path}. Add one, or end the rules with "
        "('.*', 1.0)."
    )
