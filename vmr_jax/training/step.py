"""The training step: a pure function of (state, batch), the same on any number of devices."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.models.base import GroundingModel, Outputs
from vmr_jax.parallel import sum_over_devices
from vmr_jax.types import Batch, Mean

_SCALARS = ("loss", "grad_norm", "learning_rate")  # beside the terms of the objective, as train/NAME


class LossFunction(Protocol):
    """A further term of the objective; its weight is inside."""

    def __call__(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> Mean:
        """Returns the term, of the model's outputs for a batch; `epoch` is the 0-based int32 epoch."""
        ...


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array  # [] int32, updates done
    params: Any
    model_state: Any  # other collections, such as batch_stats
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The argument of `model.apply`."""
        return {"params": self.params, **self.model_state}


def initial_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=optimizer.init(params),
    )


def make_step(
    model: GroundingModel,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    steps_per_epoch: int,
    seed: int,
    losses: Mapping[str, LossFunction] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the pure function (state, batch) -> (state, scalars).

    The objective is the sum over terms of (sum over devices of sums) / (sum over devices of counts);
    each device differentiates its own sums divided by the global counts, and gradients are summed, which
    is the same on any number of devices.

    Args:
      model: the architecture.
      optimizer: what turns gradients into updates.
      schedule: the learning rate by step, for the log alone.
      steps_per_epoch: training batches in an epoch.
      seed: from which the draws of a step (dropout) are made, with its number.
      losses: further terms by name.

    Raises:
      UserError: when the function is traced, for a further term that has the name of another, or is no `Mean`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        epoch = state.step // steps_per_epoch
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def objective(params: Any) -> tuple[Any, Any]:
            outputs, changed = model.apply(
                {"params": params, **state.model_state},
                batch,
                train=True,
                mutable=list(state.model_state),
                rngs={"dropout": key},
            )
            terms = {
                name: term.sum / jnp.maximum(sum_over_devices(jax.lax.stop_gradient(term.count)), 1.0)
                for name, term in _terms(model, losses or {}, outputs, batch, epoch).items()
            }
            return sum(terms.values()), (terms, changed)

        gradients, (terms, changed) = jax.grad(objective, has_aux=True)(state.params)
        gradients, terms = sum_over_devices((gradients, terms))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        scalars = {
            "train/loss": sum(terms.values()),
            **{f"train/{name}": value for name, value in terms.items()},
            "train/grad_norm": optax.tree.norm(gradients),
            "train/learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state={**state.model_state, **changed},
            opt_state=opt_state,
        )
        return new_state, scalars

    return step


def _terms(
    model: GroundingModel,
    losses: Mapping[str, LossFunction],
    outputs: Outputs,
    batch: Batch,
    epoch: jax.Array,
) -> dict[str, Mean]:
    """The model's terms, then the further ones."""
    own_terms = model.loss(outputs, batch, epoch=epoch)
    given = list(own_terms.values()) if isinstance(own_terms, Mapping) else [own_terms]
    if not isinstance(own_terms, Mapping) or not all(isinstance(term, Mean) for term in given):
        raise UserError(
            f"The loss of {type(model).__name__} returns {', '.join(type(g).__name__ for g in given)}; wanted "
            "is a dict of name -> vmr_jax.types.Mean, a sum and a count, such as "
            "{'alignment': Mean.of(values, mask)}."
        )
    terms = dict(own_terms)
    own = ", ".join(terms)
    for name, function in losses.items():
        if name in terms:
            raise UserError(
                f'The loss "{name}" has the name of a term of the architecture ({own}). Give it another.'
            )
        if name in _SCALARS:
            raise UserError(f'"{name}" stands for something else in the log. Give the loss another name.')
        term = _called(name, function, outputs, batch, epoch)
        if not isinstance(term, Mean):
            raise UserError(
                f'The loss "{name}" returns {type(term).__name__}; expected is a vmr_jax.types.Mean, a sum '
                "and a count, such as Mean.of(values, mask)."
            )
        terms[name] = term
    return terms


def _called(name: str, function: LossFunction, outputs: Outputs, batch: Batch, epoch: jax.Array) -> Any:
    """A further term; what fails inside is said with its place in the function's file."""
    try:
        return function(outputs, batch, epoch=epoch)
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        place = f" ({frames[0].filename}, line {frames[0].lineno})" if frames else ""
        what = str(error).strip().split("\n")[0]
        raise UserError(
            f'The loss "{name}" fails{place}, {type(error).__name__}: {what}. Correct it.'
        ) from error
